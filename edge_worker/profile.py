"""Measures what training would cost here, at the cloud and on the link: what `edge-worker plan` reckons with.

Each split point is measured in a process of its own, so that its peak of memory is its own: with the real
loader, step and encoder, on the data set itself. The cloud then trains its part on the batches that came of
it.
"""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace

import torch

from common.codec import decode, encode
from common.data.loader import Batch as ImageBatch
from common.data.loader import Loader
from common.data.sampler import batch_indices
from common.errors import CloudError, ConfigError, HeadwaterError
from common.machine import describe_machine
from common.metrics import peak_rss_bytes
from common.models.split import part, split_points
from common.strategies import find_strategy
from common.units import resolve_link
from common.wire.messages import BackProfile, Batch, Reference, Run
from common.wire.records import record_to_bytes
from edge_worker.apart import apart
from edge_worker.config import TrainConfig
from edge_worker.encoder import Content, Encoder
from edge_worker.outbox import Outbox
from edge_worker.planner import FASTEST_BPS, Coded, Costs, ImagesCost, Link, SplitCost, WholeCost
from edge_worker.profile_call import Asked, on_the_wire
from edge_worker.profile_file import Measured, emulated_link
from edge_worker.run import Work

log = logging.getLogger(__name__)

WIDTHS = (8, 4, 2)
# At which a step is timed where the plan is to choose.
STEP_BITS = 4
# Batches before those that count, and those.
WARM, COUNTED = 3, 6
# Of what is measured; a training that differs in it is another one.
SETTINGS = tuple(
    "model stem classifier exit dataset image_size train_limit batch_size epochs precision bits "
    "gradient_bits workers threads seed device data_dir link_rate link_rate_down link_latency".split()
)
UNLIMITED = 1 << 62


@dataclass(frozen=True, slots=True, kw_only=True)
class EdgeCost:
    """What one process measured; seconds and bytes are of one full batch.

    Attributes:
        step_s: of the whole loop.
        forward_s, learn_s: of a front whose gradient comes back, else 0.
        widths: of activations, by bits; one entry, 0, where images go up; none where nothing does.
        reference_bytes: of a batch whose images the cloud has.
        memory_bytes: the process's peak.
        threads: of torch.
        coding: of images.
        run: what the cloud must agree on; None without one.
        records: batches for the cloud to be measured with.
    """

    step_s: float
    forward_s: float = 0.0
    learn_s: float = 0.0
    widths: dict[int, Coded]
    reference_bytes: int = 0
    memory_bytes: int
    threads: int
    coding: str = ""
    run: Run | None = None
    records: tuple[bytes, ...] = ()


def profile(config: TrainConfig, splits: Sequence[str]) -> Measured:
    """Measure all strategies of a run; what cannot be measured is left out, and said.

    Args:
        config: the settings that it would be trained with.
        splits: where to cut; none for all friendly places.

    Raises:
        HeadwaterError: the settings are wrong, the cloud is not to be had, or nothing was measured.
    """
    config = replace(config, bits=config.bits or STEP_BITS)
    names, batches, machine = _looked_up(config, splits)
    asked = Asked(config)
    log.info("%d split points are measured, which takes half a minute for each or more", len(names))
    log.info("measuring images on their way to the cloud")
    images = _apart(config, "full-cloud", "")
    back = asked.ask(images.run, images.records)
    found, threads = [], images.threads
    for number, name in enumerate(names, start=1):
        log.info("measuring %s (%d of %d)", name, number, len(names))
        try:
            cost, threads = _split_cost(name, config, asked)
        except CloudError:  # others would fare no better
            raise
        except HeadwaterError as error:
            log.warning("%s is left out: %s", name, error)
            continue
        found.append(cost)
    if not found:
        raise ConfigError("no split point could be measured; the lines above say why")
    log.info("measuring the whole network here")
    whole: WholeCost | None = None
    alone_threads = 0
    try:
        alone = _apart(config, "full-edge", "")
        alone_threads = alone.threads
        whole = WholeCost(step_s=alone.step_s, memory_bytes=alone.memory_bytes)
    except HeadwaterError as error:
        log.warning("full-edge is left out: %s", error)
    images_cost = ImagesCost(
        coding=images.coding,
        step_s=images.step_s,
        bytes=images.widths[0].bytes,
        reference_bytes=images.reference_bytes,
        cloud_s=back.step_s,
        memory_bytes=images.memory_bytes,
    )
    return Measured(
        settings={name: getattr(config, name) for name in SETTINGS} | {"splits": list(splits)},
        edge=f"{machine}, threads: {threads} beside a cloud, {alone_threads or '-'} alone",
        cloud=f"{back.machine}, {back.device}, threads: {back.threads}",
        link=_link(config, back),
        costs=Costs(
            batches=batches, epochs=config.epochs, whole=whole, images=images_cost, splits=tuple(found)
        ),
    )


def _looked_up(config: TrainConfig, splits: Sequence[str]) -> tuple[Sequence[str], float, str]:
    """Return split points, full batches that an epoch makes, and the machine; wrong settings end here."""
    work = Work(replace(config, strategy="full-edge"), find_strategy("full-edge"))
    for name in splits:
        part(work.spec, name)  # raises where it is none
    num_images, size = len(work.dataset.train), config.batch_size
    left_over = num_images % size == 1  # is not trained on
    batches = max(1.0, (num_images - left_over) / size)
    machine = f"{describe_machine(work.device)}, {work.device.type}, {work.precision}"
    return splits or split_points(work.spec), batches, machine


def _split_cost(name: str, config: TrainConfig, asked: Asked) -> tuple[SplitCost, int]:
    """Return what a split point costs, and with how many threads the edge trained it."""
    edge = _apart(config, "hierarchical", name)
    chained = _apart(config, "split-learning", name)
    back, returning = asked.ask(edge.run, edge.records), asked.ask(chained.run, chained.records)
    cost = SplitCost(
        split=name,
        step_s=edge.step_s,
        forward_s=chained.forward_s,
        learn_s=chained.learn_s,
        memory_bytes=edge.memory_bytes,
        chain_memory_bytes=chained.memory_bytes,
        bits=config.bits,
        widths=edge.widths,
        cloud_s=back.step_s,
        cloud_gradient_s=returning.gradient_step_s,
        gradient_bytes=on_the_wire(returning.gradient_bytes),
    )
    return cost, edge.threads


def _link(config: TrainConfig, back: BackProfile) -> Link:
    """Return the link as it is emulated, or else as its uplink was measured, taken for its downlink, too."""
    emulated = emulated_link(config.link_rate, config.link_rate_down, config.link_latency)
    if emulated is not None:
        return emulated
    if not back.receive_s or not back.received_bytes:
        raise ConfigError("the batches were too few to measure the link with; give --link-rate")
    up_bps = min(FASTEST_BPS, 8 * back.received_bytes / back.receive_s)
    told = resolve_link(None, config.link_rate_down, config.link_latency)
    return Link(up_bps=up_bps, down_bps=told.rate_down_bps or up_bps, latency_s=told.latency_s)


# ------------------------------------------------------------------ one process


def _apart(config: TrainConfig, strategy: str, split: str) -> EdgeCost:
    """Measure in a process of its own."""
    settings = replace(
        config, strategy=strategy, split=split or config.split, images="resend", spool_full="wait"
    )
    return apart(measure_edge, settings)


def measure_edge(config: TrainConfig) -> EdgeCost:
    """Measure the edge's part of one strategy, in this process."""
    strategy = find_strategy(config.strategy)
    work = Work(config, strategy)
    step_s, records, last = _loop(work)
    memory_bytes = peak_rss_bytes()
    if not strategy.uses_cloud:
        threads = torch.get_num_threads()
        return EdgeCost(step_s=step_s, widths={}, memory_bytes=memory_bytes, threads=threads)
    forward_s, learn_s = _halves(work) if strategy.gradient else (0.0, 0.0)
    if strategy.sends_images:
        sizes = [on_the_wire(len(record)) for record in records]
        widths = {0: Coded(encode_s=0.0, bytes=round(sum(sizes) / len(sizes)))}
    else:
        widths = {bits: _coded(last, bits) for bits in sorted({*WIDTHS, config.bits})}
    return EdgeCost(
        step_s=step_s,
        forward_s=forward_s,
        learn_s=learn_s,
        widths=widths,
        reference_bytes=_reference_bytes(work),
        memory_bytes=memory_bytes,
        threads=torch.get_num_threads(),
        coding=work.coding or "",
        run=work.agreed_run(),
        records=tuple(records),
    )


def _batches(work: Work) -> Iterator[ImageBatch]:
    """Yield full batches, as many as are measured, with others being loaded meanwhile as in training."""
    config = work.config
    full = min(config.batch_size, len(work.dataset.train))
    loader = Loader(work.dataset.train, config.batch_size, config.seed, config.workers)
    left = WARM + COUNTED
    with closing(loader.batches(0, UNLIMITED)) as batches:
        for batch in batches:
            if len(batch.labels) == full:
                yield batch
                left -= 1
            if not left:
                return


def _loop(work: Work) -> tuple[float, list[bytes], torch.Tensor]:
    """Train some batches as the loop does; return seconds for each, their records, the last activations."""
    ends: list[float] = []
    records: list[bytes] = []
    last = torch.empty(0)
    total = work.plan.total_batches

    def record_of(number: int, batch: ImageBatch) -> Callable[[Content], Batch]:
        labels = tuple(batch.labels.tolist())

        def made(content: Content) -> Batch:
            assert content is not None  # no batch is empty
            return Batch(min(number, total - 1), content, labels)

        return made

    outbox = Outbox(UNLIMITED)
    with Encoder(outbox, work.encode) as encoder:
        for number, batch in enumerate(_batches(work)):
            last, loss = work.front.step(batch)
            if work.strategy.uses_cloud:
                encoder.put(last, record_of(number, batch))
            if loss is None and work.front.trains:
                work.front.learn(torch.zeros(last.shape))  # what it says takes no other time
            ends.append(time.monotonic())
        encoder.flush()
    while (parcel := outbox.take()) is not None:
        records.append(outbox.data_of(parcel))
    return (ends[-1] - ends[WARM - 1]) / (len(ends) - WARM), records, last


def _halves(work: Work) -> tuple[float, float]:
    """Return the seconds of a front's forward pass, and of its step once a coded gradient has come."""
    forward_s = learn_s = 0.0
    for number, batch in enumerate(_batches(work)):
        started = time.monotonic()
        activations, _ = work.front.step(batch)
        if activations.is_cuda:
            torch.cuda.synchronize(activations.device)
        between = time.monotonic()
        gradient = encode(1e-3 * torch.randn(activations.shape), work.config.gradient_bits)
        come = time.monotonic()
        work.front.learn(decode(gradient, torch.device("cpu")))
        if number >= WARM:
            forward_s += between - started
            learn_s += time.monotonic() - come
    return forward_s / COUNTED, learn_s / COUNTED


def _coded(activations: torch.Tensor, bits: int) -> Coded:
    """Return what activations take at so many bits, seconds of a processor that has nothing else to do."""
    times, size = [], 0
    for _ in range(WARM):
        started = time.monotonic()
        packed = encode(activations, bits)
        times.append(time.monotonic() - started)
        size = len(record_to_bytes(Batch(0, packed, (0,) * len(activations))))
    return Coded(encode_s=min(times), bytes=on_the_wire(size))


def _reference_bytes(work: Work) -> int:
    """Return what a batch takes on the wire whose images the cloud has."""
    config = work.config
    indices = batch_indices(len(work.dataset.train), config.batch_size, config.seed, 0).tolist()
    record = Batch(0, Reference(tuple(indices)), (0,) * len(indices))
    return on_the_wire(len(record_to_bytes(record)))
