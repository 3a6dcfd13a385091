"""`python -m benchmarks.killable FILE edge-worker|cloud-worker ...`: a daemon that dies at a named point.

As soon as FILE holds the name of a point, the daemon's next arrival there removes FILE and ends the process
by SIGKILL. Nothing else is changed: each point is a real function of the daemon, or the place before it.
"""

import os
import signal
import sys
from collections.abc import Callable, Iterable
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from common.durable import PARTIAL, Piece


class Point(NamedTuple):
    """Where a daemon can die.

    Attributes:
        worker: "edge" or "cloud".
        phase: what it is busy with there.
        module: where the function is.
        function: its name, qualified by its class.
        after: whether the function is done by then; else it has not begun.
    """

    worker: str
    phase: str
    module: str
    function: str
    after: bool = False

    @property
    def name(self) -> str:
        """How FILE calls it."""
        return f"{'after' if self.after else 'before'} {self.module}.{self.function}"


CHECKPOINT, APPLIED, EVALUATION, HANDSHAKE, SPOOL = (
    "checkpoint write",
    "between apply and acknowledgement",
    "evaluation",
    "handshake",
    "spool commit",
)

POINTS = (
    # Half of the file is written, and nothing has its name (see `_torn_write`).
    Point("edge", CHECKPOINT, "common.checkpoint", "write_atomic"),
    Point("cloud", CHECKPOINT, "common.checkpoint", "write_atomic"),
    # It has its name, and the ones that it replaces are there, too.
    Point("edge", CHECKPOINT, "common.checkpoint", "CheckpointStore.keep_only"),
    Point("cloud", CHECKPOINT, "common.checkpoint", "CheckpointStore.keep_only"),
    # What a checkpoint stands on is on the disk, and the checkpoint is not.
    Point("cloud", CHECKPOINT, "cloud_worker.kept_images", "KeptImages.sync", after=True),
    Point("cloud", CHECKPOINT, "cloud_worker.kept_gradients", "KeptGradients.save", after=True),
    # The weights are a step ahead of what the session says that it has applied.
    Point("cloud", APPLIED, "cloud_worker.standing", "Standing.tell"),
    Point("cloud", APPLIED, "cloud_worker.session", "Session.apply", after=True),
    Point("edge", APPLIED, "edge_worker.cloud", "Cloud._on_ack"),
    Point("edge", EVALUATION, "edge_worker.front", "Front.evaluate", after=True),
    Point("cloud", EVALUATION, "cloud_worker.back", "Back.evaluate", after=True),
    Point("edge", HANDSHAKE, "edge_worker.uplink", "Uplink._check_welcome"),
    Point("cloud", HANDSHAKE, "cloud_worker.session", "Session.attach"),
    Point("cloud", HANDSHAKE, "cloud_worker.session", "Session.attach", after=True),
    # Within the transaction, and between it and the checkpoint that it belongs to.
    Point("edge", SPOOL, "edge_worker.spool", "Spool._drop", after=True),
    Point("edge", SPOOL, "edge_worker.outbox", "Outbox.commit", after=True),
)


def die_at(name: str, armed: Path) -> None:
    """End this process, if `armed` says so."""
    try:
        if armed.read_text() != name:
            return
        armed.unlink()
    except FileNotFoundError:
        return
    os.kill(os.getpid(), signal.SIGKILL)


def _hooked(original: Callable[..., Any], point: Point, armed: Path) -> Callable[..., Any]:
    def call(*args: Any, **options: Any) -> Any:
        if not point.after:
            die_at(point.name, armed)
        result = original(*args, **options)
        if point.after:
            die_at(point.name, armed)
        return result

    return call


def _torn_write(original: Callable[..., None], point: Point, armed: Path) -> Callable[..., None]:
    def write(path: Path, content: bytes | Iterable[Piece]) -> None:
        if armed.exists() and armed.read_text() == point.name:
            data = content if isinstance(content, bytes) else b"".join(content)
            path.with_name(path.name + PARTIAL).write_bytes(data[: len(data) // 2])
            die_at(point.name, armed)
        original(path, content)

    return write


def hook(point: Point, armed: Path) -> None:
    """Have this process die at a point, once `armed` says so."""
    owner: Any = import_module(point.module)
    *classes, name = point.function.split(".")
    for each in classes:
        owner = getattr(owner, each)
    made = _torn_write if name == "write_atomic" else _hooked
    setattr(owner, name, made(getattr(owner, name), point, armed))


def main() -> None:
    """Hook the daemon's points, then run it."""
    armed, program, *arguments = sys.argv[1:]
    worker = program.removesuffix("-worker")
    for point in POINTS:
        if point.worker == worker:
            hook(point, Path(armed))
    cli = import_module(f"{worker}_worker.cli")
    cli.main.main(args=arguments, prog_name=program)


if __name__ == "__main__":
    main()
