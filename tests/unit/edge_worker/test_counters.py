"""Counting over the lives of a run."""

import pytest

from edge_worker.counters import Counters, TrainingTime


def test_edge_bound_run_counts_steps_and_leaves_evaluations_out():
    """Epoch 0 runs 0-10 s, the exit is evaluated until 13 s, epoch 1 runs 13-23 s."""
    timing = TrainingTime(batches_per_epoch=2, closed_s=0.0, epoch=0)
    timing.step(0, 0.0)
    timing.applied(2, 10.0)
    timing.step(1, 13.0)
    timing.applied(4, 23.0)

    assert timing.closed_s == pytest.approx(20.0)


def test_link_bound_run_counts_until_the_last_batch_is_applied():
    """The edge is done with both epochs at 2 s; the cloud has them at 10 s and 20 s."""
    timing = TrainingTime(batches_per_epoch=2, closed_s=0.0, epoch=0)
    timing.step(0, 0.0)
    timing.step(1, 1.0)
    timing.applied(1, 5.0)
    timing.applied(2, 10.0)
    assert timing.value(15.0) == pytest.approx(15.0)

    timing.applied(4, 20.0)

    assert timing.closed_s == pytest.approx(20.0)


def test_evaluation_of_the_cloud_between_epochs_is_left_out():
    timing = TrainingTime(batches_per_epoch=2, closed_s=0.0, epoch=0)
    timing.step(0, 0.0)
    timing.step(1, 1.0)
    timing.applied(2, 10.0)
    timing.evaluated(2, 14.0)
    timing.applied(4, 24.0)

    assert timing.closed_s == pytest.approx(20.0)


def test_earlier_lives_count_and_downtime_does_not():
    timing = TrainingTime(batches_per_epoch=4, closed_s=7.0, epoch=1)
    timing.step(1, 1000.0)
    timing.applied(8, 1003.0)

    assert timing.closed_s == pytest.approx(10.0)


def test_totals_go_on_in_the_next_life(tmp_path):
    first = Counters(tmp_path / "counters.json", clock=lambda: 0.0)
    first.add(bytes_up=10, edge_busy_s=1.5, lives=1)
    first.save(train_wall_s=4.0)

    second = Counters(tmp_path / "counters.json", clock=lambda: 0.0)
    second.add(bytes_up=5, lives=1)

    totals = second.totals()
    assert (totals.bytes_up, totals.edge_busy_s, totals.train_wall_s, totals.lives) == (15, 1.5, 4.0, 2)


@pytest.mark.parametrize("content", [None, "", '{"bytes_up": 1', '{"bytes": 1}'])
def test_lost_counts_go_on_from_the_checkpoint(tmp_path, content, caplog):
    """The file is written without waiting for the disk: a power cut may take it, never the run with it."""
    if content is not None:
        (tmp_path / "counters.json").write_text(content)

    counters = Counters(tmp_path / "counters.json", clock=lambda: 0.0)
    counters.start({"bytes_up": 7, "lives": 2})

    assert (counters.totals().bytes_up, counters.totals().lives) == (7, 3)
    assert ("counters.json is damaged" in caplog.text) == (content is not None)


def test_counts_that_are_there_win_over_the_checkpoint(tmp_path):
    """They are newer."""
    first = Counters(tmp_path / "counters.json", clock=lambda: 0.0)
    first.add(bytes_up=10, lives=1)
    first.save(train_wall_s=4.0)

    second = Counters(tmp_path / "counters.json", clock=lambda: 0.0)
    second.start({"bytes_up": 7, "lives": 1})

    assert (second.totals().bytes_up, second.totals().lives) == (10, 2)
