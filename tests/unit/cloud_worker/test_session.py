"""Records of one session: each applied exactly once, in order; what the edge is told of it."""

import json
import math

import pytest

from cloud_worker.ahead import Ready
from common.errors import CapacityError, SessionError
from common.wire.messages import End, EvaluationResult, Position, Skip
from tests.unit.cloud_worker.fakes import CountingBack, apply, attached, open_session
from tests.unit.records import SESSION, batch, batches, part


@pytest.fixture
def back():
    return CountingBack()


@pytest.fixture
def session(tmp_path, back):
    return open_session(tmp_path, back)


@pytest.fixture
def stream(session):
    return attached(session)


# -------------------------------------------------------------------- order


def test_batches_are_applied_in_order_and_told_with_their_losses(session, stream, back):
    apply(session, stream, *batches(0, 1))

    assert [seq for seq, _ in back.learnt] == [0, 1]
    ack = session.ack(received_bytes=10, losses_from=0, results_from=0)
    assert (ack.received_bytes, ack.applied, ack.first_loss, ack.losses) == (10, Position(2), 0, (0.0, 1.0))
    assert ack.counters.batches_applied == 2


def test_what_was_applied_is_ignored_and_counted_whatever_it_holds(session, stream, back):
    """The first bytes applied for a position win."""
    apply(session, stream, batch(0), batch(1))

    apply(session, stream, batch(0, labels=(9, 9, 9, 9)), batch(1, labels=(9, 9, 9, 9)))

    assert back.learnt == [(0, (0, 1, 2, 3)), (1, (0, 1, 2, 3))]
    assert session.ack(0, 0, 0).losses == (0.0, 1.0)
    assert session.status().applied == Position(2)
    assert session.status().counters.duplicates_ignored == 2
    assert session.status().counters.batches_applied == 2


@pytest.mark.parametrize(
    ("record", "words"),
    [
        (batch(2), "stands at batch 2, the cloud expected batch 1"),
        (part(0, batches=2), "stands at batch 2, the cloud expected batch 1"),
        (part(1, batches=1), "sent part 1 of an evaluation, the cloud expected part 0"),
        (Skip(4), "stands at batch 4, the cloud expected batch 1"),
        (End(6), "stands at batch 6, the cloud expected batch 1"),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else "",
)
def test_a_gap_is_refused_with_both_numbers_and_changes_nothing(session, stream, back, record, words):
    apply(session, stream, batch(0))

    with pytest.raises(SessionError, match=words):
        session.apply(Ready(record), stream)

    assert session.status().applied == Position(1)
    assert len(back.learnt) == 1


def test_a_skipped_batch_keeps_the_order_and_teaches_nothing(session, stream, back):
    apply(session, stream, batch(0), Skip(1), batch(2))

    assert [seq for seq, _ in back.learnt] == [0, 2]
    losses = session.ack(0, 0, 0).losses
    assert losses[::2] == (0.0, 2.0)
    assert math.isnan(losses[1])
    assert session.status().counters.batches_applied == 2


# -------------------------------------------------------------------- evaluations


def test_an_evaluation_is_summed_up_over_its_parts(session, stream):
    """The parts differ in size, so neither sum is a mean of means."""
    apply(session, stream, *batches(0, 1, 2), part(0), part(1, labels=(0, 0)))

    expected = EvaluationResult(batches=3, correct=3, total=6, loss=0.5)
    assert session.ack(0, 0, results_from=0).results == (expected,)
    assert session.ack(0, 0, results_from=1).results == ()
    assert session.status().applied == Position(3, 2)


def test_an_evaluation_that_was_cut_short_leaves_nothing_in_the_next(session, stream):
    """Every evaluation starts over at part 0."""
    apply(session, stream, *batches(0, 1, 2), part(0), batch(3))

    apply(session, stream, part(0, batches=4, labels=(0,)), part(1, batches=4, labels=(1,)))

    assert session.status().results == (EvaluationResult(batches=4, correct=1, total=2, loss=0.5),)


def test_a_part_that_comes_again_is_not_counted_again(session, stream):
    apply(session, stream, *batches(0, 1, 2), part(0), part(0), part(1))

    assert session.status().results == (EvaluationResult(batches=3, correct=6, total=8, loss=0.5),)
    assert session.status().counters.duplicates_ignored == 1


def test_a_missing_part_is_refused_with_both_numbers(session, stream):
    apply(session, stream, *batches(0, 1, 2), part(0, num_parts=3))

    with pytest.raises(SessionError, match=r"sent part 2 of an evaluation, the cloud expected part 1; "):
        session.apply(Ready(part(2, num_parts=3)), stream)

    assert session.status().applied == Position(3, 1)


# -------------------------------------------------------------------- losses


def test_losses_are_kept_until_the_edge_has_them_on_its_disk(session, stream):
    """Told is not enough: an edge that starts again asks for them once more."""
    apply(session, stream, *batches(0, 1, 2))
    assert session.ack(0, losses_from=3, results_from=0).losses == ()
    assert session.ack(0, losses_from=1, results_from=0).losses == (1.0, 2.0)

    session.note(losses_from=2, save=False, stream=stream)

    ack = session.ack(0, losses_from=0, results_from=0)
    assert (ack.first_loss, ack.losses) == (2, (2.0,))


def test_a_note_that_falls_back_brings_no_loss_to_life(session, stream):
    apply(session, stream, *batches(0, 1, 2))
    session.note(losses_from=2, save=False, stream=stream)

    session.note(losses_from=1, save=False, stream=stream)

    assert session.ack(0, 0, 0).first_loss == 2


def test_an_edge_that_never_says_what_it_has_cannot_fill_the_memory(session, stream, monkeypatch):
    """A skipped batch has a few bytes on the wire and a loss here; a run may claim any number of them."""
    monkeypatch.setattr("cloud_worker.session.MAX_LOSSES_KEPT", 2)
    apply(session, stream, Skip(0), Skip(1))

    with pytest.raises(CapacityError, match=r"keeps the losses of 2 batches, .* say in losses_from"):
        apply(session, stream, Skip(2))

    session.note(2, save=False, stream=stream)
    apply(session, stream, Skip(2))
    assert session.status().applied == Position(3)


def test_no_loss_is_forgotten_before_it_is_there(session, stream):
    """A note ahead of the cloud keeps batch and loss together."""
    apply(session, stream, batch(0))
    session.note(losses_from=5, save=False, stream=stream)

    apply(session, stream, batch(1))

    ack = session.ack(0, 0, 0)
    assert (ack.first_loss, ack.losses) == (1, (1.0,))


# -------------------------------------------------------------------- the end


def test_the_end_leaves_weights_and_a_summary(session, stream, tmp_path):
    apply(session, stream, *batches(0, 1, 2, 3, 4, 5, 5))
    assert not session.finished
    assert not (tmp_path / SESSION / "summary.json").exists()

    session.apply(Ready(End(6)), stream)

    assert session.finished
    assert (tmp_path / SESSION / "back.safetensors").stat().st_size > 0
    summary = json.loads((tmp_path / SESSION / "summary.json").read_text())
    assert (summary["batches_applied"], summary["duplicates_ignored"], summary["resumes"]) == (6, 1, 0)
