"""What `cloud-worker serve` is told."""

import ipaddress
from dataclasses import dataclass
from pathlib import Path

import click

from common.errors import ConfigError
from common.flags import flag
from common.units import DURATION


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeConfig:
    """Settings of one server; each field is a flag."""

    listen: str = flag("127.0.0.1:50051", "HOST:PORT to listen on; port 0 picks a free one")
    run_dir: Path = flag(
        Path("runs/cloud"), "where sessions are kept", type=click.Path(path_type=Path, file_okay=False)
    )
    device: str = flag("auto", "where the backs train: auto, cpu, cuda or cuda:N")
    threads: int | None = flag(None, "CPU threads of torch  [default: torch's own choice]", type=int)
    checkpoint_every: float = flag(
        60.0, "time between saves within an epoch  [default: 60s]", type=DURATION, show_default=False
    )
    max_sessions: int = flag(64, "runs held in memory at once", type=int)
    insecure: bool = flag(False, "listen without encryption on an address that is not loopback", is_flag=True)
    log_level: str = flag("info", "debug, info, warning or error")

    def __post_init__(self) -> None:
        host, port = split_address(self.listen, "--listen")
        if port > 65535:
            raise ConfigError(f"--listen wants a port up to 65535, got {port}")
        if self.threads is not None and self.threads < 1:
            raise ConfigError(f"--threads must be 1 or more, got {self.threads}")
        if self.max_sessions < 1:
            raise ConfigError(f"--max-sessions must be 1 or more, got {self.max_sessions}")
        if not self.insecure and not _is_loopback(host):
            raise ConfigError(
                f"--listen {self.listen} can be reached from other machines, and the labels would travel in "
                "clear; listen on 127.0.0.1, or add --insecure where the network is trusted"
            )


def split_address(address: str, name: str) -> tuple[str, int]:
    """Return host and port of `HOST:PORT`; raises ConfigError naming the flag `name`."""
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isdecimal():
        raise ConfigError(f"{name} wants HOST:PORT such as 127.0.0.1:50051, got {address!r}")
    return host.strip("[]"), int(port)


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
