"""Does a cloud stand what no edge would say? Malformed messages against a real server, an honest run beside them.

python -m benchmarks.hostile [--messages 20000] [--seed 0] [--quick] [--out FILE]

Each message has a stream or a call of its own. The honest run's link is as slow as the messages last, so that
it is under way all the time; its weights must be those of the same run by itself.
"""

import contextlib
import hashlib
import json
import queue
import random
import tempfile
import threading
import time
import uuid
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import grpc
import numpy as np

from benchmarks.malformed import Case, by_hand, drawn
from benchmarks.peer import Peer, requests, smallest_run
from benchmarks.processes import Cloud, cloud_at, edge_command, run_edge, worker_env
from benchmarks.report import Report, benchmark
from common.wire.generated import training_pb2 as pb
from common.wire.messages import Run, Skip

SERVICE = "/headwater.v1.Training/"
ATTACKERS = 6
PATIENCE_S = 60.0  # a call that is not answered by then counts as a wrong status
DRAWN_PER_PASS = 400  # drawn cases of one attacker between two passes through the list
SAMPLE_S = 0.1
SLOPE_BAR = 100.0
# Dropout in the back: it would draw otherwise if a hostile session disturbed the random numbers.
HONEST = (
    "--dataset synthetic --test-limit 64 --batch-size 32 --epochs 2 --model vgg11 --split pool5 --bits 8 "
    "--lr 0.01 --threads 1 --precision float32 --workers 1"
)


@dataclass(slots=True)
class Tally:
    """What came of the messages so far; shared by the attackers."""

    left: int
    sent: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self) -> bool:
        """Return whether another message is to be sent."""
        with self.lock:
            self.left -= 1
            return self.left >= 0

    def add(self, case: Case, code: grpc.StatusCode, details: str) -> None:
        """Count the answer to one message."""
        with self.lock:
            self.sent += 1
            self.statuses[code.name] += 1
            if code not in case.expected:
                self.wrong.append(f"{case.name}: {code.name} ({details[:300]})")


class Attacker:
    """A session of its own, over which one malformed message after the other goes."""

    def __init__(self, address: str, run: Run, seed: int) -> None:
        self._rng = random.Random(seed)
        self._channel = grpc.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)])
        self._peer = Peer(run, str(uuid.UUID(int=self._rng.getrandbits(128), version=4)))
        self._at = 0

    def attack(self, tally: Tally) -> None:
        """Send until there is nothing left to send: the list, drawn ones, the list again."""
        self._train(requests(Skip(0)), welcomed=True)
        while True:
            for case in by_hand(self._peer, self._at):
                if not tally.take():
                    return
                tally.add(case, *self.send(case))
            for _ in range(DRAWN_PER_PASS):
                if not tally.take():
                    return
                case = drawn(self._peer, self._at, self._rng)
                tally.add(case, *self.send(case))

    def send(self, case: Case) -> tuple[grpc.StatusCode, str]:
        """Send one case; return the status with which the server ends it."""
        if case.method in ("GetStatus", "ExportBack"):
            call = self._channel.unary_stream(SERVICE + case.method)
            return _ended(call(case.requests[0], timeout=PATIENCE_S))
        return self._train(case.requests, case.welcomed, case.method)

    def _train(
        self, sends: tuple[bytes, ...], welcomed: bool, method: str = "Train"
    ) -> tuple[grpc.StatusCode, str]:
        said: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        call = self._channel.stream_stream(SERVICE + method)(iter(said.get, None), timeout=PATIENCE_S)
        try:
            if welcomed:
                said.put(self._peer.hello())
                self._at = pb.TrainReply.FromString(next(call)).welcome.applied.batches
            for each in sends:
                said.put(each)
            said.put(None)
            return _ended(call)
        except grpc.RpcError as error:
            return error.code(), f"instead of Welcome: {error.details()}"
        finally:
            said.put(None)


def _ended(call: Any) -> tuple[grpc.StatusCode, str]:
    with contextlib.suppress(grpc.RpcError):
        for _ in call:
            pass
    return call.code(), call.details() or ""


# -------------------------------------------------------------------- the honest run


def start_honest(address: str, run_dir: Path, images: int, rate_bps: float) -> Any:
    """Start the honest run over a link of this rate."""
    import subprocess

    arguments = [*HONEST.split(), "--train-limit", str(images), "--link-rate", f"{rate_bps:.0f}bit"]
    command = edge_command(address, run_dir, *arguments)
    return subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=worker_env()
    )


def outcome(cloud_dir: Path, run_dir: Path) -> dict[str, str]:
    """Return the hashes of all that a finished run trained."""
    session = cloud_dir / json.loads((run_dir / "run.json").read_text())["session_id"]
    files = (run_dir / "front.safetensors", session / "back.safetensors")
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


# -------------------------------------------------------------------- memory


def rss_bytes(process_id: int) -> int:
    """Return what a process has in memory now."""
    pages = int(Path(f"/proc/{process_id}/statm").read_text().split()[1])
    return pages * 4096


def slope(samples: list[tuple[int, int]], messages: int) -> float:
    """Return the growth of memory over the second half of the messages, bytes a message."""
    half = [(sent, rss) for sent, rss in samples if sent >= messages / 2]
    sent, rss = np.array(half, dtype=np.float64).T
    return float(np.polyfit(sent, rss, 1)[0])
