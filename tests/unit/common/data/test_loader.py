"""Batches in order, from any one on, loaded ahead by threads."""

import threading

import numpy as np
import pytest
import torch

from common.data.augment import augment
from common.data.imageset import ArrayImages
from common.data.loader import Loader, evaluation_batches, normalise
from common.data.sampler import batch_indices, batches_per_epoch
from common.errors import ConfigError, DataError

NUM_IMAGES, BATCH_SIZE, PER_EPOCH = 22, 4, 6  # the last batch of an epoch has two images
IMAGES = np.random.default_rng(0).integers(0, 256, (NUM_IMAGES, 3, 16, 16), dtype=np.uint8)
LABELS = np.arange(NUM_IMAGES, dtype=np.int64) % 5


class Watched(ArrayImages):
    """Images that count how often they were asked for, and can have a broken one."""

    def __init__(self, broken=None):
        super().__init__(IMAGES, LABELS)
        self.asked = threading.Semaphore(0)  # released once for every batch that is loaded
        self._broken = broken

    def images(self, indices):
        """Return the images, or raise where the broken one is among them."""
        self.asked.release()
        if self._broken in indices:
            raise DataError(f"image {self._broken} is damaged")
        return super().images(indices)


def loader(images=None, num_workers=2, **options):
    return Loader(
        images or ArrayImages(IMAGES, LABELS), BATCH_SIZE, seed=7, num_workers=num_workers, **options
    )


def bits(batch):
    return batch.seq, batch.epoch, batch.images.numpy().tobytes(), batch.labels.tolist()


def loader_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("loader")]


def test_a_batch_holds_the_sampler_s_images_augmented_and_their_labels():
    """Batch 8 is the third of the second epoch."""
    (batch,) = loader().batches(8, 9)

    indices = batch_indices(NUM_IMAGES, BATCH_SIZE, 7, 8)
    assert (batch.seq, batch.epoch) == (8, 1)
    assert (batch.images.dtype, batch.labels.dtype) == (torch.uint8, torch.int64)
    assert np.array_equal(batch.images, augment(IMAGES[indices], indices, 7, epoch=1))
    assert batch.labels.tolist() == LABELS[indices].tolist()
    assert batch.indices.tolist() == indices.tolist()


def test_once_an_image_comes_in_the_first_batch_that_has_it_and_as_it_is():
    per_epoch = batches_per_epoch(NUM_IMAGES, BATCH_SIZE)
    first, *_, later = loader(once=True).batches(0, 2 * per_epoch)

    indices = batch_indices(NUM_IMAGES, BATCH_SIZE, 7, 0)
    assert np.array_equal(first.images, IMAGES[indices])
    assert first.indices.tolist() == indices.tolist()
    assert later.images.shape == (0, *IMAGES.shape[1:])
    assert len(later.labels) == len(later.indices) > 0


@pytest.mark.parametrize("num_workers", [0, 1, 4])
def test_batches_come_in_order_with_the_same_bits_however_many_threads_load_them(num_workers):
    plain = [bits(batch) for batch in loader(num_workers=0).batches(0, 20)]

    batches = [bits(batch) for batch in loader(num_workers=num_workers).batches(0, 20)]

    assert [seq for seq, *_ in batches] == list(range(20))
    assert batches == plain


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("start", [0, 1, PER_EPOCH - 1, PER_EPOCH, 2 * PER_EPOCH + 1])
def test_a_run_that_is_resumed_at_any_batch_sees_the_bits_it_would_have_seen(num_workers, start):
    whole = [bits(batch) for batch in loader(num_workers=num_workers).batches(0, 3 * PER_EPOCH)]

    resumed = [bits(batch) for batch in loader(num_workers=num_workers).batches(start, 3 * PER_EPOCH)]

    assert resumed == whole[start:]


def test_a_range_without_batches_yields_none():
    assert list(loader().batches(5, 5)) == []


@pytest.mark.parametrize("num_workers", [0, 1, 4])
def test_what_goes_wrong_in_a_thread_is_raised_at_the_batch_it_concerns(num_workers):
    """The batches before it are trained on, though it failed while they were still waiting."""
    broken = int(batch_indices(NUM_IMAGES, BATCH_SIZE, 7, 3)[1])
    batches = loader(Watched(broken), num_workers).batches(0, PER_EPOCH)

    assert [next(batches).seq for _ in range(3)] == [0, 1, 2]
    with pytest.raises(DataError, match=f"^image {broken} is damaged$"):
        next(batches)
    assert loader_threads() == []


@pytest.mark.parametrize("handed_out", [1, 3])
def test_no_more_than_the_prefetch_is_loaded_ahead(handed_out):
    """Memory stays bounded while a slow consumer works."""
    images = Watched()
    batches = loader(images, num_workers=2, prefetch=3).batches(0, 1000)
    for _ in range(handed_out):
        next(batches)

    for _ in range(handed_out + 3):
        assert images.asked.acquire(timeout=60)
    # Nothing can follow: this waits in vain, and could only ever miss that something does.
    assert not images.asked.acquire(timeout=0.2)
    batches.close()


@pytest.mark.parametrize("taken", [0, 1, 20])
def test_threads_end_with_the_iterator_also_when_it_is_closed_early(taken):
    batches = loader(num_workers=4).batches(0, 20)
    for _ in range(taken):
        next(batches)
    assert bool(loader_threads()) == bool(taken)

    batches.close()

    assert loader_threads() == []


@pytest.mark.parametrize(("num_workers", "prefetch"), [(-1, 4), (2, 0)])
def test_numbers_that_cannot_be_are_refused_with_both(num_workers, prefetch):
    with pytest.raises(
        ConfigError, match=f"0 or more workers .* 1 or more, got {num_workers} and {prefetch}$"
    ):
        loader(num_workers=num_workers, prefetch=prefetch)


def test_a_set_too_small_for_a_batch_is_refused_before_any_thread_starts():
    with pytest.raises(DataError, match="training needs at least 2 images, got 1"):
        Loader(ArrayImages(IMAGES[:1], LABELS[:1]), BATCH_SIZE, seed=0)


@pytest.mark.parametrize(("size", "lengths"), [(7, [7, 7, 7, 1]), (11, [11, 11]), (50, [22])])
def test_an_evaluation_takes_all_images_in_file_order_as_they_are(size, lengths):
    """The last batch may have one image: nothing is normalised over it."""
    batches = list(evaluation_batches(ArrayImages(IMAGES, LABELS), size))

    assert [(batch.seq, batch.epoch, len(batch.labels)) for batch in batches] == [
        (part, 0, length) for part, length in enumerate(lengths)
    ]
    assert np.array_equal(np.concatenate([batch.images for batch in batches]), IMAGES)
    assert np.array_equal(np.concatenate([batch.labels for batch in batches]), LABELS)


def test_an_evaluation_in_batches_of_none_is_refused():
    with pytest.raises(ConfigError, match=r"batch size must be at least 1, got 0$"):
        list(evaluation_batches(ArrayImages(IMAGES, LABELS), 0))


def test_normalised_images_are_what_the_formula_says_for_each_colour():
    images = torch.from_numpy(IMAGES)
    mean, std = (0.5, 0.25, 0.125), (0.2, 0.3, 0.4)

    result = normalise(images, mean, std, "cpu")

    wanted = (IMAGES / 255 - np.reshape(mean, (3, 1, 1))) / np.reshape(std, (3, 1, 1))
    assert result.dtype == torch.float32
    assert np.abs(result.numpy() - wanted).max() < 1e-6 * np.abs(wanted).max()
    assert np.array_equal(images, IMAGES)
