"""Is the plan's first choice the fastest? Trained beside others, in ten settings.

python -m benchmarks.plan_choice [--data-dir ../shared/data] [--work DIR] [--quick] [--out FILE]

Two networks are profiled at every split point, in ROUNDS, the edge on one core and the cloud on the other. At
each of five link rates the plan's first four choices and two drawn at random from the others are trained on
1,000 images. Then the first and the fastest of the others are trained again and again by turns, which of them
goes first too, until a sign test tells on which side of what is judged the median of their ratios is (over
all looks at it, it errs in 4 of 100), or MOST pairs are trained; the median counts. A host that is shared may
be a quarter slower a minute later, and of six times that are each measured once the shortest is the luckiest.
So only these pairs decide. What is measured is kept below --work: a benchmark that was stopped goes on.
"""

import json
import math
import random
import shutil
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeAlias

from benchmarks.alone import cloud_on_core, train_at, two_machines
from benchmarks.compared import data_of, profiled
from benchmarks.report import Report, benchmark, data_dir, work_dir
from common.units import parse_rate
from edge_worker.costs import Link
from edge_worker.planner import Plan, best_of, rank
from edge_worker.profile_file import read_profile

MODELS = ("resnet18", "vgg11")
RATES = ("1mbit", "2mbit", "5mbit", "10mbit", "50mbit")
IMAGES, TESTED, EPOCHS = 1000, 200, 3
FIRST, DRAWN = 4, 2
ROUNDS = 3
QUICK = "--splits layer3 --strategies hierarchical,full-edge"
WITHIN, SETTINGS_BAR = 0.05, 0.9
MOST, SIGNIFICANT = 12, 0.035  # pairs; told apart by 6 to 0 and 9 to 1

# Seconds of an epoch of a choice, in its training of a number.
Timed: TypeAlias = Callable[[Plan, int], float]


def flags_of(plan: Plan, rate: str) -> list[str]:
    """Return the flags by which a choice is trained over a link."""
    flags = ["--strategy", plan.strategy, "--link-rate", rate, "--link-rate-down", rate]
    if plan.split is not None:
        flags += ["--split", plan.split, "--bits", str(plan.bits)]
    return flags if plan.images is None else [*flags, "--images", plan.images]


@contextmanager
def trainings(work: Path, rate: str, settings: Sequence[str]) -> Iterator[Timed]:
    """Yield what trains a choice over a link, unless that was done, beside one cloud for all of them."""
    scratch = work / "scratch"
    shutil.rmtree(scratch, ignore_errors=True)  # of a benchmark that was stopped
    with two_machines(), cloud_on_core(scratch / "cloud", "--checkpoint-every", "1h") as cloud:

        def epoch_s(plan: Plan, number: int) -> float:
            parts = (rate, plan.strategy, plan.images, plan.split, plan.bits, number)
            name = "-".join(str(part) for part in parts if part is not None)
            kept, run_dir = work / f"{name}.json", scratch / name
            if not kept.exists():
                train_at(cloud.address, run_dir, *settings, *flags_of(plan, rate))
                (run_dir / "summary.json").rename(kept)
                shutil.rmtree(run_dir)
            return float(json.loads(kept.read_text())["train_wall_s"]) / EPOCHS

        yield epoch_s
    shutil.rmtree(scratch)


def slower(timed: Timed, first: Plan, other: Plan) -> list[float]:
    """Return by what share the first choice is slower than another, in one pair after the other."""
    ratios: list[float] = []
    while len(ratios) < MOST and not _is_decided(ratios):
        number = len(ratios) + 1
        order = (first, other) if number % 2 else (other, first)
        seconds = {plan: timed(plan, number) for plan in order}
        ratios.append(seconds[first] / seconds[other])
    return [ratio - 1 for ratio in ratios]


def _is_decided(ratios: Sequence[float]) -> bool:
    """Tell by a two-sided sign test whether so many are above what is judged, or below, by no accident."""
    pairs, above = len(ratios), sum(ratio > 1 + WITHIN for ratio in ratios)
    as_far = sum(math.comb(pairs, count) for count in range(min(above, pairs - above) + 1))
    return 2 * as_far / (1 << pairs) <= SIGNIFICANT


def chosen(ranked: Sequence[Plan], seed: int) -> list[Plan]:
    """Return the choice that `--split auto` takes, those that come first beside it, and some others."""
    taken = best_of(ranked)
    others = [each for each in ranked if each != taken]
    drawn = random.Random(seed).sample(others[FIRST - 1 :], min(DRAWN, len(others[FIRST - 1 :])))
    return [taken, *others[: FIRST - 1], *drawn]


def is_right(report: Report, case: dict[str, Any], plans: Sequence[Plan], timed: Timed) -> bool:
    """Train the choices of a setting, the plan's at their head; tell whether it is the fastest, or nearly."""
    once = {plan: timed(plan, 0) for plan in plans}
    for plan, seconds in once.items():
        report.figure("epoch_s", {**case, "choice": plan.name}, seconds, "s")
        report.figure("predicted_epoch_s", {**case, "choice": plan.name}, plan.epoch_s, "s")
    first, *others = plans
    rival = min(others, key=once.__getitem__)
    share_once = once[first] / once[rival] - 1
    report.figure("first_slower_when_each_is_trained_once", case, share_once, "share")
    # The two that --quick trains are the pair.
    shares = [share_once] if report.quick else slower(timed, first, rival)
    share, above = statistics.median(shares), sum(each > WITHIN for each in shares)
    where = {**case, "first": first.name, "other": rival.name, "pairs": len(shares), "above": above}
    report.figure("first_slower_than_fastest_other", where, share, "share")
    return share <= WITHIN


@benchmark
@data_dir
@work_dir
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
                *f"--model {model} --train-limit {images} --test-limit {min(TESTED, images)}".split(),
                *f"--epochs {EPOCHS}".split(),
                *"--warmup 5 --batch-size 50 --precision float32".split(),
            ]
            asked = QUICK if report.quick else f"--rounds {ROUNDS}"
            path = profiled(here, *settings, *asked.split(), "--link-rate", rates[0])
            costs = read_profile(path).costs
            for number, rate in enumerate(rates):
                bps = float(parse_rate(rate))
                plans = chosen(rank(costs, Link(up_bps=bps, down_bps=bps)), number)
                plans = plans[:2] if report.quick else plans
                case = {"model": model, "rate": rate, "images": images, "epochs": EPOCHS}
                with trainings(here, rate, settings) as timed:
                    right.append(is_right(report, case, plans, timed))
    share, case = sum(right) / len(right), {"settings": len(right)}
    report.figure("settings_in_which_the_first_is_fastest", case, share, "share", at_least=SETTINGS_BAR)


if __name__ == "__main__":
    main()
