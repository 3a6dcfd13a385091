"""The networks on offer: torchvision's own, with the names by which people call the places to cut them.

What a name means is here; whether the cut is legal is for the graph to say (`split`).
"""

import difflib
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torchvision
from torch import nn

from common.errors import ModelError
from common.models.initial import construct

MODELS: dict[str, Callable[..., nn.Module]] = {
    "resnet18": torchvision.models.resnet18,
    "resnet34": torchvision.models.resnet34,
    "resnet50": torchvision.models.resnet50,
    "vgg11": torchvision.models.vgg11,
    "vgg11_bn": torchvision.models.vgg11_bn,
    "vgg13": torchvision.models.vgg13,
    "vgg13_bn": torchvision.models.vgg13_bn,
    "vgg16": torchvision.models.vgg16,
    "vgg16_bn": torchvision.models.vgg16_bn,
    "vgg19": torchvision.models.vgg19,
    "vgg19_bn": torchvision.models.vgg19_bn,
}
STEMS = ("imagenet", "cifar")
CLASSIFIERS = ("small", "imagenet")
# Five poolings halve the image; a smaller one has nothing left for the last.
_VGG_MIN_SIDE = 32


def model_names() -> tuple[str, ...]:
    """Return the names that `--model` takes."""
    return tuple(MODELS)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """Everything that decides a network's structure.

    Attributes:
        name: a key of `MODELS`.
        num_classes: outputs of the last layer.
        input_shape: C, H, W of one image.
        stem: ResNet only. `imagenet` is torchvision's own (7x7, stride 2, max pooling); `cifar` keeps the
            resolution (3x3, stride 1, no pooling). A VGG has no stem and takes only the default.
        classifier: VGG only. `small` pools to one pixel and has 512 wide layers; `imagenet` is torchvision's
            own (7x7 pixels, 4096 wide). A ResNet has one linear layer and takes only the default.

    Raises:
        ModelError: a value is unknown, or does not go with the others.
    """

    name: str
    num_classes: int
    input_shape: tuple[int, int, int]
    stem: str = "imagenet"
    classifier: str = "small"

    def __post_init__(self) -> None:
        if self.name not in MODELS:
            close = difflib.get_close_matches(self.name, MODELS, n=3) or list(MODELS)
            raise ModelError(
                f"no model is called {self.name!r}; did you mean {' or '.join(close)}? "
                "`edge-worker models` lists all"
            )
        self._check_option("stem", self.stem, STEMS)
        self._check_option("classifier", self.classifier, CLASSIFIERS)
        if self.is_vgg and self.stem != STEMS[0]:
            raise ModelError(
                f"{self.name} has no stem to choose, got {self.stem!r}; leave it at {STEMS[0]!r}"
            )
        if not self.is_vgg and self.classifier != CLASSIFIERS[0]:
            raise ModelError(
                f"{self.name} has one linear layer and no classifier to choose, got {self.classifier!r}; "
                f"leave it at {CLASSIFIERS[0]!r}"
            )
        self._check_sizes()

    @property
    def is_vgg(self) -> bool:
        """Whether the network is a VGG; the others are ResNets."""
        return self.name.startswith("vgg")

    def _check_option(self, what: str, value: str, allowed: tuple[str, ...]) -> None:
        if value not in allowed:
            raise ModelError(f"the {what} of {self.name} must be {' or '.join(allowed)}, got {value!r}")

    def _check_sizes(self) -> None:
        if self.num_classes < 2:
            raise ModelError(f"{self.name} needs at least 2 classes to tell apart, got {self.num_classes}")
        smallest = _VGG_MIN_SIDE if self.is_vgg else 1
        shape = tuple(self.input_shape)
        if len(shape) != 3 or shape[0] != 3 or min(shape[1:]) < smallest:
            raise ModelError(
                f"{self.name} takes images of 3 x H x W with H and W at least {smallest}, got "
                f"{' x '.join(map(str, shape))}; resize them or repeat their channel"
            )


def build(spec: ModelSpec, seed: int) -> nn.Module:
    """Return the network on the CPU; the same seed gives the same bits on every machine.

    The distributions are torchvision's, except in VGG's `small` classifier: its fresh layers keep torch's
    default for `nn.Linear`, since N(0, 0.01) makes the signal of 512 wide layers fade.
    """
    return construct(lambda: _make(spec), seed, "init")


def skeleton(spec: ModelSpec) -> nn.Module:
    """Return the network on the meta device: names and shapes, no memory, no values."""
    with torch.device("meta"):
        return _make(spec)


def _make(spec: ModelSpec) -> nn.Module:
    model = MODELS[spec.name](weights=None, num_classes=spec.num_classes)
    if spec.is_vgg and spec.classifier == "small":
        model.avgpool = nn.AdaptiveAvgPool2d(1)
        layers = model.classifier
        if not isinstance(layers, nn.Sequential):
            raise TypeError(f"torchvision's {spec.name} has no classifier of layers in sequence")
        for index, width in ((0, 512), (3, 512), (6, spec.num_classes)):
            layers[index] = nn.Linear(512, width)
    if spec.stem == "cifar":
        model.conv1 = nn.Conv2d(3, 64, kernel_size=3, padding=1, bias=False)
        nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
        model.maxpool = nn.Identity()
    return model


def loading_lines(spec: ModelSpec, filename: str) -> tuple[str, ...]:
    """Return at most five lines of plain Python that load `filename` into `model`, ready to predict.

    They need torch, torchvision and safetensors, and nothing of ours.
    """
    lines = [
        "import safetensors.torch, torch, torchvision",
        f"model = torchvision.models.{spec.name}(num_classes={spec.num_classes}).eval()",
    ]
    if spec.is_vgg and spec.classifier == "small":
        widths = f"{{0: 512, 3: 512, 6: {spec.num_classes}}}"
        lines.append("model.avgpool = torch.nn.AdaptiveAvgPool2d(1)")
        lines.append(f"for i, n in {widths}.items(): model.classifier[i] = torch.nn.Linear(512, n)")
    if spec.stem == "cifar":
        lines.append("model.conv1 = torch.nn.Conv2d(3, 64, kernel_size=3, padding=1, bias=False)")
        lines.append("model.maxpool = torch.nn.Identity()")
    lines.append(f"model.load_state_dict(safetensors.torch.load_file({filename!r}))")
    return tuple(lines)


def friendly_names(spec: ModelSpec, model: nn.Module) -> dict[str, str]:
    """Return the names people use for the places to cut, each with the module whose output is meant.

    ResNets: `stem`, each block (`layer2.0`) and each layer (`layer2`, the output of its last block).
    VGGs: `conv3_1` is the first convolution of block 3 with its batch norm and ReLU, `pool3` the pooling that
    ends the block.
    """
    return _vgg_names(model.get_submodule("features")) if spec.is_vgg else _resnet_names(spec, model)


def _resnet_names(spec: ModelSpec, model: nn.Module) -> dict[str, str]:
    names = {"stem": "relu" if spec.stem == "cifar" else "maxpool"}
    for layer in ("layer1", "layer2", "layer3", "layer4"):
        blocks = [f"{layer}.{name}" for name, _ in model.get_submodule(layer).named_children()]
        names |= {block: block for block in blocks[:-1]} | {layer: layer}
    return names


def _vgg_names(features: nn.Module) -> dict[str, str]:
    names = {}
    block, conv = 1, 0
    for index, module in features.named_children():
        if isinstance(module, nn.ReLU):
            conv += 1
            names[f"conv{block}_{conv}"] = f"features.{index}"
        elif isinstance(module, nn.MaxPool2d):
            names[f"pool{block}"] = f"features.{index}"
            block, conv = block + 1, 0
    return names
