"""Figures drawn by matplotlib, without pyplot or the user's matplotlibrc: the same input gives the same pixels.

matplotlib takes a second to import, so it is imported only when something is drawn.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from avprep.pages.words import escaped

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Colours that colour-blind people can distinguish (Okabe and Ito 2008)."""
LONGEST = 78
"""Maximum characters of a line with escapes, which are longer than the letters for which the picture has room."""


@dataclass
class Drawing:
    """A figure to draw on. pixels: uint8 (H, W, 3), RGB, once it is finished."""

    figure: Figure
    pixels: NDArray[np.uint8]


@contextmanager
def drawing(
    width: float, height: float, dpi: int, *, pads: Mapping[str, Any] | None = None, font_size: float = 10.0
) -> Iterator[Drawing]:
    """Provide a figure to draw on, and its pixels afterwards; the layout is matplotlib's constrained layout.

    width, height: in inches. pads: arguments of `ConstrainedLayoutEngine`. font_size: in points.
    """
    logger = logging.getLogger("matplotlib")
    level = logger.level
    logger.setLevel(logging.ERROR)  # it warns when it builds its font cache, and of a home folder that is not writable
    try:
        import matplotlib
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.layout_engine import ConstrainedLayoutEngine

        with matplotlib.rc_context(), warnings.catch_warnings():
            matplotlib.rcdefaults()
            matplotlib.rcParams["text.parse_math"] = False  # a $ in a key is a literal $
            matplotlib.rcParams["font.size"] = font_size
            warnings.filterwarnings("ignore", r"Glyph \d+")  # a character that the font lacks, in labels of axes alone
            canvas = FigureCanvasAgg(Figure((width, height), dpi=dpi, layout=ConstrainedLayoutEngine(**(pads or {}))))
            drawn = Drawing(canvas.figure, np.empty((0, 0, 3), np.uint8))
            yield drawn
            _escape_missing(canvas.figure)
            canvas.draw()  # type: ignore[no-untyped-call]
            drawn.pixels = np.array(canvas.buffer_rgba(), np.uint8)[..., :3]  # type: ignore[no-untyped-call]
    finally:
        logger.setLevel(level)


def _escape_missing(figure: Figure) -> None:
    """Write characters that the font lacks, such as Chinese ones, as escapes: the font has the same box for all."""
    from matplotlib.font_manager import findfont, get_font
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        assert isinstance(text, Text)
        font, shown = get_font(findfont(text.get_fontproperties())), text.get_text()
        if missing := {letter for letter in shown if not letter.isascii() and not font.get_char_index(ord(letter))}:
            lines = (escaped(line, missing) for line in shown.split("\n"))
            text.set_text("\n".join(line if len(line) <= LONGEST else f"{line[: LONGEST - 1]}…" for line in lines))
