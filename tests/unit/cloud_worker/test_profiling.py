"""How fast a run would be trained: measured on what comes, with nothing kept, and little let in."""

import dataclasses
import threading
import weakref

import grpc
import pytest

from benchmarks.processes import wait_for
from cloud_worker.back import Back, network_bytes
from cloud_worker.profiling import Sample, measure, receive
from cloud_worker.turns import Turns
from common.errors import CapacityError, CloudError
from common.wire import convert
from common.wire.messages import End, Note
from common.wire.reassembly import chunks_of
from common.wire.records import record_to_bytes
from tests.unit.cloud_worker.edges import PATIENCE_S, cloud_in_process, refused
from tests.unit.cloud_worker.fakes import CountingBack, real_back, real_batch, real_run
from tests.unit.records import SESSION, batches, hello

Code = grpc.StatusCode
RUN = real_run("resnet18", "layer4")
RETURNING = dataclasses.replace(RUN, strategy="split-learning", gradient_bits=8)


@pytest.fixture
def cloud(tmp_path):
    with cloud_in_process(tmp_path) as cloud:
        yield cloud


def requests(run, *records):
    pieces = [chunk for record in records for chunk in chunks_of(record_to_bytes(record), 500)]
    return iter([convert.request_to_proto(each) for each in (hello(run=run), *pieces)])


def ask(cloud, *sent):
    return cloud.stub.Profile(requests(*sent), timeout=PATIENCE_S)


def test_a_run_is_measured_and_leaves_nothing(cloud, tmp_path):
    found = convert.profile_from_proto(ask(cloud, RUN, real_batch(RUN, 0), real_batch(RUN, 1)))

    assert found.step_s > 0
    assert (found.gradient_step_s, found.gradient_bytes) == (0.0, 0)
    assert found.received_bytes > 0
    assert (found.device, found.threads > 0, "cores" in found.machine) == ("cpu", True, True)
    assert not (tmp_path / SESSION).exists()


def test_gradients_are_measured_where_they_come_back(cloud):
    found = convert.profile_from_proto(ask(cloud, RETURNING, real_batch(RUN, 0), real_batch(RUN, 1)))

    assert found.gradient_step_s > 0
    assert found.gradient_bytes > 100


@pytest.mark.parametrize(
    ("records", "words"),
    [
        ([], "takes 2 to 16 batches, got 0"),
        ([real_batch(RUN, 0)], "takes 2 to 16 batches, got 1"),
        ([real_batch(RUN, 0)] * 17, "at most 16 batches, got more"),
        ([real_batch(RUN, 0), End(6)], "or another record"),
        (batches(0, 1), "activations must have shape"),
    ],
)
def test_what_are_no_few_batches_is_refused(cloud, records, words):
    with refused(Code.INVALID_ARGUMENT, words):
        ask(cloud, RUN, *records)


def test_messages_that_are_no_chunks_are_refused(cloud):
    with refused(Code.INVALID_ARGUMENT, "must be Hello"):
        cloud.stub.Profile(
            iter([convert.request_to_proto(Note(losses_from=0, save=False))]), timeout=PATIENCE_S
        )
    twice = [convert.request_to_proto(hello(run=RUN))] * 2
    with refused(Code.INVALID_ARGUMENT, "takes chunks of batches only"):
        cloud.stub.Profile(iter(twice), timeout=PATIENCE_S)


def test_a_run_that_this_cloud_does_not_serve_is_not_measured(tmp_path):
    other = "this cloud trains vgg11"
    with cloud_in_process(tmp_path, models="vgg11") as cloud, refused(Code.INVALID_ARGUMENT, other):
        ask(cloud, RUN, real_batch(RUN, 0), real_batch(RUN, 1))


def test_more_than_a_window_of_batches_is_refused():
    pieces = [chunk for seq in range(4) for chunk in chunks_of(record_to_bytes(real_batch(RUN, seq)), 500)]

    with pytest.raises(CapacityError, match="may take 1KiB of batches here"):
        receive(RUN, iter(pieces), 1 << 10)


def test_batches_are_taken_in_before_the_network_is_looked_at(cloud, monkeypatch):
    """The time in which they come is the link's, and not the cloud's."""
    done = []
    monkeypatch.setattr("cloud_worker.sessions.network_bytes", lambda run: done.append("looked") or 1)

    def pieces():
        for number in range(2):
            yield from chunks_of(record_to_bytes(real_batch(RUN, number)), 1 << 20)
        done.append("came")

    cloud.sessions.profile(RUN, pieces(), lambda: True)

    assert done == ["came", "looked"]


def test_one_edge_at_a_time_and_one_that_says_nothing_more_is_let_go(tmp_path, monkeypatch):
    monkeypatch.setattr("cloud_worker.sessions.Back", CountingBack)
    monkeypatch.setattr("cloud_worker.service.PROFILE_S", 3.0)
    silent = threading.Event()

    def says_nothing():
        yield convert.request_to_proto(hello(run=RUN))
        silent.wait(PATIENCE_S)

    with cloud_in_process(tmp_path) as cloud:
        first = cloud.stub.Profile.future(says_nothing(), timeout=PATIENCE_S)
        wait_for(cloud.sessions._profiling.locked, "the first profile")
        with refused(Code.RESOURCE_EXHAUSTED, "measures another edge's network; try again"):
            ask(cloud, RUN, real_batch(RUN, 0), real_batch(RUN, 1))
        assert first.exception() is not None
        silent.set()
        wait_for(lambda: not cloud.sessions._profiling.locked(), "its end")


def test_a_caller_who_left_is_not_measured_to_the_end():
    sample = Sample([(batch.content, batch.labels) for batch in (real_batch(RUN, 0), real_batch(RUN, 1))])
    asked = iter([True, True, False])

    with pytest.raises(CloudError, match="nobody waits for it any more"):
        measure(RUN, real_back(RUN), sample, Turns(), lambda: next(asked))


class _TimedBack:
    """A back of which one step takes a second, and each other one a tenth."""

    trainee = real_back(RUN).trainee

    def __init__(self):
        self.now, self.steps = 0.0, 0

    def decode(self, content):
        return content

    def train(self, seq, x_NCHW, labels):
        self.steps += 1
        self.now += 1.0 if self.steps == 5 else 0.1
        return 0.0


def test_steps_are_taken_for_seconds_and_slow_ones_count():
    sample = Sample([(batch.content, batch.labels) for batch in (real_batch(RUN, 0), real_batch(RUN, 1))])
    back = _TimedBack()

    found = measure(RUN, back, sample, Turns(), lambda: True, lambda: back.now)

    assert back.steps == 13  # two warm ones, and then two seconds of them
    assert found.step_s == pytest.approx(2.0 / 11)


def test_what_was_measured_is_let_go_and_counts_as_a_session_meanwhile(tmp_path, monkeypatch):
    built = []

    def remember(*arguments):
        back = Back(*arguments)
        built.append(weakref.ref(back))
        return back

    monkeypatch.setattr("cloud_worker.sessions.Back", remember)
    with cloud_in_process(tmp_path, max_sessions=1) as cloud:
        ask(cloud, RUN, real_batch(RUN, 0), real_batch(RUN, 1))
        assert built[0]() is None

        cloud.edge(hello(run=RUN)).reply()
        with refused(Code.RESOURCE_EXHAUSTED, "already serves 1 sessions"):
            ask(cloud, RUN, real_batch(RUN, 0), real_batch(RUN, 1))


def test_what_is_being_measured_takes_of_the_memory_for_all_runs(tmp_path, monkeypatch):
    measuring, go_on = threading.Event(), threading.Event()

    def waits(*arguments):
        measuring.set()
        go_on.wait(PATIENCE_S)
        return measure(*arguments)

    monkeypatch.setattr("cloud_worker.sessions.measure", waits)
    size = network_bytes(RUN)
    with cloud_in_process(tmp_path, max_memory=size) as cloud:
        sent = requests(RUN, real_batch(RUN, 0), real_batch(RUN, 1))
        profile = cloud.stub.Profile.future(sent, timeout=PATIENCE_S)
        assert measuring.wait(PATIENCE_S)
        with refused(Code.RESOURCE_EXHAUSTED, "--max-memory"):
            cloud.edge(hello(run=RUN)).reply()
        go_on.set()
        profile.result()

        cloud.edge(hello(run=RUN)).reply()
