"""Logging for both daemons: one line an event, on stderr."""

import io
import logging
import sys

from common.errors import ConfigError

LEVELS = ("debug", "info", "warning", "error")


class _Stderr(io.TextIOBase):
    """Whatever stderr is at the moment: a live display takes its place, so that lines appear above it."""

    def write(self, text: str) -> int:
        return sys.stderr.write(text)

    def flush(self) -> None:
        sys.stderr.flush()


def set_up_logging(level: str) -> None:
    """Log to stderr from `level` on."""
    if level not in LEVELS:
        raise ConfigError(f"--log-level must be one of {', '.join(LEVELS)}, got {level!r}")
    logging.basicConfig(
        level=level.upper(),
        format="%(asctime)s %(levelname)s %(message)s",
        datefmt="%H:%M:%S",
        stream=_Stderr(),
        force=True,
    )
