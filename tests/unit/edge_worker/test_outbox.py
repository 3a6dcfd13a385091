"""The outbox: order, bound, and what a broken link or a restarted cloud may ask for again."""

import threading

import pytest

from common.errors import CloudError, SessionError
from common.wire.messages import EvaluationPart, Position, Skip
from common.wire.records import record_to_bytes
from edge_worker.outbox import RECORD_OVERHEAD, Outbox
from tests.unit.records import PACKED

SIZE = len(record_to_bytes(Skip(1))) + RECORD_OVERHEAD


def filled(count, limit=1 << 20):
    outbox = Outbox(limit)
    for seq in range(1, count + 1):
        outbox.offer(Skip(seq))
    return outbox


def taken(outbox):
    positions = []
    while (parcel := outbox.take()) is not None:
        positions.append(parcel.after.batches)
    return positions


def test_records_are_taken_once_in_order():
    assert taken(filled(3)) == [2, 3, 4]


def test_a_new_stream_gets_again_what_the_cloud_lacks():
    """Sent is not applied: the cloud says where it stands."""
    outbox = filled(4)
    taken(outbox)

    outbox.rewind(Position(3))

    assert taken(outbox) == [4, 5]


def test_what_is_durable_is_dropped_and_the_rest_can_be_sent_again():
    outbox = filled(4)
    taken(outbox)
    outbox.confirm(applied=Position(4), durable=Position(3))

    outbox.rewind(Position(3))

    assert taken(outbox) == [4, 5]


def test_a_cloud_that_lost_what_it_had_confirmed_is_refused_with_both_numbers():
    outbox = filled(4)
    outbox.confirm(applied=Position(4), durable=Position(4))

    with pytest.raises(SessionError, match=r"stands at batch 2, .* batch\s4 durably"):
        outbox.rewind(Position(2))


def test_records_that_the_cloud_has_already_are_not_sent_again():
    """An edge that resumes from an older checkpoint computes them anew; the cloud would ignore them."""
    outbox = Outbox(1 << 20)
    outbox.start(Position(0), settled=Position(2))
    outbox.rewind(Position(3))
    for seq in range(5):
        outbox.offer(Skip(seq))

    assert taken(outbox) == [4, 5]


def test_offering_waits_while_the_outbox_is_full_and_goes_on_when_there_is_room():
    outbox = filled(2, limit=2 * SIZE)
    third = threading.Thread(target=outbox.offer, args=(Skip(3),))
    third.start()
    assert outbox.end == Position(3)

    outbox.confirm(applied=Position(2), durable=Position(2))
    third.join(10)

    assert outbox.end == Position(4)
    assert outbox.waiting_bytes == 2 * SIZE


def test_one_record_fits_however_small_the_limit():
    assert taken(filled(1, limit=1)) == [2]


def test_failure_of_the_uplink_reaches_who_offers():
    outbox = filled(1, limit=1)
    caught = []

    def offer():
        try:
            outbox.offer(Skip(2))
        except CloudError as error:
            caught.append(str(error))

    thread = threading.Thread(target=offer)
    thread.start()
    outbox.fail(CloudError("gone"))
    thread.join(10)

    assert caught == ["gone"]


def test_an_interrupted_run_is_not_held_up_by_a_full_outbox():
    outbox = filled(1, limit=1)

    outbox.leave()
    outbox.offer(Skip(2))

    assert outbox.end == Position(3)


def test_a_save_is_wanted_only_where_it_would_free_room():
    outbox = filled(8, limit=10 * SIZE)
    assert not outbox.wants_save  # over half full, but the cloud has applied nothing yet

    outbox.confirm(applied=Position(5), durable=Position(0))
    assert outbox.wants_save

    outbox.confirm(applied=Position(5), durable=Position(5))
    assert not outbox.wants_save


def test_settled_means_that_all_offered_is_durable():
    outbox = filled(2)
    drained = []
    waiting = threading.Thread(target=lambda: drained.append(outbox.drain(lambda: True)))
    waiting.start()
    outbox.confirm(applied=Position(3), durable=Position(2))
    assert drained == []

    outbox.confirm(applied=Position(3), durable=Position(3))
    waiting.join(10)
    assert drained == [True]


def test_a_save_is_wanted_where_an_offer_waits_and_the_cloud_has_nothing_left_to_apply():
    """Records may be so large that the room is less than half full, and there is still none for another."""
    outbox = Outbox(4 * SIZE)
    outbox.offer(Skip(1))
    outbox.confirm(applied=Position(2), durable=Position(0))
    assert not outbox.wants_save
    large = threading.Thread(target=outbox.offer, args=(EvaluationPart(2, 0, 1, PACKED, (0,) * 4 * SIZE),))
    large.start()
    while not outbox.wants_save:
        large.join(0.01)
        assert large.is_alive()

    outbox.confirm(applied=Position(2), durable=Position(2))
    large.join(10)

    assert outbox.end == Position(2, 1)
    assert not outbox.wants_save
