"""`edge-worker compare`: trains the same work by each strategy over each link, beside what the plan expects.

OUT/profile.json    what the plan reckons with
OUT/cells/<cell>/   the run directory of each training
OUT/report.*        what came of it, written anew after each cell

A comparison that was stopped goes on where it was; a cell that fails leaves the others alone.
"""

import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from common.durable import make_directory, write_atomic
from common.errors import CheckpointError, ConfigError, HeadwaterError
from common.rundir import lock_run_dir
from common.strategies import find_strategy
from common.units import Rate
from edge_worker.apart import BrokenOffError, apart
from edge_worker.auto import (
    check_fits,
    check_unused,
    choose,
    is_open,
    link_for,
    measured_before,
    measured_in,
    with_choice,
)
from edge_worker.cell import train_cell
from edge_worker.comparison import Cell, Result, document, expected, result_of
from edge_worker.config import AUTO, MAY_CHANGE, TrainConfig, in_json
from edge_worker.costs import Link
from edge_worker.planner import Plan, plan_of, plans
from edge_worker.profile_file import Measured
from edge_worker.report import write_report
from edge_worker.rundir import RunDir
from edge_worker.signals import Stop, stop_on_signals

log = logging.getLogger(__name__)

# Of a comparison, though a run may change it: every cell is to be trained under the same conditions.
FIXED = frozenset(
    {
        "link_rate_down",
        "link_latency",
        "eval_every",
        "window",
        "spool",
        "spool_memory",
        "spool_full",
        "checkpoint_every",
    }
)
EACH_CELLS_OWN = frozenset({"strategy", "images", "link_rate", "run_dir"})
MAY_DIFFER = (MAY_CHANGE - FIXED) | EACH_CELLS_OWN
# Of what is not cut: nothing to choose.
UNCUT: dict[str, Any] = {
    field.name: field.default for field in fields(TrainConfig) if field.name in ("split", "bits")
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What is to be compared.

    Attributes:
        config: settings of every cell; strategy, images, link rate and run directory are each cell's own.
        strategies: their names.
        images: how images go up with full-cloud.
        rates: of the uplink; none to take the link as it is.
        out: the directory.
        profile: what `edge-worker profile` wrote; None to measure first.
        edge_memory: bytes that a choice of the plan may take on the edge; None for any.
    """

    config: TrainConfig
    strategies: Sequence[str]
    images: Sequence[str]
    rates: Sequence[Rate]
    out: Path
    profile: Path | None = None
    edge_memory: int | None = None

    def __post_init__(self) -> None:
        """Refuse strategies that cannot be trained with these settings, and flags that say nothing."""
        if not is_open(self.config):
            check_unused("--edge-memory", self.edge_memory)
        names = [str(rate) for rate in self.rates]
        if len(set(names)) < len(names):
            raise ConfigError(f"--link-rate must be another one each time, got {', '.join(names)}")
        for cell in self.cells():
            self.settings_of(cell)  # raises where a strategy cannot be trained so

    def settings_of(self, cell: Cell) -> TrainConfig:
        """Return the settings of one cell, but for what the plan is to choose."""
        rate_down = self.config.link_rate_down
        if rate_down is None and cell.rate is not None and cell.rate.preset is None:
            rate_down = cell.rate  # gradients come back over the same link
        uncut = {} if find_strategy(cell.strategy).cut == "split" else UNCUT
        return replace(
            self.config,
            **uncut,
            strategy=cell.strategy,
            images=cell.images or "resend",
            link_rate=cell.rate,
            link_rate_down=rate_down,
            eval_every=self.config.eval_every or 1,  # a curve has a point for each epoch
            run_dir=self.out / "cells" / cell.name,
        )

    def cells(self) -> Iterator[Cell]:
        """Yield what is to be trained; what uses no link is trained once."""
        strategies = [find_strategy(name) for name in self.strategies]
        rates: Sequence[Rate | None] = self.rates or (None,)
        for rate in rates:
            for each in strategies:
                if each.sends_images:
                    yield from (Cell(strategy=each.name, images=how, rate=rate) for how in self.images)
                elif each.uses_cloud:
                    yield Cell(strategy=each.name, rate=rate)
        yield from (Cell(strategy=each.name) for each in strategies if not each.uses_cloud)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How a call of `compare` ended.

    Attributes:
        report: what is in report.json.
        failed: how many cells failed.
        signal: the signal's number, where it was stopped, else 0.
    """

    report: dict[str, Any]
    failed: int
    signal: int


def compare(comparison: Comparison) -> Ended:
    """Train what is not trained yet, and write the report after each cell.

    Raises:
        ConfigError: the directory has a comparison of other settings or is in use, or the profile that is
            named is of no use.
        HeadwaterError: the profile could not be measured.
    """
    out = comparison.out
    make_directory(out)
    _lock(out)
    settings = _check_same(comparison)
    measured = _measured(comparison, was_named=settings["profile"] is not None)
    write_atomic(out / "compare.json", json.dumps(settings, indent=2).encode() + b"\n")
    about = {
        "settings": settings,
        "edge": measured.edge,
        "cloud": measured.cloud,
        "measured_link_bps": measured.link.up_bps if measured.settings.get("link_rate") is None else None,
    }
    cells = list(comparison.cells())
    # What is trained stays in the report, whatever becomes of the cells before it.
    results = {cell.name: _result(comparison, cell, measured, None) for cell in cells}
    report = write_report(out, document(_known(results), about)) if _known(results) else {}
    with stop_on_signals() as stop:
        for number, cell in enumerate(cells, start=1):
            if results[cell.name] is not None:
                continue
            if stop.event.is_set():  # while the report was written
                break
            log.info("cell %d of %d: %s at %s", number, len(cells), cell.label, cell.link)
            results[cell.name] = result = _result(comparison, cell, measured, stop)
            if result is None:
                break
            report = write_report(out, document(_known(results), about))
    return Ended(
        report=report,
        failed=sum(result.error is not None for result in _known(results)),
        signal=stop.number if None in results.values() else 0,
    )


def _known(results: dict[str, Result | None]) -> list[Result]:
    return [result for result in results.values() if result is not None]


def _lock(out: Path) -> None:
    try:
        lock_run_dir(out)
    except ConfigError as error:
        raise ConfigError(f"a comparison runs in {out}; wait for it to end, or give another --out") from error


def _check_same(comparison: Comparison) -> dict[str, Any]:
    """Return the settings of all cells; raises ConfigError where the directory has cells of others."""
    path = comparison.out / "compare.json"
    names = [field.name for field in fields(TrainConfig) if field.name not in MAY_DIFFER]
    config = comparison.config
    settings = {name: in_json(getattr(config, name)) for name in names}
    settings["bits"] = config.bits or AUTO
    settings["edge_memory"] = comparison.edge_memory
    names = list(settings)
    settings["profile"] = in_json(comparison.profile)
    if not path.exists():
        return settings
    try:
        saved: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged: {error}; compare again with another --out") from error
    for name in names:
        if saved.get(name) != settings[name]:
            raise ConfigError(
                f"--{name.replace('_', '-')} is {saved.get(name)} in the comparison at {comparison.out}, got "
                f"{settings[name]}; leave it as it was, or compare again with another --out"
            )
    settings["profile"] = settings["profile"] or saved.get("profile")
    return settings


def _measured(comparison: Comparison, was_named: bool) -> Measured:
    """Return what the plan reckons with: a profile that was named, of which a copy is kept, or a new one.

    Args:
        comparison: which it is for.
        was_named: whether it has, or was begun with, a profile that was named.

    Raises:
        ConfigError: the one that is named is of another training, lacks what is asked for, or is not that of
            the comparison so far.
        HeadwaterError: measuring failed.
    """
    kept = comparison.out / "profile.json"
    if not was_named:
        return measured_in(kept, comparison.config, comparison.strategies)
    named = comparison.profile or kept
    rate = comparison.rates[0] if comparison.rates else None
    measured = measured_before(named, replace(comparison.config, link_rate=rate))
    _check_has(comparison, measured, named)
    if not kept.exists():
        write_atomic(kept, named.read_bytes())
    elif kept.read_bytes() != named.read_bytes():
        raise ConfigError(
            f"the comparison at {comparison.out} was begun with another profile than {named}; give {kept}, "
            "or compare again with another --out"
        )
    return measured


def _check_has(comparison: Comparison, measured: Measured, path: Path) -> None:
    """Raise ConfigError where a profile lacks a strategy, or what is not open of split point and width."""
    known = {each.strategy for each in plans(measured.costs, measured.link)}
    for name in comparison.strategies:
        if find_strategy(name).cut == "split":
            choose(replace(comparison.config, strategy=name), measured, measured.link)
        elif name not in known:
            raise ConfigError(
                f"the profile {path} has no {name}; measure again with edge-worker profile --strategies "
                f"{','.join(comparison.strategies)}"
            )


# ------------------------------------------------------------------ one cell


def _result(comparison: Comparison, cell: Cell, measured: Measured, stop: Stop | None) -> Result | None:
    """Return what a cell came to, its failure included; None where it is not trained.

    Args:
        comparison: which it is of.
        cell: which one.
        measured: what the plan reckons with.
        stop: asks the training to end; None to train nothing, and tell only what is there.
    """
    config = comparison.settings_of(cell)
    run_dir = RunDir(config.run_dir)
    predicted = None
    try:
        link = link_for(config, measured)
        config = _chosen(config, run_dir, measured, link, comparison.edge_memory)
        if find_strategy(config.strategy).cut == "split":
            cell = replace(cell, split=config.split, bits=config.bits)
        if (plan := _plan(config, measured, link)) is not None:
            predicted = expected(plan)
            if run_dir.is_new:
                check_fits(plan, comparison.edge_memory)
        if not run_dir.summary_file.exists():
            if stop is None:
                return None
            if not apart(train_cell, config, on_stop=stop.tell):
                raise BrokenOffError("its training was stopped by a signal; the same command goes on")
        return result_of(cell, predicted, run_dir)
    except HeadwaterError as error:
        if stop is None or stop.event.is_set():  # it is tried, or was not to be
            return None
        begun = config.run_dir.exists()
        anew = f"; the same command tries it again; to begin it anew then, first delete {config.run_dir}"
        failed = f"{error}{anew if begun else ''}"
        log.warning("%s at %s failed: %s", cell.label, cell.link, failed)
        return Result(cell=cell, predicted=predicted, error=failed)


def _chosen(
    config: TrainConfig, run_dir: RunDir, measured: Measured, link: Link, edge_memory: int | None
) -> TrainConfig:
    """Return the settings with the choice that a cell was begun with, or else the plan's."""
    if not is_open(config):
        return config
    if run_dir.is_new:
        return with_choice(config, choose(config, measured, link, edge_memory))
    begun = run_dir.settings()
    return replace(config, split=begun["split"], bits=begun["bits"])


def _plan(config: TrainConfig, measured: Measured, link: Link) -> Plan | None:
    """Return what the plan says of these settings; None where the profile lacks them."""
    strategy = find_strategy(config.strategy)
    split = strategy.cut == "split"
    return plan_of(
        measured.costs,
        link,
        strategy.name,
        config.split if split else None,
        config.bits if split else None,
        config.images if strategy.sends_images else None,
    )
