"""The pair in one process, without a wire: the same front, codec and back, called one after the other.

It is what the daemons must equal bit for bit, and the shortest way to try a codec or a split point.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from cloud_worker.back import Back
from common.codec import Packed, encode
from common.data.loader import Loader, evaluation_batches
from common.strategies import find_strategy
from edge_worker.config import TrainConfig
from edge_worker.front import Front
from edge_worker.run import Work


@dataclass(frozen=True, slots=True)
class PairResult:
    """What both halves came to.

    Attributes:
        front, back: their weights under the whole network's names.
        edge_losses, cloud_losses: of each batch.
        edge_accuracy, cloud_accuracy: over the test set at the end, in 0..1.
    """

    front: dict[str, Tensor]
    back: dict[str, Tensor]
    edge_losses: list[float]
    cloud_losses: list[float]
    edge_accuracy: float
    cloud_accuracy: float


def train_pair(config: TrainConfig, on_the_way: Callable[[int, Packed], Packed] | None = None) -> PairResult:
    """Train as the daemons would; `on_the_way` may change what travels, given its `seq`."""
    work = Work(config, find_strategy("hierarchical"))
    back = Back(work.agreed_run(), torch.device("cpu"))
    edge_losses, cloud_losses = [], []
    loader = Loader(work.dataset.train, config.batch_size, config.seed, config.workers)
    for batch in loader.batches(0, work.plan.total_batches):
        activations, loss = work.front.step(batch)
        edge_losses.append(loss)
        packed = encode(activations, config.bits)
        if on_the_way is not None:
            packed = on_the_way(batch.seq, packed)
        cloud_losses.append(back.train(batch.seq, back.decode(packed), tuple(batch.labels.tolist())))
    edge_accuracy, cloud_accuracy = _evaluate(work, work.front, back, config)
    return PairResult(
        work.front.weights(), back.state_dict(), edge_losses, cloud_losses, edge_accuracy, cloud_accuracy
    )


def _evaluate(work: Work, front: Front, back: Back, config: TrainConfig) -> tuple[float, float]:
    exit_correct = whole_correct = 0
    for part in evaluation_batches(work.dataset.test, config.batch_size):
        activations, correct = front.evaluate(part)
        exit_correct += correct
        whole_correct += back.evaluate(
            back.decode(encode(activations, config.bits)), tuple(part.labels.tolist())
        )[0]
    return exit_correct / len(work.dataset.test), whole_correct / len(work.dataset.test)
