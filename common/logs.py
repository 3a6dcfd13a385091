"""Logging for both daemons: one line an event, on stderr."""

import io
import logging
import sys

from common.errors import ConfigError

LEVELS = ("debug", "info", "warning", "error")
MAX_LINE = 800


def one_line(text: str) -> str:
    """Return `text` as a log, a terminal or a gRPC status can take it, whoever wrote it.

    One line, not too long, and nothing that a terminal would obey: what is not printable is escaped.
    """
    words = " ".join(text[: 2 * MAX_LINE].split())
    plain = "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in words)
    return plain if len(plain) <= MAX_LINE else f"{plain[:MAX_LINE]}... ({len(text)} characters)"


def short_reason(details: str) -> str:
    """Return the last and only useful part of what gRPC says where a connection fails."""
    nested = "last error: " in details or details.startswith(("DNS resolution failed", "errors resolving"))
    return details.rpartition(": ")[2].rstrip("]") if nested else details


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
