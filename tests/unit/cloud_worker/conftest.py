"""What holds for all tests of the cloud."""

import pytest

from common.memory import freeze_objects, thaw_objects


@pytest.fixture(scope="session", autouse=True)
def frozen_objects():
    """As in a serving process: a session that is opened has Python search for cycles, here many times."""
    freeze_objects()
    yield
    thaw_objects()
