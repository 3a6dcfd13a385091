"""What survives a restart of the cloud: one directory for each session.

RUN_DIR/lock                      held while a server runs on RUN_DIR
RUN_DIR/<session>/session.json    owner, the agreed run, and the highest generation served
RUN_DIR/<session>/checkpoints/    the last two states of the back
RUN_DIR/<session>/images.bin      what a run with --images once has sent, until it is complete
RUN_DIR/<session>/gradients/      what has been sent since the edge's last checkpoints, with split-learning
RUN_DIR/<session>/back.safetensors, summary.json    written when the run is complete
"""

import json
import logging
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, get_origin

from torch import Tensor

from common.checkpoint import CheckpointStore
from common.durable import Piece, make_directory, opened, sealed, write_atomic
from common.errors import CheckpointError, WireError
from common.wire.messages import Counters, EvaluationResult, Position, Run, Status

log = logging.getLogger(__name__)

T = TypeVar("T")

# Of session.json, by an operator who gives a session to another edge.
EDITABLE = ("owner",)
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
    def name(self) -> str:
        """The session's id."""
        return self.directory.name

    @property
    def weights_file(self) -> Path:
        """The back's weights, once the run is complete."""
        return self.directory / "back.safetensors"

    @property
    def images_file(self) -> Path:
        """The images that the session keeps, while the run goes on."""
        return self.directory / "images.bin"

    @property
    def gradients(self) -> Path:
        """Where the gradients lie that the edge may need again."""
        return self.directory / "gradients"

    def exists(self) -> bool:
        """Tell whether the session was ever opened."""
        return self._session_file.exists()

    def read(self) -> tuple[Run, int]:
        """Return the agreed run and the highest generation served."""
        with self._reading() as saved:
            run: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in saved["run"].items()}
            return _made(Run, run), int(saved["generation"])

    def owner(self) -> str:
        """Return who opened the session; "" for anyone."""
        with self._reading() as saved:
            return str(saved.get("owner", ""))

    def reserved_bytes(self) -> int:
        """Return how much disk space the session was expected to take when it was opened."""
        with self._reading() as saved:
            return int(saved.get("reserved_bytes", 0))

    def create(self, run: Run, owner: str, reserved_bytes: int) -> None:
        """Save a session that is opened now, by `owner`."""
        make_directory(self.directory)
        values = {"owner": owner, "reserved_bytes": reserved_bytes, "run": asdict(run), "generation": 0}
        write_atomic(self._session_file, sealed(values, EDITABLE))

    def write(self, run: Run, generation: int) -> None:
        """Save the agreed run and the highest generation served; the rest stays as it is."""
        with self._reading() as saved:
            values = {**saved, "run": asdict(run), "generation": generation}
        write_atomic(self._session_file, sealed(values, EDITABLE))

    @contextmanager
    def _reading(self) -> Iterator[dict[str, Any]]:
        """Yield what session.json holds; whatever cannot be made of it is damage."""
        with _as_damage(self._session_file):
            yield opened(self._session_file.read_bytes(), EDITABLE)

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

    @property
    def is_saved(self) -> bool:
        """Whether there is a checkpoint, be it damaged."""
        return bool(self._checkpoints().numbers())

    def applied_batches(self) -> int:
        """Return how many batches the newest checkpoint has behind it, by what it says of itself.

        Raises:
            CheckpointError: it is too damaged to say.
        """
        store = self._checkpoints()
        with _as_damage(self.directory):
            return _position(store.peek(max(store.numbers()))).batches if store.numbers() else 0

    def status(self) -> Status:
        """Return where the session stands, by what its checkpoints say of themselves.

        Raises:
            CheckpointError: session.json, or a checkpoint, is too damaged to say.
        """
        run, _ = self.read()
        store = self._checkpoints()
        with _as_damage(self.directory):
            saved = [store.peek(number) for number in store.numbers()[-2:]]
            at = [_position(numbers) for numbers in saved]
            return Status(
                applied=at[-1] if at else Position(0),
                durable=at[0] if len(at) > 1 else Position(0),
                total_batches=run.total_batches,
                finished=bool(at) and at[-1].batches > run.total_batches,
                counters=_made(Counters, saved[-1]["counters"]) if saved else Counters(),
                results=tuple(_made(EvaluationResult, each) for each in saved[-1]["results"])
                if saved
                else (),
            )

    def finish(self, weights: Iterable[Piece], summary: dict[str, Any]) -> None:
        """Write what a complete run leaves behind."""
        write_atomic(self.weights_file, weights)
        write_atomic(self.directory / "summary.json", _json(summary))

    def _checkpoints(self) -> CheckpointStore:
        return CheckpointStore(self.directory / "checkpoints")


@contextmanager
def _as_damage(path: Path) -> Iterator[None]:
    """Take whatever cannot be made of the content of `path` for damage to it."""
    try:
        yield
    except (OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError) as error:
        raise CheckpointError(f"{path} is damaged: {error}") from error


def _made(kind: type[T], values: dict[str, Any]) -> T:
    """Return the dataclass `kind` with these values; raises TypeError unless they have its fields' types."""
    made = kind(**values)
    for field in fields(made):  # type: ignore[arg-type]  # a dataclass
        wanted: Any = get_origin(field.type) or field.type
        value = getattr(made, field.name)
        if type(value) not in ((int, float) if wanted is float else (wanted,)):
            raise TypeError(f"{field.name} is {value!r}")
    return made


def _position(numbers: dict[str, Any]) -> Position:
    batches, parts = numbers["applied"]
    return Position(int(batches), int(parts))


def _json(values: dict[str, Any]) -> bytes:
    return json.dumps(values, indent=2).encode() + b"\n"
