"""What survives a restart of the cloud: one directory for each session.

RUN_DIR/lock                      held while a server runs on RUN_DIR
RUN_DIR/<session>/session.json    the agreed run, and the highest generation served
RUN_DIR/<session>/checkpoints/    the last two states of the back
RUN_DIR/<session>/back.safetensors, summary.json    written when the run is complete
"""

import json
import logging
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from common.checkpoint import CheckpointStore
from common.durable import make_directory, write_atomic
from common.errors import CheckpointError, WireError
from common.wire.messages import Run

log = logging.getLogger(__name__)

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def check_session_id(session_id: str) -> None:
    """Refuse everything but a canonical UUID: the id becomes the name of a directory."""
    if not _UUID.fullmatch(session_id):
        raise WireError(f"a session id must be a lower-case UUID, got {session_id[:64]!r}")


class SavedState(NamedTuple):
    """One checkpoint: its number, and what was saved under it."""

    number: int
    tensors: dict[str, Tensor]
    numbers: dict[str, Any]


class SessionFiles:
    """The directory of one session."""

    def __init__(self, run_dir: Path, session_id: str) -> None:
        check_session_id(session_id)
        self.directory = run_dir / session_id
        self._session_file = self.directory / "session.json"

    @property
    def weights_file(self) -> Path:
        """The back's weights, once the run is complete."""
        return self.directory / "back.safetensors"

    def exists(self) -> bool:
        """Tell whether the session was ever opened."""
        return self._session_file.exists()

    def read(self) -> tuple[Run, int]:
        """Return the agreed run and the highest generation served."""
        try:
            saved = json.loads(self._session_file.read_text())
            run: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in saved["run"].items()}
            return Run(**run), int(saved["generation"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{self._session_file} is damaged: {error}") from error

    def write(self, run: Run, generation: int) -> None:
        """Save the agreed run and the highest generation served."""
        make_directory(self.directory)
        write_atomic(self._session_file, _json({"run": asdict(run), "generation": generation}))

    def save_state(self, number: int, tensors: dict[str, Tensor], numbers: dict[str, Any]) -> None:
        """Write checkpoint `number`, and drop all but it and the one before.

        One with a higher number was damaged, or it would have been loaded: it is dropped, too.
        """
        store = self._checkpoints()
        store.save(number, tensors, numbers)
        store.keep_only({*[kept for kept in store.numbers() if kept <= number][-2:]})

    def load_states(self) -> list[SavedState]:
        """Return the checkpoints that are whole, the newest first."""
        store = self._checkpoints()
        states = []
        for number in reversed(store.numbers()):
            try:
                states.append(SavedState(number, *store.load(number)))
            except CheckpointError as error:
                log.warning("%s; it is passed over", error)
        return states

    def finish(self, weights: bytes, summary: dict[str, Any]) -> None:
        """Write what a complete run leaves behind."""
        write_atomic(self.weights_file, weights)
        write_atomic(self.directory / "summary.json", _json(summary))

    def _checkpoints(self) -> CheckpointStore:
        return CheckpointStore(self.directory / "checkpoints")


def _json(values: dict[str, Any]) -> bytes:
    return json.dumps(values, indent=2).encode() + b"\n"
