"""Measures what training would cost here, at the cloud and on the link: what `edge-worker plan` reckons with.

Each split point is measured in a process of its own (profile_edge.py), so that its peak of memory is its own.
The cloud then trains its part on the batches that came of it. What is measured is kept at once: a profile
that was stopped goes on where it was.
"""

import logging
from collections.abc import Collection, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path

from common.errors import ConfigError
from common.machine import describe_machine
from common.models.split import part, split_points
from common.strategies import STRATEGIES, find_strategy
from common.training import resolve_device, resolve_precision
from edge_worker.apart import apart
from edge_worker.config import TrainConfig
from edge_worker.profile_file import Measured, write_profile
from edge_worker.profile_rounds import median_of
from edge_worker.profiler import Profiler
from edge_worker.run import Work

log = logging.getLogger(__name__)

# At which a step is timed where the plan is to choose.
STEP_BITS = 4
# What a profile is called until it is whole.
UNFINISHED = ".unfinished"


def profile(
    config: TrainConfig,
    splits: Sequence[str],
    path: Path,
    strategies: Collection[str] = STRATEGIES,
    rounds: int = 1,
) -> Measured:
    """Measure strategies of a run and write the profile; what cannot be measured is left out, and said.

    Args:
        config: the settings that it would be trained with.
        splits: where to cut; none for all friendly places.
        path: the file; until it is whole, what there is lies beside it.
        strategies: those that it must tell of; hierarchical is measured wherever the network is cut.
        rounds: how often all of it is measured, one time after the other; the profile has the median.

    Raises:
        HeadwaterError: the settings are wrong, the cloud is not to be had, or nothing was measured.
    """
    config = replace(config, bits=config.bits or STEP_BITS)
    # In a process of its own: what it builds would take memory as long as others are measured.
    names, batches, machine = apart(_looked_up, config, splits)
    if parts_of(strategies)[0]:
        log.info("split points to measure: %d, each takes half a minute or more", len(names))
    found = []
    try:
        for number in range(1, rounds + 1):
            if rounds > 1:
                log.info("round %d of %d", number, rounds)
            profiler = Profiler(
                config, list(names) if splits else [], names, batches, machine, sorted(strategies)
            )
            found.append(_measure(profiler, names, _unfinished(path, number), strategies))
    except (KeyboardInterrupt, SystemExit):  # Ctrl-C and SIGTERM
        log.warning("stopped while measuring; the same command goes on")
        raise
    measured, name = median_of(found, names)
    write_profile(path, measured)
    for number in count(1):
        left = _unfinished(path, number)
        if number > rounds and not left.exists():  # of more rounds, that were stopped
            break
        left.unlink(missing_ok=True)
    if rounds > 1:
        log.info("the rounds are apart by up to %.0f %%: %s", 100 * measured.apart, name)
    return measured


def _unfinished(path: Path, number: int) -> Path:
    """Return where the rounds are kept until all of them are whole."""
    return path.with_name(path.name + UNFINISHED + (str(number) if number > 1 else ""))


def _measure(
    profiler: Profiler, names: Sequence[str], unfinished: Path, strategies: Collection[str]
) -> Measured:
    """Measure everything once, but for the split points that an earlier start has left in a file."""
    cuts, sends_images, stays = parts_of(strategies)
    profiler.look_into(unfinished)
    profiler.check()
    if sends_images or not cuts:  # one of them tells of cloud and link
        profiler.measure_images()
    if cuts:
        _measure_splits(profiler, names, unfinished)
    if stays:
        profiler.measure_whole()
    return profiler.measured()


def parts_of(strategies: Collection[str]) -> tuple[bool, bool, bool]:
    """Tell which parts strategies need: a cut network, images that go up, the whole on the edge."""
    found = [find_strategy(name) for name in strategies]
    return (
        any(each.cut == "split" for each in found),
        any(each.sends_images for each in found),
        any(not each.uses_cloud for each in found),
    )


def _measure_splits(profiler: Profiler, names: Sequence[str], unfinished: Path) -> None:
    for number, name in enumerate(names, start=1):
        if profiler.knows(name):
            log.info("%s was measured before (%d of %d)", name, number, len(names))
            continue
        log.info("measuring %s (%d of %d)", name, number, len(names))
        if profiler.measure_split(name):
            write_profile(unfinished, profiler.measured())
    if not profiler.splits:
        raise ConfigError("no split point could be measured; the lines above say why")


def _looked_up(config: TrainConfig, splits: Sequence[str]) -> tuple[Sequence[str], float, str]:
    """Return split points from input to output, full batches of an epoch, the machine; or raise."""
    work = Work(replace(config, strategy="full-edge"), find_strategy("full-edge"))
    depths = {name: len(part(work.spec, name).front) for name in splits}  # raises where it is none
    num_images, size = len(work.dataset.train), config.batch_size
    left_over = num_images % size == 1  # is not trained on
    batches = max(1.0, (num_images - left_over) / size)
    machine = machine_of(config)
    return sorted(depths, key=depths.__getitem__) or split_points(work.spec), batches, machine


def machine_of(config: TrainConfig) -> str:
    """Return the edge in words: the machine, the device and how it computes."""
    device = resolve_device(config.device)
    return f"{describe_machine(device)}, {device.type}, {resolve_precision(config.precision, device)}"
