"""Front and back together again: one safetensors file that plain torchvision loads."""

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import grpc
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from common.checkpoint import tensor_file
from common.durable import write_atomic
from common.endpoint import Endpoint
from common.errors import CheckpointError, CloudError, ConfigError, WireError
from common.models.catalogue import ModelSpec, loading_lines, skeleton
from common.strategies import find_strategy
from common.wire.generated import training_pb2 as pb
from common.wire.generated import training_pb2_grpc as pb_grpc
from edge_worker.access import Access, endpoint
from edge_worker.replies import AHEAD, Replies, SilentError
from edge_worker.rundir import RunDir
from edge_worker.statuses import explain

# Without a piece of the weights. A piece takes a link of 10 kbit/s some 50 s; all of them may take hours.
SILENCE_S = 60.0
# Room for the names in a safetensors file.
HEADER_BYTES = 1 << 20
EXIT_PREFIX = "exit."


def export_network(path: Path, cloud: str | None, access: Access, out: Path) -> list[str]:
    """Write the network of the finished run at `path` to `out`; return what to tell the user.

    Args:
        path: the run's directory.
        cloud: HOST:PORT; None for the one that the run trained with.
        access: how to reach it; what is None there is as it was in the run.
        out: the file to write.

    Raises:
        ConfigError: there is no finished run at `path`, or a file that `access` names does not fit.
        CloudError, NotFoundError: the cloud does not answer, or does not have the run's back.
        CheckpointError: a file is damaged, or `out` cannot be written.
    """
    run_dir = RunDir(path)
    session_id = run_dir.session_id()
    summary = run_dir.summary()
    if summary is None:
        raise ConfigError(f"the run at {path} is not finished; run edge-worker train --run-dir {path} first")
    weights = _read_weights(run_dir.front_file)
    weights = {name: tensor for name, tensor in weights.items() if not name.startswith(EXIT_PREFIX)}
    spec = _spec(summary)
    if find_strategy(summary["strategy"]).uses_cloud:
        missing = {name: t for name, t in skeleton(spec).state_dict().items() if name not in weights}
        weights |= _back(missing, _cloud(run_dir, cloud, access), session_id)
    metadata = _metadata(summary, spec, out)
    write_atomic(out, tensor_file(weights, metadata))
    here = "\n".join(loading_lines(spec, str(out)))
    return [f"wrote {out} ({len(weights)} tensors); load it with:", "", here]


def _spec(summary: dict[str, Any]) -> ModelSpec:
    return ModelSpec(
        name=summary["model"],
        num_classes=len(summary["classes"]),
        input_shape=tuple(summary["input_shape"]),
        stem=summary["stem"],
        classifier=summary["classifier"],
    )


def _metadata(summary: dict[str, Any], spec: ModelSpec, out: Path) -> dict[str, str]:
    """Return what a stranger needs to use the file, as safetensors metadata."""
    accuracy = summary["cloud_accuracy"]
    return {
        "format": "pt",
        "load": "\n".join(loading_lines(spec, out.name)),
        "mean": json.dumps(summary["mean"]),
        "std": json.dumps(summary["std"]),
        "normalisation": "pixels / 255, then (x - mean) / std for each colour; RGB, [N, 3, H, W]",
        "input_shape": json.dumps(summary["input_shape"]),
        "classes": json.dumps(summary["classes"]),
        "accuracy": json.dumps(summary["edge_accuracy"] if accuracy is None else accuracy),
        "precision": summary["precision"],
        "dataset": summary["dataset"],
    }


def _cloud(run_dir: RunDir, cloud: str | None, access: Access) -> Endpoint:
    """Return the cloud that the run trained with, but for what was given now."""
    settings = run_dir.settings()
    files = {field.name: getattr(access, field.name) or settings.get(field.name) for field in fields(Access)}
    known = Access(**{name: None if file is None else Path(file) for name, file in files.items()})
    found = endpoint(cloud or settings["cloud"], known)
    found.warn_of_clear()
    return found


def _back(missing: dict[str, Tensor], cloud: Endpoint, session_id: str) -> dict[str, Tensor]:
    """Fetch the tensors that the front lacks, and nothing else; `missing` has their shapes and types."""
    size = sum(tensor.numel() * tensor.element_size() for tensor in missing.values())
    back = _load(_fetch(cloud, session_id, size + HEADER_BYTES), "the cloud's weights")
    wanted = {name: (tensor.shape, tensor.dtype) for name, tensor in missing.items()}
    if {name: (tensor.shape, tensor.dtype) for name, tensor in back.items()} != wanted:
        raise WireError(
            f"the cloud's weights are not those of this run's back: got {len(back)} tensors, "
            f"wanted {len(wanted)} by name, shape and type; is it the cloud that trained the run?"
        )
    return back


def _fetch(cloud: Endpoint, session_id: str, limit: int) -> bytes:
    """Return what the cloud sends, however long that takes as long as it comes."""
    pieces: list[bytes] = []
    received = total = 0
    with cloud.open(AHEAD) as channel:
        stub = pb_grpc.TrainingStub(channel)  # type: ignore[no-untyped-call]
        call = stub.ExportBack(pb.ExportRequest(session_id=session_id))
        replies = Replies(call)
        try:
            while (piece := replies.next(SILENCE_S)) is not None:
                pieces.append(piece.data)
                received += len(piece.data)
                total = piece.total_bytes
                if total > limit or received > total:
                    break
        except SilentError as error:
            raise CloudError(
                f"{error} ({cloud.address}), with {received} of {total or 'unknown'} bytes received; "
                "look at the link and export again"
            ) from None
        except grpc.RpcError as error:
            raise explain(error, cloud) from error
        finally:
            call.cancel()
            replies.stop()
    if not 0 < received == total <= limit:
        raise WireError(
            f"the cloud announced {total} bytes of weights and sent {received}; "
            f"this run's back has at most {limit}"
        )
    return b"".join(pieces)


def _read_weights(path: Path) -> dict[str, Tensor]:
    try:
        return _load(path.read_bytes(), str(path))
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}") from error


def _load(data: bytes, what: str) -> dict[str, Tensor]:
    try:
        tensors: dict[str, Tensor] = load(data)
    except SafetensorError as error:
        raise CheckpointError(f"{what} are damaged: {error}") from error
    return tensors
