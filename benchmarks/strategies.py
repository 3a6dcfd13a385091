"""How long does each strategy take for the same work over the same link?

python -m benchmarks.strategies [--data-dir ../shared/data] [--work DIR] [--quick] [--out FILE]

CIFAR-10 or synthetic images, three epochs, an emulated link; the edge on one core and the cloud on the other,
so that here both are equally fast. full-cloud is measured with images that go up in each epoch and with ones
that the cloud keeps. Runs are kept below --work, so that a benchmark that was stopped goes on where it was.
"""

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import click

from benchmarks.activations import data_dir
from benchmarks.alone import EDGE_CORE, cloud_on_core, train_at
from benchmarks.processes import on_core, run_edge
from benchmarks.report import Report, benchmark

METHOD = "hierarchical"
STRATEGIES = {
    METHOD: ["--strategy", METHOD],
    "split-learning": ["--strategy", "split-learning"],
    "full-cloud, resend": ["--strategy", "full-cloud", "--images", "resend"],
    "full-cloud, once": ["--strategy", "full-cloud", "--images", "once"],
    "full-edge": ["--strategy", "full-edge"],
}
RATES = ("2mbit", "10mbit")
EPOCHS = 3
BITS = 4


class Case(NamedTuple):
    """One network.

    Attributes:
        model: its name.
        split: where it is cut.
        images: of each epoch.
    """

    model: str
    split: str
    images: int


CASES = (Case("resnet18", "layer2", 2560), Case("vgg16", "pool3", 1280))
QUICK = Case("resnet18", "layer2", 256)


def train(work: Path, strategy: str, arguments: list[str]) -> dict[str, Any]:
    """Return the summary of a run, which is trained unless it is there."""
    run_dir, flags = work / "edge", [*STRATEGIES[strategy], *arguments]
    if not (run_dir / "summary.json").exists():
        if strategy == "full-edge":
            with on_core(EDGE_CORE):
                done = run_edge(None, run_dir, "--threads", "1", *flags)
            if done.returncode:
                raise click.ClickException(f"{strategy} in {run_dir} failed: {done.stderr}")
        else:
            with cloud_on_core(work / "cloud", "--checkpoint-every", "1h") as cloud:
                train_at(cloud.address, run_dir, *flags)
    summary: dict[str, Any] = json.loads((run_dir / "summary.json").read_text())
    return summary


def settings_of(case: Case, rate: str, data: list[str]) -> list[str]:
    """Return the flags of every run of one network over one link."""
    return [
        *data,
        *f"--model {case.model} --split {case.split} --bits {BITS} --train-limit {case.images}".split(),
        *f"--test-limit 500 --epochs {EPOCHS} --warmup 10 --precision float32".split(),
        *f"--link-rate {rate} --link-rate-down {rate}".split(),
    ]


def data_of(data_dir: Path, quick: bool) -> list[str]:
    """Return the flags of CIFAR-10 where it is, else of images that are drawn."""
    if (data_dir / "cifar-10-batches-py").is_dir() and not quick:
        return ["--dataset", "cifar10", "--data-dir", str(data_dir)]
    return ["--dataset", "synthetic"]


def measure(report: Report, case: Case, rate: str, work: Path, data: list[str]) -> None:
    """Report all strategies of one network over one link."""
    arguments = settings_of(case, rate, data)
    found = {name: train(work / name.replace(", ", "-"), name, arguments) for name in STRATEGIES}
    settings = {**case._asdict(), "rate": rate, "bits": BITS, "epochs": EPOCHS, "dataset": data[1]}
    for name, each in found.items():
        here = {**settings, "strategy": name}
        report.figure("train_wall_s", here, each["train_wall_s"], "s")
        for side in ("edge", "link", "cloud"):
            if (busy_s := each[f"{side}_busy_s"]) is not None:
                report.figure(f"{side}_busy_s", here, busy_s, "s")
        for figure in ("bytes_up", "bytes_down"):
            report.figure(figure, here, each[figure], "bytes")
        report.figure("edge_peak_rss_bytes", here, each["edge_peak_rss_bytes"], "bytes")
        accuracy = each["edge_accuracy"] if each["cloud_accuracy"] is None else each["cloud_accuracy"]
        report.figure("accuracy", here, accuracy, "share")
    for name, each in found.items():
        if name != METHOD:
            ratio = found[METHOD]["train_wall_s"] / each["train_wall_s"]
            report.figure("time_against", {**settings, "strategy": name}, ratio, "times")


@benchmark
@data_dir
@click.option("--work", type=click.Path(path_type=Path), help="Where runs are kept.  [default: nowhere]")
def main(report: Report, data_dir: Path, work: Path | None) -> None:
    """The time that each strategy takes, and how that of the method compares."""
    data = data_of(data_dir, report.quick)
    cases, rates = ((QUICK,), RATES[1:]) if report.quick else (CASES, RATES)
    with TemporaryDirectory() as scratch:
        for case in cases:
            for rate in rates:
                measure(report, case, rate, (work or Path(scratch)) / f"{case.model}-{rate}", data)


if __name__ == "__main__":
    main()
