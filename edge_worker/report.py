"""The report of a comparison: JSON and CSV to reckon with, PNG and one HTML page to look at."""

import csv
import io
import json
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import click
from jinja2 import Environment, PackageLoader
from rich.table import Table

from common.console import table_console
from common.durable import write_atomic
from common.units import format_duration, format_size
from edge_worker.charts import draw
from edge_worker.planner import METHOD

FORMAT = 1
# As many times as long as expected, or as short, that something must have been in the way.
FAR_OFF = 1.5

# The table's columns: what they are called, the figure, and how it is written.
COLUMNS: tuple[tuple[str, str, Callable[[Any], str]], ...] = (
    ("epoch", "epoch_s", format_duration),
    ("expected", "predicted_epoch_s", format_duration),
    ("edge busy", "edge_s", format_duration),
    ("link busy", "link_s", format_duration),
    ("cloud busy", "cloud_s", format_duration),
    ("sent", "bytes_up", lambda nbytes: format_size(round(nbytes))),
    ("received", "bytes_down", lambda nbytes: format_size(round(nbytes))),
    ("edge memory", "memory_bytes", format_size),
    ("accuracy", "accuracy", lambda share: f"{share:.2%}"),
    ("exit", "exit_accuracy", lambda share: f"{share:.2%}"),
)


def write_report(out: Path, comparison: dict[str, Any]) -> dict[str, Any]:
    """Write report.json, report.csv, the charts and report.html into `out`; return what the first has.

    Raises:
        CheckpointError: the disk does not take them.
    """
    made = datetime.now(timezone.utc).isoformat(timespec="seconds")
    whole = {"format": FORMAT, "made": made, **comparison}
    write_atomic(out / "report.json", json.dumps(whole, indent=2, default=str).encode() + b"\n")
    write_atomic(out / "report.csv", _csv(whole["cells"]))
    trained = [cell for cell in whole["cells"] if cell["error"] is None]
    charts = draw(trained, heading(whole)) if trained else {}
    for name, (_, png, _) in charts.items():
        write_atomic(out / f"{name}.png", png)
    write_atomic(out / "report.html", _page(whole, charts).encode())
    return whole


def _csv(cells: list[dict[str, Any]]) -> bytes:
    text = io.StringIO()
    names = [name for name in cells[0] if name != "curve"]
    writer = csv.DictWriter(text, names, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(cells)
    return text.getvalue().encode()


def _page(whole: dict[str, Any], charts: dict[str, tuple[str, bytes, str]]) -> str:
    environment = Environment(
        loader=PackageLoader("edge_worker", "."), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("report.html").render(
        whole=whole,
        heading=heading(whole),
        images=[images_of(whole, part) for part in ("train", "test")],
        sentences=[*verdicts(whole), *doubts(whole)],
        columns=COLUMNS,
        charts={name: (title, svg) for name, (title, _, svg) in charts.items()},
        # As it must be inside of a page: nothing in it ends the element.
        data=json.dumps(whole, default=str).replace("<", "\\u003c"),
    )


def heading(whole: dict[str, Any]) -> str:
    """Return what was trained on what, in a few words."""
    return f"{whole['settings'].get('model')} on {whole['settings'].get('dataset')}"


def images_of(whole: dict[str, Any], part: str) -> str:
    """Say how many images of a part of the data set, "train" or "test", were taken."""
    limit = whole["settings"].get(f"{part}_limit")
    return "all" if limit is None else f"{limit:,}"


def doubts(whole: dict[str, Any]) -> list[str]:
    """Say which cells took a far longer or shorter time than expected, and what is to be made of it."""
    far = []
    for cell in whole["cells"]:
        took, expected = cell["epoch_s"], cell["predicted_epoch_s"]
        if took and expected and not 1 / FAR_OFF <= took / expected <= FAR_OFF:
            where = "" if cell["link"] == "no link" else f" at {cell['link']}"
            far.append(f"{cell['label']}{where} ({took / expected:.2g} times as long)")
    if not far:
        return []
    return [
        f"Far from what was expected: {', '.join(far)}. Was a machine busy with other work, now or when it "
        "was profiled? Then profile and compare again. The plan leaves out what edge and cloud "
        "cost each other on one machine."
    ]


def verdicts(whole: dict[str, Any]) -> list[str]:
    """Say how the method's time compares over each link, and where it is not the fastest."""
    found: dict[str, list[dict[str, Any]]] = {}
    for each in whole["against"]:
        found.setdefault(each["link"], []).append(each)
    sentences = []
    for link, others in found.items():
        parts = [_than(each["times"], each["other"]) for each in others]
        faster = [each["other"] for each in others if _share(each["times"]) and each["times"] > 1]
        end = f"; faster here: {', '.join(faster)}" if faster else ""
        sentences.append(f"{link}: an epoch of {METHOD} takes {', '.join(parts)}{end}.")
    return sentences


def _than(times: float, other: str) -> str:
    """Say what share of another's time is saved, as the paper does."""
    share = _share(times)
    if not share:
        return f"as long as {other}"
    return f"{share}% {'less' if times < 1 else 'more'} time than {other}"


def _share(times: float) -> int:
    return round(100 * abs(1 - times))


def print_report(whole: dict[str, Any]) -> None:
    """Print the comparison as a table, and what it comes to."""
    table = Table(title=f"{heading(whole)}, {images_of(whole, 'train')} images: one epoch")
    shown = [each for each in COLUMNS if each[1] in ("epoch_s", "predicted_epoch_s", "bytes_up", "accuracy")]
    for name in ("link", "strategy", "cut", *(name for name, _, _ in shown)):
        table.add_column(name, justify="left" if name in ("link", "strategy", "cut") else "right")
    for cell in whole["cells"]:
        cut = "" if cell["split"] is None else f"{cell['split']}, {cell['bits']} bits"
        texts = ["-" if cell[figure] is None else text(cell[figure]) for _, figure, text in shown]
        table.add_row(cell["link"], cell["label"], cut, *(texts if cell["error"] is None else ["failed"]))
    table_console(piped=100).print(table)
    for sentence in (*verdicts(whole), *doubts(whole)):
        click.echo(sentence)
