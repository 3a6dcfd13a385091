"""What a server says about its own door before it opens it."""

import logging
import re

import pytest

from cloud_worker.config import ServeConfig
from cloud_worker.door import Door
from tests.certificates import Pki


@pytest.fixture
def warned(caplog):
    """Read the files that the settings name; returns what was warned about."""

    def read(**settings):
        with caplog.at_level(logging.WARNING):
            Door.read(ServeConfig(**settings))
        return caplog.messages

    return read


def test_plaintext_on_an_open_address_is_warned_about(warned):
    assert warned(listen="0.0.0.0:1", insecure=True) == [
        "no TLS on 0.0.0.0:1: labels and activations travel in clear; use --tls-cert or a trusted network"
    ]


def test_tokens_in_clear_are_warned_about(warned, tmp_path):
    tokens = tmp_path / "tokens"
    tokens.touch(mode=0o600)
    tokens.write_text("pi pi-token-0123456789\n")

    (message,) = warned(listen="0.0.0.0:1", tokens=tokens)

    assert "travel in clear, and so do tokens; use --tls-cert" in message
    assert "0123456789" not in message


def test_nothing_is_warned_about_on_loopback_and_under_tls(warned, tmp_path):
    cert, key = Pki(tmp_path / "pki").server(days=100)

    assert warned() == []
    assert warned(listen="0.0.0.0:1", tls_cert=cert, tls_key=key) == []


@pytest.mark.parametrize(
    ("when", "said"),
    [
        ({"days": 20}, r"ends on 20[\d-]+; edges will refuse it then"),
        ({"days": 1, "from_days": -9}, r"ended on 20[\d-]+; edges refuse it"),
    ],
    ids=["soon", "past"],
)
def test_a_certificate_that_ends_is_warned_about_in_time(warned, tmp_path, when, said):
    cert, key = Pki(tmp_path / "pki").server(**when)

    (message,) = warned(tls_cert=cert, tls_key=key)

    assert re.fullmatch(re.escape(f"--tls-cert {cert} ") + said, message)
