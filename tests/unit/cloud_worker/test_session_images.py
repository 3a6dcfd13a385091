"""A session that keeps images: what a batch brought counts once it is applied, and outlives a restart."""

import dataclasses

import numpy as np
import pytest

from common.codec import encode_images
from common.data.augment import augment
from common.errors import CheckpointError, CloudError
from common.wire.messages import Batch, End, EvaluationPart, Reference
from tests.unit.cloud_worker.fakes import CountingBack, apply, attached, open_session
from tests.unit.records import IMAGE_RUN, IMAGE_SHAPE, SESSION

ONCE = dataclasses.replace(IMAGE_RUN, kept_images=8)
IMAGES = np.random.default_rng(0).integers(0, 256, (8, *IMAGE_SHAPE), np.uint8)
LABELS = (0, 1, 2, 3)
TEST = EvaluationPart(3, 0, 1, encode_images(IMAGES[:4], "zstd"), LABELS)


class SeeingBack(CountingBack):
    """Remembers the images that it was given, and can run out of memory."""

    full = False

    def __init__(self):
        super().__init__()
        self.seen = []

    def normalise(self, images):
        """It looks at pixels as they are."""
        if self.full:
            raise MemoryError
        self.seen.append(images)
        return images


def batch(seq, *numbers, fresh=True):
    return Batch(
        seq, Reference(numbers, encode_images(IMAGES[list(numbers)], "png") if fresh else None), LABELS
    )


FIRST, SECOND = batch(0, 0, 1, 2, 3), batch(1, 4, 5, 6, 7)
LATER = [batch(seq, 7, 0, 3, 5, fresh=False) for seq in (2, 3, 4, 5)]


@pytest.fixture
def back():
    return SeeingBack()


def test_images_that_are_kept_are_augmented_by_epoch_and_number(tmp_path, back):
    session = open_session(tmp_path, back, run=ONCE)
    apply(session, attached(session), FIRST, SECOND, LATER[0], TEST, LATER[1])

    numbers = np.array([7, 0, 3, 5])
    assert np.array_equal(back.seen[2], augment(IMAGES[numbers], numbers, ONCE.seed, epoch=0))
    assert np.array_equal(back.seen[3], augment(IMAGES[numbers], numbers, ONCE.seed, epoch=1))


def test_a_batch_that_ran_out_of_memory_may_come_again(tmp_path, back):
    session = open_session(tmp_path, back, run=ONCE)
    stream = attached(session)
    back.full = True
    with pytest.raises(CloudError, match="not enough memory"):
        apply(session, stream, FIRST)
    back.full = False
    apply(session, stream, FIRST, SECOND, LATER[0])

    assert [seq for seq, _ in back.learnt] == [0, 1, 2]


def test_a_restart_wants_again_what_its_checkpoint_does_not_have(tmp_path, back):
    session = open_session(tmp_path, back, run=ONCE)
    stream = attached(session)
    apply(session, stream, FIRST)
    session.save()
    apply(session, stream, SECOND)  # and a kill

    again = open_session(tmp_path, SeeingBack(), run=ONCE)
    apply(again, attached(again, generation=2), SECOND, *LATER[:1])
    assert again.status().applied.batches == 3


def test_images_are_on_the_disk_before_a_checkpoint_names_them(tmp_path, back, monkeypatch):
    session = open_session(tmp_path, back, run=ONCE)
    order = []
    monkeypatch.setattr("cloud_worker.kept_images.KeptImages.sync", lambda _: order.append("images"))
    monkeypatch.setattr("cloud_worker.kept_gradients.KeptGradients.save", lambda _: order.append("gradients"))
    monkeypatch.setattr("cloud_worker.store.SessionFiles.save_state", lambda *_: order.append("state"))
    apply(session, attached(session), FIRST)
    session.save()

    assert order == ["images", "gradients", "state"]


def test_a_flipped_bit_ends_the_run(tmp_path, back):
    session = open_session(tmp_path, back, run=ONCE)
    stream = attached(session)
    apply(session, stream, FIRST, SECOND)
    path = tmp_path / SESSION / "images.bin"
    data = bytearray(path.read_bytes())
    data[5] ^= 1
    path.write_bytes(data)

    with pytest.raises(CheckpointError, match=r"images.bin is damaged: image 0 does not match"):
        apply(session, stream, LATER[0])
    assert session.status().applied.batches == 2


@pytest.mark.parametrize("killed", [False, True])
def test_images_are_gone_once_the_run_is_complete_also_where_a_kill_came_between(
    tmp_path, back, monkeypatch, killed
):
    session = open_session(tmp_path, back, run=ONCE)
    stream = attached(session)
    path = tmp_path / SESSION / "images.bin"
    with monkeypatch.context() as patched:
        if killed:
            patched.setattr("cloud_worker.kept_images.KeptImages.remove", lambda _: None)
        apply(session, stream, FIRST, SECOND, LATER[0], TEST, *LATER[1:])
        assert path.exists()
        apply(session, stream, End(6))
    if killed:
        assert path.exists()
        open_session(tmp_path, SeeingBack(), run=ONCE)

    assert not path.exists()
