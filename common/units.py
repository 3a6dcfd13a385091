"""Rates, sizes and times as people write them: "10mbit", "64MiB", "40ms". A bare number is refused.

Bit rates count in thousands (1 kbit = 1000 bit), as links do. Sizes count in either: kB is 1000, KiB 1024.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

import click

from common.errors import ConfigError
from common.variables import named

RATE_UNITS = {"bit": 1, "kbit": 10**3, "mbit": 10**6, "gbit": 10**9}
SIZE_UNITS = {
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "tb": 10**12,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
    "tib": 2**40,
}
DURATION_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0}

# No exponent, sign, nan or inf; few enough digits for every product to be finite.
_NUMBER = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,15})?|\.[0-9]{1,15})\s*([a-z]+)")


@dataclass(frozen=True, slots=True)
class Preset:
    """A kind of link. The numbers are ours: round, and of the order that such links have.

    Attributes:
        name: what the user writes.
        rate_up_bps: from edge to cloud, bits per second.
        rate_down_bps: from cloud to edge, bits per second.
        latency_s: one-way, in each direction, seconds.
    """

    name: str
    rate_up_bps: float
    rate_down_bps: float
    latency_s: float

    def __str__(self) -> str:
        up, down = format_rate(self.rate_up_bps), format_rate(self.rate_down_bps)
        return f"{self.name}: {up} up, {down} down, {format_duration(self.latency_s)}"


class Rate(float):
    """Bits per second; remembers the preset that it was written as, if any."""

    preset: Preset | None

    def __new__(cls, bps: float, preset: Preset | None = None) -> "Rate":  # noqa: D102  # the class says it
        rate = super().__new__(cls, bps)
        rate.preset = preset
        return rate

    def __reduce__(self) -> tuple[type["Rate"], tuple[float, Preset | None]]:
        return Rate, (float(self), self.preset)

    def __str__(self) -> str:
        return self.preset.name if self.preset else format_rate(self)


@dataclass(frozen=True, slots=True)
class Link:
    """What a link is to be: rates in bits per second, None for no limit; one-way latency in seconds."""

    rate_up_bps: float | None
    rate_down_bps: float | None
    latency_s: float


def resolve_link(rate_up: float | None, rate_down: float | None, latency_s: float | None) -> Link:
    """Put the three link flags together; a preset as `rate_up` sets what is not given.

    Args:
        rate_up: bits per second, or a preset's `Rate`; None for no limit.
        rate_down: the same downward, where a preset means its rate down; None if not given.
        latency_s: one-way, in seconds; None if not given.
    """
    preset = rate_up.preset if isinstance(rate_up, Rate) else None
    if isinstance(rate_down, Rate) and rate_down.preset:
        rate_down = rate_down.preset.rate_down_bps
    if preset and rate_down is None:
        rate_down = preset.rate_down_bps
    if latency_s is None:
        latency_s = preset.latency_s if preset else 0.0
    return Link(
        None if rate_up is None else float(rate_up),
        None if rate_down is None else float(rate_down),
        latency_s,
    )


def parse_rate(text: str) -> Rate:
    """Bits per second, > 0; a preset's name gives its rate up. ConfigError says what was wanted."""
    preset = PRESETS.get(text.strip().lower())
    if preset:
        return Rate(preset.rate_up_bps, preset)
    bps = _parse(text, RATE_UNITS, RATE.wanted, slash="/s")
    if bps <= 0:
        _refuse(RATE.wanted, text)
    return Rate(bps)


def parse_size(text: str) -> int:
    """Whole bytes, >= 0. ConfigError says what was wanted."""
    nbytes = _parse(text, SIZE_UNITS, SIZE.wanted)
    if nbytes != int(nbytes):
        _refuse(SIZE.wanted, text)
    return int(nbytes)


def parse_duration(text: str) -> float:
    """Seconds, >= 0. ConfigError says what was wanted."""
    return _parse(text, DURATION_UNITS, DURATION.wanted)


def format_rate(bps: float) -> str:
    """As `parse_rate` reads it, to four digits: 10000000 -> "10mbit"."""
    return _format(bps, RATE_UNITS, ("gbit", "mbit", "kbit", "bit"))


def format_size(nbytes: float) -> str:
    """In binary units, to four digits: 8388608 -> "8MiB"."""
    return _format(nbytes, SIZE_UNITS, ("TiB", "GiB", "MiB", "KiB", "B"))


def format_duration(seconds: float) -> str:
    """As `parse_duration` reads it, to four digits: 0.04 -> "40ms", 90 -> "1.5min"."""
    return _format(seconds, DURATION_UNITS, ("h", "min", "s", "ms", "us"))


class Unit(click.ParamType):  # type: ignore[type-arg]  # generic only in newer releases
    """A click type for a number with its unit. Numbers given by code, as defaults are, pass as they are."""

    def __init__(self, name: str, wanted: str, parse: Callable[[str], Any]) -> None:
        self.name = name
        self.wanted = wanted
        self._parse = parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Parse text; anything wrong ends as one line that names the flag."""
        if not isinstance(value, str):
            return value
        try:
            return self._parse(value)
        except ConfigError:
            flag = param.opts[0] if param is not None and param.opts else self.name
            # Not self.fail: its line would start with "Invalid value for".
            raise click.UsageError(
                f"{flag} wants {self.wanted}, got {value!r}{named(ctx, param)}", ctx
            ) from None


def _parse(text: str, units: dict[str, Any], wanted: str, slash: str = "") -> float:
    """The number times its unit; `slash` is an ending that says nothing new, such as the "/s" of a rate."""
    match = _NUMBER.fullmatch(text.strip().lower().removesuffix(slash))
    if match is None or match[2] not in units:
        _refuse(wanted, text)
    # Integers stay exact: 1 TiB and more must not lose bytes to a float.
    number = int(match[1]) if match[1].isdigit() else float(match[1])
    return number * units[match[2]]  # type: ignore[no-any-return]


def _refuse(wanted: str, text: str) -> NoReturn:
    raise ConfigError(f"wanted {wanted}, got {text!r}")


def _format(value: float, units: dict[str, Any], names: tuple[str, ...]) -> str:
    """In the largest unit of which there is at least one; the smallest for what is below all of them."""
    for name in names:
        # 0.9995 of a unit would round up to 1000 of the next smaller one.
        if abs(value) >= 0.99995 * units[name.lower()]:
            return f"{_digits(value / units[name.lower()])}{name}"
    zero = {"us": "s"}.get(names[-1], names[-1])
    return f"0{zero}" if value == 0 else f"{_digits(value / units[names[-1].lower()])}{names[-1]}"


def _digits(number: float) -> str:
    return f"{number:.0f}" if abs(number) >= 1000 else f"{number:.4g}"


# Last, because they are made with what stands above.
PRESETS = {
    preset.name: preset
    for preset in (
        Preset("3g", 1e6, 4e6, 0.050),
        Preset("4g", 6e6, 24e6, 0.025),
        Preset("wifi", 20e6, 50e6, 0.005),
    )
}
# For the help text of flags that take a preset.
PRESETS_HELP = "; ".join(str(preset) for preset in PRESETS.values())

RATE = Unit("rate", "a rate with its unit such as 10mbit, or one of " + ", ".join(PRESETS), parse_rate)
SIZE = Unit("size", "a size in whole bytes with its unit such as 8MiB", parse_size)
DURATION = Unit("duration", "a time with its unit such as 40ms", parse_duration)
