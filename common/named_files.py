"""Files that flags name, such as keys and tokens: read whole, or refused in one line."""

import logging
from pathlib import Path

import click

from common.errors import ConfigError

log = logging.getLogger(__name__)

# The type of a flag that names a file; whether the file is there is for the reader to say, with exit code 1.
FILE = click.Path(path_type=Path, readable=False)


def read_named(path: Path, flag: str) -> bytes:
    """Return what is in the file that `flag` names; ConfigError where it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read {flag} {path}: {error.strerror}") from error


def read_secret(path: Path, flag: str) -> bytes:
    """The same for what only its owner should read; warns where all users of this machine may."""
    data = read_named(path, flag)
    if path.stat().st_mode & 0o004:
        log.warning("%s %s can be read by every user of this machine; chmod 600 it", flag, path)
    return data
