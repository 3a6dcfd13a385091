"""The next record is decoded while the last one is applied; nothing else about either changes."""

import gc
import itertools
import math
import threading
import time
import weakref

import numpy as np
import pytest
import torch

from cloud_worker.ahead import Ahead
from cloud_worker.limits import Limits
from cloud_worker.stream import TrainStream
from common.codec import Packed, encode
from common.errors import CodecError, SessionError
from common.wire.messages import Batch, Position, Skip
from common.wire.reassembly import chunks_of
from common.wire.records import record_to_bytes
from tests.unit.cloud_worker.edges import until
from tests.unit.cloud_worker.fakes import CountingBack, open_session
from tests.unit.records import RUN, batch, batches, hello, part

# What one batch of the small run takes once it is decoded.
RECORD_BYTES = 4 * 4 * math.prod(RUN.activation_shape)


class WatchedBack(CountingBack):
    """Trains a batch once it is let go; counts what it has decoded, and fails to where all values are 1."""

    def __init__(self):
        super().__init__()
        self.go = threading.Event()
        self.decoded = 0

    def decode(self, activations):
        """Decode."""
        self.decoded += 1
        if activations.low[0] == 1:
            raise CodecError("undecodable")
        return activations

    def train(self, *batch):
        """Wait, then learn."""
        self.go.wait(60)
        return super().train(*batch)


def undecodable(seq):
    return Batch(seq, encode(torch.ones(4, *RUN.activation_shape), RUN.bits), (0, 1, 2, 3))


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
    session = open_session(tmp_path, back, ahead=Ahead(10 * RECORD_BYTES))
    thread, acks, _ = serve(session, *batches(0, 1, 2, 3))

    until(lambda: back.decoded == 2)
    time.sleep(0.1)  # a preparer that knows no bound would decode all in far less

    assert (back.decoded, back.learnt) == (2, [])
    back.go.set()
    thread.join()
    assert acks[-1].applied == Position(4)
    assert back.decoded == 4


@pytest.mark.parametrize("number", [0, 2])
def test_what_does_not_decode_ends_the_stream_after_all_that_came_before_it(tmp_path, number):
    back = WatchedBack()
    back.go.set()
    session = open_session(tmp_path, back)

    thread, _, errors = serve(session, *batches(*range(number)), undecodable(number), batch(number + 1))
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
    back = WatchedBack()
    back.go.set()

    thread, acks, errors = serve(open_session(tmp_path, back), batch(0), undecodable(0), batch(1))
    thread.join()

    assert errors == []
    assert acks[-1].applied == Position(2)


def test_no_more_lies_decoded_than_there_is_room_for():
    """What finds none is decoded in its turn, and room comes back however a record ends."""
    ahead, back = Ahead(4 * RECORD_BYTES - 1), WatchedBack()

    ready = [ahead.prepare(undecodable(seq), back) for seq in range(5)]

    assert [each.decoded is not None for each in ready] == [True] * 3 + [False] * 2
    assert back.decoded == 3
    for each in ready:
        each.release()
    again = [ahead.prepare(part(seq), back) for seq in range(4)]
    assert [each.decoded is not None for each in again] == [True] * 3 + [False]


def test_two_records_find_room_however_large_they_are():
    """A session alone has one in its turn and the next one decoded."""
    ahead, back = Ahead(RECORD_BYTES - 1), WatchedBack()

    first, second, third = (ahead.prepare(batch(seq), back) for seq in range(3))
    first.release()
    again = ahead.prepare(batch(2), back)

    assert [each.decoded is not None for each in (second, third, again)] == [True, False, True]


def test_64_sessions_that_take_turns_all_have_their_next_record_decoded():
    """Of 2 MiB each: no step waits for its decoding, whoever's turn it is."""
    shape, labels = (128, 64, 8, 8), (0,) * 128
    record = Batch(0, Packed(8, shape, np.zeros(64, np.float32), np.ones(64, np.float32), b""), labels)
    ahead, back = Ahead(), WatchedBack()

    assert all(ahead.prepare(record, back).decoded is not None for _ in range(2 * 64))


class Failing(WatchedBack):
    """Fails to decode, for a reason that is not the record's."""

    def __init__(self, error):
        super().__init__()
        self.error = error

    def decode(self, activations):
        """Fail."""
        raise self.error


@pytest.mark.parametrize("error", [MemoryError("none left"), torch.cuda.OutOfMemoryError("none left")])
def test_where_memory_is_short_a_record_is_left_for_its_turn(error):
    ahead, back = Ahead(RECORD_BYTES), WatchedBack()

    assert ahead.prepare(batch(0), Failing(error)).decoded is None
    assert [ahead.prepare(batch(seq), back).decoded is not None for seq in range(3)] == [True, True, False]


def test_room_comes_back_after_a_failure():
    ahead, back = Ahead(RECORD_BYTES), WatchedBack()
    with pytest.raises(ZeroDivisionError):
        ahead.prepare(batch(0), Failing(ZeroDivisionError("a bug")))

    assert [ahead.prepare(batch(seq), back).decoded is not None for seq in range(3)] == [True, True, False]


def test_32_bits_are_left_for_their_turn():
    """Their check would use all threads, in the middle of a step."""
    x = encode(torch.zeros(4, *RUN.activation_shape), 32)

    assert Ahead().prepare(Batch(0, x, (0, 1, 2, 3)), WatchedBack()).decoded is None


def test_what_is_applied_already_is_not_decoded(tmp_path):
    back = WatchedBack()
    back.go.set()
    session = open_session(tmp_path, back)
    thread, _, _ = serve(session, *batches(0, 1))
    thread.join()

    assert [session.prepare(batch(seq)).decoded is not None for seq in (0, 1, 2)] == [False, False, True]
    assert back.decoded == 3


def test_an_idle_stream_holds_nothing_of_what_came_last(tmp_path):
    """An edge may be away for hours, and records be large."""
    back, prepared, goes_on = WatchedBack(), [], threading.Event()
    back.go.set()
    session = open_session(tmp_path, back)
    prepare = session.prepare

    def remembering(record):
        ready = prepare(record)
        prepared.append(weakref.ref(ready))
        return ready

    session.prepare = remembering
    requests = [iter(chunks_of(record_to_bytes(batch(0)), 1 << 20)), iter(goes_on.wait, True)]
    stream = TrainStream(session, hello(), Limits())
    session.attach(hello(), stream)
    thread = threading.Thread(target=lambda: list(stream.serve(itertools.chain(*requests))))
    thread.start()
    until(lambda: stream._under_way == 0 and session.status().applied == Position(1))
    time.sleep(0.05)

    assert [held() for held in prepared] == [None]
    goes_on.set()
    thread.join()


def test_what_was_decoded_is_let_go_of_with_a_record_that_is_refused(tmp_path):
    """The error's traceback must not hold it: that lives until Python looks for cycles."""

    class Remembering(WatchedBack):
        def decode(self, activations):
            tensor = torch.zeros(8)
            self.tensor = weakref.ref(tensor)
            return tensor

    back = Remembering()
    session = open_session(tmp_path, back)
    gc.disable()
    try:
        thread, _, errors = serve(session, batch(3))
        thread.join()
        assert [type(error) for error in errors] == [SessionError]
        assert back.tensor() is None
    finally:
        gc.enable()


def test_a_stream_that_is_ended_gives_its_room_back(tmp_path):
    """Its next record lies decoded, and is never applied."""
    back = WatchedBack()
    session = open_session(tmp_path, back, ahead=Ahead(2 * RECORD_BYTES))
    thread, _, errors = serve(session, *batches(0, 1, 2))
    until(lambda: back.decoded == 2)

    session._stream.end(SessionError("ended"))
    back.go.set()
    thread.join()

    assert [str(error) for error in errors] == ["ended"]
    assert len(back.learnt) == 1
    assert [session.prepare(batch(seq)).decoded is not None for seq in (1, 2)] == [True, True]


def test_a_stream_whose_reply_nobody_takes_gives_its_room_back_once_it_is_over(tmp_path):
    """GRPC leaves it suspended for as long as the edge does not read."""
    back = WatchedBack()
    session = open_session(tmp_path, back, ahead=Ahead(2 * RECORD_BYTES))
    stream = TrainStream(session, hello(), Limits())
    session.attach(hello(), stream)
    acks = stream.serve(iter([c for r in batches(0, 1) for c in chunks_of(record_to_bytes(r), 1 << 20)]))
    next(acks)
    until(lambda: back.decoded == 2 and stream._next is not None)

    stream.end(SessionError("ended"))

    assert session.prepare(batch(2)).decoded is not None
    back.go.set()
    with pytest.raises(SessionError, match="ended"):
        list(acks)
