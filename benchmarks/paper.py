"""The paper's headlines on this machine: where they are met, by the plan, and in one measured row of each.

python -m benchmarks.paper [--data-dir ../shared/data] [--work DIR] [--quick] [--out FILE]

Sepehri et al. (arXiv:2303.02384) train in 29 % (VGG-16) and 61 % (ResNet-18) less time than in the cloud on
CIFAR-10, and in 25 % and 81 % less on Tiny ImageNet, over a low bit rate link. The layers, rates and widths
behind these numbers are ours to choose. Each network is profiled at some split points, the edge on one core
and the cloud on the other. Then the link rates are printed at which the plan meets the headline, for each
split point and width, against images that go up in each epoch (resend) and images that the cloud keeps
(once), and the most that is saved at 1 Mbit/s or faster; and the row with the most to gain at one of
MEASURED_RATES is trained, and so is full-cloud, for equally many epochs. Where the cloud keeps the images,
the saving depends on how many epochs share their way up: it is told for as many as are trained here, and for
LONG. What is measured is kept below --work, so that a benchmark that was stopped goes on where it was.
"""

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from benchmarks.compared import compared, data_of, profiled
from benchmarks.report import Report, benchmark, data_dir, work_dir
from common.units import parse_rate
from edge_worker.costs import Costs, Link
from edge_worker.planner import METHOD, plans
from edge_worker.profile_file import Measured, read_profile

EPOCHS, LONG = 3, 100
SLOWEST_BPS, FASTEST_BPS, PER_DECADE = 1e4, 1e9, 60
FROM_BPS = 1e6  # where a headline must be met
MEASURED_RATES = ("1mbit", "2mbit", "5mbit", "10mbit")
ACCOUNTINGS = ("resend", "once")
STRATEGIES = ("--strategies", f"{METHOD},full-cloud")


class Headline(NamedTuple):
    """One number of the paper, and what it is measured on here.

    Attributes:
        model, dataset: as the paper has them.
        saving: share of full-cloud's time.
        options: flags of the model.
        images: of each epoch here.
        splits: where it is profiled, with commas between them.
    """

    model: str
    dataset: str
    saving: float
    options: str
    images: int
    splits: str


# All places of VGG-16 would take hours. The ends of its blocks are among these, and what lies between where
# both sides have about as much to do.
VGG_SPLITS = "pool1,pool2,conv3_2,pool3,conv4_1,conv4_2,pool4,pool5"
RESNET_SPLITS = "layer1,layer2.0,layer2,layer3.0,layer3,layer4.0,layer4"
HEADLINES = (
    Headline("vgg16", "cifar10", 0.29, "--lr 0.02", 1280, VGG_SPLITS),
    Headline("resnet18", "cifar10", 0.61, "", 2560, RESNET_SPLITS),
    Headline("vgg16", "tiny-imagenet", 0.25, "--lr 0.02", 640, VGG_SPLITS),
    Headline("resnet18", "tiny-imagenet", 0.81, "", 1280, RESNET_SPLITS),
)
TESTED = 500
QUICK = Headline("resnet18", "synthetic", 0.61, "", 32, "layer3")


class Row(NamedTuple):
    """One choice of the method at one rate, what of full-cloud's time it saves, and what holds it up."""

    split: str
    bits: int
    rate_bps: float
    saving: float
    bottleneck: str


def savings(costs: Costs, rate_bps: float, accounting: str) -> Iterator[Row]:
    """Yield what each choice of the method saves at one rate."""
    # Labels and acknowledgements are all that comes down: the downlink does not matter.
    found = list(plans(costs, Link(up_bps=rate_bps, down_bps=rate_bps)))
    (cloud,) = (each for each in found if each.images == accounting)
    for each in found:
        if each.strategy == METHOD:
            saving = 1 - each.epoch_s / cloud.epoch_s
            yield Row(str(each.split), each.bits or 0, rate_bps, saving, each.bottleneck)


def rates() -> Iterator[float]:
    """Yield the rates that are looked at, bit/s."""
    steps = round(math.log10(FASTEST_BPS / SLOWEST_BPS) * PER_DECADE)
    for step in range(steps + 1):
        yield SLOWEST_BPS * 10 ** (step / PER_DECADE)


def region(report: Report, headline: Headline, measured: Measured, accounting: str, epochs: int) -> None:
    """Report from which rate to which each choice meets the headline, and the most that any of them saves."""
    costs = replace(measured.costs, epochs=epochs)
    rows = [row for rate in rates() for row in savings(costs, rate, accounting)]
    here: dict[str, Any] = {"model": headline.model, "dataset": headline.dataset, "cloud": measured.cloud}
    here |= {"against": accounting, "epochs": epochs}
    for split, bits in dict.fromkeys((row.split, row.bits) for row in rows):
        met = [r.rate_bps for r in rows if (r.split, r.bits) == (split, bits) and r.saving >= headline.saving]
        if met:
            where = {**here, "split": split, "bits": bits}
            report.figure("headline_met_from", where, min(met), "bit/s")
            report.figure("headline_met_to", where, max(met), "bit/s")
    best = max((row for row in rows if row.rate_bps >= FROM_BPS), key=lambda row: row.saving)
    where = {**here, "split": best.split, "bits": best.bits, "rate_bps": round(best.rate_bps)}
    where["held_up_by"] = best.bottleneck  # the reason, where it falls short
    report.figure("most_saved", where, best.saving, "share", at_least=bar_of(headline, accounting))


def bar_of(headline: Headline, accounting: str) -> float | None:
    """Return the bar: the paper's headlines are about a cloud that is sent all images in each epoch."""
    return headline.saving if accounting == ACCOUNTINGS[0] else None


def measure(report: Report, headline: Headline, profile: Path, settings: list[str]) -> None:
    """Train the row that should save most against images that go up in each epoch, and report it."""
    of_all = (
        (row, name)
        for name in MEASURED_RATES
        for row in savings(read_profile(profile).costs, float(parse_rate(name)), ACCOUNTINGS[0])
    )
    row, rate = max(of_all, key=lambda each: each[0].saving)
    chosen = ["--split", row.split, "--bits", str(row.bits), "--link-rate", rate]
    accountings = ACCOUNTINGS[:1] if report.quick else ACCOUNTINGS
    images = ["--images", accountings[0]] if report.quick else []
    found = compared(profile.parent, *settings, *chosen, *STRATEGIES, *images, profile=profile)
    cells = {cell["images"] or cell["strategy"]: cell for cell in found["cells"]}
    here = {
        "model": headline.model,
        "dataset": headline.dataset,
        "split": row.split,
        "bits": row.bits,
        "rate": rate,
    }
    for name, cell in cells.items():
        trained = {**here, "trained": name, "images": headline.images, "epochs": EPOCHS}
        report.figure("epoch_s", trained, cell["epoch_s"], "s")
        report.figure("accuracy", trained, cell["accuracy"], "share")
    for accounting in accountings:
        saved = 1 - cells[METHOD]["epoch_s"] / cells[accounting]["epoch_s"]
        expected = 1 - cells[METHOD]["predicted_epoch_s"] / cells[accounting]["predicted_epoch_s"]
        against = {**here, "against": accounting}
        report.figure("predicted_saving", against, expected, "share")
        bar = bar_of(headline, accounting)
        report.figure("measured_saving", against, saved, "share", at_least=bar)


@benchmark
@data_dir
@work_dir
def main(report: Report, data_dir: Path, work: Path | None) -> None:
    """Where the paper's headlines are met, and what one row of each takes."""
    with TemporaryDirectory() as scratch:
        base = work or Path(scratch)
        base.mkdir(parents=True, exist_ok=True)
        for headline in (QUICK,) if report.quick else HEADLINES:
            settings = [
                *data_of(headline.dataset, data_dir, base),
                *f"--model {headline.model} --train-limit {headline.images}".split(),
                *f"--test-limit {min(TESTED, headline.images)}".split(),
                *f"--epochs {EPOCHS} --warmup 10 --precision float32 {headline.options}".split(),
            ]
            here = base / f"paper-{headline.model}-{headline.dataset}-{headline.images}"
            path = profiled(here, *settings, "--splits", headline.splits, *STRATEGIES)
            measured = read_profile(path)
            for accounting in ACCOUNTINGS:
                for epochs in (EPOCHS, LONG):
                    region(report, headline, measured, accounting, epochs)
            measure(report, headline, path, settings)


if __name__ == "__main__":
    main()
