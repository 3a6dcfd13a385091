"""A link that falls silent, and a slow one, between real daemons: dead is noticed, slow is left alone."""

from concurrent import futures

import grpc
import pytest

from benchmarks.outcome import outcome
from benchmarks.processes import cloud_at, edge_at, wait_for
from benchmarks.relay import Relay
from common.endpoint import Endpoint
from common.wire.generated import training_pb2 as pb
from common.wire.generated import training_pb2_grpc as pb_grpc
from edge_worker.export import _fetch
from tests.integration.conftest import outcome_untouched

# Large batches, so that some are under way.
RUN = (
    "--dataset synthetic --train-limit 384 --test-limit 32 --batch-size 128 --epochs 1 --model resnet18 "
    "--split layer3 --bits 4 --threads 1 --precision float32 --workers 1"
).split()
FIRST_CHUNKS = 2 * (16 << 10)


@pytest.fixture(scope="module")
def untouched(tmp_path_factory):
    """What the run comes to without a relay."""
    return outcome_untouched(tmp_path_factory.mktemp("untouched"), *RUN)


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
    assert "lost the cloud (the cloud was silent for 30 s); trying again in" in said
    assert outcome(tmp_path / "cloud", tmp_path / "edge") == untouched


class Weights(pb_grpc.TrainingServicer):
    """A cloud that has two megabytes of weights at hand."""

    def ExportBack(self, request, context):
        """Send them as fast as they are taken."""
        for _ in range(32):
            yield pb.ExportChunk(total_bytes=32 << 16, data=bytes(1 << 16))


def test_an_export_leaves_no_more_on_a_slow_link_than_a_ping_can_wait_behind():
    """Else the cloud, whose ping is not answered in time, takes the link for dead."""
    server = grpc.server(futures.ThreadPoolExecutor(2))
    pb_grpc.add_TrainingServicer_to_server(Weights(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with Relay(f"127.0.0.1:{port}", rate_down_bps=20e6) as relay:
            weights = _fetch(Endpoint(relay.address), "x", 4 << 20)
            most_under_way = relay.down.take_most_under_way()
    finally:
        server.stop(0).wait()

    assert len(weights) == 2 << 20
    assert most_under_way < 200 << 10
