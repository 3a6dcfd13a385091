"""What an edge that means well would say, as bytes on the wire: what malformed messages are made from."""

from dataclasses import replace
from typing import Any

import torch

from common.codec import Packed, encode
from common.models.catalogue import ModelSpec
from common.strategies import find_strategy
from common.wire import convert
from common.wire.generated import training_pb2 as pb
from common.wire.messages import MAX_CHUNK_BYTES, Batch, Hello, Note, Record, Run
from common.wire.reassembly import chunks_of
from common.wire.records import record_to_bytes
from edge_worker.network import build_network

IMAGES = 4
LABELS = tuple(range(IMAGES))


def smallest_run() -> Run:
    """Return a run that a real cloud agrees to, and whose back is one linear layer."""
    spec = ModelSpec(name="resnet18", num_classes=10, input_shape=(3, 32, 32))
    network = build_network(spec, find_strategy("hierarchical"), "layer4", "light", seed=0)
    assert network.activation_shape is not None  # hierarchical has an exit
    return Run(
        strategy="hierarchical",
        model=spec.name,
        stem=spec.stem,
        classifier=spec.classifier,
        split="layer4",
        input_shape=spec.input_shape,
        num_classes=spec.num_classes,
        activation_shape=network.activation_shape,
        structure_digest=network.structure_digest,
        weights_digest=network.weights_digest,
        bits=8,
        batch_size=IMAGES,
        total_batches=50_000,
        seed=0,
        precision="float32",
        lr=0.01,
        momentum=0.9,
        weight_decay=0.0,
        warmup=0,
        batches_per_epoch=1,
    )


class Peer:
    """One session's edge.

    Attributes:
        run: what it agrees on with the cloud.
        session_id: of its Hello.
        token: by which the cloud knows it.
        packed: activations of a batch.
    """

    def __init__(self, run: Run, session_id: str, token: str) -> None:
        self.run = run
        self.session_id = session_id
        self.token = token
        drawn = torch.rand(IMAGES, *run.activation_shape, generator=torch.Generator().manual_seed(0))
        self.packed = encode(drawn, run.bits)

    def hello(
        self, session_id: str | None = None, generation: int = 1, losses_from: int = 0, **changes: Any
    ) -> bytes:
        """Return its Hello, whose run may differ in `changes`."""
        run = replace(self.run, **changes)
        said = self.session_id if session_id is None else session_id
        return sent(self.hello_of(run=run, session_id=said, generation=generation, losses_from=losses_from))

    def hello_of(self, **changes: Any) -> pb.TrainRequest:
        """Return its Hello, which may differ in `changes`."""
        hello = Hello(session_id=self.session_id, generation=1, run=self.run, losses_from=0)
        return convert.request_to_proto(replace(hello, **changes))

    def batch(self, seq: int, labels: tuple[int, ...] = LABELS, **changes: Any) -> bytes:
        """Return a serialised record with batch `seq`, whose activations may differ in `changes`."""
        packed: Packed = replace(self.packed, **changes)
        return record_to_bytes(Batch(seq, packed, labels))


def sent(proto: pb.TrainRequest) -> bytes:
    """Return a request's bytes."""
    data: bytes = proto.SerializeToString()
    return data


def note(losses_from: int = 0) -> bytes:
    """Return a Note."""
    return sent(convert.request_to_proto(Note(losses_from=losses_from, save=False)))


def chunk(**fields: Any) -> bytes:
    """Return one Chunk, whatever it says."""
    return sent(pb.TrainRequest(chunk=pb.Chunk(**fields)))


def chunks(record: bytes, chunk_bytes: int = MAX_CHUNK_BYTES) -> tuple[bytes, ...]:
    """Return a serialised record as the requests that carry it."""
    return tuple(sent(convert.request_to_proto(each)) for each in chunks_of(record, chunk_bytes))


def requests(record: Record) -> tuple[bytes, ...]:
    """Return a record as the requests that carry it."""
    return chunks(record_to_bytes(record))
