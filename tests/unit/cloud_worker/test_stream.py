"""What comes on an open stream: taken, acknowledged, or refused before it does any harm."""

import dataclasses

import grpc
import pytest
import torch

from common.codec import decode
from common.wire.messages import Batch, Chunk, Note, Position, Skip
from common.wire.records import record_to_bytes
from tests.unit.cloud_worker.edges import cloud_in_process, refused, welcomed
from tests.unit.cloud_worker.fakes import CountingBack
from tests.unit.records import PACKED, batch, batches, hello

Code = grpc.StatusCode
OTHER = "11111111-1111-4111-8111-111111111111"


class DecodingBack(CountingBack):
    """Decodes what it is given, as every real back does; label 9 stands for a bug."""

    def decode(self, activations):
        """Decode."""
        return decode(activations, torch.device("cpu"))

    def train(self, seq, activations, labels):
        """Learn, unless there is a bug."""
        if 9 in labels:
            raise ZeroDivisionError("a bug")
        return super().train(seq, activations, labels)


@pytest.fixture
def cloud(tmp_path, monkeypatch):
    monkeypatch.setattr("cloud_worker.sessions.Back", DecodingBack)
    with cloud_in_process(tmp_path) as cloud:
        yield cloud


# -------------------------------------------------------------------- in order


def test_records_are_taken_in_whatever_chunks_they_come(cloud):
    edge = welcomed(cloud)
    records = [record_to_bytes(record) for record in batches(0, 1)]

    edge.send_bytes(records[0], chunk_bytes=1)
    edge.send_bytes(records[1], chunk_bytes=7)

    assert edge.until(Position(2)).losses[-1] == 1.0


def test_received_bytes_count_every_chunk_once(cloud):
    """They are the edge's credit: it sends no more than so much ahead of them."""
    edge = welcomed(cloud)
    sizes = [len(record_to_bytes(record)) for record in (batch(0), batch(0), batch(1))]
    edge.send_records(batch(0), batch(0), batch(1))
    edge.close()

    assert edge.acks()[-1].received_bytes == sum(sizes)


def test_a_stream_that_the_edge_closes_ends_well_after_all_its_records(cloud):
    edge = welcomed(cloud)
    edge.send_records(*batches(0, 1))
    edge.close()

    last = edge.acks()[-1]

    assert edge.call.code() is Code.OK
    assert last.applied == Position(2)


def test_losses_are_told_once_on_a_stream(cloud):
    edge = welcomed(cloud)
    edge.send_records(*batches(0, 1, 2, 3))
    edge.close()

    told = [loss for ack in edge.acks() for loss in ack.losses]

    assert told == [0.0, 1.0, 2.0, 3.0]


def test_a_note_has_the_state_saved(cloud):
    edge = welcomed(cloud)
    edge.send_records(batch(0))
    edge.until(Position(1))

    edge.send(Note(losses_from=0, save=True))

    while (ack := edge.reply()).durable < Position(1):
        pass
    assert ack.durable == Position(1)


def test_a_stream_that_breaks_loses_nothing_that_was_applied(cloud):
    first = welcomed(cloud)
    first.send_records(*batches(0, 1))
    first.until(Position(2))
    first.call.cancel()

    assert cloud.edge(hello()).reply().applied == Position(2)


def test_a_newer_generation_ends_the_older_stream_at_once(cloud):
    old = welcomed(cloud, generation=1)
    welcomed(cloud, generation=2)

    with refused(Code.ABORTED, "a newer stream of this session has taken over; this process must stop"):
        old.acks()


def test_a_cloud_that_leaves_sends_its_edges_away_to_come_back(cloud):
    edge = welcomed(cloud)

    cloud.sessions.save_all()

    with refused(Code.UNAVAILABLE, "the cloud is shutting down; it can be resumed once it is back"):
        edge.acks()


# -------------------------------------------------------------------- refused

MALFORMED = {
    "no protobuf": (b"\xff" * 40, "a record of 40 bytes does not parse"),
    "no kind": (b"\x78\x01", "a record must be one of batch"),
    "damaged data": (
        record_to_bytes(Batch(1, dataclasses.replace(PACKED, data=b"\0" * 9), (0, 1, 2, 3))),
        "activations are damaged",
    ),
    "data cut short": (
        record_to_bytes(Batch(1, dataclasses.replace(PACKED, data=PACKED.data[:-1]), (0, 1, 2, 3))),
        "compressed activations",
    ),
    "other shape": (
        record_to_bytes(Batch(1, dataclasses.replace(PACKED, shape=(4, 1, 1, 2)), (0, 1, 2, 3))),
        r"activations must have shape \[1\.\.4, 2, 1, 1\], got \[4, 1, 1, 2\]",
    ),
    "label out of range": (record_to_bytes(batch(1, (0, 1, 2, 10))), "labels must be below 10, got 10"),
    "too few labels": (record_to_bytes(batch(1, (0,))), "4 images need as many labels, got 1"),
    "one image": (
        record_to_bytes(Batch(1, dataclasses.replace(PACKED, shape=(1, 2, 1, 1)), (0,))),
        "a batch holds 2 images or more",
    ),
    "beyond the run": (record_to_bytes(batch(6)), "the run has no batch 6"),
}


@pytest.mark.parametrize(("record", "words"), MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_record_ends_its_stream_and_nothing_else(cloud, record, words):
    """What was applied before stays applied, and an honest session beside it notices nothing."""
    honest, other = welcomed(cloud, session_id=OTHER), welcomed(cloud)
    other.send_records(batch(0))

    other.send_bytes(record)

    with refused(Code.INVALID_ARGUMENT, words):
        other.acks()
    assert cloud.edge(hello()).reply().applied == Position(1)
    honest.send_records(*batches(0, 1))
    assert honest.until(Position(2)).counters.batches_applied == 2


def test_a_gap_is_refused(cloud):
    edge = welcomed(cloud)
    edge.send_records(batch(0), Skip(2))

    with refused(Code.FAILED_PRECONDITION, "stands at batch 2, the cloud expected batch 1"):
        edge.acks()


def test_a_record_that_is_too_large_is_refused_at_its_first_byte(cloud):
    """The limit is what Welcome said; nothing of that size is ever held."""
    edge = cloud.edge(hello())
    limit = edge.reply().max_record_bytes

    edge.send(Chunk(record_bytes=limit + 1, offset=0, data=b"x"))

    with refused(Code.INVALID_ARGUMENT, f"a record of {limit + 1} bytes is above .* limit of {limit}"):
        edge.acks()


@pytest.mark.parametrize(
    "chunk",
    [Chunk(10, 4, b"ab"), Chunk(11, 5, b"ab"), Chunk(10, 0, b"ab")],
    ids=["gap", "other record", "start"],
)
def test_a_chunk_that_does_not_continue_the_one_before_is_refused(cloud, chunk):
    edge = welcomed(cloud)

    edge.send(Chunk(10, 0, b"abcde"), chunk)

    with refused(Code.INVALID_ARGUMENT, "expected offset 5 of a record of 10 bytes"):
        edge.acks()


def test_a_second_hello_is_refused(cloud):
    edge = welcomed(cloud)
    edge.send(hello())

    with refused(Code.INVALID_ARGUMENT, "Hello may come only once"):
        edge.acks()


def test_a_bug_is_not_taken_for_the_edges_fault(cloud):
    edge = welcomed(cloud)
    edge.send_records(batch(0, (9, 9, 9, 9)))

    with refused(Code.UNKNOWN, "a bug"):
        edge.acks()
