"""Activations of trained fronts for the benchmarks of the codec: real ones, whose codes are far from even."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from common.data.loader import Loader
from common.strategies import find_strategy
from edge_worker.config import TrainConfig
from edge_worker.run import Work

BATCH = 128


@dataclass(frozen=True, slots=True)
class Network:
    """A network and where it is cut."""

    model: str
    split: str
    stem: str = "imagenet"

    def case(self, data: Path, quick: bool) -> dict[str, str]:
        """Return the settings as a figure names them."""
        stem = {"stem": self.stem} if self.model.startswith("resnet") else {}
        return {
            "model": self.model,
            "split": self.split,
            **stem,
            "dataset": dataset_in(data),
            "batch": str(BATCH),
            "trained": " epochs of ".join(map(str, training(quick))) + " images",
        }


NETWORKS = (
    Network("vgg16", "pool2"),
    Network("vgg16", "pool3"),
    Network("resnet18", "layer2"),
    Network("resnet18", "layer2", stem="cifar"),
)


def dataset_in(data: Path) -> str:
    """Return `cifar10` where that is, else `synthetic`."""
    return "cifar10" if (data / "cifar-10-batches-py").exists() else "synthetic"


def config_of(network: Network, data: Path, train_limit: int, epochs: int) -> TrainConfig:
    """Return the settings of a run that trains `network` on what data there is."""
    return TrainConfig(
        model=network.model,
        split=network.split,
        stem=network.stem,
        train_limit=train_limit,
        test_limit=BATCH,
        epochs=epochs,
        batch_size=BATCH,
        threads=1,
        precision="float32",
        device="cpu",
        dataset=dataset_in(data),
        data_dir=data,
    )


def training(quick: bool) -> tuple[int, int]:
    """Return for how many epochs a front is trained, and on how many images."""
    return (1, BATCH) if quick else (3, 20 * BATCH)


def trained_activations(network: Network, data: Path, quick: bool) -> Tensor:
    """Train front and exit for some epochs; return what the next batch sends, float32 [N, C, H, W]."""
    epochs, images = training(quick)
    config = config_of(network, data, images, epochs)
    work = Work(config, find_strategy("hierarchical"))
    batches = Loader(work.dataset.train, BATCH, seed=0, num_workers=1).batches(0, work.plan.total_batches + 1)
    activations = torch.empty(0)
    for batch in batches:
        activations, _ = work.front.step(batch)
    return activations
