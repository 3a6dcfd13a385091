"""Is the plan right? Predicted against measured epochs: four strategies, three rates, two networks.

python -m benchmarks.plan_accuracy [--data-dir ../shared/data] [--work DIR] [--quick] [--out FILE]

For each cell `edge-worker compare` measures what the plan needs for it, and then trains it for three epochs
over an emulated link, the edge on one core and the cloud on the other. A host that is shared may be a quarter
slower a few minutes later, which the plan cannot know. What is written is kept below --work, so that a
benchmark that was stopped goes on where it was.
"""

import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click

from benchmarks.activations import data_dir
from benchmarks.compared import compared, data_of
from benchmarks.report import Report, benchmark
from benchmarks.strategies import CASES, QUICK, Case, settings_of
from common.strategies import STRATEGIES, find_strategy

RATES = ("1mbit", "5mbit", "20mbit")
WHERE = {"resnet18": "--split layer2 --bits 4", "vgg16": "--split pool3 --bits 4"}
QUICK_STRATEGIES = ("hierarchical", "full-edge")
BAR, MEDIAN_BAR = 0.10, 0.05


def cells_of(rates: tuple[str, ...], strategies: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield strategy and rate of each cell; what uses no link is trained once."""
    for name in strategies:
        for rate in rates if find_strategy(name).uses_cloud else rates[:1]:
            yield name, rate


def error(report: Report, case: Case, cell: dict[str, Any]) -> float:
    """Report how far the plan was off in one cell, and return that."""
    here = {"model": case.model, "link": cell["link"], "strategy": cell["strategy"]}
    report.figure("predicted_epoch_s", here, cell["predicted_epoch_s"], "s")
    report.figure("measured_epoch_s", here, cell["epoch_s"], "s")
    off: float = abs(cell["predicted_epoch_s"] / cell["epoch_s"] - 1)
    report.figure("error", here, off, "share", at_most=BAR)
    return off


@benchmark
@data_dir
@click.option("--work", type=click.Path(path_type=Path), help="Where runs are kept.  [default: nowhere]")
def main(report: Report, data_dir: Path, work: Path | None) -> None:
    """How far predicted epochs are from measured ones."""
    cases, rates = ((QUICK,), RATES[1:2]) if report.quick else (CASES, RATES)
    found = []
    with TemporaryDirectory() as scratch:
        base = work or Path(scratch)
        data = data_of("synthetic" if report.quick else "cifar10", data_dir, base)
        for case in cases:
            for strategy, rate in cells_of(rates, QUICK_STRATEGIES if report.quick else tuple(STRATEGIES)):
                arguments = settings_of(case, (rate,), WHERE[case.model], data)
                name = f"plan-accuracy-{case.model}-{case.images}-{strategy}-{rate}"
                ways = ["--strategies", strategy, "--images", "resend"]
                (cell,) = compared(base / name, *arguments, *ways)["cells"]
                found += [error(report, case, cell)] * (1 if cell["link_rate_bps"] else len(rates))
    trained = len(found) - (len(rates) - 1) * len(cases)  # what uses no link counts for each rate
    cells = {"cells": len(found), "trained": trained}
    report.figure("median_error", cells, statistics.median(found), "share", at_most=MEDIAN_BAR)


if __name__ == "__main__":
    main()
