"""The next record is decoded while the last one is applied; nothing else about either changes."""

import threading
import time

import pytest
import torch

from cloud_worker.ahead import PLACES, Ahead
from cloud_worker.limits import Limits
from cloud_worker.stream import TrainStream
from common.errors import CodecError, SessionError
from common.wire.convert import record_to_bytes
from common.wire.messages import Position, Skip
from common.wire.reassembly import chunks_of
from tests.unit.cloud_worker.fakes import CountingBack, open_session
from tests.unit.records import batch, batches, hello, part


class WatchedBack(CountingBack):
    """Trains a batch once it is let go; says what it has decoded, and fails to for a batch of its choice."""

    def __init__(self, undecodable=None):
        super().__init__()
        self.go = threading.Event()
        self.decoded = 0
        self.undecodable = undecodable

    def decode(self, activations):
        """Decode, in the order of coming."""
        self.decoded += 1
        if self.decoded - 1 == self.undecodable:
            raise CodecError("undecodable")
        return activations

    def train(self, *batch):
        """Wait, then learn."""
        self.go.wait(60)
        return super().train(*batch)


def until(condition):
    while not condition():
        time.sleep(0.005)


def serve(session, *records):
    """Serve a stream of these records in a thread; returns what comes of it once it is joined."""
    stream, acks, errors = TrainStream(session, hello(), Limits()), [], []
    session.attach(hello(), stream)
    requests = [chunk for record in records for chunk in chunks_of(record_to_bytes(record), 1 << 20)]

    def run():
        try:
            acks.extend(stream.serve(iter(requests)))
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, acks, errors


def test_the_next_record_is_decoded_during_a_step_and_no_further_one(tmp_path):
    back = WatchedBack()
    thread, acks, _ = serve(open_session(tmp_path, back), *batches(0, 1, 2, 3))

    until(lambda: back.decoded == 2)
    time.sleep(0.1)  # a preparer that knows no bound would decode all in far less

    assert (back.decoded, back.learnt) == (2, [])
    back.go.set()
    thread.join()
    assert acks[-1].applied == Position(4)
    assert back.decoded == 4


@pytest.mark.parametrize("number", [0, 2])
def test_what_does_not_decode_ends_the_stream_after_all_that_came_before_it(tmp_path, number):
    back = WatchedBack(undecodable=number)
    back.go.set()
    session = open_session(tmp_path, back)

    thread, _, errors = serve(session, *batches(0, 1, 2, 3))
    thread.join()

    assert [type(error) for error in errors] == [CodecError]
    assert len(back.learnt) == number
    assert session.status().applied == Position(number)


def test_what_is_no_record_ends_the_stream_after_all_that_came_before_it(tmp_path):
    back = WatchedBack()
    session = open_session(tmp_path, back)

    thread, _, errors = serve(session, batch(0), Skip(1), Skip(3))
    until(lambda: back.decoded == 1)
    back.go.set()
    thread.join()

    assert [type(error) for error in errors] == [SessionError]
    assert session.status().applied == Position(2)


def test_a_record_applied_before_is_ignored_even_where_it_does_not_decode(tmp_path):
    back = WatchedBack(undecodable=1)
    back.go.set()

    thread, acks, errors = serve(open_session(tmp_path, back), batch(0), batch(0), batch(1))
    thread.join()

    assert errors == []
    assert acks[-1].applied == Position(2)


def test_no_more_lie_decoded_than_there_are_places(tmp_path):
    """What finds none is decoded in its turn, and places come back however a record ends."""
    ahead, back = Ahead(), WatchedBack(undecodable=0)

    ready = [ahead.prepare(batch(seq), back) for seq in range(PLACES + 2)]

    assert [each.decoded is not None for each in ready] == [True] * PLACES + [False, False]
    assert back.decoded == PLACES
    for each in ready:
        each.release()
    again = [ahead.prepare(part(seq), back) for seq in range(PLACES + 1)]
    assert [each.decoded is not None for each in again] == [True] * PLACES + [False]


def test_a_place_comes_back_after_a_failure(tmp_path):
    class Failing(WatchedBack):
        def decode(self, activations):
            raise torch.cuda.OutOfMemoryError("no memory")

    ahead = Ahead(places=1)
    with pytest.raises(torch.cuda.OutOfMemoryError):
        ahead.prepare(batch(0), Failing())

    assert ahead.prepare(batch(0), WatchedBack()).decoded is not None


def test_a_stream_that_is_ended_gives_its_place_back(tmp_path):
    """Its next record lies decoded, and is never applied."""
    back = WatchedBack()
    session = open_session(tmp_path, back)
    session._ahead = Ahead(places=2)
    thread, _, errors = serve(session, *batches(0, 1, 2))
    until(lambda: back.decoded == 2)

    session._stream.end(SessionError("ended"))
    back.go.set()
    thread.join()

    assert [str(error) for error in errors] == ["ended"]
    assert len(back.learnt) == 1
    assert [session.prepare(batch(seq)).decoded is not None for seq in (1, 2)] == [True, True]
