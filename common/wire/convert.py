"""Messages <-> protobuf: the only place that reads or writes a protobuf field.

Reading believes nothing: what comes in is checked against the protocol, and records also against the run
that the handshake agreed on, before a tensor is made of them.
"""

from dataclasses import asdict, fields
from typing import Any, TypeVar

import numpy as np
from google.protobuf.message import DecodeError, Message

from common.codec import Packed
from common.errors import SessionError, WireError
from common.wire import messages as m
from common.wire.checks import check, check_hello
from common.wire.generated import training_pb2 as pb

T = TypeVar("T")


# ------------------------------------------------------------------ requests (edge -> cloud)


def request_to_proto(request: m.Request) -> pb.TrainRequest:
    """Return the protobuf form of one message of the edge."""
    if isinstance(request, m.Chunk):
        chunk = pb.Chunk(record_bytes=request.record_bytes, offset=request.offset, data=request.data)
        return pb.TrainRequest(chunk=chunk)
    if isinstance(request, m.Note):
        return pb.TrainRequest(note=pb.Note(**asdict(request)))
    values = _shallow(request)
    values["run"] = pb.Run(**asdict(request.run))
    values["kept_from"] = _position_to_proto(request.kept_from)
    return pb.TrainRequest(hello=pb.Hello(**values))


def request_from_proto(proto: pb.TrainRequest) -> m.Request:
    """Return what the edge said.

    Raises:
        WireError: no kind is set, or a field is out of its range.
        SessionError: a Hello of another protocol version.
    """
    kind = proto.WhichOneof("kind")
    if kind == "chunk":
        chunk = proto.chunk
        if not 1 <= len(chunk.data) <= m.MAX_CHUNK_BYTES:
            raise WireError(f"a chunk holds 1 to {m.MAX_CHUNK_BYTES} bytes, got {len(chunk.data)}")
        if chunk.offset + len(chunk.data) > chunk.record_bytes:
            raise WireError(
                f"a chunk at offset {chunk.offset} with {len(chunk.data)} bytes "
                f"does not fit into a record of {chunk.record_bytes} bytes"
            )
        return m.Chunk(chunk.record_bytes, chunk.offset, chunk.data)
    if kind == "note":
        return m.Note(losses_from=proto.note.losses_from, save=proto.note.save)
    if kind == "hello":
        return _hello_from_proto(proto.hello)
    raise WireError("a request must be one of hello, chunk or note, got none of them")


def _hello_from_proto(proto: pb.Hello) -> m.Hello:
    # First of all: what another version means by the other fields is not known here.
    if proto.protocol_version != m.PROTOCOL_VERSION:
        raise SessionError(
            f"the edge speaks protocol {proto.protocol_version}, this cloud {m.PROTOCOL_VERSION}; "
            "install the same headwater on both"
        )
    values: dict[str, Any] = {f.name: getattr(proto.run, f.name) for f in fields(m.Run)}
    values["input_shape"] = tuple(proto.run.input_shape)
    values["activation_shape"] = tuple(proto.run.activation_shape)
    hello = m.Hello(
        protocol_version=proto.protocol_version,
        session_id=proto.session_id,
        generation=proto.generation,
        run=m.Run(**values),
        losses_from=proto.losses_from,
        kept_from=_position_from_proto(proto.kept_from),
    )
    check_hello(hello)
    return hello


# ------------------------------------------------------------------ replies (cloud -> edge)


def reply_to_proto(reply: m.Reply) -> pb.TrainReply:
    """Return the protobuf form of one message of the cloud."""
    values = _shallow(reply)
    values["applied"] = _position_to_proto(reply.applied)
    values["durable"] = _position_to_proto(reply.durable)
    values["results"] = [_result_to_proto(result) for result in reply.results]
    if isinstance(reply, m.Welcome):
        return pb.TrainReply(welcome=pb.Welcome(**values))
    values["counters"] = pb.Counters(**asdict(reply.counters))
    return pb.TrainReply(ack=pb.Ack(**values))


def reply_from_proto(proto: pb.TrainReply) -> m.Reply:
    """Return what the cloud said; raises WireError where no kind is set."""
    kind = proto.WhichOneof("kind")
    if kind == "welcome":
        welcome = proto.welcome
        return m.Welcome(
            protocol_version=welcome.protocol_version,
            applied=_position_from_proto(welcome.applied),
            durable=_position_from_proto(welcome.durable),
            max_record_bytes=welcome.max_record_bytes,
            results=tuple(_same_fields(result, m.EvaluationResult) for result in welcome.results),
        )
    if kind == "ack":
        ack = proto.ack
        return m.Ack(
            received_bytes=ack.received_bytes,
            applied=_position_from_proto(ack.applied),
            durable=_position_from_proto(ack.durable),
            first_loss=ack.first_loss,
            losses=tuple(ack.losses),
            results=tuple(_same_fields(result, m.EvaluationResult) for result in ack.results),
            counters=_same_fields(ack.counters, m.Counters),
        )
    raise WireError("a reply must be one of welcome or ack, got neither")


def status_to_proto(status: m.Status) -> pb.StatusReply:
    """Return the protobuf form of a session's status."""
    return pb.StatusReply(
        applied=_position_to_proto(status.applied),
        durable=_position_to_proto(status.durable),
        total_batches=status.total_batches,
        finished=status.finished,
        counters=pb.Counters(**asdict(status.counters)),
        results=[_result_to_proto(result) for result in status.results],
    )


# ------------------------------------------------------------------ records


def record_to_bytes(record: m.Record) -> bytes:
    """Serialise one record."""
    if isinstance(record, m.Batch):
        batch = pb.Batch(
            seq=record.seq, activations=_activations_to_proto(record.activations), labels=record.labels
        )
        return pb.Record(batch=batch).SerializeToString()
    if isinstance(record, m.EvaluationPart):
        part = pb.EvaluationPart(
            batches=record.batches,
            part=record.part,
            num_parts=record.num_parts,
            activations=_activations_to_proto(record.activations),
            labels=record.labels,
        )
        return pb.Record(evaluation=part).SerializeToString()
    if isinstance(record, m.Skip):
        return pb.Record(skip=pb.Skip(seq=record.seq)).SerializeToString()
    return pb.Record(end=pb.End(total_batches=record.total_batches)).SerializeToString()


def record_from_bytes(data: bytes, run: m.Run) -> m.Record:
    """Parse one record and check it against the handshake.

    Raises:
        WireError: it does not parse, or its numbers, shape, width or labels are not those of `run`.
    """
    try:
        proto = pb.Record.FromString(data)
    except DecodeError as error:
        raise WireError(f"a record of {len(data)} bytes does not parse: {error}") from error
    kind = proto.WhichOneof("kind")
    if kind == "batch":
        check(proto.batch.seq < run.total_batches, f"the run has no batch {proto.batch.seq}")
        activations, labels = _images_from_proto(proto.batch, run)
        check(len(labels) >= 2, "a batch holds 2 images or more: batch norm cannot train on one")
        return m.Batch(proto.batch.seq, activations, labels)
    if kind == "evaluation":
        part = proto.evaluation
        check(part.part < part.num_parts, f"part {part.part} of {part.num_parts} parts does not exist")
        check(
            1 <= part.batches <= run.total_batches and part.batches % run.batches_per_epoch == 0,
            f"evaluations follow an epoch's last batch, got one after {part.batches} batches "
            f"of {run.batches_per_epoch} an epoch, {run.total_batches} in all",
        )
        return m.EvaluationPart(part.batches, part.part, part.num_parts, *_images_from_proto(part, run))
    if kind == "skip":
        check(proto.skip.seq < run.total_batches, f"the run has no batch {proto.skip.seq}")
        return m.Skip(proto.skip.seq)
    if kind == "end":
        total = proto.end.total_batches
        check(total == run.total_batches, f"the run has {run.total_batches} batches, End says {total}")
        return m.End(total)
    raise WireError("a record must be one of batch, evaluation, skip or end, got none of them")


def _images_from_proto(proto: pb.Batch | pb.EvaluationPart, run: m.Run) -> tuple[Packed, tuple[int, ...]]:
    """Return activations and labels of one batch, checked against `run`."""
    packed = _activations_from_proto(proto.activations, run)
    # Counted before they become Python's: a record full of them would take many times its size.
    if len(proto.labels) != packed.shape[0]:
        raise WireError(f"{packed.shape[0]} images need as many labels, got {len(proto.labels)}")
    labels = tuple(proto.labels)
    if max(labels) >= run.num_classes:
        raise WireError(f"labels must be below {run.num_classes}, got {max(labels)}")
    return packed, labels


def _activations_to_proto(packed: Packed) -> pb.Activations:
    return pb.Activations(
        codec=pb.CODEC_FLOAT32 if packed.bits == 32 else pb.CODEC_AFFINE,
        bits=packed.bits,
        shape=packed.shape,
        low=packed.low,
        scale=packed.scale,
        compression=pb.COMPRESSION_ZSTD,
        data=packed.data,
    )


def _activations_from_proto(proto: pb.Activations, run: m.Run) -> Packed:
    codecs = {2: pb.CODEC_AFFINE, 4: pb.CODEC_AFFINE, 8: pb.CODEC_AFFINE, 32: pb.CODEC_FLOAT32}
    check(len(proto.shape) == 4, f"activations must have shape [N, C, H, W], got {len(proto.shape)} numbers")
    shape = tuple(proto.shape)
    if shape[1:] != run.activation_shape or not 1 <= shape[0] <= run.batch_size:
        raise WireError(
            f"activations must have shape [1..{run.batch_size}, "
            f"{', '.join(map(str, run.activation_shape))}], got {list(shape)}"
        )
    if proto.bits not in codecs or proto.bits > run.bits:
        raise WireError(f"activations may take at most {run.bits} bits in this session, got {proto.bits}")
    if proto.codec != codecs[proto.bits]:
        raise WireError(f"codec {proto.codec} does not go with {proto.bits} bits")
    if proto.compression != pb.COMPRESSION_ZSTD:
        raise WireError(f"compression must be zstd ({pb.COMPRESSION_ZSTD}), got {proto.compression}")
    ranges = 0 if proto.bits == 32 else shape[1]
    if len(proto.low) != ranges or len(proto.scale) != ranges:
        raise WireError(f"{ranges} ranges expected, got {len(proto.low)} low and {len(proto.scale)} scale")
    return Packed(
        bits=proto.bits,
        shape=(shape[0], shape[1], shape[2], shape[3]),
        low=np.array(proto.low, dtype=np.float32),
        scale=np.array(proto.scale, dtype=np.float32),
        data=proto.data,
    )


# ------------------------------------------------------------------ small parts


def _shallow(message: Any) -> dict[str, Any]:
    return {f.name: getattr(message, f.name) for f in fields(message)}


def _same_fields(proto: Message, kind: type[T]) -> T:
    """Read a message whose fields are scalars with the dataclass's names."""
    return kind(**{f.name: getattr(proto, f.name) for f in fields(kind)})  # type: ignore[arg-type]


def _position_to_proto(position: m.Position) -> pb.Position:
    return pb.Position(batches=position.batches, parts=position.parts)


def _position_from_proto(proto: pb.Position) -> m.Position:
    return m.Position(proto.batches, proto.parts)


def _result_to_proto(result: m.EvaluationResult) -> pb.EvaluationResult:
    return pb.EvaluationResult(**asdict(result))
