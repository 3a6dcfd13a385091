"""Records <-> bytes, checked against the run that the handshake agreed on before a tensor is made of them."""

from collections.abc import Sequence

import numpy as np
from google.protobuf.message import DecodeError

from common.codec import CodedImages, Packed, packed_bytes
from common.errors import WireError
from common.strategies import find_strategy
from common.wire import messages as m
from common.wire.checks import check
from common.wire.generated import training_pb2 as pb

_CODINGS = {
    "png": pb.IMAGE_CODING_PNG,
    "webp": pb.IMAGE_CODING_WEBP,
    "zstd": pb.IMAGE_CODING_ZSTD,
}
_CODING_NAMES = {number: name for name, number in _CODINGS.items()}
_CODECS = {2: pb.CODEC_AFFINE, 4: pb.CODEC_AFFINE, 8: pb.CODEC_AFFINE, 32: pb.CODEC_FLOAT32}


# ------------------------------------------------------------------ records -> bytes


def record_to_bytes(record: m.Record) -> bytes:
    """Serialise one record."""
    # Filled in place: a message that is handed to another one's constructor is copied.
    proto = pb.Record()
    if isinstance(record, m.Batch):
        proto.batch.seq = record.seq
        proto.batch.labels.extend(record.labels)
        _set_content(proto.batch, record.content)
    elif isinstance(record, m.EvaluationPart):
        part = proto.evaluation
        part.batches, part.part, part.num_parts = record.batches, record.part, record.num_parts
        part.labels.extend(record.labels)
        _set_content(part, record.content)
    elif isinstance(record, m.Skip):
        proto.skip.seq = record.seq
        proto.skip.SetInParent()
    else:
        proto.end.total_batches = record.total_batches
        proto.end.SetInParent()
    return proto.SerializeToString()


def _set_content(proto: pb.Batch | pb.EvaluationPart, content: Packed | CodedImages | m.Reference) -> None:
    if isinstance(content, Packed):
        _set_activations(proto.activations, content)
    elif isinstance(content, CodedImages):
        _set_images(proto.images, content)
    else:
        assert isinstance(proto, pb.Batch)  # an evaluation refers to nothing
        proto.reference.images.extend(content.images)
        if content.fresh is not None:
            _set_images(proto.reference.fresh, content.fresh)


def _set_activations(proto: pb.Activations, packed: Packed) -> None:
    proto.codec, proto.bits = _CODECS[packed.bits], packed.bits
    proto.shape.extend(packed.shape)
    proto.low.extend(packed.low)
    proto.scale.extend(packed.scale)
    proto.compression, proto.data = pb.COMPRESSION_ZSTD, packed.data


def _set_images(proto: pb.Images, coded: CodedImages) -> None:
    proto.coding, proto.data = _CODINGS[coded.coding], coded.data
    proto.shape.extend(coded.shape)


def gradient_to_bytes(gradient: m.Gradient) -> bytes:
    """Serialise what comes back for one batch."""
    proto = pb.Gradient(seq=gradient.seq)
    _set_activations(proto.gradient, gradient.content)
    return proto.SerializeToString()


def max_content_bytes(run: m.Run, bits: int) -> int:
    """Return what a batch of this run takes at most, serialised, at so many bits: raw, and some room."""
    raw = packed_bytes((run.batch_size, *run.activation_shape), bits)
    return raw + raw // 64 + 16 * run.activation_shape[0] + 16 * run.batch_size + 4096


# ------------------------------------------------------------------ bytes -> records


def gradient_from_bytes(data: bytes, run: m.Run) -> m.Gradient:
    """Parse what comes back for one batch; raises WireError where it is no gradient of this run."""
    try:
        proto = pb.Gradient.FromString(data)
    except DecodeError as error:
        raise WireError(f"a gradient of {len(data)} bytes does not parse: {error}") from error
    check(proto.seq < run.total_batches, f"the run has no batch {proto.seq}")
    return m.Gradient(proto.seq, _activations_from_proto(proto.gradient, run, run.gradient_bits))


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
        return _batch_from_proto(proto.batch, run)
    if kind == "evaluation":
        return _evaluation_from_proto(proto.evaluation, run)
    if kind == "skip":
        check(proto.skip.seq < run.total_batches, f"the run has no batch {proto.skip.seq}")
        check(
            not run.kept_images and not run.gradient_bits,
            "a batch whose images are to be kept, or whose gradient comes back, cannot be skipped",
        )
        return m.Skip(proto.skip.seq)
    if kind == "end":
        total = proto.end.total_batches
        check(total == run.total_batches, f"the run has {run.total_batches} batches, End says {total}")
        return m.End(total)
    raise WireError("a record must be one of batch, evaluation, skip or end, got none of them")


def _batch_from_proto(proto: pb.Batch, run: m.Run) -> m.Batch:
    check(proto.seq < run.total_batches, f"the run has no batch {proto.seq}")
    content: Packed | CodedImages | m.Reference
    if run.kept_images:
        _check_content(proto, "reference")
        content = _reference_from_proto(proto.reference, run)
        labels = _labels_from_proto(proto, len(content.images), run)
    else:
        content = _images_of(proto, run)
        labels = _labels_from_proto(proto, content.shape[0], run)
    check(len(labels) >= 2, "a batch holds 2 images or more: batch norm cannot train on one")
    return m.Batch(proto.seq, content, labels)


def _evaluation_from_proto(proto: pb.EvaluationPart, run: m.Run) -> m.EvaluationPart:
    check(proto.part < proto.num_parts, f"part {proto.part} of {proto.num_parts} parts does not exist")
    check(
        1 <= proto.batches <= run.total_batches and proto.batches % run.batches_per_epoch == 0,
        f"evaluations follow an epoch's last batch, got one after {proto.batches} batches "
        f"of {run.batches_per_epoch} an epoch, {run.total_batches} in all",
    )
    content = _images_of(proto, run)
    labels = _labels_from_proto(proto, content.shape[0], run)
    return m.EvaluationPart(proto.batches, proto.part, proto.num_parts, content, labels)


def _images_of(proto: pb.Batch | pb.EvaluationPart, run: m.Run) -> Packed | CodedImages:
    """Return what one batch of images is at the run's cut."""
    if find_strategy(run.strategy).sends_images:
        _check_content(proto, "images")
        return _images_from_proto(proto.images, run)
    _check_content(proto, "activations")
    return _activations_from_proto(proto.activations, run, run.bits)


def _check_content(proto: pb.Batch | pb.EvaluationPart, wanted: str) -> None:
    got = proto.WhichOneof("content")
    if got != wanted:
        raise WireError(f"a batch of this run has {wanted} as its content, got {got or 'none'}")


def _labels_from_proto(proto: pb.Batch | pb.EvaluationPart, num_images: int, run: m.Run) -> tuple[int, ...]:
    # Counted before they become Python's: a record full of them would take many times its size.
    if len(proto.labels) != num_images:
        raise WireError(f"{num_images} images need as many labels, got {len(proto.labels)}")
    labels = tuple(proto.labels)
    if max(labels) >= run.num_classes:
        raise WireError(f"labels must be below {run.num_classes}, got {max(labels)}")
    return labels


def _activations_from_proto(proto: pb.Activations, run: m.Run, most_bits: int) -> Packed:
    shape = _checked_shape("activations", proto.shape, run)
    if proto.bits not in _CODECS or proto.bits > most_bits:
        raise WireError(f"activations may take at most {most_bits} bits in this session, got {proto.bits}")
    if proto.codec != _CODECS[proto.bits]:
        raise WireError(f"codec {proto.codec} does not go with {proto.bits} bits")
    if proto.compression != pb.COMPRESSION_ZSTD:
        raise WireError(f"compression must be zstd ({pb.COMPRESSION_ZSTD}), got {proto.compression}")
    ranges = 0 if proto.bits == 32 else shape[1]
    if len(proto.low) != ranges or len(proto.scale) != ranges:
        raise WireError(f"{ranges} ranges expected, got {len(proto.low)} low and {len(proto.scale)} scale")
    return Packed(
        bits=proto.bits,
        shape=shape,
        low=np.array(proto.low, dtype=np.float32),
        scale=np.array(proto.scale, dtype=np.float32),
        data=proto.data,
    )


def _images_from_proto(proto: pb.Images, run: m.Run) -> CodedImages:
    shape = _checked_shape("images", proto.shape, run)
    if proto.coding not in _CODING_NAMES:
        known = ", ".join(f"{name} ({number})" for name, number in _CODINGS.items())
        raise WireError(f"images are coded as one of {known}, got {proto.coding}")
    return CodedImages(_CODING_NAMES[proto.coding], shape, proto.data)


def _reference_from_proto(proto: pb.Reference, run: m.Run) -> m.Reference:
    # Counted before they become Python's, as labels are.
    count = len(proto.images)
    check(2 <= count <= run.batch_size, f"a batch has 2 to {run.batch_size} images, got {count}")
    images = tuple(proto.images)
    check(max(images) < run.kept_images, f"images are numbered below {run.kept_images}, got {max(images)}")
    check(len(set(images)) == count, "a batch has no image twice")
    if not proto.HasField("fresh"):
        return m.Reference(images)
    fresh = _images_from_proto(proto.fresh, run)
    check(fresh.shape[0] <= count, f"{fresh.shape[0]} fresh images came in a batch of {count}")
    return m.Reference(images, fresh)


def _checked_shape(what: str, numbers: Sequence[int], run: m.Run) -> tuple[int, int, int, int]:
    check(len(numbers) == 4, f"{what} must have shape [N, C, H, W], got {len(numbers)} numbers")
    n, c, h, w = numbers
    if (c, h, w) != run.activation_shape or not 1 <= n <= run.batch_size:
        raise WireError(
            f"{what} must have shape [1..{run.batch_size}, "
            f"{', '.join(map(str, run.activation_shape))}], got {[n, c, h, w]}"
        )
    return n, c, h, w
