"""`cloud-worker`: the command line of the cloud."""

import click

from cloud_worker.config import ServeConfig
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
