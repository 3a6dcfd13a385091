"""Replies: what came, how the call ended, and what silence is."""

import threading
import time

import pytest

from edge_worker.replies import MAX_UNREAD, Replies, SilentError


def test_replies_come_in_order_and_then_the_end():
    replies = Replies(iter("ab"))

    assert [replies.next(60) for _ in range(3)] == ["a", "b", None]


def test_what_ended_the_call_comes_after_the_replies_before_it():
    def broken():
        yield "a"
        raise ValueError("gone")

    replies = Replies(broken())

    assert replies.next(60) == "a"
    with pytest.raises(ValueError, match="gone"):
        replies.next(60)


def test_silence_is_counted_from_the_last_reply():
    """However long a call takes in all, it is alive while something comes."""
    more = threading.Event()

    def slow():
        yield "a"
        more.wait(60)
        yield "b"

    replies = Replies(slow())
    assert replies.next(60) == "a"
    with pytest.raises(SilentError, match=r"^the cloud was silent for 0\.05 s$"):
        replies.next(0.05)

    more.set()
    assert replies.next(60) == "b"


def test_a_cloud_cannot_fill_the_edges_memory_with_replies():
    """Where nobody takes them, they stay with gRPC."""
    drawn = []

    def endless():
        while True:
            drawn.append(1)
            yield "more"

    replies = Replies(endless())
    for _ in range(3):
        replies.next(60)
    time.sleep(0.1)  # an unbounded queue would have thousands by now

    assert len(drawn) <= 3 + MAX_UNREAD + 1
    replies.stop()
