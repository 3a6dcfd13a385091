"""Is the plan right? Predicted against measured epochs: four strategies, three rates, two networks.

python -m benchmarks.plan_accuracy [--data-dir ../shared/data] [--work DIR] [--quick] [--out FILE]

`edge-worker compare` measures each network once, and then trains every cell for three epochs over an emulated
link, the edge on one core and the cloud on the other. What it writes is kept below --work, so that a
benchmark that was stopped goes on where it was.
"""

import statistics
from pathlib import Path
from tempfile import TemporaryDirectory

import click

from benchmarks.activations import data_dir
from benchmarks.compared import compared, data_of
from benchmarks.report import Report, benchmark
from benchmarks.strategies import CASES, QUICK, Case, settings_of

RATES = ("1mbit", "5mbit", "20mbit")
WHERE = {"resnet18": "--split layer2 --bits 4", "vgg16": "--split pool3 --bits 4"}
BAR, MEDIAN_BAR = 0.10, 0.05


def errors(
    report: Report, case: Case, work: Path, rates: tuple[str, ...], arguments: list[str]
) -> list[float]:
    """Report how far the plan was off in each cell of one network; what uses no link counts for each rate."""
    found = []
    for cell in compared(work, *arguments)["cells"]:
        here = {"model": case.model, "link": cell["link"], "strategy": cell["strategy"]}
        report.figure("predicted_epoch_s", here, cell["predicted_epoch_s"], "s")
        report.figure("measured_epoch_s", here, cell["epoch_s"], "s")
        off = abs(cell["predicted_epoch_s"] / cell["epoch_s"] - 1)
        report.figure("error", here, off, "share", at_most=BAR)
        found += [off] * (1 if cell["link_rate_bps"] else len(rates))
    return found


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
            arguments = [*settings_of(case, rates, WHERE[case.model], data), "--images", "resend"]
            if report.quick:
                arguments += ["--strategies", "hierarchical,full-edge"]
            name = f"plan-accuracy-{case.model}-{case.images}"
            found += errors(report, case, base / name, rates, arguments)
    trained = len(found) - (len(rates) - 1) * len(cases)  # what uses no link counts for each rate
    cells = {"cells": len(found), "trained": trained}
    report.figure("median_error", cells, statistics.median(found), "share", at_most=MEDIAN_BAR)


if __name__ == "__main__":
    main()
