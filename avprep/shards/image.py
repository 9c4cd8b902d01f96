"""JPEG and PNG coding of RGB pictures; headers are checked before decoding, so memory and time are bounded.

There are two decoders, because neither suits both uses. Training uses OpenCV, which takes two thirds of Pillow's time.
But OpenCV and its libraries print a line for each damaged picture, which only closing standard error for the whole
process would suppress. Pillow prints none, so it reads pictures that may be damaged. The pixels are the same.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from avprep import files
from avprep.errors import ShardError
from avprep.schema import CROP_SIZE, costly, picture_size

JPEG_QUALITY = 95
MAX_PIXELS = 64_000_000
"""Maximum size of a decoded picture if no size is given (pixels)."""


def decode_image(data: bytes) -> NDArray[np.uint8] | None:
    """Return the pixels of an encoded crop, uint8 (256, 256, 3), RGB; None if it is not one. Prints nothing."""
    from PIL.JpegImagePlugin import JpegImageFile
    from PIL.PngImagePlugin import PngImageFile

    try:
        _check(data, (CROP_SIZE, CROP_SIZE))
        kind = JpegImageFile if data[:2] == b"\xff\xd8" else PngImageFile
        with kind(io.BytesIO(data)) as image:
            # Pillow warns if a palette with transparency is converted to RGB directly.
            return np.array((image.convert("RGBA") if image.mode == "P" else image).convert("RGB"))
    except Exception:  # damaged files make Pillow raise almost any exception
        return None


def decode_picture(data: bytes, size: tuple[int, int] | None = None) -> NDArray[np.uint8]:
    """Return the pixels of an encoded picture, uint8 (H, W, 3), RGB, fast; ShardError, one line, if it is not one.

    size: the required width and height.
    """
    import cv2

    found = _check(data, size)
    try:
        picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error as error:
        raise ShardError(f"the picture cannot be decoded ({error.err})") from error
    if picture is None or picture.shape[1::-1] != found:
        raise ShardError("the picture cannot be decoded")
    return picture.astype(np.uint8, copy=False)


def encode_bgr(image: NDArray[np.uint8], image_format: str) -> bytes:
    """Encode uint8 (H, W, 3) BGR, OpenCV's own order, as JPEG of quality 95 or PNG.

    For JPEG the image may also be (H, W, 4) BGRA; its last channel is dropped.
    """
    import cv2

    assert image.shape[2] == 3 or image_format == "jpg"  # a PNG would keep the last channel
    options = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY] if image_format == "jpg" else []
    done, data = cv2.imencode(f".{image_format}", image, options)
    assert done
    return data.tobytes()


def write_png(path: Path, rgb: NDArray[np.uint8]) -> None:
    """Write uint8 (H, W, 3), RGB, as PNG, atomically; RunError if it cannot be written."""
    files.write_whole(path, encode_bgr(np.ascontiguousarray(rgb[..., ::-1]), "png"))


def _check(data: bytes, size: tuple[int, int] | None) -> tuple[int, int]:
    """Return the width and height in a picture's header; ShardError if it is not one or is too expensive to decode."""
    found = picture_size(data)
    if found is None:
        raise ShardError("not a JPEG or PNG picture")
    if size is not None and found != size:
        raise ShardError(f"the picture is {found[0]}×{found[1]}, expected {size[0]}×{size[1]}")
    if size is not None and costly(data):
        raise ShardError("the picture asks for more than any crop: it is damaged or hostile")
    if found[0] * found[1] > MAX_PIXELS:
        raise ShardError(f"the picture is {found[0]}×{found[1]}: too large")
    return found
