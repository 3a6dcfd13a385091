"""One side of a pair by itself, on its core, while the other core has other work."""

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.processes import LISTENING, Cloud, edge_at, finish, on_core, start_cloud, worker_env

EDGE_CORE, CLOUD_CORE = 0, 1
# What keeps a core, its caches and the memory busy; it runs only while nothing else wants its core.
LOAD = """
import os, torch
parent = os.getppid()
os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
torch.set_num_threads(1)
layer = torch.nn.Conv2d(64, 64, 3, padding=1)
while os.getppid() == parent:
    layer(torch.randn(32, 64, 32, 32)).sum().backward()
"""


@contextmanager
def load_on(core: int) -> Iterator[None]:
    """Keep a core busy for the length of a block."""
    with on_core(core):
        process = subprocess.Popen([sys.executable, "-c", LOAD])
    try:
        yield
    finally:
        process.kill()
        process.wait()


@contextmanager
def two_machines() -> Iterator[None]:
    """Let neither core ever be idle for the length of a block.

    The two of a virtual machine share more than caches: one computes faster while the other is idle, and one
    that was idle itself begins slowly. Two machines do not have that, and the plan does not know of it.
    """
    with load_on(EDGE_CORE), load_on(CLOUD_CORE):
        yield


@contextmanager
def replay(core: int, *arguments: str) -> "Iterator[subprocess.Popen[str]]":
    """Run a command of `benchmarks.replay` on a core; it is killed at the end of the block."""
    command = [sys.executable, "-m", "benchmarks.replay", *arguments]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with on_core(core):
        process = subprocess.Popen(command, text=True, env=worker_env(), **pipes)  # type: ignore[call-overload]
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def line_of(process: "subprocess.Popen[str]") -> str:
    """Return the next line that a process prints.

    Raises:
        RuntimeError: it ended instead.
    """
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise RuntimeError(f"benchmarks.replay ended with {process.wait(60)}")
    return line.strip()


def tell(process: "subprocess.Popen[str]") -> None:
    """Have a process go on."""
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


@contextmanager
def sink_at(record: Path | None = None) -> Iterator[str]:
    """Run a sink on the cloud's core for the length of a block; yields its address."""
    keep = [] if record is None else ["--record", str(record)]
    with replay(CLOUD_CORE, "sink", *keep) as sink:
        yield line_of(sink).removeprefix(LISTENING)


def train_at(address: str, run_dir: Path, *arguments: str) -> dict[str, Any]:
    """Run an edge on its core to its end; return its summary."""
    with on_core(EDGE_CORE), edge_at(address, run_dir, "--threads", "1", *arguments) as edge:
        finish(edge)
    summary: dict[str, Any] = json.loads((run_dir / "summary.json").read_text())
    return summary


def edge_alone(work: Path, record: Path | None, arguments: Sequence[str]) -> dict[str, Any]:
    """Train over loopback into a sink; return the edge's summary, and keep what it sent in `record`."""
    with load_on(CLOUD_CORE), sink_at(record) as address:
        return train_at(address, work, *arguments)


@contextmanager
def cloud_on_core(run_dir: Path, *arguments: str) -> Iterator[Cloud]:
    """Run a cloud on its core for the length of a block."""
    with on_core(CLOUD_CORE):
        cloud = start_cloud(run_dir, *arguments)
    try:
        yield cloud
    finally:
        if cloud.process.poll() is None:
            cloud.stop()


def cloud_alone(work: Path, record: Path, batches: int) -> float:
    """Send what was recorded as fast as it is taken; return the seconds until all of it is applied."""
    with (
        load_on(EDGE_CORE),
        cloud_on_core(work, "--checkpoint-every", "1h") as cloud,
        replay(EDGE_CORE, "play", str(record), "--to", cloud.address, "--batches", str(batches)) as player,
    ):
        line_of(player)
        tell(player)
        result: dict[str, Any] = json.loads(line_of(player))
        cloud.kill()  # what it has is of no use
    return float(result["seconds"])
