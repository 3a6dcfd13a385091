"""Run, interrupt, resume, export, load in plain torchvision: at three split points of two networks.

python -m benchmarks.roundtrip --data-dir DIR [--out FILE]

Of each export it prints how far its accuracy, measured with torchvision's own classes and no code of ours in
the network, is from what the run's summary says. With --out, cases that the file holds already are left out.
"""

import json
import signal
import tempfile
from pathlib import Path
from typing import Any

import click
import torch
from safetensors import safe_open
from torch import nn

from benchmarks.processes import cloud_at, export, lines_of, run_edge, start_edge, wait_for
from benchmarks.report import Report, benchmark, data_dir
from common.data.datasets import Dataset, open_dataset
from common.data.loader import evaluation_batches, normalise

CASES = {
    "resnet18": ("--stem cifar", ("layer1", "layer2", "layer3")),
    # Without batch norm it needs many steps to learn anything.
    "vgg16": ("--lr 0.02 --batch-size 32 --warmup 50", ("pool2", "pool3", "conv4_3")),
}
# Points of accuracy by which the quantised run and the plain network may differ.
BAR = {32: 0.1, 4: 0.5}
# A network that has learnt nothing is as good as its export whatever was exported.
LEARNT_BAR = 0.15
# Of few images, as many change sides by chance, where activations are rounded, as the bar allows.
TEST_LIMIT = {32: 2000, 4: 10_000}


def load_plain(path: Path) -> tuple[nn.Module, dict[str, Any]]:
    """Load an exported network by the lines in its own metadata; return it and the metadata."""
    with safe_open(path, "pt") as file:
        about: dict[str, Any] = file.metadata()
    names: dict[str, Any] = {}
    exec(about["load"].replace(repr(path.name), repr(str(path))), names)
    model: nn.Module = names["model"]
    return model.eval(), about


def plain_accuracy(path: Path, dataset: Dataset) -> float:
    """Return the share of test images that an exported network classifies rightly, without our code in it."""
    model, about = load_plain(path)
    mean, std = json.loads(about["mean"]), json.loads(about["std"])
    correct = 0
    with torch.no_grad():
        for batch in evaluation_batches(dataset.test, 128):
            logits_NK = model(normalise(batch.images, mean, std, "cpu"))
            correct += int((logits_NK.argmax(dim=1) == batch.labels).sum())
    return correct / len(dataset.test)


def round_trip(work: Path, arguments: list[str], dataset: Dataset) -> tuple[dict[str, Any], float]:
    """Train with one interruption; return the summary and the exported network's accuracy."""
    run_dir, out = work / "edge", work / "network.safetensors"
    with cloud_at(work / "cloud") as cloud:
        edge = start_edge(cloud.address, run_dir, *arguments)
        wait_for(lambda: lines_of(run_dir) >= 10 or edge.poll() is not None, "ten lines of metrics", 600)
        edge.send_signal(signal.SIGINT)
        _, err = edge.communicate()
        if edge.returncode != 128 + signal.SIGINT:
            raise click.ClickException(f"expected an interrupted run, got {edge.returncode}: {err}")
        resumed = run_edge(cloud.address, run_dir)
        if resumed.returncode:
            raise click.ClickException(f"the resumed run ended with {resumed.returncode}: {resumed.stderr}")
        exported = export(run_dir, out)
        if exported.returncode:
            raise click.ClickException(f"export ended with {exported.returncode}: {exported.stderr}")
    return json.loads((run_dir / "summary.json").read_text()), plain_accuracy(out, dataset)


@benchmark
@data_dir
@click.option("--train-limit", default=5000, show_default=True, help="Training images.")
def main(report: Report, data_dir: Path, train_limit: int) -> None:
    """Differences in accuracy between each run's summary and its export, in points."""
    cases = [(model, split, bits) for model in CASES for split in CASES[model][1] for bits in (4, 32)]
    cases = [case for case in cases if case[2] == 4 or case[1] in ("layer2", "pool3")]
    name, test_limits = "cifar10", TEST_LIMIT
    source = f"--data-dir {data_dir} --epochs 2 --threads 1 --precision float32"
    if report.quick:
        cases = [("vgg16", "pool3", 32)]
        name, train_limit, test_limits = "synthetic", 320, {32: 100}
        source += " --batch-size 32"
    for model, split, bits in cases:
        images = f"--dataset {name} --train-limit {train_limit} --test-limit {test_limits[bits]}"
        arguments = f"{source} {images} --model {model} {CASES[model][0]} --split {split} --bits {bits}"
        case = {"command": f"edge-worker train {arguments}"}
        if report.is_done("export_difference", case):
            continue
        dataset = open_dataset(name, data_dir, test_limit=test_limits[bits], need_train=False)
        with tempfile.TemporaryDirectory() as work:
            summary, accuracy = round_trip(Path(work), arguments.split(), dataset)
        report.figure("resumes", case, summary["resumes"], "times", at_least=1)
        report.figure("exit_accuracy", case, summary["edge_accuracy"], "share")
        report.figure("cloud_accuracy", case, summary["cloud_accuracy"], "share", at_least=LEARNT_BAR)
        points = 100 * abs(accuracy - summary["cloud_accuracy"])
        report.figure("export_difference", case, points, "points", at_most=BAR[bits])


if __name__ == "__main__":
    main()
