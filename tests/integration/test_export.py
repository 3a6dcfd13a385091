"""What is exported loads in plain torchvision, and is as accurate there as the summary says."""

import json

import pytest

from benchmarks.processes import export, run_edge
from benchmarks.roundtrip import load_plain, plain_accuracy
from common.data.datasets import open_dataset
from tests.integration.conftest import SMALL_RUN

# All 1,000 test images, so that half a point is five of them.
RUN = [*SMALL_RUN, "--test-limit", "1000", "--train-limit", "320", "--epochs", "1", "--warmup", "5"]


def accuracy_of(path):
    """The accuracy that the file's own loading lines give, which name torchvision's classes only."""
    _, about = load_plain(path)
    assert len(about["load"].splitlines()) <= 5
    assert "headwater" not in about["load"]
    return plain_accuracy(path, open_dataset("synthetic", path.parent, need_train=False))


@pytest.mark.parametrize(
    ("arguments", "points"),
    [
        (["--bits", "32"], 0.1),
        (["--bits", "4", "--stem", "cifar", "--split", "layer3"], 0.5),
        (["--model", "vgg11_bn", "--split", "pool2", "--bits", "8", "--lr", "0.01"], 0.5),
    ],
    ids=["32-bit", "4-bit-cifar-stem", "vgg"],
)
def test_exported_network_is_as_accurate_in_plain_torchvision(clouds, tmp_path, arguments, points):
    """Front and back, each trained on its own machine, are one ordinary network again."""
    cloud, run_dir = clouds(), tmp_path / "edge"
    done = run_edge(cloud.address, run_dir, *RUN, *arguments, timeout_s=250)
    assert done.returncode == 0, done.stderr

    exported = export(run_dir, tmp_path / "network.safetensors")

    assert exported.returncode == 0, exported.stderr
    told = json.loads((run_dir / "summary.json").read_text())["cloud_accuracy"]
    assert abs(accuracy_of(tmp_path / "network.safetensors") - told) <= points / 100 + 1e-6


def test_network_trained_whole_is_exported_without_a_cloud(tmp_path):
    run_dir = tmp_path / "edge"
    done = run_edge(None, run_dir, "--strategy", "full-edge", *RUN, timeout_s=250)
    assert done.returncode == 0, done.stderr

    exported = export(run_dir, tmp_path / "network.safetensors")

    assert exported.returncode == 0, exported.stderr
    told = json.loads((run_dir / "summary.json").read_text())["edge_accuracy"]
    assert abs(accuracy_of(tmp_path / "network.safetensors") - told) <= 0.001 + 1e-6


def test_export_of_what_is_not_there_is_refused_in_one_line(clouds, tmp_path):
    """No run, an unfinished run, no cloud, a cloud that never saw the run: nothing is written."""
    cloud, run_dir, out = clouds(), tmp_path / "edge", tmp_path / "network.safetensors"
    done = run_edge(cloud.address, run_dir, *SMALL_RUN, "--epochs", "1", timeout_s=250)
    assert done.returncode == 0, done.stderr
    cloud.kill()

    nothing = export(tmp_path / "other", out)
    nobody = export(run_dir, out, "--cloud", "127.0.0.1:9")
    (cloud.session_dir(json.loads((run_dir / "run.json").read_text())["session_id"])).rename(
        tmp_path / "elsewhere"
    )
    stranger = export(run_dir, out, "--cloud", clouds().address)

    for refused, words in (
        (nothing, ["no run", str(tmp_path / "other")]),
        (nobody, ["no cloud answers at 127.0.0.1:9"]),
        (stranger, ["refused", "session"]),
    ):
        assert refused.returncode == 1
        assert refused.stderr.startswith("Error: ")
        assert refused.stderr.count("\n") == 1
        assert all(word in refused.stderr for word in words), refused.stderr
    assert not out.exists()
