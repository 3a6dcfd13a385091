"""Which of the edge's checkpoints are kept, and which one a run resumes from."""

import logging

import pytest
import torch

from common.errors import CheckpointError
from common.wire.messages import Position
from edge_worker.checkpoints import BEGINNING, Checkpoint, EdgeCheckpoints
from edge_worker.runlog import LogMark


def save(checkpoints, batches, parts=0, losses=0):
    """Save what the edge has after `batches` batches; its state says which it is."""
    checkpoints.save(
        Position(batches, parts),
        LogMark(length=100 * batches, losses=losses),
        {"bytes_up": 1000 * batches},
        {"weight": torch.full((2,), float(batches))},
    )


def kept(folder):
    return sorted(int(path.stem) for path in folder.iterdir())


def damage(folder, batches):
    path = folder / f"{batches:012d}.ckpt"
    path.write_bytes(path.read_bytes()[:-1])


@pytest.fixture
def three(tmp_path):
    """A run that saved at 10, 20 and 30, and starts again."""
    checkpoints = EdgeCheckpoints(tmp_path)
    for batches in (10, 20, 30):
        save(checkpoints, batches)
    return EdgeCheckpoints(tmp_path)


def test_a_run_without_checkpoints_begins_at_the_beginning(tmp_path):
    found = EdgeCheckpoints(tmp_path / "checkpoints").newest_up_to(BEGINNING)

    assert found == Checkpoint(position=BEGINNING, mark=LogMark(), totals={}, tensors=None)


def test_what_is_saved_comes_back_in_the_next_life(tmp_path):
    mark = LogMark(
        length=812,
        losses=7,
        results=({"batches": 5, "correct": 3, "total": 4, "loss": 0.5},),
        edge_accuracy=0.25,
    )
    weights = torch.arange(6.0).view(2, 3)
    EdgeCheckpoints(tmp_path).save(Position(10, 2), mark, {"bytes_up": 5}, {"weight": weights})

    found = EdgeCheckpoints(tmp_path).newest_up_to(Position(10, 2))

    assert (found.position, found.mark, found.totals) == (Position(10, 2), mark, {"bytes_up": 5})
    assert torch.equal(found.tensors["weight"], weights)


@pytest.mark.parametrize(("covered", "resumed"), [((20, 0), 20), ((29, 0), 20), ((30, 0), 30), ((99, 0), 30)])
def test_the_newest_whose_records_are_all_there_is_resumed_from(three, covered, resumed):
    """A damaged spool may have lost some."""
    found = three.newest_up_to(Position(*covered))

    assert found.position == Position(resumed)
    assert found.mark.length == 100 * resumed
    assert found.tensors["weight"].tolist() == [resumed, resumed]


def test_nothing_is_resumed_from_where_records_before_every_checkpoint_are_lost(three):
    with pytest.raises(CheckpointError, match=r"whole up to batch 19 only; start a new run"):
        three.newest_up_to(Position(19))


def test_a_checkpoint_behind_an_evaluation_needs_all_its_parts(tmp_path):
    """The batches are there, but not the images that the accuracy after them is measured on."""
    checkpoints = EdgeCheckpoints(tmp_path)
    save(checkpoints, 10)
    save(checkpoints, 20, parts=4)

    assert EdgeCheckpoints(tmp_path).newest_up_to(Position(20, 4)).position == Position(20, 4)
    assert EdgeCheckpoints(tmp_path).newest_up_to(Position(20, 3)).position == Position(10)


def test_a_checkpoint_newer_than_the_one_resumed_from_is_gone(tmp_path):
    """It marks a place in a log that is cut back and written anew: a later start must not go there."""
    checkpoints = EdgeCheckpoints(tmp_path)
    save(checkpoints, 10)
    save(checkpoints, 20)

    assert EdgeCheckpoints(tmp_path).newest_up_to(Position(10)).position == Position(10)
    assert EdgeCheckpoints(tmp_path).newest_up_to(Position(22)).position == Position(10)


def test_a_run_with_one_checkpoint_may_yet_begin_anew(tmp_path):
    """All its records from the first on are computed again."""
    save(EdgeCheckpoints(tmp_path), 10)
    damage(tmp_path, 10)

    assert EdgeCheckpoints(tmp_path).newest_up_to(Position(10)).position == BEGINNING
    assert kept(tmp_path) == []


def test_the_last_two_are_kept(tmp_path):
    checkpoints = EdgeCheckpoints(tmp_path)
    seen = []
    for batches in (10, 20, 30, 40):
        save(checkpoints, batches)
        seen.append(kept(tmp_path))

    assert seen == [[10], [10, 20], [20, 30], [30, 40]]


def test_a_damaged_newest_is_passed_over_for_the_one_before(three, tmp_path, caplog):
    damage(tmp_path, 30)

    with caplog.at_level(logging.WARNING):
        found = EdgeCheckpoints(tmp_path).newest_up_to(Position(30))

    assert found.position == Position(20)
    assert [record.message for record in caplog.records] == [
        f"{tmp_path / '000000000030.ckpt'} is damaged: its checksum does not match its content; "
        "it is passed over"
    ]


def test_a_damaged_one_is_written_anew_when_its_batch_comes_again(three, tmp_path):
    damage(tmp_path, 30)
    resumed = EdgeCheckpoints(tmp_path)
    save(resumed, 30)

    assert kept(tmp_path) == [20, 30]
    assert EdgeCheckpoints(tmp_path).newest_up_to(Position(30)).position == Position(30)


def test_a_checkpoint_that_cannot_be_written_costs_no_older_one(three, tmp_path, monkeypatch):
    with monkeypatch.context() as full:
        full.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        with pytest.raises(CheckpointError, match="No space left on device; make room"):
            save(three, 40)

    assert kept(tmp_path) == [20, 30]
    assert EdgeCheckpoints(tmp_path).newest_up_to(Position(35)).position == Position(30)


def test_the_cloud_forgets_only_losses_that_every_checkpoint_in_question_has(tmp_path):
    """Whichever is resumed from, its log is cut back, and what then lacks must be told again."""
    checkpoints = EdgeCheckpoints(tmp_path)
    assert checkpoints.losses_from == 0

    save(checkpoints, 10, losses=3)
    assert checkpoints.losses_from == 0, "the run may yet begin anew"
    save(checkpoints, 20, losses=7)
    assert checkpoints.losses_from == 3
    save(checkpoints, 30, losses=18)
    assert checkpoints.losses_from == 7, "the newest may turn out to be damaged"
    assert EdgeCheckpoints(tmp_path).losses_from == 7


def test_what_a_cloud_that_is_ahead_tells_of_later_batches_is_still_needed(tmp_path):
    """After a kill its losses come at once; what their batches gave for the front is wanted step by step."""
    checkpoints = EdgeCheckpoints(tmp_path)
    save(checkpoints, 142, losses=150)
    save(checkpoints, 144, losses=150)

    assert checkpoints.losses_from == 142
