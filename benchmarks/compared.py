"""`edge-worker compare` and `profile`, the edge on one core and the cloud on the other."""

import json
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import click

from benchmarks.alone import EDGE_CORE, cloud_on_core, two_machines
from benchmarks.processes import on_core, program, worker_env

TINY_IMAGENET = "tiny-imagenet-20"


def compared(work: Path, *arguments: str, profile: Path | None = None) -> dict[str, Any]:
    """Return the report of a comparison; one that was stopped, or is there, goes on from `work`.

    Args:
        work: where it is kept.
        arguments: of `edge-worker compare`.
        profile: what it predicts with, if it is not to measure that itself.

    Raises:
        ClickException: a cell failed.
    """
    named = [] if profile is None else ["--profile", str(profile)]
    _edge_worker(work, "compare", "--out", str(work / "report"), *named, *arguments)
    report: dict[str, Any] = json.loads((work / "report" / "report.json").read_text())
    return report


def profiled(work: Path, *arguments: str) -> Path:
    """Return the profile of a training, measured unless it is there."""
    path = work / "profile.json"
    if not path.exists():
        _edge_worker(work, "profile", "--out", str(path), *arguments)
    return path


def _edge_worker(work: Path, *arguments: str) -> None:
    work.mkdir(parents=True, exist_ok=True)
    with (
        two_machines(),
        cloud_on_core(work / "cloud", "--checkpoint-every", "1h") as cloud,
        on_core(EDGE_CORE),
    ):
        command = [*program("edge-worker"), *arguments, "--cloud", cloud.address, "--threads", "1"]
        done = subprocess.run(command, capture_output=True, text=True, env=worker_env())
    if done.returncode:
        raise click.ClickException(f"{' '.join(command)} ended with {done.returncode}: {done.stderr}")


def data_of(name: str, data_dir: Path, work: Path) -> list[str]:
    """Return the flags of a data set: cifar10, synthetic, or tiny-imagenet, which is unpacked below `work`.

    Raises:
        ClickException: it is not in `data_dir`.
    """
    if name == "synthetic":
        return ["--dataset", "synthetic"]
    if name == "cifar10":
        return ["--dataset", "cifar10", "--data-dir", str(data_dir)]
    folder, archive = work / TINY_IMAGENET, data_dir / TINY_IMAGENET / f"{TINY_IMAGENET}.tar.gz"
    if not folder.exists():
        if not archive.exists():
            raise click.ClickException(f"there is no {archive}; name the folder above with --data-dir")
        partial = work / f"{TINY_IMAGENET}.partial"
        with tarfile.open(archive) as tar:
            tar.extractall(partial, filter="data")
        partial.rename(folder)
    return ["--dataset", "imagefolder", "--data-dir", str(folder)]
