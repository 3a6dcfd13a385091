"""What two runs must have in common, bit for bit, if one of them was killed and resumed."""

import hashlib
import json
from pathlib import Path
from typing import Any


def outcome(cloud_dir: Path, run_dir: Path) -> dict[str, Any]:
    """Return hashes of both weight files, losses, accuracies and counts of a finished run.

    Args:
        cloud_dir: the cloud's run directory.
        run_dir: the edge's.
    """
    summary = json.loads((run_dir / "summary.json").read_text())
    session = cloud_dir / json.loads((run_dir / "run.json").read_text())["session_id"]
    counted = json.loads((session / "summary.json").read_text())
    return {
        "front": _digest(run_dir / "front.safetensors"),
        "back": _digest(session / "back.safetensors"),
        # Lines of the edge and of the cloud come in any order.
        "metrics": sorted((run_dir / "metrics.jsonl").read_text().splitlines()),
        "applied": counted["batches_applied"],
        **{name: summary[name] for name in ("edge_accuracy", "cloud_accuracy", "batches", "samples")},
    }


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
