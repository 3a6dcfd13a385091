"""Does `make demo` show what it is to show? Three seeds: exit, whole, and the time after the installation.

python -m benchmarks.demo [--quick] [--out FILE]

Runs examples/demo.sh, as `make demo` does once all is installed. The exit must be right more than twice as
often as chance, the whole network three points more often than the exit.
"""

import os
import re
import subprocess
import time

import click

from benchmarks.processes import BIN, worker_env
from benchmarks.report import Report, benchmark

SEEDS = 3
CLASSES = 10
QUICK = ("--train-limit", "512", "--test-limit", "100", "--epochs", "1")
LEAD_BAR, TIME_BAR_S = 0.03, 240.0
ACCURACY = re.compile(r"accuracy of the (exit|whole) .*?([\d.]+)%")


def demo(seed: int, *arguments: str) -> tuple[dict[str, float], float]:
    """Run the demo with these flags more; return its accuracies by name, in 0..1, and the seconds it took."""
    started = time.monotonic()
    env = worker_env() | {"BIN": str(BIN), "SEED": str(seed), "COLUMNS": "100"}
    done = subprocess.run(["sh", "examples/demo.sh", *arguments], capture_output=True, text=True, env=env)
    if done.returncode:
        raise click.ClickException(f"the demo ended with {done.returncode}: {done.stderr}")
    seconds = time.monotonic() - started
    return {name: float(share) / 100 for name, share in ACCURACY.findall(done.stdout)}, seconds


@benchmark
def main(report: Report) -> None:
    """What the demo comes to, for each seed."""
    for seed in range(1 if report.quick else SEEDS):
        case = {"command": f"SEED={seed} make demo", "cores": os.cpu_count()}
        found, seconds = demo(seed, *(QUICK if report.quick else ()))
        report.figure("exit_accuracy", case, found["exit"], "share", at_least=2 / CLASSES)
        report.figure("whole_accuracy", case, found["whole"], "share")
        report.figure("lead", case, found["whole"] - found["exit"], "share", at_least=LEAD_BAR)
        report.figure("seconds", case, seconds, "s", at_most=TIME_BAR_S)


if __name__ == "__main__":
    main()
