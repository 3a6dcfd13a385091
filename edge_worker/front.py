"""The front of one network and its early exit: one training step, and evaluation. Knows no wire.

Shape letters: N batch, C channels, H height, W width, K classes.
"""

import torch
from torch import Tensor
from torch.nn import functional

from common.data.loader import Batch, normalise
from common.training import Trainee
from edge_worker.network import EdgeNetwork


class Front:
    """The layers before the split point, trained on the exit's own loss (arXiv:2303.02384).

    Args:
        network: what to train.
        trainee: its modules with their optimiser.
        mean, std: of the training pixels in [0, 1], one for each colour.
    """

    def __init__(
        self, network: EdgeNetwork, trainee: Trainee, mean: tuple[float, ...], std: tuple[float, ...]
    ) -> None:
        self.trainee = trainee
        self._network = network
        self._mean = mean
        self._std = std

    def step(self, batch: Batch) -> tuple[Tensor, float]:
        """Take one step; return the activations from before it, and the mean cross entropy.

        The activations are detached, and nothing changes them afterwards.
        """
        self.trainee.begin_step(batch.seq)
        activations, logits_NK, labels_N = self._forward(batch)
        loss = functional.cross_entropy(logits_NK, labels_N)
        self.trainee.learn(loss)
        return activations.detach(), loss.item()

    def evaluate(self, batch: Batch) -> tuple[Tensor, int]:
        """Return the activations, and how many images the exit classifies rightly."""
        self.trainee.modules.eval()
        with torch.no_grad():
            activations, logits_NK, labels_N = self._forward(batch)
        return activations, int((logits_NK.argmax(dim=1) == labels_N).sum())

    def weights(self) -> dict[str, Tensor]:
        """Return the front's weights under the whole network's own names, the exit's under `exit.`."""
        weights = dict(self._network.front.state_dict())
        if self._network.exit is not None:
            weights.update({f"exit.{k}": v for k, v in self._network.exit.state_dict().items()})
        return weights

    def _forward(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        device = self.trainee.device
        images_NCHW = normalise(batch.images, self._mean, self._std, device)
        with self.trainee.autocast():
            activations = self._network.front(images_NCHW.to(memory_format=torch.channels_last))
            logits_NK = activations if self._network.exit is None else self._network.exit(activations)
        return activations, logits_NK.float(), batch.labels.to(device)
