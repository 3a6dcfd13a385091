"""Which stream serves a session: generations, take-overs, and settings that must stay what they were."""

import pytest

from cloud_worker.ahead import Ready
from common.errors import CheckpointError, CloudError, FencedError, SessionError
from common.wire.messages import Position
from tests.unit.cloud_worker.fakes import (
    CountingBack,
    FakeStream,
    apply,
    attached,
    on_disk,
    open_session,
    position,
)
from tests.unit.records import batch, batches, hello, part


@pytest.fixture
def session(tmp_path):
    return open_session(tmp_path)


def test_a_newer_generation_takes_over_and_the_older_stream_does_nothing_more(tmp_path):
    back = CountingBack()
    session = open_session(tmp_path, back)
    old = attached(session, generation=1)
    new = attached(session, generation=2)

    assert isinstance(old.error, FencedError)
    assert str(old.error) == (
        "a newer stream of this session has taken over; this process must stop: another one goes on "
        "with this run directory, or with a copy of it"
    )
    with pytest.raises(FencedError, match="a newer stream of this session has taken over"):
        session.apply(Ready(batch(0)), old)
    with pytest.raises(FencedError, match="a newer stream of this session has taken over"):
        session.note(losses_from=1, save=True, stream=old)
    assert back.learnt == []

    session.apply(Ready(batch(0)), new)
    assert new.error is None
    assert len(back.learnt) == 1


def test_an_older_stream_that_leaves_does_not_take_the_newer_one_with_it(session):
    old = attached(session, generation=1)
    new = attached(session, generation=2)

    session.detach(old)

    session.apply(Ready(batch(0)), new)
    assert position(session) == (Position(1), Position(0))


def test_the_same_process_may_connect_again(session):
    """At equal generations the stream that was opened last wins."""
    first, second = attached(session), attached(session)

    session.apply(Ready(batch(0)), second)

    assert isinstance(first.error, FencedError)
    assert second.error is None


def test_an_older_generation_is_refused_also_after_a_restart(session, tmp_path):
    """The highest generation is on the disk before its stream is welcomed."""
    current = attached(session, generation=5)

    for each in (session, open_session(tmp_path)):
        with pytest.raises(FencedError, match=r"generation 4 of session .* came after generation 5: "):
            each.attach(hello(4), FakeStream())

    assert current.error is None


@pytest.mark.parametrize(
    ("setting", "value", "words"),
    [
        ("bits", 4, "runs with bits 4, this session was opened with 8; use a new --run-dir"),
        ("lr", 0.2, "runs with lr 0.2, this session was opened with 0.1"),
        ("weights_digest", "ef", "runs with weights_digest ef, this session was opened with cd"),
    ],
)
def test_other_settings_are_refused_with_both_values(session, setting, value, words):
    current = attached(session)

    with pytest.raises(SessionError, match=words):
        session.attach(hello(**{setting: value}), FakeStream())

    assert current.error is None


def test_a_stream_of_the_same_process_learns_what_is_applied_and_what_is_durable(session):
    apply(session, attached(session), *batches(0, 1, 2, 3))

    welcome = session.attach(hello(generation=1), FakeStream())

    assert (welcome.applied, welcome.durable) == (Position(4), Position(0))


def test_an_edge_that_has_forgotten_what_is_missing_here_is_refused_with_both_numbers(tmp_path):
    """Both checkpoints were lost: nothing is trained on a state that lacks batches."""
    back = CountingBack()
    session = open_session(tmp_path, back)
    session.apply(Ready(batch(0)), attached(session))

    with pytest.raises(
        SessionError, match=r"has this session up to batch 1, .* from batch 3 on, those between are lost"
    ):
        session.attach(hello(2, kept_from=Position(3)), FakeStream())

    assert len(back.learnt) == 1
    assert session.attach(hello(2, kept_from=Position(1)), FakeStream()).applied == Position(1)


def test_losses_before_those_that_hello_asks_for_are_forgotten(session):
    apply(session, attached(session), *batches(0, 1, 2))

    session.attach(hello(generation=2, losses_from=2), FakeStream())

    assert session.ack(0, 0, 0).first_loss == 2


def test_shutting_down_saves_and_sends_the_edge_away_to_come_back(session, tmp_path):
    stream = attached(session)
    session.apply(Ready(batch(0)), stream)

    session.shut_down()

    assert isinstance(stream.error, CloudError)
    assert str(stream.error) == "the cloud is shutting down; it can be resumed once it is back"
    assert on_disk(tmp_path) == Position(1)


def test_a_stream_goes_on_where_its_successor_cannot_be_written_down(tmp_path, monkeypatch):
    """A full disk refuses the newer generation, and does not end the older one as well."""
    session = open_session(tmp_path)
    old = attached(session)

    def full(*_):
        raise CheckpointError("cannot write")

    monkeypatch.setattr(session._files, "write", full)
    with pytest.raises(CheckpointError):
        session.attach(hello(2), FakeStream())

    assert old.error is None
    apply(session, old, batch(0))
    assert position(session)[0] == Position(1)


def test_an_evaluation_has_as_many_parts_as_its_first_one_said(session):
    stream = attached(session)
    apply(session, stream, *batches(0, 1, 2), part(0), part(1))

    with pytest.raises(SessionError, match=r"says that the evaluation has 3 parts, .* it said 2"):
        apply(session, stream, part(2, num_parts=3))
