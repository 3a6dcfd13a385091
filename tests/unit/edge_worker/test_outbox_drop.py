"""--spool-full drop: the oldest batches are given up, counted, and leave no gap."""

import threading
from dataclasses import replace

import pytest
import torch

from common.codec import encode
from common.wire.messages import Batch, EvaluationPart, Position, Skip
from common.wire.records import record_from_bytes, record_to_bytes
from edge_worker.outbox import LONGEST_SKIP, RECORD_OVERHEAD, Outbox
from edge_worker.spool import Spool
from tests.unit import records

START = records.START
# Batches beside which a Skip and what keeping it costs are small.
RUN = replace(records.RUN, activation_shape=(2, 64, 64))
PACKED = encode(torch.rand(4, *RUN.activation_shape, generator=torch.Generator().manual_seed(0)), RUN.bits)


def batch(seq):
    return Batch(seq, PACKED, (0, 1, 2, 3))


def batches(*seqs):
    return [batch(seq) for seq in seqs]


def part(number):
    return EvaluationPart(3, number, 2, PACKED, (1, 1, 0, 1))


SIZE = len(record_to_bytes(batch(0))) + RECORD_OVERHEAD


def sent(outbox):
    """What a new stream would send, as (kind, batches behind it)."""
    outbox.rewind(START)
    found = []
    while (parcel := outbox.take()) is not None:
        record = record_from_bytes(outbox.data_of(parcel), RUN)
        found.append((type(record), record.after.batches))
    return found


def test_the_oldest_batches_make_room_and_keep_their_place():
    outbox = Outbox(3 * SIZE, drop=True)

    waited = [outbox.offer(record) for record in batches(0, 1, 2, 3)]

    assert waited == [0.0] * 4
    # A Skip takes some room, too, so that two batches go.
    assert sent(outbox) == [(Skip, 1), (Skip, 2), (Batch, 3), (Batch, 4)]
    assert outbox.waiting_bytes <= 3 * SIZE


def test_what_was_sent_or_applied_is_given_up_too():
    """The cloud may be gone with it; as long as it is not, it ignores the Skip as a duplicate."""
    outbox = Outbox(3 * SIZE, drop=True)
    for record in batches(0, 1, 2):
        outbox.offer(record)
        outbox.take()
    outbox.confirm(applied=Position(1), durable=START)

    assert outbox.offer(batch(3)) == 0.0

    assert [kind for kind, _ in sent(outbox)] == [Skip, Skip, Batch, Batch]
    outbox.confirm(applied=Position(4), durable=Position(4))
    assert outbox.waiting_bytes == 0
    assert not outbox.wants_save


def test_it_is_told_once_when_batches_begin_to_be_given_up_and_how_many_when_the_cloud_is_back(caplog):
    """A run that loses a third of its data must not look as any other does until its table."""
    outbox = Outbox(3 * SIZE, drop=True)
    for record in batches(0, 1, 2, 3, 4):
        outbox.offer(record)
    assert caplog.messages == [
        "the spool is full: from here on the oldest batches are given up, as --spool-full drop has it"
    ]

    outbox.rewind(START)
    assert caplog.messages[1:] == ["3 batches were given up; the cloud lacks what it had not received"]
    outbox.rewind(START)
    assert len(caplog.messages) == 2

    outbox.offer(batch(5))
    outbox.confirm(Position(6), Position(6))
    assert outbox.drain(lambda: True)
    assert caplog.messages[2:] == [
        caplog.messages[0],
        "1 batch was given up; the cloud lacks what it had not received",
    ]


def test_a_batch_that_the_cloud_has_trained_is_not_told_as_given_up(caplog):
    outbox = Outbox(2 * SIZE + 99, drop=True)
    for record in batches(0, 1):
        outbox.offer(record)
    outbox.confirm(applied=Position(1), durable=START)

    outbox.offer(batch(2))

    assert [kind for kind, _ in sent(outbox)] == [Skip, Skip, Batch]
    assert "1 batch was given up" in caplog.text


def test_evaluations_are_not_given_up():
    outbox = Outbox(4 * SIZE, drop=True)
    for record in (*batches(0, 1, 2), part(0), part(1), batch(3)):
        outbox.offer(record)

    kinds = [kind for kind, _ in sent(outbox)]

    assert kinds.count(EvaluationPart) == 2
    assert kinds[-1] is Batch


def test_where_only_skips_are_left_the_edge_waits():
    outbox = Outbox(1, drop=True)
    outbox.offer(Skip(0))
    offering = threading.Thread(target=outbox.offer, args=(batch(1),))
    offering.start()

    offering.join(0.1)

    assert offering.is_alive()
    outbox.confirm(applied=Position(1), durable=Position(1))
    offering.join(10)
    assert outbox.end == Position(2)


def test_batches_of_an_earlier_life_are_given_up_and_the_spool_learns_it(tmp_path):
    spool = Spool(tmp_path / "spool")
    before = Outbox(1 << 20, spool=spool)
    before.start(START, START)
    for record in batches(0, 1, 2):
        before.offer(record)
    before.commit()
    spool.close()

    spool = Spool(tmp_path / "spool")
    outbox = Outbox(3 * SIZE, spool=spool, drop=True)
    outbox.start(Position(3), START)
    assert outbox.offer(batch(3)) == 0.0
    outbox.commit()
    spool.close()

    spool = Spool(tmp_path / "spool")
    again = Outbox(1 << 20, spool=spool)
    again.start(Position(4), START)
    assert sent(again) == [(Skip, 1), (Skip, 2), (Batch, 3), (Batch, 4)]
    spool.close()


@pytest.mark.parametrize("record", [Skip(2**40), Skip(0)])
def test_a_skip_is_never_taken_for_a_batch(record):
    assert len(record_to_bytes(record)) <= LONGEST_SKIP < len(record_to_bytes(records.batch(0)))
