"""What `edge-worker train` is told: one field, one flag, one default."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from common.address import ADDRESS, is_loopback, split_address
from common.errors import ConfigError
from common.flags import THREADS_HELP, flag
from common.strategies import find_strategy
from common.units import DURATION, PRESETS_HELP, RATE, SIZE, Rate
from edge_worker.access import Access

MiB = 1 << 20

# A resumed run may change these; every other setting must stay what it was.
MAY_CHANGE = frozenset(
    {
        "cloud",
        "data_dir",
        "link_rate",
        "link_rate_down",
        "link_latency",
        "window",
        "spool",
        "spool_memory",
        "spool_full",
        "checkpoint_every",
        "eval_every",
        "log_level",
        "connect_timeout",
        "run_dir",
        "tls_ca",
        "tls_cert",
        "tls_key",
        "token_file",
    }
)

# What the cloud takes.
MAX_NUMBER = (1 << 31) - 1
MAX_COUNT = 1 << 16

# What stands for the plan's choice; 0 as a width.
AUTO, AUTO_BITS = "auto", 0

_FOLDER = click.Path(path_type=Path, file_okay=False)


def in_json(value: Any) -> Any:
    """Return a setting as JSON has it: a path as text, a preset by its name, which is more than a rate."""
    if isinstance(value, Rate) and value.preset is not None:
        return value.preset.name
    return str(value) if isinstance(value, Path) else value


class Width(click.ParamType):  # type: ignore[type-arg]  # generic only in newer releases
    """Bits, or `auto` for the plan's choice."""

    name = "bits"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the number; AUTO_BITS for `auto`."""
        if isinstance(value, int):
            return value
        if value == AUTO:
            return AUTO_BITS
        text = str(value)
        if not text.isdecimal() or int(text) == AUTO_BITS:
            self.fail(f"{value!r} is neither a number of bits nor {AUTO}.", param, ctx)
        return int(text)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig(Access):
    """Settings of one run; each field is a flag."""

    cloud: str = flag("127.0.0.1:50051", "HOST:PORT of the cloud worker", type=ADDRESS)
    strategy: str = flag(
        "hierarchical",
        "hierarchical; split-learning, where gradients come back; full-cloud to send the images and train "
        "all there; full-edge to train all here",
    )
    model: str = flag("resnet18", "a name from `edge-worker models`")
    stem: str = flag(
        "imagenet", "first layers of a ResNet: imagenet (torchvision's) or cifar (3x3, stride 1)"
    )
    classifier: str = flag("small", "last layers of a VGG: small, or imagenet (torchvision's)")
    split: str = flag(
        "layer2",
        "where the network is cut; `edge-worker models NAME` lists the places; auto for the fastest one, "
        "which is measured first",
    )
    exit: str = flag("light", "the early exit: light (global pooling and a linear layer)")
    dataset: str = flag("cifar10", "cifar10, imagefolder or synthetic")
    data_dir: Path = flag(Path("data"), "where the images are, or are downloaded to", type=_FOLDER)
    image_size: int | None = flag(
        None, "side of an imagefolder's images in pixels  [default: that of the first]", type=int
    )
    train_limit: int | None = flag(None, "train on this many images, balanced over the classes", type=int)
    test_limit: int | None = flag(None, "evaluate on this many images, balanced over the classes", type=int)
    epochs: int = flag(10, "passes over the training images", type=int)
    batch_size: int = flag(128, "images in a batch, 2 or more", type=int)
    lr: float = flag(0.05, "peak learning rate of SGD; a cosine takes it to 0", type=float)
    momentum: float = flag(0.9, "momentum of SGD", type=float)
    weight_decay: float = flag(5e-4, "weight decay of SGD", type=float)
    warmup: int = flag(100, "batches of linear warm-up, at most half the run", type=int)
    precision: str = flag("auto", "float32, bfloat16, or auto: bfloat16 where the device computes in it")
    bits: int = flag(
        4,
        "bits of one activation on the wire: 8, 4, 2, 32 for none lost, or auto as for --split",
        type=Width(),
    )
    images: str = flag(
        "resend", "with full-cloud: resend the images in each epoch, or send them once for the cloud to keep"
    )
    gradient_bits: int = flag(
        8, "with split-learning: bits of one value of the gradient that comes back, as --bits", type=int
    )
    link_rate: float | None = flag(
        None, f"emulate an uplink of this rate, such as 10mbit, or a preset ({PRESETS_HELP})", type=RATE
    )
    link_rate_down: float | None = flag(
        None, "emulate a downlink of this rate  [default: the preset's, or none]", type=RATE
    )
    link_latency: float | None = flag(
        None, "emulate this one-way latency, such as 40ms  [default: the preset's, or 0ms]", type=DURATION
    )
    window: int = flag(
        8 * MiB,
        "most bytes sent whose receipt is not yet confirmed  [default: 8MiB]",
        type=SIZE,
        show_default=False,
    )
    spool: int = flag(
        1024 * MiB,
        "most bytes of records kept until the cloud has them durably  [default: 1GiB]",
        type=SIZE,
        show_default=False,
    )
    spool_memory: int = flag(
        128 * MiB,
        "how many of them in memory; the rest lies in the run directory  [default: 128MiB]",
        type=SIZE,
        show_default=False,
    )
    spool_full: str = flag(
        "wait",
        "what happens when the spool is full: wait (for the cloud), or drop (the oldest batches, counted)",
    )
    run_dir: Path = flag(Path("runs/edge"), "where the run lives; the same one again resumes", type=_FOLDER)
    seed: int = flag(0, "seed of weights, order and augmentation", type=int)
    device: str = flag("auto", "where the front trains: auto, cpu, cuda or cuda:N")
    threads: int | None = flag(None, THREADS_HELP, type=int)
    workers: int = flag(2, "threads that load and augment images", type=int)
    eval_every: int = flag(0, "epochs between evaluations of the cloud; 0 for the end only", type=int)
    checkpoint_every: float = flag(
        60.0, "time between saves within an epoch  [default: 60s]", type=DURATION, show_default=False
    )
    connect_timeout: float = flag(
        30.0, "how long the first connection may take  [default: 30s]", type=DURATION, show_default=False
    )
    log_level: str = flag("info", "debug, info, warning or error")

    def __post_init__(self) -> None:
        """Refuse settings that cannot be; names and widths are checked where they are looked up."""
        find_strategy(self.strategy)
        split_address(self.cloud, "--cloud")
        for name in ("epochs", "warmup", "seed"):
            self._at_most(name, MAX_NUMBER)
        self._at_most("batch_size", MAX_COUNT)
        if self.weight_decay == float("inf"):
            raise ConfigError("--weight-decay must be finite, got inf")
        for name in ("epochs", "workers", "threads", "train_limit", "test_limit", "image_size"):
            self._at_least(name, 1)
        for name in ("warmup", "eval_every", "seed", "weight_decay"):
            self._at_least(name, 0)
        self._at_least("batch_size", 2)
        self._at_least("window", 64 << 10)
        if not 0 < self.lr < float("inf"):
            raise ConfigError(f"--lr must be above 0, got {self.lr}")
        if not 0 <= self.momentum < 1:
            raise ConfigError(f"--momentum must be in [0, 1), got {self.momentum}")
        self._one_of("spool_full", "wait", "drop")
        self._one_of("images", "resend", "once")
        self._one_of("precision", "auto", "float32", "bfloat16")
        if self.spool_full == "drop" and (self.sends_once or find_strategy(self.strategy).gradient):
            what = "--images once" if self.sends_once else f"--strategy {self.strategy}"
            raise ConfigError(f"{what} needs --spool-full wait, as no batch can be given up there; got drop")

    @property
    def sends_once(self) -> bool:
        """Whether each image goes up once, for the cloud to keep."""
        return find_strategy(self.strategy).sends_images and self.images == "once"

    @property
    def shares_machine(self) -> bool:
        """Whether the cloud computes on this machine, too."""
        return find_strategy(self.strategy).uses_cloud and is_loopback(
            split_address(self.cloud, "--cloud")[0]
        )

    def _one_of(self, name: str, *words: str) -> None:
        if getattr(self, name) not in words:
            wanted = ", ".join(words[:-1])
            raise ConfigError(
                f"--{name.replace('_', '-')} must be {wanted} or {words[-1]}, got {getattr(self, name)!r}"
            )

    def _at_least(self, name: str, least: int) -> None:
        value = getattr(self, name)
        if value is not None and not value >= least:
            raise ConfigError(f"--{name.replace('_', '-')} must be {least} or more, got {value}")

    def _at_most(self, name: str, most: int) -> None:
        if getattr(self, name) > most:
            raise ConfigError(f"--{name.replace('_', '-')} must be {most} or less, got {getattr(self, name)}")


def spool_memory_of(config: TrainConfig) -> int:
    """Return how many bytes of records a run keeps in memory at most."""
    return min(config.spool, config.spool_memory)
