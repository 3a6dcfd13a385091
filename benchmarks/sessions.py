"""Do many edges get of one cloud together what one gets alone, and each its fair part of it?

python -m benchmarks.sessions [--quick] [--out FILE]

One, eight and sixty-four edges with a session each, played by one light client that sends recorded batches.
The cloud has a core of its own, the client the other one. A count ends when the first edge has all its
batches applied: what all have applied by then, a second, and the least that any one has against their mean.
Before they begin, all sessions are open and idle: what one takes in memory beyond its weights is told, too.
"""

import json
import math
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.alone import EDGE_CORE, cloud_on_core, edge_alone, line_of, replay, tell
from benchmarks.processes import rss_bytes
from benchmarks.report import Report, benchmark
from common.models.catalogue import ModelSpec, build
from common.models.split import cut

BATCH = 32
SPEC, SPLIT = ModelSpec(name="resnet18", num_classes=10, input_shape=(3, 32, 32)), "layer3"
SETTINGS = (
    f"--model resnet18 --split {SPLIT} --bits 4 --batch-size {BATCH} --dataset synthetic --test-limit 20 "
    "--epochs 1 --precision float32 --workers 1"
)
LIMITS = ("--checkpoint-every", "1h", "--max-sessions", "64")
# How many edges, and how many batches each of them sends.
CROWDS, QUICK_CROWDS = ((1, 144), (8, 64), (64, 16)), ((1, 16), (4, 8))
RATE_BAR, SHARE_BAR, IDLE_BAR = 0.9, 0.8, 1 << 20


def weight_bytes() -> int:
    """Return what the weights and buffers of one session's back take."""
    back = cut(build(SPEC, seed=0), SPEC, SPLIT).back
    return sum(tensor.nbytes for tensor in back.state_dict().values())


def play(work: Path, record: Path, edges: int, batches: int) -> tuple[dict[str, Any], int]:
    """Return what the player tells, and the cloud's memory while all sessions are idle, in bytes."""
    crowd = ("--edges", str(edges), "--batches", str(batches))
    with (
        cloud_on_core(work, *LIMITS) as cloud,
        replay(EDGE_CORE, "play", str(record), "--to", cloud.address, *crowd) as player,
    ):
        line_of(player)
        idle = rss_bytes(cloud.process.pid)
        tell(player)
        result: dict[str, Any] = json.loads(line_of(player))
        cloud.kill()  # what it has is of no use
    return result, idle


@benchmark
def main(report: Report) -> None:
    """Images a second of many edges, and the worst one's part."""
    crowds = QUICK_CROWDS if report.quick else CROWDS
    most = max(batches for _, batches in crowds)
    idle: dict[int, int] = {}
    alone = math.nan
    with TemporaryDirectory() as base:
        record = Path(base) / "records"
        edge_alone(Path(base) / "edge", record, [*SETTINGS.split(), "--train-limit", str(BATCH * most)])
        for edges, batches in crowds:
            result, idle[edges] = play(Path(base) / f"cloud-{edges}", record, edges, batches)
            applied = result["applied"]
            rate = BATCH * sum(applied) / result["seconds"]
            alone = rate if edges == 1 else alone
            case = {"edges": edges, "batches": batches, "settings": SETTINGS}
            report.figure("sessions_rate", case, rate, "images/s")
            report.figure("sessions", case, rate / alone, "share", at_least=RATE_BAR)
            worst = min(applied) / (sum(applied) / edges)
            report.figure("sessions_worst", case, worst, "share of the mean", at_least=SHARE_BAR)
    least, most_edges = min(idle), max(idle)
    each = (idle[most_edges] - idle[least]) / (most_edges - least) - weight_bytes()
    case = {"edges": most_edges, "settings": SETTINGS}
    report.figure("session_idle", case, each, "bytes beyond its weights", at_most=IDLE_BAR)


if __name__ == "__main__":
    main()
