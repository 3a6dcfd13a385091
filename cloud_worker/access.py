"""Who calls: by the name in a client certificate, or by the token that is shown."""

import hashlib
import hmac
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import grpc

from common.errors import ConfigError, UnknownCallerError
from common.named_files import read_secret
from common.tokens import HEADER, PREFIX, TOKEN, WANTED

# Whoever calls where neither is asked for.
ANYONE = ""


class Access:
    """Tells who a caller is, and refuses strangers.

    Args:
        certificates: TLS has asked for a client certificate, and checked it.
        tokens: name of the caller for the digest of each token; None where no token is asked for.
    """

    def __init__(self, certificates: bool = False, tokens: Mapping[bytes, str] | None = None) -> None:
        self._certificates = certificates
        self._tokens = tokens

    def identify(self, context: grpc.ServicerContext) -> str:
        """Return the caller's name, or ANYONE where nobody has to say who they are.

        Raises:
            UnknownCallerError: no token, or one that is not known; a certificate that names nobody.
        """
        if self._certificates:
            return _name_in_certificate(context)
        if self._tokens is not None:
            return self._name_of_token(context)
        return ANYONE

    def _name_of_token(self, context: Any) -> str:
        shown = [value for name, value in context.invocation_metadata() if name == HEADER]
        if not shown:
            raise UnknownCallerError("this cloud asks for a token; give --token-file")
        digest = _digest(str(shown[0]).removeprefix(PREFIX))
        found = None
        assert self._tokens is not None
        # All of them, always: the time it takes tells nothing.
        for known, name in self._tokens.items():
            if hmac.compare_digest(known, digest):
                found = name
        if found is None or len(shown) > 1 or not str(shown[0]).startswith(PREFIX):
            raise UnknownCallerError("this cloud does not know the token; give --token-file the right one")
        return found


def _name_in_certificate(context: Any) -> str:
    names = context.auth_context().get("x509_common_name", [])
    if len(names) != 1 or not names[0]:
        raise UnknownCallerError(
            "the client certificate must have one common name, the edge's; "
            "make one with cloud-worker certs init --edge NAME"
        )
    return str(names[0].decode("utf-8", "replace"))


def read_tokens(path: Path) -> dict[bytes, str]:
    """Read lines of NAME TOKEN; return the name for the digest of each token.

    A name may have several tokens, so that one can be replaced while the other is still in use.

    Raises:
        ConfigError: the file cannot be read or holds no token, or a line says something else; no message
            shows what may be a token.
    """
    names: dict[bytes, str] = {}
    for number, line in enumerate(read_secret(path, "--tokens").decode("utf-8", "replace").splitlines(), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if len(words) != 2 or not TOKEN.fullmatch(words[1]):
            raise ConfigError(f"--tokens {path}, line {number}, must be NAME TOKEN, the token of {WANTED}")
        name, digest = words[0], _digest(words[1])
        if names.setdefault(digest, name) != name:
            raise ConfigError(
                f"--tokens {path}, line {number}, gives {name} the token of {names[digest]}; "
                "each edge needs one of its own"
            )
    if not names:
        raise ConfigError(f"--tokens {path} holds no token; add lines of NAME TOKEN")
    return names


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
