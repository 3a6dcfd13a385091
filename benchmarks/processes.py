"""Real daemons for benchmarks and tests: a cloud, and edges that talk to it over loopback."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

BIN = Path(sys.executable).parent
LISTENING = "listening on "
START_S = 120.0


def worker_env() -> dict[str, str]:
    """Return this environment without settings of headwater's."""
    return {name: value for name, value in os.environ.items() if not name.startswith("HEADWATER_")}


@dataclass(frozen=True, slots=True)
class Cloud:
    """A running `cloud-worker serve`.

    Attributes:
        process: the daemon.
        address: HOST:PORT that it listens on.
        run_dir: where its sessions are.
        log: what it wrote to stderr.
    """

    process: "subprocess.Popen[str]"
    address: str
    run_dir: Path
    log: Path

    def stop(self) -> int:
        """Send SIGTERM; return the exit code."""
        self.process.terminate()
        return self.process.wait(60)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.process.kill()
        self.process.wait(60)

    def session_dir(self, session_id: str) -> Path:
        """Return the directory of one session."""
        return self.run_dir / session_id


def program(name: str, armed: Path | None = None) -> list[str]:
    """Return how to start a console script; with `armed`, as a `benchmarks.killable`."""
    return (
        [str(BIN / name)]
        if armed is None
        else [sys.executable, "-m", "benchmarks.killable", str(armed), name]
    )


def start_cloud(
    run_dir: Path,
    *arguments: str,
    listen: str = "127.0.0.1:0",
    threads: int = 1,
    armed: Path | None = None,
    env: Mapping[str, str] | None = None,
) -> Cloud:
    """Start a cloud and wait until it listens; `env` is added to its environment.

    Raises:
        RuntimeError: it ended instead.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    log = run_dir / "cloud.log"
    command = [*program("cloud-worker", armed), "serve", "--listen", listen, "--run-dir", str(run_dir)]
    with log.open("a") as stderr:
        process = subprocess.Popen(
            [*command, "--threads", str(threads), *arguments],
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            env=worker_env() | dict(env or {}),
        )
    assert process.stdout is not None
    line = process.stdout.readline()
    process.stdout.close()
    if not line.startswith(LISTENING):
        raise RuntimeError(f"the cloud did not start, exit code {process.wait(START_S)}: {log.read_text()}")
    return Cloud(process, line.removeprefix(LISTENING).strip(), run_dir, log)


@contextmanager
def cloud_at(
    run_dir: Path, *arguments: str, threads: int = 1, env: Mapping[str, str] | None = None
) -> Iterator[Cloud]:
    """Run a cloud for the length of a block; `env` is added to its environment."""
    cloud = start_cloud(run_dir, *arguments, threads=threads, env=env)
    try:
        yield cloud
    finally:
        if cloud.process.poll() is None:
            cloud.stop()


def edge_command(cloud: str | None, run_dir: Path, *arguments: str, armed: Path | None = None) -> list[str]:
    """Return the command line of `edge-worker train`."""
    address = [] if cloud is None else ["--cloud", cloud]
    return [*program("edge-worker", armed), "train", *address, "--run-dir", str(run_dir), *arguments]


def run_edge(
    cloud: str | None, run_dir: Path, *arguments: str, timeout_s: float | None = None
) -> "subprocess.CompletedProcess[str]":
    """Run `edge-worker train` to its end; the caller looks at the exit code."""
    command = edge_command(cloud, run_dir, *arguments)
    return subprocess.run(command, capture_output=True, text=True, env=worker_env(), timeout=timeout_s)


def start_edge(
    cloud: str | None, run_dir: Path, *arguments: str, armed: Path | None = None
) -> "subprocess.Popen[str]":
    """Start `edge-worker train` without waiting for it."""
    command = edge_command(cloud, run_dir, *arguments, armed=armed)
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=worker_env()
    )


@contextmanager
def on_core(core: int) -> Iterator[None]:
    """Have what is started in this block run on one core, of those that there are."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {sorted(cores)[core % len(cores)]})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


@contextmanager
def edge_at(cloud: str, run_dir: Path, *arguments: str) -> "Iterator[subprocess.Popen[str]]":
    """Run `edge-worker train` for the length of a block; what is left of it is killed."""
    edge = start_edge(cloud, run_dir, *arguments)
    try:
        yield edge
    finally:
        if edge.poll() is None:
            edge.kill()
            edge.communicate()


def finish(edge: "subprocess.Popen[str]") -> None:
    """Wait until an edge has finished its run.

    Raises:
        RuntimeError: it ended otherwise.
    """
    _, said = edge.communicate()
    if edge.returncode:
        raise RuntimeError(f"edge-worker ended with {edge.returncode}: {said}")


def export(run_dir: Path, out: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run `edge-worker export`; the caller looks at the exit code."""
    command = [*program("edge-worker"), "export", "--run-dir", str(run_dir), "--out", str(out), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=worker_env())


def wait_for(condition: Callable[[], bool], what: str, timeout_s: float = 120.0) -> None:
    """Poll until `condition()` holds.

    Raises:
        TimeoutError: it does not.
    """
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {timeout_s:g} s for {what}")
        time.sleep(0.02)


def lines_of(run_dir: Path) -> int:
    """Return how many lines metrics.jsonl has."""
    path = run_dir / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def rss_bytes(process_id: int, peak: bool = False) -> int:
    """Return the resident memory of a process, or the most it has had, in bytes; 0 where it has ended."""
    with suppress(OSError):
        for line in Path(f"/proc/{process_id}/status").read_text().splitlines():
            if line.startswith("VmHWM:" if peak else "VmRSS:"):
                return int(line.split()[1]) * 1024
    return 0
