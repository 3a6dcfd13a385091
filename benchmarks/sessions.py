"""Do many edges get of one cloud together what one gets alone, and each its fair part of it?

python -m benchmarks.sessions [--quick] [--out FILE]

One, eight and sixty-four edges with a session each, played by one light client that sends recorded batches.
The cloud has a core of its own, the client the other one. The clock starts once each has trained some, and
stops when the first edge has all its batches applied: what all have applied meanwhile, a second, and the
least that any one has against their mean; medians of rounds in which all take turns. No epoch ends meanwhile,
as then a session is saved. Before the clock starts, all sessions are idle: what one takes in memory beyond
its weights and momenta is told, too.
"""

import json
import statistics
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
# How many edges, and how many batches each of them sends while the clock runs.
CROWDS, QUICK_CROWDS = ((1, 144), (8, 48), (64, 12)), ((1, 16), (4, 8))
WARM, ROUNDS = 2, 3
RATE_BAR, SHARE_BAR, IDLE_BAR = 0.9, 0.8, 1 << 20


def state_bytes() -> int:
    """Return what weights, buffers and momenta of one session's back take."""
    back = cut(build(SPEC, seed=0), SPEC, SPLIT).back
    momenta = list(back.parameters())
    return sum(tensor.nbytes for tensor in [*momenta, *back.state_dict().values()])


def play(work: Path, record: Path, edges: int, batches: int) -> tuple[dict[str, Any], int]:
    """Return what the player tells, and the cloud's memory while all sessions are idle, in bytes."""
    crowd = ("--edges", str(edges), "--warm", str(WARM), "--batches", str(batches))
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
    crowds, rounds = (QUICK_CROWDS, 1) if report.quick else (CROWDS, ROUNDS)
    last = {"edges": crowds[-1][0], "settings": SETTINGS}
    if report.is_done("session_idle", last, among={"settings": SETTINGS}):
        return
    longest = WARM + max(batches for _, batches in crowds) + 1
    rates: dict[int, list[float]] = {edges: [] for edges, _ in crowds}
    worst: dict[int, list[float]] = {edges: [] for edges, _ in crowds}
    idle: dict[int, list[int]] = {edges: [] for edges, _ in crowds}
    with TemporaryDirectory() as base:
        record = Path(base) / "records"
        edge_alone(Path(base) / "edge", record, [*SETTINGS.split(), "--train-limit", str(BATCH * longest)])
        for each_round in range(rounds):
            for edges, batches in crowds:
                result, memory = play(Path(base) / f"cloud-{each_round}-{edges}", record, edges, batches)
                applied = result["applied"]
                rates[edges].append(BATCH * sum(applied) / result["seconds"])
                worst[edges].append(min(applied) / (sum(applied) / edges))
                idle[edges].append(memory)
    for edges, batches in crowds:
        case = {"edges": edges, "batches": batches, "settings": SETTINGS}
        report.figure("sessions_rate", case, statistics.median(rates[edges]), "images/s")
        if edges > 1:
            shares = [many / one for many, one in zip(rates[edges], rates[1], strict=True)]
            report.figure("sessions", case, statistics.median(shares), "share", at_least=RATE_BAR)
            least = statistics.median(worst[edges])
            report.figure("sessions_worst", case, least, "share of the mean", at_least=SHARE_BAR)
    few, many_edges = min(idle), max(idle)
    grown = statistics.median(idle[many_edges]) - statistics.median(idle[few])
    each = grown / (many_edges - few) - state_bytes()
    report.figure("session_idle", last, each, "bytes beyond its weights and momenta", at_most=IDLE_BAR)


if __name__ == "__main__":
    main()
