"""`edge-worker compare`: trains the same work by each strategy over each link, beside what the plan expects.

OUT/profile.json    what the plan reckons with
OUT/cells/<cell>/   the run directory of each training
OUT/report.*        what came of it, written anew after each cell

A comparison that was stopped goes on where it was; a cell that fails leaves the others alone.
"""

import json
import logging
import multiprocessing
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from common.durable import make_directory, write_atomic
from common.errors import CheckpointError, ConfigError, HeadwaterError
from common.logs import set_up_logging
from common.rundir import lock_run_dir
from common.strategies import STRATEGIES, find_strategy
from common.units import Rate
from edge_worker.auto import choose, is_open, measured_in, with_choice
from edge_worker.comparison import Cell, Result, document, expected, result_of
from edge_worker.config import AUTO, MAY_CHANGE, TrainConfig
from edge_worker.planner import Link, Plan, plans
from edge_worker.profile import profile
from edge_worker.profile_file import Measured, emulated_link
from edge_worker.report import write_report
from edge_worker.run import train
from edge_worker.signals import Stop, stop_on_signals

log = logging.getLogger(__name__)

IMAGES = ("resend", "once")
# Of a comparison, though a run may change it: every cell is to be trained under the same conditions.
FIXED = frozenset({"link_rate_down", "link_latency", "eval_every", "spool_full"})
EACH_CELLS_OWN = frozenset({"strategy", "images", "link_rate", "run_dir"})
MAY_DIFFER = (MAY_CHANGE - FIXED) | EACH_CELLS_OWN
# What a cell that goes on takes from this call: where the cloud is now, and how to get in.
ACCESS = frozenset({"cloud", "data_dir", "tls_ca", "tls_cert", "tls_key", "token_file", "connect_timeout"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What is to be compared.

    Attributes:
        config: settings of every cell; strategy, images, link rate and run directory are each cell's own.
        strategies: their names.
        images: how images go up with full-cloud.
        rates: of the uplink; none to take the link as it is.
        out: the directory.
    """

    config: TrainConfig
    strategies: Sequence[str]
    images: Sequence[str]
    rates: Sequence[Rate]
    out: Path

    def __post_init__(self) -> None:
        """Refuse a strategy that there is not, and two links that are called the same."""
        unknown = [name for name in self.strategies if name not in STRATEGIES]
        if unknown or not self.strategies:
            raise ConfigError(
                f"--strategies must be some of {','.join(STRATEGIES)}, got {','.join(unknown) or 'none'}"
            )
        names = [str(rate) for rate in self.rates]
        if len(set(names)) < len(names):
            raise ConfigError(f"--link-rate must be another one each time, got {', '.join(names)}")

    def settings_of(self, cell: Cell) -> TrainConfig:
        """Return the settings of one cell, but for what the plan is to choose."""
        rate_down = self.config.link_rate_down
        if rate_down is None and cell.rate is not None and cell.rate.preset is None:
            rate_down = cell.rate  # gradients come back over the same link
        return replace(
            self.config,
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
        ConfigError: the directory has a comparison of other settings, or is in use.
        HeadwaterError: the profile could not be measured.
    """
    out, config = comparison.out, comparison.config
    make_directory(out)
    lock_run_dir(out)
    _check_same(comparison)
    measured = measured_in(
        out / "profile.json", config, lambda: profile(config, [] if config.split == AUTO else [config.split])
    )
    cells = list(comparison.cells())
    results: list[Result] = []
    report: dict[str, Any] = {}
    about = {
        "settings": measured.settings,
        "edge": measured.edge,
        "cloud": measured.cloud,
        "measured_link_bps": measured.link.up_bps,
    }
    with stop_on_signals() as stop:
        for number, bare in enumerate(cells, start=1):
            log.info("cell %d of %d: %s at %s", number, len(cells), bare.label, bare.link)
            result = _result(comparison, bare, measured, stop)
            if stop.event.is_set() and result.measured is None:
                break
            results.append(result)
            report = write_report(out, document(results, about))
    return Ended(
        report=report,
        failed=sum(result.error is not None for result in results),
        signal=stop.number if len(results) < len(cells) else 0,
    )


def _check_same(comparison: Comparison) -> None:
    """Raise ConfigError where the directory has cells of other settings; keep these where it has none."""
    path = comparison.out / "compare.json"
    names = [field.name for field in fields(TrainConfig) if field.name not in MAY_DIFFER]
    settings = json.loads(json.dumps({name: getattr(comparison.config, name) for name in names}, default=str))
    if not path.exists():
        write_atomic(path, json.dumps(settings, indent=2).encode() + b"\n")
        return
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


# ------------------------------------------------------------------ one cell


def _result(comparison: Comparison, bare: Cell, measured: Measured, stop: Stop) -> Result:
    """Train one cell unless it is trained; a failure becomes part of the result."""
    config = comparison.settings_of(bare)
    link = _link(config, measured)
    try:
        if find_strategy(config.strategy).cut == "split":
            if is_open(config):
                config = with_choice(config, choose(config, measured, link))
            bare = replace(bare, split=config.split, bits=config.bits)
        predicted = expected(plan) if (plan := _plan(config, measured, link)) is not None else None
        failed = None if (config.run_dir / "summary.json").exists() else _train_apart(config, stop)
        if failed is None:
            return result_of(bare, predicted, config.run_dir)
    except HeadwaterError as error:
        predicted, failed = None, str(error)
    if not stop.event.is_set():
        log.warning("%s at %s failed: %s", bare.label, bare.link, failed)
    return Result(cell=bare, predicted=predicted, error=failed)


def _link(config: TrainConfig, measured: Measured) -> Link:
    return emulated_link(config.link_rate, config.link_rate_down, config.link_latency) or measured.link


def _plan(config: TrainConfig, measured: Measured, link: Link) -> Plan | None:
    """Return what the plan says of these settings; None where the profile lacks them."""
    strategy = find_strategy(config.strategy)
    split = strategy.cut == "split"
    wanted = (
        strategy.name,
        config.split if split else None,
        config.bits if split else None,
        config.images if strategy.sends_images else None,
    )
    found = (
        each
        for each in plans(measured.costs, link)
        if (each.strategy, each.split, each.bits, each.images) == wanted
    )
    return next(found, None)


def _train_apart(config: TrainConfig, stop: Stop) -> str | None:
    """Train in a process of its own, whose memory is its own; return why it failed, if it did."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_train, args=(config, theirs), daemon=True)
    process.start()
    theirs.close()
    stop.tell(process.terminate)
    try:
        failed: str | None = ours.recv()
    except EOFError:
        process.join()
        code = process.exitcode or 0
        why = (
            f"was killed by signal {-code}, perhaps as the memory did not suffice"
            if code < 0
            else "broke off"
        )
        failed = f"its process {why}"
    process.join()
    return failed


def _train(config: TrainConfig, say: Connection) -> None:
    """Train, and say why it failed, or None; in a process group of its own, so that Ctrl-C asks only once."""
    os.setpgid(0, 0)
    set_up_logging(config.log_level)
    try:
        outcome = train(config, ACCESS)
    except HeadwaterError as error:
        say.send(" ".join(str(error).split()))
    else:
        say.send(None if outcome.summary is not None else "it was stopped")
