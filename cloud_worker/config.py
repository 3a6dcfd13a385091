"""What `cloud-worker serve` is told."""

from dataclasses import dataclass
from pathlib import Path

import click

from cloud_worker.limits import Limits
from common.address import ADDRESS, is_loopback, split_address
from common.errors import ConfigError
from common.flags import THREADS_HELP, flag
from common.named_files import FILE
from common.units import DURATION


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeConfig(Limits):
    """Settings of one server; each field is a flag."""

    listen: str = flag("127.0.0.1:50051", "HOST:PORT to listen on; port 0 picks a free one", type=ADDRESS)
    run_dir: Path = flag(
        Path("runs/cloud"), "where sessions are kept", type=click.Path(path_type=Path, file_okay=False)
    )
    device: str = flag("auto", "where the backs train: auto, cpu, cuda or cuda:N")
    threads: int | None = flag(None, THREADS_HELP, type=int)
    checkpoint_every: float = flag(
        60.0, "time between saves within an epoch  [default: 60s]", type=DURATION, show_default=False
    )
    tls_cert: Path | None = flag(None, "certificate of this server, for TLS (PEM file)", type=FILE)
    tls_key: Path | None = flag(None, "key of --tls-cert (PEM file)", type=FILE)
    tls_ca: Path | None = flag(
        None, "serve only edges with a certificate of this authority, which names them (PEM file)", type=FILE
    )
    tokens: Path | None = flag(
        None, "serve only edges that show a token; a file with lines of NAME TOKEN", type=FILE
    )
    insecure: bool = flag(
        False,
        "let anyone in on an address that is not loopback, and let labels travel in clear",
        is_flag=True,
    )
    log_level: str = flag("info", "debug, info, warning or error")

    def __post_init__(self) -> None:
        self.check_values()
        split_address(self.listen, "--listen")
        if self.threads is not None and self.threads < 1:
            raise ConfigError(f"--threads must be 1 or more, got {self.threads}")
        if self.tokens is not None and self.tls_ca is not None:
            raise ConfigError(
                "--tokens and --tls-ca both say who an edge is; leave out one of them "
                "(without --tls-ca, edges need no certificate)"
            )
        if not (self.on_loopback or self.tls_cert or self.tokens or self.insecure):
            raise ConfigError(
                f"--listen {self.listen} can be reached from other machines, and the labels would travel in "
                "clear; listen on 127.0.0.1, give --tls-cert and --tls-key, or --tokens, "
                "or add --insecure where the network is trusted"
            )

    @property
    def on_loopback(self) -> bool:
        """Whether only this machine can reach the server."""
        return is_loopback(split_address(self.listen, "--listen")[0])
