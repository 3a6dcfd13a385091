"""How fast a run would be trained here: its back, built and stepped on a few real batches, then let go."""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import torch

from cloud_worker.back import Back
from cloud_worker.turns import Turns
from common.codec import CodedImages, Packed, encode
from common.errors import CapacityError, CloudError, WireError
from common.machine import describe_machine
from common.units import format_size
from common.wire.messages import BackProfile, Batch, Chunk, Gradient, Request, Run
from common.wire.reassembly import Reassembly
from common.wire.records import gradient_to_bytes, max_content_bytes, record_from_bytes

MIN_RECORDS, MAX_RECORDS = 2, 16
# Steps before those that count; of those so many, for so many seconds: a machine is not always as fast.
WARM_STEPS, MIN_STEPS, MAX_STEPS, STEPS_S = 2, 6, 100, 2.0
# All are taken as this one: in warm-up, where nothing diverges on a few batches again and again.
SEQ = 0

# Numbers the steps to be taken.
Steps = Callable[[], Iterator[int]]


@dataclass(slots=True)
class Sample:
    """Batches that an edge sent, and in which time all but the first chunk of them came."""

    batches: list[tuple[Packed | CodedImages, tuple[int, ...]]]
    received_bytes: int = 0
    receive_s: float = 0.0


def receive(run: Run, requests: Iterator[Request], max_bytes: int) -> Sample:
    """Take the batches that an edge sends to be measured with.

    Raises:
        WireError: what comes is no chunk of a batch of the run, or too few or too many of them.
        CapacityError: they are too large.
    """
    reassembly = Reassembly(max_content_bytes(run, run.bits))
    sample = Sample([])
    started: float | None = None
    for request in requests:
        if not isinstance(request, Chunk):
            raise WireError("after Hello a profile takes chunks of batches only")
        now = time.monotonic()
        if started is None:
            started = now
        else:
            sample.received_bytes += len(request.data)
            sample.receive_s = now - started
        if sample.received_bytes > max_bytes:
            raise CapacityError(f"a profile may take {format_size(max_bytes)} of batches here (see --window)")
        data = reassembly.add(request)
        if data is not None:
            sample.batches.append(_content_of(data, run, len(sample.batches)))
    if not len(sample.batches) >= MIN_RECORDS:
        raise WireError(f"a profile takes {MIN_RECORDS} to {MAX_RECORDS} batches, got {len(sample.batches)}")
    return sample


def _content_of(data: bytes, run: Run, number: int) -> tuple[Packed | CodedImages, tuple[int, ...]]:
    record = record_from_bytes(data, run)
    if number == MAX_RECORDS or not isinstance(record, Batch):
        raise WireError(f"a profile takes at most {MAX_RECORDS} batches, got more, or another record")
    if not isinstance(record.content, Packed | CodedImages):
        raise WireError("a profile takes images as they are, and none to be kept")
    return record.content, record.labels


def measure(
    run: Run,
    back: Back,
    sample: Sample,
    turns: Turns,
    is_wanted: Callable[[], bool],
    clock: Callable[[], float] = time.monotonic,
) -> BackProfile:
    """Train on the sample again and again, as sessions do, and take the time by `clock`, monotonic seconds.

    Raises:
        CloudError: `is_wanted` says so between two steps.
    """

    def look_up() -> None:
        if not is_wanted():
            raise CloudError("the profile took too long, or nobody waits for it any more")

    steps = partial(_steps, look_up, clock)
    step_s = _time_steps(back, sample, turns, steps, clock)
    gradient_step_s, gradient_bytes = _time_gradients(run, back, sample, turns, steps, clock)
    device = back.trainee.device
    return BackProfile(
        step_s=step_s,
        gradient_step_s=gradient_step_s,
        gradient_bytes=gradient_bytes,
        received_bytes=sample.received_bytes,
        receive_s=sample.receive_s,
        machine=describe_machine(device),
        device=device.type,
        threads=torch.get_num_threads(),
    )


def _time_steps(back: Back, sample: Sample, turns: Turns, steps: Steps, clock: Callable[[], float]) -> float:
    """Return the mean time from one step's end to the next one's; the next batch is decoded meanwhile."""
    ends = []
    with ThreadPoolExecutor(1, thread_name_prefix="profile") as ahead:
        decoded = ahead.submit(back.decode, sample.batches[0][0])
        for step in steps():
            x_NCHW = decoded.result()
            decoded = ahead.submit(back.decode, sample.batches[(step + 1) % len(sample.batches)][0])
            turns.take(partial(back.train, SEQ, x_NCHW, sample.batches[step % len(sample.batches)][1]))
            ends.append(clock())
    return _mean_s(ends)


def _time_gradients(
    run: Run, back: Back, sample: Sample, turns: Turns, steps: Steps, clock: Callable[[], float]
) -> tuple[float, int]:
    """Return the mean time of a step with its gradient coded, and its bytes; 0 where none returns."""
    if not run.gradient_bits:
        return 0.0, 0
    ends, sizes = [], []
    for step in steps():
        content, labels = sample.batches[step % len(sample.batches)]
        sizes.append(turns.take(partial(_gradient_bytes, back, content, labels, run.gradient_bits)))
        ends.append(clock())
    return _mean_s(ends), round(statistics.median(sizes))


def _steps(look_up: Callable[[], None], clock: Callable[[], float]) -> Iterator[int]:
    """Yield the number of each step, until there are enough and they took long enough."""
    started = 0.0
    for step in range(WARM_STEPS + MAX_STEPS):
        look_up()
        if step == WARM_STEPS:
            started = clock()
        if step >= WARM_STEPS + MIN_STEPS and clock() - started >= STEPS_S:
            return
        yield step


def _mean_s(ends: Sequence[float]) -> float:
    """Return what a step took once warm. No median: an epoch is the sum of its steps, slow ones included."""
    return (ends[-1] - ends[WARM_STEPS - 1]) / (len(ends) - WARM_STEPS)


def _gradient_bytes(back: Back, content: Packed | CodedImages, labels: tuple[int, ...], bits: int) -> int:
    """Take a step; return what its gradient takes once it is coded."""
    x_NCHW = back.decode(content).requires_grad_()
    back.train(SEQ, x_NCHW, labels)
    assert x_NCHW.grad is not None  # the loss depends on it
    return len(gradient_to_bytes(Gradient(SEQ, encode(x_NCHW.grad, bits))))
