"""Who may come in, and whether others can read along: what the files say that the flags name."""

import logging
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone

import grpc

from cloud_worker.access import Access, read_tokens
from cloud_worker.config import ServeConfig
from common.tls import Tls, read_server_tls

log = logging.getLogger(__name__)

WARN_BEFORE_END = timedelta(days=30)


@dataclass(frozen=True, slots=True, kw_only=True)
class Door:
    """The way into a server.

    Attributes:
        tls: None for plaintext.
        access: tells who a caller is.
    """

    tls: Tls | None = None
    access: Access = field(default_factory=Access)

    @classmethod
    def read(cls, config: ServeConfig) -> "Door":
        """Read the files that `config` names; raises ConfigError where one does not fit."""
        tls = read_server_tls(config.tls_ca, config.tls_cert, config.tls_key)
        tokens = None if config.tokens is None else read_tokens(config.tokens)
        if tls is None and not config.on_loopback:
            log.warning(
                "no TLS on %s: labels and activations travel in clear%s; use --tls-cert or a trusted network",
                config.listen,
                "" if tokens is None else ", and so do tokens",
            )
        if tls is not None:
            _warn_before_end(tls, config)
        return cls(tls=tls, access=Access(certificates=config.tls_ca is not None, tokens=tokens))

    @property
    def credentials(self) -> grpc.ServerCredentials | None:
        """What gRPC makes of the files; None for plaintext."""
        if self.tls is None or self.tls.key is None or self.tls.certificate is None:
            return None
        pair = (self.tls.key, self.tls.certificate)
        return grpc.ssl_server_credentials([pair], self.tls.ca, require_client_auth=self.tls.ca is not None)


def _warn_before_end(tls: Tls, config: ServeConfig) -> None:
    """Log that a certificate has ended, or soon will: edges would be the first to notice."""
    from cloud_worker.authority import read_certificate

    assert tls.certificate is not None  # a server with TLS has one
    end, _ = read_certificate(tls.certificate)
    left = end - datetime.now(timezone.utc)
    if left <= timedelta(0):
        log.warning("--tls-cert %s ended on %s; edges refuse it", config.tls_cert, end.date())
    elif left < WARN_BEFORE_END:
        log.warning("--tls-cert %s ends on %s; edges will refuse it then", config.tls_cert, end.date())
