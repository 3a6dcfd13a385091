"""`cloud-worker`: the command line of the cloud."""

from pathlib import Path

import click

from cloud_worker.config import ServeConfig
from common.address import ADDRESS
from common.endpoint import Endpoint
from common.errors import ConfigError
from common.flags import Commands, options_of
from common.logs import set_up_logging
from common.tls import ClientTls, read_client_tls
from common.units import format_size

_run_dir = click.option(
    "--run-dir",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("runs/cloud"),
    show_default=True,
    help="That of cloud-worker serve.",
)


@click.group(cls=Commands, context_settings={"auto_envvar_prefix": "HEADWATER_CLOUD"})
@click.version_option(package_name="headwater")
def main() -> None:
    """Train the backs of networks whose fronts train at the edge."""


@main.command()
@options_of(ServeConfig)
def serve(config: ServeConfig, given: frozenset[str]) -> None:
    """Serve edges until SIGTERM; what they have trained is saved then, and resumed at the next start."""
    # Imported here: `--help` need not wait for torch.
    from cloud_worker.server import serve as run_server

    set_up_logging(config.log_level)
    run_server(config)


@main.command()
@click.argument("address", type=ADDRESS, default="127.0.0.1:50051")
@options_of(ClientTls)
def health(tls: ClientTls, given: frozenset[str], address: str) -> None:
    """Ask the server at ADDRESS whether it serves; exit code 0 where it does."""
    from cloud_worker.health import check_health

    click.echo(check_health(Endpoint(address, read_client_tls(tls))))


@main.group()
def sessions() -> None:
    """What the cloud keeps of its edges' runs."""


@sessions.command("list")
@_run_dir
@click.option("--json", is_flag=True, help="One JSON document instead of a table.")
def list_(run_dir: Path, json: bool) -> None:
    """List the sessions, the last changed first; also while a server runs."""
    from cloud_worker.sessions_table import show_sessions

    show_sessions(run_dir, as_json=json)


@sessions.command()
@_run_dir
@click.argument("session_ids", metavar="ID...", nargs=-1, required=True)
def rm(run_dir: Path, session_ids: tuple[str, ...]) -> None:
    """Delete sessions with all that was trained in them; no server may run."""
    from cloud_worker.kept import remove_sessions

    for session_id, size in remove_sessions(run_dir, session_ids).items():
        click.echo(f"removed {session_id} ({format_size(size)})")


@main.group()
def certs() -> None:
    """Certificates for TLS, with an authority of your own."""


@certs.command()
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), required=True, help="Their folder.")
@click.option("--host", multiple=True, help="Name or IP address of the server; may be repeated.")
@click.option("--edge", multiple=True, help="Name of an edge, its identity; may be repeated.")
@click.option("--days", default=825, show_default=True, help="How long certificates are valid.")
def init(out: Path, host: tuple[str, ...], edge: tuple[str, ...], days: int) -> None:
    """Make an authority, a server's certificate, and one for each edge.

    The same --out again adds edges; what is there is kept.
    """
    try:
        from cloud_worker.certs import init_certs
    except ImportError as error:
        raise ConfigError(
            f"certificates are made with the package {error.name}; pip install 'headwater[cloud]'"
        ) from error

    for line in init_certs(out, host, edge, days):
        click.echo(line)
