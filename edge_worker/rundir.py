"""The edge's run directory: the settings a run was started with, its checkpoints, what it leaves behind.

RUN_DIR/lock               held while a process trains in RUN_DIR
RUN_DIR/run.json           settings, session id, generation
RUN_DIR/checkpoints/       states of the front
RUN_DIR/spool.sqlite       records that the cloud does not yet have durably
RUN_DIR/metrics.jsonl, counters.json
RUN_DIR/front.safetensors, summary.json    written when the run is complete
"""

import json
import uuid
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import click

from common.durable import opened, sealed, write_atomic
from common.errors import CheckpointError, ConfigError
from common.units import parse_rate
from edge_worker.config import AUTO, AUTO_BITS, MAY_CHANGE, TrainConfig, in_json

_PATHS = {field.name for field in fields(TrainConfig) if isinstance(field.metadata.get("type"), click.Path)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """What makes this run known to the cloud.

    Attributes:
        session_id: a UUID, made once for each run directory.
        generation: raised durably at every start of the edge.
    """

    session_id: str
    generation: int


class RunDir:
    """One run's files on the edge."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._run_file = path / "run.json"
        self.summary_file = path / "summary.json"
        self.front_file = path / "front.safetensors"
        self.metrics_file = path / "metrics.jsonl"
        self.counters_file = path / "counters.json"
        self.checkpoints = path / "checkpoints"
        self.spool_file = path / "spool.sqlite"

    @property
    def is_new(self) -> bool:
        """Whether no run was ever started here."""
        return not self._run_file.exists()

    def settle(self, config: TrainConfig, given: frozenset[str]) -> TrainConfig:
        """Return the settings to resume with: what the user gave now, and else what the run was started with.

        `auto` stands for what was chosen then.

        Raises:
            ConfigError: a setting was given that a resumed run may not change.
        """
        saved = self._read()["settings"]
        given -= {name for name in ("split", "bits") if getattr(config, name) in (AUTO, AUTO_BITS)}
        was = replace(config, **{name: _from_json(name, saved[name]) for name in saved})
        for name in sorted(given - MAY_CHANGE):
            before, now = getattr(was, name), getattr(config, name)
            if before != now:
                raise ConfigError(
                    f"--{name.replace('_', '-')} is {before} in the run at {self.path}, got {now}; "
                    "leave it out to resume, or start a new run with another --run-dir"
                )
        changed = {name: getattr(config, name) for name in given & MAY_CHANGE}
        return replace(was, **{**changed, "run_dir": config.run_dir})

    def check_empty(self) -> None:
        """Refuse what an earlier run left: a new one would go on from it, with settings of its own."""
        if any(self.checkpoints.glob("*")):
            raise ConfigError(
                f"{self.path} has the checkpoints of a run, but not its {self._run_file.name}; "
                "restore that file, or start a new run with another --run-dir"
            )

    def identity(self) -> Identity:
        """Return who this run is, with its generation raised, durably where the run already exists."""
        if self.is_new:
            return Identity(session_id=str(uuid.uuid4()), generation=1)
        saved = self._read()
        saved["generation"] += 1
        write_atomic(self._run_file, sealed(saved))
        return Identity(session_id=saved["session_id"], generation=saved["generation"])

    def begin(self, config: TrainConfig, identity: Identity) -> None:
        """Save the settings, as a resume may have changed them; from here on the directory is a run."""
        settings = {f.name: in_json(getattr(config, f.name)) for f in fields(config)}
        write_atomic(self._run_file, sealed({**asdict(identity), "settings": settings}))

    def session_id(self) -> str:
        """Return the id under which the cloud knows the run; raises ConfigError where there is no run."""
        if self.is_new:
            raise ConfigError(f"{self.path} holds no run; give --run-dir the one of a finished run")
        return str(self._read()["session_id"])

    def settings(self) -> dict[str, Any]:
        """Return the settings that the run was started with, as JSON has them."""
        return dict(self._read()["settings"])

    def summary(self) -> dict[str, Any] | None:
        """Return the summary of a finished run, or None."""
        if not self.summary_file.exists():
            return None
        try:
            summary: dict[str, Any] = json.loads(self.summary_file.read_text())
        except (OSError, ValueError) as error:
            raise CheckpointError(
                f"{self.summary_file} is damaged: {error}; delete it, "
                f"and edge-worker train --run-dir {self.path} writes it anew"
            ) from error
        return summary

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Write the summary; from here on the run is finished."""
        write_atomic(self.summary_file, _to_json(summary))

    def _read(self) -> dict[str, Any]:
        try:
            saved = opened(self._run_file.read_bytes())
            unknown = set(saved["settings"]) - {field.name for field in fields(TrainConfig)}
            if unknown or not {"session_id", "generation"} <= set(saved):
                raise ValueError(f"it has no identity, or settings unknown here: {sorted(unknown)}")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(
                f"{self._run_file} is damaged: {error}; put a copy of it back, "
                "or start a new run with another --run-dir"
            ) from error
        return saved


def _from_json(name: str, value: Any) -> Any:
    if name in _PATHS and value is not None:
        return Path(value)
    # A preset is saved by its name: it stands for a latency and a rate down, too.
    return parse_rate(value) if name.startswith("link_rate") and isinstance(value, str) else value


def _to_json(values: dict[str, Any]) -> bytes:
    return json.dumps(values, indent=2, default=str).encode() + b"\n"
