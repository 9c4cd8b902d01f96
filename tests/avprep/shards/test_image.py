"""Images of shards are decoded without output, and without touching the standard error of other threads."""

from __future__ import annotations

import io
import os
import resource
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import ExifTags, Image

from avprep.errors import RunError
from avprep.shards.image import decode_image, decode_picture, encode_bgr, write_png


@pytest.fixture(scope="module")
def crop() -> NDArray[np.uint8]:
    """An image with some detail, uint8 (256, 256, 3)."""
    noise = np.random.default_rng(0).integers(0, 256, (256, 256, 3)).astype(np.uint8)
    return np.asarray(cv2.GaussianBlur(noise, (0, 0), 3), np.uint8)


@pytest.mark.parametrize("image_format", ["jpg", "png"])
def test_pixels_are_those_that_opencv_decodes(crop: NDArray[np.uint8], image_format: str) -> None:
    """An encoded image decodes to the same pixels as with OpenCV, which training uses."""
    data = encode_bgr(crop, image_format)
    opencv = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert np.array_equal(decode_image(data), opencv[..., ::-1])


def test_an_orientation_in_a_crop_is_ignored(crop: NDArray[np.uint8]) -> None:
    """Neither decoder turns a JPEG by its EXIF orientation: a crop's points and transform are those of its pixels."""
    exif, file = Image.Exif(), io.BytesIO()
    exif[ExifTags.Base.Orientation] = 6
    Image.fromarray(crop).save(file, "JPEG", exif=exif)
    read = decode_image(file.getvalue())
    assert read is not None
    assert np.abs(read.astype(int) - crop).mean() < 8
    assert np.array_equal(decode_picture(file.getvalue(), (256, 256)), read)


def test_a_fourth_channel_is_left_out(crop: NDArray[np.uint8]) -> None:
    """The same pixels give the same JPEG with a fourth channel and without."""
    assert encode_bgr(np.dstack([crop, np.full((256, 256), 255, np.uint8)]), "jpg") == encode_bgr(crop, "jpg")


def damaged(crop: NDArray[np.uint8]) -> list[bytes]:
    """Encoded images with a hole in the middle, truncated, and empty."""
    whole = [encode_bgr(crop, image_format) for image_format in ("jpg", "png")]
    holes = [data[: len(data) // 2] + bytes(50) + data[len(data) // 2 + 50 :] for data in whole]
    return [*holes, *(data[: len(data) // 2] for data in whole), whole[0][:5], b"\xff\xd8\xff", b"", b"no picture"]


def test_damaged_pictures_are_none_and_silent(crop: NDArray[np.uint8], capfd: pytest.CaptureFixture[str]) -> None:
    """A truncated or invalid image gives None, and nothing is printed for it."""
    decoded = [decode_image(data) for data in damaged(crop)]
    assert all(image is None for image in decoded[2:])
    assert capfd.readouterr() == ("", "")


def test_other_threads_keep_their_standard_error(crop: NDArray[np.uint8], capfd: pytest.CaptureFixture[str]) -> None:
    """Text that one thread writes to standard error arrives while another decodes damaged images."""
    done = threading.Event()

    def decode() -> None:
        for _ in range(50):
            for data in damaged(crop):
                decode_image(data)
        done.set()

    thread = threading.Thread(target=decode)
    thread.start()
    written = 0
    while not done.is_set():
        os.write(2, b"one\n")
        written += 1
    thread.join()
    assert written > 1
    assert capfd.readouterr().err == "one\n" * written


def test_a_picture_too_large_is_refused_unread() -> None:
    """A header with more pixels than any crop has is rejected."""
    file = io.BytesIO()
    Image.new("1", (8192, 8192)).save(file, "PNG")
    assert decode_image(file.getvalue()) is None


def test_palettes_and_grey_come_out_as_rgb(crop: NDArray[np.uint8]) -> None:
    """Images of other modes than RGB have three channels too."""
    for mode in ("P", "L", "RGBA"):
        file = io.BytesIO()
        Image.fromarray(crop).convert(mode).save(file, "PNG")
        image = decode_image(file.getvalue())
        assert image is not None
        assert image.shape == crop.shape


def test_a_full_disk_leaves_the_picture_that_was_there(tmp_path: Path) -> None:
    """If there is no room for the new image, the line says so, the old one stays and nothing else is left."""
    path = tmp_path / "a.png"
    path.write_bytes(b"old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))  # as on a full disk
    try:
        with pytest.raises(RunError, match=r"a\.png: cannot write \(File too large\)"):
            write_png(path, np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert {found.name: found.read_bytes() for found in tmp_path.iterdir()} == {"a.png": b"old"}
