"""What a comparison is made of: its cells, what each was expected to take, and what it took."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from common.errors import CheckpointError
from common.strategies import find_strategy
from common.units import Rate
from edge_worker.planner import METHOD, Plan
from edge_worker.rundir import RunDir


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One training of a comparison.

    Attributes:
        strategy: its name.
        images: "resend" or "once" where images go up, else None.
        rate: of the uplink, bit/s; None where there is none, or where it is not emulated.
        split, bits: None where the strategy has none.
    """

    strategy: str
    images: str | None = None
    rate: Rate | None = None
    split: str | None = None
    bits: int | None = None

    @property
    def link(self) -> str:
        """The link in a word."""
        if not find_strategy(self.strategy).uses_cloud:
            return "no link"
        return "link as it is" if self.rate is None else str(self.rate)

    @property
    def label(self) -> str:
        """The strategy in words."""
        return self.strategy if self.images is None else f"{self.strategy} ({self.images})"

    @property
    def name(self) -> str:
        """A name for its directory, which tells it from all others of a comparison."""
        parts = (self.link.replace(" ", "-"), self.strategy, self.images)
        return "-".join(part for part in parts if part is not None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """An epoch, expected or measured.

    Attributes:
        epoch_s: seconds.
        edge_s, link_s, cloud_s: seconds in which each is busy; of the link, those of both directions.
        bytes_up: that go up.
        bytes_down: that come down.
        memory_bytes: the edge's peak.
    """

    epoch_s: float
    edge_s: float
    link_s: float
    cloud_s: float
    bytes_up: float
    bytes_down: float
    memory_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """Where a run stood at an epoch's end: seconds of training and bytes sent so far; accuracy in 0..1."""

    epoch: int
    train_s: float
    bytes_up: float
    accuracy: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What a cell came to.

    Attributes:
        cell: what was trained.
        predicted: by the plan; None where it could not be.
        measured: None where the training failed, or is still to come.
        accuracy: of what is trained, over the test set, in 0..1.
        exit_accuracy: of the early exit, where there is one.
        resumes: how often it was interrupted.
        curve: one point for each epoch.
        error: why it failed.
    """

    cell: Cell
    predicted: Figures | None
    measured: Figures | None = None
    accuracy: float | None = None
    exit_accuracy: float | None = None
    resumes: int | None = None
    curve: tuple[Point, ...] = ()
    error: str | None = None


def expected(plan: Plan) -> Figures:
    """Return what a plan says."""
    return Figures(
        epoch_s=plan.epoch_s,
        edge_s=plan.edge_s,
        link_s=plan.link_s,
        cloud_s=plan.cloud_s,
        bytes_up=plan.bytes_up,
        bytes_down=plan.bytes_down,
        memory_bytes=plan.memory_bytes,
    )


def result_of(cell: Cell, predicted: Figures | None, run_dir: RunDir) -> Result:
    """Return what a finished run came to, by its summary and its metrics.

    Raises:
        CheckpointError: either is damaged.
    """
    summary = run_dir.summary()
    assert summary is not None  # it is finished
    try:
        return _result(cell, predicted, summary, run_dir.metrics_file)
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise CheckpointError(
            f"{run_dir.summary_file} or {run_dir.metrics_file.name} beside it is damaged: {error!r}"
        ) from error


def _result(cell: Cell, predicted: Figures | None, summary: dict[str, Any], metrics: Path) -> Result:
    epochs = summary["epochs"]
    side = "cloud" if find_strategy(cell.strategy).uses_cloud else "edge"
    return Result(
        cell=cell,
        predicted=predicted,
        measured=Figures(
            epoch_s=summary["train_wall_s"] / epochs,
            edge_s=summary["edge_busy_s"] / epochs,
            link_s=((summary["link_busy_s"] or 0.0) + (summary.get("link_down_busy_s") or 0.0)) / epochs,
            cloud_s=(summary["cloud_busy_s"] or 0.0) / epochs,
            bytes_up=summary["bytes_up"] / epochs,
            bytes_down=summary["bytes_down"] / epochs,
            memory_bytes=summary["edge_peak_rss_bytes"],
        ),
        accuracy=summary[f"{side}_accuracy"],
        exit_accuracy=summary["edge_accuracy"] if side == "cloud" else None,
        resumes=summary["resumes"],
        curve=tuple(_curve(summary, metrics, side)),
    )


def _curve(summary: dict[str, Any], metrics: Path, side: str) -> Iterator[Point]:
    seconds = summary["epoch_train_s"]
    nbytes = summary["epoch_bytes_up"] or [0] * len(seconds)  # without a cloud
    found: dict[int, float] = {}
    for line in metrics.read_text().splitlines():
        event = json.loads(line)
        if event["kind"] == "eval" and event["side"] == side:
            found[event["epoch"]] = event["accuracy"]
    for epoch, accuracy in sorted(found.items()):
        yield Point(epoch=epoch, train_s=seconds[epoch - 1], bytes_up=nbytes[epoch - 1], accuracy=accuracy)


def against(results: Sequence[Result]) -> list[dict[str, Any]]:
    """Return the method's time as a multiple of each other strategy's, over the same link."""
    found = []
    for method in results:
        if method.cell.strategy != METHOD or method.measured is None:
            continue
        for other in results:
            same_link = other.cell.link in (method.cell.link, "no link")
            if other.cell.strategy == METHOD or other.measured is None or not same_link:
                continue
            times = method.measured.epoch_s / other.measured.epoch_s
            found.append({"link": method.cell.link, "other": other.cell.label, "times": times})
    return found


def rows(results: Sequence[Result]) -> list[dict[str, Any]]:
    """Return one flat object for each cell, as the table and the CSV file have it."""
    return [_row(result) for result in results]


def _row(result: Result) -> dict[str, Any]:
    cell = result.cell
    row: dict[str, Any] = {
        "link": cell.link,
        "label": cell.label,
        "strategy": cell.strategy,
        "images": cell.images,
        "split": cell.split,
        "bits": cell.bits,
        "link_rate_bps": None if cell.rate is None else float(cell.rate),
    }
    for name in Figures.__slots__:
        for kind, figures in (("", result.measured), ("predicted_", result.predicted)):
            row[kind + name] = None if figures is None else getattr(figures, name)
    row["accuracy"], row["exit_accuracy"] = result.accuracy, result.exit_accuracy
    row["resumes"], row["error"] = result.resumes, result.error
    return row


def document(results: Sequence[Result], about: dict[str, Any]) -> dict[str, Any]:
    """Return the whole comparison as JSON holds it."""
    return {
        **about,
        "cells": [
            {**row, "curve": [asdict(point) for point in result.curve]}
            for row, result in zip(rows(results), results, strict=True)
        ],
        "against": against(results),
    }
