"""An outbox with a spool: what lies where, and what outlasts the process."""

import pytest

from common.codec import Packed
from common.wire.messages import Batch, EvaluationPart, Position
from common.wire.records import record_to_bytes
from edge_worker.outbox import RECORD_OVERHEAD, Outbox
from edge_worker.spool import Spool
from tests.unit.records import PACKED

START = Position(0)


def packed(fill):
    return Packed(8, PACKED.shape, PACKED.low, PACKED.scale, bytes([fill]) * 8000)


def batch(seq):
    return Batch(seq, packed(seq), (0, 1, 2, 3))


def part(batches):
    return EvaluationPart(batches, 0, 1, packed(0), (0, 1, 2, 3))


# The largest of them: numbers take more or fewer bytes.
SIZE = len(record_to_bytes(part(1)))
ROOM = SIZE + RECORD_OVERHEAD


@pytest.fixture
def make(tmp_path):
    """Make an outbox on the same spool, as a process after the other does."""
    spools = []

    def make(*records, limit=1 << 20, memory=1 << 20, at=START, settled=START):
        for spool in spools:
            spool.close()
        spools.append(Spool(tmp_path / "spool.sqlite"))
        outbox = Outbox(limit, memory, spools[-1])
        outbox.start(at, settled)
        for record in records:
            outbox.offer(record)
        return outbox

    yield make
    for spool in spools:
        spool.close()


def taken(outbox):
    """Take all that waits; return the records as the cloud would get them."""
    records = []
    while (parcel := outbox.take()) is not None:
        data = outbox.data_of(parcel)
        assert parcel.kept.size == len(data)
        records.append(data)
    return records


def as_sent(*records):
    return [record_to_bytes(record) for record in records]


def in_memory(outbox):
    """Which of the records that wait have their bytes in memory, by number."""
    return [number for number, parcel in enumerate(outbox._parcels) if parcel.data is not None]


# -------------------------------------------------------------------- memory and disk


def test_what_memory_has_no_room_for_lies_in_the_spool_and_is_sent_in_its_turn(make):
    outbox = make(*map(batch, range(5)), memory=2 * SIZE)

    assert in_memory(outbox) == [0, 1]
    assert taken(outbox) == as_sent(*map(batch, range(5)))


def test_memory_is_used_again_for_what_was_sent_and_lies_in_the_spool_too(make):
    """So that a long outage does not leave the newest records to the disk for ever."""
    outbox = make(batch(0), batch(1), memory=2 * SIZE)
    outbox.commit()
    assert outbox.take() is not None

    outbox.offer(batch(2))

    assert in_memory(outbox) == [1, 2]
    outbox.rewind(Position(0))
    assert taken(outbox) == as_sent(batch(0), batch(1), batch(2))


def test_memory_is_free_again_once_the_cloud_has_it_durably(make):
    outbox = make(batch(0), batch(1), memory=2 * SIZE)
    taken(outbox)
    outbox.confirm(applied=Position(2), durable=Position(2))

    outbox.offer(batch(2))

    assert in_memory(outbox) == [0]


# -------------------------------------------------------------------- the next process


def test_what_was_committed_is_sent_by_the_next_process(make):
    make(batch(0), batch(1), part(2), memory=2 * SIZE).commit()

    outbox = make(at=Position(2, 1))

    assert taken(outbox) == as_sent(batch(0), batch(1), part(2))


def test_what_was_not_committed_is_computed_again(make):
    """It lay in memory only: the process goes on from the checkpoint that was committed."""
    first = make(batch(0))
    first.commit()
    first.offer(batch(1))

    outbox = make(batch(1), at=Position(1))

    assert taken(outbox) == as_sent(batch(0), batch(1))


def test_what_lies_beyond_the_checkpoint_is_dropped_and_offered_anew(make):
    """Spilled, but computed again from the checkpoint: it must not be sent twice."""
    first = make(batch(0), memory=SIZE)
    first.commit()
    for seq in (1, 2, 3):
        first.offer(batch(seq))

    outbox = make(batch(1), batch(2), at=Position(1))

    assert taken(outbox) == as_sent(batch(0), batch(1), batch(2))


def test_what_the_cloud_has_durably_is_not_taken_over(make):
    make(*map(batch, range(4))).commit()

    outbox = make(at=Position(4), settled=Position(3))

    assert taken(outbox) == as_sent(batch(3))
