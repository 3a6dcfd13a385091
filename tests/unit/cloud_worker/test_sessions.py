"""Which sessions a cloud holds in memory, and which of them make room for others."""

import contextlib
import gc
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from cloud_worker.access import ANYONE, Access
from cloud_worker.ahead import Ready
from cloud_worker.limits import Limits
from cloud_worker.service import TrainingService
from cloud_worker.sessions import Sessions
from cloud_worker.store import SessionFiles
from common.errors import (
    CapacityError,
    CheckpointError,
    CloudError,
    NotFoundError,
    NotOwnerError,
    SessionError,
)
from common.wire import convert
from common.wire.messages import End, Position
from tests.unit.cloud_worker.edges import until
from tests.unit.cloud_worker.fakes import CountingBack, FakeStream, apply, attached, open_session
from tests.unit.records import RUN, SESSION, batch, batches, hello, part

OTHER = "11111111-1111-4111-8111-111111111111"
THIRD = "22222222-2222-4222-8222-222222222222"


class FailingBack(CountingBack):
    """Fails half-way through its second step, once what it has learnt is changed."""

    error = RuntimeError("a bug")

    def train(self, seq, activations, labels):
        """Learn, but not always to the end."""
        loss = super().train(seq, activations, labels)
        if seq == 1:
            raise self.error
        return loss


@pytest.fixture
def sessions(tmp_path, monkeypatch):
    """Room for two in memory; their networks only count."""
    monkeypatch.setattr("cloud_worker.sessions.Back", CountingBack)
    return Sessions(tmp_path, torch.device("cpu"), 60.0, Limits(max_sessions=2))


def trained(sessions, session_id, *records):
    """Serve `records` to a session and let its edge go; return the session as it was in memory."""
    request = hello(session_id=session_id)
    with sessions.serving(request, ANYONE) as session:
        stream = FakeStream()
        session.attach(request, stream)
        apply(session, stream, *records)
        session.detach(stream)
    return session


def held(sessions, session_id):
    """Return the session that serves this edge now."""
    with sessions.serving(hello(session_id=session_id), ANYONE) as session:
        return session


def test_an_edge_that_comes_back_finds_its_session_in_memory(sessions):
    session = trained(sessions, SESSION, batch(0))

    assert held(sessions, SESSION) is session


def test_an_edge_that_stays_away_makes_room_for_another_and_loses_nothing(sessions):
    session = trained(sessions, SESSION, batch(0))
    trained(sessions, OTHER)

    held(sessions, THIRD)

    again = held(sessions, SESSION)
    assert again is not session
    assert again.status().applied == Position(1)


@pytest.mark.parametrize("refused", [False, True])
def test_what_a_network_leaves_behind_is_gone_at_once(sessions, monkeypatch, refused):
    """The front's layers hold each other in cycles, which Python finds only after many more sessions."""
    left = []

    class Layer:
        """Refers to itself, as a graph's nodes do to each other."""

        def __init__(self):
            self.itself = self
            left.append(weakref.ref(self))

    def back(*_):
        network = Layer()  # in the frame that an error's traceback holds
        if refused:
            raise SessionError(f"another network than {network}")
        return CountingBack()

    monkeypatch.setattr("cloud_worker.sessions.Back", back)
    gc.disable()
    try:
        with contextlib.suppress(SessionError), sessions.serving(hello(), ANYONE):
            pass
        assert [layer() for layer in left] == [None]
    finally:
        gc.enable()


def test_whoever_was_served_last_stays_longest(sessions):
    first, second = trained(sessions, SESSION), trained(sessions, OTHER)
    trained(sessions, SESSION)

    held(sessions, THIRD)

    assert held(sessions, SESSION) is first
    assert held(sessions, OTHER) is not second


def test_a_finished_session_goes_before_an_unfinished_one(sessions):
    unfinished = trained(sessions, SESSION, batch(0))
    trained(sessions, OTHER, *batches(0, 1, 2, 3, 4, 5), End(6))

    held(sessions, THIRD)

    assert held(sessions, SESSION) is unfinished


def test_a_finished_session_leaves_memory_with_its_last_stream_and_is_found_on_the_disk(sessions):
    request = hello()
    with sessions.serving(request, ANYONE) as session:
        stream = attached(session)
        with sessions.serving(request, ANYONE):  # a second stream, such as one that reconnects
            apply(session, stream, *batches(0, 1, 2), part(0), part(1), *batches(3, 4, 5), End(6))
        assert sessions._live == {SESSION: session}
        session.detach(stream)
        in_memory = session.status()
        network = weakref.ref(session._applier._back)

    assert sessions._live == {}
    assert network() is None
    found = sessions.status(SESSION, ANYONE)
    assert found == in_memory
    assert (found.finished, found.applied) == (True, Position(7))
    assert held(sessions, SESSION).status().applied == Position(7)  # an edge that has to be told again
    assert sessions._live == {}


def test_where_a_session_stands_that_was_never_saved_is_told_from_the_disk_too(tmp_path, sessions):
    open_session(tmp_path)

    found = sessions.status(SESSION, ANYONE)

    assert (found.applied, found.durable, found.finished, found.total_batches) == (
        Position(0),
        Position(0),
        False,
        6,
    )


def test_sessions_that_are_being_served_stay(sessions):
    with (
        sessions.serving(hello(), ANYONE),
        sessions.serving(hello(session_id=OTHER), ANYONE),
        pytest.raises(CapacityError, match="already serves 2 sessions"),
    ):
        held(sessions, THIRD)

    held(sessions, THIRD)


@pytest.fixture
def narrow(tmp_path, monkeypatch):
    """Room for two networks in memory, whose weights and momenta take 8 bytes each."""
    monkeypatch.setattr("cloud_worker.sessions.Back", CountingBack)
    monkeypatch.setattr("cloud_worker.sessions.network_bytes", lambda run: 8 * run.num_classes // 10)
    return Sessions(tmp_path, torch.device("cpu"), 60.0, Limits(max_memory=16))


def test_a_run_whose_network_does_not_fit_beside_the_others_waits_for_an_idle_one(tmp_path, narrow):
    words = r"run take 8B, those that are served here 16B, this cloud allows 16B \(its --max-memory\)"
    with narrow.serving(hello(), ANYONE) as first, narrow.serving(hello(session_id=OTHER), ANYONE):
        with pytest.raises(CapacityError, match=words):
            held(narrow, THIRD)
        assert not SessionFiles(tmp_path, THIRD).exists()

    held(narrow, THIRD)

    assert set(narrow._live) == {OTHER, THIRD}
    assert held(narrow, SESSION) is not first


def test_an_idle_session_stays_where_it_would_not_make_enough_room(narrow, monkeypatch):
    """Else whoever asks for too much would have all others built anew."""
    idle = held(narrow, SESSION)
    for classes, words in (
        (30, "take 24B, this cloud allows 16B to all runs"),
        (20, "take 16B, those that are served here 8B"),
    ):
        with (
            narrow.serving(hello(session_id=OTHER), ANYONE),
            pytest.raises(CapacityError, match=words),
            narrow.serving(hello(session_id=THIRD, num_classes=classes), ANYONE),
        ):
            pass
    assert held(narrow, SESSION) is idle

    monkeypatch.setattr("cloud_worker.session.Session.is_saved", False)  # the disk was full
    with pytest.raises(CapacityError, match="take 8B, those that are served here 16B"):
        held(narrow, THIRD)


@pytest.mark.parametrize(
    "limits",
    [Limits(max_sessions=3), Limits(max_memory=24), Limits(max_kept=4000)],
    ids=["in memory", "of memory", "on the disk"],
)
def test_edges_that_come_at_the_same_moment_share_the_room(tmp_path, monkeypatch, limits):
    """Each would see room for one more if it could look while another one is still being let in."""

    def slow_back(*_):
        time.sleep(0.02)
        return CountingBack()

    monkeypatch.setattr("cloud_worker.sessions.Back", slow_back)
    monkeypatch.setattr("cloud_worker.sessions.bytes_to_reserve", lambda _: 1200)
    monkeypatch.setattr("cloud_worker.sessions.network_bytes", lambda _: 8)
    sessions = Sessions(tmp_path, torch.device("cpu"), 60.0, limits)
    all_tried, edges = threading.Barrier(8, timeout=60), range(8)

    def come(number):
        try:
            with sessions.serving(hello(session_id=f"{number:08d}{SESSION[8:]}"), ANYONE):
                all_tried.wait()
                return True
        except CapacityError:
            all_tried.wait()
            return False

    with ThreadPoolExecutor(len(edges)) as pool:
        assert sum(pool.map(come, edges)) == 3


def test_what_could_not_be_saved_stays_in_memory(sessions, monkeypatch):
    def full(*_):
        raise CheckpointError("cannot write")

    with monkeypatch.context() as patched:
        patched.setattr("cloud_worker.store.SessionFiles.save_state", full)
        with pytest.raises(CheckpointError):
            trained(sessions, SESSION, batch(0))
    trained(sessions, OTHER)
    held(sessions, THIRD)

    assert held(sessions, SESSION).status().applied == Position(1)


def test_an_edge_whose_session_this_cloud_never_had_leaves_nothing_here(tmp_path, sessions, monkeypatch):
    """The wrong run directory, or one that was lost; the next try would find an empty session."""
    monkeypatch.setattr("cloud_worker.sessions.Back", None)  # is not built either

    with pytest.raises(
        SessionError, match=r"up to batch 0, the edge keeps its records from batch 3 on, .* restore"
    ):
        sessions.serving(hello(kept_from=Position(3)), ANYONE).__enter__()

    assert list(tmp_path.iterdir()) == []
    assert (sessions._live, sessions._streams) == ({}, {})


@pytest.mark.parametrize(
    ("beside", "ends"),
    [
        ("nobody", True),
        ("one that is finished", True),
        ("one on the disk", False),
        ("one being served", False),
        ("its own edge", False),  # who says that it lost something may be anyone who knows the session's name
        ("one being opened", False),
        ("other settings", False),  # it is no edge of this run
    ],
)
def test_a_cloud_with_nobody_else_to_serve_ends_with_the_edge_that_lost_its_records(
    tmp_path, monkeypatch, beside, ends
):
    monkeypatch.setattr("cloud_worker.sessions.Back", CountingBack)
    told = []
    cloud = Sessions(
        tmp_path, torch.device("cpu"), 60.0, Limits(max_sessions=4), on_loss=lambda: told.append(cloud.lost)
    )
    trained(cloud, SESSION, batch(0))
    if beside == "one on the disk":
        trained(cloud, OTHER, batch(0))
    if beside == "one that is finished":
        trained(cloud, OTHER, *batches(0, 1, 2, 3, 4, 5), End(6))
    with contextlib.ExitStack() as others:
        if beside == "one being served":
            others.enter_context(cloud.serving(hello(session_id=OTHER), ANYONE))
        if beside == "its own edge":
            others.enter_context(cloud.serving(hello(), ANYONE))
        if beside == "one being opened":
            others.enter_context(cloud._loading)
        run = replace(RUN, seed=9) if beside == "other settings" else RUN
        request = hello(2, run=run, kept_from=Position(3))
        refusal = "with seed" if beside == "other settings" else "lost"
        with pytest.raises(SessionError, match=refusal), cloud.serving(request, ANYONE) as session:
            session.attach(request, FakeStream())

    assert [str(error) for error in told] == ([str(cloud.lost)] if ends else [])


def test_nothing_is_lost_of_a_session_that_is_finished(tmp_path, monkeypatch):
    """A word that it needs more records than its run has cannot end the cloud."""
    monkeypatch.setattr("cloud_worker.sessions.Back", CountingBack)
    cloud = Sessions(tmp_path, torch.device("cpu"), 60.0, Limits(max_sessions=4), on_loss=lambda: 1 / 0)
    trained(cloud, SESSION, *batches(0, 1, 2, 3, 4, 5), End(6))
    request = hello(2, kept_from=Position(9))

    with pytest.raises(SessionError, match="lost"), cloud.serving(request, ANYONE) as session:
        session.attach(request, FakeStream())

    assert cloud.lost is None


class OpenedMeanwhile(SessionFiles):
    """A session that another edge opens just after one has looked whether it is there."""

    def exists(self):
        """Tell whether it was there."""
        was_there = super().exists()
        if not was_there:
            self.create(RUN, "pi", 0)
        return was_there


@pytest.mark.parametrize("ask", ["status", "weights_file"])
def test_what_another_edge_opens_at_the_same_moment_is_not_told(sessions, monkeypatch, ask):
    monkeypatch.setattr("cloud_worker.sessions.SessionFiles", OpenedMeanwhile)

    with pytest.raises((NotOwnerError, NotFoundError)):
        getattr(sessions, ask)(SESSION, "jetson")


def test_a_session_in_memory_that_another_edge_opened_at_the_same_moment_is_theirs(sessions, monkeypatch):
    """It is found where it was not there a moment before, when its owner was looked for."""
    check_run, theirs = Limits.check_run, contextlib.ExitStack()

    def slow_check(limits, run):
        monkeypatch.setattr(Limits, "check_run", check_run)
        theirs.enter_context(sessions.serving(hello(), "pi"))

    monkeypatch.setattr(Limits, "check_run", slow_check)
    with theirs:
        with pytest.raises(NotOwnerError, match="was opened by another edge"):
            sessions.serving(hello(), "jetson").__enter__()
        assert list(sessions._streams.values()) == [1]


def test_an_edge_that_leaves_before_it_is_served_is_let_go(sessions):
    trained(sessions, OTHER)
    replies = TrainingService(sessions, Access().identify).Train(
        iter([convert.request_to_proto(hello())]), SimpleNamespace(is_active=lambda: True)
    )
    next(replies)
    replies.close()

    held(sessions, THIRD)


def test_a_step_that_fails_half_way_is_forgotten_and_taken_again(sessions, monkeypatch):
    """A network that was changed by half a step is no state of the run: it is never saved."""
    monkeypatch.setattr("cloud_worker.sessions.Back", FailingBack)
    with sessions.serving(hello(), ANYONE) as session:
        stream = attached(session)
        session.apply(Ready(batch(0)), stream)
        session.save()
        with pytest.raises(RuntimeError, match="a bug"):
            session.apply(Ready(batch(1)), stream)
        session.detach(stream)
        with pytest.raises(CloudError, match="is loaded again after a step that failed"):
            session.attach(hello(), FakeStream())

    monkeypatch.setattr("cloud_worker.sessions.Back", CountingBack)
    again = held(sessions, SESSION)

    assert again is not session
    assert again.status().applied == Position(1)
    assert again._applier._back.restored == [0.0, 1.0]


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.cuda.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes"),
    ],
    ids=["python", "cuda", "cpu"],
)
def test_an_edge_whose_step_lacks_memory_is_told_to_come_again(sessions, monkeypatch, error):
    """Others may have given some back by then; the step that failed half-way is forgotten as any other."""
    monkeypatch.setattr(FailingBack, "error", error)
    monkeypatch.setattr("cloud_worker.sessions.Back", FailingBack)
    with sessions.serving(hello(), ANYONE) as session:
        stream = attached(session)
        session.apply(Ready(batch(0)), stream)
        with pytest.raises(CloudError, match="not enough memory for this run just now"):
            session.apply(Ready(batch(1)), stream)

    assert session.failed


def test_an_edge_that_has_left_takes_nothing_over(sessions):
    """Its successor may have been served first."""
    with sessions.serving(hello(), ANYONE) as session:
        stream = attached(session)
        with pytest.raises(CloudError, match="has left before it was served"):
            session.attach(hello(), FakeStream(), is_wanted=lambda: False)

        assert stream.error is None
        session.apply(Ready(batch(0)), stream)


def test_a_session_that_cannot_be_saved_does_not_keep_others_from_it(sessions, tmp_path, monkeypatch):
    with (
        sessions.serving(hello(), ANYONE) as first,
        sessions.serving(hello(session_id=OTHER), ANYONE) as second,
    ):
        apply(first, attached(first), batch(0))
        apply(second, attached(second), batch(0))

        def full(*_):
            raise CheckpointError("cannot write")

        monkeypatch.setattr(first._files, "save_state", full)
        with pytest.raises(CheckpointError, match="cannot write"):
            sessions.save_all()

    assert (first.is_saved, second.is_saved) == (False, True)


def test_all_edges_are_sent_away_before_the_first_session_is_saved(sessions):
    """A session that is in the middle of a step is waited for, and the others do not train on meanwhile."""
    in_step, go = threading.Event(), threading.Event()
    with (
        sessions.serving(hello(), ANYONE) as first,
        sessions.serving(hello(session_id=OTHER), ANYONE) as second,
    ):
        streams = [attached(each) for each in (first, second)]

        def step():
            with first._lock:
                in_step.set()
                go.wait(60)

        threads = [threading.Thread(target=step), threading.Thread(target=sessions.save_all)]
        threads[0].start()
        in_step.wait(60)
        threads[1].start()

        until(lambda: streams[1].error is not None)
        go.set()
        for thread in threads:
            thread.join()
    assert all(stream.error is not None for stream in streams)
