"""What the tests of both sides put on the wire: a small run, its Hello, and records."""

import dataclasses

import torch

from common.codec import encode
from common.wire.messages import Batch, EvaluationPart, Hello, Position, Run

SESSION = "00000000-0000-4000-8000-000000000000"
RUN = Run(
    strategy="hierarchical",
    model="resnet18",
    stem="imagenet",
    classifier="small",
    split="layer4",
    input_shape=(3, 32, 32),
    num_classes=10,
    activation_shape=(2, 1, 1),
    structure_digest="ab",
    weights_digest="cd",
    bits=8,
    batch_size=4,
    total_batches=6,
    seed=0,
    precision="float32",
    lr=0.1,
    momentum=0.9,
    weight_decay=0.0,
    warmup=0,
    batches_per_epoch=3,
)
# Images go up, in each epoch.
IMAGE_SHAPE = (3, 8, 8)
IMAGE_RUN = dataclasses.replace(
    RUN,
    strategy="full-cloud",
    split="input",
    input_shape=IMAGE_SHAPE,
    activation_shape=IMAGE_SHAPE,
    bits=8,
    mean=(0.5, 0.4, 0.3),
    std=(0.25, 0.2, 0.1),
)
START = Position(0)
PACKED = encode(torch.zeros(4, *RUN.activation_shape), RUN.bits)


def hello(generation=1, losses_from=0, run=RUN, session_id=SESSION, kept_from=START, **changes):
    """Return the Hello of a run that differs from RUN in `changes`."""
    run = dataclasses.replace(run, **changes)
    return Hello(
        session_id=session_id, generation=generation, run=run, losses_from=losses_from, kept_from=kept_from
    )


def batch(seq, labels=(0, 1, 2, 3)):
    return Batch(seq, PACKED, labels)


def batches(*seqs):
    return [batch(seq) for seq in seqs]


def part(number, batches=3, num_parts=2, labels=(1, 1, 0, 1)):
    return EvaluationPart(batches, number, num_parts, PACKED, labels)
