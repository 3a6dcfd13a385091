import signal
from importlib import import_module
from multiprocessing import get_context

import pytest
import torch

from benchmarks.killable import POINTS, Point, hook
from common.checkpoint import CheckpointStore


@pytest.mark.parametrize("point", POINTS, ids=lambda point: point.name)
def test_every_point_at_which_a_daemon_can_die_is_a_function_of_it(point):
    owner = import_module(point.module)
    for name in point.function.split("."):
        owner = getattr(owner, name)
    assert callable(owner)


def write_until_killed(directory, point, armed):
    """In a process of its own: two checkpoints, of which the second is asked not to be survived."""
    hook(point, armed)
    store = CheckpointStore(directory)
    store.save(1, {"w": torch.ones(1000)}, {"number": 1})
    armed.write_text(point.name)
    store.save(2, {"w": torch.ones(1000)}, {"number": 2})


def test_a_torn_write_leaves_half_of_a_file_and_the_one_before(tmp_path):
    armed, directory = tmp_path / "armed", tmp_path / "checkpoints"
    point = Point("edge", "checkpoint write", "common.checkpoint", "write_atomic")
    assert point in POINTS
    process = get_context("spawn").Process(target=write_until_killed, args=(directory, point, armed))
    process.start()
    process.join()

    assert process.exitcode == -signal.SIGKILL
    assert not armed.exists()
    (partial,) = directory.glob("*.partial")
    (whole,) = directory.glob("*.ckpt")
    assert 0 < partial.stat().st_size < whole.stat().st_size
    assert CheckpointStore(directory).load(1)[1] == {"number": 1}
