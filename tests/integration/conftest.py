"""Real processes for integration tests: clouds and edges over loopback."""

import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.outcome import outcome
from benchmarks.processes import Cloud, cloud_at, run_edge, start_cloud

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


def outcome_untouched(base: Path, *arguments: str) -> dict[str, Any]:
    """Return what a run comes to that nobody touches; its directories are made in `base`."""
    with cloud_at(base / "cloud") as cloud:
        done = run_edge(cloud.address, base / "edge", *arguments, timeout_s=250)
        assert done.returncode == 0, done.stderr
    return outcome(base / "cloud", base / "edge")


def interrupt(process: "subprocess.Popen[str]", number: signal.Signals) -> tuple[int, str, str]:
    """Send a signal; return exit code, stdout and stderr."""
    process.send_signal(number)
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err
