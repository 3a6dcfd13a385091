"""The edge's share of the network, as a strategy cuts it."""

from dataclasses import dataclass

from torch import nn

from common.memory import release_what_is_left
from common.models.catalogue import ModelSpec, build
from common.models.exits import build_exit
from common.models.split import cut, structure_digest, weights_digest
from common.strategies import Strategy


@dataclass(frozen=True, slots=True, kw_only=True)
class EdgeNetwork:
    """What the edge trains, and what identifies the whole.

    Attributes:
        front: images [N, C, H, W] -> activations, or logits where the cut is behind the output; None where
            it is before the first layer.
        exit: activations -> logits [N, num_classes]; None where the strategy has none.
        activation_shape: [C, H, W] of what goes up for one image; None where nothing does, and the front ends
            in logits.
        structure_digest: of the whole network.
        weights_digest: of its initial weights.
    """

    front: nn.Module | None
    exit: nn.Module | None
    activation_shape: tuple[int, ...] | None
    structure_digest: str
    weights_digest: str


def build_network(spec: ModelSpec, strategy: Strategy, split: str, exit_kind: str, seed: int) -> EdgeNetwork:
    """Build the network from its seed and keep the edge's share.

    Raises:
        ModelError: the model, the split point or the exit is unknown.
    """
    network = _build(spec, strategy, split, exit_kind, seed)
    release_what_is_left()  # the other layers, which hold each other in cycles
    return network


def _build(spec: ModelSpec, strategy: Strategy, split: str, exit_kind: str, seed: int) -> EdgeNetwork:
    model = build(spec, seed)
    digests = {"structure_digest": structure_digest(model), "weights_digest": weights_digest(model)}
    if strategy.cut == "output":
        return EdgeNetwork(front=model, exit=None, activation_shape=None, **digests)
    if strategy.sends_images:
        return EdgeNetwork(front=None, exit=None, activation_shape=spec.input_shape, **digests)
    halves = cut(model, spec, split)
    exit_head = (
        build_exit(exit_kind, halves.activation_shape, spec.num_classes, seed) if strategy.exit else None
    )
    return EdgeNetwork(
        front=halves.front, exit=exit_head, activation_shape=halves.activation_shape, **digests
    )
