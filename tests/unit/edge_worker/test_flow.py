"""Chunk sizes and bytes in flight, as pure arithmetic."""

import pytest

from common.errors import WireError
from edge_worker.flow import FIRST_CHUNK_BYTES, FlowControl

KiB, MiB = 1 << 10, 1 << 20


class Link:
    """A sender that has always something to send, and a link with a rate and a round trip."""

    def __init__(self, flow, rate, round_trip_s):
        self.flow, self.rate, self.round_trip_s = flow, rate, round_trip_s
        self.now = self.free_at = 0.0
        self.sent = 0
        self.under_way = []
        self.peak = 0

    def run(self, seconds, busy=True):
        """Send all that may be sent, take confirmations as they come."""
        end = self.now + seconds
        while self.now < end:
            while busy and self.flow.may_send(self.flow.chunk_bytes):
                size = self.flow.chunk_bytes
                self.flow.sent(size, self.now)
                self.sent += size
                self.free_at = max(self.now, self.free_at) + size / self.rate
                self.under_way.append((self.free_at + self.round_trip_s, self.sent))
            self.peak = max(self.peak, self.flow.in_flight)
            if not self.under_way:
                self.now = end
                return
            self.now, received = self.under_way.pop(0)
            self.flow.acknowledged(received, self.now)


def test_a_chunk_takes_a_known_link_50_ms():
    assert FlowControl(rate_bps=1e6, window=8 * MiB).chunk_bytes == 6250


def test_a_chunk_is_never_above_1_mib():
    assert FlowControl(rate_bps=1e9, window=8 * MiB).chunk_bytes == MiB


def test_in_flight_is_at_most_two_seconds_of_the_link():
    flow = FlowControl(rate_bps=1e6, window=8 * MiB)

    flow.sent(250_000, now=0.0)

    assert not flow.may_send(1)


def test_in_flight_is_never_above_the_window():
    flow = FlowControl(rate_bps=1e9, window=3 * MiB)
    flow.sent(2 * MiB, now=0.0)

    assert flow.may_send(MiB)
    assert not flow.may_send(MiB + 1)


def test_an_unknown_link_starts_small():
    flow = FlowControl(rate_bps=None, window=64 * MiB)

    assert flow.limit == 2 * flow.chunk_bytes == 2 * FIRST_CHUNK_BYTES


@pytest.mark.parametrize(
    ("rate", "round_trip_s"), [(8e3, 1.2), (125e3, 0.08), (12.5e6, 0.001), (1.25e6, 0.6), (4e3, 0.05)]
)
def test_the_rate_of_an_unknown_link_is_found_and_used(rate, round_trip_s):
    """64 kbit/s with 600 ms each way is a satellite's; the others are a phone's and a cable's."""
    flow = FlowControl(rate_bps=None, window=64 * MiB)
    link = Link(flow, rate, round_trip_s)
    link.run(60.0)
    before, since = link.sent, link.now

    link.run(60.0)

    assert (link.sent - before) / (link.now - since) == pytest.approx(rate, rel=0.05)
    assert flow.goodput == pytest.approx(rate, rel=0.1)
    assert flow.chunk_bytes == pytest.approx(max(KiB, min(MiB, rate * 0.05)), rel=0.1)
    assert flow.limit <= max(2 * flow.chunk_bytes, 2.2 * rate)


def test_a_link_that_becomes_slower_is_believed_after_some_seconds():
    flow = FlowControl(rate_bps=None, window=64 * MiB)
    link = Link(flow, 1e6, 0.1)
    link.run(20.0)

    link.rate = 1e5
    link.run(60.0)

    assert flow.goodput == pytest.approx(1e5, rel=0.1)


def test_a_pause_of_the_sender_is_not_held_against_the_link():
    flow = FlowControl(rate_bps=None, window=64 * MiB)
    link = Link(flow, 1e6, 0.1)
    link.run(20.0)
    link.run(600.0, busy=False)
    flow.sent(100, link.now)
    flow.acknowledged(link.sent + 100, link.now + 0.1)

    assert flow.goodput == pytest.approx(1e6, rel=0.1)


def test_confirmed_bytes_are_no_longer_in_flight():
    flow = FlowControl(rate_bps=None, window=MiB)
    flow.sent(1000, now=0.0)

    assert flow.acknowledged(600, now=0.0) == 600
    assert flow.acknowledged(600, now=0.1) == 0
    assert flow.in_flight == 400


def test_a_chunk_may_go_where_nothing_is_in_flight_whatever_the_link_delivered():
    """It was cut when the link was fast."""
    flow = FlowControl(rate_bps=None, window=8 * MiB)

    assert flow.may_send(20 * MiB)
    flow.sent(20 * MiB, now=0.0)
    assert not flow.may_send(1)


def test_no_more_is_confirmed_than_was_sent():
    """A cloud that confirms the future would take the window away."""
    flow = FlowControl(rate_bps=None, window=MiB)
    flow.sent(1000, now=0.0)

    with pytest.raises(WireError, match="the cloud confirms 1001 bytes, only 1000 were sent"):
        flow.acknowledged(1001, now=0.0)
