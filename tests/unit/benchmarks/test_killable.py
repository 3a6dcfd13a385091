from importlib import import_module

import pytest

from benchmarks.killable import POINTS


@pytest.mark.parametrize("point", POINTS, ids=lambda point: point.name)
def test_every_point_at_which_a_daemon_can_die_is_a_function_of_it(point):
    owner = import_module(point.module)
    for name in point.function.split("."):
        owner = getattr(owner, name)
    assert callable(owner)
