"""Callers who do not take what they asked for: they lose their call, and nobody else notices."""

import contextlib
import queue
import time

import grpc
import pytest

from cloud_worker.unread import EndUnread
from common.wire import convert
from common.wire.generated import training_pb2 as pb
from common.wire.generated import training_pb2_grpc as pb_grpc
from tests.unit.cloud_worker.edges import PATIENCE_S, cloud_in_process, refused, until, welcomed
from tests.unit.cloud_worker.fakes import CountingBack
from tests.unit.records import SESSION, hello

Code = grpc.StatusCode
TIMEOUT_S = 1.0
EXPORT = pb.ExportRequest(session_id=SESSION)
STATUS = pb.StatusRequest(session_id=SESSION)
WEIGHTS_BYTES = 16 << 20  # more than gRPC takes ahead of a reader
LITTLE_AHEAD = [("grpc.http2.lookahead_bytes", 16 << 10), ("grpc.http2.bdp_probe", 0)]
PI = [("authorization", "Bearer pi-token-0123456789")]


class FakeCall:
    """Remembers whether it was ended."""

    ended = False

    def peer(self):
        """Whose it is."""
        return "ipv4:192.0.2.1:1"

    def cancel(self):
        """As a call of gRPC has it."""
        self.ended = True


@pytest.fixture(autouse=True)
def no_networks(monkeypatch):
    monkeypatch.setattr("cloud_worker.sessions.Back", CountingBack)


def with_weights(cloud, run_dir, metadata=None):
    """Open a session and leave large weights for it, as a finished run of a large network does."""
    welcomed(cloud, metadata).close()
    with (run_dir / SESSION / "back.safetensors").open("wb") as file:
        file.truncate(WEIGHTS_BYTES)


def exported(cloud, metadata=None) -> int:
    """Export as an edge does; return how many bytes came."""
    pieces = cloud.stub.ExportBack(EXPORT, timeout=PATIENCE_S, metadata=metadata)
    return sum(len(piece.data) for piece in pieces)


def eventually(what):
    """Return the first result of `what` that is no refusal for want of room."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            return what()
        except grpc.RpcError as error:
            if error.code() is not Code.RESOURCE_EXHAUSTED or time.monotonic() > deadline:
                raise
        time.sleep(0.05)


def how_it_ended(call):
    """Return the status of a call, which gRPC tells only to whoever reads all that came before it."""
    with contextlib.suppress(grpc.RpcError):
        for _ in call:
            pass
    return call.code()


# -------------------------------------------------------------------- by a clock


def test_only_a_call_whose_reply_waits_is_ended(caplog):
    now = 0.0
    watch = EndUnread(600.0, lambda: now)
    stuck, reading = FakeCall(), FakeCall()
    calls = [watch.watched((n for n in range(9)), call) for call in (stuck, reading)]
    for replies in calls:
        next(replies)

    now = 600.0
    next(calls[1])
    watch.end_overdue()
    assert not stuck.ended  # just in time

    now = 601.0
    watch.end_overdue()
    assert (stuck.ended, reading.ended) == (True, False)
    assert caplog.messages == ["ended a call of ipv4:192.0.2.1:1: it took no reply for 10min"]


def test_a_call_that_is_over_is_closed_and_forgotten():
    now, closed = 0.0, []
    watch = EndUnread(600.0, lambda: now)

    def replies():
        try:
            yield 1
            yield 2
        finally:
            closed.append(watch.any_open)  # a server that ends waits for this, too

    left, read = FakeCall(), FakeCall()
    given_up = watch.watched(replies(), left)
    next(given_up)
    assert watch.any_open  # a server that ends waits for it
    given_up.close()
    assert not watch.any_open
    assert list(watch.watched(replies(), read)) == [1, 2]

    now = 9999.0
    watch.end_overdue()
    assert closed == [True, True]
    assert (left.ended, read.ended) == (False, False)


# -------------------------------------------------------------------- on a real server


def test_exports_that_nobody_reads_leave_room_for_other_calls_and_end(tmp_path, caplog):
    """Each holds a thread of the server, and was never ended."""
    # Long enough for all of them to have come before the first one is ended.
    with cloud_in_process(tmp_path, max_sessions=1, idle_timeout=5 * TIMEOUT_S) as cloud:
        with_weights(cloud, tmp_path)
        unread = [cloud.stub.ExportBack(EXPORT, timeout=PATIENCE_S) for _ in range(30)]

        eventually(lambda: cloud.stub.GetStatus(STATUS, timeout=PATIENCE_S))
        assert eventually(lambda: exported(cloud)) == WEIGHTS_BYTES

        codes = [how_it_ended(call) for call in unread]
    assert set(codes) == {Code.CANCELLED, Code.RESOURCE_EXHAUSTED}
    assert codes.count(Code.CANCELLED) == 4
    assert sum(message.endswith("it took no reply for 5s") for message in caplog.messages) == 4


def test_one_edge_cannot_take_all_exports(tmp_path):
    tokens = tmp_path / "tokens"
    tokens.touch(mode=0o600)
    tokens.write_text("pi pi-token-0123456789\n")
    with cloud_in_process(tmp_path / "run", tokens=tokens) as cloud:
        with_weights(cloud, tmp_path / "run", PI)
        unread = [cloud.stub.ExportBack(EXPORT, timeout=PATIENCE_S, metadata=PI) for _ in range(2)]
        for call in unread:
            next(call)

        with refused(
            Code.RESOURCE_EXHAUSTED,
            "^2 exports or downloads of this edge are under way, .* again once one of them",
        ):
            exported(cloud, PI)

        unread[0].cancel()
        assert eventually(lambda: exported(cloud, PI)) == WEIGHTS_BYTES


def test_one_export_too_many_is_refused_until_one_is_done(tmp_path):
    with cloud_in_process(tmp_path) as cloud:
        with_weights(cloud, tmp_path)
        unread = [cloud.stub.ExportBack(EXPORT, timeout=PATIENCE_S) for _ in range(4)]
        for call in unread:
            next(call)

        with refused(
            Code.RESOURCE_EXHAUSTED,
            "^4 exports or downloads are under way at this cloud, .* again in a few minutes$",
        ):
            exported(cloud)

        assert sum(len(piece.data) for piece in unread[0]) > 0
        assert eventually(lambda: exported(cloud)) == WEIGHTS_BYTES


def test_an_export_that_is_read_slowly_is_not_ended(tmp_path):
    """What counts is each piece, not all of them."""
    with (
        cloud_in_process(tmp_path, idle_timeout=TIMEOUT_S) as cloud,
        grpc.insecure_channel(cloud.address, LITTLE_AHEAD) as channel,
    ):
        with_weights(cloud, tmp_path)
        pieces = pb_grpc.TrainingStub(channel).ExportBack(EXPORT, timeout=PATIENCE_S)
        received = 0
        for number, piece in enumerate(pieces):
            received += len(piece.data)
            if number < 10:
                time.sleep(TIMEOUT_S / 4)

    assert received == WEIGHTS_BYTES


def test_an_edge_that_takes_no_acks_is_ended_and_its_session_let_go(tmp_path, monkeypatch, caplog):
    """The thread that looks whether the edge is idle is the one that is stuck."""
    monkeypatch.setattr("cloud_worker.stream.HEARTBEAT_S", 1e-4)  # so that acks soon fill what gRPC takes
    with (
        # They must fill it before the edge counts as idle.
        cloud_in_process(tmp_path, idle_timeout=5 * TIMEOUT_S) as cloud,
        grpc.insecure_channel(cloud.address, LITTLE_AHEAD) as channel,
    ):
        requests = queue.SimpleQueue()
        requests.put(convert.request_to_proto(hello()))
        call = pb_grpc.TrainingStub(channel).Train(iter(requests.get, None), timeout=PATIENCE_S)

        next(call)
        until(lambda: not cloud.sessions._streams)
        assert how_it_ended(call) is Code.CANCELLED
        requests.put(None)
    assert sum(message.endswith("it took no reply for 5s") for message in caplog.messages) == 1
