"""What a cloud sends for an export: the back's tensors and nothing else, or nothing is written."""

import json
import threading
from concurrent import futures

import grpc
import pytest
import torch

from common.checkpoint import tensor_file
from common.durable import sealed
from common.errors import CheckpointError, CloudError, HeadwaterError, WireError
from common.models.catalogue import ModelSpec, skeleton
from common.wire.generated import training_pb2 as pb
from common.wire.generated import training_pb2_grpc as pb_grpc
from edge_worker.access import Access
from edge_worker.export import export_network

SPEC = ModelSpec(name="resnet18", num_classes=10, input_shape=(3, 32, 32))
TENSORS = {name: torch.zeros(t.shape, dtype=t.dtype) for name, t in skeleton(SPEC).state_dict().items()}
FRONT = {name: tensor for name, tensor in TENSORS.items() if not name.startswith("fc.")}
BACK = {name: tensor for name, tensor in TENSORS.items() if name.startswith("fc.")}

YEAR_S = 365 * 86_400


class Teller(pb_grpc.TrainingServicer):
    """Answers every export with the same pieces."""

    def __init__(self, pieces):
        self._pieces = pieces
        self.time_left = []

    def ExportBack(self, request, context):
        """Send them; words end the call with an error, an event is waited for."""
        self.time_left.append(context.time_remaining())
        for piece in self._pieces:
            if isinstance(piece, threading.Event):
                piece.wait(60)
                return
            if isinstance(piece, str):
                context.abort(grpc.StatusCode.FAILED_PRECONDITION, piece)
            yield piece


@pytest.fixture
def run_dir(tmp_path):
    """A finished run, as far as an export reads it."""
    path = tmp_path / "run"
    path.mkdir()
    (path / "front.safetensors").write_bytes(b"".join(tensor_file(FRONT)))
    (path / "run.json").write_bytes(sealed({"session_id": "x", "generation": 1, "settings": {}}))
    about = {
        "strategy": "hierarchical",
        "model": SPEC.name,
        "stem": SPEC.stem,
        "classifier": SPEC.classifier,
        "classes": list(range(10)),
        "input_shape": SPEC.input_shape,
        "mean": [0.0],
        "std": [1.0],
        "cloud_accuracy": 0.5,
        "precision": "float32",
        "dataset": "synthetic",
    }
    (path / "summary.json").write_text(json.dumps(about))
    return path


def exported(run_dir, *pieces, teller=None):
    """Export from a cloud that sends `pieces`; return the file, which need not be there."""
    server = grpc.server(futures.ThreadPoolExecutor(2))
    pb_grpc.add_TrainingServicer_to_server(teller or Teller(pieces), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    out = run_dir.parent / "network.safetensors"
    try:
        export_network(run_dir, f"127.0.0.1:{port}", Access(), out)
    finally:
        server.stop(0).wait()
    return out


def piece(tensors, **changes):
    data = b"".join(tensor_file(tensors))
    return pb.ExportChunk(**{"total_bytes": len(data), "data": data, **changes})


def test_front_and_back_make_one_file(run_dir):
    assert exported(run_dir, piece(BACK)).stat().st_size > 40_000_000


def test_an_export_may_take_as_long_as_its_link_does(run_dir):
    """Only silence ends it: a satellite link takes an hour for what a network takes a second."""
    teller = Teller([piece(BACK)])

    exported(run_dir, teller=teller)

    assert teller.time_left[0] > YEAR_S  # gRPC's way to say that there is no deadline


def test_a_cloud_that_falls_silent_is_left_and_nothing_is_written(run_dir, monkeypatch):
    monkeypatch.setattr("edge_worker.export.SILENCE_S", 0.5)
    data, left = b"".join(tensor_file(BACK)), threading.Event()
    first = pb.ExportChunk(total_bytes=len(data), data=data[:1000])

    with pytest.raises(CloudError, match=rf"silent for 0\.5 s .*, with 1000 of {len(data)} bytes received"):
        exported(run_dir, first, left)

    left.set()
    assert not (run_dir.parent / "network.safetensors").exists()


@pytest.mark.parametrize(
    ("pieces", "kind", "words"),
    [
        ([], WireError, "announced 0 bytes of weights and sent 0"),
        ([piece(BACK, total_bytes=10)], WireError, r"announced 10 bytes of weights and sent \d{5}"),
        ([piece(BACK, total_bytes=1 << 40)], WireError, "announced 1099511627776 .* at most 1069096"),
        (500 * [pb.ExportChunk(total_bytes=1 << 20, data=bytes(1 << 19))], WireError, "sent 1572864"),
        ([pb.ExportChunk(total_bytes=9, data=b"\xff" * 9)], CheckpointError, "cloud's weights are damaged"),
        ([piece({**BACK, "conv1.weight": torch.ones(1)})], WireError, "got 3 tensors, wanted 2"),
        ([piece({**BACK, "fc.bias": torch.zeros(11)})], WireError, "not those of this run's back"),
        (["a\x1b[2J\nb"], HeadwaterError, r"refused: a\\x1b\[2J b$"),
    ],
    ids="none short huge endless garbage front shape escape".split(),
)
def test_anything_else_is_refused_and_nothing_is_written(run_dir, pieces, kind, words):
    with pytest.raises(kind, match=words):
        exported(run_dir, *pieces)

    assert not (run_dir.parent / "network.safetensors").exists()
