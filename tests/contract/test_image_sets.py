"""What every `ImageSet` promises, whatever holds its images. The loader and the statistics rely on it."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from common.data.imagefolder import FolderImages
from common.data.imageset import ArrayImages, statistics

HEIGHT, WIDTH = 5, 7  # told apart, so that no implementation may swap them
LABELS = np.array([2, 0, 1, 0, 2, 1], np.int64)
PIXELS_NCHW = np.random.default_rng(0).integers(0, 256, (len(LABELS), 3, HEIGHT, WIDTH), np.uint8)


def in_memory(_):
    return ArrayImages(PIXELS_NCHW.copy(), LABELS.copy())


def in_memory_transposed(_):
    """As CIFAR-10 comes: a view whose rows do not lie one after the other."""
    return ArrayImages(np.ascontiguousarray(PIXELS_NCHW.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2), LABELS)


def in_files(folder):
    paths = [str(folder / f"{index}.png") for index in range(len(LABELS))]
    for path, pixels_CHW in zip(paths, PIXELS_NCHW, strict=True):
        Image.fromarray(pixels_CHW.transpose(1, 2, 0)).save(path)
    return FolderImages(paths, LABELS.copy(), (HEIGHT, WIDTH))


@pytest.fixture(params=[in_memory, in_memory_transposed, in_files], ids=lambda make: make.__name__)
def image_set(request, tmp_path):
    """Each implementation, holding PIXELS_NCHW."""
    return request.param(tmp_path)


def indices(*wanted):
    return np.array(wanted, np.int64)


def test_there_is_one_label_for_each_image(image_set):
    assert len(image_set) == len(LABELS)
    assert image_set.labels.dtype == np.int64
    assert image_set.labels.tolist() == LABELS.tolist()


@pytest.mark.parametrize("wanted", [(0,), (5, 0, 3), (1, 1, 1), range(6)], ids=str)
def test_images_come_in_the_order_asked_for_as_often_as_asked_for(image_set, wanted):
    images_nCHW = image_set.images(indices(*wanted))

    assert np.array_equal(images_nCHW, PIXELS_NCHW[list(wanted)])


def test_images_are_rgb_bytes_one_after_the_other(image_set):
    """`torch.from_numpy` and the codec of images take them as they lie."""
    images_nCHW = image_set.images(indices(4, 2))

    assert images_nCHW.dtype == np.uint8
    assert images_nCHW.shape == (2, 3, HEIGHT, WIDTH)
    assert images_nCHW.flags.c_contiguous


def test_no_image_at_all_is_an_empty_array_of_the_same_form(image_set):
    images_nCHW = image_set.images(indices())

    assert images_nCHW.shape == (0, 3, HEIGHT, WIDTH)
    assert images_nCHW.dtype == np.uint8


def test_who_changes_an_image_changes_only_a_copy(image_set):
    """Augmentation may work in place."""
    image_set.images(indices(*range(6)))[:] = 0

    assert np.array_equal(image_set.images(indices(*range(6))), PIXELS_NCHW)


def test_many_threads_may_ask_at_once(image_set):
    wanted = [indices(*np.random.default_rng(seed).integers(0, 6, 4)) for seed in range(64)]

    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(image_set.images, wanted))

    assert all(np.array_equal(got, PIXELS_NCHW[asked]) for got, asked in zip(answers, wanted, strict=True))


def test_an_image_that_is_not_there_is_an_error(image_set):
    with pytest.raises(IndexError):
        image_set.images(indices(6))


def test_statistics_are_the_same_figures_wherever_the_images_lie(image_set):
    mean, std = statistics(image_set)

    assert mean == pytest.approx((PIXELS_NCHW / 255).mean((0, 2, 3)), rel=1e-12)
    assert std == pytest.approx((PIXELS_NCHW / 255).std((0, 2, 3)), rel=1e-9)
