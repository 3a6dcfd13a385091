"""Gradients on their way from the uplink to the training: in order, for who wants them, and bounded."""

import dataclasses
import threading

import pytest
import torch

from common.codec import decode, encode
from common.errors import SessionError, WireError
from common.wire.messages import Gradient
from common.wire.reassembly import chunks_of
from common.wire.records import gradient_to_bytes
from edge_worker import gradients as module
from edge_worker.gradients import Gradients
from tests.unit.records import RUN

SPLIT = dataclasses.replace(RUN, strategy="split-learning", gradient_bits=8)
CPU = torch.device("cpu")


def gradient(seq):
    return encode(torch.randn(4, *RUN.activation_shape, generator=torch.Generator().manual_seed(seq)), 8)


def bring(box, *seqs, chunk_bytes=16):
    for seq in seqs:
        for chunk in chunks_of(gradient_to_bytes(Gradient(seq, gradient(seq))), chunk_bytes):
            box.put(chunk)


def stays():
    return False


@pytest.fixture
def box():
    made = Gradients(SPLIT, threading.Condition(), first=0)
    made.start(0)
    return made


def test_they_are_taken_in_order_whatever_the_chunks(box):
    bring(box, 0, 1)
    bring(box, 2, chunk_bytes=1 << 20)

    for seq in range(3):
        assert torch.equal(box.take(seq, stays), decode(gradient(seq), CPU))


def test_taking_waits_until_one_has_come(box):
    taken = []
    thread = threading.Thread(target=lambda: taken.append(box.take(0, stays)))
    thread.start()
    bring(box, 0)
    thread.join(60)

    assert torch.equal(taken[0], decode(gradient(0), CPU))


def test_whoever_leaves_the_run_waits_no_more(box):
    assert box.take(0, lambda: True) is None


def test_what_ends_the_run_is_raised_where_it_is_waited_for(box):
    def failed():
        raise SessionError("the cloud has another run")

    with pytest.raises(SessionError, match="another run"):
        box.take(0, failed)


def test_a_new_stream_begins_with_the_one_that_is_wanted_next(box):
    bring(box, 0, 1, 2)
    box.take(0, stays)
    box.put(next(iter(chunks_of(gradient_to_bytes(Gradient(3, gradient(3))), 16))))  # cut off there

    assert box.restart() == 3  # two more wait already
    bring(box, 3)
    for seq in (1, 2, 3):
        assert torch.equal(box.take(seq, stays), decode(gradient(seq), CPU))


def test_a_stream_opened_before_it_was_known_where_training_goes_on_may_bring_earlier_ones():
    box = Gradients(SPLIT, threading.Condition(), first=2)
    assert box.restart() == 2
    box.start(4)
    bring(box, 2, 3, 4)

    assert torch.equal(box.take(4, stays), decode(gradient(4), CPU))


@pytest.mark.parametrize("seq", [0, 2])
def test_one_that_is_not_next_is_refused(box, seq):
    bring(box, 0)

    with pytest.raises(WireError, match=f"sent the gradient of batch {seq}, not 1"):
        bring(box, seq)


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"\xff\xff\xff", "does not parse"),
        (gradient_to_bytes(Gradient(SPLIT.total_batches, gradient(0))), "the run has no batch 6"),
        (
            gradient_to_bytes(Gradient(0, encode(torch.zeros(4, 3, 1, 1), 8))),
            r"shape \[1\.\.4, 2, 1, 1\]",
        ),
        (gradient_to_bytes(Gradient(0, encode(torch.zeros(4, 2, 1, 1), 32))), "at most 8 bits .* got 32"),
    ],
)
def test_what_is_no_gradient_of_this_run_is_refused(box, data, complaint):
    (chunk,) = chunks_of(data, 1 << 20)

    with pytest.raises(WireError, match=complaint):
        box.put(chunk)


def test_a_cloud_that_floods_is_refused(box, monkeypatch):
    monkeypatch.setattr(module, "MAX_WAITING_BYTES", 100)
    monkeypatch.setattr(module, "MAX_LARGEST", 3)

    with pytest.raises(WireError, match="bytes of gradients ahead of their steps"):
        bring(box, *range(6))


def test_a_checkpoint_is_due_after_so_many_bytes(box, monkeypatch):
    size = len(gradient_to_bytes(Gradient(0, gradient(0)))) + module.OVERHEAD_BYTES
    monkeypatch.setattr(module, "SAVE_AFTER_BYTES", size)
    bring(box, 0, 1)

    box.take(0, stays)
    assert not box.save_is_due
    box.take(1, stays)
    assert box.save_is_due
    box.saved()
    assert not box.save_is_due
