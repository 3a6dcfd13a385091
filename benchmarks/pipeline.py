"""Is the slowest of edge, link and cloud the only thing that takes time?

python -m benchmarks.pipeline [--quick] [--rounds 5] [--out FILE]

Three pairs, of which the edge, the link and the cloud is the slowest. Each side is pinned to a core and first
measured alone: the edge sends to a sink, the cloud is sent what was recorded there, either with other work on
the other core; the link alone would take the pair's bytes at its rate. Then the pair trains. Sides and pair
come in turn, and each figure is the median of the rounds. Time is train_wall_s: from the edge's first step to
the last batch applied.
"""

import statistics
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import click

from benchmarks.alone import cloud_alone, cloud_on_core, edge_alone, train_at
from benchmarks.report import Report, benchmark

BAR = 0.93
COMMON = (
    "--dataset synthetic --test-limit 20 --batch-size 50 --bits 4 --precision float32 --workers 1 "
    "--checkpoint-every 1h"
)


@dataclass(frozen=True, slots=True)
class Case:
    """A run, and which part of it is the slowest.

    Attributes:
        bound: `edge`, `link` or `cloud`.
        settings: flags of `edge-worker train`.
        images: how many it trains on in an epoch.
        epochs: how often.
        rate_bps: of the link, where there is one.
    """

    bound: str
    settings: str
    images: int
    epochs: int = 1
    rate_bps: int | None = None

    def arguments(self, quick: bool) -> list[str]:
        """Return all flags but where the cloud is."""
        images, epochs = (120, 1) if quick else (self.images, self.epochs)
        rate = [] if self.rate_bps is None else ["--link-rate", f"{self.rate_bps}bit"]
        length = f"--train-limit {images} --epochs {epochs}".split()
        return [*COMMON.split(), *self.settings.split(), *length, *rate]


CASES = (
    Case("edge", "--model resnet18 --split layer4.0", 4000, epochs=2),
    Case("link", "--model resnet18 --split layer2", 4000, rate_bps=1_000_000),
    Case("cloud", "--model vgg16 --split pool2", 3000),
)


def measure(case: Case, work: Path, quick: bool) -> dict[str, float]:
    """Return the seconds of each part alone, and of the pair."""
    arguments = case.arguments(quick)
    unlimited = arguments[: arguments.index("--link-rate")] if case.rate_bps else arguments
    record = work / "records"
    edge = edge_alone(work / "edge-alone", record, unlimited)
    seconds = {"edge": float(edge["train_wall_s"])}
    seconds["cloud"] = cloud_alone(work / "cloud-alone", record, int(edge["batches"]))
    record.unlink()
    with cloud_on_core(work / "cloud", "--checkpoint-every", "1h") as cloud:
        pair = train_at(cloud.address, work / "edge", *arguments)
    if case.rate_bps is not None:
        seconds["link"] = 8 * pair["bytes_up"] / case.rate_bps
    return {**seconds, "pair": float(pair["train_wall_s"])}


@benchmark
@click.option("--rounds", default=5, show_default=True, help="How often each case is measured.")
def main(report: Report, rounds: int) -> None:
    """The slowest of edge, link and cloud alone, against the pair."""
    for case in CASES[2:] if report.quick else CASES:
        command = f"edge-worker train {' '.join(case.arguments(report.quick))}"
        settings = {"bound": case.bound, "command": command, "cores": "one each"}
        if report.is_done("pipeline", settings):
            continue
        found = []
        for _ in range(1 if report.quick else rounds):
            with TemporaryDirectory() as work:
                found.append(measure(case, Path(work), report.quick))
        alone = {part: statistics.median(each[part] for each in found) for part in found[0] if part != "pair"}
        for part, seconds in alone.items():
            report.figure("alone_s", {**settings, "part": part}, seconds, "s")
        report.figure("pair_s", settings, statistics.median(each["pair"] for each in found), "s")
        slowest = max(alone, key=lambda part: alone[part])
        report.figure("slowest_is_as_meant", settings, float(slowest == case.bound), "yes", at_least=1)
        ratios = [
            max(value for part, value in each.items() if part != "pair") / each["pair"] for each in found
        ]
        report.figure("pipeline", settings, statistics.median(ratios), "share", at_least=BAR)


if __name__ == "__main__":
    main()
