"""Which strategy, split point and width trains an epoch fastest: arithmetic over a profile, and nothing else.

Edge, link and cloud work on different batches at once, so that a batch takes the slowest of the three. Beside
that, the first batch fills the line and the last one drains it: once in a run, or once in an epoch where the
edge is the slowest, so that nobody has work left while it evaluates. Only split-learning is a chain, whose
batch takes the sum.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from common.units import format_size
from edge_worker.costs import (
    FASTEST_BPS,
    ChainCost,
    Costs,
    ImagesCost,
    Link,
    SplitCost,
    WholeCost,
    consistent,
)

METHOD, CHAIN = "hierarchical", "split-learning"
# A share of an epoch that is none.
NO_TIME = 0.01
# Where the best choice is looked for, bit/s.
SLOWEST_BPS = 1e4
_STEPS_PER_DECADE = 40
_PRECISION = 1.005


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One choice, and what an epoch of it takes.

    Attributes:
        strategy: its name.
        split, bits: None where they do not apply.
        images: "resend" or "once" where images go up, else None.
        epoch_s: seconds.
        edge_s, link_s, cloud_s: seconds in which each is busy.
        bytes_up: that go up.
        bytes_down: of gradients; what else comes down is next to nothing.
        memory_bytes: the edge's peak, with what waits at most for the cloud's second checkpoint behind it.
    """

    strategy: str
    split: str | None
    bits: int | None
    images: str | None
    epoch_s: float
    edge_s: float
    link_s: float
    cloud_s: float
    bytes_up: float
    bytes_down: float
    memory_bytes: int

    @property
    def bottleneck(self) -> str:
        """Which of the three is busy longest."""
        busy = {"edge": self.edge_s, "link": self.link_s, "cloud": self.cloud_s}
        return max(busy, key=lambda name: busy[name])

    @property
    def name(self) -> str:
        """The choice in words."""
        return self.strategy if self.details is None else f"{self.strategy} {self.details}"

    @property
    def details(self) -> str | None:
        """What sets it apart from others of its strategy."""
        if self.images is not None:
            return f"--images {self.images}"
        return None if self.split is None else f"{self.split}, {self.bits} bits"


def plans(costs: Costs, link: Link) -> Iterator[Plan]:
    """Yield every choice with what it takes over `link`."""
    if costs.whole is not None:
        yield _full_edge(costs, costs.whole)
    if costs.images is not None:
        yield _full_cloud(costs, costs.images, link, once=False)
        yield _full_cloud(costs, costs.images, link, once=True)
    for split in consistent(costs.splits):
        for bits in split.widths:
            yield _hierarchical(costs, split, bits, link)
            if split.chain is not None:
                yield _split_learning(costs, split, split.chain, bits, link)


def plan_of(
    costs: Costs, link: Link, strategy: str, split: str | None, bits: int | None, images: str | None
) -> Plan | None:
    """Return what one choice takes; None where it was not measured."""
    wanted = (strategy, split, bits, images)
    found = plans(costs, link)
    return next((one for one in found if (one.strategy, one.split, one.bits, one.images) == wanted), None)


def rank(costs: Costs, link: Link, edge_memory: int | None = None) -> list[Plan]:
    """Return the choices that fit into the edge's memory, the fastest first; of equals, the lighter one."""
    fitting = [each for each in plans(costs, link) if edge_memory is None or each.memory_bytes <= edge_memory]
    return sorted(fitting, key=lambda each: (each.epoch_s, each.bytes_up))


def best_of(ranked: Sequence[Plan]) -> Plan:
    """Return the fastest choice; of widths that cost no time there, the one that loses least."""
    first = ranked[0]
    as_fast = [
        each
        for each in ranked
        if (each.strategy, each.split) == (first.strategy, first.split)
        and each.epoch_s <= first.epoch_s * (1 + NO_TIME)
    ]
    return max(as_fast, key=lambda each: each.bits or 0)


def changes(
    costs: Costs, down_over_up: float, latency_s: float, edge_memory: int | None = None
) -> list[tuple[float, Plan]]:
    """Return from which uplink rate on, in bit/s, which choice is the best; the first is from the slowest on.

    Args:
        costs: what was measured.
        down_over_up: the downlink's rate, in rates of the uplink.
        latency_s: of one way.
        edge_memory: bytes that the edge has.
    """

    def best(rate: float) -> Plan | None:
        ranked = rank(
            costs, Link(up_bps=rate, down_bps=rate * down_over_up, latency_s=latency_s), edge_memory
        )
        return best_of(ranked) if ranked else None

    found: list[tuple[float, Plan]] = []
    steps = round(math.log10(FASTEST_BPS / SLOWEST_BPS) * _STEPS_PER_DECADE)
    before = SLOWEST_BPS
    for step in range(steps + 1):
        rate = SLOWEST_BPS * 10 ** (step / _STEPS_PER_DECADE)
        here = best(rate)
        if here is None:
            return []
        if not found:
            found.append((rate, here))
        elif here.name != found[-1][1].name:
            low, high = before, rate
            while high / low > _PRECISION:
                middle = math.sqrt(low * high)
                same = best(middle)
                low, high = (middle, high) if same and same.name == found[-1][1].name else (low, middle)
            found.append((high, here))
        before = rate
    return found


def none_fits(known: Sequence[Plan], edge_memory: int) -> str:
    """Say what the lightest of some choices takes, none of which fits into so many bytes."""
    least = min(known, key=lambda each: each.memory_bytes)
    return (
        f"nothing fits into --edge-memory {format_size(edge_memory)}: the least is "
        f"{format_size(least.memory_bytes)}, of {least.name}"
    )


def verdict(ranked: Sequence[Plan]) -> str:
    """Say plainly what is best of one choice or more, and where the method is not."""
    first = best_of(ranked)
    if first.strategy == METHOD:
        return f"best: {first.name}; the {first.bottleneck} is what takes time"
    method = next((each for each in ranked if each.strategy == METHOD), None)
    if method is None:
        return (
            f"best: {first.name}; no split of the network fits into the edge's memory, or none was measured"
        )
    times = method.epoch_s / first.epoch_s
    if times <= 1 + NO_TIME:
        return f"best: {first.name}; the method's best choice, {method.name}, takes no longer"
    told = (
        f"{first.name} is faster here than the method: its best choice, {method.name}, takes "
        f"{times:.2f} times as long, and the {method.bottleneck} is what holds it up"
    )
    others = [each.name for each in _faster_ones(ranked, method) if each.strategy != first.strategy]
    if not others:
        return told
    return f"{told}; {' and '.join(others)} {'is' if len(others) == 1 else 'are'} faster, too"


def _faster_ones(ranked: Sequence[Plan], method: Plan) -> list[Plan]:
    """Return the best choice of each strategy that is faster than the method's."""
    firsts: dict[str, Plan] = {}
    for each in ranked:
        if each.epoch_s * (1 + NO_TIME) < method.epoch_s:
            firsts.setdefault(each.strategy, each)
    return list(firsts.values())


# ------------------------------------------------------------------ one strategy each


def _hierarchical(costs: Costs, split: SplitCost, bits: int, link: Link) -> Plan:
    coded = split.widths[bits]
    # Never less than was measured: it may be the front, and not the encoder beside it, that took so long.
    edge_s = split.step_s + max(0.0, coded.encode_s - split.widths[split.bits].encode_s)
    link_s = 8 * coded.bytes / link.up_bps
    busy = (edge_s, link_s, split.cloud_s)
    # The edge evaluates its exit at an epoch's end; the others work on meanwhile, if it is ahead of them.
    first_s = sum(busy) - max(busy) + 2 * link.latency_s
    later_s = max(0.0, first_s - costs.batches * (max(busy) - edge_s))
    fill_s = (first_s + (costs.epochs - 1) * later_s) / costs.epochs
    memory_bytes = _peak_bytes(costs, split.memory_bytes, coded.bytes, coded.bytes)
    return _plan(costs, METHOD, (split.split, bits), max(busy), busy, coded.bytes, memory_bytes, fill_s)


def _split_learning(costs: Costs, split: SplitCost, chain: ChainCost, bits: int, link: Link) -> Plan:
    coded = split.widths[bits]
    edge_s = chain.forward_s + coded.encode_s + chain.learn_s
    link_s = 8 * coded.bytes / link.up_bps + 8 * chain.gradient_bytes / link.down_bps
    chain_s = edge_s + link_s + chain.cloud_s
    waits_s = math.ceil(costs.batches) * 2 * link.latency_s  # a small batch waits as long as a full one
    # An epoch is over when its last batch is applied: its gradient comes while the edge evaluates. How long
    # that takes is not known; but none of the three is busy for longer than the epoch.
    over_s = 8 * chain.gradient_bytes / link.down_bps + chain.learn_s
    idle_s = costs.batches * (chain_s - max(edge_s, link_s, chain.cloud_s)) + waits_s
    return _plan(
        costs,
        CHAIN,
        (split.split, bits),
        chain_s,
        (edge_s, link_s, chain.cloud_s),
        coded.bytes,
        _peak_bytes(costs, chain.memory_bytes, coded.bytes, coded.bytes),
        waits_s - min(over_s, idle_s),
        batch_bytes_down=chain.gradient_bytes,
    )


def _full_cloud(costs: Costs, images: ImagesCost, link: Link, once: bool) -> Plan:
    again = images.reference_bytes if once else images.bytes
    first, later = ((images.step_s, 8 * size / link.up_bps, images.cloud_s) for size in (images.bytes, again))
    if once:  # nothing is loaded or encoded any more
        later = (0.0, *later[1:])
    share = 1 / costs.epochs
    busy = [share * one + (1 - share) * other for one, other in zip(first, later, strict=True)]
    return _plan(
        costs,
        "full-cloud",
        (None, None),
        share * max(first) + (1 - share) * max(later),
        (busy[0], busy[1], busy[2]),
        share * images.bytes + (1 - share) * again,
        _peak_bytes(costs, images.memory_bytes, images.bytes, again),
        share * (sum(first) - max(first) + 2 * link.latency_s),
        "once" if once else "resend",
    )


def _full_edge(costs: Costs, whole: WholeCost) -> Plan:
    busy = (whole.step_s, 0.0, 0.0)
    return _plan(costs, "full-edge", (None, None), whole.step_s, busy, 0.0, whole.memory_bytes)


def _plan(
    costs: Costs,
    strategy: str,
    where: tuple[str | None, int | None],
    batch_s: float,
    busy: tuple[float, float, float],
    batch_bytes: float,
    memory_bytes: int,
    fill_s: float = 0.0,
    images: str | None = None,
    batch_bytes_down: float = 0.0,
) -> Plan:
    edge_s, link_s, cloud_s = (costs.batches * each for each in busy)
    return Plan(
        strategy=strategy,
        split=where[0],
        bits=where[1],
        images=images,
        epoch_s=costs.batches * batch_s + fill_s,
        edge_s=edge_s,
        link_s=link_s,
        cloud_s=cloud_s,
        bytes_up=costs.batches * batch_bytes,
        bytes_down=costs.batches * batch_bytes_down,
        memory_bytes=memory_bytes,
    )


def _peak_bytes(costs: Costs, measured: int, *batch_bytes: int) -> int:
    """Return the edge's peak with its records: two checkpoints of the cloud, one an epoch, must have them.

    Args:
        costs: of the training.
        measured: the peak without them.
        batch_bytes: of a record in the first epoch, and in the second.
    """
    kept = sum(costs.batches * each for each in batch_bytes[: costs.epochs])
    return measured + round(min(costs.spool_memory, kept))
