"""What an open stream holds at most, and the credit that it gives the edge. No gRPC: only its threads."""

import queue
import threading
import time

import grpc
import pytest

from cloud_worker import stream as stream_module
from cloud_worker.first_message import first_of
from cloud_worker.limits import Limits
from cloud_worker.stream import TrainStream
from common.errors import CloudError, WireError
from common.wire.messages import Chunk, Position, Skip
from common.wire.reassembly import chunks_of
from common.wire.records import record_to_bytes
from tests.unit.cloud_worker.fakes import SPLIT, CountingBack, SlopedBack, open_session
from tests.unit.records import batches, hello

RECORDS = [record_to_bytes(record) for record in batches(0, 1, 2, 3, 4, 5)]


class SlowBack(CountingBack):
    """Trains once it is let go."""

    def __init__(self):
        super().__init__()
        self.go = threading.Event()

    def train(self, *batch):
        """Wait, then learn."""
        self.go.wait(60)
        return super().train(*batch)


@pytest.fixture
def back():
    return SlowBack()


@pytest.fixture
def serve(tmp_path, back):
    """Serve a stream of requests; what is left of it ends with the test."""
    session, started = open_session(tmp_path, back), []

    def serve_(requests, **limits):
        stream = TrainStream(session, hello(), Limits(**limits))
        session.attach(hello(), stream)
        started.append(stream.serve(iter(requests)))
        return started[-1]

    yield serve_
    back.go.set()
    for acks in started:
        acks.close()


def test_the_edge_is_told_no_more_often_than_there_is_something_to_tell(serve, back):
    """Each message is work for both sides: one at most for what has come, one for what was applied."""
    back.go.set()
    to_send = queue.SimpleQueue()
    acks = serve(next(chunks_of(record, 1 << 20)) for record in iter(to_send.get, None))

    told, waiting = 0, list(RECORDS)
    to_send.put(waiting.pop(0))
    for ack in acks:
        told += 1
        if ack.applied.batches + len(waiting) == len(RECORDS):  # the one before is applied
            to_send.put(waiting.pop(0) if waiting else None)

    assert told <= 2 * len(RECORDS) + 2


def test_a_slow_back_is_not_buried_in_records(serve, back):
    """One is being applied, one is prepared, one waits within the window, the next stays with gRPC."""
    drawn = []

    def requests():
        for record in RECORDS:
            drawn.append(record)
            yield from chunks_of(record, 1 << 20)

    acks = serve(requests(), window=1)
    while next(acks).received_bytes < sum(map(len, RECORDS[:3])) or len(drawn) < 4:
        pass
    time.sleep(0.1)  # a reader that knows no bound would draw all in far less

    assert len(drawn) == 4
    back.go.set()
    assert list(acks)[-1].applied == Position(6)


def test_many_records_of_two_bytes_are_counted_as_what_they_take(serve, back):
    """Python needs some forty bytes more for each; a flood of them must not fill the memory."""
    drawn = []

    def requests():
        yield from chunks_of(RECORDS[0], 1 << 20)
        for _ in range(1000):
            drawn.append(1)
            yield Chunk(2, 0, record_to_bytes(Skip(0)))

    acks = serve(requests(), window=1 << 10)
    while len(drawn) < 5:
        next(acks)
    time.sleep(0.1)  # a reader that counts only two bytes for each would draw all in far less

    assert len(drawn) < 12
    back.go.set()
    assert list(acks)[-1].counters.duplicates_ignored == 1000


def test_a_chunk_is_credited_before_its_record_is_whole(serve):
    """A record may be larger than the edge's window."""
    first, *_ = chunks_of(RECORDS[0], 5)
    silent = threading.Event()

    def requests():
        yield first
        silent.wait(60)

    acks = serve(requests())
    while (ack := next(acks)).received_bytes == 0:
        pass

    assert ack.received_bytes == 5
    silent.set()


def test_a_broken_stream_still_applies_what_had_come(serve, back):
    """The edge need not send again what is here."""
    back.go.set()

    def requests():
        for record in RECORDS[:2]:
            yield from chunks_of(record, 9)
        raise grpc.RpcError

    acks = list(serve(requests()))

    assert acks[-1].applied == Position(2)


# -------------------------------------------------------------------- idle edges


def quiet_after(records, until):
    """Send `records`, then nothing before `until` is set."""
    for record in records:
        yield from chunks_of(record, 1 << 20)
    until.wait(60)


def test_an_edge_that_says_nothing_is_sent_away_and_what_it_sent_is_kept(serve, back):
    back.go.set()
    silent = threading.Event()
    acks = []

    with pytest.raises(CloudError, match=r"^nothing came for 50ms; what came before is saved: connect again"):
        acks.extend(serve(quiet_after(RECORDS[:2], silent), idle_timeout=0.05))

    assert acks[-1].applied == Position(2)
    silent.set()


def test_an_edge_that_waits_for_a_slow_back_is_not_idle(serve, back):
    """It has sent all that its window allows, and must not say more."""
    silent = threading.Event()
    acks = serve(quiet_after(RECORDS[:1], silent), idle_timeout=0.05)

    # Heartbeats, ten times as long as nothing may come.
    waiting = [next(acks).applied for _ in range(12)]

    assert waiting == [Position(0)] * 12
    back.go.set()
    assert next(acks).applied == Position(1)
    silent.set()


def test_an_edge_to_which_a_gradient_is_sent_slowly_is_not_idle(tmp_path, monkeypatch):
    """It has to wait for it, and must not say more."""
    monkeypatch.setattr(stream_module, "HEARTBEAT_S", 0.01)
    monkeypatch.setattr(stream_module, "GRADIENT_CHUNK_BYTES", 4)
    session, silent = open_session(tmp_path, SlopedBack(), run=SPLIT), threading.Event()
    stream = TrainStream(session, hello(run=SPLIT), Limits(idle_timeout=0.2))
    session.attach(hello(run=SPLIT), stream)
    replies = stream.serve(quiet_after(RECORDS[:1], silent))

    chunks = 0
    for reply in replies:
        if isinstance(reply, Chunk):
            chunks += 1
            time.sleep(0.05)
        elif chunks:
            break

    assert chunks * 0.05 > 0.2  # and a sign of life came after them
    silent.set()
    replies.close()


def test_a_stream_that_does_not_begin_is_given_up():
    silent = threading.Event()

    with pytest.raises(CloudError, match=r"^no message came for 50ms after the stream was opened$"):
        first_of(quiet_after([], silent), 0.05)

    silent.set()


def test_what_is_wrong_with_the_first_message_is_raised_to_whoever_waits_for_it():
    def garbled():
        raise WireError("no such message")
        yield

    with pytest.raises(WireError, match="no such message"):
        first_of(garbled(), 60)
    assert first_of(iter([]), 60) is None
