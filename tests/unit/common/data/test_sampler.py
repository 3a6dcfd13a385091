"""The order of training: every image once an epoch, and the same at any batch whatever came before."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.data.sampler import batch_indices, batches_per_epoch, epoch_of, first_seen
from common.errors import ConfigError, DataError


def epoch_order(num_images, batch_size, seed, epoch):
    per_epoch = batches_per_epoch(num_images, batch_size)
    first = epoch * per_epoch
    return np.concatenate(
        [batch_indices(num_images, batch_size, seed, seq) for seq in range(first, first + per_epoch)]
    )


def test_the_order_is_the_same_on_every_platform_and_in_every_release():
    """A run that is resumed after an update must go on where it was: these figures never change."""
    assert [batch_indices(10, 4, seed=0, seq=seq).tolist() for seq in range(4)] == [
        [1, 0, 9, 2],
        [4, 8, 7, 3],
        [5, 6],
        [5, 8, 1, 4],
    ]


def test_a_batch_does_not_depend_on_the_batches_asked_for_before():
    """More epochs than the cache holds, backwards, against a walk from the start."""
    forwards = [batch_indices(50, 8, seed=3, seq=seq).tolist() for seq in range(70)]

    backwards = [batch_indices(50, 8, seed=3, seq=seq).tolist() for seq in reversed(range(70))]

    assert backwards == forwards[::-1]


@given(
    num_images=st.integers(2, 200),
    batch_size=st.integers(2, 64),
    seed=st.integers(0, 2**31),
    epoch=st.integers(0, 5),
)
def test_an_epoch_has_every_image_once_but_for_one_left_over_alone(num_images, batch_size, seed, epoch):
    order = epoch_order(num_images, batch_size, seed, epoch)

    assert len(set(order.tolist())) == len(order)
    assert order.min() >= 0
    assert order.max() < num_images
    assert len(order) == num_images - (num_images % batch_size == 1)


@pytest.mark.parametrize(
    ("num_images", "sizes"), [(8, [4, 4]), (9, [4, 4]), (10, [4, 4, 2]), (11, [4, 4, 3]), (3, [3])]
)
def test_a_short_last_batch_is_trained_on_unless_it_has_one_image(num_images, sizes):
    """Batch normalisation cannot train on a single image."""
    per_epoch = batches_per_epoch(num_images, 4)

    assert [len(batch_indices(num_images, 4, 0, seq)) for seq in range(per_epoch)] == sizes


def test_the_image_left_out_is_another_one_in_another_epoch():
    """Otherwise one image would never be learnt from."""
    left_out = {(set(range(9)) - set(epoch_order(9, 4, 0, epoch).tolist())).pop() for epoch in range(10)}

    assert len(left_out) > 1


def test_epochs_and_seeds_have_orders_of_their_own():
    orders = [epoch_order(100, 10, seed, epoch).tolist() for seed in (0, 1) for epoch in (0, 1)]

    assert len({tuple(order) for order in orders}) == 4


def test_the_batch_size_cuts_the_same_order_into_other_pieces():
    assert epoch_order(60, 6, 5, 1).tolist() == epoch_order(60, 20, 5, 1).tolist()


def test_an_image_may_come_anywhere_in_an_epoch():
    """Over many epochs the mean place of each image is near the middle."""
    places = np.array([np.argsort(epoch_order(10, 5, 0, epoch)) for epoch in range(400)])

    assert np.abs(places.mean(axis=0) - 4.5).max() < 0.8  # 5.5 standard errors


def test_batches_are_numbered_on_over_the_epochs():
    assert [epoch_of(10, 4, seq) for seq in range(7)] == [0, 0, 0, 1, 1, 1, 2]
    assert [epoch_of(9, 4, seq) for seq in range(5)] == [0, 0, 1, 1, 2]


def test_the_order_cannot_be_changed_by_who_reads_it():
    """It is cached: a write would reach later batches."""
    indices = batch_indices(10, 4, 0, 0)

    with pytest.raises(ValueError, match="read-only"):
        indices[0] = 3


@pytest.mark.parametrize("batch_size", [1, 0, -4])
def test_a_batch_size_that_cannot_train_is_refused_by_its_flag(batch_size):
    with pytest.raises(ConfigError, match=rf"^--batch-size must be at least 2 .*, got {batch_size}$"):
        batches_per_epoch(10, batch_size)


@pytest.mark.parametrize("num_images", [0, 1])
def test_too_few_images_are_refused_with_what_to_do(num_images):
    with pytest.raises(
        DataError, match=rf"at least 2 images, got {num_images}; raise --train-limit or add images"
    ):
        batches_per_epoch(num_images, 4)


@given(num_images=st.integers(2, 40), batch_size=st.integers(2, 20), seed=st.integers(0, 2**31))
def test_every_image_is_first_seen_once_and_only_one_left_over_after_the_first_epoch(
    num_images, batch_size, seed
):
    per_epoch, seen = batches_per_epoch(num_images, batch_size), set()
    for seq in range(6 * per_epoch):
        indices = batch_indices(num_images, batch_size, seed, seq)
        fresh = first_seen(num_images, batch_size, seed, seq)
        assert fresh.tolist() == [index not in seen for index in indices.tolist()]
        seen.update(indices.tolist())


def test_an_image_left_over_in_two_epochs_running_is_first_seen_in_the_third():
    """Of three images in batches of two, a seed can be had that leaves the same one over twice."""

    def left_over(seed, epoch):
        return ({0, 1, 2} - set(batch_indices(3, 2, seed, epoch).tolist())).pop()

    seed = next(s for s in range(100) if left_over(s, 0) == left_over(s, 1) != left_over(s, 2))

    assert [first_seen(3, 2, seed, seq).sum() for seq in range(4)] == [2, 0, 1, 0]
