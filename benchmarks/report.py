"""What every benchmark prints: one JSON object a line, with its bar where it has one."""

import json
import platform
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import click
import torch

from common.machine import describe_machine

T = TypeVar("T")

# Options that several benchmarks have.
data_dir = click.option(
    "--data-dir",
    type=click.Path(path_type=Path, file_okay=False),
    envvar="HEADWATER_DATA",
    show_envvar=True,
    default=Path("../shared/data"),
    show_default=True,
    help="The folder of the data sets, as docs/reproduce.md has it.",
)
work_dir = click.option(
    "--work", type=click.Path(path_type=Path), help="Where runs are kept.  [default: none is kept]"
)


@dataclass(slots=True)
class Report:
    """Prints figures, and appends those that are new to a file where one is named.

    Attributes:
        out: the file, or None.
        quick: whether bars are left out, because a minute cannot decide them.
    """

    out: Path | None
    quick: bool
    failed: bool = False

    def has(self, name: str, case: dict[str, Any]) -> bool:
        """Tell whether the file holds this figure already."""
        return any(each["name"] == name and each["case"] == case for each in self._told())

    def is_done(self, name: str, case: dict[str, Any], among: dict[str, Any] | None = None) -> bool:
        """Tell whether the file holds this figure, the last of several, from a benchmark that was stopped.

        Where one of them fell short of its bar then, it does so still.

        Args:
            name: of the figure.
            case: of the figure.
            among: what the cases of all of them have in common; None for all of `case`.
        """
        done = self.has(name, case)
        if done:
            shared = (case if among is None else among).items()
            self.failed |= any(
                each["holds"] is False and shared <= each["case"].items() for each in self._told()
            )
        return done

    def _told(self) -> list[dict[str, Any]]:
        if self.out is None or not self.out.exists():
            return []
        return [json.loads(line) for line in self.out.read_text().splitlines()]

    def figure(
        self,
        name: str,
        case: dict[str, Any],
        value: float,
        unit: str,
        *,
        at_least: float | None = None,
        at_most: float | None = None,
    ) -> None:
        """Print one figure."""
        if self.quick:
            at_least = at_most = None
        bars = [value >= at_least] if at_least is not None else []
        bars += [value <= at_most] if at_most is not None else []
        line = json.dumps(
            {
                "name": name,
                "case": case,
                "value": round(value, 5),
                "unit": unit,
                "at_least": at_least,
                "at_most": at_most,
                "holds": all(bars) if bars else None,
            }
        )
        self.failed |= not all(bars)
        click.echo(line)
        if self.out is not None and not self.has(name, case):
            with self.out.open("a") as file:
                file.write(line + "\n")


def _machine() -> str:
    versions = [f"{name} {version(name)}" for name in ("torch", "grpcio", "numpy", "zstandard")]
    system = f"Linux {platform.release()}, Python {platform.python_version()}"
    return ", ".join([describe_machine(torch.device("cpu")), system, *versions])


def benchmark(run: Callable[..., None]) -> click.Command:
    """Make a command with `--quick` and `--out` of a function that takes a Report and its own options."""

    def command(quick: bool, out: Path | None, **options: Any) -> None:
        click.echo(f"measured on {_machine()}", err=True)
        report = Report(out, quick)
        run(report, **options)
        if report.failed:
            raise SystemExit(1)

    command.__doc__ = run.__doc__
    command.__click_params__ = getattr(run, "__click_params__", [])  # type: ignore[attr-defined]
    made = click.option(
        "--out", type=click.Path(path_type=Path, dir_okay=False), help="Append figures here."
    )(command)
    made = click.option("--quick", is_flag=True, help="End within a minute; bars are not judged.")(made)
    return click.command(made)
