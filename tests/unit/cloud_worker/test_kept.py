"""`cloud-worker sessions list` and `rm`: what is kept, and what goes."""

import json
import os

import pytest

from cloud_worker.cli import main
from cloud_worker.kept import list_sessions, remove_sessions
from cloud_worker.store import EDITABLE, SessionFiles
from common.checkpoint import CheckpointStore
from common.durable import opened, sealed
from common.errors import ConfigError, NotFoundError, WireError
from common.rundir import lock_run_dir
from common.wire.messages import End
from tests.unit.cloud_worker.fakes import apply, attached, open_session
from tests.unit.records import RUN, SESSION, batches

OTHER = "11111111-1111-4111-8111-111111111111"


@pytest.fixture
def kept(tmp_path):
    """A run directory with a session of three batches, and beside it what is no session."""
    session = open_session(tmp_path)
    stream = attached(session)
    apply(session, stream, *batches(0, 1, 2))
    session.detach(stream)
    (tmp_path / "lock").touch()
    (tmp_path / "notes").mkdir()
    return tmp_path


@pytest.fixture
def command(capsys):
    """Run `cloud-worker sessions ARGUMENTS`; returns exit code, stdout and stderr."""

    def run(*arguments):
        with pytest.raises(SystemExit) as ended:
            main(["sessions", *(str(argument) for argument in arguments)])
        return ended.value.code, *capsys.readouterr()

    return run


def size_of(directory):
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())


# -------------------------------------------------------------------- list


def test_a_session_is_listed_with_what_is_durable_of_it(kept):
    (found,) = list_sessions(kept)

    assert (found.session, found.owner, found.model, found.split) == (SESSION, "", RUN.model, RUN.split)
    assert (found.batches, found.total_batches, found.finished) == (3, 6, False)
    assert found.bytes == size_of(kept / SESSION)


def test_a_finished_session_and_its_owner_are_listed_last_changed_first(kept):
    files = SessionFiles(kept, OTHER)
    files.create(RUN, "pi", 0)
    os.utime(kept / OTHER / "session.json", (1, 1))
    session = open_session(kept)
    apply(session, attached(session, generation=2), *batches(3, 4, 5), End(6))

    newest, oldest = list_sessions(kept)

    assert (newest.session, newest.batches, newest.finished) == (SESSION, 6, True)
    assert (oldest.session, oldest.owner, oldest.batches) == (OTHER, "pi", 0)
    assert oldest.changed == "1970-01-01T00:00:01+00:00"


def test_an_owner_is_shown_as_it_is(kept, command):
    """Certificates and token files may hold what rich, or a terminal, would obey."""
    SessionFiles(kept, OTHER).create(RUN, "a[/b][red]c\x1b[2J", 0)

    code, out, _ = command("list", "--run-dir", kept)

    assert code == 0
    assert "a[/b][red]c\\x1b[2J" in out


def test_a_damaged_session_is_listed_as_far_as_it_can_be_read(kept, command):
    """It takes room, and somebody must be able to remove it."""
    (kept / SESSION / "session.json").write_text("{")

    (found,) = list_sessions(kept)
    code, out, _ = command("list", "--run-dir", kept)

    assert (found.session, found.model, found.bytes) == (SESSION, None, size_of(kept / SESSION))
    assert code == 0
    assert "damaged" in out


DAMAGED_NUMBERS = {
    "no position": {"counters": {}, "results": []},
    "an empty position": {"applied": []},
    "a position of words": {"applied": ["x", "y"]},
    "no numbers": 7,
    "a list": [1],
}


@pytest.mark.parametrize("numbers", DAMAGED_NUMBERS.values(), ids=DAMAGED_NUMBERS)
def test_a_session_with_a_damaged_checkpoint_does_not_spoil_the_list(kept, command, numbers):
    """Nobody computes a checksum over gigabytes to list sessions."""
    SessionFiles(kept, OTHER).create(RUN, "pi", 0)
    CheckpointStore(kept / SESSION / "checkpoints").save(9, {}, numbers)

    damaged = [each.session for each in list_sessions(kept) if each.model is None]
    code, out, _ = command("list", "--run-dir", kept)

    assert damaged == [SESSION]
    assert code == 0
    assert "damaged" in out
    assert f"0/{RUN.total_batches}" in out


@pytest.mark.parametrize(("name", "value"), [("total_batches", "6"), ("model", 7), ("input_shape", None)])
def test_a_run_that_is_none_is_listed_as_damaged(kept, name, value):
    path = kept / SESSION / "session.json"
    saved = opened(path.read_bytes(), EDITABLE)
    saved["run"][name] = value
    path.write_bytes(sealed(saved, EDITABLE))

    assert [each.model for each in list_sessions(kept)] == [None]


def test_a_server_may_run_while_sessions_are_listed(kept):
    lock = lock_run_dir(kept)

    assert [each.session for each in list_sessions(kept)] == [SESSION]
    os.close(lock)


def test_the_list_is_a_table_or_json(kept, command):
    code, table, _ = command("list", "--run-dir", kept)
    _, document, _ = command("list", "--run-dir", kept, "--json")

    assert code == 0
    for word in (SESSION, RUN.model, RUN.split, "3/6"):
        assert word in table
    (found,) = json.loads(document)
    assert (found["session"], found["batches"], found["finished"]) == (SESSION, 3, False)


def test_listing_leaves_no_trace(kept):
    SessionFiles(kept, OTHER).create(RUN, "", 0)
    before = sorted(kept.rglob("*"))

    list_sessions(kept)

    assert sorted(kept.rglob("*")) == before


# -------------------------------------------------------------------- rm


def test_what_is_removed_is_gone_and_the_rest_stays(kept, command):
    SessionFiles(kept, OTHER).create(RUN, "", 0)
    size = size_of(kept / SESSION)

    code, out, _ = command("rm", "--run-dir", kept, SESSION, SESSION)

    assert (code, out) == (0, f"removed {SESSION} ({size / 1024:.4g}KiB)\n")
    assert sorted(path.name for path in kept.iterdir()) == [OTHER, "lock", "notes"]


def test_nothing_is_removed_while_a_server_runs(kept):
    lock = lock_run_dir(kept)

    with pytest.raises(ConfigError, match=rf"^a server runs on {kept}; stop it first, then remove sessions$"):
        remove_sessions(kept, [SESSION])

    assert (kept / SESSION / "session.json").exists()
    os.close(lock)


def test_a_server_may_start_once_sessions_are_removed(kept):
    remove_sessions(kept, [SESSION])

    os.close(lock_run_dir(kept))


@pytest.mark.parametrize(
    ("ids", "kind", "words"),
    [
        (
            [SESSION, OTHER],
            NotFoundError,
            rf"keeps no session {OTHER}; cloud-worker sessions list shows them",
        ),
        ([SESSION, "../x"], WireError, r"a session id must be a lower-case UUID, got '\.\./x'"),
        (["notes"], WireError, r"a session id must be a lower-case UUID, got 'notes'"),
    ],
)
def test_one_wrong_id_and_none_is_removed(kept, ids, kind, words):
    with pytest.raises(kind, match=words):
        remove_sessions(kept, ids)

    assert [each.session for each in list_sessions(kept)] == [SESSION]


def test_what_a_kill_left_over_is_no_session_and_goes_with_the_next_one(kept):
    left = kept / (OTHER + ".removed")
    (kept / SESSION).rename(left)
    assert list_sessions(kept) == []
    SessionFiles(kept, SESSION).create(RUN, "", 0)

    remove_sessions(kept, [SESSION])

    assert not left.exists()


@pytest.mark.parametrize("arguments", [["list"], ["rm", SESSION]])
def test_a_run_directory_that_is_not_there_is_named_and_not_made(tmp_path, command, arguments):
    nowhere = tmp_path / "nowhere"

    code, _, err = command(*arguments, "--run-dir", nowhere)

    assert code == 1
    assert (
        err == f"Error: there is no run directory {nowhere}; give --run-dir the one of cloud-worker serve\n"
    )
    assert not nowhere.exists()
