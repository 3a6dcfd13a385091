"""`cloud-worker sessions list`: one line for each session that is kept."""

import json
from dataclasses import asdict
from pathlib import Path

import click
from rich.table import Table
from rich.text import Text

from cloud_worker.kept import KeptSession, list_sessions
from common.console import table_console
from common.logs import one_line
from common.units import format_size


def show_sessions(run_dir: Path, as_json: bool) -> None:
    """Print what `run_dir` keeps; raises ConfigError where there is no such directory."""
    kept = list_sessions(run_dir)
    if as_json:
        click.echo(json.dumps([asdict(each) for each in kept], indent=2))
        return
    table = Table()
    table.add_column("session", no_wrap=True)  # its id is what `rm` wants
    for name in ("owner", "model", "split", "batches", "size", "changed (UTC)"):
        table.add_column(name)
    for each in kept:
        # As it is: certificates and token files name owners, and rich obeys what stands in brackets.
        table.add_row(*(Text(one_line(cell)) for cell in _row(each)))
    table_console(piped=160).print(table)


def _row(kept: KeptSession) -> tuple[str, ...]:
    tail = format_size(kept.bytes), kept.changed.removesuffix("+00:00").replace("T", " ")
    if kept.model is None or kept.split is None:
        return kept.session, "?", "damaged", "", "", *tail
    done = " finished" if kept.finished else ""
    return (
        kept.session,
        kept.owner or "-",
        kept.model,
        kept.split,
        f"{kept.batches}/{kept.total_batches}{done}",
        *tail,
    )
