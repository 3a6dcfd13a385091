"""Images come back as they were, in any coding; what is no such picture is refused before it is decoded."""

import dataclasses
import io
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from common.codec import CodedImages, decode_images, encode_images, measure_codings
from common.codec import images as images_module
from common.codec.images import codings
from common.errors import CodecError

CODINGS = ("png", "webp", "zstd")


def drawn(shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def smooth(num):
    """Images that a picture coder is made for: soft gradients, each another one."""
    slopes = np.random.default_rng(0).uniform(0.5, 3.0, (num, 3, 1, 1))
    y, x = np.mgrid[0:32, 0:32]
    return (slopes * (x + 2 * y)).astype(np.uint8)


def test_this_machine_has_all_codings():
    assert codings() == CODINGS


@pytest.mark.parametrize("coding", CODINGS)
@settings(max_examples=40, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 20), st.just(3), st.integers(1, 40), st.integers(1, 40)),
    seed=st.integers(0, 99),
)
def test_images_come_back_as_they_were(coding, shape, seed):
    """Also where the last row of the picture is not full, and where images are tall or wide."""
    images = drawn(shape, seed)

    coded = encode_images(images, coding)

    assert (coded.coding, coded.shape) == (coding, shape)
    back = decode_images(coded)
    assert np.array_equal(back, images)
    assert back.flags.writeable
    assert back.flags.c_contiguous


def test_the_smallest_coding_comes_first_and_is_what_it_is_measured_to_be():
    sizes = measure_codings(smooth(64))

    assert list(sizes.values()) == sorted(sizes.values())
    assert sizes == {coding: len(encode_images(smooth(64), coding).data) for coding in sizes}
    assert next(iter(sizes)) == "webp"
    assert next(iter(measure_codings(drawn((64, 3, 32, 32))))) == "zstd"  # noise: nothing predicts it


@pytest.mark.parametrize("coding", ["png", "webp"])
def test_small_images_take_less_together_than_one_by_one(coding):
    images = smooth(64)

    together = len(encode_images(images, coding).data)
    one_by_one = sum(len(encode_images(images[i : i + 1], coding).data) for i in range(64))

    assert together < 0.9 * one_by_one


def test_a_picture_too_large_for_a_coding_leaves_the_others():
    wide = np.zeros((2, 3, 1, 16384), np.uint8)

    with pytest.raises(CodecError, match="make a picture of 16384x2 pixels, its sides may have 16383"):
        encode_images(wide, "webp")
    assert list(measure_codings(wide)) == ["zstd"]
    assert np.array_equal(decode_images(encode_images(wide, "zstd")), wide)


@pytest.mark.parametrize(
    ("images", "complaint"),
    [
        (np.zeros((2, 1, 4, 4), np.uint8), r"uint8 with shape \[N, 3, H, W\], got uint8 \[2, 1, 4, 4\]"),
        (np.zeros((2, 3, 4, 4), np.float32), "got float32"),
        (np.zeros((0, 3, 4, 4), np.uint8), r"got uint8 \[0, 3, 4, 4\]"),
    ],
)
def test_what_are_no_images_is_not_encoded(images, complaint):
    with pytest.raises(CodecError, match=complaint):
        encode_images(images, "png")


def test_an_unknown_coding_is_refused_on_both_sides():
    with pytest.raises(CodecError, match="one of png, webp, zstd, got 'jpeg'"):
        encode_images(drawn((2, 3, 4, 4)), "jpeg")
    with pytest.raises(CodecError, match="one of png, webp, zstd, got 'jpeg'"):
        decode_images(CodedImages("jpeg", (2, 3, 4, 4), b""))


@pytest.mark.parametrize("coding", CODINGS)
def test_damaged_data_is_refused(coding):
    coded = encode_images(drawn((5, 3, 8, 8)), coding)
    for data in (b"", b"x", coded.data[: len(coded.data) // 2], coded.data[:-100], bytes(len(coded.data))):
        with pytest.raises(CodecError):
            decode_images(dataclasses.replace(coded, data=data))


@pytest.mark.parametrize("coding", CODINGS)
def test_any_change_of_a_byte_is_refused_or_gives_images_of_the_agreed_shape(coding):
    coded = encode_images(drawn((5, 3, 8, 8)), coding)
    for at in range(0, len(coded.data), max(1, len(coded.data) // 100)):
        data = bytearray(coded.data)
        data[at] ^= 0xFF
        try:
            images = decode_images(dataclasses.replace(coded, data=bytes(data)))
        except CodecError:
            continue
        assert images.shape == coded.shape


@pytest.mark.parametrize("coding", CODINGS)
def test_another_size_than_agreed_is_refused(coding):
    coded = encode_images(drawn((4, 3, 8, 8)), coding)

    with pytest.raises(CodecError, match=r"must expand to 1536 bytes|picture of 16x32, got one of 16x16"):
        decode_images(dataclasses.replace(coded, shape=(8, 3, 8, 8)))


def picture(kind, mode="RGB", size=(16, 16), **options):
    file = io.BytesIO()
    Image.new(mode, size).save(file, kind, **options)
    return file.getvalue()


def with_chunk(png, kind, content):
    """Return a PNG with one more chunk before its end."""
    crc = zlib.crc32(kind + content).to_bytes(4, "big")
    return png[:-12] + len(content).to_bytes(4, "big") + kind + content + crc + png[-12:]


@pytest.mark.parametrize(
    ("coding", "data", "complaint"),
    [
        ("png", picture("PNG", "RGBA"), "as an RGB picture, got RGBA"),
        ("png", picture("PNG", "L"), "as an RGB picture, got L"),
        ("png", picture("PNG", size=(4000, 4000)), "make a png picture of 16x16, got one of 4000x4000"),
        ("png", picture("WEBP", lossless=True), "got no such picture"),
        ("png", picture("GIF"), "got no such picture"),
        ("webp", picture("WEBP"), "got no such picture"),  # a lossy one
        ("webp", picture("WEBP", size=(32, 8), lossless=True), "of 16x16, got one of 32x8"),
        ("webp", picture("PNG"), "got no such picture"),
        ("webp", picture("TIFF"), "got no such picture"),
        ("png", with_chunk(picture("PNG"), b"iCCP", b""), "is damaged"),
    ],
)
def test_another_picture_than_agreed_is_refused(coding, data, complaint):
    with pytest.raises(CodecError, match=complaint):
        decode_images(CodedImages(coding, (4, 3, 8, 8), data))


def test_a_picture_that_claims_to_be_huge_is_refused_by_its_first_bytes(monkeypatch):
    png = bytearray(picture("PNG"))
    png[16:24] = (100_000).to_bytes(4, "big") * 2
    webp = bytearray(picture("WEBP", lossless=True))
    webp[21:25] = b"\xff\xff\xff\x0f"
    monkeypatch.setattr(Image, "open", None)  # it is not even asked

    with pytest.raises(CodecError, match="got one of 100000x100000"):
        decode_images(CodedImages("png", (4, 3, 8, 8), bytes(png)))
    with pytest.raises(CodecError, match="got one of 16384x16384"):
        decode_images(CodedImages("webp", (4, 3, 8, 8), bytes(webp)))


def test_a_machine_that_does_not_read_a_coding_says_so(monkeypatch):
    coded = encode_images(drawn((4, 3, 8, 8)), "webp")
    monkeypatch.setattr(images_module.pil_features, "check", lambda feature: False)

    with pytest.raises(CodecError, match="came as webp, which the Pillow of this machine does not read"):
        decode_images(coded)
    assert "webp" not in measure_codings(drawn((4, 3, 8, 8)))
