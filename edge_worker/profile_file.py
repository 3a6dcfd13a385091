"""The file that `edge-worker profile` writes and `plan` reads: JSON, with what it was measured on."""

import json
import math
import tempfile
from dataclasses import MISSING, asdict, dataclass, fields, is_dataclass
from datetime import datetime, timezone
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin

from common.durable import write_atomic
from common.errors import ConfigError
from common.units import Rate, resolve_link
from edge_worker.costs import FASTEST_BPS, Costs, Link

T = TypeVar("T")

FORMAT = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """A profile.

    Attributes:
        settings: of the training that it is of.
        edge, cloud: the machines, in words.
        address: of the cloud.
        link: as it was emulated or measured.
        costs: what was measured.
        made: when, ISO 8601, UTC.
        rounds: of how many measurements these are the medians.
        apart: by what share the longest exceeded the shortest, at most.
    """

    settings: dict[str, Any]
    edge: str
    cloud: str
    link: Link
    costs: Costs
    address: str = ""
    made: str = ""
    rounds: int = 1
    apart: float = 0.0


def link_of(known: Link, rate: float | None, rate_down: float | None, latency_s: float | None) -> Link:
    """Return the link of a profile, but for what is given; a preset stands for all that is not."""
    if rate is None and rate_down is None and latency_s is None:
        return known
    wanted = resolve_link(rate, rate_down, latency_s)
    up_bps = wanted.rate_up_bps or known.up_bps
    down_bps = wanted.rate_down_bps or (known.down_bps if rate is None else up_bps)
    is_told = latency_s is not None or (isinstance(rate, Rate) and rate.preset is not None)
    return Link(up_bps=up_bps, down_bps=down_bps, latency_s=wanted.latency_s if is_told else known.latency_s)


def emulated_link(rate: float | None, rate_down: float | None, latency_s: float | None) -> Link | None:
    """Return the link that a run with these flags emulates; None where it takes its own."""
    link = resolve_link(rate, rate_down, latency_s)
    if link.rate_up_bps is None:
        return None
    # A downlink that is not emulated has no bound.
    return Link(up_bps=link.rate_up_bps, down_bps=link.rate_down_bps or FASTEST_BPS, latency_s=link.latency_s)


def check_folder(out: Path) -> None:
    """Raise ConfigError where a profile could not be written to `out`, before anything is measured."""
    if not out.parent.is_dir():
        raise ConfigError(f"--out {out}: there is no folder {out.parent}; make it, or name another file")
    try:
        with tempfile.TemporaryFile(dir=out.parent):
            pass
    except OSError as error:
        raise ConfigError(f"--out {out}: {error.strerror} in {out.parent}; name another file") from error


def write_profile(path: Path, measured: Measured) -> None:
    """Write a profile; raises CheckpointError where the disk does not take it."""
    made = datetime.now(timezone.utc).isoformat(timespec="seconds")
    document = {"format": FORMAT, **asdict(measured), "made": made}
    write_atomic(path, json.dumps(document, indent=2, default=str).encode() + b"\n")


def read_profile(path: Path) -> Measured:
    """Return a profile.

    Raises:
        ConfigError: there is none at `path`, or it is damaged.
    """
    try:
        document = json.loads(path.read_text())
    except OSError as error:
        raise ConfigError(
            f"--profile {path} cannot be read: {error.strerror}; edge-worker profile writes one"
        ) from error
    except ValueError as error:
        raise _no_profile(path, f"it is no JSON ({error})") from error
    try:
        if isinstance(document, dict) and document.pop("format", FORMAT) != FORMAT:
            raise ValueError("it is of another release")
        made: Measured = _made(Measured, document)
        _check(made)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise _no_profile(path, error) from error
    return made


def _no_profile(path: Path, why: object) -> ConfigError:
    return ConfigError(f"--profile {path} is no profile: {why}; measure again with edge-worker profile")


def _check(measured: Measured) -> None:
    """Raise ValueError where a plan could not reckon with what a file says."""
    costs, link = measured.costs, measured.link
    if not (costs.splits or costs.whole or costs.images):
        raise ValueError("nothing was measured")
    positive = {"batches": costs.batches, "epochs": costs.epochs}
    positive |= {"up_bps": link.up_bps, "down_bps": link.down_bps}
    positive |= {f"step_s of {each.split}": each.step_s for each in costs.splits}
    if costs.whole is not None:
        positive["step_s of the whole"] = costs.whole.step_s
    for name, value in positive.items():
        if not value > 0:
            raise ValueError(f"{name} must be above 0, got {value}")
    for each in costs.splits:
        if each.bits not in each.widths:
            raise ValueError(
                f"{each.split} was measured at {each.bits} bits, but has only {list(each.widths)}"
            )


def _made(kind: Any, value: Any) -> Any:
    """Return `value`, as JSON has it, as a `kind`; raises ValueError or TypeError where it is none."""
    if isinstance(kind, type) and is_dataclass(kind):
        return _made_object(kind, value)
    if get_origin(kind) is UnionType:
        return None if value is None else _made(get_args(kind)[0], value)
    if get_origin(kind) is tuple:
        return tuple(_made(get_args(kind)[0], each) for each in value)
    if get_origin(kind) is dict:
        key, content = get_args(kind)
        return {key(name): _made(content, each) for name, each in value.items()}
    if kind is float:
        number = float(value)
        if not math.isfinite(number) or number < 0:
            raise ValueError(f"{value!r} is no number from 0 on")
        return number
    if kind is Any:
        return value
    if not isinstance(value, kind):
        raise TypeError(f"{value!r} should be {kind.__name__}")
    return value


def _made_object(kind: type[Any], value: Any) -> Any:
    types = {field.name: field.type for field in fields(kind)}
    needed = {field.name for field in fields(kind) if field.default is MISSING}
    if not isinstance(value, dict):
        raise TypeError(f"{value!r} should be an object")
    if missing := needed - set(value):
        raise ValueError(f"{', '.join(sorted(missing))} is missing")
    if unknown := set(value) - set(types):
        raise ValueError(f"{', '.join(sorted(unknown))} is unknown")
    return kind(**{name: _made(types[name], each) for name, each in value.items()})
