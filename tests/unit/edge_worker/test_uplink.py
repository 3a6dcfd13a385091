"""What the uplink sends, and sends again; the cloud does as it is told."""

import contextlib
import queue
import threading

import grpc
import pytest

from common.codec import Packed
from common.link.framing import STREAM_OPEN_BYTES, wire_bytes
from common.wire.messages import Ack, Batch, Chunk, Note, Position, Skip
from common.wire.records import record_to_bytes
from tests.unit.edge_worker.conftest import WINDOW
from tests.unit.edge_worker.fake_cloud import abort, deaf, fake_cloud, serving, welcome
from tests.unit.records import PACKED, batches, part

Code = grpc.StatusCode


def test_records_go_in_order_and_acks_come_back_in_order(edge):
    seen = []
    with fake_cloud(serving(seen=seen)) as cloud:
        sender = edge(cloud.address).start()
        sender.offer(*batches(0, 1, 2), part(0), part(1), Skip(3))

        assert sender.settled()

    assert seen == [Position(1), Position(2), Position(3), Position(3, 1), Position(3, 2), Position(4)]
    assert [ack.applied for ack in sender.acks] == seen


@pytest.mark.parametrize(
    "breaks",
    [abort(Code.UNAVAILABLE), abort(Code.INTERNAL), abort(Code.CANCELLED), lambda context: None],
    ids=["unavailable", "internal", "cancelled", "ended in order"],
)
@pytest.mark.parametrize("stands_at", [0, 1, 3], ids=lambda batches: f"at {batches}")
def test_after_a_break_all_is_sent_again_from_where_the_cloud_stands(edge, breaks, stands_at):
    """Sent is not applied: the first stream got three records and confirmed none of them."""
    seen = []
    with fake_cloud(deaf(3, breaks), serving(stands_at, seen)) as cloud:
        sender = edge(cloud.address).start()
        sender.offer(*batches(0, 1, 2, 3, 4))

        assert sender.settled()

    assert [after.batches for after in seen] == list(range(stands_at + 1, 6))
    assert [hello.losses_from for hello in cloud.hellos] == [1, 2]  # each stream says anew what it wants
    assert {hello.generation for hello in cloud.hellos} == {3}


def test_bytes_in_flight_are_never_more_than_the_window(edge):
    """The cloud confirms only when nothing more comes, and so sees all that the edge dares."""
    arrived, confirmed = queue.SimpleQueue(), queue.SimpleQueue()
    large = Batch(0, Packed(8, PACKED.shape, PACKED.low, PACKED.scale, bytes(5 * WINDOW)), (0, 1, 2, 3))

    def watch(messages):
        with contextlib.suppress(grpc.RpcError):  # the stream's end
            for message in messages:
                if isinstance(message, Chunk):
                    arrived.put(len(message.data))

    def slow(messages, context):
        next(messages)
        yield welcome()
        threading.Thread(target=watch, args=(messages,), daemon=True).start()
        while (received := confirmed.get()) < total:
            yield Ack(received_bytes=received, applied=Position(0), durable=Position(0))
        yield Ack(received_bytes=received, applied=Position(1), durable=Position(1))

    total, received, acknowledged, most = len(record_to_bytes(large)), 0, 0, 0
    with fake_cloud(slow) as cloud:
        sender = edge(cloud.address).start()
        sender.offer(large)
        while received < total:
            try:
                received += arrived.get(timeout=0.1)
            except queue.Empty:
                acknowledged = received
                confirmed.put(received)
            most = max(most, received - acknowledged)
        confirmed.put(received)
        assert sender.settled()

    assert most <= WINDOW


def test_every_byte_is_counted_again_when_it_is_sent_again_and_evaluations_apart(edge):
    with fake_cloud(deaf(3), serving()) as cloud:
        sender = edge(cloud.address).start()
        sender.offer(*batches(0, 1, 2))
        assert sender.settled()
        sender.offer(part(0), part(1))
        assert sender.settled()

    totals, evaluation = sender.counters.totals(), cloud.up[-2:]
    assert totals.eval_bytes_up == sum(map(wire_bytes, evaluation))
    assert totals.bytes_up == 2 * STREAM_OPEN_BYTES + sum(map(wire_bytes, cloud.up[:-2]))
    assert totals.bytes_down == sum(map(wire_bytes, cloud.down))
    assert totals.delivered_bytes == sum(len(record_to_bytes(record)) for record in batches(0, 1, 2))


def test_a_note_reaches_the_cloud_once(edge):
    with fake_cloud(serving()) as cloud:
        sender = edge(cloud.address).start()
        sender.uplink.note(losses_from=4, save=True)
        sender.uplink.note(losses_from=5)
        sender.offer(*batches(0, 1))
        assert sender.settled()

    assert cloud.notes[-1].losses_from == 5
    assert [note.save for note in cloud.notes].count(True) == 1


def test_the_cloud_is_asked_to_save_where_that_makes_room(edge):
    """Once for each save; it would be asked with every ack otherwise."""
    size = len(record_to_bytes(batches(1)[0]))

    def forgetful(messages, context):
        next(messages)
        yield welcome()
        received, batches_applied, durable = 0, 0, Position(0)
        for message in messages:
            if isinstance(message, Note):
                durable = Position(batches_applied)
            else:
                received, batches_applied = received + len(message.data), batches_applied + 1
            yield Ack(received_bytes=received, applied=Position(batches_applied), durable=durable)

    with fake_cloud(forgetful) as cloud:
        sender = edge(cloud.address, spool=4 * size).start()
        sender.offer(*batches(0, 1, 2, 3, 4, 5))  # would wait for ever otherwise

    assert cloud.notes
    assert all(note.save for note in cloud.notes)
