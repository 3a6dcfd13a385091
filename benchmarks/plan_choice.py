"""Is the plan's first choice the fastest? Trained beside others, in ten settings.

python -m benchmarks.plan_choice [--data-dir ../shared/data] [--work DIR] [--quick] [--out FILE]

Two networks are profiled at every split point, the edge on one core and the cloud on the other. At each of
five link rates the plan's first four choices and two drawn at random from the others are trained on 1,000
images, and the first one's time is set against the fastest of the six. What is measured is kept below
--work, so that a benchmark that was stopped goes on where it was.
"""

import json
import random
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import click

from benchmarks.activations import data_dir
from benchmarks.alone import cloud_on_core, train_at, two_machines
from benchmarks.compared import data_of, profiled
from benchmarks.report import Report, benchmark
from common.units import parse_rate
from edge_worker.planner import Link, Plan, best_of, rank
from edge_worker.profile_file import read_profile

MODELS = ("resnet18", "vgg11")
RATES = ("1mbit", "2mbit", "5mbit", "10mbit", "50mbit")
IMAGES, EPOCHS = 1000, 3
FIRST, DRAWN = 4, 2
WITHIN, SETTINGS_BAR = 0.05, 0.9


def flags_of(plan: Plan, rate: str) -> list[str]:
    """Return the flags by which a choice is trained over a link."""
    flags = ["--strategy", plan.strategy, "--link-rate", rate, "--link-rate-down", rate]
    if plan.split is not None:
        flags += ["--split", plan.split, "--bits", str(plan.bits)]
    return flags if plan.images is None else [*flags, "--images", plan.images]


def epoch_s(work: Path, plan: Plan, rate: str, settings: Sequence[str]) -> float:
    """Return the seconds of an epoch of a choice, which is trained unless it is there."""
    parts = (rate, plan.strategy, plan.images, plan.split, plan.bits)
    run_dir = work / "-".join(str(part) for part in parts if part is not None)
    if not (run_dir / "summary.json").exists():
        with two_machines(), cloud_on_core(work / "cloud", "--checkpoint-every", "1h") as cloud:
            train_at(cloud.address, run_dir, *settings, *flags_of(plan, rate))
    return float(json.loads((run_dir / "summary.json").read_text())["train_wall_s"]) / EPOCHS


def chosen(ranked: Sequence[Plan], seed: int) -> list[Plan]:
    """Return the choice that `--split auto` takes, those that come first beside it, and some others."""
    taken = best_of(ranked)
    others = [each for each in ranked if each != taken]
    drawn = random.Random(seed).sample(others[FIRST - 1 :], min(DRAWN, len(others[FIRST - 1 :])))
    return [taken, *others[: FIRST - 1], *drawn]


@benchmark
@data_dir
@click.option("--work", type=click.Path(path_type=Path), help="Where runs are kept.  [default: nowhere]")
def main(report: Report, data_dir: Path, work: Path | None) -> None:
    """In how many settings the plan's first choice is the fastest, or nearly so."""
    models, rates, images = (MODELS[:1], RATES[:1], 96) if report.quick else (MODELS, RATES, IMAGES)
    right = []
    with TemporaryDirectory() as scratch:
        base = work or Path(scratch)
        data = data_of("synthetic" if report.quick else "cifar10", data_dir, base)
        for model in models:
            here = base / f"plan-choice-{model}-{images}"
            settings = [
                *data,
                *f"--model {model} --train-limit {images} --test-limit 200 --epochs {EPOCHS}".split(),
                *"--warmup 5 --batch-size 50 --precision float32".split(),
            ]
            splits = "layer3" if report.quick else ""
            path = profiled(here, *settings, "--splits", splits, "--link-rate", rates[0])
            costs = read_profile(path).costs
            for number, rate in enumerate(rates):
                bps = float(parse_rate(rate))
                ranked = rank(costs, Link(up_bps=bps, down_bps=bps))
                times = [(epoch_s(here, plan, rate, settings), plan) for plan in chosen(ranked, number)]
                case = {"model": model, "rate": rate, "images": images, "epochs": EPOCHS}
                for seconds, plan in times:
                    report.figure("epoch_s", {**case, "choice": plan.name}, seconds, "s")
                    report.figure("predicted_epoch_s", {**case, "choice": plan.name}, plan.epoch_s, "s")
                slower = times[0][0] / min(seconds for seconds, _ in times) - 1
                first = {**case, "first": times[0][1].name}
                report.figure("first_slower_than_fastest", first, slower, "share")
                right.append(slower <= WITHIN)
    share, case = sum(right) / len(right), {"settings": len(right)}
    report.figure("settings_in_which_the_first_is_fastest", case, share, "share", at_least=SETTINGS_BAR)


if __name__ == "__main__":
    main()
