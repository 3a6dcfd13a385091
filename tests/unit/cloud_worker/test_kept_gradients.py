"""Gradients are had again until the edge has a checkpoint behind them."""

import dataclasses
import errno
import os

import pytest

from cloud_worker import kept_gradients
from cloud_worker.kept_gradients import KeptGradients, kept_gradients_bytes
from common.errors import CapacityError, CheckpointError, SessionError
from tests.unit.records import RUN

MUCH = 1 << 20


@pytest.fixture
def directory(tmp_path):
    return tmp_path / "gradients"


@pytest.fixture
def kept(directory):
    return KeptGradients(directory, MUCH)


def again(directory, applied):
    """What a cloud has that comes back with a checkpoint after so many batches."""
    made = KeptGradients(directory, MUCH)
    made.restore(applied)
    return made


def gone(kept, seq):
    with pytest.raises(SessionError, match=f"the gradient of batch {seq} is not kept any more"):
        kept.read(seq)


def names(directory):
    return sorted(int(path.stem) for path in directory.iterdir())


def test_what_is_kept_is_had_again_in_memory_on_the_disk_and_after_a_restart(kept, directory):
    kept.keep(7, b"seven")
    kept.keep(8, b"eight")
    assert kept.read(7) == b"seven"
    assert not directory.exists()  # no disk is waited for by a batch
    kept.save()
    kept.keep(9, b"nine")

    assert [kept.read(seq) for seq in (7, 8, 9)] == [b"seven", b"eight", b"nine"]
    assert names(directory) == [7]
    assert again(directory, 9).read(8) == b"eight"


def test_what_was_not_saved_is_gone_with_the_process_and_kept_anew(kept, directory):
    kept.keep(0, b"zero")
    kept.save()
    kept.keep(1, b"one")

    back = again(directory, 1)
    gone(back, 1)
    back.keep(1, b"one")
    assert back.read(1) == b"one"


def test_a_cloud_set_back_to_an_older_checkpoint_keeps_what_it_applies_anew(kept, directory):
    for first in (0, 3, 6):
        for seq in range(first, first + 3):
            kept.keep(seq, b"first %d" % seq)
        kept.save()

    back = again(directory, 4)
    assert [back.read(seq) for seq in (2, 3)] == [b"first 2", b"first 3"]
    gone(back, 4)
    assert names(directory) == [0, 3]
    for seq in (4, 5, 6):
        back.keep(seq, b"second %d" % seq)
    back.save()
    assert [again(directory, 7).read(seq) for seq in (3, 4, 5, 6)] == [
        b"first 3",
        b"second 4",
        b"second 5",
        b"second 6",
    ]


def test_what_the_edge_needs_no_more_is_gone_also_what_an_earlier_life_kept(kept, directory):
    for seq in range(6):
        kept.keep(seq, b"x")
        if seq % 2:
            kept.save()
    back = again(directory, 6)
    back.keep(6, b"unsaved")
    back.forget(below=3)

    gone(back, 2)
    assert back.read(3) == b"x"
    assert names(directory) == [2, 4]
    back.forget(below=7)
    assert names(directory) == []
    gone(back, 6)
    back.save()


def test_what_was_said_not_to_be_needed_is_not_kept_when_it_is_applied_again(directory):
    back = again(directory, 0)
    back.forget(below=2)
    for seq in range(3):
        back.keep(seq, b"x")
    back.save()

    gone(back, 1)
    assert (back.read(2), names(directory)) == (b"x", [2])


def test_a_session_without_gradients_makes_no_directory(kept, directory):
    kept.save()
    kept.forget(below=9)
    kept.restore(3)

    assert not directory.exists()


def test_other_files_are_left_alone(directory):
    directory.mkdir()
    (directory / "notes.txt").write_text("mine")
    again(directory, 0).forget(below=9)

    assert (directory / "notes.txt").exists()


@pytest.mark.parametrize("cut", [lambda data: data[:-1], lambda data: data[:-1] + b"N"])
def test_a_damaged_one_is_refused_and_the_others_are_had(kept, directory, cut):
    kept.keep(7, b"seven")
    kept.keep(8, b"eighteen")
    kept.save()
    (path,) = directory.iterdir()
    path.write_bytes(cut(path.read_bytes()))

    back = again(directory, 9)
    assert back.read(7) == b"seven"
    with pytest.raises(CheckpointError, match="the gradient of batch 8 does not match its checksum"):
        back.read(8)


def test_a_full_disk_is_said_and_nothing_is_lost(kept, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    kept.keep(0, b"x")
    with monkeypatch.context() as disk:
        disk.setattr(os, "fsync", full)
        with pytest.raises(CheckpointError, match=r"cannot (make|write) .*: No space left"):
            kept.save()

    assert kept.read(0) == b"x"
    kept.save()


def test_an_edge_that_never_saves_is_refused_before_the_disk_is_full(directory):
    kept = KeptGradients(directory, 700)
    for seq in range(3):
        kept.check_room()
        kept.keep(seq, bytes(16))
        kept.save()

    with pytest.raises(CapacityError, match="keeps 816B of gradients, of 700B at most; the edge must say"):
        kept.check_room()
    kept.forget(below=1)
    kept.check_room()


def test_much_in_memory_goes_to_the_disk(kept, directory, monkeypatch):
    monkeypatch.setattr(kept_gradients, "SPILL_AFTER_BYTES", 1000)
    kept.keep(0, bytes(500))
    kept.spill()
    assert not directory.exists()
    kept.keep(1, bytes(500))
    kept.spill()
    assert names(directory) == [0]
    kept.keep(2, bytes(500))
    kept.spill()
    assert names(directory) == [0]


def test_a_file_that_a_kill_left_half_written_is_gone_after_a_restart(kept, directory):
    kept.keep(0, b"zero")
    kept.save()
    (directory / "0000000000000003.gradients.partial").write_bytes(b"half")

    assert again(directory, 3).read(0) == b"zero"
    assert [path.name for path in directory.iterdir()] == ["0000000000000000.gradients"]


def test_disk_space_is_set_aside_for_what_a_run_can_keep():
    split = dataclasses.replace(RUN, strategy="split-learning", gradient_bits=8)

    assert kept_gradients_bytes(RUN) == 0
    assert 0 < kept_gradients_bytes(split) < 40_000  # six batches of eight values, and some room
    assert kept_gradients_bytes(dataclasses.replace(split, total_batches=1 << 40)) == kept_gradients.MAX_BYTES
