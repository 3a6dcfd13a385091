"""Initial weights that are the same bits on every machine.

torch draws with the instructions of the CPU at hand, so the same seed gives an arm64 edge and an x86 cloud
different weights. Here the constructors of torch and torchvision still decide which distribution each tensor
gets; the numbers come from NumPy, keyed by the tensor's name, so neither the order of construction nor the
state of torch's own generator matters.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from common.seeding import derive, generator

ModuleT = TypeVar("ModuleT", bound=nn.Module)

# Values drawn at once: bounds the float64 copy (8 MiB) that a large layer would need.
_CHUNK = 1 << 20
# The random operators that we know, each with the names and defaults of its two parameters.
_RANDOM = {
    torch.ops.aten.normal_.default: (("mean", 0.0), ("std", 1.0)),
    torch.ops.aten.uniform_.default: (("from", 0.0), ("to", 1.0)),
}
_OVERWRITES = {torch.ops.aten.fill_.Scalar, torch.ops.aten.fill_.Tensor, torch.ops.aten.zero_.default}


@dataclass(frozen=True, slots=True)
class _Draw:
    """One postponed draw; `first` and `second` are mean and std, or the two ends of a range."""

    tensor: Tensor  # kept alive, so that no other tensor can get its address
    normal: bool
    first: float
    second: float

    def values(self, rng: np.random.Generator, count: int) -> NDArray[np.float64]:
        """Return the next `count` values, scaled in float64."""
        if self.normal:
            return self.first + self.second * rng.standard_normal(count)
        return self.first + (self.second - self.first) * rng.random(count)


class _Postpone(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves it untyped
    """Notes the last random fill of each tensor instead of doing it."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.draws: dict[int, _Draw] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Postpone a known random fill, refuse an unknown one, run all else."""
        kwargs = kwargs or {}
        if func in _RANDOM:
            given = dict(zip((name for name, _ in _RANDOM[func]), args[1:], strict=False)) | kwargs
            first, second = (float(given.get(name, default)) for name, default in _RANDOM[func])
            self.draws[args[0].data_ptr()] = _Draw(
                args[0], func is torch.ops.aten.normal_.default, first, second
            )
            return args[0]
        if torch.Tag.nondeterministic_seeded in func.tags:
            raise NotImplementedError(f"{func} draws in a constructor; teach {__name__} to draw it portably")
        if func in _OVERWRITES:
            self.draws.pop(args[0].data_ptr(), None)
        elif not func.is_view and any(isinstance(a, Tensor) and a.data_ptr() in self.draws for a in args):
            raise NotImplementedError(f"{func} uses values that {__name__} has yet to draw")
        return func(*args, **kwargs)


def construct(make: Callable[[], ModuleT], seed: int, purpose: str) -> ModuleT:
    """Return `make()` with every random initial value drawn portably.

    Args:
        make: constructs a module on the CPU; its random fills must be `normal_` or `uniform_`.
        seed: of the run.
        purpose: sets apart modules that are made with one seed.

    Raises:
        NotImplementedError: the constructor draws in another way.
    """
    with _Postpone() as postponed:
        module = make()
    for name, tensor in module.named_parameters():
        draw = postponed.draws.get(tensor.data_ptr())
        if draw is not None:
            _fill(tensor.detach().view(-1), draw, derive(seed, purpose, name))
    return module


def _fill(flat: Tensor, draw: _Draw, key: int) -> None:
    rng = generator(key)
    for start in range(0, flat.numel(), _CHUNK):
        part = flat[start : start + _CHUNK]
        part.copy_(torch.from_numpy(draw.values(rng, part.numel())))
