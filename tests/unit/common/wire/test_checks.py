"""What the edge believes of the cloud: nothing that its own run does not allow."""

import math

import pytest

from common.errors import WireError
from common.wire.checks import check_reply
from common.wire.messages import Ack, Counters, EvaluationResult, Position, Welcome
from tests.unit.records import RUN

END = Position(RUN.total_batches + 1)


def ack(**changes):
    return Ack(**{"received_bytes": 0, "applied": Position(3), "durable": Position(3), **changes})


def result(**changes):
    return EvaluationResult(**{"batches": 3, "correct": 1, "total": 2, "loss": 0.5, **changes})


@pytest.mark.parametrize(
    "reply",
    [
        ack(applied=END, durable=END),
        ack(first_loss=4, losses=(0.5, math.nan), results=(result(loss=math.inf),)),
        Welcome(applied=END, durable=Position(0), max_record_bytes=1, results=(result(correct=2),)),
    ],
    ids=["end", "diverged", "welcome"],
)
def test_what_a_run_can_come_to_is_believed(reply):
    check_reply(reply, RUN)


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (ack(applied=Position(7, 1)), r"applied \(7, 1\), but the run ends at \(7, 0\)"),
        (ack(durable=Position(4)), r"\(4, 0\) is durable and only \(3, 0\) applied"),
        (ack(first_loss=5, losses=(0.5, 0.5)), "2 losses from batch 5 on, in a run of 6 batches"),
        (ack(results=(result(batches=7),)), "after 7 batches .* in a run of 6"),
        (ack(results=(result(batches=0),)), "after 0 batches"),
        (ack(results=(result(correct=3),)), "3 of 2 right"),
        (ack(results=(result(correct=0, total=0),)), "0 of 0 right"),
        (ack(counters=Counters(busy_s=math.nan)), "busy_s must be 0 or more, got nan"),
        (ack(counters=Counters(busy_s=-1.0)), "busy_s must be 0 or more, got -1.0"),
        (
            Welcome(applied=Position(2**63), durable=Position(0), max_record_bytes=1, results=()),
            "applied .* but the run ends",
        ),
    ],
)
def test_what_no_run_can_come_to_is_refused(reply, words):
    with pytest.raises(WireError, match=words):
        check_reply(reply, RUN)
