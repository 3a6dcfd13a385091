"""One run from its settings to its summary: puts the parts together, and takes them down in order."""

import logging
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from common.checkpoint import tensors_to_bytes, write_atomic
from common.codec import WIDTHS, packed_bytes
from common.data.datasets import Dataset, open_dataset
from common.data.sampler import batches_per_epoch
from common.errors import ConfigError
from common.models.catalogue import ModelSpec
from common.rundir import lock_run_dir
from common.strategies import Strategy, find_strategy
from common.training import Optimisation, Trainee, resolve_device, resolve_precision, use_threads
from common.units import resolve_link
from common.wire.messages import Ack, Hello, Position, Run, Welcome
from edge_worker.access import endpoint
from edge_worker.checkpoints import Checkpoint, EdgeCheckpoints
from edge_worker.config import TrainConfig
from edge_worker.counters import Counters, TrainingTime
from edge_worker.display import Display
from edge_worker.front import Front
from edge_worker.loop import Plan, TrainingLoop
from edge_worker.network import EdgeNetwork, build_network
from edge_worker.outbox import Outbox
from edge_worker.rundir import Identity, RunDir
from edge_worker.runlog import RunLog
from edge_worker.summary import make_summary
from edge_worker.uplink import Uplink

log = logging.getLogger(__name__)

# How long an interrupted run waits for the cloud to catch up, so that little is trained twice; half of what
# Docker grants before it kills.
FLUSH_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a call of `train` ended.

    Attributes:
        summary: of the finished run; None where it was interrupted.
        stopped_after: batches trained, where it was interrupted; None where the cloud had not answered yet.
        signal: the signal's number, where it was interrupted.
    """

    summary: dict[str, Any] | None
    stopped_after: int | None = None
    signal: int = 0


def train(config: TrainConfig, given: frozenset[str]) -> Outcome:
    """Start or resume the run in `config.run_dir`.

    Args:
        config: the settings as the command line has them.
        given: names of the settings that the user gave; the others come from the run, if there is one.

    Raises:
        HeadwaterError: the run cannot start or go on; what was saved stays.
    """
    run_dir = RunDir(config.run_dir)
    if not run_dir.is_new:
        config = run_dir.settle(config, given)
        if (summary := run_dir.summary()) is not None:
            return Outcome(summary=summary)
    work = Work(config, find_strategy(config.strategy))
    lock_run_dir(config.run_dir)
    return work.run(run_dir)


class Work:
    """Everything that is built before the run directory is touched: wrong settings leave no trace."""

    def __init__(self, settings: TrainConfig, strategy: Strategy) -> None:
        if settings.bits not in WIDTHS:
            raise ConfigError(f"--bits must be one of {', '.join(map(str, WIDTHS))}, got {settings.bits}")
        # Kept with the run: another number of threads may round otherwise.
        threads = use_threads(settings.threads, settings.shares_machine)
        self.settings = settings = replace(settings, threads=threads)
        link = resolve_link(settings.link_rate, settings.link_rate_down, settings.link_latency)
        self.config = config = replace(
            settings,
            link_rate=link.rate_up_bps,
            link_rate_down=link.rate_down_bps,
            link_latency=link.latency_s,
        )
        self.strategy = strategy
        self.cloud = endpoint(config.cloud, config) if strategy.uses_cloud else None
        device = resolve_device(config.device)
        self.dataset: Dataset = open_dataset(
            config.dataset,
            config.data_dir,
            train_limit=config.train_limit,
            test_limit=config.test_limit,
            image_size=config.image_size,
        )
        self.spec = ModelSpec(
            name=config.model,
            num_classes=self.dataset.num_classes,
            input_shape=self.dataset.image_shape,
            stem=config.stem,
            classifier=config.classifier,
        )
        self.network: EdgeNetwork = build_network(self.spec, strategy, config.split, config.exit, config.seed)
        per_epoch = batches_per_epoch(len(self.dataset.train), config.batch_size)
        self.plan = Plan(total_batches=per_epoch * config.epochs, batches_per_epoch=per_epoch)
        self.optimisation = Optimisation(
            lr=config.lr,
            momentum=config.momentum,
            weight_decay=config.weight_decay,
            warmup=config.warmup,
            total_batches=self.plan.total_batches,
        )
        modules = {"front": self.network.front}
        if self.network.exit is not None:
            modules["exit"] = self.network.exit
        self.precision = resolve_precision(config.precision, device)
        trainee = Trainee(modules, self.optimisation, self.precision, device, config.seed, "edge")
        self.front = Front(self.network, trainee, self.dataset.mean, self.dataset.std)
        self._check_spool()

    def _check_spool(self) -> None:
        if self.network.activation_shape is None:
            return
        batch = packed_bytes((self.config.batch_size, *self.network.activation_shape), self.config.bits)
        if self.config.spool < 2 * batch:
            raise ConfigError(
                f"--spool must hold two batches, {2 * batch} bytes here, got {self.config.spool} bytes"
            )

    # -------------------------------------------------------------- the run

    def run(self, run_dir: RunDir) -> Outcome:
        """Train to the end, or until a signal comes."""
        log.info("device %s, threads %d, %s", self.front.trainee.device, self.config.threads, self.precision)
        identity = run_dir.identity()
        checkpoints = EdgeCheckpoints(run_dir.checkpoints, alone=not self.strategy.uses_cloud)
        counters = Counters(run_dir.counters_file, time.monotonic)
        outbox = Outbox(self.config.spool)
        link = _Link(self, identity, outbox, counters, checkpoints)
        with _stop_on_signals(outbox) as stop, link:
            if outbox.leaving:
                return Outcome(summary=None, stopped_after=None, signal=stop.number)
            checkpoint = self._checkpoint(checkpoints, link.welcome)
            run_dir.begin(self.settings, identity)
            if checkpoint.tensors is not None:
                self.front.trainee.load_state(checkpoint.tensors)
                log.info("resuming from batch %d of %d", checkpoint.position.batches, self.plan.total_batches)
            counters.add(lives=1)
            per_epoch = self.plan.batches_per_epoch
            timing = TrainingTime(
                per_epoch, counters.totals().train_wall_s, checkpoint.position.batches // per_epoch
            )
            with Display(self.config, self.plan, counters, outbox) as display:
                runlog = RunLog(run_dir.metrics_file, per_epoch, checkpoint.mark, display.event)
                display.start(checkpoint.position.batches)
                link.start(checkpoint.position, runlog, timing)
                loop = TrainingLoop(
                    config=self.config,
                    plan=self.plan,
                    dataset=self.dataset,
                    front=self.front,
                    optimisation=self.optimisation,
                    outbox=outbox,
                    uplink=link.uplink,
                    log=runlog,
                    counters=counters,
                    timing=timing,
                    checkpoints=checkpoints,
                    stop=stop.event,
                )
                finished = loop.run(checkpoint.position)
                if finished:
                    display.drain()
                    finished = outbox.drain(lambda: link.has_told(self.plan.total_batches))
                if not finished:
                    self._let_catch_up(link, checkpoints, counters, timing)
                    stopped_after = min(loop.done, self.plan.total_batches)
                    return Outcome(summary=None, stopped_after=stopped_after, signal=stop.number)
            counters.save(timing.value(time.monotonic()))
            runlog.mark()
            summary = make_summary(
                self.config,
                self.plan,
                self.dataset,
                self.precision,
                counters.totals(),
                runlog,
                link.last_ack,
            )
            self._write_results(run_dir, summary)
        return Outcome(summary=summary)

    def _checkpoint(self, checkpoints: EdgeCheckpoints, welcome: Welcome | None) -> Checkpoint:
        return checkpoints.newest_up_to(welcome.durable if welcome is not None else Position(0))

    def _let_catch_up(
        self, link: "_Link", checkpoints: EdgeCheckpoints, counters: Counters, timing: TrainingTime
    ) -> None:
        """Give the cloud a moment, so that the newest checkpoint can be resumed from."""
        counters.save(timing.value(time.monotonic()))
        if link.uplink is not None:
            log.info("stopping: waiting up to %g s for the cloud to save what was sent", FLUSH_S)
            link.flush(checkpoints, FLUSH_S)

    def _write_results(self, run_dir: RunDir, summary: dict[str, Any]) -> None:
        write_atomic(run_dir.front_file, tensors_to_bytes(self.front.weights()))
        run_dir.write_summary(summary)

    def agreed_run(self) -> Run:
        """Return what the cloud must agree on."""
        assert self.network.activation_shape is not None  # only strategies with a cloud ask
        config = self.config
        return Run(
            strategy=config.strategy,
            model=config.model,
            stem=config.stem,
            classifier=config.classifier,
            split=config.split,
            input_shape=self.spec.input_shape,
            num_classes=self.spec.num_classes,
            activation_shape=self.network.activation_shape,
            structure_digest=self.network.structure_digest,
            weights_digest=self.network.weights_digest,
            bits=config.bits,
            batch_size=config.batch_size,
            total_batches=self.plan.total_batches,
            seed=config.seed,
            precision=config.precision,
            lr=config.lr,
            momentum=config.momentum,
            weight_decay=config.weight_decay,
            warmup=config.warmup,
            batches_per_epoch=self.plan.batches_per_epoch,
        )


class _Link:
    """The uplink with what listens to it; nothing at all where the strategy has no cloud."""

    def __init__(
        self,
        work: Work,
        identity: Identity,
        outbox: Outbox,
        counters: Counters,
        checkpoints: EdgeCheckpoints,
    ) -> None:
        self.outbox = outbox
        self.uplink: Uplink | None = None
        self.welcome: Welcome | None = None
        self.last_ack: Ack | None = None
        self._runlog: RunLog | None = None
        self._timing: TrainingTime | None = None
        if work.cloud is not None:
            run = work.agreed_run()

            def hello() -> Hello:
                return Hello(
                    session_id=identity.session_id,
                    generation=identity.generation,
                    run=run,
                    # The cloud forgets what lies below: no more than is on this side's disk.
                    losses_from=checkpoints.losses_from,
                )

            self.uplink = Uplink(work.config, work.cloud, hello, outbox, counters, self._on_ack)

    def __enter__(self) -> "_Link":
        if self.uplink is not None:
            self.welcome = self.uplink.connect()
        return self

    def __exit__(self, *_: object) -> None:
        if self.uplink is not None:
            # A record that waits behind a slow link would take its time; it is computed again.
            self.uplink.close(in_order=self.outbox.settled >= self.outbox.end)

    def start(self, position: Position, runlog: RunLog, timing: TrainingTime) -> None:
        """Begin to send; the loop stands at `position`."""
        self._runlog, self._timing = runlog, timing
        if self.uplink is not None and self.welcome is not None:
            for result in self.welcome.results:
                runlog.cloud_evaluation(result)
            self.outbox.start(position, self.welcome.applied, self.welcome.durable)
            self.uplink.start()

    def has_told(self, total_batches: int) -> bool:
        """Whether the cloud has told the losses of all batches, and its counters, in this life."""
        if self.uplink is None:
            return True
        assert self._runlog is not None  # set by `start`
        return self.last_ack is not None and self._runlog.losses_through >= total_batches

    def flush(self, checkpoints: EdgeCheckpoints, timeout_s: float) -> None:
        """Have the cloud save all that was offered; give up after `timeout_s`."""
        assert self.uplink is not None
        deadline = time.monotonic() + timeout_s
        while (left := deadline - time.monotonic()) > 0:
            # Again and again: what is still on its way is not in the save that was asked for.
            self.uplink.note(checkpoints.losses_from, save=True)
            if self.outbox.wait_settled(min(left, 0.5)):
                return

    def _on_ack(self, ack: Ack) -> None:
        assert self._runlog is not None  # acks are taken only after `start`
        assert self._timing is not None
        now = time.monotonic()
        self.last_ack = ack
        self._runlog.cloud_losses(ack.first_loss, ack.losses)
        self._timing.applied(ack.applied.batches, now)
        for result in ack.results:
            self._runlog.cloud_evaluation(result)
            self._timing.evaluated(result.batches, now)


class _Stop:
    """Whether a signal has asked the run to end, and which."""

    def __init__(self) -> None:
        self.event = threading.Event()
        self.number = 0


@contextmanager
def _stop_on_signals(outbox: Outbox) -> Iterator[_Stop]:
    """End the run after the batch under way on the first SIGINT or SIGTERM; at once on the second."""
    stop = _Stop()
    before: dict[signal.Signals, Any] = {}

    def handle(number: int, _: object) -> None:
        stop.number = number
        stop.event.set()
        outbox.leave()
        for each, handler in before.items():
            signal.signal(each, handler)

    for each in (signal.SIGINT, signal.SIGTERM):
        before[each] = signal.signal(each, handle)
    try:
        yield stop
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
