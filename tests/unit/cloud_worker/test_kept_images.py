"""What a session keeps of images that come once: each in its place, checked whenever it is read."""

import errno
import os

import numpy as np
import pytest

from cloud_worker.kept_images import KeptImages, kept_images_bytes
from common.codec import encode_images
from common.errors import CheckpointError, CodecError, WireError
from common.wire.messages import Reference
from tests.unit.records import RUN

SHAPE = (3, 4, 5)
IMAGES = np.random.default_rng(0).integers(0, 256, (10, *SHAPE), np.uint8)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "images.bin"


@pytest.fixture
def kept(path):
    return KeptImages(path, len(IMAGES), SHAPE)


def applied(kept, reference):
    """Take what a batch refers to, and have it applied."""
    images = kept.take(reference)
    kept.commit()
    return images


def bringing(*numbers, fresh=None):
    """A reference to images by number; those in `fresh` come with it, all by default."""
    fresh = numbers if fresh is None else fresh
    return Reference(numbers, encode_images(IMAGES[list(fresh)], "png") if fresh else None)


def test_images_are_had_again_in_any_order(kept):
    assert np.array_equal(applied(kept, bringing(7, 2, 5)), IMAGES[[7, 2, 5]])

    assert np.array_equal(applied(kept, bringing(5, 7, fresh=())), IMAGES[[5, 7]])
    assert np.array_equal(applied(kept, bringing(2, 9, 7, 0, fresh=(9, 0))), IMAGES[[2, 9, 7, 0]])


@pytest.mark.parametrize(
    ("reference", "complaint"),
    [
        (bringing(1, 3, fresh=(3,)), "2 images that are not kept yet, and brings 1"),
        (bringing(1, 7, fresh=()), "1 images that are not kept yet, and brings 0"),
        (bringing(7, 2), "0 images that are not kept yet, and brings 2"),
    ],
)
def test_a_batch_must_bring_what_is_not_kept_and_no_more(kept, reference, complaint):
    applied(kept, bringing(7, 2, 5))

    with pytest.raises(WireError, match=complaint):
        applied(kept, reference)

    assert np.array_equal(applied(kept, bringing(7, 2, fresh=())), IMAGES[[7, 2]])


def test_images_that_do_not_decode_change_nothing(kept):
    broken = Reference((1, 2), encode_images(IMAGES[[1, 2]], "png"))
    object.__setattr__(broken.fresh, "data", broken.fresh.data[:-30])

    with pytest.raises(CodecError):
        applied(kept, broken)

    assert np.array_equal(applied(kept, bringing(1, 2)), IMAGES[[1, 2]])


def test_a_restart_has_what_the_checkpoint_has(kept, path):
    applied(kept, bringing(0, 1))
    kept.sync()
    state = kept.state()
    applied(kept, bringing(2, 3))  # written behind the checkpoint: a kill follows

    again = KeptImages(path, len(IMAGES), SHAPE)
    again.load_state(dict(state))

    assert np.array_equal(applied(again, bringing(1, 0, fresh=())), IMAGES[[1, 0]])
    with pytest.raises(WireError, match="2 images that are not kept yet"):
        applied(again, bringing(2, 3, fresh=()))
    assert np.array_equal(applied(again, bringing(2, 3)), IMAGES[[2, 3]])


def test_the_state_is_a_copy(kept):
    state = kept.state()
    applied(kept, bringing(0, 1))

    assert (state["kept_images"] == -1).all()


def test_a_flipped_bit_on_the_disk_is_noticed(kept, path):
    applied(kept, bringing(0, 1, 2))
    data = bytearray(path.read_bytes())
    data[IMAGES[0].size + 7] ^= 1
    path.write_bytes(data)

    assert np.array_equal(applied(kept, bringing(0, 2, fresh=())), IMAGES[[0, 2]])
    with pytest.raises(CheckpointError, match=r"images.bin is damaged: image 1 does not match its checksum"):
        applied(kept, bringing(0, 1, fresh=()))


def test_a_file_cut_short_or_gone_is_noticed(kept, path):
    applied(kept, bringing(0, 9))
    os.truncate(path, path.stat().st_size - 1)
    with pytest.raises(CheckpointError, match="image 9 does not match"):
        applied(kept, bringing(0, 9, fresh=()))

    again = KeptImages(path, len(IMAGES), SHAPE)
    again.load_state(kept.state())
    path.unlink()
    with pytest.raises(CheckpointError, match=r"cannot read .*images.bin: No such file"):
        applied(again, bringing(0, 9, fresh=()))


class FullDisk:
    """A file that takes nothing, or less than it is given."""

    def __init__(self, short):
        self._short = short

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def seek(self, offset):
        """Any place is as good."""

    def write(self, data):
        """As a disk that is full."""
        if not self._short:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return 1


@pytest.mark.parametrize("short", [False, True])
def test_a_full_disk_is_said_and_nothing_counts_as_kept(kept, monkeypatch, short):
    with monkeypatch.context() as disk:
        disk.setattr("cloud_worker.kept_images.open", lambda *_, **__: FullDisk(short), raising=False)
        with pytest.raises(CheckpointError, match=r"cannot write .*images.bin: No space left .* make room"):
            applied(kept, bringing(0, 1))

    assert np.array_equal(applied(kept, bringing(0, 1)), IMAGES[[0, 1]])


def test_a_checkpoint_of_other_images_is_refused(kept, tmp_path):
    other = KeptImages(tmp_path / "other.bin", 3, SHAPE)

    with pytest.raises(CheckpointError, match="which of 3 images are kept, the run has 10"):
        kept.load_state(other.state())
    with pytest.raises(CheckpointError, match="which of 0 images"):
        kept.load_state({})


def test_a_run_that_keeps_none_has_no_file_and_no_state(path):
    kept = KeptImages(path, 0, SHAPE)
    kept.sync()
    kept.load_state({})

    assert kept.state() == {}
    kept.remove()
    assert not path.exists()


def test_images_are_gone_with_the_run(kept, path):
    applied(kept, bringing(0, 1))
    kept.remove()

    assert not path.exists()
    assert kept_images_bytes(RUN) == 0


def test_images_of_a_batch_that_was_not_applied_are_brought_again(kept):
    """Its step failed: what was written counts for nothing."""
    kept.take(bringing(0, 1))

    with pytest.raises(WireError, match="2 images that are not kept yet, and brings 0"):
        kept.take(bringing(0, 1, fresh=()))
    assert (kept.state()["kept_images"] == -1).all()
    assert np.array_equal(applied(kept, bringing(0, 1)), IMAGES[[0, 1]])


def test_no_file_stays_open(kept):
    before = len(os.listdir("/proc/self/fd"))
    applied(kept, bringing(0, 1))
    kept.sync()

    assert len(os.listdir("/proc/self/fd")) == before
