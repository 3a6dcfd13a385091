"""Runs of an edge that means well, beside which messages are sent that no edge would say."""

import json
import time
from collections.abc import Callable
from pathlib import Path

import click

from benchmarks.attacks.attacker import Tally
from benchmarks.attacks.seen import Seen, memory_bytes
from benchmarks.outcome import outcome
from benchmarks.processes import Cloud, start_edge, wait_for

TOKEN = "h" * 32
# Dropout in the back: it would draw otherwise if a hostile session disturbed the random numbers.
RUN = (
    "--dataset synthetic --test-limit 64 --batch-size 32 --model vgg11 --split pool5 "
    "--bits 8 --lr 0.01 --threads 1 --precision float32 --workers 1 --seed 0"
)
POLL_S = 0.05
LOOKS = 8  # at the memory, for each sample: the honest run goes on, and its steps take some for a moment


class Honest:
    """Trains one run after the other.

    Args:
        cloud: what they train with.
        work: where their directories are.
        settle: called before the server's memory is sampled.
        arguments: of `edge-worker train`.
    """

    def __init__(self, cloud: Cloud, work: Path, settle: Callable[[], None], *arguments: str) -> None:
        self._settle = settle
        self._cloud = cloud
        self._work = work
        token = secret(work / "token", TOKEN)
        self._arguments = (*RUN.split(), *arguments, "--token-file", str(token))
        self._started = 0
        self._run_dir = work

    def session(self) -> str:
        """Return the session of the last one started."""
        return str(json.loads((self._run_dir / "run.json").read_text())["session_id"])

    def run(self, tally: Tally, seen: Seen, samples: int) -> None:
        """Train one run; messages may be sent from its first batch at the cloud to its end.

        Args:
            tally: of the messages.
            seen: takes what comes of the run, and the server's memory.
            samples: how often that is sampled over all messages.
        """
        self._run_dir = self._work / f"edge-{self._started}"
        self._started += 1
        edge = start_edge(self._cloud.address, self._run_dir, *self._arguments)
        try:
            wait_for(lambda: self._is_under_way() or edge.poll() is not None, "the first batch at the cloud")
            tally.go.set()
            while edge.poll() is None:
                before = time.monotonic()
                time.sleep(POLL_S)
                seen.seconds += 0.0 if tally.is_done else time.monotonic() - before
                if tally.sent * samples > len(seen.memory) * tally.total:
                    seen.memory.append((tally.sent, self._memory_at_rest(tally)))
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

    def _is_under_way(self) -> bool:
        metrics = self._run_dir / "metrics.jsonl"
        return metrics.exists() and '"cloud"' in metrics.read_text()

    def _memory_at_rest(self, tally: Tally) -> int:
        tally.go.clear()
        wait_for(lambda: tally.under_way == 0, "answers to all messages")
        self._settle()
        looks = []
        for _ in range(LOOKS):
            time.sleep(POLL_S)
            looks.append(memory_bytes(self._cloud.process.pid))
        tally.go.set()
        return min(looks)


def secret(path: Path, text: str) -> Path:
    """Write a file that only its owner can read."""
    path.touch(mode=0o600)
    path.write_text(text + "\n")
    return path
