"""Augmentation: shifts and flips, each sample by itself."""

import numpy as np
import pytest

from common.data.augment import augment


def pictures(num=16, height=32, width=32, seed=0):
    """Random pixels without a zero, which marks what a shift lets in."""
    return np.random.default_rng(seed).integers(1, 256, (num, 3, height, width), dtype=np.uint8)


def shifted(image_CHW, down, right, flip):
    """Move a window by (down, right) over the image, zeros outside, then mirror it: one pixel at a time."""
    _, height, width = image_CHW.shape
    result = np.zeros_like(image_CHW)
    for y in range(height):
        for x in range(width):
            if 0 <= y + down < height and 0 <= x + right < width:
                result[:, y, width - 1 - x if flip else x] = image_CHW[:, y + down, x + right]
    return result


def motion(before_CHW, after_CHW, pad):
    """Find (down, right, flip) that turn `before_CHW` into `after_CHW`, by trying them all."""
    span = range(-pad, pad + 1)
    every = [(down, right, flip) for down in span for right in span for flip in (False, True)]
    found = [how for how in every if np.array_equal(shifted(before_CHW, *how), after_CHW)]
    assert len(found) == 1, f"{len(found)} shifts and flips explain this image"
    return found[0]


@pytest.mark.parametrize(("height", "width"), [(16, 16), (16, 11), (8, 24)])
def test_images_are_only_shifted_by_an_eighth_of_their_height_and_flipped(height, width):
    images = pictures(12, height, width)

    result = augment(images, np.arange(12), seed=1, epoch=2)

    for before, after in zip(images, result, strict=True):
        motion(before, after, pad=height // 8)


def test_every_shift_up_to_four_pixels_occurs_and_every_other_image_is_flipped():
    """The usual "pad 4, crop 32, flip", told by a ramp whose first two pixels give all three away."""
    num = 2000
    y, x = np.mgrid[1:33, 1:33].astype(np.uint8)
    ramp = np.broadcast_to(np.stack([y, x, y]), (num, 3, 32, 32))

    result = augment(ramp, np.arange(num), seed=0, epoch=0).astype(int)

    down, right = result[:, 0, 16, 16] - 17, result[:, 1, 16, 15:17]
    flipped = right[:, 0] > right[:, 1]
    right = np.where(flipped, right[:, 1] - 16, right[:, 1] - 17)
    assert set(zip(down.tolist(), right.tolist(), flipped.tolist(), strict=True)) == {
        (d, r, f) for d in range(-4, 5) for r in range(-4, 5) for f in (False, True)
    }
    assert abs(flipped.mean() - 0.5) < 0.05  # 4.5 standard errors
    assert np.abs(np.corrcoef([down, right, flipped]) - np.eye(3)).max() < 0.1  # 4.5 standard errors


def test_a_sample_becomes_the_same_whatever_batch_it_is_in():
    """Batches of another size or order, or a run resumed, see the same pixels."""
    images = pictures()
    indices = np.arange(100, 116)
    together = augment(images, indices, seed=3, epoch=1)

    order = np.random.default_rng(5).permutation(16)
    assert np.array_equal(augment(images[order], indices[order], 3, 1), together[order])
    alone = [augment(images[[k]], indices[[k]], 3, 1) for k in range(16)]
    assert np.array_equal(np.concatenate(alone), together)


def test_epochs_seeds_and_samples_are_shifted_each_in_their_own_way():
    images = np.repeat(pictures(1), 16, axis=0)
    first = augment(images, np.arange(16), seed=0, epoch=0)

    assert len({image.tobytes() for image in first}) > 8
    assert not np.array_equal(augment(images, np.arange(16), seed=0, epoch=1), first)
    assert not np.array_equal(augment(images, np.arange(16), seed=1, epoch=0), first)


def test_images_too_small_for_a_shift_are_only_flipped():
    images = pictures(20, 7, 7)

    result = augment(images, np.arange(20), 0, 0)

    kept = (result == images).all(axis=(1, 2, 3))
    mirrored = (result == images[..., ::-1]).all(axis=(1, 2, 3))
    assert (kept ^ mirrored).all()
    assert kept.any()
    assert mirrored.any()


def test_the_result_is_a_new_contiguous_array_of_the_same_shape():
    images = pictures(5, 16, 24)
    before = images.copy()

    result = augment(images, np.arange(5), 0, 0)

    assert result.shape == images.shape
    assert result.dtype == np.uint8
    assert result.flags.c_contiguous
    assert result.flags.writeable
    assert not np.shares_memory(result, images)
    assert np.array_equal(images, before)
