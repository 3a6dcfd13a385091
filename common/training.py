"""What training means on either side: optimiser, schedule and precision, as pure functions of `seq`.

`Trainee` is one half of the network with its optimiser. The edge and the cloud each put their own step
around it; a network trained whole is a trainee too.
"""

import math
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from common.errors import CheckpointError, ConfigError
from common.seeding import seed_torch

PRECISIONS = ("auto", "float32", "bfloat16")


@dataclass(frozen=True, slots=True, kw_only=True)
class Optimisation:
    """SGD with momentum; linear warm-up, then half a cosine to 0 (Loshchilov & Hutter, arXiv:1608.03983).

    Attributes:
        lr: peak learning rate.
        momentum: of SGD, in [0, 1).
        weight_decay: L2 penalty on all parameters.
        warmup: batches of linear warm-up; at most half the run is warmed up.
        total_batches: length of the whole run.
    """

    lr: float
    momentum: float
    weight_decay: float
    warmup: int
    total_batches: int

    def lr_at(self, seq: int) -> float:
        """Return the learning rate of batch `seq`."""
        warmup = min(self.warmup, self.total_batches // 2)
        if seq < warmup:
            return self.lr * (seq + 1) / warmup
        progress = (seq - warmup) / max(1, self.total_batches - warmup)
        return self.lr * 0.5 * (1.0 + math.cos(math.pi * progress))


def resolve_device(name: str) -> torch.device:
    """Return the torch device for `auto`, `cpu`, `cuda` or `cuda:N`; auto prefers CUDA where it works."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        cuda = f", cuda or cuda:N with N below {count}" if count else "; torch sees no CUDA GPU here"
        raise ConfigError(f"--device {name!r} cannot be used here; try auto or cpu{cuda}") from error
    return device


def resolve_precision(name: str, device: torch.device) -> str:
    """Return `float32` or `bfloat16`; `auto` takes bfloat16 where the device computes in it natively."""
    if name != "auto":
        return name
    if device.type == "cuda":
        native = torch.cuda.get_device_capability(device)[0] >= 8
    else:
        native = bool({"avx512_bf16", "amx_bf16", "bf16"} & _cpu_features())
    return "bfloat16" if native else "float32"


def _cpu_features() -> set[str]:
    """Return the CPU's feature flags as Linux names them; empty where it does not say."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return set()
    lines = (line.partition(":") for line in text.splitlines())
    return {flag for key, _, value in lines if key.strip() in ("flags", "Features") for flag in value.split()}


def use_threads(threads: int | None, shared: bool) -> int:
    """Have torch compute with this many threads; return how many.

    Args:
        threads: as the user wants it, or None. Then it is torch's own choice, and half of it where edge and
            cloud share a machine: more threads than cores wait for each other at every layer, which was
            measured to make both tens of times slower.
        shared: whether they do.
    """
    if threads is None:
        threads = torch.get_num_threads()
        if shared and "OMP_NUM_THREADS" not in os.environ:
            threads = max(1, threads // 2)
    torch.set_num_threads(threads)
    return threads


class Trainee:
    """Modules that learn together, with their optimiser.

    Args:
        modules: by name; the names prefix the keys of the saved state.
        optimisation: the optimiser and its schedule.
        precision: `float32`, or `bfloat16` for autocast.
        device: where it trains.
        seed: the run's seed.
        side: `edge` or `cloud`; its steps draw other random numbers than the other side's.
    """

    def __init__(
        self,
        modules: dict[str, nn.Module],
        optimisation: Optimisation,
        precision: str,
        device: torch.device,
        seed: int,
        side: str,
    ) -> None:
        self.modules = nn.ModuleDict(modules).to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.device = device
        self._optimisation = optimisation
        self._precision = precision
        self._seed = seed
        self._side = side
        self._optimiser = torch.optim.SGD(
            self.modules.parameters(),
            lr=optimisation.lr,
            momentum=optimisation.momentum,
            weight_decay=optimisation.weight_decay,
        )

    def begin_step(self, seq: int) -> None:
        """Make everything that batch `seq` depends on a function of `seq`."""
        self.modules.train()
        seed_torch(self._seed, self._side, "step", seq)
        self._optimiser.param_groups[0]["lr"] = self._optimisation.lr_at(seq)

    def learn(self, output: Tensor, gradient: Tensor | None = None) -> None:
        """Take one optimiser step on a loss, or on any output with the loss's gradient by it."""
        output.backward(gradient)  # type: ignore[no-untyped-call]
        self._optimiser.step()
        self._optimiser.zero_grad(set_to_none=True)  # they take as much memory as the weights

    def autocast(self) -> AbstractContextManager[None]:
        """Return the context in which the forward pass runs."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self._precision == "bfloat16")

    def state(self) -> dict[str, Tensor]:
        """Return all that the next step depends on: weights, buffers and momenta."""
        tensors = {f"model.{name}": tensor for name, tensor in self.modules.state_dict().items()}
        tensors.update({f"momentum.{name}": buffer for name, buffer in self._momenta()})
        return tensors

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """Restore what `state` returned.

        Raises:
            CheckpointError: the tensors are not those of these modules.
        """
        weights = {k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")}
        try:
            self.modules.load_state_dict(weights)
        except RuntimeError as error:
            raise CheckpointError(f"the checkpoint holds another network: {error}") from error
        for name, parameter in self.modules.named_parameters():
            buffer = tensors.get(f"momentum.{name}")
            if buffer is not None:
                restored = torch.empty_like(parameter).copy_(buffer)
                self._optimiser.state[parameter]["momentum_buffer"] = restored

    def _momenta(self) -> Iterator[tuple[str, Tensor]]:
        for name, parameter in self.modules.named_parameters():
            buffer = self._optimiser.state[parameter].get("momentum_buffer")
            if buffer is not None:
                yield name, buffer
