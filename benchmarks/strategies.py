"""How long does each strategy take for the same work over the same link?

python -m benchmarks.strategies [--data-dir ../shared/data] [--work DIR] [--quick] [--out FILE]

CIFAR-10, three epochs, an emulated link, split points and widths as planned; the edge on one core and the
cloud on the other, so that here both are equally fast. full-cloud is measured with images that go up in
each epoch and with ones that the cloud keeps; against the first of these stands the headline of Sepehri et
al. (arXiv:2303.02384) on CIFAR-10, 61 % (ResNet-18) and 29 % (VGG-16) less time. What `edge-worker compare`
writes is kept below --work, so that a benchmark that was stopped goes on where it was.
"""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from benchmarks.compared import compared, data_of
from benchmarks.report import Report, benchmark, data_dir, work_dir

RATES = ("2mbit", "10mbit")
EPOCHS = 3
FIGURES = {
    "epoch_s": "s",
    "predicted_epoch_s": "s",
    "edge_s": "s",
    "link_s": "s",
    "cloud_s": "s",
    "bytes_up": "bytes",
    "memory_bytes": "bytes",
    "accuracy": "share",
}


class Case(NamedTuple):
    """One network.

    Attributes:
        model: its name.
        images: of each epoch.
        headline: share of full-cloud's time that the paper saves.
        options: flags of the model.
    """

    model: str
    images: int
    headline: float
    options: str = ""


CASES = (Case("resnet18", 2560, 0.61), Case("vgg16", 1280, 0.29, "--lr 0.02"))
TESTED = 500
QUICK = Case("resnet18", 96, 0.61)
RESEND = "full-cloud (resend)"
AUTO = "--split auto --bits auto"


def settings_of(case: Case, rates: tuple[str, ...], where: str, data: list[str]) -> list[str]:
    """Return the flags of a comparison of one network over these links."""
    return [
        *data,
        *f"--model {case.model} {where} --train-limit {case.images} {case.options}".split(),
        *f"--test-limit {min(TESTED, case.images)} --epochs {EPOCHS} --batch-size 64".split(),
        *"--warmup 10 --precision float32".split(),
        *(word for rate in rates for word in ("--link-rate", rate)),
    ]


def measure(report: Report, case: Case, found: dict[str, Any]) -> None:
    """Report what a comparison has of one network."""
    for cell in found["cells"]:
        here = {"model": case.model, "images": case.images, "epochs": EPOCHS}
        here |= {name: cell[name] for name in ("link", "strategy", "images", "split", "bits")}
        for figure, unit in FIGURES.items():
            if cell[figure] is not None:
                report.figure(figure, here, cell[figure], unit)
    for each in found["against"]:
        where = {"model": case.model, "link": each["link"], "strategy": each["other"]}
        report.figure("time_against", where, each["times"], "times")
    saved = {each["link"]: 1 - each["times"] for each in found["against"] if each["other"] == RESEND}
    if saved:
        link = max(saved, key=lambda name: saved[name])
        case_of_it = {"model": case.model, "against": RESEND, "link": link}
        report.figure("most_saved", case_of_it, saved[link], "share", at_least=case.headline)


@benchmark
@data_dir
@work_dir
def main(report: Report, data_dir: Path, work: Path | None) -> None:
    """The time that each strategy takes, and how that of the method compares."""
    with TemporaryDirectory() as scratch:
        base = work or Path(scratch)
        if report.quick:
            arguments = settings_of(QUICK, ("2mbit",), "--split layer3", data_of("synthetic", data_dir, base))
            measure(
                report,
                QUICK,
                compared(base / "strategies-quick", *arguments, "--strategies", "hierarchical,full-edge"),
            )
            return
        for case in CASES:
            arguments = settings_of(case, RATES, AUTO, data_of("cifar10", data_dir, base))
            measure(report, case, compared(base / f"strategies-{case.model}-{case.images}", *arguments))


if __name__ == "__main__":
    main()
