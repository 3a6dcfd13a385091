"""What a run directory keeps of a run, and what a resumed run may change.

Named so because pytest takes no second `test_rundir.py` beside common's.
"""

import dataclasses
import json
import re
from pathlib import Path

import pytest

from common.errors import CheckpointError, ConfigError
from common.units import PRESETS, parse_rate
from edge_worker.config import AUTO, AUTO_BITS, MAY_CHANGE, TrainConfig
from edge_worker.run import train
from edge_worker.rundir import Identity, RunDir

NOTHING = frozenset()
STARTED = TrainConfig(
    cloud="10.0.0.1:50051",
    data_dir=Path("images"),
    run_dir=Path("runs/first"),
    bits=8,
    lr=0.1,
    train_limit=500,
    link_rate=parse_rate("3g"),
    link_rate_down=parse_rate("2.5mbit"),
    link_latency=0.01,
    eval_every=2,
)


@pytest.fixture
def started(tmp_path):
    """A run directory in which a run was started with `STARTED`."""
    run_dir = RunDir(tmp_path)
    run_dir.begin(STARTED, run_dir.identity())
    return run_dir


def test_a_new_directory_holds_no_run_until_one_begins(tmp_path):
    """What goes wrong before leaves nothing to resume."""
    run_dir = RunDir(tmp_path)
    identity = run_dir.identity()
    assert run_dir.is_new
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ConfigError, match=r"holds no run; give --run-dir the one of a finished run$"):
        run_dir.session_id()

    run_dir.begin(STARTED, identity)

    assert not run_dir.is_new
    assert run_dir.session_id() == identity.session_id


def test_auto_stands_for_what_was_chosen_when_the_run_began(started):
    resumed = started.settle(TrainConfig(split=AUTO, bits=AUTO_BITS), frozenset({"split", "bits"}))

    assert (resumed.split, resumed.bits) == (STARTED.split, STARTED.bits)


def test_what_is_not_given_on_resume_is_what_the_run_was_started_with(started):
    """The defaults of the command line do not count; only the directory is the one of today."""
    resumed = started.settle(TrainConfig(run_dir=Path("runs/moved")), NOTHING)

    assert resumed == dataclasses.replace(STARTED, run_dir=Path("runs/moved"))
    assert isinstance(resumed.data_dir, Path)


def test_a_preset_is_still_one_after_a_resume(started):
    """It stands for a latency and a rate down, which its rate up alone would lose."""
    assert started.settle(TrainConfig(), NOTHING).link_rate.preset is PRESETS["3g"]
    assert started.settle(TrainConfig(), NOTHING).link_rate_down == 2.5e6


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("cloud", "10.0.0.2:50051"),
        ("data_dir", Path("elsewhere")),
        ("link_rate", None),
        ("link_rate_down", 1e6),
        ("link_latency", 0.5),
        ("window", 1 << 20),
        ("spool", 1 << 25),
        ("checkpoint_every", 5.0),
        ("eval_every", 0),
        ("log_level", "debug"),
        ("connect_timeout", 1.0),
    ],
)
def test_what_touches_no_bit_of_the_result_may_change_and_nothing_else_does(started, name, value):
    resumed = started.settle(TrainConfig(**{name: value}), frozenset({name}))

    assert resumed == dataclasses.replace(STARTED, **{"run_dir": resumed.run_dir, name: value})


@pytest.mark.parametrize("name", sorted(TrainConfig.__dataclass_fields__.keys() - MAY_CHANGE))
def test_a_setting_that_is_given_as_it_was_is_no_change(started, name):
    started.settle(TrainConfig(**{name: getattr(STARTED, name)}), frozenset({name}))


@pytest.mark.parametrize(
    ("name", "value", "before"),
    [
        ("bits", 4, "8"),
        ("batch_size", 64, "128"),
        ("train_limit", 400, "500"),
        ("threads", 3, "None"),
        ("weight_decay", 0.0, "0.0005"),
        ("model", "vgg16", "resnet18"),
    ],
)
def test_another_setting_is_refused_by_its_flag_with_both_values(started, name, value, before):
    words = f"--{name.replace('_', '-')} is {before} in the run at {started.path}, got {value}; leave it out"

    with pytest.raises(ConfigError, match=f"^{re.escape(words)} to resume, .* another --run-dir$"):
        started.settle(TrainConfig(**{name: value}), frozenset({name, "cloud"}))


def test_every_start_has_a_generation_of_its_own_and_the_same_session(started):
    """The cloud lets the newest generation win, so none may come twice."""
    session_id = started.session_id()

    later = [RunDir(started.path).identity() for _ in range(3)]

    assert later == [Identity(session_id=session_id, generation=number) for number in (2, 3, 4)]
    assert RunDir(started.path).settle(TrainConfig(), NOTHING).bits == 8


def test_a_generation_that_cannot_be_made_durable_is_not_given_out(started, monkeypatch):
    """After a power cut it would be given out again."""
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))

    with pytest.raises(
        CheckpointError, match=r"cannot write .*run\.json: No space left on device; make room"
    ):
        started.identity()


def test_a_setting_that_a_resume_changed_is_kept_for_the_next(started):
    """An export asks the cloud that the run ended with."""
    before = started.settings()
    config = started.settle(TrainConfig(cloud="other:1", run_dir=started.path), frozenset({"cloud"}))

    started.begin(config, started.identity())

    assert started.settings() == {**before, "cloud": "other:1", "run_dir": str(started.path)}


@pytest.mark.parametrize("content", [b"", b'{"session_id": "a', b"\xff\xfe"])
def test_a_damaged_run_file_is_named(started, content):
    (started.path / "run.json").write_bytes(content)

    for read in (started.identity, started.session_id, lambda: started.settle(TrainConfig(), NOTHING)):
        with pytest.raises(
            CheckpointError, match=r"run\.json is damaged: .*; put a copy of it back, or start a"
        ):
            read()


def test_a_run_is_finished_once_its_summary_is_written(started):
    assert started.summary() is None

    started.write_summary({"batches": 7, "split": None})

    assert started.summary() == {"batches": 7, "split": None}
    assert json.loads((started.path / "summary.json").read_text()) == {"batches": 7, "split": None}


def test_a_finished_run_that_was_killed_at_its_very_end_gives_up_its_spool(started):
    """After the summary, before the spool was removed: nothing else would ever remove it."""
    started.write_summary({"batches": 7})
    for suffix in ("", "-wal", "-shm", ".new", ".building"):
        started.spool_file.with_name(started.spool_file.name + suffix).write_bytes(b"records")

    outcome = train(dataclasses.replace(STARTED, run_dir=started.path), NOTHING)

    assert outcome.summary == {"batches": 7}
    assert sorted(path.name for path in started.path.iterdir()) == ["run.json", "summary.json"]


def test_a_damaged_summary_is_named(started):
    started.summary_file.write_text('{"batches": 7')

    with pytest.raises(
        CheckpointError, match=r"summary\.json is damaged: .*; delete it, and edge-worker train"
    ):
        started.summary()


def test_checkpoints_without_the_run_that_they_are_of_are_refused(tmp_path):
    """Else a run with other settings would go on from them."""
    run_dir = RunDir(tmp_path)
    run_dir.checkpoints.mkdir()
    (run_dir.checkpoints / "000000000007.ckpt").touch()

    with pytest.raises(ConfigError, match=r"has the checkpoints of a run, but not its run\.json; restore"):
        train(TrainConfig(run_dir=tmp_path), NOTHING)
