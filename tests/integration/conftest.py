"""Real processes for integration tests: a cloud, and edges that talk to it over loopback."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

BIN = Path(sys.executable).parent
# Small, quick, and with everything in play: batch norm, two epochs, a short last batch.
SMALL_RUN = (
    "--dataset synthetic --train-limit 210 --test-limit 60 --batch-size 32 --epochs 2 --model resnet18 "
    "--split layer1 --bits 4 --threads 1 --precision float32 --workers 1"
).split()


def worker_env() -> dict[str, str]:
    """The tests' environment without settings for headwater, and with one thread for torch."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("HEADWATER_") and "proxy" not in k.lower()}
    return {**env, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "default"}


@dataclass
class Cloud:
    """A running `cloud-worker serve`."""

    run_dir: Path
    process: subprocess.Popen[str]
    address: str
    log: Path

    def stop(self) -> int:
        """SIGTERM; return the exit code."""
        self.process.terminate()
        return self.process.wait(60)

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()
        self.process.wait(60)


@dataclass
class Clouds:
    """Starts clouds and ends what is left of them."""

    started: list[Cloud] = field(default_factory=list)

    def start(self, run_dir: Path, listen: str = "127.0.0.1:0", *arguments: str) -> Cloud:
        """Start a cloud and wait until it listens."""
        run_dir.mkdir(parents=True, exist_ok=True)
        log = run_dir / "log.txt"
        process = subprocess.Popen(
            [BIN / "cloud-worker", "serve", "--listen", listen, "--run-dir", run_dir, "--threads", "1", *arguments],
            stdout=subprocess.PIPE,
            stderr=log.open("a"),
            text=True,
            env=worker_env(),
        )
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("listening on "), log.read_text()
        cloud = Cloud(run_dir, process, line.removeprefix("listening on ").strip(), log)
        self.started.append(cloud)
        return cloud


@pytest.fixture
def clouds() -> Iterator[Clouds]:
    """Clouds that are gone when the test is."""
    clouds = Clouds()
    yield clouds
    for cloud in clouds.started:
        if cloud.process.poll() is None:
            cloud.kill()


def edge_command(cloud: str | None, run_dir: Path, *arguments: str) -> list[str]:
    """The command line of `edge-worker train`."""
    address = [] if cloud is None else ["--cloud", cloud]
    return [str(BIN / "edge-worker"), "train", *address, "--run-dir", str(run_dir), *arguments]


def run_edge(cloud: str | None, run_dir: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run `edge-worker train` to its end."""
    command = edge_command(cloud, run_dir, *arguments)
    return subprocess.run(command, capture_output=True, text=True, env=worker_env(), timeout=280)


def start_edge(cloud: str | None, run_dir: Path, *arguments: str) -> "subprocess.Popen[str]":
    """Start `edge-worker train`."""
    command = edge_command(cloud, run_dir, *arguments)
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=worker_env()
    )


def wait_for(condition, what: str, timeout_s: float = 120.0) -> None:  # type: ignore[no-untyped-def]
    """Poll until `condition()` holds."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"waited {timeout_s} s for {what}"
        time.sleep(0.02)


def interrupt(process: "subprocess.Popen[str]", number: int = signal.SIGINT) -> tuple[int, str, str]:
    """Send a signal; return exit code, stdout and stderr."""
    process.send_signal(number)
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err
