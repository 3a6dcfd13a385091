"""Is the plan right? Predicted against measured epochs: four strategies, three rates, two networks.

python -m benchmarks.plan_accuracy [--data-dir ../shared/data] [--work DIR] [--quick] [--out FILE]

Each network is profiled once, as `edge-worker profile` does; then every cell is trained for three epochs over
an emulated link, the edge on one core and the cloud on the other. Runs are kept below --work, so that a
benchmark that was stopped goes on where it was.
"""

import statistics
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

import click

from benchmarks.activations import data_dir
from benchmarks.alone import EDGE_CORE, cloud_on_core
from benchmarks.processes import on_core, program, worker_env
from benchmarks.report import Report, benchmark
from benchmarks.strategies import BITS, CASES, EPOCHS, QUICK, Case, data_of, settings_of, train
from common.units import parse_rate
from edge_worker.planner import Costs, Link, plans
from edge_worker.profile_file import read_profile

STRATEGIES = {
    "hierarchical": ("hierarchical", None),
    "split-learning": ("split-learning", None),
    "full-cloud, resend": ("full-cloud", "resend"),
    "full-edge": ("full-edge", None),
}
RATES = ("1mbit", "5mbit", "20mbit")
BAR, MEDIAN_BAR = 0.10, 0.05


def profiled(case: Case, work: Path, data: list[str]) -> Costs:
    """Return what a network costs, measured unless it is there."""
    path = work / f"{case.model}.json"
    if not path.exists():
        flags = ["--splits", case.split, "--out", str(path), "--threads", "1"]
        with cloud_on_core(work / "cloud", "--threads", "1") as cloud, on_core(EDGE_CORE):
            command = [*program("edge-worker"), "profile", "--cloud", cloud.address, *flags]
            command += settings_of(case, RATES[-1], data)
            done = subprocess.run(command, capture_output=True, text=True, env=worker_env())
        if done.returncode:
            raise click.ClickException(f"edge-worker profile ended with {done.returncode}: {done.stderr}")
    return read_profile(path).costs


def predicted(costs: Costs, case: Case, strategy: tuple[str, str | None], rate: str) -> float:
    """Return the seconds of an epoch that the plan reckons with."""
    bps = float(parse_rate(rate))
    link = Link(up_bps=bps, down_bps=bps)
    wanted = [each for each in plans(costs, link) if (each.strategy, each.images) == strategy]
    wanted = [each for each in wanted if (each.split, each.bits) in ((None, None), (case.split, BITS))]
    return wanted[0].epoch_s


@benchmark
@data_dir
@click.option("--work", type=click.Path(path_type=Path), help="Where runs are kept.  [default: nowhere]")
def main(report: Report, data_dir: Path, work: Path | None) -> None:
    """How far predicted epochs are from measured ones."""
    data = data_of(data_dir, report.quick)
    cases, rates = ((QUICK,), RATES[1:2]) if report.quick else (CASES, RATES)
    errors = []
    with TemporaryDirectory() as scratch:
        base = work or Path(scratch)
        base.mkdir(parents=True, exist_ok=True)
        for case in cases:
            costs = profiled(case, base, data)
            for rate in rates:
                for name, strategy in STRATEGIES.items():
                    here = base / f"{case.model}-{rate}" / name.replace(", ", "-")
                    epoch_s = train(here, name, settings_of(case, rate, data))["train_wall_s"] / EPOCHS
                    plan_s = predicted(costs, case, strategy, rate)
                    cell = {**case._asdict(), "rate": rate, "bits": BITS, "strategy": name}
                    report.figure("predicted_epoch_s", cell, plan_s, "s")
                    report.figure("measured_epoch_s", cell, epoch_s, "s")
                    errors.append(abs(plan_s / epoch_s - 1))
                    report.figure("error", cell, errors[-1], "share", at_most=BAR)
    report.figure(
        "median_error", {"cells": len(errors)}, statistics.median(errors), "share", at_most=MEDIAN_BAR
    )


if __name__ == "__main__":
    main()
