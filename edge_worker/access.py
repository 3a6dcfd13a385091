"""How the edge reaches its cloud, and shows there who it is."""

from dataclasses import dataclass
from pathlib import Path

from common.endpoint import Endpoint
from common.errors import ConfigError
from common.flags import flag
from common.named_files import FILE, read_secret
from common.tls import ClientTls, read_client_tls
from common.tokens import TOKEN, WANTED


@dataclass(frozen=True, slots=True, kw_only=True)
class Access(ClientTls):
    """Flags of every command that calls the cloud."""

    token_file: Path | None = flag(None, "file that holds the token by which the cloud knows us", type=FILE)


def endpoint(cloud: str, access: Access) -> Endpoint:
    """Return the cloud at HOST:PORT with what `access` names.

    Raises:
        ConfigError: a file cannot be read or does not fit, or a flag is missing beside another one.
    """
    token = None if access.token_file is None else _read_token(access.token_file)
    return Endpoint(cloud, read_client_tls(access), token)


def _read_token(path: Path) -> str:
    token = read_secret(path, "--token-file").decode("ascii", "replace").strip()
    if not TOKEN.fullmatch(token):  # which is not shown: it may be a mistyped secret
        raise ConfigError(f"--token-file {path} must hold one token, {WANTED}")
    return token
