import pytest

from common.address import is_loopback, resolves, split_address
from common.errors import ConfigError


@pytest.mark.parametrize(
    ("address", "host", "port"),
    [
        ("127.0.0.1:50051", "127.0.0.1", 50051),
        ("[::1]:0", "::1", 0),
        ("server.example:1", "server.example", 1),
    ],
)
def test_host_and_port_are_told_apart(address, host, port):
    assert split_address(address, "--cloud") == (host, port)


@pytest.mark.parametrize(
    "address",
    [
        "localhost",
        ":50051",
        "host:",
        "host:http",
        "host:65536",
        "",
        "http://127.0.0.1:50051",
        "me@host:1",
        "a b:1",
        "a..b:1",
        ".b:1",
        "x" * 64 + ":1",
    ],
)
def test_what_is_no_address_is_refused_by_its_flag(address):
    with pytest.raises(ConfigError, match=rf"^--cloud wants HOST:PORT such as .*, got '{address}'$"):
        split_address(address, "--cloud")


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("localhost", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("0.0.0.0", False),
        ("10.0.0.1", False),
        ("x", False),
    ],
)
def test_loopback_is_what_only_this_machine_reaches(host, expected):
    assert is_loopback(host) is expected


def test_a_name_that_nobody_knows_does_not_resolve():
    """RFC 6761 keeps `.invalid` for that."""
    assert resolves("localhost")
    assert resolves("127.0.0.1")
    assert not resolves("nosuchhost.invalid")
