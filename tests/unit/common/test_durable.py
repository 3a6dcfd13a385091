"""Why a file could not be written, and what helps against it."""

import errno
import os

import pytest

from common.durable import cannot_write, write_atomic
from common.errors import CheckpointError


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "No space left on device; make room and start again"),
        (errno.EDQUOT, "Disk quota exceeded; make room and start again"),
        (errno.EROFS, "Read-only file system; mount the disk writable"),
        (errno.EACCES, "Permission denied; let this user write there"),
        (errno.EIO, "Input/output error; mend that and start again"),
    ],
)
def test_room_is_asked_for_only_where_it_is_missing(tmp_path, number, words):
    assert words in str(cannot_write(tmp_path / "file", OSError(number, os.strerror(number))))


def test_a_folder_that_is_not_there_is_named(tmp_path):
    """As with `export --out` of a mistyped place."""
    with pytest.raises(
        CheckpointError, match=f"No such file or directory; is the folder {tmp_path}/no still"
    ):
        write_atomic(tmp_path / "no" / "file", b"")
