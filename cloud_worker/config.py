"""What `cloud-worker serve` is told."""

from dataclasses import dataclass
from pathlib import Path

import click

from common.address import is_loopback, split_address
from common.errors import ConfigError
from common.flags import THREADS_HELP, flag
from common.units import DURATION


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeConfig:
    """Settings of one server; each field is a flag."""

    listen: str = flag("127.0.0.1:50051", "HOST:PORT to listen on; port 0 picks a free one")
    run_dir: Path = flag(
        Path("runs/cloud"), "where sessions are kept", type=click.Path(path_type=Path, file_okay=False)
    )
    device: str = flag("auto", "where the backs train: auto, cpu, cuda or cuda:N")
    threads: int | None = flag(None, THREADS_HELP, type=int)
    checkpoint_every: float = flag(
        60.0, "time between saves within an epoch  [default: 60s]", type=DURATION, show_default=False
    )
    max_sessions: int = flag(64, "runs held in memory at once", type=int)
    insecure: bool = flag(False, "listen without encryption on an address that is not loopback", is_flag=True)
    log_level: str = flag("info", "debug, info, warning or error")

    def __post_init__(self) -> None:
        split_address(self.listen, "--listen")
        if self.threads is not None and self.threads < 1:
            raise ConfigError(f"--threads must be 1 or more, got {self.threads}")
        if self.max_sessions < 1:
            raise ConfigError(f"--max-sessions must be 1 or more, got {self.max_sessions}")
        if not self.insecure and not self.on_loopback:
            raise ConfigError(
                f"--listen {self.listen} can be reached from other machines, and the labels would travel in "
                "clear; listen on 127.0.0.1, or add --insecure where the network is trusted"
            )

    @property
    def on_loopback(self) -> bool:
        """Whether only this machine can reach the server."""
        return is_loopback(split_address(self.listen, "--listen")[0])
