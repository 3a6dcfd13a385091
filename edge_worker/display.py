"""What the user sees: while a run goes on a live panel, or plain lines off a terminal; then the table."""

import sys
import threading
import time
from types import TracebackType
from typing import Any

import click
from rich.console import Console
from rich.live import Live
from rich.table import Table

from common.strategies import find_strategy
from common.units import format_duration, format_rate, format_size
from edge_worker.config import TrainConfig
from edge_worker.counters import Counters
from edge_worker.loop import Plan
from edge_worker.outbox import Outbox

PLAIN_EVERY_S = 10.0


class Display:
    """Shows the run's progress on stderr; fed by the run log, from several threads."""

    def __init__(self, config: TrainConfig, plan: Plan, counters: Counters, outbox: Outbox) -> None:
        self._config = config
        self._plan = plan
        self._counters = counters
        self._outbox = outbox
        self._console = Console(stderr=True)
        self._live: Live | None = None
        self._lock = threading.Lock()
        self._losses: dict[str, float] = {}
        self._accuracies: dict[str, float] = {}
        self._done = {"edge": 0, "cloud": 0}
        self._started_at = self._told_at = self._stepped_at = time.monotonic()
        self._first = 0
        # Where the cloud stood when it was first heard of in this life, and when that was.
        self._cloud_from: tuple[int, float] | None = None
        self._bytes_at_start = 0

    def __enter__(self) -> "Display":
        if self._console.is_terminal:
            self._live = Live(
                console=self._console, get_renderable=self._panel, refresh_per_second=4, transient=True
            )
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def start(self, first: int, applied: int, accuracies: dict[str, float]) -> None:
        """The first step comes next.

        Args:
            first: as many batches has the edge behind it.
            applied: as many has the cloud, as far as is known.
            accuracies: what earlier lives came to, by side.
        """
        self._first = first
        self._done = {"edge": first, "cloud": applied}
        self._accuracies.update(accuracies)
        self._started_at = self._told_at = self._stepped_at = time.monotonic()
        self._bytes_at_start = self._counters.totals().bytes_up

    def heard(self, applied: int) -> None:
        """Take from the cloud how many batches it has applied."""
        with self._lock:
            applied = min(applied, self._plan.total_batches)
            self._done["cloud"] = applied
            if self._cloud_from is None:
                self._cloud_from = applied, time.monotonic()

    def event(self, event: dict[str, Any]) -> None:
        """Take one line of the run log."""
        with self._lock:
            if event["kind"] == "eval":
                self._accuracies[event["side"]] = event["accuracy"]
                self._say(f"epoch {event['epoch']}: accuracy {event['accuracy']:.1%} ({event['side']})")
                return
            side = event["kind"]
            if side == "edge":
                self._done[side] = event["seq"] + 1
            if event["loss"] is not None:
                before = self._losses.get(side, event["loss"])
                self._losses[side] = 0.9 * before + 0.1 * event["loss"]
            now = time.monotonic()
            if side == "edge":
                self._stepped_at = now
            if now - self._told_at >= PLAIN_EVERY_S:
                self._told_at = now
                self._say(self._line(now))

    def drain(self) -> None:
        """The edge is done; what is left is the link's and the cloud's."""
        waiting = self._outbox.waiting_bytes
        if waiting:
            self._say(f"the edge is done; the cloud has yet to apply and save {format_size(waiting)}")

    def _say(self, line: str) -> None:
        if self._live is None:
            click.echo(line, err=True)

    def _progress(self, now: float) -> dict[str, str]:
        done, total = self._done["edge"], self._plan.total_batches
        epoch = min(done // self._plan.batches_per_epoch + 1, self._config.epochs)
        elapsed = max(now - self._started_at, 1e-9)
        rate = (done - self._first) / max(self._stepped_at - self._started_at, 1e-9)
        totals = self._counters.totals()
        used = 8 * (totals.bytes_up - self._bytes_at_start) / elapsed
        left = self._left(now)
        shown = {
            "epoch": f"{epoch}/{self._config.epochs}",
            "batch": f"{done}/{total}",
            "images/s": f"{rate * self._config.batch_size:.0f}" if done > self._first else "-",
            "loss edge": f"{self._losses['edge']:.3f}" if "edge" in self._losses else "-",
        }
        if self._cloud_from is not None:
            shown["loss cloud"] = f"{self._losses['cloud']:.3f}" if "cloud" in self._losses else "-"
            of = f" of {format_rate(self._config.link_rate)}" if self._config.link_rate else ""
            shown["link"] = format_rate(used) + of
            shown["sent"] = format_size(totals.bytes_up)
            shown["not yet saved"] = format_size(self._outbox.waiting_bytes)
        shown["left"] = "?" if left is None else format_duration(left)
        return shown

    def _left(self, now: float) -> float | None:
        """Return the seconds that the slower side needs, at its pace in this life; None before it has one."""
        total, starts = self._plan.total_batches, {"edge": (self._first, self._started_at)}
        if self._outbox.waiting_bytes:
            if self._cloud_from is None:
                return None
            starts["cloud"] = self._cloud_from
        left = 0.0
        for side, (first, since) in starts.items():
            done = self._done[side]
            if done < total:
                if done <= first or now <= since:
                    return None
                left = max(left, (total - done) * (now - since) / (done - first))
        return left

    def _line(self, now: float) -> str:
        return "  ".join(f"{name} {value}" for name, value in self._progress(now).items())

    def _panel(self) -> Table:
        table = Table.grid(padding=(0, 2))
        with self._lock:
            for name, value in self._progress(time.monotonic()).items():
                table.add_row(name, value)
            for side, accuracy in self._accuracies.items():
                table.add_row(f"accuracy {side}", f"{accuracy:.1%}")
        return table


def print_summary(summary: dict[str, Any]) -> None:
    """Print a finished run's table on stdout."""
    table = Table(title=f"{summary['model']} on {summary['dataset']}, {summary['strategy']}")
    table.add_column("figure")
    table.add_column("value", justify="right")
    for name, value in _rows(summary):
        table.add_row(name, value)
    # A pipe has no width: wide enough for any row.
    Console(file=sys.stdout, width=None if sys.stdout.isatty() else 80).print(table)
    exit_, whole = summary["edge_accuracy"], summary["cloud_accuracy"]
    if exit_ is not None and whole is not None and whole < exit_ + 0.01:
        click.echo(
            "The whole network is not a point better than the exit: in this run the back added little."
        )


def _rows(summary: dict[str, Any]) -> list[tuple[str, str]]:
    s = summary

    def percent(value: float | None) -> str:
        return "-" if value is None else f"{value:.2%}"

    rows = [("epochs, batches, images", f"{s['epochs']}, {s['batches']}, {s['samples']}")]
    strategy = find_strategy(s["strategy"])
    if not strategy.uses_cloud:
        rows.append(("accuracy", percent(s["edge_accuracy"])))
    elif strategy.sends_images:
        again = "in each epoch" if s["images"] == "resend" else "once"
        rows += [("images sent", again), ("accuracy", percent(s["cloud_accuracy"]))]
    elif strategy.gradient:
        bits = f"{s['split']}, {s['bits']}, {s['gradient_bits']}"
        rows += [("split, bits up, bits down", bits), ("accuracy", percent(s["cloud_accuracy"]))]
    else:
        rows += [
            ("split, bits", f"{s['split']}, {s['bits']}"),
            ("accuracy of the exit (edge)", percent(s["edge_accuracy"])),
            ("accuracy of the whole (cloud)", percent(s["cloud_accuracy"])),
        ]
    rows += [
        ("training time", format_duration(s["train_wall_s"])),
        ("edge busy", format_duration(s["edge_busy_s"])),
    ]
    if strategy.uses_cloud:
        rows += [
            ("link busy", format_duration(s["link_busy_s"])),
            ("cloud busy", format_duration(s["cloud_busy_s"])),
            ("sent for training", format_size(s["bytes_up"])),
            ("sent for evaluation", format_size(s["eval_bytes_up"])),
            ("received", format_size(s["bytes_down"])),
        ]
    if s["link_rate_bps"]:
        rows.append(
            ("link rate, share used", f"{format_rate(s['link_rate_bps'])}, {s['link_utilisation']:.0%}")
        )
    rows.append(("peak memory of the edge", format_size(s["edge_peak_rss_bytes"])))
    if s["cloud_peak_rss_bytes"]:
        rows.append(("peak memory of the cloud (its whole process)", format_size(s["cloud_peak_rss_bytes"])))
    if s["batches_skipped"]:
        rows.append(("batches given up", str(s["batches_skipped"])))
    if s["resumes"]:
        rows.append(("resumed", "1 time" if s["resumes"] == 1 else f"{s['resumes']} times"))
    return rows
