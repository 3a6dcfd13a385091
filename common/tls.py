"""The files behind TLS, checked before anything is done with them."""

import ssl
from dataclasses import dataclass
from pathlib import Path

from common.errors import ConfigError
from common.flags import flag
from common.named_files import FILE, read_named, read_secret


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientTls:
    """Flags of whoever calls a server."""

    tls_ca: Path | None = flag(
        None, "encrypt, and trust only a cloud with a certificate of this authority (PEM file)", type=FILE
    )
    tls_cert: Path | None = flag(
        None, "certificate to show to a cloud that asks for one (PEM file); with --tls-key", type=FILE
    )
    tls_key: Path | None = flag(None, "key of --tls-cert (PEM file)", type=FILE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """One side's PEM files.

    Attributes:
        ca: the authorities whose certificates are good on the other side; None where it need not show any.
        certificate, key: what this side shows; both None where it shows none.
        cert_file, key_file: where these two come from.
    """

    ca: bytes | None = None
    certificate: bytes | None = None
    key: bytes | None = None
    cert_file: Path | None = None
    key_file: Path | None = None


def read_client_tls(flags: ClientTls) -> Tls | None:
    """Return what a client needs, or None where it is to speak plaintext.

    Raises:
        ConfigError: a file cannot be read or does not fit, or a flag is missing beside another one.
    """
    if flags.tls_ca is None and (flags.tls_cert or flags.tls_key):
        raise ConfigError(
            "--tls-cert is for TLS, which --tls-ca turns on; give the file of the authority that signed the "
            "cloud's certificate"
        )
    return _read(flags.tls_ca, flags.tls_cert, flags.tls_key)


def read_server_tls(ca: Path | None, cert: Path | None, key: Path | None) -> Tls | None:
    """The same for a server, which shows a certificate always and asks for one where there is `ca`."""
    if ca is not None and cert is None:
        raise ConfigError(
            "--tls-ca asks edges for certificates, which takes a certificate of the server's own; "
            "give --tls-cert and --tls-key, too"
        )
    return _read(ca, cert, key)


def _read(ca: Path | None, cert: Path | None, key: Path | None) -> Tls | None:
    if (cert is None) is not (key is None):
        given, missing = ("--tls-cert", "--tls-key") if cert else ("--tls-key", "--tls-cert")
        raise ConfigError(f"{given} is given without {missing}; a certificate and its key go together")
    tls = Tls(
        ca=None if ca is None else read_named(ca, "--tls-ca"),
        certificate=None if cert is None else read_named(cert, "--tls-cert"),
        key=None if key is None else read_secret(key, "--tls-key"),
        cert_file=cert,
        key_file=key,
    )
    _check(tls, ca)
    return None if tls == Tls() else tls


def _check(tls: Tls, ca: Path | None) -> None:
    """Have OpenSSL look at what gRPC would refuse without a word."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if ca is not None:
        try:
            context.load_verify_locations(cafile=ca)
        except ssl.SSLError as error:
            raise ConfigError(
                f"--tls-ca {ca} holds no certificate; give a PEM file such as ca.crt"
            ) from error
    if tls.cert_file is None or tls.key_file is None:
        return
    try:
        # With a password, or OpenSSL would ask for one on the terminal.
        context.load_cert_chain(tls.cert_file, tls.key_file, password="")
    except ssl.SSLError as error:
        wrong = (
            f"--tls-key {tls.key_file} is not the key of --tls-cert {tls.cert_file}"
            if error.reason == "KEY_VALUES_MISMATCH"
            else f"--tls-cert {tls.cert_file} and --tls-key {tls.key_file} are no certificate and key"
        )
        raise ConfigError(
            f"{wrong}; give two PEM files that belong together, the key not encrypted"
        ) from error
