"""Does a cloud stand what no edge would say? Malformed messages on a real server, honest runs beside them.

python -m benchmarks.hostile [--messages 20000] [--seed 0] [--quick] [--out FILE]

Each message has a stream or a call of its own. They come only while an honest run is under way; when it ends
before they do, another one begins. Each must come to the same bits as the run by itself. Beside the messages
come garbage on the port, connections that say nothing, and streams that stall.
"""

import json
import re
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import click
import numpy as np

from benchmarks.attacks.attacker import Attacker, Tally
from benchmarks.attacks.noise import Noise
from benchmarks.attacks.peer import smallest_run
from benchmarks.outcome import outcome
from benchmarks.processes import Cloud, cloud_at, lines_of, start_edge, wait_for
from benchmarks.report import Report, benchmark

ATTACKERS, QUICK_ATTACKERS = 6, 2
QUICK_MESSAGES = 600
SAMPLE_S = 0.05
IDLE_TIMEOUT_S = 10
SLOPE_BAR = 100.0
# Dropout in the back: it would draw otherwise if a hostile session disturbed the random numbers.
HONEST = (
    "--dataset synthetic --train-limit 256 --test-limit 64 --batch-size 32 --model vgg11 --split pool5 "
    "--bits 8 --lr 0.01 --threads 1 --precision float32 --workers 1 --seed 0"
)
EPOCHS, QUICK_EPOCHS = 4, 1
LINK_RATE = "60kbit"  # slow enough that there is time for the messages
HONEST_TOKEN, ATTACKER_TOKEN = "h" * 32, "a" * 32

_LINE = re.compile(r"\d\d:\d\d:\d\d (DEBUG|INFO|WARNING|ERROR) .+")
REFUSAL = " ended a call of "
LEFT = " ended a call of one who has left: "  # gRPC has refused it, or its caller has given up


@dataclass(slots=True)
class Seen:
    """What was seen of a server under attack.

    Attributes:
        outcomes: of the honest runs.
        interruptions: times that one of them lost its stream.
        memory: messages answered, and the server's bytes in memory then.
        seconds: in which messages were sent.
        exit_code: of the server, after SIGTERM.
        refusals: lines of its log that tell of one.
        lines: all of them.
        unclean: those that are no event, such as a traceback's, or that hold a control character.
    """

    outcomes: list[dict[str, Any]] = field(default_factory=list)
    interruptions: int = 0
    memory: list[tuple[int, int]] = field(default_factory=list)
    seconds: float = 0.0
    exit_code: int | None = None
    refusals: int = 0
    lines: int = 0
    unclean: list[str] = field(default_factory=list)


class Attacked(NamedTuple):
    """An attack: what was seen of it, and its two parts."""

    seen: Seen
    tally: Tally
    noise: Noise


class Honest:
    """Runs of an edge that means well, one after the other, and where the last one is.

    Args:
        cloud: what they train with.
        work: where their directories are.
        arguments: of `edge-worker train`.
    """

    def __init__(self, cloud: Cloud, work: Path, *arguments: str) -> None:
        self._cloud = cloud
        self._work = work
        self._token = secret(work / "token", HONEST_TOKEN)
        self._arguments = (*HONEST.split(), *arguments, "--token-file", str(self._token))
        self._started = 0
        self._run_dir = work

    def session(self) -> str:
        """Return the session of the last one started."""
        return str(json.loads((self._run_dir / "run.json").read_text())["session_id"])

    def run(self, tally: Tally, seen: Seen) -> None:
        """Train one run; messages may be sent from its first batch at the cloud to its end."""
        self._run_dir = self._work / f"edge-{self._started}"
        self._started += 1
        edge = start_edge(self._cloud.address, self._run_dir, *self._arguments)
        try:
            wait_for(lambda: lines_of(self._run_dir) > 2 or edge.poll() is not None, "the first batches")
            tally.go.set()
            started = time.monotonic()
            while edge.poll() is None:
                if not tally.is_done:
                    seen.memory.append((tally.sent, memory_bytes(self._cloud.process.pid)))
                    seen.seconds += time.monotonic() - started
                started = time.monotonic()
                time.sleep(SAMPLE_S)
        finally:
            tally.go.clear()
            if edge.poll() is None:
                edge.kill()
            _, said = edge.communicate()
        if edge.returncode != 0:
            raise click.ClickException(f"the honest run ended with {edge.returncode}: {said}")
        summary = json.loads((self._run_dir / "summary.json").read_text())
        seen.interruptions += summary["resumes"] + said.count(" WARNING ")
        seen.outcomes.append(outcome(self._cloud.run_dir, self._run_dir))


def memory_bytes(process_id: int) -> int:
    """Return what a process has in memory, or swapped out, that is its own.

    Without the pages of files, such as torch's libraries, which come and go as the machine's memory fills.
    """
    lines = Path(f"/proc/{process_id}/status").read_text().splitlines()
    return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith(("RssAnon:", "VmSwap:")))


def slope(memory: list[tuple[int, int]], messages: int) -> float:
    """Return the growth of memory over the second half of the messages, bytes a message.

    The median of the slopes between any two samples (Theil and Sen): the tens of MB that a network takes
    while it is built, at one moment or another, do not move it.
    """
    half = np.array([each for each in memory if each[0] >= messages / 2], dtype=np.float64)
    sent, bytes_ = half[:: max(1, len(half) // 1000)].T
    first, second = np.triu_indices(len(sent), 1)
    apart = sent[second] > sent[first]
    first, second = first[apart], second[apart]
    return float(np.median((bytes_[second] - bytes_[first]) / (sent[second] - sent[first])))


def secret(path: Path, text: str) -> Path:
    """Write a file that only its owner can read."""
    path.touch(mode=0o600)
    path.write_text(text + "\n")
    return path


def read_log(log: Path, seen: Seen) -> None:
    """Take in what the server wrote."""
    lines = log.read_text(errors="replace").split("\n")[:-1]
    seen.lines = len(lines)
    seen.refusals = sum(REFUSAL in line and LEFT not in line for line in lines)
    seen.unclean = [line for line in lines if not (_LINE.fullmatch(line) and line.isprintable())]


def attack(work: Path, messages: int, seed: int, arguments: list[str], quick: bool) -> Attacked:
    """Send `messages` and make noise beside honest runs.

    Args:
        work: where server and runs live.
        messages: how many to send.
        seed: of what is drawn.
        arguments: of the honest runs.
        quick: fewer attackers, and the shorter noise once; else all of it for as long as messages are sent.
    """
    seen, tally, run = Seen(), Tally(messages), smallest_run()
    work.mkdir()
    tokens = secret(work / "tokens", f"honest {HONEST_TOKEN}\nattacker {ATTACKER_TOKEN}")
    limits = ("--tokens", str(tokens), "--idle-timeout", f"{IDLE_TIMEOUT_S}s")
    attackers = QUICK_ATTACKERS if quick else ATTACKERS
    with cloud_at(work / "cloud", *limits) as cloud, ThreadPoolExecutor(attackers + 1) as threads:
        honest = Honest(cloud, work, *arguments)
        noise = Noise(cloud.address, run, ATTACKER_TOKEN, seed)

        def make_noise() -> None:
            noise.make(established=not quick)
            while not quick and not tally.is_done:
                noise.make(established=True)

        pending = [threads.submit(make_noise)]
        for number in range(attackers):
            attacker = Attacker(cloud.address, run, ATTACKER_TOKEN, seed + 1 + number)
            pending.append(threads.submit(attacker.attack, tally, honest.session))
        try:
            # None of them ends before the others, unless something fails here.
            while not tally.is_done and not any(each.done() for each in pending[1:]):
                honest.run(tally, seen)
        finally:
            tally.stop()
        for each in pending:
            each.result()
        seen.exit_code = cloud.stop() if cloud.process.poll() is None else cloud.process.returncode
    read_log(cloud.log, seen)
    return Attacked(seen, tally, noise)


def alone(work: Path, arguments: list[str]) -> dict[str, Any]:
    """Return what the honest run comes to by itself."""
    work.mkdir()
    tokens = secret(work / "tokens", f"honest {HONEST_TOKEN}")
    seen = Seen()
    with cloud_at(work / "cloud", "--tokens", str(tokens)) as cloud:
        Honest(cloud, work, *arguments).run(Tally(0), seen)
    return seen.outcomes[0]


@benchmark
@click.option("--messages", default=20_000, show_default=True, help="How many malformed ones.")
@click.option("--seed", default=0, show_default=True, help="Of what is drawn.")
def main(report: Report, messages: int, seed: int) -> None:
    """What a server makes of malformed messages, and what they do to it and to an honest run."""
    if report.quick:
        messages = min(messages, QUICK_MESSAGES)
    arguments = ["--epochs", str(QUICK_EPOCHS if report.quick else EPOCHS)]
    with TemporaryDirectory() as scratch:
        untouched = alone(Path(scratch, "alone"), arguments)
        slow = [*arguments, "--link-rate", LINK_RATE]
        seen, tally, noise = attack(Path(scratch, "beside"), messages, seed, slow, report.quick)
    case = {"messages": messages, "seed": seed}
    for status, count in sorted((tally.statuses + noise.tally.statuses).items()):
        report.figure("answers", {**case, "status": status}, count, "messages")
    for line in (*tally.wrong, *noise.tally.wrong, *noise.left_open, *seen.unclean):
        click.echo(f"wrong: {line[:500]}", err=True)
    report.figure("messages", case, tally.sent, "messages", at_least=messages)
    report.figure("messages_rate", case, tally.sent / seen.seconds, "messages/s")
    report.figure("wrong_answers", case, len(tally.wrong), "messages", at_most=0)
    report.figure("connections", case, noise.connections, "connections")
    report.figure("connections_left_open", case, len(noise.left_open), "connections", at_most=0)
    report.figure("stalled_streams", case, noise.tally.sent, "streams")
    report.figure("wrong_ends_of_stalled_streams", case, len(noise.tally.wrong), "streams", at_most=0)
    report.figure("memory_slope", case, slope(seen.memory, messages), "bytes/message", at_most=SLOPE_BAR)
    report.figure("log_lines", case, seen.lines / tally.sent, "lines/message")
    missing = abs(seen.refusals - tally.refused - noise.tally.refused)
    report.figure("refusals_without_one_line", case, missing, "lines", at_most=0)
    report.figure("unclean_log_lines", case, len(seen.unclean), "lines", at_most=0)
    differ = sum(each != untouched for each in seen.outcomes)
    report.figure("honest_runs", case, len(seen.outcomes), "runs", at_least=1)
    report.figure("honest_runs_that_differ", case, differ, "runs", at_most=0)
    report.figure("honest_runs_interrupted", case, seen.interruptions, "times", at_most=0)
    report.figure("server_exit_code", case, float(seen.exit_code or 0), "", at_least=0, at_most=0)


if __name__ == "__main__":
    main()
