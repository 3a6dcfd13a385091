"""Why a file could not be written, and what helps against it."""

import contextlib
import errno
import os

import pytest

from common.durable import cannot_write, opened, sealed, write_atomic
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


def test_no_bit_of_a_sealed_file_can_change_unseen():
    values = {"owner": "pi", "settings": {"lr": 0.1, "threads": 1, "split": None}, "number": 7}
    data = sealed(values)

    assert opened(data) == values
    for place in range(len(data) - 1):  # the last one ends the line
        changed = bytearray(data)
        changed[place] ^= 2
        with contextlib.suppress(ValueError):
            assert opened(bytes(changed)) == values  # a blank that became a tab


def test_what_a_person_may_edit_is_not_sealed():
    edited = sealed({"owner": "pi", "number": 7}, ["owner"]).replace(b'"pi"', b'"nano"')

    assert opened(edited, ["owner"]) == {"owner": "nano", "number": 7}
    with pytest.raises(ValueError, match="its checksum does not match its content"):
        opened(edited)
