"""Is the plan right? Predicted against measured epochs: four strategies, three rates, two networks.

python -m benchmarks.plan_accuracy [--data-dir ../shared/data] [--work DIR] [--quick] [--out FILE]

Each strategy is trained for three epochs over each link, the edge on one core and the cloud on the other, and
profiled before, between and after these trainings; the plan reckons with the median, as that of
`profile --rounds` does. A host that is shared may be a quarter slower a few minutes later, which no plan can
know: how far the single profiles are apart is reported, too. A cell that the plan misses by more than the bar
is trained twice more, and its median counts. full-edge knows no rate, and is trained as often as the others.
What is written is kept below --work: a benchmark that was stopped goes on.
"""

import statistics
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.compared import compared, data_of, profiled
from benchmarks.report import Report, benchmark, data_dir, work_dir
from benchmarks.strategies import CASES, QUICK, Case, settings_of
from common.strategies import STRATEGIES
from edge_worker.costs import Costs, Link
from edge_worker.planner import plan_of
from edge_worker.profile_file import read_profile
from edge_worker.profile_rounds import median_costs

RATES = ("1mbit", "5mbit", "20mbit")
WHERE = {"resnet18": ("layer2", 4), "vgg16": ("pool3", 4)}
BAR, MEDIAN_BAR = 0.10, 0.05
AGAIN = ("again", "once-more")


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

    def trained(rate: str, where: str, path: Path) -> dict[str, Any]:
        over = ["--link-rate", rate, "--images", "resend"]
        cells: list[dict[str, Any]] = compared(work / where, *settings, *over, profile=path)["cells"]
        return cells[0]

    costs, cells = [], {}
    for number, rate in enumerate(rates):
        path = profiled(work / f"profile-{number}", *settings, "--splits", split)
        costs.append(read_profile(path).costs)
        cells[rate] = [trained(rate, rate, path)]
    if not report.quick:
        costs.append(read_profile(profiled(work / "profile-last", *settings, "--splits", split)).costs)
    planned = median_costs(costs)
    for rate, found in cells.items():
        if not report.quick and _off(planned, found) > BAR:
            found += [trained(rate, f"{rate}-{again}", path) for again in AGAIN]
        _report(report, {"model": case.model, "rate": rate, "strategy": strategy}, costs, found)
    return [_off(planned, found) for found in cells.values()]


def _measured_s(found: Sequence[dict[str, Any]]) -> float:
    return statistics.median(float(cell["epoch_s"]) for cell in found)


def _off(planned: Costs, found: Sequence[dict[str, Any]]) -> float:
    return abs(predicted_s(planned, found[0]) / _measured_s(found) - 1)


def _report(
    report: Report, here: dict[str, Any], costs: Sequence[Costs], found: Sequence[dict[str, Any]]
) -> None:
    planned = median_costs(costs)
    report.figure("predicted_epoch_s", here, predicted_s(planned, found[0]), "s")
    report.figure("measured_epoch_s", here, _measured_s(found), "s")
    single = [predicted_s(each, found[0]) for each in costs]
    report.figure("profiles_apart", here, max(single) / min(single) - 1, "share")
    if len(found) > 1:
        report.figure("error_of_the_first", here, _off(planned, found[:1]), "share")
    report.figure("error", here, _off(planned, found), "share", at_most=BAR)


@benchmark
@data_dir
@work_dir
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
