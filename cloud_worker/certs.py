"""`cloud-worker certs init`: certificates for a server and its edges, one folder for each machine.

DIR/ca/ca.crt, ca.key                         the authority: its key signs, and stays where it was made
DIR/server/ca.crt, server.crt, server.key     for the server
DIR/edges/NAME/ca.crt, edge.crt, edge.key     for the edge NAME; the name is its identity at the cloud

A folder is made whole or not at all, and never changed: what is there is kept.
"""

import ipaddress
import os
import re
import shutil
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path

from cloud_worker.authority import CLIENT, DAYS, SERVER, Authority, read_certificate
from common.errors import CheckpointError, ConfigError

# No edge has a space in its name, so that no edge can take the server's.
SERVER_NAME = "Headwater cloud"
# `cloud-worker health` on the server itself asks by one of these.
OWN_HOSTS = ("localhost", "127.0.0.1", "::1")

_EDGE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_HOST_NAME = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9._-]{0,251}[A-Za-z0-9])?")


def init_certs(
    out: Path, hosts: Sequence[str], edges: Sequence[str], days: int, now: datetime | None = None
) -> list[str]:
    """Make what is missing in `out`; return what to tell the user.

    Raises:
        ConfigError: a name cannot be, or the server's certificate there is for other hosts.
        CheckpointError: a file cannot be read or written.
    """
    now = now or datetime.now(timezone.utc)
    if not 1 <= days <= DAYS:
        raise ConfigError(f"--days must be 1 to {DAYS}, which the authority lasts, got {days}")
    hosts = [_checked_host(host) for host in hosts]
    for edge in edges:
        _check_edge(edge)
    server = out / "server"
    _check_server(server, hosts)

    made = not (out / "ca").exists()
    authority = Authority.new(now) if made else _load_authority(out / "ca")
    ca = {"ca.crt": authority.certificate}
    if made:
        _write_folder(out / "ca", {**ca, "ca.key": authority.key})
    if not server.exists():
        # Also a client's: the server asks itself whether it serves.
        names = dict.fromkeys([*hosts, *OWN_HOSTS])
        certificate, key = authority.sign(SERVER_NAME, [SERVER, CLIENT], [*names], days, now)
        _write_folder(server, {**ca, "server.crt": certificate, "server.key": key})
    for edge in edges:
        if not (out / "edges" / edge).exists():
            certificate, key = authority.sign(edge, [CLIENT], [], days, now)
            _write_folder(out / "edges" / edge, {**ca, "edge.crt": certificate, "edge.key": key})
    return _what_to_do(out, hosts, edges)


def _checked_host(host: str) -> str:
    """Return a host as a certificate names it."""
    try:
        return str(ipaddress.ip_address(host.strip("[]")))
    except ValueError:
        pass
    if not _HOST_NAME.fullmatch(host):
        raise ConfigError(
            f"--host wants the name or IP address that edges give with --cloud, without port, got {host!r}"
        )
    return host


def _check_edge(edge: str) -> None:
    if not _EDGE_NAME.fullmatch(edge):
        raise ConfigError(f"--edge wants up to 64 letters, digits, dots, dashes or underscores, got {edge!r}")


def _check_server(folder: Path, hosts: Sequence[str]) -> None:
    """Refuse to leave the server without a certificate for `hosts`."""
    if not folder.exists():
        if not hosts:
            raise ConfigError("--host is missing: the name or IP address by which edges reach the server")
        return
    known = read_certificate(_read(folder / "server.crt"))[1]
    if missing := [host for host in hosts if host not in known]:
        raise ConfigError(
            f"{folder / 'server.crt'} is there already, and not for {', '.join(missing)}; "
            f"move {folder} away and name all hosts to make another"
        )


def _load_authority(folder: Path) -> Authority:
    return Authority.load(_read(folder / "ca.crt"), _read(folder / "ca.key"))


def _what_to_do(out: Path, hosts: Sequence[str], edges: Sequence[str]) -> list[str]:
    """Return what was made, what to copy where, and the commands to run there."""
    server = out / "server"
    lines = [
        f"{out / 'ca'}: keep ca.key here, and copy it nowhere: whoever has it can be anyone",
        f"{server} (until {_end(server / 'server.crt')}): copy it to the server, and run there",
        f"  cloud-worker serve --listen 0.0.0.0:50051 {_flags(server.name, 'server')}",
    ]
    cloud = f"[{hosts[0]}]" if hosts and ":" in hosts[0] else hosts[0] if hosts else "SERVER"
    for edge in edges:
        folder = out / "edges" / edge
        lines += [
            f"{folder} (until {_end(folder / 'edge.crt')}): copy it to {edge}, and run there",
            f"  edge-worker train --cloud {cloud}:50051 {_flags(edge, 'edge')} ...",
        ]
    lines.append(
        "what was there already is kept; to renew a certificate, move its folder away and run this again"
    )
    return lines


def _flags(folder: str, name: str) -> str:
    return f"--tls-ca {folder}/ca.crt --tls-cert {folder}/{name}.crt --tls-key {folder}/{name}.key"


def _end(certificate: Path) -> str:
    return f"{read_certificate(_read(certificate))[0]:%Y-%m-%d}"


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}") from error


def _write_folder(folder: Path, files: dict[str, bytes]) -> None:
    """Make `folder` with these files; keys are for their owner only."""
    # A dot first: no edge has such a name.
    partial = folder.with_name(f".{folder.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)  # of a try that was cut short
        partial.mkdir(parents=True, mode=0o700)
        for name, data in files.items():
            mode = 0o600 if name.endswith(".key") else 0o644
            handle = os.open(partial / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        partial.rename(folder)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise CheckpointError(f"cannot write {folder}: {error.strerror}") from error
