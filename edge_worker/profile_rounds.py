"""Several profiles of one training put together: a machine that others share is not as fast at all times.

What takes half as long again takes so for seconds, and then no more. The median leaves out a round that was
hit by it, so that no place comes to look worse than another one by such an accident.
"""

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any

from edge_worker.costs import Costs
from edge_worker.profile_file import Measured


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


def median_of(found: Sequence[Measured], names: Sequence[str]) -> tuple[Measured, str]:
    """Return one profile made of several of the same training, and which time they differ in most.

    Args:
        found: one or more; a split point may be missing in some.
        names: of all split points, from input to output.
    """
    apart, name = _most_apart(found)
    costs = median_costs([each.costs for each in found])
    costs = replace(costs, splits=tuple(sorted(costs.splits, key=lambda each: names.index(each.split))))
    link = _median([each.link for each in found])
    return replace(found[0], costs=costs, link=link, rounds=len(found), apart=apart), name


def _most_apart(found: Sequence[Measured]) -> tuple[float, str]:
    """Return by what share the longest of a time exceeds the shortest, at most, and which time that is."""
    times: dict[str, list[float]] = {}
    for each in found:
        for name, seconds in (*_times(each.costs), ("a bit on the uplink", 1 / each.link.up_bps)):
            times.setdefault(name, []).append(seconds)
    apart = {name: max(took) / min(took) - 1 for name, took in times.items() if min(took) > 0}
    return max(((share, name) for name, share in apart.items()), default=(0.0, ""))


def _times(costs: Costs) -> Iterator[tuple[str, float]]:
    for each in costs.splits:
        yield f"the edge's step at {each.split}", each.step_s
        yield f"the cloud's step at {each.split}", each.cloud_s
        if each.chain is not None:
            yield f"the edge's forward pass at {each.split}", each.chain.forward_s
            yield f"the edge's step by a gradient at {each.split}", each.chain.learn_s
            yield f"the cloud's step with a gradient at {each.split}", each.chain.cloud_s
    if costs.images is not None:
        yield "the edge's part with images", costs.images.step_s
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
