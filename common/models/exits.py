"""Early exits: the small heads by which a front learns without hearing from the back."""

from collections import OrderedDict
from collections.abc import Callable, Sequence

from torch import nn

from common.errors import ModelError
from common.models.initial import construct


def light(activation_shape: Sequence[int], num_classes: int) -> nn.Module:
    """Average over the pixels, then one linear layer; reads its input and leaves it as it is."""
    return nn.Sequential(
        OrderedDict(
            pool=nn.AdaptiveAvgPool2d(1),
            flatten=nn.Flatten(),
            linear=nn.Linear(activation_shape[0], num_classes),
        )
    )


EXITS: dict[str, Callable[[Sequence[int], int], nn.Module]] = {"light": light}


def find_exit(kind: str) -> Callable[[Sequence[int], int], nn.Module]:
    """Return what makes the exit of that kind; raises ModelError with those there are."""
    if kind not in EXITS:
        raise ModelError(f"--exit must be {' or '.join(EXITS)}, got {kind!r}")
    return EXITS[kind]


def build_exit(kind: str, activation_shape: Sequence[int], num_classes: int, seed: int) -> nn.Module:
    """Return an exit on the CPU; the same seed gives the same bits on every machine.

    Args:
        kind: a key of `EXITS`.
        activation_shape: of one image at the split point, C, H, W.
        num_classes: of the data set.
        seed: of the run.

    Raises:
        ModelError: the kind is unknown.
    """
    make = find_exit(kind)
    return construct(lambda: make(activation_shape, num_classes), seed, "exit")
