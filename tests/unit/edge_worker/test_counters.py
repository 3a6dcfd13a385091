"""Counting over the lives of a run."""

import pytest

from edge_worker.counters import Counters, TrainingTime


def test_edge_bound_run_counts_steps_and_leaves_evaluations_out():
    """Epoch 0 runs 0-10 s, the exit is evaluated until 13 s, epoch 1 runs 13-23 s."""
    timing = TrainingTime(4, 2)
    timing.step(0, 0.0)
    timing.applied(2, 10.0)
    timing.step(1, 13.0)
    timing.applied(4, 23.0)

    assert timing.value(100.0) == pytest.approx(20.0)


def test_link_bound_run_counts_until_the_last_batch_is_applied():
    """The edge is done with both epochs at 2 s; the cloud has them at 10 s and 20 s."""
    timing = TrainingTime(4, 2)
    timing.step(0, 0.0)
    timing.step(1, 1.0)
    timing.applied(1, 5.0)
    timing.applied(2, 10.0)
    assert timing.value(15.0) == pytest.approx(15.0)

    timing.applied(4, 20.0)

    assert timing.value(100.0) == pytest.approx(20.0)


def test_evaluation_of_the_cloud_between_epochs_is_left_out():
    timing = TrainingTime(4, 2)
    timing.step(0, 0.0)
    timing.step(1, 1.0)
    timing.applied(2, 10.0)
    timing.evaluated(2, 14.0)
    timing.applied(4, 24.0)

    assert timing.value(100.0) == pytest.approx(20.0)


def test_earlier_lives_count_and_downtime_does_not():
    timing = TrainingTime(8, 4, earlier_s=7.0, done=4, applied=4)
    timing.step(1, 1000.0)
    timing.applied(8, 1003.0)

    assert timing.value(2000.0) == pytest.approx(10.0)


def test_life_that_only_sends_counts_from_the_cloud_s_first_word_until_the_last_batch_is_applied():
    """The edge was killed after its last batch: the link is as busy then, its time is not to be missed."""
    timing = TrainingTime(8, 4, earlier_s=7.0, done=8, applied=0)
    assert timing.value(1050.0) == 7.0  # nobody answers yet

    timing.found(2, 1100.0)
    assert timing.value(1103.0) == pytest.approx(10.0)
    timing.applied(4, 1110.0)
    timing.applied(8, 1120.0)

    assert timing.value(2000.0) == pytest.approx(27.0)


def test_life_that_finds_all_applied_adds_nothing():
    """It only waits for the evaluation, and for what the cloud has to tell."""
    timing = TrainingTime(8, 4, earlier_s=7.0, done=8, applied=0)
    timing.found(9, 1100.0)  # with the end of the run
    timing.applied(9, 1110.0)

    assert timing.value(2000.0) == 7.0


def test_epoch_that_an_earlier_life_began_goes_on_while_the_edge_trains_the_next():
    """The cloud is an epoch behind when the edge is killed; both go on at once."""
    timing = TrainingTime(12, 4, earlier_s=7.0, done=5, applied=0)
    timing.step(1, 1000.0)
    timing.found(2, 1001.0)
    timing.applied(4, 1010.0)
    timing.applied(8, 1015.0)
    timing.step(2, 1020.0)
    timing.applied(12, 1024.0)

    assert timing.value(2000.0) == pytest.approx(7.0 + 15.0 + 4.0)


def test_cloud_that_lost_what_it_had_applied_opens_its_epoch_again():
    """What is sent once more takes the link's time once more."""
    timing = TrainingTime(4, 2)
    timing.step(0, 0.0)
    timing.step(1, 1.0)
    timing.applied(4, 10.0)
    timing.applied(1, 50.0)
    assert timing.value(55.0) == pytest.approx(15.0)
    timing.applied(4, 60.0)

    assert timing.value(100.0) == pytest.approx(20.0)


def test_epochs_of_one_batch_count():
    timing = TrainingTime(2, 1)
    timing.found(0, 0.0)
    timing.step(0, 0.0)
    timing.applied(1, 2.0)
    timing.step(1, 3.0)
    timing.applied(3, 5.0)

    assert timing.value(100.0) == pytest.approx(4.0)


def test_life_that_is_killed_at_once_counts(tmp_path):
    Counters(tmp_path / "counters.json", clock=lambda: 0.0).start({})

    second = Counters(tmp_path / "counters.json", clock=lambda: 0.0)
    second.start({})

    assert second.totals().lives == 2


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


def test_each_epoch_is_noted_once(tmp_path):
    counters = Counters(tmp_path / "counters.json", lambda: 0.0)
    counters.add(bytes_up=100)
    counters.note_sent(0)
    counters.note_sent(1)
    counters.add(bytes_up=50)
    counters.note_sent(1)
    counters.note_sent(2)
    counters.note_applied(1, 5.0)
    counters.note_applied(1, 9.0)  # the next one is under way
    counters.note_applied(3, 12.0)  # two in one word of the cloud
    counters.note_applied(2, 20.0)  # it lost some, and applies them again
    counters.save(12.0)

    totals = Counters(tmp_path / "counters.json", lambda: 0.0).totals()
    assert totals.epoch_train_s == [5.0, 12.0, 12.0]
    assert totals.epoch_bytes_up == [100, 150]
