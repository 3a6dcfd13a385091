"""`cloud-worker`: the command line of the cloud."""

from pathlib import Path

import click

from cloud_worker.config import ServeConfig
from common.errors import ConfigError
from common.flags import Commands, options_of
from common.logs import set_up_logging


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
@click.argument("address", default="127.0.0.1:50051")
def health(address: str) -> None:
    """Ask the server at ADDRESS whether it serves; exit code 0 where it does."""
    from cloud_worker.health import check_health

    click.echo(check_health(address))


@main.group()
def certs() -> None:
    """Certificates for TLS, with an authority of your own."""


@certs.command()
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), required=True, help="Their folder.")
@click.option("--host", "hosts", multiple=True, help="Name or IP address of the server; may be repeated.")
@click.option("--edge", "edges", multiple=True, help="Name of an edge, its identity; may be repeated.")
@click.option("--days", default=825, show_default=True, help="How long certificates are valid.")
def init(out: Path, hosts: tuple[str, ...], edges: tuple[str, ...], days: int) -> None:
    """Make an authority, a server's certificate, and one for each edge.

    The same --out again adds edges; what is there is kept.
    """
    try:
        from cloud_worker.certs import init_certs
    except ImportError as error:
        raise ConfigError(
            f"certificates are made with the package {error.name}; pip install 'headwater[cloud]'"
        ) from error

    for line in init_certs(out, hosts, edges, days):
        click.echo(line)
