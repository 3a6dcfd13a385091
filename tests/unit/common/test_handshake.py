"""Why no TLS connection comes about, told by real gRPC servers on loopback."""

import re
import socket
import threading
from concurrent import futures
from contextlib import contextmanager

import grpc
import pytest

from common.handshake import certificate_fault, explain_failure
from common.tls import ClientTls, read_client_tls
from tests.certificates import Pki


@pytest.fixture
def pki(tmp_path):
    return Pki(tmp_path / "pki")


@pytest.fixture
def other(tmp_path):
    """Another authority."""
    return Pki(tmp_path / "other")


@contextmanager
def served(pair=None, ca=None):
    """A gRPC server that speaks plaintext, TLS, or mutual TLS; yields its address."""
    server = grpc.server(futures.ThreadPoolExecutor(1))
    if pair is None:
        port = server.add_insecure_port("127.0.0.1:0")
    else:
        cert, key = (file.read_bytes() for file in pair)
        asked = None if ca is None else ca.read_bytes()
        credentials = grpc.ssl_server_credentials([(key, cert)], asked, require_client_auth=ca is not None)
        port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(0).wait()


def client(ca=None, pair=(None, None)):
    return read_client_tls(ClientTls(tls_ca=ca, tls_cert=pair[0], tls_key=pair[1]))


def test_nothing_is_wrong_where_both_sides_agree(pki):
    with served() as plain, served(pki.server()) as tls, served(pki.server(), pki.ca) as mutual:
        assert explain_failure(plain, None) is None
        assert explain_failure(tls, client(pki.ca)) is None
        assert explain_failure(mutual, client(pki.ca, pki.client())) is None


def test_a_cloud_of_another_authority_is_not_trusted(pki, other):
    with served(other.server()) as address:
        reason = explain_failure(address, client(pki.ca))

    assert re.fullmatch(
        rf"the cloud at {address} is not trusted: unable to get local issuer certificate; "
        r"--tls-ca must be the authority that signed the cloud's certificate",
        reason,
    )


@pytest.mark.parametrize(
    ("when", "words"),
    [
        (
            {"days": 1, "from_days": -30},
            "certificate has expired; renew the cloud's certificate, or set this machine's clock if",
        ),
        ({"from_days": 30}, "certificate is not yet valid; set this machine's clock, which says 20"),
        (
            {"host": "gpu.example"},
            "IP address mismatch, certificate is not valid for '127.0.0.1'; call it by",
        ),
    ],
    ids=["expired", "not yet", "another name"],
)
def test_a_certificate_that_does_not_hold_is_told_with_what_to_do(pki, when, words):
    with served(pki.server(**when)) as address:
        assert f"the cloud at {address} is not trusted: {words}" in explain_failure(address, client(pki.ca))


def test_a_cloud_that_wants_a_certificate_gets_none(pki):
    with served(pki.server(), pki.ca) as address:
        assert explain_failure(address, client(pki.ca)) == (
            "the cloud ended the connection after the handshake: it wants a certificate from this side; "
            "give --tls-cert and --tls-key"
        )


@pytest.mark.parametrize(
    ("when", "words"),
    [
        ({"days": 1, "from_days": -30}, "certificate has expired"),
        ({"from_days": 30}, "certificate is not yet valid"),
    ],
    ids=["expired", "not yet"],
)
def test_an_edges_own_certificate_that_does_not_hold_is_named(pki, when, words):
    cert, key = pki.client(**when)

    with served(pki.server(), pki.ca) as address:
        reason = explain_failure(address, client(pki.ca, (cert, key)))

    assert reason == f"the cloud does not accept the certificate --tls-cert {cert}: {words}; give another one"


def test_an_edges_certificate_of_another_authority_is_named(pki, other):
    cert, key = other.client()

    with served(pki.server(), pki.ca) as address:
        reason = explain_failure(address, client(pki.ca, (cert, key)))

    assert (
        f"--tls-cert {cert}: the authority that the cloud trusts (its --tls-ca) has not signed it" in reason
    )


def test_plaintext_and_tls_do_not_meet(pki):
    with served(pki.server()) as tls, served(pki.server(), pki.ca) as mutual, served() as plain:
        for address in (tls, mutual):
            assert explain_failure(address, None) == (
                f"the cloud at {address} speaks TLS, and this side plaintext; give --tls-ca the file of the "
                "authority that signed the cloud's certificate"
            )
        assert explain_failure(plain, client(pki.ca)) == (
            f"the cloud at {plain} does not speak TLS; start it with --tls-cert and --tls-key, "
            "or leave out --tls-ca"
        )


def test_where_nobody_can_be_asked_there_is_no_verdict(pki, monkeypatch):
    """Nobody listens, a proxy hangs up, a dead host says nothing: none of it is for TLS to explain."""
    monkeypatch.setattr("common.handshake.TIMEOUT_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        for tls in (None, client(pki.ca)):
            assert explain_failure(address, tls) is None

            hanging_up = threading.Thread(target=lambda: listener.accept()[0].close())
            # What waits to be accepted from the silent try comes first.
            listener.accept()[0].close()
            hanging_up.start()
            assert explain_failure(address, tls) is None
            hanging_up.join()

    assert explain_failure(address, client(pki.ca)) is None


def test_a_servers_certificate_is_none_for_an_edge(pki):
    assert certificate_fault(*pki.client()) is None
    assert certificate_fault(*pki.server()) == "unsuitable certificate purpose"
