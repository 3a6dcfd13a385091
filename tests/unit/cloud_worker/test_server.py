"""The server's door: who is let in, and what those are told who are not. A real server in this process."""

import dataclasses
import socket
import threading
import zlib

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from cloud_worker.config import ServeConfig
from cloud_worker.door import Door
from cloud_worker.health import check_health
from cloud_worker.server import start_server
from cloud_worker.store import SessionFiles
from cloud_worker.unread import EndUnread
from common.address import split_address
from common.checkpoint import CheckpointStore
from common.endpoint import Endpoint
from common.errors import ConfigError, ModelError
from common.wire.generated import training_pb2 as pb
from common.wire.messages import PROTOCOL_VERSION, Chunk, Counters, End, Note, Position
from tests.unit.cloud_worker.edges import cloud_in_process, refused, welcomed
from tests.unit.cloud_worker.fakes import CountingBack
from tests.unit.records import RUN, SESSION, batches, hello

Code = grpc.StatusCode
OTHER = "11111111-1111-4111-8111-111111111111"
THIRD = "22222222-2222-4222-8222-222222222222"


@pytest.fixture
def cloud(tmp_path, monkeypatch):
    """A cloud with room for two sessions; its networks only count."""
    monkeypatch.setattr("cloud_worker.sessions.Back", CountingBack)
    with cloud_in_process(tmp_path, max_sessions=2) as cloud:
        yield cloud


def finish(cloud, session_id):
    """Take one session to its end."""
    edge = welcomed(cloud, session_id=session_id)
    edge.send_records(*batches(0, 1, 2, 3, 4, 5), End(6))
    edge.close()
    assert edge.acks()[-1].durable == Position(7)


# -------------------------------------------------------------------- Hello


def test_hello_is_welcomed_with_where_to_go_on(cloud):
    edge = cloud.edge(hello())

    welcome = edge.reply()

    assert (welcome.applied, welcome.durable, welcome.results) == (Position(0), Position(0), ())
    assert welcome.protocol_version == PROTOCOL_VERSION


@pytest.mark.parametrize(
    "first", [Note(losses_from=0, save=True), Chunk(record_bytes=3, offset=0, data=b"abc")]
)
def test_a_stream_that_does_not_begin_with_hello_is_refused(cloud, first):
    with refused(Code.INVALID_ARGUMENT, "^the first message of a stream must be Hello$"):
        cloud.edge(first).reply()


def test_a_stream_without_any_message_is_refused(cloud):
    edge = cloud.edge()
    edge.close()

    with refused(Code.INVALID_ARGUMENT, "^the stream ended before its first message; it must begin with"):
        edge.reply()


def test_another_protocol_version_is_refused_with_both_numbers(cloud, tmp_path):
    with refused(
        Code.FAILED_PRECONDITION, f"the edge speaks protocol 77, this cloud {PROTOCOL_VERSION}; install"
    ):
        cloud.edge(dataclasses.replace(hello(), protocol_version=77)).reply()

    assert list(tmp_path.iterdir()) == []


def test_a_session_id_that_is_a_path_is_refused(cloud, tmp_path):
    with refused(Code.INVALID_ARGUMENT, r"a session id must be a lower-case UUID, got 'a/\.\./b'"):
        cloud.edge(hello(session_id="a/../b")).reply()

    assert list(tmp_path.iterdir()) == []


def test_settings_that_cannot_be_are_refused(cloud, tmp_path):
    with refused(Code.INVALID_ARGUMENT, "batch_size must be 2 to 65536, got 1"):
        cloud.edge(hello(batch_size=1)).reply()

    assert list(tmp_path.iterdir()) == []


def test_what_an_error_says_in_several_lines_is_told_in_one(cloud, monkeypatch):
    def back(*_):
        raise ModelError("no such network:\n\tlayer 1,\n\tlayer 2")

    monkeypatch.setattr("cloud_worker.sessions.Back", back)

    with refused(Code.INVALID_ARGUMENT, "^no such network: layer 1, layer 2$"):
        cloud.edge(hello()).reply()


def test_a_network_that_this_cloud_builds_otherwise_is_refused_before_it_is_built(tmp_path, monkeypatch):
    """The one test here with a real network."""
    monkeypatch.delattr("cloud_worker.back.build")
    with (
        cloud_in_process(tmp_path) as cloud,
        refused(
            Code.FAILED_PRECONDITION, r"the edge has structure digest ab, the cloud [0-9a-f]{64}: install"
        ),
    ):
        cloud.edge(
            hello(model="vgg11", split="pool5", activation_shape=(512, 1, 1), structure_digest="ab")
        ).reply()


def test_a_network_that_is_too_large_is_refused_before_it_is_built(tmp_path, monkeypatch):
    """Its last layer alone would take a gigabyte."""
    monkeypatch.delattr("cloud_worker.back.build")
    with (
        cloud_in_process(tmp_path) as cloud,
        refused(Code.RESOURCE_EXHAUSTED, "vgg11 with 65536 classes has 397267328 .* at most 200000000$"),
    ):
        cloud.edge(
            hello(
                model="vgg11",
                classifier="imagenet",
                split="pool5",
                activation_shape=(512, 1, 1),
                num_classes=1 << 16,
            )
        ).reply()


# -------------------------------------------------------------------- room


def test_one_session_too_many_is_refused_and_the_others_go_on(cloud):
    first = welcomed(cloud, session_id=SESSION)
    welcomed(cloud, session_id=OTHER)

    with refused(Code.RESOURCE_EXHAUSTED, "already serves 2 sessions, which is its limit; try again later"):
        cloud.edge(hello(session_id=THIRD)).reply()

    first.send_records(*batches(0))
    assert first.until(Position(1)).counters.batches_applied == 1


def test_a_finished_session_makes_room(cloud):
    welcomed(cloud, session_id=SESSION)
    finish(cloud, OTHER)

    welcomed(cloud, session_id=THIRD)


# -------------------------------------------------------------------- beside the stream


def test_status_tells_where_a_session_stands(cloud):
    edge = welcomed(cloud)
    edge.send_records(*batches(0, 1, 2, 3))
    edge.until(Position(4))

    status = cloud.stub.GetStatus(pb.StatusRequest(session_id=SESSION))

    assert (status.applied.batches, status.durable.batches, status.total_batches) == (4, 0, RUN.total_batches)
    assert not status.finished


@pytest.mark.parametrize(
    "numbers",
    [
        {},
        {"applied": [1, 0], "results": [], "counters": {"resumes": "x"}},
        {"applied": [1, 0], "results": [{"batches": 3}], "counters": {}},
        {"applied": [1, 0], "results": 3, "counters": dataclasses.asdict(Counters())},
    ],
    ids=["nothing", "counters", "a result", "results"],
)
def test_where_a_damaged_session_stands_is_refused_in_one_line(cloud, tmp_path, numbers):
    SessionFiles(tmp_path, OTHER).create(RUN, "", 0)
    CheckpointStore(tmp_path / OTHER / "checkpoints").save(1, {}, numbers)

    with refused(Code.DATA_LOSS, f"{OTHER} is damaged: "):
        cloud.stub.GetStatus(pb.StatusRequest(session_id=OTHER))


def test_weights_of_a_finished_session_come_as_they_lie_on_the_disk(cloud, tmp_path):
    finish(cloud, SESSION)

    pieces = list(cloud.stub.ExportBack(pb.ExportRequest(session_id=SESSION)))

    file = (tmp_path / SESSION / "back.safetensors").read_bytes()
    assert b"".join(piece.data for piece in pieces) == file
    assert {piece.total_bytes for piece in pieces} == {len(file)}


def test_a_session_that_is_not_kept_is_not_found(cloud):
    with refused(Code.NOT_FOUND, f"keeps no session {OTHER}; is it the one that trained the run"):
        list(cloud.stub.ExportBack(pb.ExportRequest(session_id=OTHER)))
    with refused(Code.NOT_FOUND, f"keeps no session {OTHER}; is it the one that trained the run"):
        cloud.stub.GetStatus(pb.StatusRequest(session_id=OTHER))


def test_weights_of_an_unfinished_session_are_refused(cloud):
    welcomed(cloud)

    with refused(Code.FAILED_PRECONDITION, f"session {SESSION} is not finished; run edge-worker train"):
        list(cloud.stub.ExportBack(pb.ExportRequest(session_id=SESSION)))


@pytest.mark.parametrize("session_id", ["..", "/etc", SESSION + "/.."])
def test_a_path_is_no_session_id_beside_the_stream_either(cloud, session_id):
    with refused(Code.INVALID_ARGUMENT, "must be a lower-case UUID"):
        list(cloud.stub.ExportBack(pb.ExportRequest(session_id=session_id)))
    with refused(Code.INVALID_ARGUMENT, "must be a lower-case UUID"):
        cloud.stub.GetStatus(pb.StatusRequest(session_id=session_id))


def test_a_download_has_as_many_bytes_as_were_asked_for(cloud):
    pieces = list(cloud.stub.Download(pb.DownloadRequest(total_bytes=100_000)))

    data = b"".join(piece.data for piece in pieces)
    assert (len(pieces), len(data)) == (2, 100_000)
    assert {piece.total_bytes for piece in pieces} == {100_000}
    assert len(zlib.compress(data)) > 100_000  # or a link that compresses would look fast


@pytest.mark.parametrize("size", [0, (1 << 20) + 1])
def test_a_download_of_no_bytes_or_too_many_is_refused(cloud, size):
    with refused(Code.INVALID_ARGUMENT, f"^a download has 1 to 1048576 bytes, got {size}$"):
        list(cloud.stub.Download(pb.DownloadRequest(total_bytes=size)))


def test_the_health_service_says_serving(cloud):
    assert check_health(Endpoint(cloud.address)) == f"{cloud.address} is serving"


def test_a_connection_on_which_nothing_is_called_is_closed(tmp_path, monkeypatch):
    """There are only so many, and whoever holds one need not even say who they are."""
    monkeypatch.setattr("cloud_worker.server.IDLE_CONNECTION_MS", 200)

    def kinds_of_frames(connection):
        with connection.makefile("rb") as stream:
            while head := stream.read(9):
                yield head[3]
                stream.read(int.from_bytes(head[:3], "big"))

    with (
        cloud_in_process(tmp_path) as cloud,
        socket.create_connection(split_address(cloud.address, "address"), timeout=30) as connection,
    ):
        connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\x04" + bytes(5))
        assert 7 in kinds_of_frames(connection)  # GOAWAY


def test_health_cannot_be_watched(cloud):
    """A watch would hold one of the server's threads, and a name of the client's choice, for good."""
    with grpc.insecure_channel(cloud.address) as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service="x"))

        with refused(Code.UNIMPLEMENTED, "health can be checked here, not watched"):
            next(watch)


@pytest.mark.parametrize("method", ["Train", "ExportBack", "GetStatus", "Download"])
def test_what_is_no_protobuf_is_refused_in_one_line(cloud, caplog, method):
    """By itself gRPC says INTERNAL, and logs a traceback."""
    with grpc.insecure_channel(cloud.address) as channel:
        call = channel.stream_stream(f"/headwater.v1.Training/{method}")(iter([b"\xff" * 9]))

        with refused(Code.INVALID_ARGUMENT, "^a message of 9 bytes does not parse: "):
            next(call)

    (record,) = caplog.records
    assert "\n" not in record.getMessage()
    assert record.exc_info is None


def test_of_a_message_that_grpc_refuses_the_log_says_that_its_caller_has_left(tmp_path, monkeypatch, caplog):
    """To us it looks as if there had been no message; it is no refusal of ours."""
    monkeypatch.setattr("cloud_worker.sessions.Back", CountingBack)
    with cloud_in_process(tmp_path) as cloud:
        for edge in (cloud.edge(), welcomed(cloud)):
            edge.send(Chunk(record_bytes=5 << 20, offset=0, data=bytes(5 << 20)))
            with refused(Code.RESOURCE_EXHAUSTED, "message larger than max"):
                edge.acks()

    left = "ended a call of one who has left: the stream ended before its first message; "
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert all(message.startswith(left) for message in warnings)
    assert len(warnings) <= 1  # none, where gRPC was the quicker one


def test_what_a_peer_says_cannot_reach_into_the_log(cloud, caplog, monkeypatch):
    """Neither lines of its own, nor what a terminal obeys, nor megabytes."""

    def back(*_):
        raise ModelError("no \x1b[2Jmodel\r\n10:00:00 INFO all is well \u202e" + 9999 * "m")

    monkeypatch.setattr("cloud_worker.sessions.Back", back)
    with refused(
        Code.INVALID_ARGUMENT,
        r"^no \\x1b\[2Jmodel 10:00:00 INFO all is well \\u202em+\.\.\. \(\d+ characters\)$",
    ):
        cloud.edge(hello()).reply()

    assert len(caplog.messages[0]) < 1000


def test_an_edge_that_is_served_does_not_wait_for_another_ones_network(cloud, monkeypatch):
    """A large network takes seconds to build, and a peer may ask for one again and again."""
    building, go = threading.Event(), threading.Event()
    edge = welcomed(cloud)

    def back(*_):
        building.set()
        go.wait(60)
        return CountingBack()

    monkeypatch.setattr("cloud_worker.sessions.Back", back)
    other = cloud.edge(hello(session_id=OTHER))
    building.wait(60)
    edge.call.cancel()

    assert cloud.edge(hello()).reply().applied == Position(0)
    assert cloud.stub.GetStatus(pb.StatusRequest(session_id=SESSION), timeout=60).total_batches == 6
    go.set()
    other.reply()


def test_a_port_that_is_taken_is_refused(cloud):
    """Without `grpc.so_reuseport` two servers would share it, and edges would find either."""
    with pytest.raises(ConfigError, match=f"cannot listen on {cloud.address}: the port is taken"):
        start_server(cloud.sessions, ServeConfig(listen=cloud.address), Door(), EndUnread(60))
