"""Records of runs that send images: they survive the wire, and carry only what such a run agreed on."""

import dataclasses

import numpy as np
import pytest

from common.codec import encode_images
from common.errors import WireError
from common.wire import convert
from common.wire import messages as m
from common.wire.generated import training_pb2 as pb
from common.wire.records import record_from_bytes, record_to_bytes
from tests.unit.records import IMAGE_RUN, IMAGE_SHAPE, PACKED, RUN

ONCE = dataclasses.replace(IMAGE_RUN, kept_images=20)
IMAGES = np.random.default_rng(0).integers(0, 256, (RUN.batch_size, *IMAGE_SHAPE), np.uint8)
CODED = encode_images(IMAGES, "png")
TWO = encode_images(IMAGES[:2], "webp")
LABELS = (0, 1, 2, 3)


@pytest.mark.parametrize(
    ("run", "record"),
    [
        (IMAGE_RUN, m.Batch(2, CODED, LABELS)),
        (IMAGE_RUN, m.Batch(2, encode_images(IMAGES, "zstd"), LABELS)),
        (IMAGE_RUN, m.EvaluationPart(RUN.batches_per_epoch, 0, 1, TWO, (0, 1))),
        (ONCE, m.EvaluationPart(RUN.batches_per_epoch, 0, 1, TWO, (0, 1))),
        (ONCE, m.Batch(2, m.Reference((19, 0, 7, 3), CODED), LABELS)),
        (ONCE, m.Batch(2, m.Reference((19, 0, 7, 3), TWO), LABELS)),
        (ONCE, m.Batch(2, m.Reference((19, 0)), (0, 1))),
    ],
)
def test_records_survive_the_wire(run, record):
    assert record_from_bytes(record_to_bytes(record), run) == record


def test_what_a_run_says_of_images_survives_the_wire():
    hello = m.Hello(session_id="x", generation=1, run=ONCE, losses_from=0)

    assert convert.request_from_proto(convert.request_to_proto(hello)) == hello


def batch(content, labels=LABELS):
    return record_to_bytes(m.Batch(0, content, labels))


@pytest.mark.parametrize(
    ("run", "data", "complaint"),
    [
        (RUN, batch(CODED), "has activations as its content, got images"),
        (RUN, batch(m.Reference((0, 1, 2, 3))), "has activations as its content, got reference"),
        (IMAGE_RUN, batch(PACKED), "has images as its content, got activations"),
        (IMAGE_RUN, batch(m.Reference((0, 1, 2, 3))), "has images as its content, got reference"),
        (ONCE, batch(CODED), "has reference as its content, got images"),
        (
            IMAGE_RUN,
            pb.Record(batch=pb.Batch(seq=0, labels=LABELS)).SerializeToString(),
            "has images as its content, got none",
        ),
        (
            IMAGE_RUN,
            batch(encode_images(IMAGES[:, :, :4], "png")),
            r"images must have shape \[1\.\.4, 3, 8, 8\]",
        ),
        (IMAGE_RUN, batch(CODED, (0, 1)), "4 images need as many labels, got 2"),
        (ONCE, batch(m.Reference((0, 1, 2, 20))), "numbered below 20, got 20"),
        (ONCE, batch(m.Reference((0, 1, 2, 1))), "no image twice"),
        (ONCE, batch(m.Reference((0,)), (0,)), "a batch has 2 to 4 images, got 1"),
        (ONCE, batch(m.Reference((0, 1, 2, 3, 4)), (0,) * 5), "a batch has 2 to 4 images, got 5"),
        (ONCE, batch(m.Reference((0, 1)), LABELS), "2 images need as many labels, got 4"),
        (ONCE, batch(m.Reference((0, 1), CODED), (0, 1)), "4 fresh images came in a batch of 2"),
        (ONCE, record_to_bytes(m.Skip(0)), "cannot be skipped"),
    ],
)
def test_content_that_the_run_did_not_agree_on_is_refused(run, data, complaint):
    with pytest.raises(WireError, match=complaint):
        record_from_bytes(data, run)


@pytest.mark.parametrize("coding", [0, 4, 77])
def test_an_unknown_coding_of_images_is_refused(coding):
    proto = pb.Record.FromString(batch(CODED))
    proto.batch.images.coding = coding

    with pytest.raises(WireError, match=rf"one of png \(1\), webp \(2\), zstd \(3\), got {coding}"):
        record_from_bytes(proto.SerializeToString(), IMAGE_RUN)


@pytest.mark.parametrize(
    ("run", "change", "complaint"),
    [
        (RUN, {"mean": (0.5, 0.5, 0.5)}, "must be empty where no images go up, as in hierarchical"),
        (RUN, {"kept_images": 9}, "must be empty where no images go up"),
        (IMAGE_RUN, {"split": "layer2"}, "cut at 'input' with activations of shape .* got 'layer2'"),
        (IMAGE_RUN, {"bits": 4}, "in 8 bits, got 'input', .* in 4"),
        (IMAGE_RUN, {"activation_shape": (3, 8, 9)}, r"got 'input', \[3, 8, 9\]"),
        (IMAGE_RUN, {"input_shape": (1, 8, 8), "activation_shape": (1, 8, 8)}, "images have 3 colours"),
        (IMAGE_RUN, {"mean": ()}, r"mean must be 3 numbers .* got \[\]"),
        (IMAGE_RUN, {"mean": (0.5, float("nan"), 0.5)}, "mean must be 3 numbers"),
        (IMAGE_RUN, {"std": (0.5, 0.0, 0.5)}, "std must be 3 numbers"),
        (ONCE, {"kept_images": 1}, "kept_images must be 0, or 2"),
        (ONCE, {"kept_images": 1 << 23}, "kept_images must be 0, or 2"),
    ],
)
def test_a_run_that_cannot_be_is_refused(run, change, complaint):
    hello = m.Hello(session_id="x", generation=1, run=dataclasses.replace(run, **change), losses_from=0)

    with pytest.raises(WireError, match=complaint):
        convert.request_from_proto(convert.request_to_proto(hello))
