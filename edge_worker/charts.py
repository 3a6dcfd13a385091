"""The charts of a comparison, drawn with matplotlib without a display."""

import itertools
from collections.abc import Callable, Iterable, Sequence
from io import BytesIO
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

# One colour for each strategy, told apart also by those who do not see red or green (after Okabe and Ito).
COLOURS = {
    "hierarchical": "#0072b2",
    "split-learning": "#e69f00",
    "full-cloud (resend)": "#cc79a7",
    "full-cloud (once)": "#56b4e9",
    "full-edge": "#7f7f7f",
}
PARTS = {"edge_s": ("edge", "#009e73"), "link_s": ("link", "#d55e00"), "cloud_s": ("cloud", "#0072b2")}
WAYS = {"bytes_up": ("sent", "#d55e00"), "bytes_down": ("received", "#f0b27a")}
# One for each link.
LINES: tuple[Any, ...] = (
    "-",
    "--",
    ":",
    "-.",
    (0, (5, 1, 1, 1, 1, 1)),
    (0, (8, 3)),
    (0, (1, 4)),
    (0, (3, 4)),
)
MiB = float(1 << 20)
LABEL = 0.15  # of an axis, what is written at a bar's end takes
LEAST_SPAN = 10.0  # of an axis of accuracies, per cent: one drawn closer shows noise
STYLE: dict[Any, Any] = {
    "font.size": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e3e3e3",
    "svg.fonttype": "none",  # text stays text
    "font.family": "sans-serif",
}
# None but the drawing: no date, no maker's address.
NO_METADATA = dict.fromkeys(("Date", "Creator", "Format", "Type"))

Rows = Sequence[dict[str, Any]]


def draw(cells: Rows, heading: str) -> dict[str, tuple[str, bytes, str]]:
    """Return each chart by its name: what it shows, as PNG, and as SVG.

    Args:
        cells: those of the JSON report that were trained.
        heading: what they trained; a PNG says it, as it may stand alone.
    """
    charts: dict[str, tuple[str, Callable[[Axes, Rows], None]]] = {
        "epoch-time": ("Time of an epoch; the diamond: as planned", _epoch_times),
        "busy": (
            "Busy in an epoch; the longest sets the pace",
            _stacked(PARTS, "seconds, one after the other; they overlap but in split-learning", 1.0),
        ),
        "accuracy-time": ("Accuracy by training time", _curves("train_s", "seconds of training", 1.0)),
        "accuracy-bytes": (
            "Accuracy by what was sent",
            _curves("bytes_up", "MiB sent", MiB),
        ),
        "bytes": ("Sent and received in an epoch", _stacked(WAYS, "MiB", MiB)),
        "memory": ("Peak memory of the edge", _bars("memory_bytes", "MiB", MiB)),
    }
    return {
        name: (title, *_rendered(name, f"{heading}: {title[0].lower()}{title[1:]}", function, cells))
        for name, (title, function) in charts.items()
    }


def _rendered(
    name: str, title: str, function: Callable[[Axes, Rows], None], cells: Rows
) -> tuple[bytes, str]:
    # Ids in a drawing come of the salt: several of them share a page.
    with mpl.rc_context({**STYLE, "svg.hashsalt": name}):
        bars = not name.startswith("accuracy")
        figure = Figure(figsize=(6.4, 1.3 + 0.3 * len(cells) if bars else 4.2), layout="constrained")
        FigureCanvasAgg(figure)
        function(figure.add_subplot(), cells)
        png, svg = BytesIO(), BytesIO()
        figure.savefig(svg, format="svg", transparent=True, metadata=NO_METADATA)
        figure.suptitle(title, fontsize=10)  # the page has it beside the drawing
        figure.savefig(png, format="png", dpi=150)
    text = svg.getvalue().decode()
    return png.getvalue(), text[text.index("<svg") :]


def _places(axes: Axes, cells: Rows) -> list[float]:
    """Put the cells one below the other, those of one link together; return where."""
    places, names, place, link = [], [], 0.0, None
    for cell in cells:
        if link is not None and cell["link"] != link:
            place += 0.6
        link = cell["link"]
        places.append(place)
        place += 1.0
        where = "" if cell["link"] == "no link" else f" · {cell['link']}"
        names.append(cell["label"] + where)
    axes.set_yticks(places, names)
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    return places


def _epoch_times(axes: Axes, cells: Rows) -> None:
    places = _places(axes, cells)
    axes.barh(places, [cell["epoch_s"] for cell in cells], color=_colours(cells))
    ends = []
    longest = max(max(cell["epoch_s"], cell["predicted_epoch_s"] or 0.0) for cell in cells)
    for place, cell in zip(places, cells, strict=True):
        end, expected = cell["epoch_s"], cell["predicted_epoch_s"]
        if expected is not None:
            axes.plot(expected, place, marker="D", markersize=5, color="black", markeredgecolor="white")
            if end < expected < end + LABEL * longest:  # it would stand on what is written there
                end = expected
        ends.append(end)
    _label(axes, places, ends, [f"{_short(cell['epoch_s'])} s" for cell in cells])
    axes.set_xlabel("seconds")


def _stacked(parts: dict[str, tuple[str, str]], unit: str, per: float) -> Callable[[Axes, Rows], None]:
    def draw_stacks(axes: Axes, cells: Rows) -> None:
        places = _places(axes, cells)
        left = [0.0] * len(cells)
        for part, (name, colour) in parts.items():
            widths = [cell[part] / per for cell in cells]
            axes.barh(places, widths, left=left, color=colour, label=name)
            left = [start + width for start, width in zip(left, widths, strict=True)]
        axes.set_xlim(0, 1.05 * max(left) or 1.0)
        axes.set_xlabel(unit)
        axes.figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=8.5)

    return draw_stacks


def _bars(figure: str, unit: str, per: float) -> Callable[[Axes, Rows], None]:
    def draw_bars(axes: Axes, cells: Rows) -> None:
        values = [cell[figure] / per for cell in cells]
        places = _places(axes, cells)
        axes.barh(places, values, color=_colours(cells))
        _label(axes, places, values, [f"{_short(value)} {unit}" if value else "nothing" for value in values])
        axes.set_xlabel(unit)

    return draw_bars


def _label(axes: Axes, places: Sequence[float], ends: Sequence[float], texts: Sequence[str]) -> None:
    """Write beside each bar what it says."""
    for place, end, text in zip(places, ends, texts, strict=True):
        axes.annotate(text, (end, place), xytext=(6, 0), textcoords="offset points", va="center")
    axes.set_xlim(0, 1.22 * axes.dataLim.x1 or 1.0)


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _curves(over: str, unit: str, per: float) -> Callable[[Axes, Rows], None]:
    def draw_curves(axes: Axes, cells: Rows) -> None:
        # Some send nothing.
        shown = [cell for cell in cells if over != "bytes_up" or cell["bytes_up"]]
        lines = dict(zip(dict.fromkeys(cell["link"] for cell in shown), itertools.cycle(LINES), strict=False))
        for cell in shown:
            axes.plot(
                [point[over] / per for point in cell["curve"]],
                [100 * point["accuracy"] for point in cell["curve"]],
                marker="o",
                markersize=3.5,
                color=_colour(cell["label"]),
                linestyle=lines[cell["link"]],
            )
        axes.set_xlim(left=0)
        low, high = axes.get_ylim()
        if high - low < LEAST_SPAN:
            low = max(0.0, (low + high - LEAST_SPAN) / 2)
            axes.set_ylim(low, low + LEAST_SPAN)
        axes.set_xlabel(unit)
        axes.set_ylabel("accuracy, %")
        _legend(axes, dict.fromkeys(cell["label"] for cell in shown), lines)

    return draw_curves


def _legend(axes: Axes, labels: Iterable[str], lines: dict[str, Any]) -> None:
    """Say below the axes which colour is which strategy, and which line which link."""
    handles = [Line2D([], [], color=_colour(label), linewidth=3, label=label) for label in labels]
    handles += [Line2D([], [], color="black", linestyle=line, label=link) for link, line in lines.items()]
    axes.figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False, fontsize=8.5)


def _colour(label: str) -> str:
    return COLOURS.get(label, "#333333")


def _colours(cells: Rows) -> list[str]:
    return [_colour(cell["label"]) for cell in cells]
