"""Is the plan right? Predicted against measured epochs: four strategies, three rates, two networks.

python -m benchmarks.plan_accuracy [--data-dir ../shared/data] [--work DIR] [--quick] [--out FILE]

Each strategy is trained for three epochs over each link, the edge on one core and the cloud on the other, and
profiled before, between and after these trainings; the plan reckons with the median, as that of
`profile --rounds` does. A host that is shared may be a quarter slower a few minutes later, which no plan can
know: how far the single profiles are apart is reported, too. full-edge knows no rate, and is trained as
often. What is written is kept below --work: a benchmark that was stopped goes on.
"""

import statistics
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click

from benchmarks.activations import data_dir
from benchmarks.compared import compared, data_of, profiled
from benchmarks.report import Report, benchmark
from benchmarks.strategies import CASES, QUICK, Case, settings_of
from common.strategies import STRATEGIES
from edge_worker.costs import Costs, Link
from edge_worker.planner import plan_of
from edge_worker.profile_file import read_profile
from edge_worker.profile_rounds import median_costs

RATES = ("1mbit", "5mbit", "20mbit")
WHERE = {"resnet18": ("layer2", 4), "vgg16": ("pool3", 4)}
BAR, MEDIAN_BAR = 0.10, 0.05


def predicted_s(costs: Costs, cell: dict[str, Any]) -> float:
    """Return the seconds of an epoch of a cell, by the plan."""
    bps = float(cell["link_rate_bps"] or 1)
    choice = (cell["strategy"], cell["split"], cell["bits"], cell["images"])
    plan = plan_of(costs, Link(up_bps=bps, down_bps=bps), *choice)
    assert plan is not None  # it was profiled
    return plan.epoch_s


def errors(
    report: Report, case: Case, strategy: str, rates: Sequence[str], work: Path, data: list[str]
) -> list[float]:
    """Profile and train one strategy in turn; report and return how far the plan is off in each cell."""
    split, bits = WHERE[case.model]
    settings = settings_of(case, (), f"--split {split} --bits {bits}", data)
    settings += ["--strategies", strategy]
    costs, cells = [], {}
    for number, rate in enumerate(rates):
        path = profiled(work / f"profile-{number}", *settings, "--splits", split)
        costs.append(read_profile(path).costs)
        over = ["--link-rate", rate, "--images", "resend"]
        (cells[rate],) = compared(work / rate, *settings, *over, profile=path)["cells"]
    if not report.quick:
        costs.append(read_profile(profiled(work / "profile-last", *settings, "--splits", split)).costs)
    return [_error(report, case, rate, costs, cell) for rate, cell in cells.items()]


def _error(report: Report, case: Case, rate: str, costs: Sequence[Costs], cell: dict[str, Any]) -> float:
    here = {"model": case.model, "rate": rate, "strategy": cell["strategy"]}
    predicted, measured = predicted_s(median_costs(costs), cell), float(cell["epoch_s"])
    report.figure("predicted_epoch_s", here, predicted, "s")
    report.figure("measured_epoch_s", here, measured, "s")
    single = [predicted_s(each, cell) for each in costs]
    report.figure("profiles_apart", here, max(single) / min(single) - 1, "share")
    off = abs(predicted / measured - 1)
    report.figure("error", here, off, "share", at_most=BAR)
    return off


@benchmark
@data_dir
@click.option("--work", type=click.Path(path_type=Path), help="Where runs are kept.  [default: nowhere]")
def main(report: Report, data_dir: Path, work: Path | None) -> None:
    """How far predicted epochs are from measured ones."""
    cases, rates = ((QUICK,), RATES[1:2]) if report.quick else (CASES, RATES)
    strategies = ("hierarchical",) if report.quick else tuple(STRATEGIES)
    found: list[float] = []
    with TemporaryDirectory() as scratch:
        base = work or Path(scratch)
        data = data_of("synthetic" if report.quick else "cifar10", data_dir, base)
        for case in cases:
            for strategy in strategies:
                here = base / f"plan-accuracy-{case.model}-{case.images}-{strategy}"
                found += errors(report, case, strategy, rates, here, data)
    cells = {"cells": len(found)}
    report.figure("median_error", cells, statistics.median(found), "share", at_most=MEDIAN_BAR)


if __name__ == "__main__":
    main()
