"""What does streaming cost the edge?

python -m benchmarks.overhead [--quick] [--rounds 3] [--out FILE]

Images a second of an edge that trains, encodes, keeps and streams over loopback to a sink, against those of a
process that trains the same front and exit on the same batches and does nothing else. Both run on the same
core, in turn; the sink runs on the other one. Each ratio is that of one round, the figure the median of them.
"""

import json
import statistics
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click

from benchmarks.alone import EDGE_CORE, sink_at, train_at
from benchmarks.processes import on_core, worker_env
from benchmarks.report import Report, benchmark

BAR = 0.93
COMMON = {
    "dataset": "synthetic",
    "test_limit": 20,
    "epochs": 1,
    "bits": 4,
    "precision": "float32",
    "workers": 1,
    "threads": 1,
}
CASES: tuple[dict[str, Any], ...] = (
    {"model": "resnet18", "split": "layer2", "batch_size": 128, "train_limit": 4992},
    {"model": "resnet18", "split": "layer2", "stem": "cifar", "batch_size": 64, "train_limit": 1280},
    {"model": "vgg16", "split": "pool3", "batch_size": 64, "train_limit": 2560},
)


def streaming_s(work: Path, fields: dict[str, Any]) -> float:
    """Train with a sink as the cloud; return the seconds it took."""
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in fields.items() if name != "threads"]
    with sink_at() as address:
        return float(train_at(address, work, *flags)["train_wall_s"])


def front_s(fields: dict[str, Any]) -> float:
    """Train front and exit only; return the seconds it took."""
    command = [sys.executable, "-m", "benchmarks.front", json.dumps(fields)]
    with on_core(EDGE_CORE):
        done = subprocess.run(command, capture_output=True, text=True, env=worker_env())
    if done.returncode:
        raise click.ClickException(f"benchmarks.front ended with {done.returncode}: {done.stderr}")
    return float(done.stdout)


@benchmark
@click.option("--rounds", default=3, show_default=True, help="How often each case is measured.")
def main(report: Report, rounds: int) -> None:
    """The edge with streaming against front and exit alone."""
    for case in CASES[:1] if report.quick else CASES:
        fields = {**COMMON, **case, **({"train_limit": 640} if report.quick else {})}
        if report.is_done("overhead", fields):
            continue
        ratios, rates = [], []
        for number in range(1 if report.quick else rounds):
            with TemporaryDirectory() as work:
                if number % 2:  # the first one may find a cooler machine
                    streaming = streaming_s(Path(work) / "edge", fields)
                    alone = front_s(fields)
                else:
                    alone = front_s(fields)
                    streaming = streaming_s(Path(work) / "edge", fields)
            ratios.append(alone / streaming)
            rates.append(fields["train_limit"] / alone)
        report.figure("front_rate", fields, statistics.median(rates), "images/s")
        report.figure("overhead", fields, statistics.median(ratios), "share", at_least=BAR)


if __name__ == "__main__":
    main()
