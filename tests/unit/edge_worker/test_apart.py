"""Work in a process of its own: what it returns, how it fails, how it ends."""

import os
import signal
import subprocess
import sys
import time

import pytest

from benchmarks.processes import wait_for, worker_env
from common.errors import ConfigError
from edge_worker.apart import BrokenOffError, apart
from edge_worker.signals import stop_on_signals


def double(number):
    return os.getpid(), 2 * number


def refuse():
    raise ConfigError("--bits must be less")


def fall():
    os.kill(os.getpid(), signal.SIGKILL)


def err():
    raise ValueError("a bug")


def wait_to_be_asked(path):
    with stop_on_signals() as stop:
        path.write_text(str(os.getpid()))
        for _ in range(600):
            if stop.event.wait(0.1):
                time.sleep(1.5)  # asked again meanwhile, which must not end it at once
                return stop.number
    return 0


def sleep_long(path):
    path.write_text(str(os.getpid()))
    time.sleep(60)


def is_alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_value_comes_from_another_process():
    pid, value = apart(double, 21)

    assert value == 42
    assert pid != os.getpid()


def test_an_expected_failure_comes_as_it_is_and_any_other_in_a_line():
    with pytest.raises(ConfigError, match="--bits must be less"):
        apart(refuse)
    with pytest.raises(BrokenOffError, match=r"^its process was killed by signal 9, perhaps as the memory"):
        apart(fall)
    with pytest.raises(BrokenOffError, match=r"^its process broke off"):
        apart(err)


def test_who_asks_to_stop_gets_the_value_in_order(tmp_path):
    """Asking may come before the function listens; and it is asked more than once."""
    assert apart(wait_to_be_asked, tmp_path / "pid", on_stop=lambda stop: stop()) == signal.SIGTERM


@pytest.mark.parametrize("graceful", [True, False])
def test_it_ends_with_the_process_that_started_it_however_that_ends(tmp_path, graceful):
    path = tmp_path / "pid"
    called = "wait_to_be_asked" if graceful else "sleep_long"
    options = ", on_stop=lambda stop: None" if graceful else ""
    code = f"""
import pathlib
from edge_worker.apart import apart
from tests.unit.edge_worker import test_apart
apart(test_apart.{called}, pathlib.Path({str(path)!r}){options})
"""
    # With -c, as with `python -m pytest`, the directory it runs in is where modules are looked for.
    said = tmp_path / "said"
    with (
        said.open("w") as file,
        subprocess.Popen([sys.executable, "-c", code], env=worker_env(), stderr=file) as parent,
    ):
        try:
            wait_for(lambda: path.exists() and path.read_text() != "", "the other process", timeout_s=60)
        finally:
            parent.kill()

    child = int(path.read_text())
    wait_for(lambda: not is_alive(child), "its end", timeout_s=30)
    assert "Traceback" not in said.read_text()
