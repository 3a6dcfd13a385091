"""Real processes for integration tests: clouds and edges over loopback."""

import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from benchmarks.processes import Cloud, edge_command, start_cloud, worker_env

# Small and quick, with batch norm in play, two epochs, and a short last batch.
SMALL_RUN = (
    "--dataset synthetic --train-limit 210 --test-limit 60 --batch-size 32 --epochs 2 --model resnet18 "
    "--split layer1 --bits 4 --threads 1 --precision float32 --workers 1"
).split()


@pytest.fixture
def clouds(tmp_path: Path) -> Iterator[Callable[..., Cloud]]:
    """Start clouds on `tmp_path / "cloud"`; what is left of them is ended with the test."""
    started: list[Cloud] = []

    def start(*arguments: str, **options: str) -> Cloud:
        started.append(start_cloud(tmp_path / "cloud", *arguments, **options))  # type: ignore[arg-type]
        return started[-1]

    yield start
    for cloud in started:
        if cloud.process.poll() is None:
            cloud.kill()


def start_edge(cloud: str | None, run_dir: Path, *arguments: str) -> "subprocess.Popen[str]":
    """Start `edge-worker train` without waiting for it."""
    command = edge_command(cloud, run_dir, *arguments)
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=worker_env()
    )


def wait_for(condition: Callable[[], bool], what: str, timeout_s: float = 120.0) -> None:
    """Poll until `condition()` holds."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"waited {timeout_s} s for {what}"
        time.sleep(0.02)


def lines_of(run_dir: Path) -> int:
    """How many lines metrics.jsonl has."""
    path = run_dir / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def interrupt(process: "subprocess.Popen[str]", number: signal.Signals) -> tuple[int, str, str]:
    """Send a signal; return exit code, stdout and stderr."""
    process.send_signal(number)
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err
