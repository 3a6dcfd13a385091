"""The cloud as a run sees it: the uplink, what it says of this run, and what comes back."""

import time
from collections.abc import Callable

from common.endpoint import Endpoint
from common.errors import SessionError
from common.wire.messages import Ack, Hello, Position, Run, Welcome
from edge_worker.checkpoints import EdgeCheckpoints
from edge_worker.config import TrainConfig
from edge_worker.counters import Counters, TrainingTime
from edge_worker.gradients import Gradients
from edge_worker.outbox import Outbox
from edge_worker.rundir import Identity
from edge_worker.runlog import RunLog
from edge_worker.uplink import Uplink


class Cloud:
    """The uplink with what listens to it; nothing at all where the strategy has no cloud.

    Args:
        config: the link.
        endpoint: where it is; None where the strategy has no cloud.
        agreed_run: returns what it must agree on.
        identity: by which it knows this run.
        outbox: what is sent.
        counters: where bytes and busy times are counted.
        checkpoints: which tell what it may forget.
        kept_from: from where on the records are here, before the outbox is started.
        known: it has had this run in an earlier life.

    Attributes:
        welcome: its first word, where the run waited for it.
        last_ack: its last one so far.
        gradients: those that came back; None where none do.
    """

    def __init__(
        self,
        config: TrainConfig,
        endpoint: Endpoint | None,
        agreed_run: Callable[[], Run],
        identity: Identity,
        outbox: Outbox,
        counters: Counters,
        checkpoints: EdgeCheckpoints,
        kept_from: Position,
        known: bool,
    ) -> None:
        self._identity = identity
        self._kept_from = kept_from
        self._outbox = outbox
        self._counters = counters
        self._checkpoints = checkpoints
        self.uplink: Uplink | None = None
        self.welcome: Welcome | None = None
        self.last_ack: Ack | None = None
        self.gradients: Gradients | None = None
        self._finished_after: int | None = None
        self._runlog: RunLog | None = None
        self._timing: TrainingTime | None = None
        self._heard: Callable[[int], None] = lambda batches: None
        if endpoint is not None:
            run = agreed_run()
            if run.gradient_bits:
                self.gradients = Gradients(run, outbox.changed, checkpoints.losses_from)
            self.uplink = Uplink(
                config,
                endpoint,
                lambda: self._hello(run),
                outbox,
                counters,
                self._on_ack,
                self.gradients,
                patient=known,
            )

    def __enter__(self) -> "Cloud":
        return self

    def __exit__(self, *_: object) -> None:
        if self.uplink is not None:
            # What waits is in the spool, or is computed again: no reason to wait behind a slow link.
            in_order = self._outbox.settled >= self._outbox.end
            if in_order and self.gradients is not None and self._finished_after is not None:
                self.uplink.note(losses_from=self._finished_after)
            self.uplink.close(in_order=in_order)

    def finished(self, total_batches: int) -> None:
        """Have the cloud forget the gradients that it keeps: the run's results are on this disk."""
        self._finished_after = total_batches

    def connect(self) -> None:
        """Wait for the cloud's Welcome, where there is a cloud."""
        if self.uplink is not None:
            self.welcome = self.uplink.connect()

    def start(self, done: int, runlog: RunLog, timing: TrainingTime, heard: Callable[[int], None]) -> None:
        """Begin to send, with so many batches trained.

        `heard` is called with how many are applied, whenever the cloud says it.
        """
        if self.gradients is not None:
            self.gradients.start(done)
        self._runlog, self._timing, self._heard = runlog, timing, heard
        if self.uplink is not None:
            self.uplink.start()

    def has_told(self, total_batches: int) -> bool:
        """Whether the cloud has told the losses of all batches, and its counters, in this life."""
        if self.uplink is None:
            return True
        assert self._runlog is not None  # set by `start`
        return self.last_ack is not None and self._runlog.losses_through >= total_batches

    def _hello(self, run: Run) -> Hello:
        return Hello(
            session_id=self._identity.session_id,
            generation=self._identity.generation,
            run=run,
            # The cloud forgets what lies below: no more than is on this side's disk.
            losses_from=self._checkpoints.losses_from,
            kept_from=max(self._kept_from, self._outbox.settled),
        )

    def _on_ack(self, ack: Ack) -> None:
        assert self._runlog is not None  # acks are taken only after `start`
        assert self._timing is not None
        now = time.monotonic()
        is_first, self.last_ack = self.last_ack is None, ack
        if ack.first_loss > self._runlog.losses_through:
            raise SessionError(
                f"the cloud has the losses from batch {ack.first_loss} on, this run lacks those from batch "
                f"{self._runlog.losses_through} on; start a new run with another --run-dir"
            )
        self._heard(ack.applied.batches)
        self._runlog.cloud_losses(ack.first_loss, ack.losses)
        if is_first:
            self._timing.found(ack.applied.batches, now)
        self._timing.applied(ack.applied.batches, now)
        self._counters.note_applied(*self._timing.epochs)
        for result in ack.results:
            # A new stream tells old results again.
            if self._runlog.cloud_evaluation(result) and not is_first:
                self._timing.evaluated(result.batches, now)
        # Also when the edge has trained its last batch, and only waits for the cloud.
        self._counters.save(self._timing.value(now), now)
