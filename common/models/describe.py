"""What each split point costs: bytes on the wire, parameters and FLOPs on both sides. Needs no weights."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import fx, nn

from common.models.catalogue import ModelSpec
from common.models.exits import find_exit
from common.models.graph import FlopCounter, Survey, survey
from common.models.split import Parting, part, split_points


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitInfo:
    """One split point of one network.

    FLOPs are those of one image forward; a multiply-add counts as 2, and only convolutions and matrix
    products count. Training costs about three times as much.

    Attributes:
        split: the friendly name.
        activation_shape: of one image, C, H, W.
        bytes_per_image: bits of one activation -> bytes of one image, packed and not yet compressed.
        front_parameters, exit_parameters, back_parameters: numbers that each part learns.
        front_flops, exit_flops, back_flops: of each part.
    """

    split: str
    activation_shape: tuple[int, int, int]
    bytes_per_image: dict[int, int]
    front_parameters: int
    exit_parameters: int
    back_parameters: int
    front_flops: int
    exit_flops: int
    back_flops: int


def describe(
    spec: ModelSpec, exit_kind: str = "light", bits: Sequence[int] = (8, 4, 2, 32)
) -> list[SplitInfo]:
    """Return one entry per split point of `spec`, from input to output.

    Raises:
        ModelError: the kind of exit is unknown.
    """
    find_exit(exit_kind)
    return [_describe(spec, name, part(spec, name), exit_kind, bits) for name in split_points(spec)]


def _describe(spec: ModelSpec, name: str, parting: Parting, exit_kind: str, bits: Sequence[int]) -> SplitInfo:
    seen = survey(spec)
    size = math.prod(parting.activation_shape)
    exit_parameters, exit_flops = _exit_cost(spec, exit_kind, parting.activation_shape)
    return SplitInfo(
        split=name,
        activation_shape=parting.activation_shape,
        bytes_per_image={width: -(-size * width // 8) for width in bits},
        front_parameters=_parameters(seen, parting.front),
        exit_parameters=exit_parameters,
        back_parameters=_parameters(seen, parting.back),
        front_flops=sum(seen.flops[node] for node in parting.front),
        exit_flops=exit_flops,
        back_flops=sum(seen.flops[node] for node in parting.back),
    )


def _exit_cost(spec: ModelSpec, kind: str, shape: tuple[int, int, int]) -> tuple[int, int]:
    with torch.device("meta"):
        head = find_exit(kind)(shape, spec.num_classes).eval()
        image = torch.empty(1, *shape)
    counter = FlopCounter()
    with torch.no_grad(), counter:
        head(image)
    return _count(head), counter.total


def _parameters(seen: Survey, nodes: Iterable[fx.Node]) -> int:
    targets = {str(node.target) for node in nodes if node.op == "call_module"}
    return sum(_count(seen.skeleton.get_submodule(target)) for target in targets)


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
