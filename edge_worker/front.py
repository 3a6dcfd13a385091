"""The front of one network and its early exit: one training step, and evaluation. Knows no wire.

Shape letters: N batch, C channels, H height, W width, K classes.
"""

import torch
from torch import Tensor
from torch.nn import functional

from common.data.loader import Batch, normalise
from common.errors import WireError
from common.training import Trainee
from edge_worker.network import EdgeNetwork


class Front:
    """The layers before the split point, trained on the exit's own loss (arXiv:2303.02384).

    Args:
        network: what to train.
        trainee: its modules with their optimiser; None where nothing lies before the cut.
        mean, std: of the training pixels in [0, 1], one for each colour.
    """

    def __init__(
        self, network: EdgeNetwork, trainee: Trainee | None, mean: tuple[float, ...], std: tuple[float, ...]
    ) -> None:
        self._trainee = trainee
        # What came of the last step, where its gradient is yet to come.
        self._open_activations: Tensor | None = None
        self._network = network
        self._mean = mean
        self._std = std

    def step(self, batch: Batch) -> tuple[Tensor, float | None]:
        """Take one step; return the activations from before it, and the mean cross entropy.

        The activations are detached, and nothing changes them afterwards. Where nothing lies before the cut,
        they are the images. Where nothing classifies them here, there is no loss, and no step before `learn`.
        """
        if self._trainee is None:
            return batch.images, None
        self._trainee.begin_step(batch.seq)
        activations, logits_NK, labels_N = self._forward(batch, self._trainee)
        if logits_NK is None:
            self._open_activations = activations
            return activations.detach(), None
        loss = functional.cross_entropy(logits_NK, labels_N)
        self._trainee.learn(loss)
        return activations.detach(), loss.item()

    def learn(self, gradient_NCHW: Tensor) -> None:
        """Finish the step with the gradient of the loss by the activations that it returned.

        Raises:
            WireError: it has another shape.
        """
        activations, self._open_activations = self._open_activations, None
        assert self._trainee is not None
        assert activations is not None  # a step has just been begun
        if gradient_NCHW.shape != activations.shape:
            got, wanted = list(gradient_NCHW.shape), list(activations.shape)
            raise WireError(f"a gradient came of shape {got}, for activations of {wanted}")
        gradient = gradient_NCHW.to(device=activations.device, dtype=activations.dtype)
        self._trainee.learn(activations, gradient)
        if activations.is_cuda:  # as reading a loss does: a step that is over has taken its time
            torch.cuda.current_stream(activations.device).synchronize()

    def evaluate(self, batch: Batch) -> tuple[Tensor, int | None]:
        """Return the activations, and how many images are classified rightly here, if any can be."""
        if self._trainee is None:
            return batch.images, None
        self._trainee.modules.eval()
        with torch.no_grad():
            activations, logits_NK, labels_N = self._forward(batch, self._trainee)
        if logits_NK is None:
            return activations, None
        return activations, int((logits_NK.argmax(dim=1) == labels_N).sum())

    @property
    def classifies(self) -> bool:
        """Whether images are classified here, by an exit or the whole network."""
        return self._network.exit is not None or self._network.activation_shape is None

    @property
    def trains(self) -> bool:
        """Whether there is anything to train here."""
        return self._trainee is not None

    def state(self) -> dict[str, Tensor]:
        """Return all that the next step depends on."""
        return {} if self._trainee is None else self._trainee.state()

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """Restore what `state` returned; raises CheckpointError where it is of another network."""
        if self._trainee is not None:
            self._trainee.load_state(tensors)

    def weights(self) -> dict[str, Tensor]:
        """Return the front's weights under the whole network's own names, the exit's under `exit.`."""
        weights = {} if self._network.front is None else dict(self._network.front.state_dict())
        if self._network.exit is not None:
            weights.update({f"exit.{k}": v for k, v in self._network.exit.state_dict().items()})
        return weights

    def _forward(self, batch: Batch, trainee: Trainee) -> tuple[Tensor, Tensor | None, Tensor]:
        assert self._network.front is not None  # there is no trainee without it
        device = trainee.device
        images_NCHW = normalise(batch.images, self._mean, self._std, device)
        with trainee.autocast():
            activations = self._network.front(images_NCHW.to(memory_format=torch.channels_last))
            logits_NK = activations if self._network.exit is None else self._network.exit(activations)
        return activations, logits_NK.float() if self.classifies else None, batch.labels.to(device)
