"""The spool: what is written comes back whole or not at all, whatever became of the file."""

import sqlite3
from contextlib import closing, suppress

import pytest

from common.errors import CheckpointError
from common.wire.messages import Position
from edge_worker.spool import Spool
from edge_worker.spool_file import Entry, Kept
from tests.unit.disk import connect_in_haste


def entry(batches, data=None):
    """Return the record of batch `batches - 1`."""
    data = data if data is not None else bytes([batches]) * 5000
    return Entry(Kept(Position(batches - 1), Position(batches), False, len(data)), data)


def filled(path, *batches, start=0):
    spool = Spool(path)
    for number in batches:
        spool.write([entry(number)], Position(start), synced=False)
    spool.close()
    return path


def held(spool):
    return [kept.after.batches for kept in spool.records]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "spool.sqlite"


def test_a_new_spool_holds_nothing(path):
    spool = Spool(path)

    assert (spool.start, spool.end, held(spool), spool.damage) == (Position(0), Position(0), [], None)


def test_what_was_written_comes_back_in_the_next_life(path):
    filled(path, 1, 2, 3)

    spool = Spool(path)

    assert held(spool) == [1, 2, 3]
    assert spool.end == Position(3)
    assert [spool.read(Position(number)) for number in (3, 1)] == [b"\3" * 5000, b"\1" * 5000]


def test_what_the_cloud_has_durably_is_dropped(path):
    filled(path, 1, 2, 3)
    spool = Spool(path)
    spool.write([entry(4)], Position(2), synced=True)
    spool.close()

    spool = Spool(path)

    assert (spool.start, held(spool)) == (Position(2), [3, 4])


def test_a_restart_keeps_what_lies_between_the_cloud_and_the_checkpoint(path):
    filled(path, 1, 2, 3, 4, 5)
    spool = Spool(path)

    spool.restart(Position(1), Position(3))

    spool.close()
    assert held(Spool(path)) == [2, 3]


def test_a_record_that_comes_again_replaces_the_first(path):
    """A Skip may stand for a batch that lies here already."""
    filled(path, 1)
    spool = Spool(path)
    spool.write([entry(1, b"skip")], Position(0), synced=False)

    assert spool.read(Position(1)) == b"skip"


def test_room_is_used_again(path):
    """The file does not grow with the run, only with what waits."""
    spool = Spool(path)
    sizes = []
    for number in range(1, 201):
        data = bytes(20_000)
        spool.write([entry(number, data)], Position(max(0, number - 10)), synced=number % 10 == 0)
        sizes.append(path.stat().st_size)

    assert max(sizes) < 40 * 20_000


@pytest.mark.parametrize("at", [0, 40, 4096 + 1, 0.3, 0.6, -2500])
def test_a_flipped_bit_never_comes_back_as_a_record(path, at):
    """Whatever is read is what was written; what is not is named."""
    filled(path, *range(1, 9))
    raw = bytearray(path.read_bytes())
    where = int(len(raw) * at) if isinstance(at, float) else at
    raw[where] ^= 1
    path.write_bytes(raw)

    spool = Spool(path)

    for kept in spool.records:
        assert spool.read(kept.after) == bytes([kept.after.batches]) * 5000
    assert held(spool) == list(range(1, len(held(spool)) + 1))
    assert len(held(spool)) == 8 or spool.damage is not None


@pytest.mark.parametrize("left", [0, 100, 4096, 8192, 0.5, -1])
def test_a_spool_cut_short_is_named_and_what_is_whole_of_it_used(path, left, caplog):
    filled(path, *range(1, 9))
    raw = path.read_bytes()
    path.write_bytes(raw[: int(len(raw) * left) if isinstance(left, float) else left])

    spool = Spool(path)

    assert held(spool) == list(range(1, len(held(spool)) + 1))
    for kept in spool.records:
        assert spool.read(kept.after) == bytes([kept.after.batches]) * 5000
    if left:  # an empty file is a new spool
        assert spool.damage is not None
        assert f"{path} is damaged" in caplog.text


@pytest.mark.parametrize("left", [1, 100, 4096, 8192, 0.5])
def test_a_damaged_spool_is_made_anew(path, left):
    filled(path, *range(1, 9))
    raw = path.read_bytes()
    path.write_bytes(raw[: int(len(raw) * left) if isinstance(left, float) else left])
    spool = Spool(path)
    whole = held(spool)

    spool.restart(Position(0), Position(8))
    spool.write([entry(9)], Position(0), synced=True)
    spool.close()

    assert held(Spool(path))[: len(whole)] == whole


def test_a_missing_record_ends_what_can_be_used(path, caplog):
    """A process that was killed may have spilled a record before one that it had in memory."""
    filled(path, 1, 2, 4)

    spool = Spool(path)

    assert held(spool) == [1, 2]
    assert caplog.text == ""
    spool.restart(Position(0), Position(2))
    spool.write([entry(3)], Position(0), synced=False)
    spool.close()
    assert held(Spool(path)) == [1, 2, 3]


def test_a_full_disk_is_named_and_changes_nothing(path):
    def connect(name):
        connection = sqlite3.connect(name, isolation_level=None, check_same_thread=False)
        connection.execute("PRAGMA max_page_count = 6")
        return connection

    spool = Spool(path, connect)
    spool.write([entry(1)], Position(0), synced=True)
    with pytest.raises(CheckpointError, match=r"spool\.sqlite: .*full; make room and start again"):
        spool.write([entry(2, bytes(100_000))], Position(1), synced=True)
    spool.close()

    assert (Spool(path).start, held(Spool(path))) == (Position(0), [1])


def test_no_flipped_bit_is_in_the_way_of_a_start(path, caplog, monkeypatch):
    """Each seventh bit: what comes back was written, what does not is named, and the next life is well."""
    monkeypatch.setattr("os.fsync", lambda handle: None)

    entries = [entry(number, bytes([number]) * 40) for number in range(1, 9)]
    spool = Spool(path, connect_in_haste)
    spool.write(entries, Position(2), synced=True)
    spool.close()
    raw = path.read_bytes()
    for bit in [bit for bit in range(8 * len(raw)) if raw[bit // 8]][::7]:
        flipped = bytearray(raw)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        caplog.clear()
        where = f"bit {bit % 8} of byte {bit // 8}"

        spool = Spool(path, connect_in_haste)
        found = list(spool.records)
        assert found == [each.kept for each in entries[2 : 2 + len(found)]], where
        assert (spool.start, len(found)) == (Position(2), 6) or spool.damage is not None, where
        assert all(message.isprintable() for message in caplog.messages), where
        for kept in found:
            with suppress(CheckpointError):  # which a restart mends
                assert spool.read(kept.after) == entries[kept.after.batches - 1].data, where
        end = spool.end or Position(2)
        spool.restart(Position(2), end)
        added = entry(end.batches + 1, b"new")
        spool.write([added], Position(2), synced=True)
        spool.close()

        spool = Spool(path, connect_in_haste)
        assert (spool.damage, spool.start) == (None, Position(2)), where
        assert list(spool.records) == [*found, added.kept], where
        for each in [*entries[2 : 2 + len(found)], added]:
            assert spool.read(each.kept.after) == each.data, where
        spool.close()
        spool.remove()


@pytest.mark.parametrize("bit", [2, 3])
def test_where_the_records_begin_survives_a_flipped_bit(path, bit):
    """Else it would stand before or after the true place, and whole records would be dropped for it."""
    filled(path, *range(1, 9), start=4)
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("UPDATE state SET start = start + ? WHERE copy = 1", (1 << 32 + bit,))

    spool = Spool(path)

    assert (spool.start, held(spool)) == (Position(4), [5, 6, 7, 8])
    assert spool.damage == f"{path} is damaged: where its records begin is not as it was written"
    spool.restart(Position(4), Position(8))
    spool.close()
    assert held(Spool(path)) == [5, 6, 7, 8]


def test_a_file_with_other_tables_is_made_anew(path):
    with closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE state (one INTEGER PRIMARY KEY, start INTEGER)")

    spool = Spool(path)

    assert (spool.start, spool.end) == (None, None)
    assert spool.damage == f"{path} is damaged: it does not have the tables of a spool"
    spool.restart(Position(3), Position(3))
    spool.close()
    assert (Spool(path).start, Spool(path).damage) == (Position(3), None)


def test_damage_while_it_is_used_is_one_line(path):
    spool = Spool(path)
    spool.write([entry(1)], Position(0), synced=True)
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("UPDATE records SET data = 'text', before = x'00ff'")

    with pytest.raises(CheckpointError, match=r"^.*does not have the record of batch 1 .*; start again .*$"):
        spool.read(Position(1))


def test_a_file_that_cannot_be_used_stays_as_it_is(path):
    """It may be whole: what is in the way is named, not taken for damage."""
    filled(path, 1, 2)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(CheckpointError, match="database is locked; mend that and start again"):
            Spool(path, lambda name: sqlite3.connect(name, timeout=0, isolation_level=None))

    assert held(Spool(path)) == [1, 2]


def test_a_finished_run_leaves_no_spool(path):
    spool = Spool(path)
    spool.write([entry(1)], Position(0), synced=True)
    (path.parent / "spool.sqlite.building").touch()

    spool.remove()

    assert list(path.parent.iterdir()) == []
