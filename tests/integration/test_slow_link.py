"""A satellite link between real daemons: slow is not dead, and dead is noticed and made good."""

import pytest

from benchmarks.outcome import outcome
from benchmarks.processes import cloud_at, edge_at, finish, run_edge, wait_for
from benchmarks.relay import Relay

# Batches of some 6 s each at 64 kbit/s.
RUN = (
    "--dataset synthetic --train-limit 384 --test-limit 32 --batch-size 128 --epochs 1 --model resnet18 "
    "--split layer3 --bits 4 --threads 1 --precision float32 --workers 1"
).split()
SATELLITE = {"rate_up_bps": 64e3, "rate_down_bps": 64e3, "delay_up_s": 0.6, "delay_down_s": 0.6}
FIRST_CHUNKS = 2 * (16 << 10)


@pytest.fixture(scope="module")
def untouched(tmp_path_factory):
    """What the run comes to without a relay."""
    base = tmp_path_factory.mktemp("untouched")
    with cloud_at(base / "cloud") as cloud:
        done = run_edge(cloud.address, base / "edge", *RUN, timeout_s=250)
        assert done.returncode == 0, done.stderr
    return outcome(base / "cloud", base / "edge")


def test_a_satellite_link_carries_a_run_on_one_connection_with_a_short_queue(tmp_path, untouched):
    """64 kbit/s and 600 ms each way; large batches take longer than the cloud's heartbeats are apart."""
    with (
        cloud_at(tmp_path / "cloud") as cloud,
        Relay(cloud.address, **SATELLITE) as relay,
        edge_at(relay.address, tmp_path / "edge", *RUN) as edge,
    ):
        finish(edge)
        most_under_way = relay.up.take_most_under_way()

    assert relay.connections == 1
    assert most_under_way < 1.1 * FIRST_CHUNKS  # an unbounded sender would have a hundred kilobytes there
    assert outcome(tmp_path / "cloud", tmp_path / "edge") == untouched


def test_an_edge_that_hears_no_heartbeats_leaves_the_stream_and_resumes(tmp_path, untouched):
    """Nothing closes the connection; what the cloud had not confirmed is sent again, and counts once."""
    with (
        cloud_at(tmp_path / "cloud") as cloud,
        Relay(cloud.address, rate_up_bps=400e3) as relay,
        edge_at(relay.address, tmp_path / "edge", *RUN) as edge,
    ):
        wait_for(lambda: edge.poll() is not None or relay.up.total > FIRST_CHUNKS, "the first chunks")
        relay.silence()
        wait_for(lambda: edge.poll() is not None or relay.hangups, "a side that hangs up")
        relay.restore()
        _, said = edge.communicate(timeout=250)

    assert edge.returncode == 0, said
    assert relay.hangups[0][:2] == (1, "client")
    assert "lost the cloud (the cloud was silent for 30 s); training goes on" in said
    assert outcome(tmp_path / "cloud", tmp_path / "edge") == untouched
