"""What one cloud gives: each limit is a flag."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from common.errors import CapacityError, ConfigError, ModelError
from common.flags import flag
from common.units import DURATION, SIZE, format_size

if TYPE_CHECKING:  # it takes torch, which `--help` must not wait for
    from common.wire.messages import Run

MiB = 1 << 20
FLOAT_BYTES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Limits of one server."""

    max_sessions: int = flag(64, "runs held in memory at once", type=int)
    max_batch: int = flag(
        512 * MiB,
        "most bytes that a batch's activations, or its images, take as float32  [default: 512MiB]",
        type=SIZE,
        show_default=False,
    )
    max_step: int | None = flag(
        None,
        "most bytes of all layers' outputs of one step, as float32  [default: half of the device's memory]",
        type=SIZE,
    )
    max_memory: int | None = flag(
        None,
        "most bytes of the weights and momenta of all runs in memory  [default: half of the device's memory]",
        type=SIZE,
    )
    max_kept: int = flag(
        100 * 1024 * MiB,
        "disk space of all sessions together; a new one is refused beyond  [default: 100GiB]",
        type=SIZE,
        show_default=False,
    )
    window: int = flag(
        32 * MiB,
        "most bytes of a run's records taken ahead of its training  [default: 32MiB]",
        type=SIZE,
        show_default=False,
    )
    idle_timeout: float = flag(
        600.0,
        "how long an edge may say nothing while nothing of its is being trained, or leave a reply untaken; "
        "it may come back  [default: 10min]",
        type=DURATION,
        show_default=False,
    )
    models: str | None = flag(None, "the models that may be trained, such as resnet18,vgg11  [default: all]")

    def check_values(self) -> None:
        """Raise ConfigError for a limit that lets nothing through."""
        if self.max_sessions < 1:
            raise ConfigError(f"--max-sessions must be 1 or more, got {self.max_sessions}")
        for name, most in (("--max-step", self.max_step), ("--max-memory", self.max_memory)):
            if most == 0:
                raise ConfigError(f"{name} must be above 0B, got 0B")
        if self.window < MiB:
            raise ConfigError(f"--window must be 1MiB or more, got {format_size(self.window)}")
        if not self.idle_timeout > 0:
            raise ConfigError("--idle-timeout must be above 0s, got 0s")

        if self.model_names == frozenset():
            raise ConfigError("--models must name a model, got none; leave it out to allow all")

    @property
    def model_names(self) -> frozenset[str] | None:
        """The models allowed; None for all."""
        if self.models is None:
            return None
        return frozenset(name for each in self.models.split(",") if (name := each.strip()))

    def check_run(self, run: "Run") -> None:
        """Refuse a run that this cloud does not serve, before anything is built for it.

        Raises:
            ModelError: its model is not among those allowed.
            CapacityError: its batches are too large.
        """
        if self.model_names is not None and run.model not in self.model_names:
            allowed = ", ".join(sorted(self.model_names))
            raise ModelError(f"this cloud trains {allowed} (its --models), got {run.model[:64]!r}")
        image = max(math.prod(run.activation_shape), math.prod(run.input_shape))
        batch = run.batch_size * image * FLOAT_BYTES
        if batch > self.max_batch:
            raise CapacityError(
                f"a batch of {run.batch_size} takes {format_size(batch)}, this cloud allows "
                f"{format_size(self.max_batch)} (its --max-batch); use a smaller --batch-size"
            )

    def check_kept(self, kept: int, needed: int) -> None:
        """Refuse a new session for which there is no room on the disk.

        Args:
            kept: bytes that sessions take, or will take.
            needed: bytes that the new one will take.
        """
        if kept + needed > self.max_kept:
            raise CapacityError(
                f"this cloud keeps {format_size(kept)} of sessions, a new one takes {format_size(needed)}, "
                f"its limit is {format_size(self.max_kept)} (its --max-kept); "
                "remove old ones there with cloud-worker sessions rm"
            )
