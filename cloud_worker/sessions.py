"""All sessions of one cloud: which are in memory, which are on the disk, how many there may be."""

import logging
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from cloud_worker.back import Back
from cloud_worker.session import Session
from cloud_worker.store import SessionFiles
from common.errors import CapacityError, CheckpointError, NotFoundError, SessionError
from common.wire.messages import Hello, Status

log = logging.getLogger(__name__)


class Sessions:
    """Opens, finds and saves sessions.

    Args:
        run_dir: where they live on disk.
        device: where their backs train.
        checkpoint_every_s: seconds between saves within an epoch.
        max_sessions: how many may be in memory at once.
    """

    def __init__(
        self, run_dir: Path, device: torch.device, checkpoint_every_s: float, max_sessions: int
    ) -> None:
        self._run_dir = run_dir
        self._device = device
        self._checkpoint_every_s = checkpoint_every_s
        self._max_sessions = max_sessions
        self._live: dict[str, Session] = {}  # least recently served first
        self._streams: Counter[Session] = Counter()  # open on each of them
        self._lock = threading.Lock()  # held for moments only
        self._loading = threading.Lock()  # held while a network is built
        self._turns = threading.Lock()

    @contextmanager
    def serving(self, hello: Hello) -> Iterator[Session]:
        """Hold the session that `hello` names in memory: found there, loaded from the disk, or a new one.

        Raises:
            CapacityError: there is no room for another one.
            SessionError, ModelError: this cloud cannot build the edge's network.
            CheckpointError: what was saved is damaged, or the disk is full.
        """
        session = self._find(hello.session_id)
        if session is None:
            # One at a time, for its memory; who is served already does not wait for it.
            with self._loading:
                session = self._find(hello.session_id) or self._open(hello)
        try:
            yield session
        finally:
            with self._lock:
                self._streams[session] -= 1
                self._streams += Counter()  # drops those at zero

    def _find(self, session_id: str) -> Session | None:
        """Return the session, counted as served once more, where it is in memory."""
        with self._lock:
            session = self._live.pop(session_id, None)
            return None if session is None or session.failed else self._serve(session_id, session)

    def _open(self, hello: Hello) -> Session:
        with self._lock:
            self._make_room()
        session = self._load(hello)
        with self._lock:
            return self._serve(hello.session_id, session)

    def _serve(self, session_id: str, session: Session) -> Session:
        self._live[session_id] = session
        self._streams[session] += 1
        return session

    def _load(self, hello: Hello) -> Session:
        files = SessionFiles(self._run_dir, hello.session_id)
        run = files.read()[0] if files.exists() else hello.run
        back = Back(run, self._device)
        if not files.exists():
            files.write(run, generation=0)
        return Session(files, run, back, self._turns, time.monotonic, self._checkpoint_every_s)

    def _make_room(self) -> None:
        """Drop sessions that no stream serves from memory, the finished first; their files stay."""
        idle = [name for name, session in self._live.items() if session not in self._streams]
        for name in sorted(idle, key=lambda name: not self._live[name].finished):
            session = self._live[name]
            if session.failed or (session.is_durable and (session.finished or self._is_full)):
                del self._live[name]
        if self._is_full:
            raise CapacityError(
                f"this cloud already serves {len(self._live)} sessions, which is its limit; try again later"
            )

    @property
    def _is_full(self) -> bool:
        return len(self._live) >= self._max_sessions

    def status(self, session_id: str) -> Status:
        """Return where a session stands; NotFoundError where this cloud does not hold it in memory."""
        with self._lock:
            session = self._live.get(session_id)
        if session is None:
            raise NotFoundError(f"no session {session_id[:64]!r} is open here")
        return session.status()

    def weights_file(self, session_id: str) -> Path:
        """Return the file with a finished session's weights."""
        files = SessionFiles(self._run_dir, session_id)
        if not files.exists():
            raise NotFoundError(
                f"this cloud keeps no session {session_id}; is it the one that trained the run?"
            )
        if not files.weights_file.exists():
            raise SessionError(
                f"session {session_id} is not finished; run edge-worker train to its end first"
            )
        return files.weights_file

    def save_all(self) -> None:
        """Make every session's state durable.

        Raises:
            CheckpointError: some could not be saved; the others were.
        """
        with self._lock:
            sessions = dict(self._live)
        lost: list[CheckpointError] = []
        for name, session in sessions.items():
            try:
                session.shut_down()
            except CheckpointError as error:
                log.error("session %s is not saved: %s", name, error)
                lost.append(error)
        if lost:
            raise lost[0]
