"""`edge-worker plan`: the choices, the fastest first, and what would change them."""

import json
from dataclasses import asdict, replace
from typing import Any

import click
from rich.table import Table

from common.console import table_console
from common.units import Rate, format_duration, format_rate, format_size, resolve_link
from edge_worker.planner import Link, Plan, changes, rank, verdict
from edge_worker.profile_file import Measured

SHOWN = 12
FASTER = (2, 10)


def link_of(known: Link, rate: float | None, rate_down: float | None, latency_s: float | None) -> Link:
    """Return the link of a profile, but for what is given; a preset stands for all that is not."""
    if rate is None and rate_down is None and latency_s is None:
        return known
    wanted = resolve_link(rate, rate_down, latency_s)
    up_bps = wanted.rate_up_bps or known.up_bps
    down_bps = wanted.rate_down_bps or (known.down_bps if rate is None else up_bps)
    is_told = latency_s is not None or (isinstance(rate, Rate) and rate.preset is not None)
    return Link(up_bps=up_bps, down_bps=down_bps, latency_s=wanted.latency_s if is_told else known.latency_s)


def show_plan(measured: Measured, link: Link, edge_memory: int | None, as_json: bool) -> None:
    """Print the choices over `link`, as tables or as one JSON document."""
    ranked = rank(measured.costs, link, edge_memory)
    turns = changes(measured.costs, link.down_bps / link.up_bps, link.latency_s, edge_memory)
    faster = [(times, rank(measured.costs, _faster(link, times), edge_memory)) for times in FASTER]
    if as_json:
        click.echo(json.dumps(_document(measured, link, ranked, turns, faster), indent=2, default=str))
        return
    _print(measured, link, ranked)
    click.echo(verdict(ranked) + ".")
    if not ranked:
        return
    for times, choices in faster:
        gain = ranked[0].epoch_s / choices[0].epoch_s
        click.echo(f"A link {times} times as fast: {choices[0].name}, {gain:.2f} times as fast.")
    click.echo("The best choice by the uplink's rate:")
    for rate, choice in turns:
        click.echo(f"  from {format_rate(rate)}: {choice.name}")


def _faster(link: Link, times: float) -> Link:
    return replace(link, up_bps=link.up_bps * times, down_bps=link.down_bps * times)


def _print(measured: Measured, link: Link, ranked: list[Plan]) -> None:
    model, dataset = measured.settings.get("model"), measured.settings.get("dataset")
    table = Table(title=f"{model} on {dataset}, uplink of {format_rate(link.up_bps)}: one epoch")
    for column in ("choice", "time", "edge", "link", "cloud", "sent", "memory"):
        table.add_column(column, no_wrap=True, justify="left" if column == "choice" else "right")
    for each in ranked[:SHOWN]:
        busy = (each.edge_s, each.link_s, each.cloud_s)
        table.add_row(
            each.name,
            format_duration(each.epoch_s),
            *(format_duration(seconds) if seconds else "-" for seconds in busy),
            format_size(round(each.bytes_up)) if each.bytes_up else "-",
            format_size(each.memory_bytes),
        )
    table_console(piped=120).print(table)
    if len(ranked) > SHOWN:
        click.echo(f"({len(ranked) - SHOWN} more; --json has all)")
    click.echo(f"edge: {measured.edge}; cloud: {measured.cloud}; measured {measured.made}")


def _document(
    measured: Measured,
    link: Link,
    ranked: list[Plan],
    turns: list[tuple[float, Plan]],
    faster: list[tuple[int, list[Plan]]],
) -> dict[str, Any]:
    return {
        "settings": measured.settings,
        "edge": measured.edge,
        "cloud": measured.cloud,
        "link": asdict(link),
        "verdict": verdict(ranked),
        "plans": [{**asdict(each), "bottleneck": each.bottleneck} for each in ranked],
        "changes": [{"from_bps": rate, "choice": choice.name} for rate, choice in turns],
        "faster_link": [
            {"times": times, "choice": choices[0].name, "epoch_s": choices[0].epoch_s}
            for times, choices in faster
            if choices
        ],
    }
