"""Pictures as shards hold them, decoded without a word on the terminal."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile

from avprep import schema

_KINDS = {b"\xff\xd8": JpegImageFile, b"\x89P": PngImageFile}


def decode_image(data: bytes) -> NDArray[np.uint8] | None:
    """Return the pixels of an encoded crop, uint8 (256, 256, 3), RGB; None for what is none.

    Its header is looked at before memory or time are spent. The pixels are those that OpenCV decodes. OpenCV and its
    libraries print a line for each damaged picture, which only turning standard error off for the whole process would
    keep back; Pillow prints none.
    """
    kind = _KINDS.get(data[:2])
    if kind is None or schema.picture_size(data) != (schema.CROP_SIZE, schema.CROP_SIZE) or schema.costly(data):
        return None
    try:
        with kind(io.BytesIO(data)) as image:
            # A palette with transparency is warned of when it goes to RGB at once.
            return np.array((image.convert("RGBA") if image.mode == "P" else image).convert("RGB"))
    except Exception:  # damaged files make Pillow raise nearly everything there is
        return None
