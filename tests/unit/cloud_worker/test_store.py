"""What survives a restart of the cloud, and what is done about damage."""

import dataclasses

import pytest
import torch

from cloud_worker.ahead import Ready
from cloud_worker.store import SessionFiles
from common.checkpoint import state_digest
from common.errors import CheckpointError, SessionError, WireError
from common.wire.messages import EvaluationResult, Position
from tests.unit.cloud_worker.fakes import (
    CountingBack,
    FakeStream,
    apply,
    attached,
    open_session,
    position,
    real_back,
    real_batch,
    real_run,
)
from tests.unit.records import RUN, SESSION, batch, batches, hello, part


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def checkpoint_files(run_dir):
    return sorted((run_dir / SESSION / "checkpoints").iterdir())


def flip_last_bit(path):
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)


@pytest.mark.parametrize(
    ("model", "split"), [("resnet18", "layer4.0"), ("vgg11", "pool5")], ids=["batch norm", "dropout"]
)
def test_a_restart_changes_no_bit(tmp_path, model, split):
    """Weights, buffers, momenta and the random numbers of the next step: all as if untouched."""
    run = real_run(model, split)
    records = [real_batch(run, seq) for seq in range(4)]
    untouched = real_back(run)
    for record in records:
        untouched.train(record.seq, untouched.decode(record.content), record.labels)

    first = open_session(tmp_path, real_back(run), run=run)
    stream = attached(first)
    apply(first, stream, *records[:2])
    first.detach(stream)
    back = real_back(run)
    second = open_session(tmp_path, back, run=run)
    torch.manual_seed(1234)  # wherever the process's own generator stands
    apply(second, attached(second, generation=2), *records[2:])

    assert state_digest(back.trainee.state()) == state_digest(untouched.trainee.state())
    assert state_digest(back.trainee.state()) != state_digest(real_back(run).trainee.state())


def test_position_losses_results_and_counters_come_back_with_the_weights(tmp_path):
    """They lie in one file: no crash can part them."""
    session = open_session(tmp_path)
    apply(session, attached(session), *batches(0, 0, 1, 2), part(0), part(1))

    back = CountingBack()
    restored = open_session(tmp_path, back)

    assert back.restored == [3.0, 3.0]
    ack = restored.ack(0, 0, 0)
    assert (ack.applied, ack.durable) == (Position(3, 2), Position(3))
    assert ack.losses == (0.0, 1.0, 2.0)
    assert ack.results == (EvaluationResult(batches=3, correct=6, total=8, loss=0.5),)
    counters = (ack.counters.batches_applied, ack.counters.duplicates_ignored, ack.counters.resumes)
    assert counters == (3, 1, 1)


def test_the_run_its_generation_and_its_owner_come_back(tmp_path):
    run = dataclasses.replace(RUN, lr=1e-3, seed=7)
    SessionFiles(tmp_path, SESSION).create(run, "pi", 1000)
    SessionFiles(tmp_path, SESSION).write(run, 12)

    files = SessionFiles(tmp_path, SESSION)
    assert files.read() == (run, 12)
    assert (files.owner(), files.reserved_bytes()) == ("pi", 1000)


def test_a_session_file_that_is_damaged_is_named(tmp_path):
    files = SessionFiles(tmp_path, SESSION)
    files.create(RUN, "", 0)
    path = tmp_path / SESSION / "session.json"
    path.write_text(path.read_text()[:40])

    with pytest.raises(CheckpointError, match=r"session\.json is damaged"):
        files.read()


def test_only_the_last_two_checkpoints_are_kept(tmp_path):
    session = open_session(tmp_path)
    stream = attached(session)
    for seq in range(5):
        session.apply(Ready(batch(seq)), stream)
        session.save()

    assert [path.name for path in checkpoint_files(tmp_path)] == ["000000000004.ckpt", "000000000005.ckpt"]


def test_a_damaged_newest_checkpoint_gives_way_to_the_one_before(tmp_path, caplog):
    session = open_session(tmp_path)
    apply(session, attached(session), *batches(0, 1, 2, 3, 4, 5))
    _, newest = checkpoint_files(tmp_path)
    newest.write_bytes(newest.read_bytes()[:-1])

    restored = open_session(tmp_path)

    assert position(restored) == (Position(3), Position(0))
    assert "000000000002.ckpt is damaged" in caplog.text
    assert "it is passed over" in caplog.text
    apply(restored, attached(restored, generation=2), batch(3))


def test_where_every_checkpoint_is_damaged_only_an_edge_that_has_all_records_is_served(tmp_path, caplog):
    """Starting over with any other would train some batches never."""
    session = open_session(tmp_path)
    apply(session, attached(session), *batches(0, 1, 2, 3, 4, 5))
    for path in checkpoint_files(tmp_path):
        flip_last_bit(path)

    restored = open_session(tmp_path)

    assert "000000000001.ckpt is damaged: its checksum does not match" in caplog.text
    with pytest.raises(SessionError, match="up to batch 0, the edge keeps its records from batch 3 on"):
        restored.attach(hello(2, kept_from=Position(3)), FakeStream())
    apply(restored, attached(restored, 2), batch(0))


@pytest.mark.parametrize(
    "session_id",
    [
        "",
        ".",
        "..",
        "../" + SESSION,
        "/etc/passwd",
        SESSION + "/..",
        SESSION + "\n",
        SESSION + "\0",
        SESSION[:-1],
        "0" * 36,
        "0000000A-0000-4000-8000-000000000000",
        "x" * 1000,
    ],
    ids=lambda session_id: repr(session_id[:40]),
)
def test_an_id_that_is_no_uuid_is_refused(tmp_path, session_id):
    """The id becomes the name of a directory."""
    with pytest.raises(WireError, match="a session id must be a lower-case UUID, got ") as caught:
        SessionFiles(tmp_path, session_id)

    assert len(str(caught.value)) < 150
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_checkpoint_is_not_one_of_the_two_that_are_kept(tmp_path):
    session = open_session(tmp_path)
    apply(session, attached(session), *batches(0, 1, 2, 3, 4, 5))
    flip_last_bit(checkpoint_files(tmp_path)[-1])

    restored = open_session(tmp_path)
    apply(restored, attached(restored, 2), batch(3))
    restored.save()

    assert [int(path.stem) for path in checkpoint_files(tmp_path)] == [1, 2]
    assert open_session(tmp_path).status().applied == Position(4)
