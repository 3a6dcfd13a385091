"""When a session makes its state durable."""

from types import SimpleNamespace

import pytest

from cloud_worker.ahead import Ready
from common.errors import CheckpointError
from common.wire.messages import End, EvaluationResult, Position, Skip
from tests.unit.cloud_worker.fakes import (
    SPLIT,
    SlopedBack,
    apply,
    attached,
    durable,
    on_disk,
    open_session,
    position,
)
from tests.unit.records import SESSION, batch, batches, part


@pytest.fixture
def now():
    return SimpleNamespace(s=1000.0)


@pytest.fixture
def session(tmp_path, now):
    """Save every 60 s of the clock, which stands still unless a test turns it."""
    return open_session(tmp_path, clock=lambda: now.s)


@pytest.fixture
def stream(session):
    return attached(session)


def test_state_is_saved_at_the_end_of_an_epoch_and_of_an_evaluation(session, stream, tmp_path):
    saved = []

    for record in (*batches(0, 1, 2), part(0), part(1), batch(3)):
        session.apply(Ready(record), stream)
        saved.append(on_disk(tmp_path))

    assert saved == [*2 * [Position(0)], *2 * [Position(3)], *2 * [Position(3, 2)]]


def test_the_edge_may_forget_what_the_older_of_two_checkpoints_has(session, stream):
    """A damaged newest one costs nothing: all after the one before still lies at the edge."""
    told = []

    for record in (*batches(0, 1, 2), part(0), part(1), *batches(3, 4, 5), End(6)):
        session.apply(Ready(record), stream)
        told.append(durable(session))

    assert told == [*4 * [Position(0)], *3 * [Position(3)], Position(3, 2), Position(7)]


def test_state_is_saved_when_the_time_has_come(session, stream, now, tmp_path):
    apply(session, stream, batch(0))
    now.s += 59.9
    apply(session, stream, batch(1))
    assert on_disk(tmp_path) == Position(0)

    now.s += 0.1
    apply(session, stream, Skip(2))

    assert on_disk(tmp_path) == Position(3)


def test_time_counts_from_the_last_save(session, stream, now, tmp_path):
    now.s += 50
    apply(session, stream, *batches(0, 1, 2))  # the epoch's end saves
    now.s += 50
    apply(session, stream, batch(3))
    assert on_disk(tmp_path) == Position(3)

    now.s += 10
    apply(session, stream, batch(4))

    assert on_disk(tmp_path) == Position(5)


def test_what_is_applied_becomes_durable_when_the_edge_is_short_of_room(session, stream, tmp_path):
    """One save would not do: the edge keeps what the older of the two lacks."""
    apply(session, stream, batch(0))
    session.note(losses_from=0, save=False, stream=stream)
    assert on_disk(tmp_path) == Position(0)

    session.note(losses_from=0, save=True, stream=stream)

    assert durable(session) == on_disk(tmp_path) == Position(1)


def test_state_is_saved_with_the_end(session, stream):
    apply(session, stream, *batches(0, 1, 2, 3, 4, 5), End(6))

    assert position(session) == (Position(7), Position(7))


def test_many_gradients_go_to_the_disk_and_a_checkpoint_does_not(tmp_path, monkeypatch):
    """The edge waits for each; those behind the checkpoint are made again, the same."""
    monkeypatch.setattr("cloud_worker.kept_gradients.SPILL_AFTER_BYTES", 0)
    session = open_session(tmp_path, SlopedBack(), run=SPLIT)
    apply(session, attached(session), *batches(0, 1))
    assert len(list((tmp_path / SESSION / "gradients").iterdir())) == 2

    again = open_session(tmp_path, SlopedBack(), run=SPLIT)
    assert again.status().applied == Position(0)
    assert not list((tmp_path / SESSION / "gradients").iterdir())
    apply(again, attached(again, 2), batch(0))

    assert again.gradient(0) == session.gradient(0)


def test_a_stream_that_ends_leaves_its_state_on_the_disk(session, stream, tmp_path):
    apply(session, stream, batch(0))

    session.detach(stream)

    assert position(open_session(tmp_path)) == (Position(1), Position(0))


def test_what_is_not_durable_is_gone_after_a_restart(session, stream, tmp_path):
    """Nothing but the last save counts: weights and position can never come apart."""
    apply(session, stream, *batches(0, 1, 2, 3))

    assert position(open_session(tmp_path)) == (Position(3), Position(0))


def test_an_evaluation_goes_on_after_a_restart_in_its_midst(session, stream, tmp_path):
    """The sums so far are saved with the position, so no part has to come again."""
    apply(session, stream, *batches(0, 1, 2), part(0))
    session.save()

    again = open_session(tmp_path)
    apply(again, attached(again, generation=2), part(1, labels=(0, 0)))

    assert again.status().results == (EvaluationResult(batches=3, correct=3, total=6, loss=0.5),)


def test_weights_that_found_no_room_at_the_end_are_written_with_the_next_save(tmp_path, monkeypatch):
    """Otherwise the run would count as complete, and its weights would be nowhere."""
    session = open_session(tmp_path)
    stream = attached(session)
    apply(session, stream, *batches(0, 1, 2, 3, 4, 5))

    def full(*_):
        raise CheckpointError("cannot write")

    with monkeypatch.context() as patched:
        patched.setattr(session._files, "finish", full)
        with pytest.raises(CheckpointError):
            session.apply(Ready(End(6)), stream)
    assert not (tmp_path / SESSION / "back.safetensors").exists()
    session.detach(stream)

    assert (tmp_path / SESSION / "back.safetensors").exists()
