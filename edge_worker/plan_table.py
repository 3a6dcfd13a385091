"""`edge-worker plan`: the choices, the fastest first, and what would change them."""

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import click
from rich.table import Table

from common.console import table_console
from common.errors import ConfigError
from common.units import format_duration, format_rate, format_size
from edge_worker.costs import FASTEST_BPS, Costs, Link, consistent
from edge_worker.planner import CHAIN, METHOD, NO_TIME, Plan, best_of, changes, none_fits, rank, verdict
from edge_worker.profile_file import Measured

SHOWN = 8
FASTER = (2, 10)
BEST = " *"


def show_plan(measured: Measured, link: Link, edge_memory: int | None, as_json: bool) -> None:
    """Print the choices over `link`, as tables or as one JSON document.

    Raises:
        ConfigError: none of them fits into so many bytes of the edge's memory.
    """
    ranked = rank(measured.costs, link, edge_memory)
    turns = changes(measured.costs, link.down_bps / link.up_bps, link.latency_s, edge_memory)
    faster = [(times, rank(measured.costs, _faster(link, times), edge_memory)) for times in FASTER]
    everything = rank(measured.costs, link)
    left_out = [each for each in everything if each not in ranked]
    told = verdict(ranked) if ranked else none_fits(everything, edge_memory or 0)
    if as_json:
        document = _document(measured, link, ranked, left_out, told, turns, faster)
        click.echo(json.dumps(document, indent=2, default=str))
    if not ranked:
        raise ConfigError(told)
    if as_json:
        return
    _print(measured, link, ranked)
    click.echo(told + ".")
    if left_out:
        click.echo(_what_does_not_fit(left_out, ranked[0], edge_memory or 0))
    if best_of(ranked) != ranked[0]:
        click.echo(f"Of widths that take next to no more time, under {NO_TIME:.0%}, the widest is the best.")
    changed = [
        each["split"]
        for each in _changed(measured.costs)
        if abs(each["planned_s"] / each["measured_s"] - 1) >= NO_TIME
    ]
    if changed:
        click.echo(
            "As measured, the cloud took longer from a later split point on than from an earlier one: at "
            f"{', '.join(dict.fromkeys(changed))} the plan reckons with the median of such times, "
            "and --json has both."
        )
    click.echo(
        "This is about time alone: what fewer bits and an earlier cut cost in accuracy, only training tells."
    )
    for times, choices in faster:
        gain = ranked[0].epoch_s / choices[0].epoch_s
        would = (
            "gain nothing"
            if gain < 1 + NO_TIME
            else f"be {gain:.2f} times as fast, with {best_of(choices).name}"
        )
        click.echo(f"With a link {times} times as fast, training would {would}.")
    click.echo("The best choice by the uplink's rate, the downlink's in proportion:")
    for rate, choice in turns:
        click.echo(f"  from {format_rate(rate)}: {choice.name}")


def _what_does_not_fit(left_out: list[Plan], first: Plan, edge_memory: int) -> str:
    """Say what more memory would bring."""
    told = f"Left out by --edge-memory {format_size(edge_memory)}: {len(left_out)}"
    fastest = left_out[0]
    if fastest.epoch_s * (1 + NO_TIME) >= first.epoch_s:
        return f"{told}, none of them faster."
    return (
        f"{told}; the fastest of them, {fastest.name}, takes {format_duration(fastest.epoch_s)} and "
        f"{format_size(fastest.memory_bytes)}."
    )


def _changed(costs: Costs) -> list[dict[str, Any]]:
    """Return where the plan takes another time of the cloud than was measured; seconds of a batch."""
    found: list[tuple[str, str, float, float]] = []
    for was, is_now in zip(costs.splits, consistent(costs.splits), strict=True):
        found.append((METHOD, was.split, was.cloud_s, is_now.cloud_s))
        if was.chain is not None and is_now.chain is not None:
            found.append((CHAIN, was.split, was.chain.cloud_s, is_now.chain.cloud_s))
    return [
        {"strategy": strategy, "split": split, "measured_s": measured_s, "planned_s": planned_s}
        for strategy, split, measured_s, planned_s in found
        if measured_s != planned_s
    ]


def _faster(link: Link, times: float) -> Link:
    return replace(link, up_bps=link.up_bps * times, down_bps=link.down_bps * times)


def _print(measured: Measured, link: Link, ranked: list[Plan]) -> None:
    """Print two tables, so that either fits a narrow terminal."""
    best = best_of(ranked)
    told = (*ranked[:SHOWN], *_bests(ranked), best)
    shown = [each for each in ranked if each in told]
    model, dataset = measured.settings.get("model"), measured.settings.get("dataset")
    down = "no bound" if link.down_bps >= FASTEST_BPS else format_rate(link.down_bps)
    rates = f"{format_rate(link.up_bps)} up, {down} down, {format_duration(link.latency_s)}"
    times = _table(
        f"{model} on {dataset}, {rates}: one of {measured.costs.epochs} epochs",
        ("time", "edge", "link", "cloud"),
    )
    sizes = _table(
        "what goes up and down in an epoch, and what it takes of the edge's memory", ("up", "down", "memory")
    )
    for each in shown:
        choice = (each.strategy, (each.details or "") + (BEST if each == best else ""))
        busy = (
            format_duration(seconds) if seconds else "-"
            for seconds in (each.edge_s, each.link_s, each.cloud_s)
        )
        times.add_row(*choice, format_duration(each.epoch_s), *busy)
        sent = (format_size(round(nbytes)) if nbytes else "-" for nbytes in (each.bytes_up, each.bytes_down))
        sizes.add_row(*choice, *sent, format_size(each.memory_bytes))
    for table in (times, sizes):
        table_console().print(table)
    more = f"; {len(ranked) - len(shown)} more, --json has all" if len(ranked) > len(shown) else ""
    click.echo(f"(*: the best{more})")
    rounds = (
        " once; where others use a machine, --rounds 3 is surer"
        if measured.rounds == 1
        else f", {measured.rounds} rounds, apart by up to {measured.apart:.0%}"
    )
    click.echo(f"edge: {measured.edge}; cloud: {measured.cloud}; measured {measured.made}{rounds}")


def _bests(ranked: list[Plan]) -> list[Plan]:
    """Return the fastest choice of each strategy."""
    firsts: dict[tuple[str, str | None], Plan] = {}
    for each in ranked:
        firsts.setdefault((each.strategy, each.images), each)
    return list(firsts.values())


def _table(title: str, columns: Sequence[str]) -> Table:
    table = Table(title=title)
    for column in ("strategy", "", *columns):
        left = column in ("strategy", "")
        table.add_column(column, no_wrap=True, justify="left" if left else "right")
    return table


def _document(
    measured: Measured,
    link: Link,
    ranked: list[Plan],
    left_out: list[Plan],
    told: str,
    turns: list[tuple[float, Plan]],
    faster: list[tuple[int, list[Plan]]],
) -> dict[str, Any]:
    return {
        "settings": measured.settings,
        "edge": measured.edge,
        "cloud": measured.cloud,
        "made": measured.made,
        "rounds": measured.rounds,
        "rounds_apart": measured.apart,
        "link": asdict(link),
        "cloud_times_changed": _changed(measured.costs),
        "verdict": told,
        "plans": [_in_json(each) for each in ranked],
        "left_out": [_in_json(each) for each in left_out],
        "changes": [{"from_bps": rate, "choice": choice.name} for rate, choice in turns],
        "faster_link": [
            {"times": times, "choice": best_of(choices).name, "epoch_s": best_of(choices).epoch_s}
            for times, choices in faster
            if choices
        ],
    }


def _in_json(plan: Plan) -> dict[str, Any]:
    return {**asdict(plan), "bottleneck": plan.bottleneck}
