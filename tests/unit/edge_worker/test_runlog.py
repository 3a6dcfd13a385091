"""metrics.jsonl over the lives of a run."""

import json
import math
from dataclasses import asdict

import pytest

from common.wire.messages import EvaluationResult
from edge_worker.runlog import LogMark, RunLog

START = LogMark()


@pytest.fixture
def open_log(tmp_path):
    """Open the one log of a run with three batches an epoch, at a mark."""
    opened = []

    def run(mark=START, on_event=lambda event: None):
        opened.append(RunLog(tmp_path / "metrics.jsonl", 3, mark, on_event))
        return opened[-1]

    yield run
    for log in opened:
        log.close()


@pytest.fixture
def lines(tmp_path):
    """Read what is in the file."""
    return lambda: [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]


def result(batches, correct=5, total=8):
    return EvaluationResult(batches=batches, correct=correct, total=total, loss=1.5)


def test_each_line_names_its_kind_batch_and_epoch(open_log, lines):
    """Batches count from 0, epochs from 1; an evaluation belongs to the last batch before it."""
    log = open_log()
    log.edge_batch(2, loss=0.5, lr=0.1)
    log.edge_batch(3, loss=0.25, lr=0.05)
    log.cloud_losses(0, (2.0,))
    log.edge_evaluation(batches=3, correct=1, total=4)
    log.cloud_evaluation(result(3))

    assert lines() == [
        {"kind": "edge", "seq": 2, "epoch": 1, "loss": 0.5, "lr": 0.1},
        {"kind": "edge", "seq": 3, "epoch": 2, "loss": 0.25, "lr": 0.05},
        {"kind": "cloud", "seq": 0, "epoch": 1, "loss": 2.0},
        {"kind": "eval", "seq": 2, "epoch": 1, "side": "edge", "accuracy": 0.25},
        {"kind": "eval", "seq": 2, "epoch": 1, "side": "cloud", "accuracy": 0.625},
    ]


def test_whoever_listens_hears_each_line_as_it_is_written(open_log, lines):
    heard = []
    log = open_log(on_event=heard.append)
    log.edge_batch(0, loss=0.5, lr=0.1)
    log.cloud_losses(0, (2.0, 1.0))
    log.cloud_losses(0, (2.0, 1.0))

    assert heard == lines()
    assert len(heard) == 3


def test_losses_that_the_cloud_tells_twice_are_written_once(open_log, lines):
    """After a reconnection acks overlap, wholly or in part."""
    log = open_log()
    log.cloud_losses(0, (3.0, 2.0))
    log.cloud_losses(0, (3.0, 2.0))
    log.cloud_losses(1, (2.0, 1.0, 0.5))
    log.cloud_losses(2, ())

    assert [(line["seq"], line["loss"]) for line in lines()] == [(0, 3.0), (1, 2.0), (2, 1.0), (3, 0.5)]
    assert log.losses_through == 4


def test_a_loss_that_is_no_number_is_null(open_log, lines):
    """It stands for a skipped batch, and JSON has no NaN; the batch after it is still written."""
    open_log().cloud_losses(0, (math.nan, 1.0))

    assert [line["loss"] for line in lines()] == [None, 1.0]


def test_an_evaluation_that_the_cloud_tells_twice_is_written_once(open_log, lines):
    log = open_log()
    for batches in (3, 3, 6, 3):
        log.cloud_evaluation(result(batches))

    assert [line["seq"] for line in lines()] == [2, 5]


def test_accuracies_are_those_of_the_batches_asked_for(open_log):
    log = open_log()
    assert log.edge_accuracy is None
    log.edge_evaluation(3, 1, 4)
    log.edge_evaluation(6, 3, 4)
    log.cloud_evaluation(result(3, 2, 4))
    log.cloud_evaluation(result(6, 4, 4))

    assert log.edge_accuracy == 0.75
    assert log.cloud_accuracy(3) == 0.5
    assert log.cloud_accuracy(6) == 1.0
    assert log.cloud_accuracy(9) is None


def step(log, seq):
    """One step of both sides: the cloud lags a batch behind, and tells all that it knows each time."""
    log.edge_batch(seq, loss=1 / (seq + 1), lr=0.1)
    if seq == 2:
        log.edge_evaluation(3, 3, 4)
    if seq >= 3:
        log.cloud_evaluation(result(3))
    log.cloud_losses(0, [2.0 - k / 8 for k in range(seq)])


@pytest.mark.parametrize("saved_at", range(5))
def test_a_resumed_log_is_to_the_byte_what_an_untouched_one_would_be(open_log, tmp_path, saved_at):
    """What came after the mark is cut off, and written again as both sides repeat their steps."""
    file = tmp_path / "metrics.jsonl"
    untouched = open_log()
    for seq in range(6):
        step(untouched, seq)
    untouched.close()
    wanted = file.read_bytes()
    file.unlink()

    killed = open_log()
    for seq in range(5):
        if seq == saved_at:
            # As a checkpoint keeps it.
            mark = LogMark(**json.loads(json.dumps(asdict(killed.mark()))))
        step(killed, seq)
    killed.close()
    resumed = open_log(mark)
    for seq in range(saved_at, 6):
        step(resumed, seq)

    assert file.read_bytes() == wanted
    assert resumed.edge_accuracy == 0.75
    assert resumed.cloud_accuracy(3) == 0.625


def test_a_mark_names_what_is_in_the_file_before_it(open_log, tmp_path):
    log = open_log()
    log.cloud_losses(0, (3.0, 2.0))
    log.cloud_evaluation(result(3))
    log.edge_evaluation(3, 1, 2)

    mark = log.mark()

    assert mark.length == (tmp_path / "metrics.jsonl").stat().st_size
    assert (mark.losses, mark.edge_accuracy) == (2, 0.5)
    assert mark.results == ({"batches": 3, "correct": 5, "total": 8, "loss": 1.5},)


def test_a_loss_that_is_not_finite_is_null_on_either_side(open_log, lines):
    """A run that diverges still leaves lines that any JSON parser reads."""
    log = open_log()

    log.edge_batch(0, math.nan, 0.1)
    log.cloud_losses(0, (math.inf,))

    assert [line["loss"] for line in lines()] == [None, None]


def test_accuracies_of_earlier_lives_are_known_again(open_log):
    log = open_log()
    assert log.accuracies() == {}
    log.edge_evaluation(batches=6, correct=1, total=4)
    log.cloud_evaluation(result(3))
    log.cloud_evaluation(result(6, correct=7))
    mark = log.mark()

    assert open_log(mark).accuracies() == {"edge": 0.25, "cloud": 0.875}
