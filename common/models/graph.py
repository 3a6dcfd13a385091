"""What is known of a network's graph before it has weights: shapes, FLOPs, and which tensors are overwritten.

Other threads may train meanwhile, so nothing here may touch what they share: fx patches `nn.Module` while it
traces, and torch's FlopCounterMode hooks into every module's forward.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from common.models.catalogue import ModelSpec, skeleton

# Two traces at once would undo each other's patches in the wrong order.
_TRACING = threading.Lock()


class LeafTracer(fx.Tracer):
    """Traces down to the modules without children, whatever package they come from.

    Plain tracing looks into modules outside torch.nn (stochastic depth, for one) and freezes the value that
    `training` has at that moment; as leaves they go on following `train()` and `eval()`.
    """

    def __init__(self) -> None:
        super().__init__()
        self._thread = threading.get_ident()

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Whether the graph calls `m` as a whole."""
        return next(m.children(), None) is None or super().is_leaf_module(m, module_qualified_name)

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Record a call; those of other threads, which fx's patch catches too, just run."""
        if threading.get_ident() != self._thread:
            return forward(*args, **kwargs)
        return super().call_module(m, forward, args, kwargs)


def trace(module: nn.Module) -> fx.Graph:
    """Return the graph of `module`, down to its leaves."""
    with _TRACING:
        return LeafTracer().trace(module)


@dataclass(frozen=True, slots=True, eq=False)
class Survey:
    """One network's graph, and what one image running through it shows.

    Attributes:
        skeleton: the network on the meta device.
        nodes: in the order of execution.
        shapes: of each node's output per image; only nodes that yield one tensor.
        writers: node -> the node that later overwrites its output in place.
        flops: of each node, forward, per image; see `FlopCounter`.
    """

    skeleton: nn.Module
    nodes: tuple[fx.Node, ...]
    shapes: dict[fx.Node, tuple[int, ...]]
    writers: dict[fx.Node, fx.Node]
    flops: dict[fx.Node, int]


@lru_cache(maxsize=32)
def survey(spec: ModelSpec) -> Survey:
    """Trace the network of `spec` and run one image through it on the meta device: no memory, no values."""
    model = skeleton(spec).eval()
    graph = trace(model)
    run = _Run(model, graph)
    with torch.no_grad(), run.counter:
        run.run(torch.empty(1, *spec.input_shape, device="meta"))
    shapes = {node: tuple(tensor.shape[1:]) for node, tensor in run.tensors.items()}
    return Survey(model, tuple(graph.nodes), shapes, run.writers, run.flops)


class FlopCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves it untyped
    """Adds up the FLOPs of what runs inside, in this thread only, by torch's own formulas.

    A multiply-add counts as 2, and only convolutions and matrix products count.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run one operator and count it."""
        result = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None:
            self.total += formula(*args, **(kwargs or {}), out_val=result)
        return result


class _Run(fx.Interpreter):
    """Runs a graph node by node and takes notes.

    Every tensor counts the writes to it, views included (`_version`); a count that has risen since the tensor
    came out of its node tells of a later in-place operation.
    """

    def __init__(self, model: nn.Module, graph: fx.Graph) -> None:
        super().__init__(model, graph=graph)
        self.counter = FlopCounter()
        self.tensors: dict[fx.Node, Tensor] = {}
        self.writers: dict[fx.Node, fx.Node] = {}
        self.flops: dict[fx.Node, int] = {}
        self._writes: dict[fx.Node, int] = {}

    def run_node(self, n: fx.Node) -> Any:
        before = self.counter.total
        result = super().run_node(n)
        self.flops[n] = self.counter.total - before
        for node, tensor in self.tensors.items():
            if tensor._version != self._writes[node]:
                self.writers.setdefault(node, n)
        if isinstance(result, Tensor) and n.op != "output":
            self.tensors[n], self._writes[n] = result, result._version
        return result
