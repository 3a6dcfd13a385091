import threading

import grpc
import pytest

from common.errors import ConfigError
from common.link.framing import wire_bytes
from common.link.interceptors import LinkInterceptor

MESSAGE = b"m" * 960  # 1000 bytes on the wire
RATE = 8000.0  # so one message a second


class SkippingClock:
    """Sleeping takes no time: the clock jumps to where the sleeper wants to be."""

    def __init__(self):
        self._now = 0.0
        self._lock = threading.Lock()

    def now(self):
        """Seconds."""
        return self._now

    def wait(self, until, stop):
        """Sleep as `Clock.wait` does."""
        with self._lock:
            self._now = max(self._now, until)
        return stop.is_set()


class ManualClock:
    """Time moves only when the test says so; the test can wait until someone sleeps."""

    def __init__(self):
        self._now = 0.0
        self._changed = threading.Condition()
        self.sleepers = []

    def now(self):
        """Seconds."""
        return self._now

    def wait(self, until, stop):
        """Sleep as `Clock.wait` does."""
        with self._changed:
            self.sleepers.append(until)
            self._changed.notify_all()
            while self._now < until and not stop.is_set():
                self._changed.wait(0.01)  # nobody notifies when `stop` is set
            self.sleepers.remove(until)
            self._changed.notify_all()
        return stop.is_set()

    def until_someone_sleeps_to(self, time):
        """Return once a thread sleeps until `time`."""
        with self._changed:
            assert self._changed.wait_for(lambda: pytest.approx(time) in self.sleepers, timeout=60)

    def advance_to(self, time):
        """Move the time, and wake whom it concerns."""
        with self._changed:
            self._now = time
            self._changed.notify_all()


class EchoCall:
    """A call that answers each request with itself, without a network."""

    def __init__(self, requests, status=grpc.StatusCode.OK):
        self._requests = iter(requests)
        self._status = status
        self._callbacks = []
        self.ended = False

    def add_callback(self, callback):
        """Keep what is to be called at the end."""
        self._callbacks.append(callback)
        return True

    def __iter__(self):
        return self

    def __next__(self):
        try:
            return next(self._requests)
        except BaseException:
            self.end()
            raise

    def end(self):
        """Tell everyone that the call is over."""
        self.ended = True
        for callback in self._callbacks:
            callback()

    def cancel(self):
        """End the call early."""
        self._status = grpc.StatusCode.CANCELLED
        self._requests = iter(())
        self.end()
        return True

    def code(self):
        """The status, never waited for."""
        return self._status


def stream(interceptor, requests):
    return interceptor.intercept_stream_stream(lambda details, shaped: EchoCall(shaped), None, requests)


def test_a_message_is_busy_for_as_long_as_its_bytes_take():
    """Size on the wire and timed seconds reach the observer, in order."""
    seen = []
    interceptor = LinkInterceptor(
        RATE, None, 0.0, SkippingClock(), on_sent=lambda message, size, busy_s: seen.append((size, busy_s))
    )
    sizes = [960, 10, 5000, 0]

    replies = list(stream(interceptor, [bytes(size) for size in sizes]))

    assert [len(reply) for reply in replies] == sizes
    assert [size for size, _ in seen] == [wire_bytes(size) for size in sizes]
    assert [busy_s for _, busy_s in seen] == pytest.approx([wire_bytes(size) / 1000 for size in sizes])


def test_replies_pass_a_link_of_their_own():
    seen = []
    interceptor = LinkInterceptor(
        None,
        RATE,
        0.0,
        SkippingClock(),
        on_received=lambda message, size, busy_s: seen.append((size, busy_s)),
    )
    assert list(stream(interceptor, [MESSAGE] * 3)) == [MESSAGE] * 3
    assert seen == [(1000, pytest.approx(1.0))] * 3


def test_the_next_message_is_drawn_when_the_link_is_free():
    """What waits, waits with the caller: its back-pressure and its choice of what to send next hold."""
    clock, drawn = ManualClock(), []

    def requests():
        for number in range(3):
            drawn.append(number)
            yield MESSAGE

    call = stream(LinkInterceptor(RATE, None, 0.0, clock), requests())
    for second in range(3):
        clock.until_someone_sleeps_to(second + 1.0)
        assert drawn == list(range(second + 1))
        clock.advance_to(second + 1.0)
    assert list(call) == [MESSAGE] * 3


def test_latency_comes_after_the_transmission_and_overlaps_with_the_next_one():
    """Two messages of 1 s each, 10 s there and 10 s back: the replies come at 21 s and 22 s."""
    clock, arrived, stamped = ManualClock(), [], threading.Semaphore(0)

    def count(message, size, busy_s):
        """Both observers run once a message's times are fixed."""
        stamped.release()

    interceptor = LinkInterceptor(RATE, None, 10.0, clock, on_sent=count, on_received=count)
    call = stream(interceptor, [MESSAGE, MESSAGE])
    taker = threading.Thread(target=lambda: arrived.extend((message, clock.now()) for message in call))
    taker.start()
    for second in (1.0, 2.0, 11.0, 12.0):
        clock.until_someone_sleeps_to(second)
        clock.advance_to(second)
        assert stamped.acquire(timeout=60)
    for second in (21.0, 22.0):
        clock.until_someone_sleeps_to(second)
        clock.advance_to(second)
    taker.join(60)
    assert arrived == [(MESSAGE, 21.0), (MESSAGE, 22.0)]


def test_an_error_in_the_requests_comes_after_the_messages_before_it():
    """It ends the call as it would without a link."""

    def requests():
        yield MESSAGE
        raise ValueError("the outbox broke")

    call = stream(LinkInterceptor(RATE, None, 0.1, SkippingClock()), requests())
    assert next(call) == MESSAGE
    with pytest.raises(ValueError, match="the outbox broke"):
        next(call)


def test_cancel_ends_a_transmission_at_once():
    """The clock stands still, so only the cancel can have ended the threads."""
    clock, before = ManualClock(), set(threading.enumerate())
    call = stream(LinkInterceptor(RATE, RATE, 5.0, clock), [MESSAGE] * 3)
    clock.until_someone_sleeps_to(1.0)
    threads = set(threading.enumerate()) - before

    call.cancel()

    assert len(threads) == 2
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    assert call.code() is grpc.StatusCode.CANCELLED


def test_without_rate_and_latency_no_thread_is_added_and_all_is_counted():
    before = threading.active_count()
    sent, received = [], []
    interceptor = LinkInterceptor(
        None,
        None,
        0.0,
        on_sent=lambda *seen: sent.append(seen),
        on_received=lambda *seen: received.append(seen),
    )

    call = stream(interceptor, [MESSAGE] * 3)

    assert threading.active_count() == before
    assert list(call) == [MESSAGE] * 3
    assert sent == received == [(MESSAGE, 1000, 0.0)] * 3


@pytest.mark.parametrize(
    ("settings", "text"), [((0, None, 0), "rate"), ((None, -1, 0), "rate"), ((1, 1, -1), "latency")]
)
def test_impossible_links_are_refused_before_any_call(settings, text):
    with pytest.raises(ConfigError, match=text):
        LinkInterceptor(*settings)
