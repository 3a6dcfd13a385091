"""The lock on a run directory."""

import os
import re
import subprocess
import sys

import pytest

from common.errors import CheckpointError, ConfigError
from common.rundir import lock_run_dir

HOLD = """
import sys, time
from pathlib import Path
from common.rundir import lock_run_dir

lock_run_dir(Path(sys.argv[1]))
print("locked", flush=True)
time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process, which holds the lock of `tmp_path / "run"`."""
    with subprocess.Popen([sys.executable, "-c", HOLD, tmp_path / "run"], stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"locked\n"
        yield process
        process.kill()


def test_the_directory_is_made_with_those_above_it(tmp_path):
    os.close(lock_run_dir(tmp_path / "runs" / "of today" / "edge"))

    assert (tmp_path / "runs" / "of today" / "edge" / "lock").is_file()


def test_a_directory_that_another_process_holds_is_refused(tmp_path, holder):
    folder = re.escape(str(tmp_path / "run"))
    with pytest.raises(
        ConfigError, match=rf"^{folder} is in use by another process; wait for it to end, or .* --run-dir$"
    ):
        lock_run_dir(tmp_path / "run")


def test_a_killed_process_leaves_no_lock_behind(tmp_path, holder):
    """The file stays, but the system took the lock off it: nobody has to clean up after a crash."""
    holder.kill()
    holder.wait()

    assert (tmp_path / "run" / "lock").exists()
    os.close(lock_run_dir(tmp_path / "run"))


def test_the_lock_lasts_until_its_descriptor_is_closed(tmp_path):
    handle = lock_run_dir(tmp_path)
    with pytest.raises(ConfigError, match="in use"):
        lock_run_dir(tmp_path)

    os.close(handle)

    os.close(lock_run_dir(tmp_path))


def test_a_refused_lock_leaks_no_descriptor(tmp_path):
    """A caller may ask again and again until the directory is free."""
    handle = lock_run_dir(tmp_path)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        with pytest.raises(ConfigError, match="in use"):
            lock_run_dir(tmp_path)

    assert len(os.listdir("/proc/self/fd")) == before
    os.close(handle)


def test_run_directories_do_not_lock_each_other(tmp_path):
    handles = [lock_run_dir(tmp_path / name) for name in ("edge", "cloud")]

    for handle in handles:
        os.close(handle)


def test_a_path_that_cannot_be_a_directory_is_named_with_the_reason(tmp_path):
    (tmp_path / "file").write_text("")
    folder = re.escape(str(tmp_path / "file" / "run"))

    with pytest.raises(CheckpointError, match=rf"^cannot make {folder}: Not a directory$"):
        lock_run_dir(tmp_path / "file" / "run")


def test_a_file_where_the_directory_should_be_is_named_with_the_reason(tmp_path):
    (tmp_path / "run").write_text("")

    with pytest.raises(CheckpointError, match=r"cannot make .*run: File exists$"):
        lock_run_dir(tmp_path / "run")
