"""The pair in one process, without a wire: the same front, codec and back, called one after the other.

It is what the daemons must equal bit for bit, and the shortest way to try a codec or a split point.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from cloud_worker.back import Back
from common.codec import Packed, decode, encode
from common.data.loader import Loader, evaluation_batches
from common.strategies import find_strategy
from common.wire.messages import Batch
from edge_worker.config import TrainConfig
from edge_worker.front import Front
from edge_worker.run import Work


@dataclass(frozen=True, slots=True)
class PairResult:
    """What both halves came to.

    Attributes:
        front, back: their weights under the whole network's names.
        edge_losses, cloud_losses: of each batch; the edge has none without an exit.
        edge_accuracy, cloud_accuracy: over the test set at the end, in 0..1; None without an exit.
    """

    front: dict[str, Tensor]
    back: dict[str, Tensor]
    edge_losses: list[float]
    cloud_losses: list[float]
    edge_accuracy: float | None
    cloud_accuracy: float


def train_pair(config: TrainConfig, on_the_way: Callable[[Batch], Batch] | None = None) -> PairResult:
    """Train as the daemons would; `on_the_way` may change what travels."""
    work = Work(config, find_strategy(config.strategy))
    back = Back(work.agreed_run(), torch.device("cpu"))
    edge_losses, cloud_losses = [], []
    loader = Loader(work.dataset.train, config.batch_size, config.seed, config.workers)
    for batch in loader.batches(0, work.plan.total_batches):
        activations, loss = work.front.step(batch)
        if loss is not None:
            edge_losses.append(loss)
        sent = Batch(batch.seq, encode(activations, config.bits), tuple(batch.labels.tolist()))
        if on_the_way is not None:
            sent = on_the_way(sent)
        assert isinstance(sent.content, Packed)
        x_NCHW = back.decode(sent.content).requires_grad_(work.strategy.gradient)
        cloud_losses.append(back.train(sent.seq, x_NCHW, sent.labels))
        if x_NCHW.grad is not None:
            work.front.learn(decode(encode(x_NCHW.grad, config.gradient_bits), torch.device("cpu")))
    edge_accuracy, cloud_accuracy = _evaluate(work, work.front, back, config)
    return PairResult(
        work.front.weights(), back.state_dict(), edge_losses, cloud_losses, edge_accuracy, cloud_accuracy
    )


def _evaluate(work: Work, front: Front, back: Back, config: TrainConfig) -> tuple[float | None, float]:
    exit_correct: int | None = 0 if front.classifies else None
    whole_correct = 0
    for part in evaluation_batches(work.dataset.test, config.batch_size):
        activations, correct = front.evaluate(part)
        if exit_correct is not None and correct is not None:
            exit_correct += correct
        whole_correct += back.evaluate(
            back.decode(encode(activations, config.bits)), tuple(part.labels.tolist())
        )[0]
    total = len(work.dataset.test)
    return None if exit_correct is None else exit_correct / total, whole_correct / total
