"""Several profiles of one training put together: a machine that others share is not as fast at all times.

What takes half as long again takes so for seconds, and then no more. The median leaves out a round that was
hit by it, so that no place comes to look worse than another one by such an accident.
"""

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any

from edge_worker.costs import Costs


def median_costs(found: Sequence[Costs]) -> Costs:
    """Return the median of each time, of those that have it; of bytes, which hardly differ, the most.

    Args:
        found: one or more, of the same training.
    """
    names = dict.fromkeys(each.split for costs in found for each in costs.splits)
    splits = {
        name: [each for costs in found for each in costs.splits if each.split == name] for name in names
    }
    return replace(
        found[0],
        whole=_median([costs.whole for costs in found]),
        images=_median([costs.images for costs in found]),
        splits=tuple(_median(same) for same in splits.values()),
    )


def most_apart(found: Sequence[Costs]) -> tuple[float, str]:
    """Return by what share the longest of a time exceeds the shortest, at most, and which time that is."""
    times: dict[str, list[float]] = {}
    for costs in found:
        for name, seconds in _times(costs):
            times.setdefault(name, []).append(seconds)
    apart = {name: max(each) / min(each) - 1 for name, each in times.items() if min(each) > 0}
    return max(((share, name) for name, share in apart.items()), default=(0.0, ""))


def _times(costs: Costs) -> Iterator[tuple[str, float]]:
    for each in costs.splits:
        yield f"the edge's step at {each.split}", each.step_s
        yield f"the cloud's step at {each.split}", each.cloud_s
    if costs.images is not None:
        yield "the cloud's step of the whole network", costs.images.cloud_s
    if costs.whole is not None:
        yield "the edge's step of the whole network", costs.whole.step_s


def _median(values: Sequence[Any]) -> Any:
    """Return the median of values of one kind, field by field; None where none is known."""
    known = [value for value in values if value is not None]
    if not known:
        return None
    first = known[0]
    if is_dataclass(first) and not isinstance(first, type):
        return replace(
            first,
            **{each.name: _median([getattr(value, each.name) for value in known]) for each in fields(first)},
        )
    if isinstance(first, dict):
        return {key: _median([value[key] for value in known if key in value]) for key in first}
    if isinstance(first, float):
        return statistics.median(known)
    return max(known) if isinstance(first, int) else first
