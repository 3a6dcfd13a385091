"""The back of one network: decode, train one step, evaluate. Knows no session and no wire."""

import math
from collections.abc import Callable
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from cloud_worker.limits import FLOAT_BYTES
from common.codec import CodedImages, Packed, decode, decode_images
from common.data.loader import normalise
from common.errors import CapacityError, SessionError
from common.models.catalogue import ModelSpec, build, skeleton
from common.models.graph import survey
from common.models.split import cut, part, state_bytes, structure_digest, weights_digest
from common.strategies import find_strategy
from common.training import Optimisation, Trainee, resolve_precision
from common.units import format_size
from common.wire.messages import Run

# The largest network on offer has 144 million. Weights and momenta take eight bytes each.
MAX_PARAMETERS = 200_000_000


class Back:
    """The layers behind the split point, or all where images come; their optimiser and their loss.

    Raises:
        ModelError: the model or the split point is unknown.
        CapacityError: the network, or what a step of it takes, is larger than this cloud allows.
        SessionError: this side builds another network, or other initial weights, than the edge did.
    """

    def __init__(self, run: Run, device: torch.device, max_step: int | None = None) -> None:
        spec = spec_of(run)
        _check_structure(run, spec)
        _check_step(run, spec, max_step)
        model = build(spec, run.seed)
        # Before it is cut: torch keeps the source of every module that is made by cutting, for ever.
        _check_same("digest of the initial weights", run.weights_digest, weights_digest(model))
        back = model if takes_images(run) else cut(model, spec, run.split).back
        optimisation = Optimisation(
            lr=run.lr,
            momentum=run.momentum,
            weight_decay=run.weight_decay,
            warmup=run.warmup,
            total_batches=run.total_batches,
        )
        precision = resolve_precision(run.precision, device)
        self.trainee = Trainee({"back": back}, optimisation, precision, device, run.seed, "cloud")
        self._back = back
        self._mean, self._std = run.mean, run.std

    def decode(self, content: Packed | CodedImages) -> Tensor:
        """Return activations or normalised images [N, C, H, W] on the device; a step may be taken meanwhile.

        Raises:
            CodecError: they do not decode.
        """
        if isinstance(content, Packed):
            return self._upload(lambda device: decode(content, device))
        return self.normalise(decode_images(content))

    def normalise(self, images_NCHW: NDArray[np.uint8]) -> Tensor:
        """Return images as the network takes them, [N, C, H, W] on the device."""
        pixels = torch.from_numpy(images_NCHW)
        return self._upload(lambda device: normalise(pixels, self._mean, self._std, device))

    def _upload(self, make: Callable[[torch.device], Tensor]) -> Tensor:
        device = self.trainee.device
        if device.type != "cuda":
            return make(device).to(memory_format=torch.channels_last)
        # Beside the kernels of the step under way, not behind them. The memory may go back to this stream as
        # soon as nobody holds it: a step that used it on the other one is over when `train` returns.
        uploads = _uploads(device)
        with torch.cuda.stream(uploads):
            x_NCHW = make(device).to(memory_format=torch.channels_last)
        uploads.synchronize()
        return x_NCHW

    def train(self, seq: int, x_NCHW: Tensor, labels: tuple[int, ...]) -> float:
        """Take the one step that batch `seq` stands for; return its mean cross entropy before the step."""
        labels_N = torch.tensor(labels, device=self.trainee.device)
        self.trainee.begin_step(seq)
        with self.trainee.autocast():
            logits_NK = self._back(x_NCHW)
        loss = functional.cross_entropy(logits_NK.float(), labels_N)
        self.trainee.learn(loss)
        return loss.item()

    def evaluate(self, x_NCHW: Tensor, labels: tuple[int, ...]) -> tuple[int, float]:
        """Return how many images are classified rightly, and the sum of their cross entropies."""
        labels_N = torch.tensor(labels, device=self.trainee.device)
        self.trainee.modules.eval()
        with torch.no_grad(), self.trainee.autocast():
            logits_NK = self._back(x_NCHW).float()
        loss = functional.cross_entropy(logits_NK, labels_N, reduction="sum")
        return int((logits_NK.argmax(dim=1) == labels_N).sum()), loss.item()

    def state_dict(self) -> dict[str, Tensor]:
        """Return the back's weights under the whole network's own names."""
        return dict(self._back.state_dict())


def network_bytes(run: Run) -> int:
    """Return what a run's back takes with its momenta; its gradients are there only during its step.

    Raises:
        ModelError: the model or the split point is unknown.
    """
    return 2 * state_bytes(spec_of(run), None if takes_images(run) else run.split)


def spec_of(run: Run) -> ModelSpec:
    """Return the network of a run; raises ModelError where there is none such."""
    return ModelSpec(
        name=run.model,
        num_classes=run.num_classes,
        input_shape=(run.input_shape[0], run.input_shape[1], run.input_shape[2]),
        stem=run.stem,
        classifier=run.classifier,
    )


def takes_images(run: Run) -> bool:
    """Whether the back is the whole network."""
    return find_strategy(run.strategy).sends_images


@cache
def _uploads(device: torch.device) -> torch.cuda.Stream:
    """Return the one stream for all that is decoded: what one has in its cache, no other can use."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


def _check_structure(run: Run, spec: ModelSpec) -> None:
    """Refuse what can be refused before the network's weights take time and memory."""
    if not takes_images(run):
        _check_same("activation shape", run.activation_shape, part(spec, run.split).activation_shape)
    bare = skeleton(spec)
    parameters = sum(parameter.numel() for parameter in bare.parameters())
    if parameters > MAX_PARAMETERS:
        raise CapacityError(
            f"{run.model} with {run.num_classes} classes has {parameters} parameters, "
            f"this cloud takes networks of at most {MAX_PARAMETERS}"
        )
    _check_same("structure digest", run.structure_digest, structure_digest(bare))


def _check_step(run: Run, spec: ModelSpec, max_step: int | None) -> None:
    """Refuse a step that would take all memory: few bytes on the wire may become many behind a layer."""
    seen = survey(spec)
    nodes = seen.nodes if takes_images(run) else part(spec, run.split).back
    values = sum(math.prod(seen.shapes[node]) for node in nodes if node in seen.shapes)
    step = run.batch_size * values * FLOAT_BYTES
    if max_step is not None and step > max_step:
        raise CapacityError(
            f"the layers' outputs of a step of {run.batch_size} images take {format_size(step)}, this cloud "
            f"allows {format_size(max_step)} (its --max-step); use a smaller --batch-size"
        )


def _check_same(what: str, edge: object, cloud: object) -> None:
    if edge != cloud:
        raise SessionError(
            f"the edge has {what} {edge}, the cloud {cloud}: "
            "install the same headwater and torchvision on both"
        )
