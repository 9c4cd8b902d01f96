"""Conversion of HDR and wide-gamut pictures (PQ, HLG, BT.2020) to BT.709.

1. Signal to light, in units of 203 cd/m², the level of SDR white in an HDR picture (ITU-R BT.2408):
   PQ by its EOTF (BT.2100 table 4); HLG by its inverse OETF and the OOTF of a 1000 cd/m² screen, system gamma 1.2
   (BT.2100 table 5); SDR by 2.4 (BT.1886).
2. Highlights: the largest of R, G and B is compressed from at most 1000 cd/m² to 203 by the knee of BT.2390 (EETF,
   section 5.4.1), and the other two are scaled with it, to keep hues. Below about 90 cd/m² nothing changes.
3. Primaries of BT.2020 to those of BT.709 (BT.2087), clipped.
4. Light to signal: 1/2.4 (BT.1886).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import av
import numpy as np
from av.video.reformatter import ColorPrimaries, ColorTrc
from numpy.typing import NDArray

WHITE = 203.0
"""Luminance of SDR white in an HDR picture (cd/m², BT.2408)."""
PEAK = 1000.0
"""Luminance of the brightest highlight that stays distinct (cd/m²)."""

_TRANSFERS = {int(ColorTrc.SMPTE2084): "pq", int(ColorTrc.ARIB_STD_B67): "hlg"}
_BT2020 = int(ColorPrimaries.BT2020)
_UNSPECIFIED, _BT2020_NCL = 2, 9  # AVColorSpace
_STEPS = 4096  # of the tables: 12 bits
_FROM_BT2020 = np.array(
    [[1.660491, -0.587641, -0.072850], [-0.124550, 1.132900, -0.008349], [-0.018151, -0.100579, 1.118730]], np.float32
)
_LUMINANCE = np.array([0.2627, 0.6780, 0.0593], np.float32)  # of BT.2020's R, G and B


def transfer(frame: av.VideoFrame) -> str | None:
    """Return `pq` or `hlg` for an HDR picture, None for any other."""
    return _TRANSFERS.get(frame.color_trc)


def needed(frame: av.VideoFrame) -> bool:
    """Return whether a picture has to be converted to BT.709: it is HDR or has the primaries of BT.2020."""
    return frame.color_primaries == _BT2020 or frame.color_trc in _TRANSFERS


def to_bt709(frame: av.VideoFrame, convert: Callable[..., av.VideoFrame], form: str) -> NDArray[np.uint8]:
    """Return a picture's colours on a BT.709 screen, uint8 (H, W, 3 or 4): `rgb24`, or `rgba` or `bgra` with alpha 255.

    convert: converts the frame to 16-bit RGB of the wanted size.
    """
    import cv2  # imported here: audio is read without it

    if frame.colorspace == _UNSPECIFIED:
        frame.colorspace = _BT2020_NCL
    signal = np.asarray(convert(frame, format="rgb48le").to_ndarray(), np.uint16) >> 4
    light = _light(transfer(frame))[signal]
    if transfer(frame) == "hlg":
        light *= np.power(light @ _LUMINANCE, 0.2, dtype=np.float32)[..., None] * np.float32(PEAK / WHITE)
    if transfer(frame) is not None:
        brightest = np.minimum(light.max(axis=2) * np.float32(WHITE / PEAK), 1)
        light *= _gain()[_index(brightest)][..., None]
    if frame.color_primaries in (_BT2020, _UNSPECIFIED):
        light = np.asarray(cv2.transform(light, _FROM_BT2020), np.float32)
    seen = _seen()[_index(np.clip(light, 0, 1))]
    if form == "rgb24":
        return seen
    return np.asarray(cv2.cvtColor(seen, cv2.COLOR_RGB2RGBA if form == "rgba" else cv2.COLOR_RGB2BGRA), np.uint8)


def _index(light: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Return the table index for light 0 … 1, with the steps of a square root: finer in the dark."""
    return np.asarray(np.rint(np.sqrt(light) * (_STEPS - 1)), np.uint16)


@lru_cache(maxsize=3)
def _light(kind: str | None) -> NDArray[np.float32]:
    """Return the light of each signal, float32 (4096,), in units of `WHITE`; for HLG the scene's light, 0 … 1."""
    signal = np.arange(_STEPS) / (_STEPS - 1)
    if kind == "pq":
        light = _pq_eotf(signal) / WHITE
    elif kind == "hlg":
        a, b, c = 0.17883277, 0.28466892, 0.55991073
        light = np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - c) / a) + b) / 12)
    else:
        light = signal**2.4
    return light.astype(np.float32)


@lru_cache(maxsize=1)
def _gain() -> NDArray[np.float32]:
    """Return the knee's factor for a colour whose brightest channel is 0 … 1 of `PEAK`, float32 (4096,)."""
    light = np.maximum((np.arange(_STEPS) / (_STEPS - 1)) ** 2, 1e-9) * PEAK
    top = _pq(np.array(PEAK))
    signal, most = _pq(light) / top, _pq(np.array(WHITE)) / top
    knee = 1.5 * most - 0.5
    t = np.clip((signal - knee) / (1 - knee), 0, 1)
    curve = (2 * t**3 - 3 * t**2 + 1) * knee + (t**3 - 2 * t**2 + t) * (1 - knee) + (3 * t**2 - 2 * t**3) * most
    return np.asarray(np.where(signal < knee, 1, _pq_eotf(curve * top) / light), np.float32)


@lru_cache(maxsize=1)
def _seen() -> NDArray[np.uint8]:
    """Return the BT.709 signal of light 0 … 1, uint8 (4096,)."""
    return np.rint(255 * (np.arange(_STEPS) / (_STEPS - 1)) ** (2 / 2.4)).astype(np.uint8)


_M1, _M2 = 2610 / 16384, 2523 / 4096 * 128
_C1, _C2, _C3 = 3424 / 4096, 2413 / 4096 * 32, 2392 / 4096 * 32


def _pq_eotf(signal: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the light (cd/m²) of a PQ signal 0 … 1."""
    root = signal ** (1 / _M2)
    return np.asarray(10_000 * (np.maximum(root - _C1, 0) / (_C2 - _C3 * root)) ** (1 / _M1))


def _pq(light: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the PQ signal 0 … 1 of light (cd/m²)."""
    root = (light / 10_000) ** _M1
    return np.asarray(((_C1 + _C2 * root) / (1 + _C3 * root)) ** _M2)
