"""Measures the parts of one training, one after the other, for `edge-worker profile`."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from common.errors import (
    CloudError,
    ConfigError,
    HeadwaterError,
    NotOwnerError,
    SessionError,
    UnknownCallerError,
)
from common.wire.messages import BackProfile
from edge_worker.apart import apart
from edge_worker.config import TrainConfig, in_json, spool_memory_of
from edge_worker.costs import FASTEST_BPS, ChainCost, Costs, ImagesCost, Link, SplitCost, WholeCost
from edge_worker.planner import CHAIN, METHOD
from edge_worker.profile_call import Asked, on_the_wire
from edge_worker.profile_edge import EdgeCost, measure_edge
from edge_worker.profile_file import Measured, emulated_link, link_of, read_profile

log = logging.getLogger(__name__)

# Of what is measured; a training that differs in it is another one.
SETTINGS = tuple(
    "model stem classifier exit dataset image_size train_limit batch_size epochs precision bits "
    "gradient_bits workers threads seed device data_dir link_rate link_rate_down link_latency".split()
)


class Profiler:
    """Measures one part after the other, and has what came of them.

    Args:
        config: the settings of the training.
        asked_for: the split points that were named.
        names: those that are measured, in their order.
        batches: full ones that an epoch's images make.
        machine: the edge, in words.
        strategies: those that it is for.
    """

    def __init__(
        self,
        config: TrainConfig,
        asked_for: list[str],
        names: Sequence[str],
        batches: float,
        machine: str,
        strategies: list[str],
    ) -> None:
        self._config = config
        self._names = names
        self._asked = Asked(config)
        self._batches = batches
        self._machine = machine
        settings = {name: in_json(getattr(config, name)) for name in SETTINGS}
        self._settings: dict[str, Any] = {**settings, "splits": asked_for, "strategies": strategies}
        self._threads = {"beside a cloud": 0, "alone": 0}
        self._back: BackProfile | None = None  # what the cloud said first
        self._others = 0  # that the cloud served meanwhile
        self._link_found: Link | None = None
        self._found: Measured | None = None  # of an earlier start, on this edge
        self.images: ImagesCost | None = None
        self.splits: dict[str, SplitCost] = {}
        self.whole: WholeCost | None = None

    def check(self) -> None:
        """Raise what every call of the cloud would end with, before minutes are spent on this side."""
        self._asked.check()

    def look_into(self, unfinished: Path) -> None:
        """Take what an earlier start has measured, if it was of the same training on this edge."""
        if not unfinished.exists():
            return
        try:
            found = read_profile(unfinished)
        except ConfigError as error:
            log.warning("measured again: %s", error)
            return
        if found.settings == self._settings and found.edge.startswith(f"{self._machine}, threads"):
            self._found = found
            self.splits = {each.split: each for each in found.costs.splits}

    def knows(self, name: str) -> bool:
        """Tell whether a split point is measured, with this cloud; it has to say first which one it is."""
        return self._back is not None and name in self.splits

    def measure_images(self) -> None:
        """Measure images on their way to the cloud, and the whole network there."""
        log.info("measuring images on their way to the cloud")
        with _left_out("full-cloud"):
            edge = self._apart("full-cloud", "")
            back = self._ask(edge)
            self.images = ImagesCost(
                coding=edge.coding,
                step_s=edge.step_s,
                bytes=edge.widths[0].bytes,
                reference_bytes=edge.reference_bytes,
                cloud_s=back.step_s,
                memory_bytes=edge.memory_bytes,
            )

    def measure_split(self, name: str) -> bool:
        """Measure the network cut at one place, with an exit; with gradients, too, if that is asked for."""
        with _left_out(name):
            edge = self._apart(METHOD, name)
            chained = self._chained(name)
            back = self._ask(chained or edge)  # which tells of a step without a gradient in any case
            self.splits[name] = SplitCost(
                split=name,
                step_s=edge.step_s,
                memory_bytes=edge.memory_bytes,
                bits=self._config.bits,
                widths=edge.widths,
                cloud_s=back.step_s,
                chain=None if chained is None else _chain_cost(chained, back),
            )
            return True
        return False

    def _chained(self, name: str) -> EdgeCost | None:
        if CHAIN in self._settings["strategies"]:
            with _left_out(f"{CHAIN} at {name}"):
                return self._apart(CHAIN, name)
        return None

    def measure_whole(self) -> None:
        """Measure the whole network on the edge."""
        log.info("measuring the whole network here")
        with _left_out("full-edge"):
            alone = self._apart("full-edge", "", "alone")
            self.whole = WholeCost(step_s=alone.step_s, memory_bytes=alone.memory_bytes)

    def measured(self) -> Measured:
        """Return what there is; raises ConfigError where the cloud took nothing."""
        if self._back is None:
            raise ConfigError("nothing could be measured with this cloud; the lines above say why")
        threads = ", ".join(f"{number} {where}" for where, number in self._threads.items() if number)
        return Measured(
            settings=self._settings,
            edge=f"{self._machine}, threads: {threads}",
            cloud=_cloud(self._back),
            address=self._config.cloud,
            link=self._link(self._back),
            costs=Costs(
                batches=self._batches,
                epochs=self._config.epochs,
                spool_memory=spool_memory_of(self._config),
                whole=self.whole,
                images=self.images,
                splits=tuple(self.splits[name] for name in self._names if name in self.splits),
            ),
        )

    def _apart(self, strategy: str, split: str, where: str = "beside a cloud") -> EdgeCost:
        """Measure in a process of its own."""
        config = replace(self._config, strategy=strategy, images="resend", spool_full="wait")
        cost = apart(measure_edge, replace(config, split=split or config.split))
        self._threads[where] = cost.threads
        return cost

    def _ask(self, edge: EdgeCost) -> BackProfile:
        back = self._asked.ask(edge.run, edge.records)
        if back.others > self._others:
            self._others = back.others
            log.warning(
                "the cloud served others meanwhile, %d at once: the times that it tells are too long; "
                "measure again when it has nothing else to do",
                back.others,
            )
        if self._back is None:
            self._back = back
            if self._found is not None and self._found.cloud != _cloud(back):
                self.splits = {}  # of another cloud
        return back

    def _link(self, back: BackProfile) -> Link:
        """Return the link as it is emulated, or else as measured, once."""
        if self._link_found is None:
            told = self._config
            emulated = emulated_link(told.link_rate, told.link_rate_down, told.link_latency)
            self._link_found = emulated or self._measured_link(back)
        return self._link_found

    def _measured_link(self, back: BackProfile) -> Link:
        """Return the link that there is; what the flags tell is not measured."""
        if not back.receive_s or not back.received_bytes:
            raise ConfigError("the batches were too few to measure the link with; give --link-rate")
        told = self._config
        # First: what comes down for the other may still be on its way.
        latency_s = self._asked.latency_s() if told.link_latency is None else 0.0
        down_bps = self._asked.down_bps() if told.link_rate_down is None else FASTEST_BPS
        up_bps = 8 * back.received_bytes / back.receive_s
        measured = Link(
            up_bps=min(FASTEST_BPS, up_bps), down_bps=min(FASTEST_BPS, down_bps), latency_s=latency_s
        )
        return link_of(measured, None, told.link_rate_down, told.link_latency)


@contextmanager
def _left_out(what: str) -> Iterator[None]:
    """Say that something cannot be measured, and go on, unless others would fare no better."""
    try:
        yield
    except (CloudError, NotOwnerError, SessionError, UnknownCallerError):
        raise
    except HeadwaterError as error:
        log.warning("%s is left out: %s", what, error)


def _chain_cost(edge: EdgeCost, back: BackProfile) -> ChainCost:
    return ChainCost(
        forward_s=edge.forward_s,
        learn_s=edge.learn_s,
        memory_bytes=edge.memory_bytes,
        cloud_s=back.gradient_step_s,
        gradient_bytes=on_the_wire(back.gradient_bytes),
    )


def _cloud(back: BackProfile) -> str:
    return f"{back.machine}, {back.device}, threads: {back.threads}"
