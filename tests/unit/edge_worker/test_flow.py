"""Chunk sizes and bytes in flight, as pure arithmetic."""

import pytest

from common.errors import WireError
from edge_worker.flow import FlowControl

MiB = 1 << 20


def test_a_chunk_takes_a_known_link_50_ms():
    assert FlowControl(rate_bps=1e6, window=8 * MiB).chunk_bytes == 6250


def test_a_chunk_is_never_above_1_mib():
    assert FlowControl(rate_bps=1e9, window=8 * MiB).chunk_bytes == MiB


def test_in_flight_is_at_most_two_seconds_of_the_link():
    flow = FlowControl(rate_bps=1e6, window=8 * MiB)

    flow.sent(250_000)

    assert not flow.may_send(1)


def test_in_flight_is_never_above_the_window():
    flow = FlowControl(rate_bps=1e9, window=3 * MiB)
    flow.sent(2 * MiB)

    assert flow.may_send(MiB)
    assert not flow.may_send(MiB + 1)


def test_an_unknown_link_starts_small_and_grows_with_what_it_delivers():
    flow = FlowControl(rate_bps=None, window=64 * MiB)
    assert flow.limit == 2 * flow.chunk_bytes == 128 << 10

    flow.sent(10 * MiB)
    flow.acknowledged(10 * MiB, now=1.0)

    assert flow.limit == 10 * MiB
    assert flow.chunk_bytes == 10 * MiB // 40


def test_what_was_delivered_long_ago_does_not_count():
    flow = FlowControl(rate_bps=None, window=64 * MiB)
    flow.sent(11 * MiB)
    flow.acknowledged(10 * MiB, now=1.0)

    flow.acknowledged(11 * MiB, now=3.5)

    assert flow.limit == MiB


def test_confirmed_bytes_are_no_longer_in_flight():
    flow = FlowControl(rate_bps=None, window=MiB)
    flow.sent(1000)

    assert flow.acknowledged(600, now=0.0) == 600
    assert flow.acknowledged(600, now=0.1) == 0
    assert flow.in_flight == 400


def test_a_chunk_may_go_where_nothing_is_in_flight_whatever_the_link_delivered():
    """It was cut when the link was fast; a pause since then must not hold it back for ever."""
    flow = FlowControl(rate_bps=None, window=8 * MiB)
    flow.sent(20 * MiB)
    flow.acknowledged(20 * MiB, now=0.0)
    size = flow.chunk_bytes
    flow.sent(1)
    flow.acknowledged(20 * MiB + 1, now=60.0)

    assert size > flow.limit
    assert flow.may_send(size)
    flow.sent(size)
    assert not flow.may_send(1)


def test_no_more_is_confirmed_than_was_sent():
    """A cloud that confirms the future would take the window away."""
    flow = FlowControl(rate_bps=None, window=MiB)
    flow.sent(1000)

    with pytest.raises(WireError, match="the cloud confirms 1001 bytes, only 1000 were sent"):
        flow.acknowledged(1001, now=0.0)
