"""Power loss at any write of a checkpoint and of the spool commit before it: there is always a way on."""

import pytest
import torch

from common.wire.messages import Position
from common.wire.records import record_to_bytes
from edge_worker import spool as spools
from edge_worker.checkpoints import EdgeCheckpoints
from edge_worker.outbox import Outbox
from edge_worker.runlog import LogMark
from edge_worker.spool import Spool
from edge_worker.spool_file import Entry, Kept
from tests.unit.disk import MODES, Disk, RecordingOs, RecordingVfs, connect_in_haste
from tests.unit.records import batch

SAVES = 5
BATCHES = 3  # between two of them


@pytest.fixture
def disk(tmp_path, monkeypatch):
    (tmp_path / "run").mkdir()
    disk = Disk(tmp_path / "run")
    # The write-ahead log is copied back into the database every few pages, so that this is seen, too.
    monkeypatch.setattr(spools, "_PAGES_BETWEEN_SYNCS", 4)
    return disk


def train(disk, monkeypatch):
    """Offer batches and save as the training loop does; return what is promised from which operation on."""
    promises = [(0, Position(0))]
    vfs = RecordingVfs(disk)
    with monkeypatch.context() as patched:
        RecordingOs(disk).patch(patched)
        spool = Spool(disk.folder / "spool.sqlite", vfs.connect)
        outbox = Outbox(1 << 20, memory_bytes=150, spool=spool)
        outbox.start(Position(0), Position(0))
        checkpoints = EdgeCheckpoints(disk.folder / "checkpoints")
        for save in range(SAVES):
            for seq in range(BATCHES * save, BATCHES * (save + 1)):
                outbox.offer(batch(seq))
            outbox.commit()
            checkpoints.save(
                outbox.end, LogMark(), {}, {"weight": torch.full((2,), float(outbox.end.batches))}
            )
            promises.append((len(disk.ops), outbox.end))
            # The cloud is a save behind.
            outbox.confirm(applied=outbox.end, durable=Position(BATCHES * save + 1))
        patched.undo()
    spool.close()
    return promises


def resume(folder):
    """Return what a run finds that starts again after the power is back."""
    spool = Spool(folder / "spool.sqlite", connect_in_haste)
    checkpoints = EdgeCheckpoints(folder / "checkpoints")
    assert spool.start is not None
    checkpoint = checkpoints.newest_up_to(max(spool.start, spool.end))
    outbox = Outbox(1 << 20, spool=spool)
    outbox.start(checkpoint.position, spool.start)
    sent = []
    while (parcel := outbox.take()) is not None:
        sent.append((parcel.after.batches, outbox.data_of(parcel)))
    spool.close()
    return spool, checkpoint, sent


def test_a_power_cut_at_any_write_leaves_what_was_promised(disk, monkeypatch, tmp_path):
    """The last checkpoint that was saved, its weights, and each record before it that the cloud may lack."""
    promises = train(disk, monkeypatch)
    (tmp_path / "after").mkdir()
    seen = set()

    for count, mode, folder in disk.states(tmp_path / "after"):
        folder.mkdir(exist_ok=True)
        spool, checkpoint, sent = resume(folder)
        found = checkpoint.position.batches
        promised = max(position for done, position in promises if done <= count)
        where = f"{mode} after {disk.ops[count - 1][:2] if count else 'nothing'}"
        assert found >= promised.batches, where
        weights = None if checkpoint.tensors is None else checkpoint.tensors["weight"].tolist()
        assert weights == ([found, found] if found else None), where
        wanted = range(spool.start.batches + 1, found + 1)
        assert sent == [(number, record_to_bytes(batch(number - 1))) for number in wanted], where
        seen.add((found, mode))

    assert seen == {(BATCHES * save, mode) for save in range(SAVES + 1) for mode in MODES}


def test_the_cut_is_felt_where_a_commit_does_not_wait_for_the_disk(disk, monkeypatch, tmp_path):
    """Else the test above would prove nothing."""
    write = Spool.write
    monkeypatch.setattr(
        Spool, "write", lambda self, entries, start, synced: write(self, entries, start, False)
    )
    monkeypatch.setattr(spools, "_PAGES_BETWEEN_SYNCS", 1000)
    promises = train(disk, monkeypatch)
    lost = 0

    for _, _, folder in disk.states(tmp_path / "after", start=promises[-2][0]):
        spool = Spool(folder / "spool.sqlite", connect_in_haste)
        lost += spool.end is None or spool.end < promises[-2][1]
        spool.close()

    assert lost > 0


@pytest.mark.parametrize("closed", [True, False], ids=["closed", "killed"])
def test_a_power_cut_while_a_spool_is_made_anew_costs_no_record(disk, monkeypatch, tmp_path, closed):
    """Whichever file is found, the old or the new one, it has all that are whole, from the true start on."""
    path = disk.folder / "spool.sqlite"
    vfs = RecordingVfs(disk)
    with monkeypatch.context() as patched:
        RecordingOs(disk).patch(patched)
        former = Spool(path, vfs.connect)
        # In another order than in the new file, in which a page of the old one's log would be out of place.
        former.write([entry(number) for number in (8, 6, 5)], Position(4), synced=True)
        former._writer.execute("PRAGMA wal_checkpoint")
        former.write([entry(7)], Position(4), synced=True)
        if closed:
            former.close()
        flip(disk, path, entry(8).data)
        begun = len(disk.ops)
        spool = Spool(path, vfs.connect)
        assert (spool.damage is None, spool.end) == (False, Position(7))
        spool.restart(Position(4), Position(7))
        spool.close()

    seen = set()
    for count, mode, folder in disk.states(tmp_path / "after", start=begun):
        folder.mkdir(parents=True, exist_ok=True)
        where = f"{mode} after {disk.ops[count - 1][:2]}"
        for _ in range(2):
            spool = Spool(folder / "spool.sqlite", connect_in_haste)
            seen.add(spool.damage is None)
            assert (spool.start, spool.end) == (Position(4), Position(7)), where
            assert [spool.read(kept.after) for kept in spool.records] == [entry(n).data for n in (5, 6, 7)], (
                where
            )
            spool.restart(Position(4), Position(7))
            spool.close()
    former.close()
    assert seen == {False, True}


def entry(number):
    data = bytes([number]) * 5000  # on pages of its own
    return Entry(Kept(Position(number - 1), Position(number), False, len(data)), data)


def flip(disk, path, data):
    """Flip a bit of the record with these bytes."""
    at = path.read_bytes().index(data[:2000]) + 1000
    with path.open("r+b") as file:
        file.seek(at)
        file.write(bytes([data[0] ^ 1]))
    disk.note("write", path, at, bytes([data[0] ^ 1]))
    disk.note("sync", path)
