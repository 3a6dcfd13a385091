"""What `edge-worker profile` has of a training: seconds, bytes and memory of each part, and the link."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median

# What a link without a bound is taken for, bit/s.
FASTEST_BPS = 1e10


@dataclass(frozen=True, slots=True, kw_only=True)
class Coded:
    """What one batch comes to at one width.

    Attributes:
        encode_s: seconds of the edge.
        bytes: on the wire, framing included.
    """

    encode_s: float
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainCost:
    """One split point where the gradient comes back; seconds and bytes are of one batch.

    Attributes:
        forward_s: the front forward alone.
        learn_s: the front's step once its gradient is there, decoding included.
        memory_bytes: the edge's peak.
        cloud_s: the cloud decodes, trains the back and encodes the gradient, one after the other.
        gradient_bytes: that come back, framing included.
    """

    forward_s: float
    learn_s: float
    memory_bytes: int
    cloud_s: float
    gradient_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitCost:
    """One split point; seconds and bytes are of one batch.

    Attributes:
        split: its name.
        step_s: the edge trains front and exit, and loads and encodes beside that, at `bits`.
        memory_bytes: the edge's peak.
        bits: the width at which `step_s` was measured.
        widths: what each width comes to.
        cloud_s: the cloud decodes and trains the back.
        chain: with a gradient that comes back; None where that was not measured.
    """

    split: str
    step_s: float
    memory_bytes: int
    bits: int
    widths: dict[int, Coded]
    cloud_s: float
    chain: ChainCost | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ImagesCost:
    """Images that go up; seconds and bytes are of one batch.

    Attributes:
        coding: the smallest one for them.
        step_s: the edge loads and encodes.
        bytes: on the wire, framing included.
        reference_bytes: where the cloud has them already.
        cloud_s: the cloud decodes, and trains the whole network.
        memory_bytes: the edge's peak.
    """

    coding: str
    step_s: float
    bytes: int
    reference_bytes: int
    cloud_s: float
    memory_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WholeCost:
    """The whole network on the edge: seconds of one batch, and the peak of its memory in bytes."""

    step_s: float
    memory_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """All that was measured of one training.

    Attributes:
        batches: full ones that an epoch's images make, 2.5 where the third one is half as large.
        epochs: of the run; images that go up once are spread over them.
        spool_memory: bytes that may wait in the edge's memory for the cloud to have them for good.
        whole: all on the edge; None where the edge could not.
        images: all in the cloud; None where the cloud could not.
        splits: the network parted, by split point, from input to output.
    """

    batches: float
    epochs: int
    spool_memory: int
    whole: WholeCost | None
    images: ImagesCost | None
    splits: tuple[SplitCost, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """A link; rates in bit/s, the latency is of one way."""

    up_bps: float
    down_bps: float
    latency_s: float = 0.0


def consistent(splits: Sequence[SplitCost]) -> list[SplitCost]:
    """Return split points with the cloud's times made to agree that a part takes no longer than the whole.

    A back that begins later is a part of one that begins earlier. The seconds of a measurement, on a machine
    that others share, may tell otherwise: the times that contradict each other are replaced by their median
    (isotonic regression in the median, by pooling adjacent violators; Barlow et al., "Statistical Inference
    under Order Restrictions", 1972). Only where the later one's records are no larger: to decode them takes
    time as well.

    Args:
        splits: from input to output.
    """
    times = iter(_never_rising(splits, [each.cloud_s for each in splits]))
    with_chain = [each for each in splits if each.chain is not None]
    chain_times = iter(_never_rising(with_chain, [each.chain.cloud_s for each in with_chain if each.chain]))
    return [
        replace(
            each,
            cloud_s=next(times),
            chain=None if each.chain is None else replace(each.chain, cloud_s=next(chain_times)),
        )
        for each in splits
    ]


def _never_rising(splits: Sequence[SplitCost], seconds: Sequence[float]) -> list[float]:
    pools: list[list[float]] = []
    fixed = 0  # pools before the last record that is larger than the one before it
    last_bytes = 0
    for each, value in zip(splits, seconds, strict=True):
        if each.widths[each.bits].bytes > last_bytes:
            fixed = len(pools)
        last_bytes = each.widths[each.bits].bytes
        pool = [value]
        while len(pools) > fixed and median(pools[-1]) < median(pool):
            pool = pools.pop() + pool
        pools.append(pool)
    return [median(pool) for pool in pools for _ in pool]
