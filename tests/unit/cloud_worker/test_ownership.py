"""A session belongs to the edge that opened it. A real server in this process that asks for tokens."""

import queue

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from common.wire.generated import training_pb2 as pb
from common.wire.messages import End, Position
from tests.unit.cloud_worker.edges import cloud_in_process, refused, welcomed
from tests.unit.cloud_worker.fakes import CountingBack
from tests.unit.records import SESSION, batches, hello

Code = grpc.StatusCode
PI = [("authorization", "Bearer pi-token-0123456789")]
JETSON = [("authorization", "Bearer jetson-token-0123456789")]
STRANGER = [("authorization", "Bearer other-token-0123456789")]
NOT_YOURS = rf"^session {SESSION} was opened by another edge; show the certificate or token .* --run-dir$"


@pytest.fixture
def tokens(tmp_path):
    path = tmp_path / "tokens"
    path.touch(mode=0o600)
    path.write_text("pi pi-token-0123456789\njetson jetson-token-0123456789\n")
    return path


@pytest.fixture
def cloud(tmp_path, tokens, monkeypatch):
    """A cloud that knows two edges; its networks only count."""
    monkeypatch.setattr("cloud_worker.sessions.Back", CountingBack)
    with cloud_in_process(tmp_path / "run", tokens=tokens) as cloud:
        yield cloud


def finish(cloud, metadata):
    """Take the session to its end."""
    edge = welcomed(cloud, metadata)
    edge.send_records(*batches(0, 1, 2, 3, 4, 5), End(6))
    edge.close()
    assert edge.acks()[-1].durable == Position(7)


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        (None, r"^this cloud asks for a token; give --token-file$"),
        (STRANGER, r"^this cloud does not know the"),
    ],
    ids=["no token", "unknown token"],
)
def test_a_stranger_is_refused_at_every_door(cloud, tmp_path, metadata, words):
    finish(cloud, PI)
    kept = sorted(path for path in (tmp_path / "run").rglob("*"))

    with refused(Code.UNAUTHENTICATED, words):
        cloud.edge(hello(generation=9), metadata=metadata).reply()
    with refused(Code.UNAUTHENTICATED, words):
        list(cloud.stub.ExportBack(pb.ExportRequest(session_id=SESSION), metadata=metadata))
    with refused(Code.UNAUTHENTICATED, words):
        cloud.stub.GetStatus(pb.StatusRequest(session_id=SESSION), metadata=metadata)

    assert sorted(path for path in (tmp_path / "run").rglob("*")) == kept


def test_a_stranger_learns_of_no_session(cloud):
    """Not even whether there is one, or what an id looks like."""
    for session_id in (SESSION, "nonsense"):
        with refused(Code.UNAUTHENTICATED, r"^this cloud asks for a token"):
            cloud.stub.GetStatus(pb.StatusRequest(session_id=session_id))


def test_a_stranger_need_not_say_hello_to_be_refused(cloud):
    with refused(Code.UNAUTHENTICATED, r"^this cloud asks for a token"):
        cloud.edge().reply()


@pytest.mark.parametrize(
    "method", ["Training/Train", "Training/GetStatus", "Training/ExportBack", "Training/Download"]
)
def test_a_stranger_who_calls_and_says_nothing_holds_no_thread(cloud, method):
    """By itself gRPC keeps one waiting for the request, before anyone asks who calls."""
    with grpc.insecure_channel(cloud.address) as channel:
        calls = [
            channel.stream_stream(f"/headwater.v1.{method}")(iter(queue.SimpleQueue().get, None), timeout=60)
            for _ in range(30)
        ]
        for call in calls:
            assert call.code() in (Code.UNAUTHENTICATED, Code.RESOURCE_EXHAUSTED)

    welcomed(cloud, PI)


def test_strangers_who_ask_for_health_and_say_nothing_leave_room_for_edges(cloud):
    with grpc.insecure_channel(cloud.address) as channel:
        check = channel.stream_stream("/grpc.health.v1.Health/Check")
        calls = [check(iter(queue.SimpleQueue().get, None), timeout=60) for _ in range(30)]

        welcomed(cloud, PI)

        assert {call.code() for call in calls} <= {Code.UNAVAILABLE, Code.RESOURCE_EXHAUSTED}


def test_anyone_may_ask_for_health_and_nobody_unknown_may_watch_it(cloud):
    """A watch holds a thread for as long as its caller likes."""
    with grpc.insecure_channel(cloud.address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)

        assert stub.Check(health_pb2.HealthCheckRequest(), timeout=60).status == 1
        with refused(Code.UNAUTHENTICATED, r"^this cloud asks for a token"):
            next(stub.Watch(health_pb2.HealthCheckRequest(), timeout=60))


def test_another_edges_session_is_refused_at_every_door_and_goes_on(cloud):
    """A newer generation from somebody else does not fence the owner off."""
    edge = welcomed(cloud, PI)
    edge.send_records(*batches(0))
    edge.until(Position(1))

    with refused(Code.PERMISSION_DENIED, NOT_YOURS):
        cloud.edge(hello(generation=9), metadata=JETSON).reply()
    with refused(Code.PERMISSION_DENIED, NOT_YOURS):
        cloud.stub.GetStatus(pb.StatusRequest(session_id=SESSION), metadata=JETSON)
    with refused(Code.PERMISSION_DENIED, NOT_YOURS):
        list(cloud.stub.ExportBack(pb.ExportRequest(session_id=SESSION), metadata=JETSON))

    edge.send_records(*batches(1))
    assert edge.until(Position(2)).counters.batches_applied == 2


def test_the_owner_may_do_it_all(cloud):
    finish(cloud, PI)

    status = cloud.stub.GetStatus(pb.StatusRequest(session_id=SESSION), metadata=PI)
    pieces = list(cloud.stub.ExportBack(pb.ExportRequest(session_id=SESSION), metadata=PI))

    assert status.finished
    assert sum(len(piece.data) for piece in pieces) == pieces[0].total_bytes > 0


def test_the_owner_is_remembered_over_restarts_and_new_generations(tmp_path, tokens, monkeypatch):
    monkeypatch.setattr("cloud_worker.sessions.Back", CountingBack)
    for generation in (1, 2):
        with cloud_in_process(tmp_path / "run", tokens=tokens) as cloud:
            welcomed(cloud, PI, generation=generation)

    with cloud_in_process(tmp_path / "run", tokens=tokens) as cloud:
        with refused(Code.PERMISSION_DENIED, NOT_YOURS):
            cloud.edge(hello(generation=3), metadata=JETSON).reply()
        welcomed(cloud, PI, generation=3)


@pytest.mark.parametrize(
    ("first", "then", "words"),
    [
        (PI, None, "by an edge with a name, which this cloud does not ask for now; start it as it was then"),
        (None, PI, "without a name, which this cloud asks for now; start it as it was then"),
    ],
    ids=["no longer asked", "asked for now"],
)
def test_tokens_that_come_or_go_open_nobodys_session(tmp_path, tokens, monkeypatch, first, then, words):
    """A cloud that is started again without --tokens must not give away what is kept."""
    monkeypatch.setattr("cloud_worker.sessions.Back", CountingBack)
    with cloud_in_process(tmp_path / "run", tokens=tokens if first else None) as cloud:
        welcomed(cloud, first)

    with (
        cloud_in_process(tmp_path / "run", tokens=tokens if then else None) as cloud,
        refused(Code.PERMISSION_DENIED, f"^session {SESSION} was opened {words}, or start a new run"),
    ):
        cloud.edge(hello(generation=2), metadata=then).reply()
