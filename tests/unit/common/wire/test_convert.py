"""Messages survive the wire; what the protocol does not allow is refused by name."""

import dataclasses

import pytest
import torch

from common.codec import encode
from common.errors import SessionError, WireError
from common.wire import convert
from common.wire import messages as m
from common.wire.generated import training_pb2 as pb
from common.wire.records import record_from_bytes, record_to_bytes

RUN = m.Run(
    strategy="hierarchical",
    model="resnet18",
    stem="imagenet",
    classifier="small",
    split="layer2",
    input_shape=(3, 32, 32),
    num_classes=10,
    activation_shape=(4, 5, 5),
    structure_digest="ab",
    weights_digest="cd",
    bits=8,
    batch_size=6,
    total_batches=7,
    seed=3,
    precision="auto",
    lr=0.1,
    momentum=0.9,
    weight_decay=5e-4,
    warmup=2,
    batches_per_epoch=7,
)
RESULT = m.EvaluationResult(batches=7, correct=3, total=9, loss=1.25)


def batch(seq=0, images=6, bits=8, labels=None):
    x = torch.randn(images, 4, 5, 5, generator=torch.Generator().manual_seed(seq))
    return m.Batch(seq, encode(x, bits), tuple(range(images)) if labels is None else labels)


def same(a, b):
    return repr(a) == repr(b)  # NumPy arrays have no single truth value


@pytest.mark.parametrize(
    "request_",
    [
        m.Hello(session_id="x", generation=4, run=RUN, losses_from=2),
        m.Hello(
            session_id="x",
            generation=4,
            run=dataclasses.replace(RUN, strategy="split-learning", gradient_bits=8),
            losses_from=2,
            gradients_from=3,
        ),
        m.Chunk(10, 3, b"abc"),
        m.Note(losses_from=9, save=True),
    ],
)
def test_request_survives_the_wire(request_):
    assert convert.request_from_proto(convert.request_to_proto(request_)) == request_


@pytest.mark.parametrize(
    "reply",
    [
        m.Welcome(applied=m.Position(3, 1), durable=m.Position(2), max_record_bytes=9, results=(RESULT,)),
        m.Ack(
            received_bytes=5,
            applied=m.Position(4),
            durable=m.Position(1, 2),
            first_loss=3,
            losses=(0.5, 2.0),
            results=(RESULT,),
            counters=m.Counters(busy_s=1.5, batches_applied=4, resumes=1),
        ),
        m.Chunk(10, 3, b"abc"),
    ],
)
def test_reply_survives_the_wire(reply):
    assert convert.reply_from_proto(convert.reply_to_proto(reply)) == reply


@pytest.mark.parametrize("record", [batch(2), batch(1, bits=4), m.Skip(3), m.End(7)])
def test_record_survives_the_wire(record):
    assert same(record_from_bytes(record_to_bytes(record), RUN), record)


def test_evaluation_part_survives_the_wire():
    one = batch()
    part = m.EvaluationPart(7, 1, 2, one.content, one.labels)

    assert same(record_from_bytes(record_to_bytes(part), RUN), part)


def changed(**activations):
    """Return a serialised batch whose activations say something else."""
    proto = pb.Record.FromString(record_to_bytes(batch()))
    for name, value in activations.items():
        field = getattr(proto.batch.activations, name)
        if isinstance(value, list):
            del field[:]
            field.extend(value)
        else:
            setattr(proto.batch.activations, name, value)
    return proto.SerializeToString()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\xff\xff\xff", "does not parse"),
        (b"", "one of batch, evaluation, skip or end"),
        (record_to_bytes(m.Skip(7)), "the run has no batch 7"),
        (record_to_bytes(m.End(8)), "has 7 batches, End says 8"),
        (record_to_bytes(batch(7)), "the run has no batch 7"),
        (record_to_bytes(batch(labels=(0, 1))), "6 images need as many labels, got 2"),
        (record_to_bytes(batch(labels=(0, 1, 2, 3, 4, 10))), "labels must be below 10, got 10"),
        (record_to_bytes(batch(images=7)), r"shape \[1\.\.6, 4, 5, 5\], got \[7, 4, 5, 5\]"),
        (changed(shape=[6, 4, 5, 6]), r"got \[6, 4, 5, 6\]"),
        (changed(shape=[6, 4, 25]), r"shape \[N, C, H, W\], got 3 numbers"),
        (changed(shape=[1] * 100_000), r"got 100000 numbers"),
        (changed(shape=[0, 4, 5, 5]), r"got \[0, 4, 5, 5\]"),
        (changed(bits=32), "at most 8 bits"),
        (changed(bits=3), "at most 8 bits in this session, got 3"),
        (changed(codec=0), "codec 0 does not go with 8 bits"),
        (changed(codec=77), "codec 77 does not go with 8 bits"),
        (changed(compression=0), "compression must be zstd"),
        (changed(low=[1.0]), "4 ranges expected, got 1 low and 4 scale"),
    ],
)
def test_record_that_does_not_fit_the_run_is_refused(data, message):
    with pytest.raises(WireError, match=message):
        record_from_bytes(data, RUN)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bits": 5}, "bits must be one of"),
        ({"num_classes": 1}, "num_classes must be 2 to"),
        ({"batch_size": 1}, "batch_size must be 2 to"),
        ({"total_batches": 0}, "total_batches must be 1 to"),
        (
            {"total_batches": 2**64 - 1},
            "total_batches must be 1 to 9007199254740992, got 18446744073709551615",
        ),
        ({"total_batches": 1 << 17, "batches_per_epoch": 1}, "may have 65536 epochs, got 131072"),
        ({"batches_per_epoch": 0}, "batches_per_epoch must be 1 to"),
        ({"warmup": 1 << 63}, "warmup must be 0 to"),
        ({"lr": 0.0}, "lr must be above 0"),
        ({"lr": 1e300}, "lr must be above 0 and at most 1e\\+06, got 1e\\+300"),
        ({"momentum": float("nan")}, r"momentum must be in \[0, 1\), got nan"),
        ({"weight_decay": float("inf")}, "weight_decay must be 0 to"),
        (
            {"strategy": "full-edge"},
            "strategy must be hierarchical or split-learning or full-cloud, got 'full-edge'",
        ),
        ({"precision": "float64"}, "precision must be auto or float32 or bfloat16, got 'float64'"),
        ({"model": ""}, "model must be 1 to 64 letters"),
        ({"model": "m" * (1 << 20)}, r"model must be .*, got 'm{64}\.\.\.'$"),
        ({"split": "\x1b[2J\nlayer2"}, r"split must be .*, got '\\x1b\[2J\\nlayer2'$"),
        ({"stem": "\u202eegnar"}, r"stem must be .*, got '\\u202eegnar'$"),
        ({"weights_digest": "AB"}, "weights_digest must be lower-case hex, got 'AB'"),
        ({"lr": float("nan")}, "lr must be above 0"),
        ({"momentum": 1.0}, r"momentum must be in \[0, 1\)"),
        ({"weight_decay": -1.0}, "weight_decay must be 0 to"),
        ({"activation_shape": (4, 5)}, "activation_shape must be"),
        ({"activation_shape": (1 << 12, 1 << 12, 2)}, "activation_shape must be"),
        ({"input_shape": (3, 0, 5)}, "input_shape must be"),
        ({"input_shape": (3,) * 100_000}, "input_shape must be .*, got 100000 numbers"),
    ],
)
def test_hello_with_settings_that_cannot_be_is_refused(change, message):
    hello = m.Hello(session_id="x", generation=1, run=dataclasses.replace(RUN, **change), losses_from=0)

    with pytest.raises(WireError, match=message):
        convert.request_from_proto(convert.request_to_proto(hello))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"generation": 0}, "generation must be 1 to"),
        ({"generation": 2**64 - 1}, "generation must be 1 to"),
        ({"losses_from": 8}, "losses_from must be at most the run's 7 batches, got 8"),
        ({"kept_from": m.Position(8, 1)}, r"kept_from must be at most \(8, 0\), .*, got \(8, 1\)"),
    ],
)
def test_hello_that_counts_beyond_its_bounds_is_refused(change, message):
    hello = m.Hello(**{"session_id": "x", "generation": 1, "run": RUN, "losses_from": 0, **change})

    with pytest.raises(WireError, match=message):
        convert.request_from_proto(convert.request_to_proto(hello))


def test_another_version_is_refused_before_anything_that_it_may_mean_otherwise():
    with pytest.raises(SessionError, match="the edge speaks protocol 4, this cloud 3"):
        convert.request_from_proto(pb.TrainRequest(hello=pb.Hello(protocol_version=4)))


@pytest.mark.parametrize("batches", [0, 3, 8])
def test_evaluation_elsewhere_than_at_an_epochs_end_is_refused(batches):
    """So a session has no more results than epochs, whatever its edge sends."""
    one = batch()
    part = m.EvaluationPart(batches, 0, 1, one.content, one.labels)

    with pytest.raises(WireError, match=f"one after {batches} batches of 7 an epoch, 7 in all"):
        record_from_bytes(record_to_bytes(part), RUN)


@pytest.mark.parametrize(
    ("chunk", "message"),
    [
        (pb.Chunk(record_bytes=5, offset=0, data=b""), "1 to 1048576 bytes, got 0"),
        (pb.Chunk(record_bytes=5, offset=3, data=b"abc"), "does not fit into a record of 5 bytes"),
        (pb.Chunk(record_bytes=1 << 22, offset=0, data=bytes((1 << 20) + 1)), "got 1048577"),
    ],
)
def test_chunk_out_of_bounds_is_refused(chunk, message):
    with pytest.raises(WireError, match=message):
        convert.request_from_proto(pb.TrainRequest(chunk=chunk))


def test_empty_messages_are_refused():
    with pytest.raises(WireError, match="one of hello, chunk or note"):
        convert.request_from_proto(pb.TrainRequest())
    with pytest.raises(WireError, match="one of welcome, ack or gradient"):
        convert.reply_from_proto(pb.TrainReply())


def test_every_codec_and_compression_has_a_meaning():
    """A value added to the .proto file must be handled, or this fails."""
    assert set(pb.Codec.keys()) == {"CODEC_UNSPECIFIED", "CODEC_AFFINE", "CODEC_FLOAT32"}
    assert set(pb.Compression.keys()) == {"COMPRESSION_UNSPECIFIED", "COMPRESSION_NONE", "COMPRESSION_ZSTD"}
