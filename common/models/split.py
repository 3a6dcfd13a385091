"""One way to cut every network: at a node of its graph where exactly one tensor is live.

The front is that node and all it depends on, the back is the rest. Both are graphs over the model's own
modules, under the model's own names: `front.state_dict() | back.state_dict()` is `model.state_dict()`.
"""

import difflib
import hashlib
import operator
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import fx, nn

from common.errors import ModelError
from common.models.catalogue import ModelSpec, friendly_names
from common.models.graph import Survey, survey, trace

# What decides a layer's result beside its tensors; `extra_repr` differs between releases of torch.
_SETTINGS = ("kernel_size", "stride", "padding", "dilation", "groups", "output_size", "eps", "momentum", "p")


@dataclass(frozen=True, slots=True, eq=False)
class Halves:
    """A network in two parts that share its modules.

    Attributes:
        front: images -> activations.
        back: activations -> logits.
        activation_shape: of one image's activations, C, H, W.
    """

    front: fx.GraphModule
    back: fx.GraphModule
    activation_shape: tuple[int, int, int]


@dataclass(frozen=True, slots=True, eq=False)
class Parting:
    """The nodes on both sides of a legal cut.

    Attributes:
        node: its output are the activations.
        front, back: in the order of execution; `node` is the last of the front.
        activation_shape: of one image, C, H, W.
    """

    node: fx.Node
    front: tuple[fx.Node, ...]
    back: tuple[fx.Node, ...]
    activation_shape: tuple[int, int, int]


def split_points(spec: ModelSpec) -> tuple[str, ...]:
    """Return the friendly names of the places where the network can be cut, from input to output."""
    return tuple(name for _, name in sorted(_friendly(spec)))


def cut(model: nn.Module, spec: ModelSpec, split_point: str) -> Halves:
    """Cut `model`, which `build` made from `spec`, after `split_point`.

    Args:
        model: is not changed; the halves share its modules, so that training them trains it.
        spec: says what was built.
        split_point: one of `split_points(spec)`, or any module (`layer2.0.conv1`) or graph node after which
            the cut is legal.

    Raises:
        ModelError: there is no such place, or the network cannot be cut there.
    """
    parting = part(spec, split_point)
    return Halves(
        front=fx.GraphModule(model, _graph(parting.front, None, parting.node), "Front"),
        back=fx.GraphModule(model, _graph(parting.back, parting.node, None), "Back"),
        activation_shape=parting.activation_shape,
    )


def part(spec: ModelSpec, split_point: str) -> Parting:
    """Return what lies on both sides of `split_point`; raises ModelError as `cut` does."""
    seen = survey(spec)
    path = friendly_names(spec, seen.skeleton).get(split_point, split_point)
    node = _find(seen, path)
    if node is None:
        points = split_points(spec)
        close = difflib.get_close_matches(split_point, points, n=3)
        advice = f"did you mean {' or '.join(close)}?" if close else f"choose one of {', '.join(points)}."
        raise ModelError(
            f"{spec.name} has no split point {split_point!r}; {advice} See `edge-worker models {spec.name}`"
        )
    parting = _part(seen, node)
    if isinstance(parting, Parting):
        return parting
    raise ModelError(
        f"{spec.name} cannot be cut at {split_point!r}: {parting}; "
        f"nearest split points: {' and '.join(_nearest(spec, seen, node))}"
    )


def state_bytes(spec: ModelSpec, split_point: str | None) -> int:
    """Return what parameters and buffers take behind `split_point`, or those of the whole network, in bytes.

    Raises:
        ModelError: as `cut` does.
    """
    seen = survey(spec)
    nodes = seen.nodes if split_point is None else part(spec, split_point).back
    return sum(tensor.nbytes for tensor in _states(seen, nodes))


def _friendly(spec: ModelSpec) -> list[tuple[int, str]]:
    """Return the friendly names that the graph allows, each with its node's place in the order."""
    seen = survey(spec)
    found = {name: _find(seen, path) for name, path in friendly_names(spec, seen.skeleton).items()}
    return [
        (seen.nodes.index(node), name)
        for name, node in found.items()
        if node is not None and isinstance(_part(seen, node), Parting)
    ]


def _nearest(spec: ModelSpec, seen: Survey, node: fx.Node) -> list[str]:
    """Return the last split point before `node` and the first one behind it."""
    here = seen.nodes.index(node)
    points = sorted(_friendly(spec))
    before = [name for index, name in points if index < here]
    behind = [name for index, name in points if index > here]
    return before[-1:] + behind[:1]


def _find(seen: Survey, path: str) -> fx.Node | None:
    """Return the node that ends the module at `path`, or else the node of that name."""
    inside = [
        node for node in seen.nodes if node.op == "call_module" and f"{node.target}.".startswith(f"{path}.")
    ]
    named = [node for node in seen.nodes if node.name == path and node.op != "output"]
    found = inside or named
    return found[-1] if found else None


def _part(seen: Survey, node: fx.Node) -> Parting | str:
    """Part the graph behind `node`, or say why it cannot be."""
    needed = _ancestors(node)
    front = tuple(each for each in seen.nodes if each in needed)
    back = tuple(each for each in seen.nodes if each not in needed)
    live = [each for each in front if any(user not in needed for user in each.users)]
    shape = seen.shapes.get(node)
    if live != [node]:
        return f"{len(live)} tensors are live there, and exactly one can be sent"
    if shape is None or len(shape) != 3:
        return f"its output has the shape {shape} per image, wanted C, H, W"
    if node in seen.writers:
        return (
            f"{seen.writers[node].target} overwrites the activations in place while they may still be unsent"
        )
    states = _states(seen, front), _states(seen, back)
    for side, state in zip(("front", "back"), states, strict=True):
        if not any(isinstance(tensor, nn.Parameter) for tensor in state):
            return f"the {side} would have no parameters to train"
    if any(ours is theirs for ours in states[0] for theirs in states[1]):
        return "both halves would share parameters"
    return Parting(node, front, back, (shape[0], shape[1], shape[2]))


def _ancestors(node: fx.Node) -> set[fx.Node]:
    """Return `node` and all that it depends on."""
    needed, waiting = set(), [node]
    while waiting:
        each = waiting.pop()
        if each not in needed:
            needed.add(each)
            waiting.extend(each.all_input_nodes)
    return needed


def _states(seen: Survey, nodes: Iterable[fx.Node]) -> list[torch.Tensor]:
    """Return the parameters and buffers that `nodes` use."""
    found: list[torch.Tensor] = []
    for node in nodes:
        if node.op == "call_module":
            module = seen.skeleton.get_submodule(str(node.target))
            found += [*module.parameters(), *module.buffers()]
        elif node.op == "get_attr":
            found.append(operator.attrgetter(str(node.target))(seen.skeleton))
    return found


def _graph(nodes: Iterable[fx.Node], start: fx.Node | None, end: fx.Node | None) -> fx.Graph:
    """Copy `nodes` into a graph of their own that starts from `start`'s output and returns that of `end`."""
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    if start is not None:
        copies[start] = graph.placeholder("activations")
    for node in nodes:
        copies[node] = graph.node_copy(node, lambda each: copies[each])
    if end is not None:
        graph.output(copies[end])
    return graph


def structure_digest(module: nn.Module) -> str:
    """Return a hash over the layers, their settings and their tensors' names, shapes and types; no values.

    Two machines that agree on it run the same network, also where their releases of torch differ.
    """
    graph = module.graph if isinstance(module, fx.GraphModule) else trace(module)
    order = {node: index for index, node in enumerate(graph.nodes)}
    lines = []
    for node in graph.nodes:
        target = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
        inputs = [order[each] for each in node.all_input_nodes]
        settings = ""
        if node.op == "call_module":
            layer = module.get_submodule(str(node.target))
            given = {name: getattr(layer, name) for name in _SETTINGS if hasattr(layer, name)}
            settings = f"{type(layer).__name__} {given}"
        lines.append(f"{node.op} {target} {inputs} {settings}")
    for name, tensor in module.state_dict().items():
        lines.append(f"{name} {tuple(tensor.shape)} {tensor.dtype}")
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def weights_digest(module: nn.Module) -> str:
    """Return a hash over the names, types, shapes and bits of all parameters and buffers."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        # Flat, so that neither the memory format nor a scalar's missing axes matter.
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy())
    return digest.hexdigest()
