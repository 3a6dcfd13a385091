"""Two daemons train what the pair in one process trains, bit for bit."""

import dataclasses
import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from benchmarks.processes import run_edge
from common.codec import packed_bytes
from common.codec.compress import compress, decompress
from common.models.catalogue import ModelSpec, build
from tests.integration.alone import in_process, same
from tests.integration.conftest import SMALL_RUN

VGG_RUN = (
    "--dataset synthetic --train-limit 150 --test-limit 40 --batch-size 32 --epochs 2 --model vgg11_bn "
    "--split pool2 --bits 4 --threads 1 --precision float32 --workers 1 --lr 0.01"
).split()


def weights(clouds, run_dir: Path, arguments):
    """Train with real processes; return both weight files and the summary."""
    cloud = clouds()
    done = run_edge(cloud.address, run_dir, *arguments, timeout_s=250)
    assert done.returncode == 0, done.stderr
    session = json.loads((run_dir / "run.json").read_text())["session_id"]
    back = load_file(cloud.session_dir(session) / "back.safetensors")
    return load_file(run_dir / "front.safetensors"), back, json.loads((run_dir / "summary.json").read_text())


@pytest.mark.parametrize("arguments", [SMALL_RUN, VGG_RUN], ids=["batch-norm", "dropout"])
def test_daemons_equal_the_pair_in_one_process_bit_for_bit(clouds, tmp_path, arguments):
    """Four bits, two epochs, batch norm, and (in the VGG) dropout: the wire changes nothing."""
    front, back, summary = weights(clouds, tmp_path / "edge", arguments)

    alone = in_process(arguments)

    assert same(front, alone.front)
    assert same(back, alone.back)
    assert (summary["edge_accuracy"], summary["cloud_accuracy"]) == (
        alone.edge_accuracy,
        alone.cloud_accuracy,
    )
    events = [json.loads(line) for line in (tmp_path / "edge" / "metrics.jsonl").read_text().splitlines()]
    for kind, losses in (("edge", alone.edge_losses), ("cloud", alone.cloud_losses)):
        told = {event["seq"]: event["loss"] for event in events if event["kind"] == kind}
        assert [told[seq] for seq in range(len(losses))] == pytest.approx(losses, rel=1e-6)


def test_one_flipped_code_byte_on_the_way_breaks_the_equality():
    """The comparison above can fail: one byte of one batch is enough."""

    def flip(batch):
        if batch.seq != 3:
            return batch
        packed = batch.content
        raw = bytearray(decompress(packed.data, packed_bytes(packed.shape, packed.bits)))
        raw[1000] ^= 0x11
        return dataclasses.replace(batch, content=dataclasses.replace(packed, data=compress(bytes(raw))))

    honest, flipped = in_process(SMALL_RUN), in_process(SMALL_RUN, flip)

    assert same(honest.front, flipped.front)
    assert not same(honest.back, flipped.back)


def test_weights_move_and_the_summary_says_what_the_contract_names(clouds, tmp_path):
    front, back, summary = weights(clouds, tmp_path / "edge", SMALL_RUN)

    initial = build(ModelSpec(name="resnet18", num_classes=10, input_shape=(3, 32, 32)), 0).state_dict()
    for half in (front, back):
        moved = [name for name in half if name in initial and not torch.equal(half[name], initial[name])]
        assert len(moved) == len([name for name in half if name in initial])
    contract = (
        "strategy model split exit dataset seed bits epochs batches samples edge_accuracy cloud_accuracy "
        "train_wall_s edge_busy_s link_busy_s cloud_busy_s bytes_up bytes_down eval_bytes_up link_rate_bps "
        "goodput_bps link_utilisation resumes edge_peak_rss_bytes cloud_peak_rss_bytes"
    ).split()
    assert set(contract) <= set(summary)
    assert (summary["batches"], summary["samples"], summary["resumes"]) == (14, 420, 0)
    assert summary["link_rate_bps"] is None
    assert summary["link_utilisation"] is None


def test_whole_network_on_the_edge_contacts_nobody(tmp_path):
    """`full-edge` has no cloud: an address where nobody listens does not matter."""
    done = run_edge("127.0.0.1:9", tmp_path / "edge", "--strategy", "full-edge", *SMALL_RUN, timeout_s=250)

    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "edge" / "summary.json").read_text())
    assert summary["bytes_up"] == summary["bytes_down"] == 0
    assert summary["cloud_accuracy"] is None
    assert summary["split"] is None
    assert summary["edge_accuracy"] is not None
    assert re.search(r"accuracy\s", done.stdout)
