"""HOST:PORT, and whether it is on this machine."""

import ipaddress

from common.errors import ConfigError


def split_address(address: str, name: str) -> tuple[str, int]:
    """Return host and port of `HOST:PORT`; raises ConfigError naming the flag `name`."""
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isdecimal() or int(port) > 65535:
        raise ConfigError(f"{name} wants HOST:PORT such as 127.0.0.1:50051, got {address!r}")
    return host.strip("[]"), int(port)


def is_loopback(host: str) -> bool:
    """Tell whether only this machine can be meant by `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
