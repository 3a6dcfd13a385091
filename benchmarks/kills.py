"""SIGKILL of edge, cloud or both, at random and at named points; the runs must end as an untouched one.

python -m benchmarks.kills [--kills 100] [--strategy hierarchical] [--work DIR] [--out FILE]

An eighth of the kills goes to each phase of `benchmarks.killable`, the rest comes at random moments. Runs
are trained one after the other, each interrupted a dozen times, until all kills are made. Finished runs are
kept below --work, so that a benchmark that was stopped goes on where it was.
"""

import json
import random
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import click

from benchmarks.killable import APPLIED, CHECKPOINT, EVALUATION, HANDSHAKE, POINTS, SPOOL, Point
from benchmarks.outcome import outcome
from benchmarks.processes import Cloud, start_cloud, start_edge, wait_for
from benchmarks.report import Report, benchmark, work_dir

# A spool that is used, checkpoints that are due, evaluations at both sides; batch norm in play.
RUN = (
    "--dataset synthetic --train-limit 210 --test-limit 90 --batch-size 30 --eval-every 1 "
    "--model resnet18 --split layer1 --bits 4 --threads 1 --precision float32 --workers 1 "
    "--link-rate 20mbit --spool-memory 64KiB --checkpoint-every 1s"
)
PHASES = (CHECKPOINT, APPLIED, EVALUATION, HANDSHAKE, SPOOL)
RANDOM = "random"
KILLS_PER_RUN = 12
STRATEGIES = ("hierarchical", "split-learning", "full-cloud")


class Kill(NamedTuple):
    """One kill: at a point, or at any moment of these workers."""

    phase: str
    point: Point | None
    workers: tuple[str, ...]
    after_s: float


class Pair:
    """An edge and a cloud that can be killed and started again, on the same directories and port."""

    def __init__(self, work: Path, arguments: Sequence[str]) -> None:
        self._work = work
        self._arguments = arguments
        self._cloud: Cloud | None = None
        self._edge: subprocess.Popen[str] | None = None
        self._listen = "127.0.0.1:0"

    def start(self) -> None:
        """Start what is not running."""
        if self._cloud is None or self._cloud.process.poll() is not None:
            self._cloud = start_cloud(
                self._work / "cloud",
                *("--checkpoint-every", "1s"),
                listen=self._listen,
                armed=self.armed("cloud"),
            )
            self._listen = self._cloud.address
        if self._edge is None or self._edge.poll() is not None:
            if self._edge is not None:
                self._edge.communicate()
            self._edge = start_edge(
                self._listen, self._work / "edge", *self._arguments, armed=self.armed("edge")
            )

    def armed(self, worker: str) -> Path:
        """Return the file that names the point at which `worker` dies."""
        return self._work / f"kill-{worker}"

    def is_dead(self, worker: str) -> bool:
        """Tell whether a worker has ended, other than by finishing the run.

        Raises:
            click.ClickException: it ended with an error of its own.
        """
        process = self._process(worker)
        code = process.poll()
        if code is None or (worker == "edge" and code == 0):
            return False
        if code != -9:
            said = process.stderr.read() if process.stderr is not None else "see cloud.log"
            raise click.ClickException(f"the {worker} of {self._work} ended by itself, with {code}: {said}")
        return True

    @property
    def is_finished(self) -> bool:
        """Whether the edge has come to the end of the run."""
        return self._edge is not None and self._edge.poll() == 0

    def kill(self, worker: str) -> None:
        """Kill a worker from outside."""
        self._process(worker).kill()
        self.wait(lambda: self.is_finished or self.is_dead(worker), f"the end of the {worker}")

    def wait(self, condition: Callable[[], bool], what: str) -> None:
        """Wait for a condition; a worker that ends by itself with an error ends the benchmark."""
        wait_for(condition, what, timeout_s=300)

    def _process(self, worker: str) -> "subprocess.Popen[str]":
        assert self._cloud is not None  # asked only after `start`
        assert self._edge is not None
        return self._edge if worker == "edge" else self._cloud.process

    def stop(self) -> None:
        """End both."""
        if self._edge is not None:
            self._edge.kill()
            self._edge.communicate()
        if self._cloud is not None:
            self._cloud.kill()


def perform(pair: Pair, kill: Kill) -> bool:
    """Start what is not running, and make the kill; False where the run came to its end before."""
    if kill.point is None:
        pair.start()
        deadline = time.monotonic() + kill.after_s
        pair.wait(lambda: pair.is_finished or time.monotonic() > deadline, "a moment")
        if pair.is_finished:
            return False
        for worker in kill.workers:
            pair.kill(worker)
        return not pair.is_finished
    # Before the start: a handshake comes at once, and only then.
    armed = pair.armed(kill.point.worker)
    armed.write_text(kill.point.name)
    pair.start()
    worker = kill.point.worker
    pair.wait(lambda: pair.is_finished or pair.is_dead(worker), f"a kill {kill.point.name}")
    if armed.exists():
        armed.unlink()
        return False
    pair.wait(lambda: pair.is_finished or pair.is_dead(worker), "the killed process's end")
    return True


def draw(rng: random.Random, left: "Counter[str]") -> Kill:
    """Draw one of the kills that are left to make."""
    phase = rng.choice(sorted(left.elements()))
    points = [point for point in POINTS if point.phase == phase]
    workers = rng.choice((("edge",), ("cloud",), ("edge", "cloud")))
    return Kill(phase, rng.choice(points) if points else None, workers, rng.uniform(0.0, 8.0))


def quota(kills: int) -> "Counter[str]":
    """Return how many kills each phase gets."""
    each = max(1, kills // 8)
    wanted = Counter(dict.fromkeys(PHASES, each))
    wanted[RANDOM] = max(0, kills - wanted.total())
    return wanted


def train_through(work: Path, arguments: Sequence[str], left: "Counter[str]") -> dict[str, Any]:
    """Train one run through some of the kills that are left; return what it came to and the kills made.

    What was trained in `work` before is not trained again.
    """
    kept = work.with_suffix(".json")
    if not kept.exists():
        result = _train_through(work, arguments, left, random.Random(work.name))
        kept.write_text(json.dumps(result))
    known: dict[str, Any] = json.loads(kept.read_text())
    return known


def _train_through(
    work: Path, arguments: Sequence[str], left: "Counter[str]", rng: random.Random
) -> dict[str, Any]:
    made: Counter[str] = Counter()
    work.mkdir(parents=True)
    pair = Pair(work, arguments)
    try:
        while made.total() < KILLS_PER_RUN and (left - made).total():
            kill = draw(rng, left - made)
            if not perform(pair, kill):
                break
            made[kill.phase] += 1
            click.echo(f"{work.name}: killed, {kill.phase}", err=True)
        if not pair.is_finished:
            pair.start()
            pair.wait(lambda: pair.is_finished or pair.is_dead("edge"), "the end of the run")
    finally:
        pair.stop()
    return {"kills": dict(made), "outcome": outcome(work / "cloud", work / "edge")}


def measure(work: Path, kills: int, arguments: Sequence[str]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return what an untouched run came to, and every killed run with its kills."""
    untouched = train_through(work / "untouched", arguments, Counter())
    runs: list[dict[str, Any]] = []
    left = quota(kills)
    while left.total():
        runs.append(train_through(work / f"run-{len(runs)}", arguments, left))
        left -= Counter(runs[-1]["kills"])
    return untouched["outcome"], runs


@benchmark
@click.option("--kills", default=100, show_default=True, help="How many in all.")
@click.option("--strategy", type=click.Choice(STRATEGIES), default=STRATEGIES[0], show_default=True)
@work_dir
def main(report: Report, kills: int, strategy: str, work: Path | None) -> None:
    """Runs that end otherwise than an untouched one, after so many kills."""
    with TemporaryDirectory() as scratch:
        epochs, kills = (6, 6) if report.quick else (12, kills)
        # Images that the cloud keeps are what a kill may lose; only full-cloud heeds the last flag.
        arguments = f"{RUN} --epochs {epochs} --strategy {strategy} --images once".split()
        untouched, runs = measure(work or Path(scratch), kills, arguments)
    case = {"command": f"edge-worker train {' '.join(arguments)}", "kills": kills}
    made: Counter[str] = sum((Counter(run["kills"]) for run in runs), Counter())
    for phase, wanted in quota(kills).items():
        report.figure("kills", {**case, "phase": phase}, made[phase], "times", at_least=wanted)
    differ = sum(run["outcome"] != untouched for run in runs)
    twice = sum(abs(run["outcome"]["applied"] - untouched["batches"]) for run in runs)
    report.figure("killed_runs", case, len(runs), "runs")
    report.figure("runs_that_differ", case, differ, "runs", at_most=0)
    report.figure("batches_not_applied_once", case, twice, "batches", at_most=0)


if __name__ == "__main__":
    main()
