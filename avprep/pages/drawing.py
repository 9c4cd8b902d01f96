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

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Colours that colour-blind people can distinguish (Okabe and Ito 2008)."""


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
            warnings.filterwarnings("ignore", r"Glyph \d+")  # a character that the font lacks is drawn as a box
            canvas = FigureCanvasAgg(Figure((width, height), dpi=dpi, layout=ConstrainedLayoutEngine(**(pads or {}))))
            drawn = Drawing(canvas.figure, np.empty((0, 0, 3), np.uint8))
            yield drawn
            canvas.draw()  # type: ignore[no-untyped-call]
            drawn.pixels = np.array(canvas.buffer_rgba(), np.uint8)[..., :3]  # type: ignore[no-untyped-call]
    finally:
        logger.setLevel(level)
