"""A link that is down for 30 % of a run: the edge trains on as if nothing were, and nothing is lost.

python -m benchmarks.outage [--quick] [--pairs 3] [--work DIR] [--out FILE]

Runs are made in pairs, one over a link that nobody touches and one over a link that is cut, and come in turn.
The link is a TCP relay. Its rate is two and a half times what the edge makes, as measured by a short run over
a link without limit before; the back is small, so that the cloud is the faster one, too. Both are judged.

The cuts are placed by the edge's progress, in shares of its batches: it never waits, so that these are shares
of its time, whatever else the machine does. What is judged as time is train_wall_s, from the edge's first
step to the last batch applied at the cloud; and, since other work on the machine may slow down the steps of
one run more than those of another, the same divided by the seconds in which that run's edge worked. Finished
runs are kept below --work, so that a benchmark that was stopped goes on where it was.
"""

import json
import statistics
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click

from benchmarks.outcome import outcome
from benchmarks.processes import cloud_at, edge_at, finish, wait_for
from benchmarks.relay import Relay
from benchmarks.report import Report, benchmark, work_dir

# A large front and a small back: about five to two.
RUN = (
    "--dataset synthetic --train-limit 4000 --test-limit 100 --batch-size 100 --epochs 12 "
    "--model resnet18 --split layer4.0 --bits 4 --threads 1 --precision float32 --workers 1"
)
QUICK = "--train-limit 1000 --epochs 2"
# When the link is down, in shares of the edge's batches. None in the last 15 %.
CUTS = ((0.05, 0.15), (0.30, 0.37), (0.45, 0.55), (0.75, 0.80))
Cut = tuple[float, float]
FASTER = 2.5
TIME_BAR, FASTER_BAR, DOWN_BAR = 1.05, 1.5, 0.3
PATIENCE_S = 3600.0


def train(
    work: Path, arguments: Sequence[str], rate_bps: float | None = None, cuts: Sequence[Cut] = ()
) -> dict[str, Any]:
    """Train one run over a relay; return what it came to, and how it went.

    What was trained in `work` before is not trained again.
    """
    kept = work.with_suffix(".json")
    if not kept.exists():
        with (
            cloud_at(work / "cloud") as cloud,
            Relay(cloud.address, rate_up_bps=rate_bps) as relay,
            edge_at(relay.address, work / "edge", *arguments) as edge,
        ):
            down_s = [take_down(relay, edge, work / "edge", cut) for cut in cuts]
            finish(edge)
        summary = json.loads((work / "edge" / "summary.json").read_text())
        came_to = outcome(work / "cloud", work / "edge")
        kept.write_text(json.dumps({"summary": summary, "down_s": sum(down_s), "outcome": came_to}))
    known: dict[str, Any] = json.loads(kept.read_text())
    return known


def take_down(relay: Relay, edge: "subprocess.Popen[str]", run_dir: Path, cut: Cut) -> float:
    """Cut the link between two points of the edge's progress; return for how many seconds."""
    reach(edge, run_dir, cut[0])
    relay.cut()
    since = time.monotonic()
    reach(edge, run_dir, cut[1])
    relay.restore()
    return time.monotonic() - since


def reach(edge: "subprocess.Popen[str]", run_dir: Path, share: float) -> None:
    """Wait until the edge has trained this share of its batches.

    Raises:
        RuntimeError: it ended before.
    """
    wait_for(
        lambda: edge.poll() is not None or progress(run_dir) >= share,
        f"{share:.0%} of the run",
        timeout_s=PATIENCE_S,
    )
    if edge.poll() is not None:
        finish(edge)
        raise RuntimeError(f"the run ended before {share:.0%} of it were seen")


def progress(run_dir: Path) -> float:
    """Return the share of its batches that the edge has trained."""
    metrics, settings = run_dir / "metrics.jsonl", run_dir / "run.json"
    if not metrics.exists():
        return 0.0
    told = json.loads(settings.read_text())["settings"]
    batches: int = -(-told["train_limit"] // told["batch_size"]) * told["epochs"]
    return metrics.read_bytes().count(b'"kind": "edge"') / batches


def measure(report: Report, work: Path, case: dict[str, Any], arguments: Sequence[str], pairs: int) -> None:
    """Print a figure for each run, and what they come to together."""
    first = train(work / "unlimited", [*arguments, "--epochs", "1"])["summary"]
    rate_bps = FASTER * 8 * first["bytes_up"] / first["edge_busy_s"]
    runs: dict[str, list[dict[str, Any]]] = {"untouched": [], "cut": []}
    for pair in range(pairs):
        # Every other pair the other way round: a machine that becomes slower is held against neither.
        for link in ("untouched", "cut") if pair % 2 == 0 else ("cut", "untouched"):
            cuts = CUTS if link == "cut" else ()
            run = train(work / f"{link}-{pair}", arguments, rate_bps, cuts)
            runs[link].append(run)
            tell(report, {**case, "link": link, "pair": pair, "rate_bps": round(rate_bps)}, run)
    every = [*runs["untouched"], *runs["cut"]]
    differ = sum(run["outcome"] != every[0]["outcome"] for run in every)
    twice = sum(abs(run["outcome"]["applied"] - run["summary"]["batches"]) for run in every)
    case = {**case, "pairs": pairs}
    report.figure("runs_that_differ", case, differ, "runs", at_most=0)
    report.figure("batches_not_applied_once", case, twice, "batches", at_most=0)
    for name, time_of in (("time_ratio", wall), ("time_ratio_at_equal_speed", wall_of_busy)):
        pairs_of = zip(runs["cut"], runs["untouched"], strict=True)
        ratio = statistics.median(time_of(cut) / time_of(untouched) for cut, untouched in pairs_of)
        report.figure(name, case, ratio, "times", at_most=TIME_BAR)


def wall(run: dict[str, Any]) -> float:
    """Return the seconds that a run took."""
    return float(run["summary"]["train_wall_s"])


def wall_of_busy(run: dict[str, Any]) -> float:
    """Return the time that a run took, in units of that in which its edge worked."""
    return wall(run) / float(run["summary"]["edge_busy_s"])


def tell(report: Report, case: dict[str, Any], run: dict[str, Any]) -> None:
    """Print the figures of one run, but for one that was told before."""
    if report.is_done("train_wall_s", case):
        return
    told = run["summary"]
    report.figure("train_wall_s", case, told["train_wall_s"], "s")
    report.figure("edge_wait_s", case, told["edge_wait_s"], "s", at_most=0)
    if case["link"] == "cut":
        report.figure("link_down", case, run["down_s"] / told["train_wall_s"], "share", at_least=DOWN_BAR)
        return
    link_s = 8 * told["bytes_up"] / case["rate_bps"]
    for name, busy_s in (("link", link_s), ("cloud", told["cloud_busy_s"])):
        faster = told["edge_busy_s"] / busy_s
        report.figure(f"{name}_faster_than_edge", case, faster, "times", at_least=FASTER_BAR)


@benchmark
@click.option("--pairs", default=3, show_default=True, help="Pairs of runs.")
@work_dir
def main(report: Report, pairs: int, work: Path | None) -> None:
    """The time that a run takes whose link is down for 30 % of it, against one whose link is not."""
    arguments = RUN.split()
    if report.quick:
        pairs, arguments = 1, [*arguments, *QUICK.split()]
    case = {"command": f"edge-worker train {' '.join(arguments)}"}
    with TemporaryDirectory() as scratch:
        base = work or Path(scratch)
        base.mkdir(parents=True, exist_ok=True)
        measure(report, base, case, arguments, pairs)


if __name__ == "__main__":
    main()
