"""Messages <-> protobuf; with `records`, the only place that reads or writes a protobuf field.

Reading believes nothing: what comes in is checked against the protocol before it is used.
"""

from dataclasses import asdict, fields
from typing import Any, TypeVar

from google.protobuf.message import Message

from common.errors import SessionError, WireError
from common.wire import messages as m
from common.wire.checks import check_hello, check_profile
from common.wire.generated import training_pb2 as pb

T = TypeVar("T")


# ------------------------------------------------------------------ requests (edge -> cloud)


def request_to_proto(request: m.Request) -> pb.TrainRequest:
    """Return the protobuf form of one message of the edge."""
    if isinstance(request, m.Chunk):
        proto = pb.TrainRequest()
        _set_chunk(proto.chunk, request)
        return proto
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
        return _chunk_from_proto(proto.chunk)
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
    values["mean"], values["std"] = tuple(proto.run.mean), tuple(proto.run.std)
    hello = m.Hello(
        protocol_version=proto.protocol_version,
        session_id=proto.session_id,
        generation=proto.generation,
        run=m.Run(**values),
        losses_from=proto.losses_from,
        kept_from=_position_from_proto(proto.kept_from),
        gradients_from=proto.gradients_from,
    )
    check_hello(hello)
    return hello


# ------------------------------------------------------------------ replies (cloud -> edge)


def reply_to_proto(reply: m.Reply) -> pb.TrainReply:
    """Return the protobuf form of one message of the cloud."""
    if isinstance(reply, m.Chunk):
        proto = pb.TrainReply()
        _set_chunk(proto.gradient, reply)
        return proto
    values = _shallow(reply)
    values["applied"] = _position_to_proto(reply.applied)
    values["durable"] = _position_to_proto(reply.durable)
    values["results"] = [_result_to_proto(result) for result in reply.results]
    if isinstance(reply, m.Welcome):
        return pb.TrainReply(welcome=pb.Welcome(**values))
    values["counters"] = pb.Counters(**asdict(reply.counters))
    return pb.TrainReply(ack=pb.Ack(**values))


def reply_from_proto(proto: pb.TrainReply) -> m.Reply:
    """Return what the cloud said; raises WireError where no kind is set, or a chunk is none."""
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
    if kind == "gradient":
        return _chunk_from_proto(proto.gradient)
    raise WireError("a reply must be one of welcome, ack or gradient, got none of them")


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


def profile_to_proto(profile: m.BackProfile) -> pb.ProfileReply:
    """Return the protobuf form of what a cloud measured."""
    return pb.ProfileReply(**asdict(profile))


def profile_from_proto(proto: pb.ProfileReply) -> m.BackProfile:
    """Return what a cloud measured.

    Raises:
        WireError: a time is not above 0, or no number.
    """
    profile = _same_fields(proto, m.BackProfile)
    check_profile(profile)
    return profile


# ------------------------------------------------------------------ small parts


def _set_chunk(proto: pb.Chunk, chunk: m.Chunk) -> None:
    """Fill a message in place: one that is handed to another one's constructor is copied."""
    proto.record_bytes, proto.offset, proto.data = chunk.record_bytes, chunk.offset, chunk.data


def _chunk_from_proto(chunk: pb.Chunk) -> m.Chunk:
    if not 1 <= len(chunk.data) <= m.MAX_CHUNK_BYTES:
        raise WireError(f"a chunk holds 1 to {m.MAX_CHUNK_BYTES} bytes, got {len(chunk.data)}")
    if chunk.offset + len(chunk.data) > chunk.record_bytes:
        raise WireError(
            f"a chunk at offset {chunk.offset} with {len(chunk.data)} bytes "
            f"does not fit into a record of {chunk.record_bytes} bytes"
        )
    return m.Chunk(chunk.record_bytes, chunk.offset, chunk.data)


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
