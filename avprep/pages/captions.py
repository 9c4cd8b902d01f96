"""Captions on pictures: lines of text as pixels, for sheets that are viewed without a page."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from avprep.pages.words import escaped, words

SIZE = 13
"""Font size in pixels."""
LINE = 20
"""Height of a line in pixels."""
_PAPER, _INK, _LEFT = 255, 40, 4


def caption(text: str, width: int, height: int = LINE) -> NDArray[np.uint8]:
    """Return a line of text, cut to fit, vertically centred in a white strip: uint8 (height, width, 3)."""
    font = ImageFont.load_default(SIZE)
    shown, box = words(text, 400), bytes(font.getmask("\uffff"))  # what the font draws for what it lacks
    lacking = {letter for letter in shown if not letter.isascii() and bytes(font.getmask(letter)) == box}
    fitting = escaped(shown, lacking)
    while len(fitting) > 1 and font.getlength(fitting) > width - 2 * _LEFT:
        fitting = f"{fitting[:-2]}…"
    strip = Image.new("L", (width, height), _PAPER)
    ImageDraw.Draw(strip).text((_LEFT, height / 2), fitting, _INK, font, anchor="lm")
    return np.repeat(np.asarray(strip, np.uint8)[:, :, None], 3, axis=2)
