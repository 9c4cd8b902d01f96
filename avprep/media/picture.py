"""One decoded frame as a player displays it, converted only when needed."""

from __future__ import annotations

import threading
from fractions import Fraction
from functools import partial
from typing import Any, Literal

import av
import numpy as np
from av.sidedata.sidedata import SideDataContainer
from av.video.plane import VideoPlane
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from avprep.media import hdr
from avprep.media.display import AS_STORED, Display, display, rotation_matrix

Bytes = NDArray[np.uint8]


class _Converters(threading.local):
    """Each thread's own colour converters, one for each use; they are not thread-safe.

    A frame's own converter is set up, including its threads, for that frame alone: ten times the cost of the
    conversion. These keep their set-up from frame to frame.
    """

    def __init__(self) -> None:
        self.whole, self.shrunk = VideoReformatter(), VideoReformatter()


_CONVERTERS = _Converters()


class Picture:
    """One decoded frame as a player displays it, converted only when needed.

    The display matrix is applied, pixels are square, and colours of HDR pictures are converted to BT.709.
    """

    def __init__(self, frame: av.VideoFrame, display: Display = AS_STORED) -> None:
        self._frame = frame
        self._display = display
        self._plane: Bytes | None = None  # of luma, a view of the frame

    @property
    def nbytes(self) -> int:
        """Memory of the decoded frame, in bytes (estimated from its planes)."""
        return sum(plane.buffer_size for plane in self._frame.planes)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels, as displayed."""
        return self._display.size(*self._stored)

    @property
    def hdr(self) -> str | None:
        """`pq` or `hlg` if the picture is HDR, else None."""
        return hdr.transfer(self._frame)

    @property
    def pixel_aspect(self) -> Fraction:
        """Width of a stored pixel over its height; 1 if it is square."""
        return self._display.aspect

    def rgb(self) -> Bytes:
        """Return uint8 (H, W, 3), RGB."""
        return self._shown(self._colours(_CONVERTERS.whole, "rgb24", self._squared))

    def rgba(self) -> Bytes:
        """Return uint8 (H, W, 4), RGBA: OpenCV warps four channels faster than three."""
        return self._shown(self._colours(_CONVERTERS.whole, "rgba", self._squared))

    def source(self, form: Literal["rgba", "bgra"] = "rgba") -> tuple[Bytes, NDArray[np.float64] | None]:
        """Return the stored pixels, for callers that resample them anyway.

        Returns uint8 (H, W, 4), in the given channel order, and the transform (2, 3) from displayed to stored pixels;
        None if both are the same.
        """
        colours = self._colours(_CONVERTERS.whole, form, self._stored)
        if self._display is AS_STORED:
            return colours, None
        upright = np.ascontiguousarray(self._display.upright(colours))
        return upright, self._display.to_source(*self._stored)

    def luma(self) -> Bytes:
        """Return uint8 (H, W), the luma of the picture, as decoded if that has eight bits."""
        if self._display is AS_STORED:
            return self._luma()
        if self._squared == self._stored:
            return self._shown(self._luma())
        converted = _CONVERTERS.shrunk.reformat(
            self._frame, *self._squared, format="gray", interpolation="BICUBIC", threads=1
        )
        return self._shown(np.asarray(converted.to_ndarray(), np.uint8))

    def small(self, side: int) -> Bytes:
        """Return uint8 (h, w, 3), RGB, downscaled so that the longer side is at most `side`."""
        squared = self._squared
        scale = side / max(squared)
        if scale >= 1:
            return self.rgb()
        size = tuple(max(1, round(length * scale)) for length in squared)
        return self._shown(self._colours(_CONVERTERS.shrunk, "rgb24", size, "AREA"))

    def thumbnail(self) -> Bytes:
        """Return about 24×32 luma samples of the picture as stored, uint8, to distinguish a cut from motion."""
        luma = self._luma()
        down, across = max(1, luma.shape[0] // 24), max(1, luma.shape[1] // 32)
        return np.ascontiguousarray(luma[down // 2 :: down, across // 2 :: across])

    @property
    def _stored(self) -> tuple[int, int]:
        return self._frame.width, self._frame.height

    @property
    def _squared(self) -> tuple[int, int]:
        """Width and height with square pixels, before the picture is rotated."""
        return self._display.squared(*self._stored)

    def _colours(
        self, converter: VideoReformatter, form: str, size: tuple[int, ...], interpolation: str | None = None
    ) -> Bytes:
        """Return the picture as 8-bit RGB, RGBA or BGRA at a width and height, before it is rotated."""
        width, height = size
        if interpolation is None and size != self._stored:
            interpolation = "BICUBIC"
        convert = partial(converter.reformat, width=width, height=height, interpolation=interpolation, threads=1)
        if hdr.needed(self._frame):
            return hdr.to_bt709(self._frame, convert, form)
        converted = convert(self._frame, format=form)
        return np.asarray(converted.to_ndarray(), np.uint8) if form == "rgb24" else _four_channels(converted)

    def _luma(self) -> Bytes:
        if self._plane is not None:
            return self._plane
        if self._frame.format.name in ("yuv420p", "yuvj420p", "yuv422p", "yuv444p", "nv12", "gray"):
            plane = self._frame.planes[0]  # a new object at each access
            self._plane = _rows(plane)[:, : plane.width]
            return self._plane
        return np.asarray(_CONVERTERS.shrunk.reformat(self._frame, format="gray", threads=1).to_ndarray(), np.uint8)

    def _shown(self, image: Bytes) -> Bytes:
        return self._display.turned(image)


def _rows(plane: VideoPlane) -> Bytes:
    """Return a plane's bytes as in memory, with padded rows: a view of the frame."""
    return np.frombuffer(memoryview(plane), np.uint8).reshape(plane.height, plane.line_size)


def _four_channels(frame: av.VideoFrame) -> Bytes:
    """Return the pixels of an RGBA or BGRA frame, (H, W, 4): a view of it, since `to_ndarray` would copy them."""
    return _rows(frame.planes[0])[:, : 4 * frame.width].reshape(frame.height, frame.width, 4)


class Displays:
    """How a player displays the pictures of a stream."""

    def __init__(self, stream: av.VideoStream) -> None:
        self._decoder = stream.codec_context
        # A container's own aspect differs from the stream's; if both are equal, the stream's may change midway.
        aspect = stream.sample_aspect_ratio
        self._own = aspect if aspect != self._decoder.sample_aspect_ratio else None
        self._rotation: int | None = None
        self._matrix: bytes | None = None
        self._display: Display | None = None

    def of(self, frame: av.VideoFrame) -> Display:
        """Return how a picture is displayed; a container's own pixel aspect overrides its stream's, as in FFmpeg."""
        if self._display is None or frame.key_frame or frame.rotation != self._rotation:
            if frame.rotation != self._rotation:
                self._rotation, self._matrix = frame.rotation, _display_matrix(frame)
            own: Any = frame.opaque  # by the decoding, see `ClipDecoder`
            aspect = self._own or own or self._decoder.sample_aspect_ratio
            self._display = display(self._matrix, Fraction(aspect) if aspect else None)
        return self._display


def _display_matrix(frame: av.VideoFrame) -> bytes | None:
    """Return a frame's display matrix as FFmpeg stores it, None if it has none."""
    # Not `frame.side_data`: it and the frame refer to each other, which keeps all pictures of the clip in memory.
    container: Any = SideDataContainer  # its constructor is not in PyAV's stubs
    try:
        matrix: Any = container(frame).get("DISPLAYMATRIX")
    except ValueError:  # PyAV before 19 fails if one kind of side data is newer than itself
        return rotation_matrix(-frame.rotation)
    return None if matrix is None else bytes(matrix)
