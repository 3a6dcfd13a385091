"""summary.json: every key of the contract, and null for what does not apply."""

import dataclasses
import json

import numpy as np
import pytest

from common.data.imageset import ArrayImages, Dataset
from common.wire.messages import Ack, EvaluationResult, Position
from common.wire.messages import Counters as CloudCounters
from edge_worker.config import TrainConfig
from edge_worker.counters import Totals
from edge_worker.loop import Plan
from edge_worker.runlog import LogMark, RunLog
from edge_worker.summary import make_summary

# From "Contract: what a run leaves behind" in the design.
CONTRACT = """
strategy model split exit dataset seed bits epochs batches samples edge_accuracy cloud_accuracy train_wall_s
edge_busy_s link_busy_s cloud_busy_s bytes_up bytes_down eval_bytes_up link_rate_bps goodput_bps
link_utilisation resumes edge_peak_rss_bytes cloud_peak_rss_bytes
""".split()

CONFIG = TrainConfig(dataset="synthetic", epochs=2, batch_size=4, seed=3, bits=2, link_rate=1e6)
TOTALS = Totals(
    bytes_up=500_000,
    eval_bytes_up=7_000,
    bytes_down=9_000,
    delivered_bytes=400_000,
    edge_busy_s=3.0,
    link_busy_s=4.0,
    train_wall_s=5.0,
    edge_peak_rss_bytes=1 << 28,
    lives=3,
    epoch_train_s=[2.0, 5.0],
    epoch_bytes_up=[260_000, 500_000],
)
ACK = Ack(
    received_bytes=0,
    applied=Position(7),
    durable=Position(7),
    counters=CloudCounters(busy_s=2.5, peak_rss_bytes=1 << 29),
)


def dataset(num_train=10):
    images = ArrayImages(np.zeros((num_train, 3, 2, 2), np.uint8), np.zeros(num_train, np.int64))
    return Dataset(
        "synthetic", ("disc", "ring"), (3, 2, 2), (0.5, 0.25, 0.125), (1.0, 2.0, 4.0), images, images
    )


@pytest.fixture
def runlog(tmp_path):
    """A log after the last of six batches, the edge's and the cloud's evaluations done."""
    log = RunLog(tmp_path / "metrics.jsonl", 3, LogMark(), lambda event: None)
    log.edge_evaluation(6, 6, 8)
    log.cloud_evaluation(EvaluationResult(batches=3, correct=1, total=8, loss=1.0))
    log.cloud_evaluation(EvaluationResult(batches=6, correct=7, total=8, loss=1.0))
    yield log
    log.close()


@pytest.fixture
def alone(tmp_path):
    """A log of a run without a cloud."""
    log = RunLog(tmp_path / "alone.jsonl", 3, LogMark(), lambda event: None)
    log.edge_evaluation(6, 6, 8)
    yield log
    log.close()


def summary(runlog, config=CONFIG, totals=TOTALS, ack=ACK, num_train=10, per_epoch=3):
    plan = Plan(total_batches=per_epoch * config.epochs, batches_per_epoch=per_epoch)
    return make_summary(config, plan, dataset(num_train), "float32", totals, runlog, ack)


def test_a_run_with_a_cloud_has_every_figure(runlog):
    found = summary(runlog)

    assert {name: found[name] for name in CONTRACT} == {
        "strategy": "hierarchical",
        "model": "resnet18",
        "split": "layer2",
        "exit": "light",
        "dataset": "synthetic",
        "seed": 3,
        "bits": 2,
        "epochs": 2,
        "batches": 6,
        "samples": 20,
        "edge_accuracy": 0.75,
        "cloud_accuracy": 0.875,
        "train_wall_s": 5.0,
        "edge_busy_s": 3.0,
        "link_busy_s": 4.0,
        "cloud_busy_s": 2.5,
        "bytes_up": 500_000,
        "bytes_down": 9_000,
        "eval_bytes_up": 7_000,
        "link_rate_bps": 1e6,
        "goodput_bps": 640_000.0,
        "link_utilisation": 0.8,
        "resumes": 2,
        "edge_peak_rss_bytes": 1 << 28,
        "cloud_peak_rss_bytes": 1 << 29,
    }


def test_it_is_one_flat_object_that_json_holds(runlog):
    """Flat but for one figure of each epoch, and what `export` writes: shape, class names, normalisation."""
    found = summary(runlog)

    assert json.loads(json.dumps(found, allow_nan=False)) == found
    lists = {name: value for name, value in found.items() if isinstance(value, list | dict)}
    assert lists == {
        "epoch_train_s": [2.0, 5.0],
        "epoch_bytes_up": [260_000, 500_000],
        "input_shape": [3, 2, 2],
        "classes": ["disc", "ring"],
        "mean": [0.5, 0.25, 0.125],
        "std": [1.0, 2.0, 4.0],
    }


def test_without_a_cloud_all_that_concerns_it_is_null(alone):
    """The link's rate too: it was given, but nothing was emulated."""
    config = dataclasses.replace(CONFIG, strategy="full-edge")
    totals = dataclasses.replace(TOTALS, bytes_up=0, eval_bytes_up=0, bytes_down=0, delivered_bytes=0)

    found = summary(alone, config, totals, ack=None)

    assert {name for name in CONTRACT if found[name] is None} == set(
        "split exit bits cloud_accuracy link_busy_s cloud_busy_s link_rate_bps goodput_bps link_utilisation "
        "cloud_peak_rss_bytes".split()
    )
    assert found["edge_accuracy"] == 0.75


@pytest.mark.parametrize("images", ["resend", "once"])
def test_where_images_go_up_there_is_no_split_and_nothing_is_classified_at_the_edge(tmp_path, images):
    log = RunLog(tmp_path / "images.jsonl", 3, LogMark(), lambda event: None)
    log.cloud_evaluation(EvaluationResult(batches=6, correct=7, total=8, loss=1.0))

    log.close()

    found = summary(log, dataclasses.replace(CONFIG, strategy="full-cloud", images=images))

    assert {name for name in CONTRACT if found[name] is None} == set("split exit bits edge_accuracy".split())
    assert (found["images"], found["cloud_accuracy"]) == (images, 0.875)


def test_without_an_emulated_rate_there_is_goodput_but_no_utilisation(runlog):
    found = summary(runlog, dataclasses.replace(CONFIG, link_rate=None))

    assert (found["link_rate_bps"], found["link_utilisation"]) == (None, None)
    assert found["goodput_bps"] == 640_000.0


def test_no_time_at_all_gives_no_rates(runlog):
    """A division by zero would cost the whole run its summary."""
    found = summary(runlog, totals=dataclasses.replace(TOTALS, train_wall_s=0.0))

    assert (found["goodput_bps"], found["link_utilisation"]) == (None, None)


@pytest.mark.parametrize(
    ("num_train", "per_epoch", "samples"), [(8, 2, 16), (9, 2, 16), (11, 3, 22), (3, 1, 6)]
)
def test_samples_count_a_short_last_batch_and_not_the_image_left_out(runlog, num_train, per_epoch, samples):
    """Two epochs in batches of four; a batch of one image is not trained on."""
    assert summary(runlog, num_train=num_train, per_epoch=per_epoch)["samples"] == samples


def test_the_cloud_s_accuracy_is_the_one_after_the_last_batch_or_none(alone):
    alone.cloud_evaluation(EvaluationResult(batches=3, correct=1, total=8, loss=1.0))

    assert summary(alone)["cloud_accuracy"] is None
