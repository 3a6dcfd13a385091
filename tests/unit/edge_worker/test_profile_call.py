"""How fast a real server's bytes come down, by a clock that the test turns."""

import pytest

from common.errors import CapacityError, CloudError, WireError
from common.wire.records import record_to_bytes
from edge_worker.config import TrainConfig
from edge_worker.profile_call import (
    DOWNLOAD_BYTES,
    MAX_BATCHES,
    MAX_REPEATED,
    MIN_BATCHES,
    SAMPLE_BYTES,
    TIMED_BYTES,
    Asked,
    sample_of,
)
from tests.unit.cloud_worker.edges import cloud_in_process
from tests.unit.cloud_worker.fakes import real_batch, real_run

PIECE_BYTES = 64 << 10


@pytest.fixture
def address(tmp_path):
    with cloud_in_process(tmp_path) as cloud:
        yield cloud.address


class Clock:
    """Goes on by so many seconds with each look at it: pieces come so far from each other."""

    def __init__(self, step_s):
        self.step_s = step_s
        self.looks = 0

    def __call__(self):
        """Tell the time."""
        self.looks += 1
        return self.looks * self.step_s


def asked(address, clock, pause=None):
    return Asked(TrainConfig(dataset="synthetic", cloud=address), pause, clock)


def test_the_rate_down_is_that_of_all_but_the_first_piece(address):
    """The first one takes as long as the question, too."""
    clock = Clock(0.5)

    assert asked(address, clock).down_bps() == pytest.approx(8 * PIECE_BYTES / 0.5)
    assert clock.looks == DOWNLOAD_BYTES // PIECE_BYTES


def test_of_a_slow_link_no_more_is_taken_than_tells_its_rate(address):
    clock = Clock(6.0)

    assert asked(address, clock).down_bps() == pytest.approx(8 * PIECE_BYTES / 6.0)
    assert clock.looks == 3


def test_the_latency_is_half_of_a_round_trip_and_troubles_nobody(address, caplog):
    assert asked(address, Clock(0.5)).latency_s() == 0.25
    assert not caplog.records
    with pytest.raises(CloudError, match=r"no cloud answers at 127\.0\.0\.1:9"):
        asked("127.0.0.1:9", Clock(0.5)).latency_s()


def test_a_cloud_that_sends_too_little_or_nothing_is_an_error(address, monkeypatch):
    with pytest.raises(CloudError, match=r"no cloud answers at 127\.0\.0\.1:9"):
        asked("127.0.0.1:9", Clock(0.5)).down_bps()
    monkeypatch.setattr("edge_worker.profile_call.DOWNLOAD_BYTES", 1)
    with pytest.raises(WireError, match="sent too little of 1 bytes to time the downlink with"):
        asked(address, Clock(0.5)).down_bps()


def test_a_cloud_that_is_full_is_asked_again(address, monkeypatch):
    monkeypatch.setattr("cloud_worker.service.EXPORTS_AT_ONCE", 0)
    pauses = []

    def pause(seconds):
        pauses.append(seconds)
        if len(pauses) == 3:
            monkeypatch.setattr("cloud_worker.service.EXPORTS_AT_ONCE", 1)

    assert asked(address, Clock(0.5), pause).down_bps() > 0
    assert len(pauses) == 3

    monkeypatch.setattr("cloud_worker.service.EXPORTS_AT_ONCE", 0)
    with pytest.raises(
        CloudError, match=r"which is its limit.*\(it said so 30 times\); the same command goes on"
    ):
        asked(address, Clock(0.5), lambda _: None).down_bps()


def test_a_network_that_takes_the_cloud_too_long_is_one_that_it_does_not_take(address, monkeypatch):
    """The others may be smaller: a profile leaves out what a cloud lacks the capacity for."""
    monkeypatch.setattr("cloud_worker.service.PROFILE_S", 0.0)
    run = real_run("resnet18", "layer4")
    records = [record_to_bytes(real_batch(run, number)) for number in range(2)]

    with pytest.raises(CapacityError, match="did not come to an end with measuring; try a smaller"):
        asked(address, Clock(0.5)).ask(run, records)


def test_a_cloud_that_lacks_memory_for_a_step_does_not_take_the_network(address, monkeypatch):
    run = real_run("resnet18", "layer4")
    records = [record_to_bytes(real_batch(run, number)) for number in range(2)]

    def train(*_):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes")

    monkeypatch.setattr("cloud_worker.back.Back.train", train)
    with pytest.raises(CapacityError, match="has not enough memory for this run just now"):
        asked(address, Clock(0.5)).ask(run, records)


def test_small_batches_are_sent_again_to_time_the_link_but_once(address, monkeypatch):
    """What gRPC takes in at once tells nothing of a link."""
    run = real_run("resnet18", "layer4")
    records = [record_to_bytes(real_batch(run, number)) for number in range(2)]
    found = asked(address, Clock(0.5))
    first = found.ask(run, records).received_bytes
    second = found.ask(run, records).received_bytes

    assert second < sum(map(len, records)) < TIMED_BYTES
    assert first > second
    assert len(sample_of(records, TIMED_BYTES)) == MAX_REPEATED
    assert sample_of([bytes(SAMPLE_BYTES)] * 8, TIMED_BYTES) == [bytes(SAMPLE_BYTES)] * MIN_BATCHES
    assert len(sample_of([bytes(100 << 10)] * 8, TIMED_BYTES)) == MAX_BATCHES
