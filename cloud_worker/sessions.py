"""All sessions of one cloud: which are in memory, which are on the disk, how many there may be."""

import threading
import time
from pathlib import Path

import torch

from cloud_worker.back import Back
from cloud_worker.session import Session
from cloud_worker.store import SessionFiles
from common.errors import CapacityError, NotFoundError, SessionError
from common.wire.messages import Hello, Status


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
        self._live: dict[str, Session] = {}
        self._lock = threading.Lock()
        self._turns = threading.Lock()

    def open(self, hello: Hello) -> Session:
        """Return the session that `hello` names: from memory, from the disk, or a new one.

        Raises:
            CapacityError: there is no room for another one.
            SessionError, ModelError: this cloud cannot build the edge's network.
            CheckpointError: what was saved is damaged, or the disk is full.
        """
        with self._lock:
            session = self._live.get(hello.session_id)
            if session is not None:
                return session
            self._make_room()
            files = SessionFiles(self._run_dir, hello.session_id)
            run = files.read()[0] if files.exists() else hello.run
            back = Back(run, self._device)
            if not files.exists():
                files.write(run, generation=0)
            session = Session(files, run, back, self._turns, time.monotonic, self._checkpoint_every_s)
            self._live[hello.session_id] = session
            return session

    def _make_room(self) -> None:
        """Drop finished sessions from memory; their files stay."""
        for session_id in [name for name, session in self._live.items() if session.idle_and_finished]:
            del self._live[session_id]
        if len(self._live) >= self._max_sessions:
            raise CapacityError(
                f"this cloud already serves {len(self._live)} sessions, which is its limit; try again later"
            )

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
        """Make every session's state durable."""
        with self._lock:
            sessions = list(self._live.values())
        for session in sessions:
            session.shut_down()
