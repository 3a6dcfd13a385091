"""Why no TLS connection comes about, from a handshake of one's own.

gRPC says "Socket closed" for half of the reasons, and OpenSSL's words for the others.
"""

import contextlib
import socket
import ssl
from datetime import datetime, timezone
from pathlib import Path

from common.address import split_address
from common.tls import Tls

TIMEOUT_S = 5.0
# OpenSSL's numbers (X509_V_ERR_...) for what is wrong with a certificate.
NOT_YET_VALID, EXPIRED = 9, 10
UNKNOWN_AUTHORITY = (2, 18, 19, 20, 21)
OTHER_NAME = (62, 64)


def explain_failure(address: str, tls: Tls | None) -> str | None:
    """Return why a client with `tls` and the server at `address` do not come together, and what to do.

    None where TLS is not the reason, or nobody can be asked: then whatever gRPC said must do.
    """
    host, port = split_address(address, "address")
    try:
        with socket.create_connection((host, port), TIMEOUT_S) as connection:
            if tls is None:
                return _explain_plaintext(connection, address)
            return _explain_tls(connection, host, tls)
    except ssl.SSLCertVerificationError as error:
        return f"the cloud at {address} is not trusted: {_verdict(error)}"
    except ssl.SSLEOFError:  # hung up before any TLS, as a proxy does with nobody behind it
        return None
    except ssl.SSLError as error:
        if error.reason == "WRONG_VERSION_NUMBER":
            return (
                f"the cloud at {address} does not speak TLS; start it with --tls-cert and --tls-key, "
                "or leave out --tls-ca"
            )
        return f"TLS with the cloud at {address} fails: {error.reason or error}"
    except (OSError, UnicodeError):  # the latter for what no name can be
        return None


def _explain_plaintext(connection: socket.socket, address: str) -> str | None:
    """Say so where a handshake would have come about."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # nothing is sent over this connection
    with contextlib.suppress(ssl.SSLError), context.wrap_socket(connection):
        return (
            f"the cloud at {address} speaks TLS, and this side plaintext; give --tls-ca the file of the "
            "authority that signed the cloud's certificate"
        )
    return None


def _explain_tls(connection: socket.socket, host: str, tls: Tls) -> str | None:
    assert tls.ca is not None  # a client has one, or no TLS
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=tls.ca.decode("ascii", "replace"))
    context.set_alpn_protocols(["h2"])
    if tls.cert_file is not None:
        context.load_cert_chain(tls.cert_file, tls.key_file)
    secured = context.wrap_socket(connection, server_hostname=host)
    # A content server begins to talk; one that misses our certificate, or dislikes it, hangs up.
    with secured, contextlib.suppress(ConnectionResetError):
        if secured.recv(1):
            return None
    return _explain_hanging_up(tls)


def _explain_hanging_up(tls: Tls) -> str:
    if tls.cert_file is None or tls.key_file is None:
        return (
            "the cloud ended the connection after the handshake: it wants a certificate from this side; "
            "give --tls-cert and --tls-key"
        )
    fault = certificate_fault(tls.cert_file, tls.key_file)
    return (
        f"the cloud does not accept the certificate --tls-cert {tls.cert_file}: "
        f"{fault or 'the authority that the cloud trusts (its --tls-ca) has not signed it'}; give another one"
    )


def certificate_fault(cert_file: Path, key_file: Path) -> str | None:
    """Return what OpenSSL has against a client's certificate, whoever signed it; None if nothing."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(cert_file, key_file)
    server.verify_mode = ssl.CERT_REQUIRED
    server.load_verify_locations(cafile=cert_file)
    server.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.load_cert_chain(cert_file, key_file)
    client.check_hostname = False
    client.verify_mode = ssl.CERT_NONE
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = client.wrap_bio(down, up), server.wrap_bio(up, down, server_side=True)
    for end in (*ends, *ends):
        try:
            end.do_handshake()
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLCertVerificationError as error:
            return error.verify_message
    return None


def _verdict(error: ssl.SSLCertVerificationError) -> str:
    """Return OpenSSL's words, and what to do about it."""
    words = error.verify_message.rstrip(".")
    now = f"{datetime.now(timezone.utc):%Y-%m-%d %H:%M} UTC"
    if error.verify_code == EXPIRED:
        return f"{words}; renew the cloud's certificate, or set this machine's clock if it is not {now}"
    if error.verify_code == NOT_YET_VALID:
        return f"{words}; set this machine's clock, which says {now}"
    if error.verify_code in UNKNOWN_AUTHORITY:
        return f"{words}; --tls-ca must be the authority that signed the cloud's certificate"
    if error.verify_code in OTHER_NAME:
        return f"{words}; call it by a name that the certificate has, or make one with this name for it"
    return words
