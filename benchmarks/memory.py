"""Is memory flat over a run, and how much less does an edge take that trains the front only?

python -m benchmarks.memory [--quick] [--out FILE]

Growth of both daemons' resident memory over 5,000 batches after the first 500: the median over the last tenth
of the batches against that over the second tenth. And the edge's peak above its level before the first batch,
where it trains the front, against where it trains the network whole: of its steps, and with a checkpoint.
"""

import json
import statistics
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.processes import Cloud, cloud_at, edge_at, finish, lines_of, rss_bytes, start_edge
from benchmarks.report import Report, benchmark

GROWTH_BAR, SHARE_BAR = 0.02, 0.65
RESNET = (
    "--model resnet18 --split layer2 --bits 4 --batch-size 32 --precision float32 --threads 1 --workers 1"
)
VGG_BATCH = 64
VGG = f"--model vgg16 --split pool3 --bits 4 --batch-size {VGG_BATCH} --precision float32 --threads 1"
SOURCE = "--dataset synthetic --test-limit 64"
STEADY = "--epochs 1 --workers 1 --checkpoint-every 1h"
SAMPLE_S = 0.1
PER_EPOCH = 125
# The log's line that comes last before the first batch.
BUILT = "device "


def growth(work: Path, batches: int) -> dict[str, float]:
    """Train so many batches of 32; return how much each side has grown, as a share."""
    arguments = f"{RESNET} {SOURCE} --train-limit {32 * PER_EPOCH} --epochs {batches // PER_EPOCH}"
    samples: list[tuple[int, int, int]] = []
    with cloud_at(work / "cloud") as cloud, edge_at(cloud.address, work / "edge", *arguments.split()) as edge:
        while edge.poll() is None:
            seen = lines_of(work / "edge") // 2  # one line of each side for a batch
            samples.append((seen, rss_bytes(edge.pid), rss_bytes(cloud.process.pid)))
            time.sleep(SAMPLE_S)
        finish(edge)
    tenth = batches // 10
    early = [each for each in samples if tenth <= each[0] < 2 * tenth]
    late = [each for each in samples if batches - tenth <= each[0] and 0 not in each]
    return {
        side: statistics.median(each[index] for each in late)
        / statistics.median(each[index] for each in early)
        - 1
        for index, side in ((1, "edge"), (2, "cloud"))
    }


def above_start(work: Path, cloud: Cloud, strategy: str, images: int) -> dict[str, int]:
    """Train; return the edge's peaks above its level before the first batch, in bytes.

    `training` is that of the steps alone, `saving` that of the whole run, with its checkpoint.
    """
    arguments = f"{VGG} {SOURCE} --train-limit {images} --strategy {strategy} {STEADY}"
    edge = start_edge(cloud.address, work, *arguments.split())
    assert edge.stderr is not None
    while BUILT not in (line := edge.stderr.readline()):
        if not line:
            raise RuntimeError(f"edge-worker ended with {edge.wait(60)}")
    before, training = rss_bytes(edge.pid), 0
    while edge.poll() is None and own_losses(work) < images // VGG_BATCH:
        training = rss_bytes(edge.pid, peak=True)
        time.sleep(SAMPLE_S / 10)
    finish(edge)
    saving = int(json.loads((work / "summary.json").read_text())["edge_peak_rss_bytes"])
    return {"training": training - before, "saving": saving - before}


def own_losses(run_dir: Path) -> int:
    """Return of how many batches the edge has written its own loss."""
    path = run_dir / "metrics.jsonl"
    return path.read_bytes().count(b'"kind": "edge"') if path.exists() else 0


def judge_growth(report: Report, batches: int) -> None:
    """Print how much each side grows."""
    of = {"settings": RESNET, "batches": batches}
    if report.is_done("memory_growth", {"side": "cloud", **of}, among=of):
        return
    with TemporaryDirectory() as work:
        for side, share in growth(Path(work), batches).items():
            report.figure("memory_growth", {"side": side, **of}, share, "share", at_most=GROWTH_BAR)


def judge_share(report: Report, images: int) -> None:
    """Print what an edge takes that trains the front only, of what one takes that trains all."""
    of = {"settings": VGG, "images": images}
    if report.is_done("memory_share", {"phase": "saving", **of}, among=of):
        return
    with TemporaryDirectory() as base, cloud_at(Path(base) / "cloud") as cloud:
        taken = {
            strategy: above_start(Path(base) / strategy, cloud, strategy, images)
            for strategy in ("hierarchical", "full-edge")
        }
    for phase in ("training", "saving"):
        for strategy, peaks in taken.items():
            case = {"strategy": strategy, "phase": phase, **of}
            report.figure("memory_above_start", case, peaks[phase], "bytes")
        share = taken["hierarchical"][phase] / taken["full-edge"][phase]
        report.figure("memory_share", {"phase": phase, **of}, share, "share", at_most=SHARE_BAR)


@benchmark
def main(report: Report) -> None:
    """Growth over a run, and the edge's share of the whole network's memory."""
    judge_growth(report, 250 if report.quick else 5000)
    judge_share(report, 128 if report.quick else 1280)


if __name__ == "__main__":
    main()
