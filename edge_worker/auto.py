"""`--split auto` and `--bits auto`: the plan's choice for the strategy that a run is trained with.

RUN_DIR/profile.json    what was measured for it, unless --profile names a file; .unfinished behind its name
                        until it is whole
RUN_DIR/plan.json       the choice, and what it was expected to take
"""

import json
import logging
import os
from collections.abc import Collection, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch

from common.durable import make_directory, write_atomic
from common.errors import ConfigError
from common.rundir import lock_run_dir
from common.strategies import STRATEGIES, find_strategy
from common.units import format_duration, format_rate, format_size
from edge_worker.apart import apart
from edge_worker.config import AUTO, AUTO_BITS, TrainConfig, in_json, spool_memory_of
from edge_worker.costs import Link
from edge_worker.planner import Plan, best_of, none_fits, rank, verdict
from edge_worker.profile import machine_of, parts_of, profile
from edge_worker.profile_file import Measured, emulated_link, link_of, read_profile

log = logging.getLogger(__name__)

# What a profile must have in common with the run that is planned by it.
SAME = (
    "model stem classifier exit dataset image_size train_limit batch_size precision gradient_bits "
    "workers threads device"
).split()
# And that of an earlier start, with the same command.
LINK = ("link_rate", "link_rate_down", "link_latency")


def is_open(config: TrainConfig) -> bool:
    """Tell whether a choice is left to the plan."""
    return config.split == AUTO or config.bits == AUTO_BITS


def settle_choice(config: TrainConfig, path: Path | None, edge_memory: int | None = None) -> TrainConfig:
    """Return the settings with the plan's choice in place of each `auto`, and record it in the run directory.

    Args:
        config: of a new run.
        path: what `edge-worker profile` wrote; None to measure now.
        edge_memory: bytes that the choice may take on the edge; None for any.

    Raises:
        ConfigError: the strategy has no split point, nothing fits, or the profile is of another training or
            lacks it.
        HeadwaterError: measuring failed.
    """
    if not is_open(config):
        check_unused("--profile", path)
        check_unused("--edge-memory", edge_memory)
        return config
    check_has_choice(config)
    lock = lock_run_dir(config.run_dir)  # measuring takes minutes
    try:
        return _choose_and_keep(config, path, edge_memory)
    finally:
        os.close(lock)


def _choose_and_keep(config: TrainConfig, path: Path | None, edge_memory: int | None) -> TrainConfig:
    measured = _measured(config, path)
    link = link_for(config, measured)
    choice = choose(config, measured, link, edge_memory)
    everything = verdict(rank(measured.costs, link, edge_memory))
    log.info(
        "the plan's choice at %s: %s, an epoch in %s, held up by the %s",
        *(format_rate(link.up_bps), choice.name, format_duration(choice.epoch_s), choice.bottleneck),
    )
    log.info("of all strategies: %s", everything)
    document = {"choice": asdict(choice), "link": asdict(link), "verdict": everything}
    write_atomic(config.run_dir / "plan.json", json.dumps(document, indent=2).encode() + b"\n")
    return with_choice(config, choice)


def link_for(config: TrainConfig, measured: Measured) -> Link:
    """Return the link of a run: the emulated one, or the profile's with what else is told of it."""
    told = config.link_rate, config.link_rate_down, config.link_latency
    return emulated_link(*told) or link_of(measured.link, *told)


def check_unused(flag: str, value: object) -> None:
    """Raise ConfigError where a flag that a choice needs is given, though none is open."""
    if value is not None:
        raise ConfigError(f"{flag} is for --split auto or --bits auto; leave it out")


def check_fits(plan: Plan, edge_memory: int | None) -> None:
    """Raise ConfigError where a choice takes more than so many bytes on the edge."""
    if edge_memory is not None and plan.memory_bytes > edge_memory:
        raise ConfigError(
            f"it takes {format_size(plan.memory_bytes)} on the edge by the plan, more than --edge-memory "
            f"{format_size(edge_memory)}"
        )


def check_has_choice(config: TrainConfig) -> None:
    """Raise ConfigError where the strategy cuts the network nowhere, so that there is nothing to choose."""
    if find_strategy(config.strategy).cut == "split":
        return
    flags = [name for name, is_auto in (("--split", config.split == AUTO), ("--bits", True)) if is_auto]
    cutting = " or ".join(each.name for each in STRATEGIES.values() if each.cut == "split")
    raise ConfigError(
        f"{flags[0]} auto needs a strategy that cuts the network, {cutting}; got {config.strategy}"
    )


def choose(config: TrainConfig, measured: Measured, link: Link, edge_memory: int | None = None) -> Plan:
    """Return the fastest split point and width of the strategy, among those that are left open.

    Raises:
        ConfigError: the profile lacks the split point, or the width, that is not open; or nothing that it has
            fits into `edge_memory` bytes.
    """
    of_it = [each for each in rank(measured.costs, link) if each.strategy == config.strategy]
    if not of_it:
        raise ConfigError(
            f"the profile has no split point of {config.strategy}: it was measured for others, or all were "
            f"left out; measure again with edge-worker profile --strategies {config.strategy}"
        )
    known = [
        each for each in of_it if config.split in (AUTO, each.split) and config.bits in (AUTO_BITS, each.bits)
    ]
    if not known:
        places = dict.fromkeys(each.split for each in measured.costs.splits)
        widths = sorted({each.bits or 0 for each in of_it})
        raise ConfigError(
            f"the profile has no --split {config.split} with --bits {config.bits or AUTO}; it has "
            f"{', '.join(places)} with {', '.join(map(str, widths))} bits"
        )
    fitting = [each for each in known if edge_memory is None or each.memory_bytes <= edge_memory]
    if not fitting:
        raise ConfigError(none_fits(known, edge_memory or 0))
    return best_of(fitting)


def with_choice(config: TrainConfig, choice: Plan) -> TrainConfig:
    """Return the settings with this choice."""
    return replace(config, split=choice.split or config.split, bits=choice.bits or config.bits)


def check_same(config: TrainConfig, measured: Measured, path: Path, names: Sequence[str] = SAME) -> None:
    """Raise ConfigError where a profile is of another training."""
    if config.dataset == "imagefolder":  # any images; the other sets are what they are called
        names = (*names, "data_dir")
    for name in names:
        here, there = in_json(getattr(config, name)), measured.settings.get(name)
        if here != there:
            raise ConfigError(
                f"the profile {path} was measured with --{name.replace('_', '-')} {there}, got {here}; "
                "measure again with edge-worker profile"
            )


def _measured(config: TrainConfig, path: Path | None) -> Measured:
    """Return a profile of this training: the one that is named, one of an earlier start, or a new one."""
    if path is None:
        return measured_in(config.run_dir / "profile.json", config)
    return measured_before(path, config)


def measured_before(path: Path, config: TrainConfig) -> Measured:
    """Return the profile that a user names.

    Raises:
        ConfigError: there is none, it is of another training, or its link was emulated and the run's is not.
    """
    measured = read_profile(path)
    check_same(config, measured, path)
    _warn_of_others(config, measured, path)
    for name in LINK if config.link_rate is None else ():
        if getattr(config, name) is None and measured.settings.get(name) is not None:
            flag = f"--{name.replace('_', '-')}"
            raise ConfigError(
                f"the profile {path} was measured with an emulated link; give {flag} here, too, or measure "
                "again without it"
            )
    return _for_epochs(config, measured)


def measured_in(path: Path, config: TrainConfig, strategies: Collection[str] = STRATEGIES) -> Measured:
    """Return the profile of an earlier start where it has what is asked for, else measure and keep it."""
    splits = [] if config.split == AUTO else [config.split]
    if path.exists():
        try:
            measured = read_profile(path)
            check_same(config, measured, path, (*SAME, *LINK))
            had = measured.settings.get("strategies", STRATEGIES)
            has_places = not parts_of(strategies)[0] or _covers(measured, config, splits)
            if set(strategies) <= set(had) and has_places:
                _warn_of_others(config, measured, path)
                return _for_epochs(config, measured)
            strategies = {*strategies, *had}  # nothing that was known is lost
        except ConfigError as error:
            log.warning("measured again: %s", error)
    make_directory(path.parent)
    # Where nothing is cut, a split point may be one by default that the network does not have.
    return profile(config, splits if parts_of(strategies)[0] else [], path, strategies)


def _warn_of_others(config: TrainConfig, measured: Measured, path: Path) -> None:
    """Say where a profile is of other machines: nothing else tells that its times are not those of these."""
    on_gpu = config.device != "cpu" and torch.cuda.is_available()  # whose memory this process is not to take
    here = apart(machine_of, config) if on_gpu else machine_of(config)
    pairs = []
    if not measured.edge.startswith(f"{here}, threads"):
        pairs.append((f"on {measured.edge}", f"on {here}"))
    if measured.address not in ("", config.cloud):
        pairs.append((f"with the cloud at {measured.address}", f"with {config.cloud}"))
    for there, this in pairs:
        log.warning(
            "the profile %s was measured %s, and not %s; delete it and measure again if they differ",
            *(path, there, this),
        )


def _covers(measured: Measured, config: TrainConfig, splits: Sequence[str]) -> bool:
    """Tell whether a profile was to have these places, none for all, and has the width."""
    had = measured.settings.get("splits")
    places = not had or (splits and set(splits) <= set(had))
    return bool(places) and all(config.bits in (AUTO_BITS, *each.widths) for each in measured.costs.splits)


def _for_epochs(config: TrainConfig, measured: Measured) -> Measured:
    """Return a profile as it is for as many epochs as the run has, and as much memory for its records."""
    costs = replace(measured.costs, epochs=config.epochs, spool_memory=spool_memory_of(config))
    return replace(measured, costs=costs)
