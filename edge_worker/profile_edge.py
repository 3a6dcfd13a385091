"""One process that measures the edge's part of one strategy: with the real loader, step and encoder."""

import statistics
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass

import torch

from common.codec import decode, encode
from common.data.loader import Batch as ImageBatch
from common.data.loader import Loader
from common.data.sampler import batch_indices
from common.logs import set_up_logging
from common.metrics import peak_rss_bytes
from common.strategies import find_strategy
from common.wire.messages import Batch, Record, Reference, Run
from common.wire.records import record_to_bytes
from edge_worker.config import TrainConfig
from edge_worker.costs import Coded
from edge_worker.encoder import Content, Encoder
from edge_worker.outbox import Outbox
from edge_worker.profile_call import on_the_wire
from edge_worker.run import Work

WIDTHS = (8, 4, 2)
# Batches before those that count; of those so many, and so many seconds.
WARM, COUNTED, COUNTED_S = 3, 10, 2.0
MAX_RECORDS = 8
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


def measure_edge(config: TrainConfig) -> EdgeCost:
    """Measure the edge's part of one strategy, in this process."""
    set_up_logging(config.log_level)
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


class LastRecords(Outbox):
    """Keeps the last records only: all that are measured would count as the edge's memory."""

    def __init__(self) -> None:
        super().__init__(UNLIMITED)
        self.last: deque[bytes] = deque(maxlen=MAX_RECORDS)

    def offer(self, record: Record) -> float:
        """Take a record; there is always room."""
        self.last.append(record_to_bytes(record))
        return 0.0


def _batches(work: Work) -> Iterator[ImageBatch]:
    """Yield full batches until enough are measured, with others being loaded meanwhile as in training."""
    config = work.config
    full = min(config.batch_size, len(work.dataset.train))
    loader = Loader(work.dataset.train, config.batch_size, config.seed, config.workers)
    count, started = 0, 0.0
    with closing(loader.batches(0, UNLIMITED)) as batches:
        for batch in batches:
            if len(batch.labels) == full:
                yield batch
                count += 1
                started = time.monotonic() if count <= WARM else started
            if count >= WARM + COUNTED and time.monotonic() - started >= COUNTED_S:
                return


def _loop(work: Work) -> tuple[float, list[bytes], torch.Tensor]:
    """Train some batches as the loop does; return seconds for each, the last records and activations."""
    ends: list[float] = []
    last = torch.empty(0)
    total = work.plan.total_batches

    def record_of(number: int, batch: ImageBatch) -> Callable[[Content], Batch]:
        labels = tuple(batch.labels.tolist())

        def made(content: Content) -> Batch:
            assert content is not None  # no batch is empty
            return Batch(min(number, total - 1), content, labels)

        return made

    outbox = LastRecords()
    with Encoder(outbox, work.encode) as encoder:
        for number, batch in enumerate(_batches(work)):
            last, loss = work.front.step(batch)
            if work.strategy.uses_cloud:
                encoder.put(last, record_of(number, batch))
            if loss is None and work.front.trains:
                encoder.flush()  # as the loop does before it waits
                work.front.learn(torch.zeros(last.shape))  # what it says takes no other time
            ends.append(time.monotonic())
        encoder.flush()
    # No median: what is loaded and encoded beside the steps makes some of them short and others long.
    return (ends[-1] - ends[WARM - 1]) / (len(ends) - WARM), list(outbox.last), last


def _halves(work: Work) -> tuple[float, float]:
    """Return the seconds of a front's forward pass, and of its step once a coded gradient has come."""
    forward_s, learn_s = [], []
    for batch in _batches(work):
        started = time.monotonic()
        activations, _ = work.front.step(batch)
        if activations.is_cuda:
            torch.cuda.synchronize(activations.device)
        between = time.monotonic()
        gradient = encode(1e-3 * torch.randn(activations.shape), work.config.gradient_bits)
        come = time.monotonic()
        work.front.learn(decode(gradient, torch.device("cpu")))
        forward_s.append(between - started)
        learn_s.append(time.monotonic() - come)
    return statistics.fmean(forward_s[WARM:]), statistics.fmean(learn_s[WARM:])


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
