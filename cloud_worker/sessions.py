"""All sessions of one cloud: which are in memory, which are on the disk, how many there may be."""

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from weakref import WeakKeyDictionary

import torch

from cloud_worker.ahead import Ahead
from cloud_worker.applier import Applier
from cloud_worker.back import Back, network_bytes
from cloud_worker.kept import bytes_to_reserve, is_all_that_trains, kept_bytes
from cloud_worker.kept_gradients import kept_gradients_bytes
from cloud_worker.kept_images import kept_images_bytes
from cloud_worker.limits import Limits
from cloud_worker.profiling import MIN_RECORDS, measure, receive
from cloud_worker.session import Session, check_nothing_lost
from cloud_worker.store import SessionFiles
from cloud_worker.turns import Turns
from common.errors import (
    CapacityError,
    CheckpointError,
    CloudError,
    HeadwaterError,
    NotFoundError,
    NotOwnerError,
    SessionError,
    StateLostError,
)
from common.memory import lack_of_memory_said, memory_of, release_what_is_left
from common.units import format_size
from common.wire.messages import BackProfile, Hello, Position, Request, Run, Status
from common.wire.records import max_content_bytes

log = logging.getLogger(__name__)


class Sessions:
    """Opens, finds and saves sessions.

    Args:
        run_dir: where they live on disk.
        device: where their backs train.
        checkpoint_every_s: seconds between saves within an epoch.
        limits: how many may be in memory at once, and what else this cloud gives.
        on_loss: called where nothing is left to be served, as the only session under way has lost its state.

    Attributes:
        lost: why `on_loss` was called.
    """

    def __init__(
        self,
        run_dir: Path,
        device: torch.device,
        checkpoint_every_s: float,
        limits: Limits,
        on_loss: Callable[[], None] = lambda: None,
    ) -> None:
        self._run_dir = run_dir
        self._device = device
        self._checkpoint_every_s = checkpoint_every_s
        self.limits = limits
        self.lost: StateLostError | None = None
        self._on_loss = on_loss
        self._max_step = limits.max_step or memory_of(device) // 2
        self._max_memory = limits.max_memory or memory_of(device) // 2
        self._live: dict[str, Session] = {}  # least recently served first
        self._streams: Counter[Session] = Counter()  # open on each of them
        self._sizes: WeakKeyDictionary[Session, int] = WeakKeyDictionary()  # bytes of weights and momenta
        self._profiled = 0  # the same of the network that is being measured
        self._lock = threading.Lock()  # held for moments only
        self._loading = threading.Lock()  # held while a network is built
        self._profiling = threading.Lock()  # held while one is measured
        self._turns = Turns()
        self._ahead = Ahead()

    @contextmanager
    def serving(self, hello: Hello, caller: str) -> Iterator[Session]:
        """Hold the session that `hello` names in memory: found there, loaded from the disk, or a new one.

        Args:
            hello: the edge's first message.
            caller: who says it; a new session is theirs.

        Raises:
            NotOwnerError: somebody else opened the session.
            CapacityError: there is no room for another one, or it is too large.
            SessionError, ModelError: this cloud cannot build the edge's network.
            StateLostError: the edge no longer has the records that come next, or this cloud never had the
                session.
            CheckpointError: what was saved is damaged, or the disk is full.
        """
        files = SessionFiles(self._run_dir, hello.session_id)
        _check_owner(files, caller)
        self.limits.check_run(hello.run)
        session = self._find(hello.session_id)
        if session is None:
            # One at a time, for its memory; who is served already does not wait for it.
            with self._loading:
                session = self._find(hello.session_id) or self._open(files, hello, caller)
        try:
            _check_owner(files, caller)  # again: it may not have been there yet
            yield session
        except StateLostError as error:
            self._end_if_alone(session, hello.session_id, error)
            raise
        finally:
            with self._lock:
                self._streams[session] -= 1
                self._streams += Counter()  # drops those at zero
                over = self._take_out_if_over(hello.session_id, session)
            if over:
                session.release()
                release_what_is_left()

    def _end_if_alone(self, session: Session, session_id: str, error: StateLostError) -> None:
        """End the cloud of a single pair with its edge; one that serves or keeps others for them goes on."""
        with self._lock:
            busy = self._profiling.locked() or self._loading.locked()
            alone = self._streams.total() == 1 and not busy and not session.finished
        # One that was never saved has lost nothing.
        was_saved = SessionFiles(self._run_dir, session_id).is_saved
        if alone and was_saved and is_all_that_trains(self._run_dir, session_id):
            self.lost = StateLostError(str(error))  # without a traceback, which holds the network
            self._on_loss()

    def _take_out_if_over(self, session_id: str, session: Session) -> bool:
        """Take a finished session out that no stream serves any more; whoever asks finds it on the disk."""
        is_live = self._live.get(session_id) is session and session not in self._streams
        if not (is_live and session.finished and session.is_saved):
            return False
        del self._live[session_id]
        return True

    def _find(self, session_id: str) -> Session | None:
        """Return the session, counted as served once more, where it is in memory."""
        with self._lock:
            session = self._live.pop(session_id, None)
            return None if session is None or session.failed else self._serve(session_id, session)

    def _open(self, files: SessionFiles, hello: Hello, caller: str) -> Session:
        if not files.exists():
            check_nothing_lost(Position(0), hello)
        run = files.read()[0] if files.exists() else hello.run
        needed = network_bytes(run)
        self._make_room(needed)
        session = self._load(files, run, caller)
        with self._lock:
            self._sizes[session] = needed
            return self._serve(files.directory.name, session)

    def _serve(self, session_id: str, session: Session) -> Session:
        self._live[session_id] = session
        self._streams[session] += 1
        return session

    def _load(self, files: SessionFiles, run: Run, caller: str) -> Session:
        back = self._build(run)
        if not files.exists():
            needed = bytes_to_reserve(back.state_dict()) + kept_images_bytes(run) + kept_gradients_bytes(run)
            self.limits.check_kept(kept_bytes(self._run_dir), needed)
            files.create(run, caller, needed)
            log.info("session %s is opened by %s", files.directory.name, caller or "an edge without a name")
        applier = Applier(files, run, back, self._turns, self._ahead, time.monotonic)
        return Session(files, run, applier, time.monotonic, self._checkpoint_every_s)

    def _build(self, run: Run, lack: type[HeadwaterError] = CloudError) -> Back:
        """Build a back, and free at once what else was built: layers hold each other in cycles.

        Raises:
            HeadwaterError: it cannot be built; a `lack` where memory does not suffice.
        """
        failure = None
        try:
            with lack_of_memory_said(lack):
                back = Back(run, self._device, self._max_step)
        except HeadwaterError as error:
            failure = error.with_traceback(None)  # which holds the network, as does that of its cause
            failure.__cause__ = failure.__context__ = None
        release_what_is_left()
        if failure is not None:
            raise failure
        return back

    def _make_room(self, needed: int) -> None:
        """Drop sessions that no stream serves from memory, as many as must be; their files stay.

        Args:
            needed: bytes that weights and momenta of one more will take.

        Raises:
            CapacityError: there would not be enough room; none is dropped for that.
        """
        with self._lock:
            before = len(self._live)
            idle = [name for name, session in self._live.items() if session not in self._streams]
            for name in idle:
                session = self._live[name]
                if session.failed or (session.is_saved and session.finished):
                    del self._live[name]
            spare = [name for name in idle if name in self._live and self._live[name].is_saved]
            self._check_room(needed, spare)
            for name in spare:
                if self._lacks_place(()) or self._lacks_memory(needed, ()):
                    del self._live[name]
            dropped = len(self._live) < before
        if dropped:
            release_what_is_left()  # before another one is built

    def _check_room(self, needed: int, spare: Collection[str]) -> None:
        if needed > self._max_memory:
            raise CapacityError(
                f"weights and momenta of this run take {format_size(needed)}, this cloud allows "
                f"{format_size(self._max_memory)} to all runs (its --max-memory, which may be raised there); "
                "else take a smaller network, or cut it later"
            )
        if self._lacks_place(spare):
            raise CapacityError(
                f"this cloud already serves {len(self._live)} sessions, which is its limit; try again later"
            )
        if self._lacks_memory(needed, spare):
            raise CapacityError(
                f"weights and momenta of this run take {format_size(needed)}, those that are served here "
                f"{format_size(self._taken(spare))}, this cloud allows {format_size(self._max_memory)} "
                "(its --max-memory); try again later"
            )

    def _lacks_place(self, spare: Collection[str]) -> bool:
        return len(self._live) - len(spare) >= self.limits.max_sessions

    def _lacks_memory(self, needed: int, spare: Collection[str]) -> bool:
        return self._taken(spare) + needed > self._max_memory

    def _taken(self, spare: Collection[str]) -> int:
        """Return the bytes of weights and momenta in memory, but for those that can be spared."""
        kept = (self._sizes[session] for name, session in self._live.items() if name not in spare)
        return self._profiled + sum(kept)

    def status(self, session_id: str, caller: str) -> Status:
        """Return where a session stands, by what is on the disk where it is not in memory.

        Raises:
            NotFoundError: this cloud does not keep it.
            NotOwnerError: somebody else opened it.
            CheckpointError: its files are damaged.
        """
        files = SessionFiles(self._run_dir, session_id)
        with self._lock:
            session = self._live.get(session_id)
        if session is None:
            _check_kept(files)
        _check_owner(files, caller)  # of one that is there: nobody else can open it any more
        return files.status() if session is None else session.status()

    def weights_file(self, session_id: str, caller: str) -> Path:
        """Return the file with a finished session's weights.

        Raises:
            NotFoundError: this cloud does not keep it.
            NotOwnerError: somebody else opened it.
            SessionError: it is not finished.
        """
        files = SessionFiles(self._run_dir, session_id)
        _check_kept(files)
        _check_owner(files, caller)
        if not files.weights_file.exists():
            raise SessionError(
                f"session {session_id} is not finished; run edge-worker train to its end first"
            )
        return files.weights_file

    def profile(self, run: Run, requests: Iterator[Request], is_wanted: Callable[[], bool]) -> BackProfile:
        """Measure how fast this cloud trains a run, on the batches that come; nothing is kept.

        Args:
            run: what would be trained.
            requests: chunks of its batches.
            is_wanted: whether the caller still waits; asked between steps.

        Raises:
            CapacityError: another one is being measured, as many sessions are served as may be, or the run is
                too large.
            CloudError: the caller has left, or it took too long.
            WireError: what comes is not a few batches of the run.
            SessionError, ModelError: this cloud cannot build the edge's network.
        """
        self.limits.check_run(run)
        if not self._profiling.acquire(blocking=False):
            raise CapacityError("this cloud measures another edge's network; try again in a minute")
        try:
            return self._profile(run, requests, is_wanted)
        finally:
            self._profiled = 0
            release_what_is_left()  # before another one is built
            self._profiling.release()

    def _profile(self, run: Run, requests: Iterator[Request], is_wanted: Callable[[], bool]) -> BackProfile:
        """Measure; a frame of its own, so that nothing of it is held when it is over."""
        self._make_room(0)
        # Before the network is looked at: the time in which it comes is the link's.
        sample = receive(
            run, requests, max(self.limits.window, MIN_RECORDS * max_content_bytes(run, run.bits))
        )
        needed = network_bytes(run)
        with self._loading:
            self._make_room(needed)  # it takes as much as a session does
            self._profiled = needed
            back = self._build(run, CapacityError)
        before = self._served()
        with lack_of_memory_said(CapacityError):  # an edge that is refused measures the next network
            found = measure(run, back, sample, self._turns, is_wanted)
        return replace(found, others=max(before, self._served()))

    def _served(self) -> int:
        """Return how many sessions have a stream."""
        with self._lock:
            return len(self._streams)

    def save_all(self) -> None:
        """Make every session's state durable.

        Raises:
            CheckpointError: some could not be saved; the others were.
        """
        with self._lock:
            sessions = dict(self._live)
        for session in sessions.values():
            session.send_away()  # all at once: nobody trains on while the others are saved
        lost: list[CheckpointError] = []
        for name, session in sessions.items():
            try:
                session.shut_down()
            except CheckpointError as error:
                log.error("session %s is not saved: %s", name, error)
                lost.append(error)
        if lost:
            raise lost[0]


def _check_owner(files: SessionFiles, caller: str) -> None:
    """Refuse whoever did not open the session; one that is not there yet is anyone's to open."""
    if not files.exists() or (owner := files.owner()) == caller:
        return
    if owner and caller:
        why = "by another edge; show the certificate or token that it was opened with"
    elif owner:
        why = "by an edge with a name, which this cloud does not ask for now; start it as it was then"
    else:
        why = "without a name, which this cloud asks for now; start it as it was then"
    raise NotOwnerError(
        f"session {files.directory.name} was opened {why}, or start a new run with another --run-dir"
    )


def _check_kept(files: SessionFiles) -> None:
    if not files.exists():
        raise NotFoundError(
            f"this cloud keeps no session {files.directory.name}; is it the one that trained the run?"
        )
