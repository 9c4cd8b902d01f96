"""Filters of libavfilter, each in one thread because workers share the cores: deinterlacing and resampling."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import av
import av.error
import av.filter
import numpy as np
from numpy.typing import NDArray

from avprep.schema import SAMPLE_RATE

_BLOCK = 1 << 16  # samples per call of the resampler: calls are expensive, and this many still fit into the cache


class Deinterlacer:
    """Turns interlaced frames into progressive ones, one for one, with bwdif."""

    def __init__(self) -> None:
        self._graph: av.filter.Graph | None = None
        self._form: tuple[int, int, str, Fraction] | None = None

    def push(self, frame: av.VideoFrame | None) -> Iterator[av.VideoFrame]:
        """Yield the frames that are ready; None flushes."""
        if frame is not None:
            assert frame.time_base is not None
            form = (frame.width, frame.height, frame.format.name, frame.time_base)
            if form != self._form:  # a filter is built for one size and format
                yield from self._pushed(None)
                self._graph, self._form = _bwdif(*form), form
        yield from self._pushed(frame)

    def _pushed(self, frame: av.VideoFrame | None) -> Iterator[av.VideoFrame]:
        if self._graph is not None:
            self._graph.push(frame)
            yield from _ready(self._graph)


def resample(samples: NDArray[np.int16], rate: int) -> NDArray[np.int16]:
    """Resample int16 samples to 16 kHz with libswresample; sample 0 stays sample 0 (the filter's delay is removed)."""
    if rate == SAMPLE_RATE or not samples.size:
        return samples
    # Not av.AudioResampler: each starts a thread for every core, for which the workers then compete.
    graph = av.filter.Graph()
    graph.threads = 1
    graph.link_nodes(
        graph.add_abuffer(sample_rate=rate, format="s16p", layout="mono", time_base=Fraction(1, rate)),
        graph.add("aformat", f"sample_rates={SAMPLE_RATE}:sample_fmts=s16:channel_layouts=mono"),
        graph.add("abuffersink"),
    ).configure()
    parts: list[NDArray[Any]] = []
    for first in range(0, samples.size, _BLOCK):
        block = av.AudioFrame.from_ndarray(samples[None, first : first + _BLOCK], format="s16p", layout="mono")
        block.sample_rate, block.pts, block.time_base = rate, first, Fraction(1, rate)
        graph.push(block)
        parts += [ready.to_ndarray()[0] for ready in _ready(graph)]
    graph.push(None)
    parts += [ready.to_ndarray()[0] for ready in _ready(graph)]
    return np.concatenate(parts) if parts else np.empty(0, np.int16)


def _bwdif(width: int, height: int, pixels: str, clock: Fraction) -> av.filter.Graph:
    graph = av.filter.Graph()
    graph.threads = 1
    graph.link_nodes(
        graph.add_buffer(width=width, height=height, format=av.VideoFormat(pixels), time_base=clock),
        graph.add("bwdif", "mode=send_frame:deint=interlaced"),
        graph.add("buffersink"),
    ).configure()
    return graph


def _ready(graph: av.filter.Graph) -> Iterator[Any]:
    """Yield the frames that a filter has ready."""
    while True:
        try:
            yield graph.pull()
        except (av.error.BlockingIOError, av.error.EOFError):
            return
