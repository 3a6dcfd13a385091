"""A private certificate authority: makes itself, and signs certificates. The only reader of `cryptography`.

All keys are EC P-256, which small devices verify quickly.
"""

import ipaddress
import secrets
from collections.abc import Sequence
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from common.errors import ConfigError

DAYS = 3652
# A device without a battery for its clock may start some hours in the past.
BACKDATED = timedelta(days=1)
SERVER = ExtendedKeyUsageOID.SERVER_AUTH
CLIENT = ExtendedKeyUsageOID.CLIENT_AUTH

_NOTHING = dict.fromkeys(
    (
        "digital_signature",
        "content_commitment",
        "key_encipherment",
        "data_encipherment",
        "key_agreement",
        "key_cert_sign",
        "crl_sign",
        "encipher_only",
        "decipher_only",
    ),
    False,
)


class Authority:
    """An authority's certificate and key."""

    def __init__(self, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
        self._certificate = certificate
        self._key = key

    @classmethod
    def new(cls, now: datetime) -> "Authority":
        """Make an authority that is valid for ten years."""
        key = ec.generate_private_key(ec.SECP256R1())
        # With a number, so that two authorities can be told apart where a certificate comes from the other.
        name = _name(f"Headwater authority {secrets.token_hex(4)}")
        may = {**_NOTHING, "key_cert_sign": True, "crl_sign": True}
        certificate = (
            _builder(name, name, key, now, now + timedelta(days=DAYS))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(x509.KeyUsage(**may), critical=True)
            .sign(key, hashes.SHA256())
        )
        return cls(certificate, key)

    @classmethod
    def load(cls, certificate: bytes, key: bytes) -> "Authority":
        """Read what `certificate` and `key` gave; raises ConfigError where they are not that."""
        try:
            private = serialization.load_pem_private_key(key, password=None)
            public = x509.load_pem_x509_certificate(certificate)
        except (ValueError, TypeError) as error:
            raise ConfigError(f"the authority's files do not read: {error}") from error
        if not isinstance(private, ec.EllipticCurvePrivateKey) or private.public_key() != public.public_key():
            raise ConfigError("the authority's ca.key does not belong to its ca.crt")
        return cls(public, private)

    @property
    def certificate(self) -> bytes:
        """What everyone may have, as PEM."""
        return self._certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def key(self) -> bytes:
        """What nobody else may have, as PEM."""
        return _key_bytes(self._key)

    def sign(
        self,
        name: str,
        uses: Sequence[x509.ObjectIdentifier],
        hosts: Sequence[str],
        days: int,
        now: datetime,
    ) -> tuple[bytes, bytes]:
        """Return a new certificate and its key, as PEM; it ends with the authority at the latest.

        Args:
            name: its common name.
            uses: SERVER, CLIENT or both.
            hosts: names and IP addresses that it stands for.
            days: how long it is valid from `now` on.
            now: with its time zone.
        """
        end = self._certificate.not_valid_after_utc
        if end <= now:
            raise ConfigError(f"the authority ended on {end:%Y-%m-%d}; make a new one with another --out")
        key = ec.generate_private_key(ec.SECP256R1())
        may = {**_NOTHING, "digital_signature": True}
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        builder = (
            _builder(_name(name), self._certificate.subject, key, now, min(end, now + timedelta(days=days)))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.KeyUsage(**may), critical=True)
            .add_extension(x509.ExtendedKeyUsage(uses), critical=False)
            .add_extension(issuer, critical=False)
        )
        if hosts:
            builder = builder.add_extension(
                x509.SubjectAlternativeName([_general_name(host) for host in hosts]), critical=False
            )
        certificate = builder.sign(self._key, hashes.SHA256())
        return certificate.public_bytes(serialization.Encoding.PEM), _key_bytes(key)


def read_certificate(pem: bytes) -> tuple[datetime, frozenset[str]]:
    """Return the end of a certificate and the hosts that it stands for; raises ConfigError if it is none."""
    try:
        certificate = x509.load_pem_x509_certificate(pem)
        hosts = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return certificate.not_valid_after_utc, frozenset()
    except ValueError as error:
        raise ConfigError(f"a certificate does not read: {error}") from error
    return certificate.not_valid_after_utc, frozenset(str(host.value) for host in hosts)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, now: datetime, end: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATED)
        .not_valid_after(end)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _key_bytes(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
