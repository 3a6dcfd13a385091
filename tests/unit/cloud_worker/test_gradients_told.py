"""Gradients that a session gives back: each once on a stream, after its batch, and again to who lost them."""

import dataclasses

import grpc
import pytest
import torch

from common.codec import decode
from common.wire.messages import Ack, Chunk, Note, Position
from common.wire.reassembly import Reassembly
from common.wire.records import gradient_from_bytes, max_content_bytes
from tests.unit.cloud_worker.edges import cloud_in_process, refused
from tests.unit.cloud_worker.fakes import SPLIT, SlopedBack
from tests.unit.records import RUN, batches, hello

Code = grpc.StatusCode
CPU = torch.device("cpu")


@pytest.fixture
def cloud(tmp_path, monkeypatch):
    monkeypatch.setattr("cloud_worker.sessions.Back", SlopedBack)
    with cloud_in_process(tmp_path) as cloud:
        yield cloud


def welcomed(cloud, generation=1, **changes):
    edge = cloud.edge(dataclasses.replace(hello(generation, run=SPLIT), **changes))
    edge.reply()
    return edge


def gradients(edge, count):
    """Return the slopes of the next `count` gradients, and where the cloud had said to stand before each."""
    found, whole, applied = [], Reassembly(max_content_bytes(SPLIT, 32)), Position(0)
    while len(found) < count:
        reply = edge.reply()
        if isinstance(reply, Ack):
            applied = reply.applied
        elif (data := whole.add(reply)) is not None:
            gradient = gradient_from_bytes(data, SPLIT)
            (slope,) = decode(gradient.content, CPU).unique().tolist()
            assert gradient.content.shape[0] == 4
            found.append((gradient.seq, slope, applied > Position(gradient.seq)))
    return found


def test_each_comes_back_once_after_it_is_said_to_be_applied(cloud):
    edge = welcomed(cloud)
    edge.send_records(*batches(0, 1, 2))

    assert gradients(edge, 3) == [(0, 1.0, True), (1, 2.0, True), (2, 3.0, True)]
    edge.send_records(*batches(3))
    edge.close()
    assert gradients(edge, 1) == [(3, 4.0, True)]
    assert not any(isinstance(reply, Chunk) for reply in edge.acks())


def test_who_was_killed_is_told_again_from_where_it_asks_on(cloud):
    welcomed(cloud).send_records(*batches(0, 1, 2))
    again = welcomed(cloud, 2, gradients_from=1)
    again.send_records(*batches(0, 1, 2, 3))  # whatever of it has been applied by now is ignored

    assert gradients(again, 3) == [(1, 2.0, True), (2, 3.0, True), (3, 4.0, True)]


def test_a_cloud_that_comes_back_has_those_of_its_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setattr("cloud_worker.sessions.Back", SlopedBack)
    with cloud_in_process(tmp_path) as cloud:
        edge = welcomed(cloud)
        edge.send_records(*batches(0, 1))
        gradients(edge, 2)
        edge.send(Note(losses_from=0, save=True))
        while edge.reply().durable < Position(2):
            pass

    with cloud_in_process(tmp_path) as cloud:
        assert gradients(welcomed(cloud, 2), 2) == [(0, 1.0, True), (1, 2.0, True)]


def test_what_the_edge_has_a_checkpoint_behind_is_dropped_and_refused(cloud):
    edge = welcomed(cloud)
    edge.send_records(*batches(0, 1, 2))
    gradients(edge, 3)
    edge.send(Note(losses_from=2, save=True))
    while edge.reply().durable < Position(3):
        pass

    with refused(Code.FAILED_PRECONDITION, "the gradient of batch 0 is not kept any more"):
        gradients(welcomed(cloud, 2), 1)


def test_a_gradient_that_is_no_number_ends_the_run_and_its_step_is_never_saved(cloud):
    """What is in memory is a step ahead then: the session is loaded again from its last checkpoint."""
    edge = welcomed(cloud)
    edge.send_records(*batches(0))
    gradients(edge, 1)
    edge.send(Note(losses_from=0, save=True))
    edge.send_records(dataclasses.replace(batches(1)[0], labels=(9, 9, 9, 9)))

    with refused(Code.INVALID_ARGUMENT, "the gradient of batch 1 is not finite; the training has diverged"):
        gradients(edge, 1)
    again = cloud.edge(hello(2, run=SPLIT)).reply()
    assert again.applied == Position(1)


@pytest.mark.parametrize(
    ("run", "change", "words"),
    [
        (
            RUN,
            {"gradients_from": 1},
            r"gradients_from must be 0 to 0 .*, got 1",
        ),
        (SPLIT, {"gradients_from": 1, "losses_from": 2}, r"gradients_from must be 2 to 6 .*, got 1"),
        (SPLIT, {"gradients_from": 7}, r"must be 0 to 6 .*, got 7"),
        (dataclasses.replace(SPLIT, gradient_bits=0), {}, "gradient_bits must be one of .* got 0"),
        (dataclasses.replace(RUN, gradient_bits=8), {}, r"one of \(0,\) with hierarchical, got 8"),
    ],
)
def test_hello_that_asks_for_what_cannot_be_is_refused(cloud, run, change, words):
    with refused(Code.INVALID_ARGUMENT, words):
        cloud.edge(dataclasses.replace(hello(run=run), **change)).reply()
