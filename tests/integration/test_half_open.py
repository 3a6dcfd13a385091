"""A link that goes dead without a word: the cloud notices by gRPC's pings, and keeps nothing for the edge."""

import threading

import grpc
import pytest

from benchmarks.processes import wait_for
from benchmarks.relay import Relay
from cloud_worker.server import KEEPALIVE
from common.wire.generated import training_pb2_grpc as pb_grpc
from tests.unit.cloud_worker.edges import Edge, cloud_in_process
from tests.unit.cloud_worker.fakes import CountingBack
from tests.unit.records import batches, hello

OTHER = "11111111-1111-4111-8111-111111111111"


def serving_threads():
    """The threads of streams: each has a reader and a trainer."""
    return [thread for thread in threading.enumerate() if "_guarded" in thread.name]


def has_room(cloud):
    """Whether another session is let in."""
    try:
        cloud.edge(hello(session_id=OTHER)).reply()
    except grpc.RpcError:
        return False
    return True


@pytest.fixture
def cloud(tmp_path, monkeypatch):
    """A cloud with room for one session, ten times as impatient as it really is."""
    monkeypatch.setattr("cloud_worker.sessions.Back", CountingBack)
    soon = [(name, value // 10 if name.endswith("_ms") else value) for name, value in KEEPALIVE]
    monkeypatch.setattr("cloud_worker.server.KEEPALIVE", soon)
    with cloud_in_process(tmp_path, max_sessions=1) as cloud:
        yield cloud


def test_a_stream_over_a_link_that_went_dead_is_dropped_with_its_threads_and_its_place(cloud):
    """Nothing closes the connection, and the edge sends nothing at all any more."""
    with Relay(cloud.address) as relay, grpc.insecure_channel(relay.address) as channel:
        edge = Edge(pb_grpc.TrainingStub(channel))
        edge.send(hello())
        edge.reply()
        edge.send_records(*batches(0, 1))
        assert not has_room(cloud)

        relay.silence()
        for thread in serving_threads():
            thread.join(60)

        assert serving_threads() == []
        wait_for(lambda: relay.hangups, "the relay to see that the cloud has hung up")
        assert [hangup.side for hangup in relay.hangups] == ["server"]
        wait_for(lambda: has_room(cloud), "the place of the dead stream")
