"""What the cloud's log tells of a session: who comes, how far it gets, and why it ends."""

import logging
import time

import pytest

from common.wire.messages import Chunk, End, Position
from tests.unit.cloud_worker.edges import cloud_in_process, welcomed
from tests.unit.cloud_worker.fakes import CountingBack
from tests.unit.records import SESSION, batches, hello, part


@pytest.fixture
def cloud(tmp_path, monkeypatch):
    """A cloud whose networks only count."""
    monkeypatch.setattr("cloud_worker.sessions.Back", CountingBack)
    with cloud_in_process(tmp_path) as cloud:
        yield cloud


@pytest.fixture
def lines(caplog):
    """Return the lines about the session so far, once one of them has these words."""
    caplog.set_level(logging.INFO)

    def until(words):
        deadline = time.monotonic() + 60
        while words not in caplog.text:
            assert time.monotonic() < deadline, caplog.text
            time.sleep(0.01)
        found = [each.getMessage() for each in caplog.records if SESSION in each.getMessage()]
        return [line.replace(SESSION, "S") for line in found]

    return until


def test_a_run_is_followed_from_its_first_stream_to_its_end(cloud, lines):
    edge = welcomed(cloud, generation=2)
    records = [
        *batches(0, 1, 2, 3, 4, 5),
        part(0, batches=6),
        part(1, batches=6, labels=(0, 1, 0, 1)),
        End(6),
    ]
    edge.send_records(*records)
    edge.until(Position(7))
    edge.close()
    edge.acks()

    assert lines("stream ended") == [
        "session S is opened by an edge without a name",
        "session S: an edge has connected, generation 2, at batch 0 of 6",
        "session S: epoch 1 is trained, batch 3 of 6",
        "session S: epoch 2 is trained, batch 6 of 6",
        "session S: accuracy 62.5% at batch 6 of 6",
        "session S is finished and saved: batch 6 of 6",
        "session S: its stream ended at batch 6 of 6: the edge closed it",
    ]


def test_a_broken_connection_is_told_from_a_stream_that_the_edge_closes(cloud, lines):
    edge = welcomed(cloud)
    edge.send_records(*batches(0, 1))
    edge.until(Position(2))
    edge.call.cancel()

    assert lines("stream ended")[-1] == (
        "session S: its stream ended at batch 2 of 6: the connection broke off"
    )


def test_an_edge_that_comes_back_shows_where_it_goes_on_and_why_the_other_one_ended(cloud, lines):
    edge = welcomed(cloud)
    edge.send_records(*batches(0, 1))
    edge.until(Position(2))
    cloud.edge(hello(generation=2)).reply()

    assert "session S: an edge has connected, generation 2, at batch 2 of 6" in lines("stream ended")
    assert "taken over" in lines("stream ended")[-1]


def test_what_an_edge_does_wrong_is_the_reason_in_one_line(cloud, lines):
    edge = welcomed(cloud)
    edge.send(Chunk(record_bytes=4, offset=0, data=b"\x1b[2J"))

    # Not that of the test before, whose server may still be ending.
    (line,) = [line for line in lines("ended at batch 0 of 6") if "ended at batch 0 of 6" in line]

    assert line.isprintable()
    assert "connection" not in line
