"""Files of certificates and keys: what does not fit is one line that names it."""

import logging

import pytest
from cryptography.hazmat.primitives import serialization

from common.errors import ConfigError
from common.tls import ClientTls, read_client_tls, read_server_tls
from tests.certificates import Pki


@pytest.fixture
def pki(tmp_path):
    return Pki(tmp_path / "pki")


def client(**files):
    return read_client_tls(ClientTls(**{f"tls_{name}": file for name, file in files.items()}))


def test_without_flags_there_is_no_tls():
    assert client() is None
    assert read_server_tls(None, None, None) is None


def test_a_clients_files_are_read(pki):
    cert, key = pki.client()

    tls = client(ca=pki.ca, cert=cert, key=key)

    assert (tls.ca, tls.certificate, tls.key) == (pki.ca.read_bytes(), cert.read_bytes(), key.read_bytes())
    assert client(ca=pki.ca).certificate is None


def test_a_server_may_ask_for_certificates_or_not(pki):
    cert, key = pki.server()

    assert read_server_tls(None, cert, key).ca is None
    assert read_server_tls(pki.ca, cert, key).ca == pki.ca.read_bytes()


def test_what_belongs_together_comes_together(pki):
    cert, key = pki.server()

    with pytest.raises(
        ConfigError, match=r"^--tls-cert is given without --tls-key; a certificate and its key"
    ):
        read_server_tls(None, cert, None)
    with pytest.raises(ConfigError, match=r"^--tls-key is given without --tls-cert"):
        client(ca=pki.ca, key=key)
    with pytest.raises(ConfigError, match=r"^--tls-cert is for TLS, which --tls-ca turns on"):
        client(cert=cert, key=key)
    with pytest.raises(ConfigError, match=r"^--tls-ca asks edges for certificates, .* give --tls-cert and"):
        read_server_tls(pki.ca, None, None)


@pytest.mark.parametrize("wrong", ["ca", "cert", "key"])
def test_a_file_that_is_not_there_is_named_with_its_flag(pki, tmp_path, wrong):
    cert, key = pki.client()
    files = {"ca": pki.ca, "cert": cert, "key": key, wrong: tmp_path / "nowhere"}

    with pytest.raises(
        ConfigError, match=rf"^cannot read --tls-{wrong} .*/nowhere: No such file or directory$"
    ):
        client(**files)
    with pytest.raises(ConfigError, match=rf"^cannot read --tls-{wrong} .*: Is a directory$"):
        client(**{**files, wrong: tmp_path})


def test_a_file_with_something_else_in_it_is_named(pki, tmp_path):
    cert, key = pki.client()
    junk = tmp_path / "junk"
    junk.write_text("no certificate")
    junk.chmod(0o600)

    with pytest.raises(ConfigError, match=r"^--tls-ca .*/junk holds no certificate; give a PEM file"):
        client(ca=junk)
    for files in ((junk, key), (cert, junk), (key, cert)):
        with pytest.raises(ConfigError, match=r"are no certificate and key; give two PEM files"):
            client(ca=pki.ca, cert=files[0], key=files[1])


def test_a_key_of_another_certificate_is_named(pki):
    (cert, _), (_, key) = pki.client(), pki.client()

    with pytest.raises(ConfigError, match=rf"^--tls-key {key} is not the key of --tls-cert {cert}; give two"):
        client(ca=pki.ca, cert=cert, key=key)


def test_a_key_with_a_password_is_refused_rather_than_asked_for(pki):
    """A daemon has no terminal to ask on."""
    cert, key = pki.client()
    private = serialization.load_pem_private_key(key.read_bytes(), None)
    key.write_bytes(
        private.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )

    with pytest.raises(ConfigError, match=r"the key not encrypted$"):
        client(ca=pki.ca, cert=cert, key=key)


def test_a_key_that_all_users_may_read_is_warned_about(pki, caplog):
    cert, key = pki.client()
    with caplog.at_level(logging.WARNING):
        client(ca=pki.ca, cert=cert, key=key)
        assert caplog.messages == []
        key.chmod(0o644)

        client(ca=pki.ca, cert=cert, key=key)

    assert caplog.messages == [f"--tls-key {key} can be read by every user of this machine; chmod 600 it"]
