"""HOST:PORT, and whether it is on this machine."""

import ipaddress
import socket

from common.errors import ConfigError
from common.units import Unit

WANTED = "HOST:PORT such as 127.0.0.1:50051"
MAX_LABEL = 63  # RFC 1035, 2.3.4


def split_address(address: str, name: str) -> tuple[str, int]:
    """Return host and port of `HOST:PORT`; raises ConfigError naming the flag `name`."""
    host, colon, port = address.rpartition(":")
    wrong = not colon or not host or not port.isdecimal() or int(port) > 65535
    # A URL, or a slip; the last two are no labels of a name.
    wrong = wrong or any(char in "/@?#" or char.isspace() for char in host)
    if wrong or ".." in host or host.startswith(".") or max(map(len, host.split("."))) > MAX_LABEL:
        raise ConfigError(f"{name} wants {WANTED}, got {address!r}")
    return host.strip("[]"), int(port)


def _checked(text: str) -> str:
    split_address(text, "address")
    return text


ADDRESS = Unit("address", WANTED, _checked)


def resolves(host: str) -> bool:
    """Tell whether this machine finds an address for `host`."""
    try:
        return bool(socket.getaddrinfo(host, None))
    except (OSError, UnicodeError):
        return False


def is_loopback(host: str) -> bool:
    """Tell whether only this machine can be meant by `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
