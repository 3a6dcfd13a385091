"""Data sets by name: CIFAR-10 and Tiny ImageNet as they are, drawn trees of files, and drawn images."""

import collections
import hashlib
import io
import pickle
import urllib.error

import numpy as np
import pytest
from PIL import Image

from common.data.cifar10 import OnlyArrays
from common.data.datasets import open_dataset
from common.data.imageset import balanced_subset, statistics
from common.errors import DataError

CIFAR = "cifar-10-batches-py"
DOWNLOAD = "common.data.cifar10.download_and_extract_archive"


def everything(images):
    return images.images(np.arange(len(images)))


def first_of_each_class(labels, limit):
    """Take images in rounds, the next one of each class, until there are enough; the last round by file."""
    seen = collections.Counter()
    rounds = collections.defaultdict(list)
    for index, label in enumerate(labels.tolist()):
        rounds[seen[label]].append(index)
        seen[label] += 1
    return sorted([index for number in sorted(rounds) for index in rounds[number]][:limit])


def test_an_unknown_name_is_refused_with_those_there_are(tmp_path):
    with pytest.raises(
        DataError, match=r"^unknown data set 'mnist'; choose one of cifar10, imagefolder, synth"
    ):
        open_dataset("mnist", tmp_path)


@pytest.mark.parametrize("limit", [1, 4, 5, 9, 10, 12])
def test_a_limit_keeps_classes_balanced_and_takes_the_first_files(limit):
    """Classes 0, 1 and 2 have 8, 3 and 1 images: who runs out is made up for by the others."""
    labels = np.array([0, 0, 0, 1, 0, 0, 2, 1, 0, 0, 1, 0])

    kept = balanced_subset(labels, limit, "these").tolist()

    assert kept == first_of_each_class(labels, limit)
    assert set(balanced_subset(labels, max(1, limit - 1), "these").tolist()) <= set(kept)


# ------------------------------------------------------------------ CIFAR-10


@pytest.fixture(scope="module")
def cifar(data_dir):
    return open_dataset("cifar10", data_dir)


def test_cifar10_is_what_its_files_hold_in_their_order(cifar, data_dir):
    raw = pickle.loads((data_dir / CIFAR / "test_batch").read_bytes(), encoding="latin1")

    assert np.array_equal(everything(cifar.test).reshape(10_000, -1), raw["data"])
    assert cifar.test.labels.tolist() == raw["labels"]
    assert np.bincount(cifar.train.labels).tolist() == [5000] * 10
    assert cifar.classes[0], cifar.classes[9] == ("airplane", "truck")
    assert (cifar.image_shape, cifar.num_classes) == ((3, 32, 32), 10)


def test_cifar10_s_statistics_are_those_of_its_training_pixels(cifar):
    """They are constants in the code, so that a limit does not change what a network sees."""
    levels = np.arange(256) / 255
    counts = np.zeros((3, 256))
    for start in range(0, 50_000, 5000):
        images_NCHW = cifar.train.images(np.arange(start, start + 5000))
        counts += [np.bincount(images_NCHW[:, colour].ravel(), minlength=256) for colour in range(3)]
    share = counts / counts.sum(axis=1, keepdims=True)
    mean = share @ levels

    assert cifar.mean == pytest.approx(mean, abs=1e-4)
    assert cifar.std == pytest.approx(np.sqrt(share @ levels**2 - mean**2), abs=1e-4)


class Spoiled:
    """What a pickle would call when it is read."""

    def __reduce__(self):
        return print, ("anything",)


def test_no_pickle_may_call_what_an_image_does_not_need(capsys):
    """Whatever the checksum of its file."""
    with pytest.raises(pickle.UnpicklingError, match=r"it asks for builtins\.print, which no image needs"):
        OnlyArrays(io.BytesIO(pickle.dumps(Spoiled()))).load()

    assert capsys.readouterr().out == ""


def test_a_limit_of_cifar10_takes_the_first_images_of_each_class(cifar, data_dir):
    limited = open_dataset("cifar10", data_dir, train_limit=1003, test_limit=25)

    for part, whole, limit in ((limited.train, cifar.train, 1003), (limited.test, cifar.test, 25)):
        kept = first_of_each_class(whole.labels, limit)
        assert part.labels.tolist() == whole.labels[kept].tolist()
        assert np.array_equal(everything(part), whole.images(np.array(kept)))
    assert (limited.mean, limited.std) == (cifar.mean, cifar.std)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"test_limit": 10001},
            "10001 cifar10 test images was asked for, but there are 10000; give .* to 10000",
        ),
        ({"test_limit": 0}, "a limit of 0 cifar10 test images was asked for, but there are 10000"),
        ({"image_size": 64}, "cifar10 images are 32x32, got an image size of 64; .*, or use imagefolder"),
    ],
)
def test_cifar10_refuses_a_limit_or_size_that_it_cannot_meet(data_dir, options, words):
    with pytest.raises(DataError, match=words):
        open_dataset("cifar10", data_dir, **options)


def test_cifar10_that_is_absent_and_cannot_be_fetched_names_the_folder_and_the_way_out(tmp_path, monkeypatch):
    folder = tmp_path / "data"

    def offline(*_, **__):
        folder.mkdir()  # as torchvision does first
        raise urllib.error.URLError("no route\nto host")

    monkeypatch.setattr(DOWNLOAD, offline)
    with pytest.raises(
        DataError,
        match=rf"^cifar10 is not in {folder / CIFAR} and cannot be downloaded \(<urlopen error no route to "
        rf"host>\); name the folder that holds {CIFAR}/ with --data-dir, or get online$",
    ):
        open_dataset("cifar10", folder)

    assert not folder.exists()


def test_cifar10_is_fetched_where_it_is_absent_without_a_word_on_stdout(
    data_dir, tmp_path, monkeypatch, capsys
):
    """Stdout belongs to the table at the end."""

    def fetch(url, root, **_):
        print("Downloading", url)
        (tmp_path / CIFAR).symlink_to(data_dir / CIFAR)

    monkeypatch.setattr(DOWNLOAD, fetch)

    assert len(open_dataset("cifar10", tmp_path, need_train=False).test) == 10_000
    out, err = capsys.readouterr()
    assert out == ""
    assert "Downloading" in err


@pytest.mark.parametrize("damage", ["absent", "cut short", "changed"])
def test_damaged_files_of_cifar10_are_told_from_absent_ones(data_dir, tmp_path, monkeypatch, damage):
    """Nothing is downloaded over what is there."""
    monkeypatch.setattr(DOWNLOAD, lambda *_, **__: pytest.fail("a download was tried"))
    (tmp_path / CIFAR).mkdir()
    for file in (data_dir / CIFAR).iterdir():
        (tmp_path / CIFAR / file.name).symlink_to(file)
    name = tmp_path / CIFAR / "test_batch"
    raw = name.read_bytes()
    name.unlink()
    if damage != "absent":
        name.write_bytes(raw[:-100] if damage == "cut short" else raw[:-100] + bytes(100))

    folder = tmp_path / CIFAR
    with pytest.raises(
        DataError, match=f"^cifar10 in {folder} is incomplete or damaged .*; delete {folder} to"
    ):
        open_dataset("cifar10", tmp_path)


# ------------------------------------------------------------------ trees of image files


@pytest.fixture
def tree(tmp_path):
    """Draw `train/` and `val/`, each with two images of a cat and two of a dog, 6 pixels wide and 4 high."""
    for part in ("train", "val"):
        for place, name in enumerate(("cat", "dog")):
            folder = tmp_path / part / name
            folder.mkdir(parents=True)
            for number in range(2):
                Image.new("RGB", (6, 4), (10, 100 * place, 50 * number)).save(folder / f"{number}.png")
    return tmp_path


def test_tiny_imagenet_opens_as_it_is_unpacked(tiny_imagenet):
    dataset = open_dataset("imagefolder", tiny_imagenet, train_limit=1000, test_limit=30)

    assert (dataset.num_classes, dataset.image_shape) == (20, (3, 64, 64))
    assert dataset.classes[0] == "n01443537"
    assert np.bincount(dataset.train.labels).tolist() == [50] * 20
    assert sorted(np.bincount(dataset.test.labels).tolist()) == [1] * 10 + [2] * 10
    assert everything(dataset.test).shape == (30, 3, 64, 64)
    # Of all its training images, by its own notes.
    assert dataset.mean == pytest.approx((0.471, 0.451, 0.381), abs=0.02)
    assert dataset.std == pytest.approx((0.262, 0.250, 0.260), abs=0.02)


def test_a_tree_s_folders_are_its_classes_and_its_pixels_its_statistics(tree):
    dataset = open_dataset("imagefolder", tree)

    assert (dataset.classes, dataset.image_shape) == (("cat", "dog"), (3, 4, 6))
    assert dataset.train.labels.tolist() == [0, 0, 1, 1]
    assert everything(dataset.train)[:, :, 0, 0].tolist() == [
        [10, 0, 0],
        [10, 0, 50],
        [10, 100, 0],
        [10, 100, 50],
    ]
    assert dataset.mean == pytest.approx((10 / 255, 50 / 255, 25 / 255))
    # Red never varies: 1 keeps a division by it harmless.
    assert dataset.std == pytest.approx((1.0, 50 / 255, 25 / 255))


def test_a_folder_named_test_will_do_for_val(tree):
    (tree / "val").rename(tree / "test")

    assert len(open_dataset("imagefolder", tree).test) == 4


@pytest.mark.parametrize(("width", "height"), [(60, 20), (20, 60), (30, 10), (9, 3)])
def test_images_are_resized_by_their_shorter_side_and_cut_from_the_centre(tree, width, height):
    """The middle is a white square, and both ends are red."""
    side = min(width, height)
    image = Image.new("RGB", (width, height), (255, 0, 0))
    image.paste(Image.new("RGB", (side, side), (255, 255, 255)), ((width - side) // 2, (height - side) // 2))
    image.save(tree / "val" / "cat" / "0.png")

    dataset = open_dataset("imagefolder", tree, image_size=16)

    (found,) = dataset.test.images(np.array([0]))
    assert dataset.image_shape == (3, 16, 16)
    assert (found[0] == 255).all()
    assert (found[1:, 4:12, 4:12] == 255).all()
    assert found[1:].mean() > 200  # the resizing blurs red into the edge


def test_without_a_size_all_are_brought_to_that_of_the_first_training_image(tree):
    Image.new("RGB", (50, 50)).save(tree / "val" / "dog" / "1.png")

    assert everything(open_dataset("imagefolder", tree).test).shape == (4, 3, 4, 6)


@pytest.mark.parametrize(
    ("image", "pixel"),
    [
        (Image.new("L", (6, 4), 77), (77, 77, 77)),
        (Image.new("RGBA", (6, 4), (1, 2, 3, 255)), (1, 2, 3)),
        (Image.new("1", (6, 4), 1), (255, 255, 255)),
        (Image.new("RGB", (6, 4), (9, 8, 7)).quantize(4), (9, 8, 7)),
    ],
    ids=["grey", "RGBA", "black and white", "palette"],
)
def test_images_of_other_modes_become_rgb(tree, image, pixel):
    image.save(tree / "val" / "cat" / "0.png")

    (found,) = open_dataset("imagefolder", tree).test.images(np.array([0]))

    assert (found == np.reshape(pixel, (3, 1, 1))).all()


@pytest.mark.parametrize("content", ["none", "half", "text"])
def test_a_damaged_file_is_named_when_it_is_asked_for(tree, content):
    file = tree / "val" / "dog" / "0.png"
    Image.effect_noise((32, 32), 50).save(file)
    whole = file.read_bytes()
    file.write_bytes({"none": b"", "half": whole[: len(whole) // 2], "text": b"a dog"}[content])
    test = open_dataset("imagefolder", tree).test

    test.images(np.array([0, 1, 3]))
    with pytest.raises(DataError, match=rf"^{file} is no image that can be read \(.*\); mend or remove it$"):
        test.images(np.array([2]))


def test_parts_with_other_classes_are_refused_with_the_odd_ones(tree):
    """Label 1 would mean a dog here and an elk there."""
    (tree / "val" / "dog").rename(tree / "val" / "elk")

    with pytest.raises(
        DataError, match=r"train has 2 class folders and .*val has 2; .* only one .* has dog, elk$"
    ):
        open_dataset("imagefolder", tree)


@pytest.mark.parametrize(("part", "need_train"), [("train", True), ("val", True), ("val", False)])
def test_a_missing_part_is_named_with_the_layout_wanted(tree, part, need_train):
    (tree / part).rename(tree / "elsewhere")

    layout = rf"wants images as train/<class>/\* and val/.*, but {tree / part} cannot be used .* --data-dir$"
    with pytest.raises(DataError, match=layout):
        open_dataset("imagefolder", tree, need_train=need_train)


def test_who_only_measures_accuracies_can_do_without_train(tree):
    """The normalisation then comes with the trained model."""
    (tree / "train").rename(tree / "elsewhere")

    dataset = open_dataset("imagefolder", tree, need_train=False)

    assert (len(dataset.train), len(dataset.test), dataset.classes) == (0, 4, ("cat", "dog"))
    assert (dataset.mean, dataset.std) == ((0, 0, 0), (1, 1, 1))


def test_without_need_of_train_the_statistics_are_still_its_own(tree):
    whole, tested = open_dataset("imagefolder", tree), open_dataset("imagefolder", tree, need_train=False)

    assert (len(tested.train), len(tested.test)) == (0, 4)
    assert (tested.mean, tested.std) == (whole.mean, whole.std)


def test_a_size_of_no_pixels_is_refused(tree):
    with pytest.raises(DataError, match=r"^images must be at least 1x1 pixel, got an image size of 0$"):
        open_dataset("imagefolder", tree, image_size=0)


# ------------------------------------------------------------------ drawn images


def test_drawn_images_are_the_same_on_every_platform_and_in_every_release(tmp_path):
    """Figures of one version must stay comparable with those of another."""
    train = open_dataset("synthetic", tmp_path, train_limit=50, test_limit=1).train

    drawn = everything(train).tobytes() + train.labels.tobytes()

    assert hashlib.sha256(drawn).hexdigest() == (
        "41b26028add2c54706e9452d4dc761640f0a1b1bfa19022e9f80982e4a6b0b10"
    )


def test_no_drawn_image_occurs_twice(tmp_path):
    """Nor in both parts: what was learnt by heart must not count."""
    dataset = open_dataset("synthetic", tmp_path)

    assert (
        len({image.tobytes() for part in (dataset.train, dataset.test) for image in everything(part)}) == 6000
    )


def test_drawn_images_are_balanced_and_a_limit_takes_the_first(tmp_path):
    whole = open_dataset("synthetic", tmp_path)
    limited = open_dataset("synthetic", tmp_path, train_limit=515, test_limit=25)

    assert np.bincount(whole.train.labels).tolist() == [500] * 10
    assert np.bincount(whole.test.labels).tolist() == [100] * 10
    assert (whole.image_shape, whole.num_classes) == ((3, 32, 32), 10)
    for part, of in ((limited.train, whole.train), (limited.test, whole.test)):
        first = np.arange(len(part))
        assert part.labels.tolist() == of.labels[first].tolist()
        assert np.array_equal(everything(part), of.images(first))
    assert (whole.mean, whole.std) == statistics(whole.train)
    tested = open_dataset("synthetic", tmp_path, need_train=False)
    assert len(tested.train) == 0
    assert (tested.mean, tested.std) == (whole.mean, whole.std)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"train_limit": 5001}, "5001 synthetic training images was asked for, but there are 5000"),
        ({"test_limit": 0}, "a limit of 0 synthetic test images was asked for, but there are 1000"),
        ({"image_size": 64}, "synthetic images are 32x32, got an image size of 64; .*, or use imagefolder"),
    ],
)
def test_drawing_refuses_a_limit_or_size_that_it_cannot_meet(tmp_path, options, words):
    with pytest.raises(DataError, match=words):
        open_dataset("synthetic", tmp_path, **options)
