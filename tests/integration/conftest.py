"""Real processes for integration tests: clouds and edges over loopback."""

import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from benchmarks.processes import Cloud, start_cloud

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


def interrupt(process: "subprocess.Popen[str]", number: signal.Signals) -> tuple[int, str, str]:
    """Send a signal; return exit code, stdout and stderr."""
    process.send_signal(number)
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err
