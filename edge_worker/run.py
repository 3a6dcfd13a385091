"""One run from its settings to its summary: puts the parts together, and takes them down in order."""

import logging
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from typing import Any

from common.checkpoint import tensor_file
from common.codec import NOT_COMPILED, WIDTHS, is_compiled, packed_bytes
from common.data.datasets import Dataset, open_dataset
from common.data.sampler import batches_per_epoch
from common.durable import write_atomic
from common.errors import ConfigError
from common.memory import tune_malloc
from common.models.catalogue import ModelSpec
from common.rundir import lock_run_dir
from common.strategies import Strategy, find_strategy
from common.training import Optimisation, Trainee, resolve_device, resolve_precision, use_threads
from common.units import format_size, resolve_link
from common.wire.messages import Position, Run, Welcome
from edge_worker.access import endpoint
from edge_worker.checkpoints import Checkpoint, EdgeCheckpoints
from edge_worker.cloud import Cloud
from edge_worker.config import TrainConfig
from edge_worker.counters import Counters, TrainingTime
from edge_worker.display import Display
from edge_worker.encoder import encoding_of, smallest_coding
from edge_worker.front import Front
from edge_worker.loop import Plan, TrainingLoop
from edge_worker.network import EdgeNetwork, build_network
from edge_worker.outbox import Outbox
from edge_worker.rundir import RunDir
from edge_worker.runlog import RunLog
from edge_worker.signals import Stop, stop_on_signals
from edge_worker.spool import Spool
from edge_worker.spool_file import remove_spool
from edge_worker.summary import make_summary

log = logging.getLogger(__name__)

# Later than any place in a stream.
EVERYTHING = Position(1 << 62)
PIXEL_BITS = 8


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


def train(
    config: TrainConfig,
    given: frozenset[str],
    choose: Callable[[TrainConfig], TrainConfig] = lambda config: config,
) -> Outcome:
    """Start or resume the run in `config.run_dir`.

    Args:
        config: the settings as the command line has them.
        given: names of the settings that the user gave; the others come from the run, if there is one.
        choose: puts a choice in place of each `auto` in a new run's settings.

    Raises:
        HeadwaterError: the run cannot start or go on; what was saved stays.
    """
    run_dir = RunDir(config.run_dir)
    if not run_dir.is_new:
        config = run_dir.settle(config, given)
        if (summary := run_dir.summary()) is not None:
            # Still there where the run was killed at its very end; a run may be on a disk that is only read.
            with suppress(OSError):
                remove_spool(run_dir.spool_file)
            log.info("the run in %s is finished: nothing is trained", config.run_dir)
            return Outcome(summary=summary)
    else:
        run_dir.check_empty()
        config = choose(config)
    work = Work(config, find_strategy(config.strategy))
    lock_run_dir(config.run_dir)
    return work.run(run_dir)


class Work:
    """Everything that is built before the run directory is touched: wrong settings leave no trace."""

    def __init__(self, settings: TrainConfig, strategy: Strategy) -> None:
        for name, bits in (("--bits", settings.bits), ("--gradient-bits", settings.gradient_bits)):
            if bits not in WIDTHS:
                raise ConfigError(f"{name} must be one of {', '.join(map(str, WIDTHS))}, got {bits}")
        tune_malloc()
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
        self.device = device
        self.precision = resolve_precision(config.precision, device)
        self.front = Front(self.network, self._trainee(), self.dataset.mean, self.dataset.std)
        images = strategy.sends_images
        self.coding = smallest_coding(self.dataset.train, config.batch_size) if images else None
        self.encode = encoding_of(config.bits, self.coding)
        self._check_spool()

    def _trainee(self) -> Trainee | None:
        modules = {"front": self.network.front, "exit": self.network.exit}
        trained = {name: module for name, module in modules.items() if module is not None}
        if not trained:
            return None
        return Trainee(trained, self.optimisation, self.precision, self.device, self.settings.seed, "edge")

    @property
    def bits(self) -> int:
        """Of one value that goes up, at most."""
        return PIXEL_BITS if self.strategy.sends_images else self.config.bits

    def _check_spool(self) -> None:
        if self.network.activation_shape is None:
            return
        batch = packed_bytes((self.config.batch_size, *self.network.activation_shape), self.bits)
        if self.config.spool < 2 * batch:
            wanted, got = format_size(2 * batch), format_size(self.config.spool)
            raise ConfigError(f"--spool must hold two batches, {wanted} here, got {got}")

    # -------------------------------------------------------------- the run

    def run(self, run_dir: RunDir) -> Outcome:
        """Train to the end, or until a signal comes."""
        if self.cloud is not None:
            self.cloud.warn_of_clear()
        identity = run_dir.identity()
        checkpoints = EdgeCheckpoints(run_dir.checkpoints)
        counters = Counters(run_dir.counters_file, time.monotonic)
        with ExitStack() as stack:
            stop = stack.enter_context(stop_on_signals())
            spool = self._open_spool(run_dir, stack)
            outbox = Outbox(
                self.config.spool, self.config.spool_memory, spool, drop=self.config.spool_full == "drop"
            )
            stop.tell(outbox.leave)
            cloud = stack.enter_context(
                Cloud(
                    self.config,
                    self.cloud,
                    self.agreed_run,
                    identity,
                    outbox,
                    counters,
                    checkpoints,
                    kept_from=(spool.start if spool is not None else None) or Position(0),
                    known=not run_dir.is_new,
                )
            )
            # A run that the cloud knows, and whose records are all here, need not wait for it.
            if run_dir.is_new or not self._has_records(spool, checkpoints):
                cloud.connect()
                if outbox.leaving:
                    return Outcome(summary=None, stopped_after=None, signal=stop.number)
            self._tell()  # not before: a cloud that does not answer is one line
            checkpoint = self._resume(checkpoints, outbox, spool, cloud.welcome)
            run_dir.begin(self.settings, identity)
            counters.start(checkpoint.totals)
            summary, batches = self._train(run_dir, checkpoint, checkpoints, counters, outbox, cloud, stop)
            if summary is None:
                return Outcome(summary=None, stopped_after=batches, signal=stop.number)
        if spool is not None:
            spool.remove()
        return Outcome(summary=summary)

    def _tell(self) -> None:
        log.info("device %s, threads %d, %s", self.device, self.config.threads, self.precision)
        if self.device.type == "cpu" and not is_compiled():
            log.info(NOT_COMPILED)
        if self.coding is not None:
            log.info("images go up as %s", self.coding)

    def _open_spool(self, run_dir: RunDir, stack: ExitStack) -> Spool | None:
        if not self.strategy.uses_cloud:
            return None
        spool = Spool(run_dir.spool_file)
        stack.callback(spool.close)
        return spool

    @staticmethod
    def _has_records(spool: Spool | None, checkpoints: EdgeCheckpoints) -> bool:
        """Tell whether all records before the newest checkpoint are here, or known to be durable."""
        if spool is None or (spool.end is not None and checkpoints.newest <= spool.end):
            return True
        log.warning("the spool lacks records; what the cloud has decides where to go on")
        return False

    def _resume(
        self, checkpoints: EdgeCheckpoints, outbox: Outbox, spool: Spool | None, welcome: Welcome | None
    ) -> Checkpoint:
        """Restore the newest checkpoint whose records are there, and have the outbox stand where it does."""
        if spool is None:
            checkpoint = checkpoints.newest_up_to(EVERYTHING)
        else:
            known = [spool.start, welcome.durable if welcome is not None else None, Position(0)]
            settled = max(position for position in known if position is not None)
            checkpoint = checkpoints.newest_up_to(max(settled, spool.end or settled))
            outbox.start(checkpoint.position, settled)
        if checkpoint.tensors is not None:
            self.front.load_state(checkpoint.tensors)
            log.info("resuming from batch %d of %d", checkpoint.position.batches, self.plan.total_batches)
        return checkpoint

    def _train(
        self,
        run_dir: RunDir,
        checkpoint: Checkpoint,
        checkpoints: EdgeCheckpoints,
        counters: Counters,
        outbox: Outbox,
        cloud: Cloud,
        stop: Stop,
    ) -> tuple[dict[str, Any] | None, int]:
        """Return the summary, or None where the run was interrupted, and the batches trained."""
        per_epoch = self.plan.batches_per_epoch
        done = checkpoint.position.batches
        applied = outbox.settled.batches if self.strategy.uses_cloud else done
        earlier_s = counters.totals().train_wall_s
        timing = TrainingTime(self.plan.total_batches, per_epoch, earlier_s, done, applied)
        with Display(self.config, self.plan, counters, outbox) as display:
            runlog = RunLog(run_dir.metrics_file, per_epoch, checkpoint.mark, display.event)
            display.start(done, applied, runlog.accuracies())
            cloud.start(done, runlog, timing, display.heard)
            loop = TrainingLoop(
                config=self.config,
                plan=self.plan,
                dataset=self.dataset,
                front=self.front,
                optimisation=self.optimisation,
                outbox=outbox,
                uplink=cloud.uplink,
                log=runlog,
                counters=counters,
                timing=timing,
                checkpoints=checkpoints,
                stop=stop.event,
                encode=self.encode,
                gradients=cloud.gradients,
            )
            finished = loop.run(checkpoint.position)
            if finished:
                display.drain()
                finished = outbox.drain(lambda: cloud.has_told(self.plan.total_batches))
        train_wall_s = timing.value(time.monotonic())
        if finished:  # a kill in its last second may have cost the count
            counters.note_applied(self.config.epochs, train_wall_s)
            counters.note_sent(self.config.epochs if self.strategy.uses_cloud else 0)
        counters.save(train_wall_s)
        if not finished:
            # A step whose gradient did not come is none, and its front is no state to save.
            done = checkpoints.newest.batches if self.strategy.gradient else loop.done
            return None, min(done, self.plan.total_batches)
        runlog.mark()
        totals = counters.totals()
        summary = make_summary(
            self.config, self.plan, self.dataset, self.precision, totals, runlog, cloud.last_ack
        )
        self._write_results(run_dir, summary)
        cloud.finished(self.plan.total_batches)
        return summary, loop.done

    def _write_results(self, run_dir: RunDir, summary: dict[str, Any]) -> None:
        write_atomic(run_dir.front_file, tensor_file(self.front.weights()))
        run_dir.write_summary(summary)

    def agreed_run(self) -> Run:
        """Return what the cloud must agree on."""
        assert self.network.activation_shape is not None  # only strategies with a cloud ask
        config, images = self.config, self.strategy.sends_images
        return Run(
            strategy=config.strategy,
            model=config.model,
            stem=config.stem,
            classifier=config.classifier,
            split="input" if images else config.split,
            input_shape=self.spec.input_shape,
            num_classes=self.spec.num_classes,
            activation_shape=self.network.activation_shape,
            structure_digest=self.network.structure_digest,
            weights_digest=self.network.weights_digest,
            bits=self.bits,
            batch_size=config.batch_size,
            total_batches=self.plan.total_batches,
            seed=config.seed,
            precision=config.precision,
            lr=config.lr,
            momentum=config.momentum,
            weight_decay=config.weight_decay,
            warmup=config.warmup,
            batches_per_epoch=self.plan.batches_per_epoch,
            mean=self.dataset.mean if images else (),
            std=self.dataset.std if images else (),
            gradient_bits=config.gradient_bits if self.strategy.gradient else 0,
            kept_images=len(self.dataset.train) if config.sends_once else 0,
        )
