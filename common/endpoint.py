"""A cloud as its callers reach it: plaintext, TLS or mutual TLS, with or without a token."""

import logging
from collections.abc import Sequence
from typing import Any, NamedTuple

import grpc

from common.address import is_loopback, split_address
from common.handshake import explain_failure
from common.tls import Tls
from common.tokens import HEADER, PREFIX

log = logging.getLogger(__name__)


class Endpoint:
    """An address, and what to show there.

    Args:
        address: HOST:PORT.
        tls: None for plaintext.
        token: sent with every call; None where the cloud wants none.
    """

    def __init__(self, address: str, tls: Tls | None = None, token: str | None = None) -> None:
        self.address = address
        self._tls = tls
        self._token = token

    def open(self, options: Sequence[tuple[str, Any]] = ()) -> grpc.Channel:
        """Return a new channel; the caller closes it."""
        if self._tls is None:
            channel = grpc.insecure_channel(self.address, options)
        else:
            credentials = grpc.ssl_channel_credentials(self._tls.ca, self._tls.key, self._tls.certificate)
            channel = grpc.secure_channel(self.address, credentials, options)
        if self._token is not None:
            channel = grpc.intercept_channel(channel, _WithToken(self._token))
        return channel

    def warn_of_clear(self) -> None:
        """Log what others on the way can read, if they can."""
        if self._tls is None and not is_loopback(split_address(self.address, "--cloud")[0]):
            token = "" if self._token is None else ", and so does the token"
            log.warning(
                "no TLS to %s: labels and activations travel in clear%s; use --tls-ca or a trusted network",
                self.address,
                token,
            )

    def explain_failure(self) -> str | None:
        """Return why TLS keeps this side from the cloud; None where that is not the reason."""
        return explain_failure(self.address, self._tls)


class _Details(NamedTuple):
    """A call with other metadata; gRPC asks for no more than these attributes."""

    method: Any
    timeout: Any
    metadata: Any
    credentials: Any
    wait_for_ready: Any
    compression: Any


class _WithToken(
    grpc.UnaryUnaryClientInterceptor,  # type: ignore[type-arg]  # generic in stubs only
    grpc.UnaryStreamClientInterceptor,  # type: ignore[type-arg]
    grpc.StreamUnaryClientInterceptor,  # type: ignore[type-arg]
    grpc.StreamStreamClientInterceptor,  # type: ignore[type-arg]
):
    """Shows a token with every call."""

    def __init__(self, token: str) -> None:
        self._header = (HEADER, PREFIX + token)

    def _intercept(self, continuation: Any, details: Any, request: Any) -> Any:
        metadata = [*(details.metadata or ()), self._header]
        return continuation(
            _Details(
                details.method,
                details.timeout,
                metadata,
                details.credentials,
                details.wait_for_ready,
                details.compression,
            ),
            request,
        )

    # All four kinds of calls alike; the stubs name the arguments of each.
    intercept_unary_unary = intercept_unary_stream = _intercept  # type: ignore[assignment]
    intercept_stream_unary = intercept_stream_stream = _intercept  # type: ignore[assignment]
