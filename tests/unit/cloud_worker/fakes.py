"""What the tests of the cloud share: stand-ins for network and stream, and sessions around them."""

import dataclasses
from pathlib import Path

import torch

from cloud_worker.ahead import Ahead, Ready
from cloud_worker.applier import Applier
from cloud_worker.back import Back
from cloud_worker.session import Session
from cloud_worker.store import SessionFiles
from cloud_worker.turns import Turns
from common.codec import decode, encode
from common.models.catalogue import ModelSpec
from common.strategies import find_strategy
from common.wire.messages import Batch, Position, Run
from edge_worker.network import build_network
from tests.unit.records import RUN, SESSION, hello

# Gradients come back, as they are.
SPLIT = dataclasses.replace(RUN, strategy="split-learning", gradient_bits=32)


class CountingBack:
    """Stands in for a network: remembers which batches it learnt; its weights are their sum and number."""

    def __init__(self, *_):
        self.learnt = []
        self.trainee = self

    def decode(self, activations):
        """It looks at labels only."""
        return activations

    def train(self, seq, activations, labels):
        """Learn; the loss is the number of the batch."""
        self.learnt.append((seq, labels))
        return float(seq)

    def evaluate(self, activations, labels):
        """Images labelled 1 are right; each has a cross entropy of 0.5."""
        return labels.count(1), 0.5 * len(labels)

    def state(self):
        """What a checkpoint holds."""
        return {"weight": torch.tensor([float(sum(seq for seq, _ in self.learnt)), float(len(self.learnt))])}

    def load_state(self, tensors):
        """The batches themselves are forgotten, their sum and number are restored."""
        self.restored = tensors["weight"].tolist()

    def state_dict(self):
        """What is exported."""
        return {"back.weight": torch.zeros(1)}


class SlopedBack(CountingBack):
    """A network whose loss has the slope `seq + 1` by each of its inputs; label 9 has it diverge."""

    def decode(self, content):
        """Decode, as every real back does."""
        return decode(content, torch.device("cpu"))

    def train(self, seq, x_NCHW, labels):
        """Learn; the slope is all that counts."""
        (x_NCHW.sum() * (float("nan") if 9 in labels else seq + 1)).backward()
        return super().train(seq, x_NCHW, labels)


class FakeStream:
    """Remembers why it was ended."""

    error = None

    def end(self, error):
        """As the session's protocol wants it."""
        self.error = error


def open_session(run_dir: Path, back=None, clock=lambda: 0.0, run=RUN, ahead=None):
    """Open the session on the files in `run_dir`, as often as wanted: as a cloud does after a restart."""
    files = SessionFiles(run_dir, SESSION)
    if not files.exists():
        files.create(run, "", 0)
    applier = Applier(files, run, back or CountingBack(), Turns(), ahead or Ahead(), clock)
    return Session(files, run, applier, clock, checkpoint_every_s=60.0)


def attached(session, generation=1):
    """Return a new stream that serves `session`."""
    stream = FakeStream()
    session.attach(hello(generation, run=session.run), stream)
    return stream


def apply(session, stream, *records):
    for record in records:
        session.apply(Ready(record), stream)


def position(session):
    """Return what is applied and what of it is durable."""
    status = session.status()
    return status.applied, status.durable


def durable(session) -> Position:
    """Return what the edge may forget: the older of two checkpoints has it."""
    return session.status().durable


def on_disk(run_dir: Path) -> Position:
    """Return where a cloud that starts now would stand."""
    return open_session(run_dir).status().applied


# -------------------------------------------------------------------- with a real network


def real_run(model: str, split: str) -> Run:
    """Return a run of 6 batches that a real `Back` agrees to."""
    spec = ModelSpec(name=model, num_classes=RUN.num_classes, input_shape=(3, 32, 32))
    network = build_network(spec, find_strategy("hierarchical"), split, "light", RUN.seed)
    return dataclasses.replace(
        RUN,
        model=model,
        split=split,
        activation_shape=network.activation_shape,
        structure_digest=network.structure_digest,
        weights_digest=network.weights_digest,
    )


def real_back(run: Run) -> Back:
    return Back(run, torch.device("cpu"))


def real_batch(run: Run, seq: int) -> Batch:
    """Return a batch of 4 whose content is a function of `seq`."""
    rng = torch.Generator().manual_seed(seq)
    x_NCHW = torch.rand(4, *run.activation_shape, generator=rng)
    labels = torch.randint(run.num_classes, (4,), generator=rng)
    return Batch(seq, encode(x_NCHW, run.bits), tuple(labels.tolist()))
