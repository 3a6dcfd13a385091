"""What the cut costs: accuracy of the pair against the same network trained whole, at equal epochs.

python -m benchmarks.accuracy --data-dir DIR [--train-limit 20000] [--epochs 5] [--seeds 3]

Finished runs are kept below --work, so that a benchmark that was stopped goes on where it was.
"""

import json
import statistics
from pathlib import Path
from typing import Any

import click

from benchmarks.processes import cloud_at, run_edge
from benchmarks.report import Report, benchmark, data_dir

QUICK = {"train_limit": 256, "epochs": 1, "seeds": 1}


def measure(work: Path, strategy: str, arguments: list[str]) -> dict[str, Any]:
    """Run one strategy, or take the summary of the run that was finished before."""
    run_dir = work / f"{strategy}-edge"
    if strategy == "full-edge":
        done = run_edge(None, run_dir, "--strategy", strategy, "--threads", "2", *arguments)
    else:
        with cloud_at(work / "cloud") as cloud:
            done = run_edge(cloud.address, run_dir, "--strategy", strategy, "--threads", "1", *arguments)
    if done.returncode:
        raise click.ClickException(f"{strategy} in {run_dir} ended with {done.returncode}: {done.stderr}")
    summary: dict[str, Any] = json.loads((run_dir / "summary.json").read_text())
    return summary


@benchmark
@data_dir
@click.option("--train-limit", default=20_000, show_default=True, help="Training images.")
@click.option("--epochs", default=5, show_default=True)
@click.option("--seeds", default=3, show_default=True, help="How many, from 0.")
@click.option("--precision", default="float32", show_default=True)
@click.option(
    "--work", type=click.Path(path_type=Path), default=Path("runs/accuracy"), help="Where runs are kept."
)
def main(
    report: Report, data_dir: Path, train_limit: int, epochs: int, seeds: int, precision: str, work: Path
) -> None:
    """ResNet-18 on CIFAR-10, cut at layer2, 4 bits, 10mbit, against the network trained whole on the edge."""
    if report.quick:
        train_limit, epochs, seeds = QUICK.values()
    losses = []
    for seed in range(seeds):
        arguments = (
            f"--dataset cifar10 --data-dir {data_dir} --train-limit {train_limit} --model resnet18 "
            f"--split layer2 --bits 4 --link-rate 10mbit --epochs {epochs} --seed {seed} "
            f"--precision {precision}{' --test-limit 200' if report.quick else ''}"
        ).split()
        case = {"train_limit": train_limit, "epochs": epochs, "seed": seed, "precision": precision}
        here = work / f"{train_limit}-{epochs}-{seed}-{precision}"
        pair, whole = (measure(here, strategy, arguments) for strategy in ("hierarchical", "full-edge"))
        for name, value, unit in (
            ("cloud_accuracy", pair["cloud_accuracy"], "share"),
            ("exit_accuracy", pair["edge_accuracy"], "share"),
            ("bytes_up", pair["bytes_up"], "bytes"),
            ("train_wall_s", pair["train_wall_s"], "s"),
        ):
            report.figure(name, {**case, "strategy": "hierarchical"}, value, unit)
        for name, value, unit in (
            ("accuracy", whole["edge_accuracy"], "share"),
            ("train_wall_s", whole["train_wall_s"], "s"),
        ):
            report.figure(name, {**case, "strategy": "full-edge"}, value, unit)
        losses.append(100 * (whole["edge_accuracy"] - pair["cloud_accuracy"]))
    case = {"train_limit": train_limit, "epochs": epochs, "seeds": seeds, "precision": precision}
    report.figure("accuracy_lost", case, statistics.mean(losses), "points", at_most=1.0)


if __name__ == "__main__":
    main()
