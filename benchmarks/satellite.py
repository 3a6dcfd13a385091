"""Slow is not dead, and dead is noticed: 64 kbit/s and 600 ms each way, and a link that falls silent.

python -m benchmarks.satellite [--quick] [--out FILE]

The link is a TCP relay that limits the rate of both directions and delays them; what it cannot carry at once
it holds, as a modem does. Over it real daemons train, a batch taking some 15 s of it: on one connection, with
no more bytes under way, once the link is known, than it carries in two seconds.

Then the same link falls silent half-way, both connections open: each side must hang up within a minute. When
it speaks again the run goes on. All runs must come to the bits of one without a relay.
"""

import json
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.outcome import outcome
from benchmarks.processes import cloud_at, edge_at, finish, wait_for
from benchmarks.relay import Relay
from benchmarks.report import Report, benchmark

RUN = (
    "--dataset synthetic --train-limit 1024 --test-limit 32 --batch-size 256 --epochs 1 "
    "--model resnet18 --split layer2 --bits 4 --threads 1 --precision float32 --workers 1"
)
QUICK = "--train-limit 256 --batch-size 128 --split layer3"
RATE_BPS, DELAY_S = 64e3, 0.6
LINK = {"rate_up_bps": RATE_BPS, "rate_down_bps": RATE_BPS, "delay_up_s": DELAY_S, "delay_down_s": DELAY_S}
# By then the link is known: it starts with two chunks of 16 KiB.
KNOWN_BYTES = 64 << 10
# What it carries in two seconds, and a quarter for framing and for what a busy machine measures too much.
IN_FLIGHT_BAR = 1.25 * 2 * RATE_BPS / 8
NOTICED_BAR_S = 60.0
# How long the link stays silent at most.
SILENT_S = 120.0
PATIENCE_S = 3600.0


def untouched(work: Path, arguments: Sequence[str]) -> dict[str, Any]:
    """Return what a run comes to without a relay."""
    with cloud_at(work / "cloud") as cloud, edge_at(cloud.address, work / "edge", *arguments) as edge:
        finish(edge)
    return outcome(work / "cloud", work / "edge")


@contextmanager
def training(work: Path, arguments: Sequence[str]) -> "Iterator[tuple[Relay, subprocess.Popen[str]]]":
    """Train over the slow link."""
    with (
        cloud_at(work / "cloud") as cloud,
        Relay(cloud.address, **LINK) as relay,
        edge_at(relay.address, work / "edge", *arguments) as edge,
    ):
        yield relay, edge


def slow(report: Report, work: Path, arguments: Sequence[str], case: dict[str, Any]) -> dict[str, Any]:
    """Train over the slow link; return what the run came to."""
    with training(work, arguments) as (relay, edge):
        wait_for(lambda: edge.poll() is not None or relay.up.total > KNOWN_BYTES, "bytes", PATIENCE_S)
        at_start = relay.up.take_most_under_way()
        finish(edge)
        after = relay.up.take_most_under_way()
    wall_s = json.loads((work / "edge" / "summary.json").read_text())["train_wall_s"]
    report.figure("train_wall_s", case, wall_s, "s")
    report.figure("reconnects", case, relay.connections - 1, "times", at_most=0)
    report.figure("bytes_under_way_at_start", case, at_start, "bytes")
    report.figure("bytes_under_way", case, after, "bytes", at_most=IN_FLIGHT_BAR)
    return outcome(work / "cloud", work / "edge")


def silent(report: Report, work: Path, arguments: Sequence[str], case: dict[str, Any]) -> dict[str, Any]:
    """Train over the slow link, silent for a while; return what the run came to."""
    with training(work, arguments) as (relay, edge):
        wait_for(lambda: edge.poll() is not None or relay.up.total > 2 * KNOWN_BYTES, "bytes", PATIENCE_S)
        relay.silence()
        since = time.monotonic()
        wait_for(
            lambda: len(noticed_at(relay)) == 2 or time.monotonic() - since > SILENT_S, "both", PATIENCE_S
        )
        relay.restore()
        finish(edge)
    # A side that never noticed would have kept its connection until the run's end.
    noticed = {"client": PATIENCE_S, "server": PATIENCE_S, **noticed_at(relay)}
    for side, name in (("client", "edge"), ("server", "cloud")):
        report.figure(f"{name}_noticed_s", case, noticed[side] - since, "s", at_most=NOTICED_BAR_S)
    return outcome(work / "cloud", work / "edge")


def noticed_at(relay: Relay) -> dict[str, float]:
    """Return when each side hung up the connection that fell silent, the first one."""
    return {hangup.side: hangup.at for hangup in relay.hangups if hangup.connection == 1}


@benchmark
def main(report: Report) -> None:
    """A link of 64 kbit/s and 600 ms, slow and then silent."""
    arguments = RUN.split()
    if report.quick:
        arguments += QUICK.split()
    command = f"edge-worker train {' '.join(arguments)}"
    cases = {"slow": slow} if report.quick else {"slow": slow, "silent": silent}
    with TemporaryDirectory() as scratch:
        wanted = untouched(Path(scratch) / "untouched", arguments)
        for name, train in cases.items():
            case = {"command": command, "link": name, "rate_bps": RATE_BPS, "delay_s": DELAY_S}
            if not report.is_done("runs_that_differ", case):
                came_to = train(report, Path(scratch) / name, arguments, case)
                report.figure("runs_that_differ", case, int(came_to != wanted), "runs", at_most=0)


if __name__ == "__main__":
    main()
