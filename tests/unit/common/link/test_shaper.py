import threading

import pytest

from common.errors import ConfigError
from common.link.shaper import DelayLine, SystemClock, TokenBucket

RATE = 8000.0  # 1000 bytes per second: the numbers below can be read as they are


@pytest.mark.parametrize("late_s", [0.0, 0.001, 0.049])
@pytest.mark.parametrize("nbytes", [10, 50, 777])
def test_a_backlogged_sender_gets_its_exact_rate_even_if_it_wakes_late(nbytes, late_s):
    """Over any 5 s the bytes differ from rate x 5 s by at most one message and the burst."""
    bucket, now, ends = TokenBucket(RATE), 100.0, []
    while now < 160:
        finish = bucket.reserve(nbytes, now)
        if finish > now:  # only a sleeper can wake late
            now = finish + late_s
        ends.append(now)
    for start in (100.0, 110.3, 127.77, 150.0):
        sent = nbytes * sum(start < end <= start + 5 for end in ends)
        assert abs(sent - 5000) <= nbytes + 50


def test_rounding_does_not_add_up_over_an_hour():
    bucket, now = TokenBucket(RATE), 0.0
    for _ in range(36_000):
        now = bucket.reserve(100, now)
    assert now == pytest.approx(3600, rel=1e-9)


def test_a_fresh_link_has_nothing_saved_up():
    assert TokenBucket(RATE).reserve(100, 5.0) == pytest.approx(5.1)


def test_an_idle_sender_saves_up_the_burst_and_no_more():
    """After an hour of silence two messages leave as early as after 50 ms of it."""
    bucket = TokenBucket(RATE, burst_s=0.05)
    bucket.reserve(100, 0.0)
    assert bucket.reserve(100, 3600.0) == pytest.approx(3600.05)
    assert bucket.reserve(100, 3600.0) == pytest.approx(3600.15)


def test_a_sender_known_to_have_been_idle_saves_up_nothing():
    """A single message after a pause takes its full time, so its busy time is right."""
    bucket = TokenBucket(RATE)
    bucket.reserve(100, 0.0)
    assert bucket.reserve(100, 10.0, idle=True) == pytest.approx(10.1)
    assert bucket.reserve(100, 10.0, idle=True) == pytest.approx(10.2), "the link is still taken"


def test_no_rate_means_no_wait():
    bucket = TokenBucket(None)
    assert [bucket.reserve(10**9, 7.0) for _ in range(3)] == [7.0] * 3


@pytest.mark.parametrize("rate", [0, -1, float("nan"), float("inf")])
def test_a_rate_that_is_none_is_refused(rate):
    with pytest.raises(ConfigError, match=r"above 0 bit/s, got .*; use None for no limit"):
        TokenBucket(rate)


@pytest.mark.parametrize("seconds", [-0.1, float("nan"), float("inf")])
def test_a_latency_that_cannot_be_is_refused(seconds):
    with pytest.raises(ConfigError, match="0 s or more, got"):
        DelayLine(seconds)


def test_latencies_overlap():
    """Ten messages sent at once arrive at once: a delay line, not a sleep for each."""
    line = DelayLine(0.5)
    for item in range(10):
        assert line.push(item, sent_at=1.0) == 1.5
    assert line.pop(1.49) is None
    assert [line.pop(1.5) for _ in range(10)] == list(range(10))
    assert len(line) == 0
    assert line.next_release() is None


def test_nothing_overtakes():
    """A sender whose times step back still delivers in order."""
    line = DelayLine(0.1)
    line.push("first", sent_at=2.0)
    assert line.push("second", sent_at=1.0) == 2.1
    assert line.pop(2.05) is None
    assert [line.pop(2.1), line.pop(2.1)] == ["first", "second"]


def test_the_system_clock_waits_for_nothing_once_stopped():
    """A cancelled call must not sit out a long transmission."""
    clock, stop = SystemClock(), threading.Event()
    assert not clock.wait(clock.now() - 1, stop)
    stop.set()
    assert clock.wait(clock.now() + 10_000, stop)
