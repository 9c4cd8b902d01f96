"""A synthetic corpus in LRW's layout: people who are not there say words that can be seen and heard.

Each word is a row of units (`WORDS`); a unit (`UNITS`) has lip targets and sound targets on one time axis, so sound and
mouth are in sync by construction. The speakers are warped and recoloured versions of the portrait that scikit-image
ships, found by ordinary face detectors; their mouths are drawn. Nothing is downloaded.
"""

from __future__ import annotations

import functools
import math
import multiprocessing
import zlib
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from avprep.errors import AvprepError

Floats = NDArray[np.float32]
Picture = NDArray[np.uint8]
Sound = NDArray[np.int16]
Colour = tuple[float, float, float]  # R, G, B: 0–255

FPS = 25
FRAMES = 29  # LRW's clip length: 1.16 s
SAMPLE_RATE = 16_000  # Hz
AAC_FRAME = 1024  # samples
SAMPLES = 19 * AAC_FRAME  # 1.216 s: LRW holds 56 ms more sound than picture
_TICKS = SAMPLES * 1000 // SAMPLE_RATE  # targets are laid out in steps of 1 ms

CHANNEL = "Channel: avprep synthetic"  # the line of a .txt that tells this corpus from LRW
_PACE = 1.3  # the durations in `UNITS` are those of fluent speech; clear speech is slower
_BURST = 0.022  # seconds


class Unit(NamedTuple):
    """A phoneme-like unit: how the mouth looks and what is heard meanwhile.

    ms: duration. jaw, teeth, tongue: 0 hidden or shut … 1. width: of the mouth, 1 at rest. round: 0 spread … 1 pursed.
    hold: how firmly it keeps its lips against its neighbours (a closure must be reached).
    f1, f2, f3: formants in Hz. voice, noise: levels, 1 is an open vowel. centre, spread: of the noise, Hz.
    stop: silent but for a burst of the noise at its end.
    """

    ms: int
    jaw: float
    width: float
    round: float
    teeth: float
    tongue: float
    hold: float
    f1: int
    f2: int
    f3: int
    voice: float
    noise: float = 0.0
    centre: int = 3000
    spread: int = 1500
    stop: bool = False


UNITS = {
    #           ms  jaw  width rnd teeth tong hold   f1    f2    f3  voice noise centre spread
    "AA": Unit(120, 1.0, 1.00, 0.0, 0.2, 0.2, 1.0, 760, 1180, 2500, 1.0),
    "AE": Unit(110, 0.8, 1.18, 0.0, 0.5, 0.2, 1.0, 680, 1750, 2450, 1.0),
    "AH": Unit(75, 0.5, 1.00, 0.0, 0.2, 0.1, 0.7, 600, 1250, 2500, 0.9),
    "AO": Unit(120, 0.75, 0.78, 0.5, 0.0, 0.0, 1.2, 560, 860, 2450, 1.0),
    "EH": Unit(95, 0.55, 1.10, 0.0, 0.5, 0.2, 0.9, 530, 1850, 2500, 0.95),
    "ER": Unit(110, 0.35, 0.84, 0.5, 0.3, 0.1, 1.0, 470, 1330, 1690, 0.9),
    "IH": Unit(75, 0.3, 1.10, 0.0, 0.7, 0.1, 0.8, 400, 2000, 2600, 0.85),
    "IY": Unit(110, 0.22, 1.25, 0.0, 0.9, 0.0, 1.0, 280, 2300, 3000, 0.8),
    "UW": Unit(115, 0.28, 0.64, 1.0, 0.0, 0.0, 1.6, 310, 880, 2240, 0.8),
    "B": Unit(75, 0.0, 0.97, 0.0, 0.0, 0.0, 5.0, 250, 900, 2200, 0.10, 0.25, 900, 700, True),
    "D": Unit(65, 0.2, 1.05, 0.0, 0.7, 0.5, 0.8, 280, 1750, 2700, 0.10, 0.30, 3600, 1400, True),
    "G": Unit(70, 0.35, 1.00, 0.0, 0.2, 0.0, 0.4, 280, 1900, 2300, 0.10, 0.30, 1800, 600, True),
    "K": Unit(85, 0.35, 1.00, 0.0, 0.2, 0.0, 0.4, 320, 1850, 2400, 0.0, 0.45, 1900, 700, True),
    "P": Unit(90, 0.0, 0.97, 0.0, 0.0, 0.0, 5.0, 300, 900, 2200, 0.0, 0.35, 900, 900, True),
    "T": Unit(80, 0.18, 1.05, 0.0, 0.8, 0.3, 0.8, 320, 1800, 2700, 0.0, 0.50, 4200, 1500, True),
    "F": Unit(95, 0.10, 1.00, 0.0, 1.0, 0.0, 3.0, 300, 1100, 2300, 0.0, 0.16, 4200, 3500),
    "V": Unit(75, 0.10, 1.00, 0.0, 1.0, 0.0, 3.0, 300, 1100, 2300, 0.35, 0.10, 4200, 3500),
    "S": Unit(105, 0.10, 1.14, 0.0, 1.0, 0.0, 1.4, 300, 1700, 2700, 0.0, 0.45, 5600, 1300),
    "Z": Unit(90, 0.10, 1.14, 0.0, 1.0, 0.0, 1.4, 300, 1700, 2700, 0.30, 0.28, 5600, 1300),
    "SH": Unit(105, 0.2, 0.76, 0.8, 0.9, 0.0, 1.8, 320, 1800, 2600, 0.0, 0.45, 2900, 800),
    "TH": Unit(90, 0.22, 1.03, 0.0, 0.5, 1.0, 1.4, 300, 1400, 2600, 0.20, 0.12, 5000, 3500),
    "L": Unit(75, 0.4, 1.02, 0.0, 0.3, 1.0, 0.8, 360, 1150, 2850, 0.55),
    "M": Unit(85, 0.0, 0.97, 0.0, 0.0, 0.0, 5.0, 270, 1000, 2200, 0.35),
    "N": Unit(75, 0.22, 1.05, 0.0, 0.6, 0.5, 0.6, 280, 1650, 2600, 0.38),
    "R": Unit(75, 0.28, 0.78, 0.6, 0.2, 0.0, 1.2, 330, 1080, 1450, 0.55),
    "W": Unit(80, 0.14, 0.60, 1.0, 0.0, 0.0, 2.0, 300, 640, 2200, 0.5),
    "Y": Unit(65, 0.2, 1.18, 0.0, 0.8, 0.0, 0.9, 270, 2200, 2950, 0.55),
    "-": Unit(0, 0.03, 0.98, 0.0, 0.0, 0.0, 0.6, 500, 1500, 2500, 0.0),  # rest, before and after the word
}

WORDS = {
    word: tuple(units.split())
    for word, units in {
        "ABOUT": "AH B AA UW T",
        "FAMILY": "F AE M L IY",
        "BECAUSE": "B IY K AO Z",
        "WATER": "W AO T ER",
        "PEOPLE": "P IY P AH L",
        "SHOULD": "SH UW D",
        "AGAIN": "AH G EH N",
        "MORNING": "M AO R N IH N",
        "SEVEN": "S EH V AH N",
        "THREE": "TH R IY",
        "HOUSE": "AE AA UW S",
        "POWER": "P AA W ER",
        "MONEY": "M AH N IY",
        "YOUNG": "Y AH N G",
        "LEVEL": "L EH V AH L",
        "BEFORE": "B IY F AO R",
        "SCHOOL": "S K UW L",
        "AFTER": "AE F T ER",
        "MAYBE": "M EH IY B IY",
        "WORLD": "W ER L D",
        "PRICE": "P R AA IY S",
        "SOCIAL": "S AO UW SH AH L",
        "MILLION": "M IH L Y AH N",
        "SOMETHING": "S AH M TH IH N",
        "WOMEN": "W IH M IH N",
        "DIFFERENT": "D IH F R AH N T",
    }.items()
}
"""The corpus's words, most unlike first, each as a row of units."""


@dataclass(frozen=True)
class Speaker:
    """How one person looks and sounds.

    seed: of what is not listed here, and of each take. shape: amounts of the warps in `_SHAPE`, −1 … 1.
    beard: 0 … 1. lip_size, mouth_size, tract (length of the vocal tract), rate (of speech): 1 is medium.
    side_light: −1 (the image's left is dark) … 1. contrast, gamma: of the camera. pitch: Hz.
    hiss: level of the background noise, 1 is full scale.
    """

    seed: int
    shape: tuple[float, ...]
    mirror: bool
    skin: Colour
    hair: Colour
    clothes: Colour
    wall: Colour
    long_hair: bool
    glasses: bool
    beard: float
    lip_size: float
    mouth_size: float
    side_light: float
    contrast: float
    gamma: float
    pitch: float
    tract: float
    rate: float
    hiss: float


_SKIN = ((232, 196, 174), (228, 180, 152), (205, 150, 118), (168, 115, 86), (122, 82, 62))
_HAIR = ((36, 30, 28), (72, 50, 36), (52, 44, 40), (128, 70, 40), (186, 150, 92), (150, 148, 146))  # first the dark


def speaker(seed: int, index: int = 0) -> Speaker:
    """Draw person number `index` of the population `seed`; neighbours in number differ in skin, hair and pitch."""
    rng = np.random.default_rng([seed, index, 1])
    turn = seed % 1000 + index
    deep, tone = turn * 0.618 % 1, turn * 0.7549 % 1  # golden steps: few speakers are spread well, many evenly
    skin = [float(np.interp(tone * 4, range(5), [colour[k] for colour in _SKIN])) for k in range(3)]

    def vivid(low: float, high: float) -> Colour:
        r, g, b = np.clip(rng.uniform(low, high) + rng.uniform(-40, 40, 3), 10, 245)
        return float(r), float(g), float(b)

    return Speaker(
        seed=int(rng.integers(2**31)),
        shape=tuple(float(v) for v in rng.uniform(-1, 1, len(_SHAPE))),
        mirror=bool(rng.integers(2)),
        skin=(skin[0], skin[1], skin[2]),
        hair=_HAIR[turn * 5 % (len(_HAIR) + 1) % len(_HAIR) if tone < 0.6 else turn % 3],
        clothes=vivid(40, 170),
        wall=vivid(60, 200),
        long_hair=bool(deep < 0.5 and rng.random() < 0.7),
        glasses=bool(rng.random() < 0.25),
        beard=float(rng.uniform(0.5, 1)) if deep > 0.55 and rng.random() < 0.6 else 0.0,
        lip_size=float(rng.uniform(0.8, 1.25)),
        mouth_size=float(rng.uniform(0.92, 1.12)),
        side_light=float(rng.uniform(-1, 1)),
        contrast=float(rng.uniform(0.9, 1.12)),
        gamma=float(rng.uniform(0.85, 1.15)),
        pitch=float((230 - 135 * deep) * rng.uniform(0.93, 1.07)),
        tract=float((0.88 + 0.22 * deep) * rng.uniform(0.98, 1.02)),
        rate=float(rng.uniform(0.96, 1.04)),
        hiss=float(10 ** rng.uniform(-3.2, -2.6)),
    )


# ---------------------------------------------------------------- the take
_LIPS = ("jaw", "width", "round", "teeth", "tongue")


@dataclass(frozen=True)
class Take:
    """One utterance as it will be seen and heard.

    edges: float64 (units + 1,), seconds: where the word's units begin, and where the last one ends.
    lips: float32 (T, 5): jaw, width, round, teeth, tongue (see `Unit`) in each video frame.
    voice: float32 (243, 7): f1, f2, f3 (Hz), voice, noise, centre, spread each 5 ms.
    pose: float32 (T, 4): x, y (pixels of a 256×256 picture), roll (radians), zoom.
    lids: float32 (T,): 0 open eyes … 1 shut.
    seed: of the sound's noise.
    """

    edges: NDArray[np.float64]
    lips: Floats
    voice: Floats
    pose: Floats
    lids: Floats
    seed: int


def perform(word: str, who: Speaker, take_seed: int) -> Take:
    """Let a speaker say a word once: same units as ever, other timing, effort, pose.

    AvprepError for a word that `WORDS` does not list.
    """
    if word not in WORDS:
        raise AvprepError(f"no such word in the synthetic corpus: {word} (there are {', '.join(WORDS)})")
    rng = np.random.default_rng([who.seed, zlib.crc32(word.encode()), take_seed])
    units = [UNITS[name] for name in WORDS[word]]
    length = np.array([unit.ms for unit in units]) / 1000 * _PACE / who.rate
    length *= rng.uniform(0.9, 1.1) * rng.uniform(0.95, 1.05, len(units))
    onset = FRAMES / FPS / 2 - length.sum() / 2 + rng.uniform(-0.04, 0.04)
    edges = onset + np.concatenate([[0.0], np.cumsum(length)])
    rest = UNITS["-"]
    row = [rest, *units, rest]
    which = np.searchsorted(edges, np.arange(_TICKS) / 1000, side="right")
    return Take(
        edges=edges,
        lips=_lips(row, which, rng),
        voice=_voice(row, which, edges, rng),
        pose=_sway(rng) * np.array([2.2, 1.8, 0.025, 0.015], np.float32) + np.array([0, 0, 0, 1], np.float32),
        lids=_blink(rng),
        seed=int(rng.integers(2**31)),
    )


def _blur(track: Floats, sigma_ms: float) -> Floats:
    """Smooth a track (ticks, channels) in time; its ends are held."""
    reach = int(3 * sigma_ms)
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma_ms) ** 2)
    padded = np.pad(track, ((reach, reach), (0, 0)), mode="edge")
    columns = [np.convolve(padded[:, k], kernel / kernel.sum(), mode="valid") for k in range(track.shape[1])]
    return np.stack(columns, axis=1).astype(np.float32)


def _lips(row: list[Unit], which: NDArray[np.intp], rng: np.random.Generator) -> Floats:
    """Blend lip targets into each other, each as strongly as it holds (the dominance model of Cohen and Massaro)."""
    hold = np.array([unit.hold for unit in row])[which][:, None]
    target = np.array([[getattr(unit, name) for name in _LIPS] for unit in row])[which]
    lips = _blur(target * hold, 26) / _blur(hold, 26)
    effort = rng.uniform([0.88, 0.95, 0.9, 0.9, 0.9], [1.12, 1.04, 1.1, 1.1, 1.1])
    lips = lips[:: 1000 // FPS][:FRAMES] * effort + rng.normal(
        0, [0.012, 0.008, 0.01, 0.02, 0.02], (FRAMES, len(_LIPS))
    )
    return np.clip(lips, [0, 0.5, 0, 0, 0], [1.2, 1.35, 1.1, 1, 1]).astype(np.float32)


def _voice(row: list[Unit], which: NDArray[np.intp], edges: NDArray[np.float64], rng: np.random.Generator) -> Floats:
    names = ("f1", "f2", "f3", "voice", "noise", "centre", "spread")
    track = np.array([[getattr(unit, name) for name in names] for unit in row], np.float32)[which]
    left = edges[np.clip(which, 0, len(edges) - 1)] - np.arange(_TICKS) / 1000  # seconds to the end of the unit
    stop = np.array([unit.stop for unit in row])[which]
    track[stop & (left > _BURST), 4] = 0
    slow = np.exp(_blur(np.log(track[:, :3]), 16))
    return np.hstack([slow, _blur(track[:, 3:5], 7), _blur(track[:, 5:], 7)])[::5].astype(np.float32)


def _sway(rng: np.random.Generator) -> Floats:
    """Return slow motion in four channels, each within about ±1: (T, 4)."""
    seconds = np.arange(FRAMES)[:, None, None] / FPS
    hertz, phase = rng.uniform(0.15, 1.1, (1, 4, 3)), rng.uniform(0, 2 * np.pi, (1, 4, 3))
    return np.asarray((np.sin(2 * np.pi * hertz * seconds + phase) / (1 + hertz)).sum(axis=2), np.float32)


def _blink(rng: np.random.Generator) -> Floats:
    """Return how far the lids are closed: one blink of about 0.2 s in every third take."""
    if rng.random() > 1 / 3:
        return np.zeros(FRAMES, np.float32)
    middle = rng.uniform(0.1, 1.05)
    return np.exp(-0.5 * ((np.arange(FRAMES) / FPS - middle) / 0.045) ** 2).astype(np.float32)


# ---------------------------------------------------------------- the head
# It is built on a plane of 320×320 pixels, whose middle 256×256 are the picture of a head at rest.
_PLANE = 320
_MARGIN = 32
_EYES = ((133.0, 142.0), (187.0, 142.0))
_MOUTH = (160.0, 193.0)
_NECK = (160.0, 240.0)  # what the head turns about

# In pixels of skimage.data.astronaut(); the outlines were drawn by hand.
_PORTRAIT_EYES = ((200.1, 101.8), (247.1, 102.6))
_PORTRAIT_SMILE = (223.7, 146.0, 27.0, 14.0)  # centre and half axes of what is painted over
_PORTRAIT_HEAD = (
    "175 131 170 116 160 108 154 93 153 70 158 52 173 42 188 37 194 27 210 18 232 15 257 20 277 32 292 47 299 67 "
    "301 87 297 103 287 122 282 132 272 138 267 141 262 158 257 172 256 200 185 200 186 172 183 152 179 135"
)
_PORTRAIT_SKIN = (
    "175 130 176 121 181 119 181 105 184 95 187 80 192 74 212 79 232 81 250 81 262 89 267 92 270 103 271 120 273 128 "
    "279 124 282 130 272 138 266 142 262 158 257 172 256 200 185 200 186 172 183 152 179 135"
)

_Y, _X = np.mgrid[:_PLANE, :_PLANE].astype(np.float32)

# name: (centre x, centre y, sigma x, sigma y, stretch x, stretch y, shift x, shift y): at full amount, plane pixels
_SHAPE = {
    "face width": ((160, 180, 200, 70, 0.09, 0, 0, 0),),
    "jaw width": ((160, 222, 60, 24, 0.13, 0, 0, 0),),
    "chin length": ((160, 236, 45, 17, 0, 0, 0, 5),),
    "eye distance": ((133, 142, 13, 14, 0, 0, -2.5, 0), (187, 142, 13, 14, 0, 0, 2.5, 0)),
    "eye size": ((133, 142, 11, 8, 0.10, 0.16, 0, 0), (187, 142, 11, 8, 0.10, 0.16, 0, 0)),
    "eye slant": ((123, 141, 7, 9, 0, 0, 0, 1.6), (197, 141, 7, 9, 0, 0, 0, 1.6)),
    "brow height": ((131, 129, 18, 5, 0, 0, 0, -2.2), (190, 130, 18, 5, 0, 0, 0, -2.2)),
    "nose length": ((157, 168, 11, 9, 0, 0, 0, 3),),
    "nose width": ((157, 166, 12, 9, 0.22, 0, 0, 0),),
    "cheeks": ((160, 185, 70, 18, 0.06, 0, 0, 0),),
    "hair height": ((160, 60, 200, 40, 0, 0, 0, -10),),
    "hair width": ((160, 100, 300, 45, 0.12, 0, 0, 0),),
}


def _bump(x: Floats, y: Floats, centre: tuple[float, float] | Floats, sigma: tuple[float, float]) -> Floats:
    """Return a Gaussian hill of height 1."""
    return np.exp(-0.5 * (((x - centre[0]) / sigma[0]) ** 2 + ((y - centre[1]) / sigma[1]) ** 2)).astype(np.float32)


def _shift(shape: tuple[float, ...], x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """Return how far a face shape moves the points (x, y) of the average face, in pixels."""
    dx, dy = np.zeros_like(x), np.zeros_like(y)
    for amount, hills in zip(shape, _SHAPE.values(), strict=True):
        for cx, cy, sigma_x, sigma_y, stretch_x, stretch_y, shift_x, shift_y in hills:
            hill = amount * _bump(x, y, (cx, cy), (sigma_x, sigma_y))
            dx += hill * (stretch_x * (x - cx) + shift_x)
            dy += hill * (stretch_y * (y - cy) + shift_y)
    return dx, dy


@functools.cache
def _portrait() -> Floats:
    """Return the portrait on the plane without its mouth: float32 (320, 320, 5): R, G, B, head matte, skin (0–255)."""
    import cv2
    from skimage.data import astronaut

    photo: Picture = astronaut()  # type: ignore[no-untyped-call]

    def outline(points: str) -> Picture:
        corners = np.array(points.split(), np.int32).reshape(-1, 2)
        return cv2.fillPoly(np.zeros(photo.shape[:2], np.uint8), [corners], 255)  # type: ignore[return-value]

    head = outline(_PORTRAIT_HEAD)
    cells = np.full_like(head, cv2.GC_BGD)
    cells[cv2.dilate(head, np.ones((9, 9), np.uint8)) > 0] = cv2.GC_PR_BGD
    cells[head > 0] = cv2.GC_PR_FGD
    cells[cv2.erode(head, np.ones((13, 13), np.uint8)) > 0] = cv2.GC_FGD
    cv2.setRNGSeed(0)
    cv2.grabCut(photo, cells, None, np.zeros((1, 65)), np.zeros((1, 65)), 3, cv2.GC_INIT_WITH_MASK)  # type: ignore[call-overload]
    matte = cv2.GaussianBlur(cv2.erode((cells & 1) * 255, np.ones((3, 3), np.uint8)), (0, 0), 0.8)
    skin = cv2.GaussianBlur(outline(_PORTRAIT_SKIN), (0, 0), 1.2)
    layers = np.dstack([_without_mouth(photo.astype(np.float32)), matte, skin]).astype(np.float32)

    (ax, ay), (bx, by) = _PORTRAIT_EYES
    (cx, cy), (dx, dy) = _EYES
    turn = complex(dx - cx, dy - cy) / complex(bx - ax, by - ay)  # a similarity as one complex number
    move = complex(cx, cy) - turn * complex(ax, ay)
    matrix = np.array([[turn.real, -turn.imag, move.real], [turn.imag, turn.real, move.imag]])
    warped = [
        cv2.warpAffine(layer, matrix, (_PLANE, _PLANE), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
        for layer in np.ascontiguousarray(layers.transpose(2, 0, 1))
    ]
    return np.clip(np.dstack(warped), 0, 255).astype(np.float32)


def _without_mouth(photo: Floats) -> Floats:
    """Stretch the surrounding skin over the smile, like a soap film (Laplace's equation), with a little grain."""
    import cv2

    cx, cy, half_x, half_y = _PORTRAIT_SMILE
    x0, x1, y0, y1 = int(cx - half_x - 4), int(cx + half_x + 5), int(cy - half_y - 4), int(cy + half_y + 5)
    y, x = np.mgrid[y0:y1, x0:x1].astype(np.float32)
    hole = ((x - cx) / half_x) ** 2 + ((y - cy) / half_y) ** 2 < 1
    skin = photo[y0:y1, x0:x1].copy()
    skin[hole] = skin[~hole].mean(axis=0)
    for _ in range(800):
        skin[hole] = cv2.blur(skin, (3, 3))[hole]
    grain = cv2.GaussianBlur(np.random.default_rng(0).normal(0, 6, hole.shape).astype(np.float32), (0, 0), 0.8)
    photo = photo.copy()
    photo[y0:y1, x0:x1] = skin + (grain * hole)[..., None]
    return photo


def _tint(picture: Floats, weight: Floats, mean: float, target: Colour, contrast: float = 1.0) -> Floats:
    """Give what `weight` (0–1) selects another colour; its shading, around the grey `mean`, stays."""
    grey = picture @ np.array([0.3, 0.6, 0.1], np.float32)
    shade = (np.clip(grey / mean, 0, 1.5) ** contrast)[..., None]
    return np.asarray(picture + (np.array(target, np.float32) * shade - picture) * weight[..., None], np.float32)


def _remap(layers: Floats, x: Floats, y: Floats) -> Floats:
    """Look up the points (x, y) in layers (H, W, channels)."""
    import cv2

    found = cv2.remap(np.ascontiguousarray(layers), x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(found, np.float32)


def _exposed(picture: Floats, x: Floats, y: Floats, who: Speaker) -> Floats:
    """Light a picture of the points (x, y) of the plane and pass it through the speaker's camera."""
    light = 1 + 0.22 * who.side_light * np.tanh((x - 160) / 60) + 0.05 * (160 - y) / 160
    developed = 255 * np.clip(picture * light[..., None] / 255, 0, 1) ** who.gamma
    return np.asarray(np.clip((developed - 120) * who.contrast + 120, 0, 255), np.float32)


@functools.lru_cache(maxsize=16)
def _head(who: Speaker) -> tuple[Picture, Picture, Floats]:
    """Build a person without a mouth.

    Returns the person, uint8 (320, 320, 4), RGB premultiplied by alpha, and alpha; the wall behind, uint8
    (320, 320, 3); the centres of the eyes, float32 (2, 2) x y, all on the plane.
    """
    rng = np.random.default_rng(who.seed)
    x, y = _X, _Y
    layers = _portrait()[:, ::-1] if who.mirror else _portrait()
    dx, dy = _shift(who.shape, x, y)
    layers = _remap(layers, x - dx, y - dy)
    picture, matte, skin = layers[..., :3], layers[..., 3] * np.float32(1 / 255), layers[..., 4] * np.float32(1 / 255)
    eyes = np.array(_EYES, np.float32)
    eyes += np.stack(_shift(who.shape, eyes[:, 0], eyes[:, 1]), axis=1)

    white = _bump(x, y, eyes[0], (7, 3)) + _bump(x, y, eyes[1], (7, 3))  # eyeballs keep some of their colour
    picture = _tint(picture, matte * (1 - skin), 105, who.hair, 0.75)
    picture = _tint(picture, skin * (1 - 0.4 * white), 184, who.skin)
    if who.beard:
        picture = _with_beard(picture, who, rng)
    picture, matte = _dressed(picture, matte, who, rng)
    if who.glasses:
        picture = _with_glasses(picture, eyes)
    picture = _exposed(picture, x, y, who)
    person = np.dstack([picture * matte[..., None], matte * 255])
    return np.rint(person).astype(np.uint8), _wall(who, rng), eyes


def _with_beard(picture: Floats, who: Speaker, rng: np.random.Generator) -> Floats:
    import cv2

    x, y = _X, _Y
    jaw = np.clip((y - 178) / 30, 0, 1) * np.clip(
        ((np.abs(x - 160) / 55) ** 2 + ((y - 165) / 68) ** 2 - 0.28) * 3, 0, 1
    )
    jaw *= np.clip((238 - y) / 10, 0, 1)
    moustache = _bump(x, y, (160, 180), (19, 4))
    grain = cv2.GaussianBlur(rng.normal(0, 1, x.shape).astype(np.float32), (0, 0), 0.7)
    weight = cv2.GaussianBlur(np.maximum(jaw, moustache).astype(np.float32), (0, 0), 2) * who.beard * 0.7
    return _tint(picture, np.clip(weight * (1 + 0.25 * grain), 0, 0.9), 150, who.hair)


def _dressed(picture: Floats, matte: Floats, who: Speaker, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Put on clothes, in front of the neck, and long hair behind it; returns picture and matte."""
    import cv2

    x, y = _X, _Y
    folds = cv2.GaussianBlur(rng.normal(0, 1, x.shape).astype(np.float32), (0, 0), 9) * 9
    strands = cv2.GaussianBlur(rng.normal(0, 1, x.shape).astype(np.float32), (0, 0), sigmaX=1, sigmaY=14) * 4
    away = np.abs(x - 160)
    if who.long_hair:
        behind = (
            np.clip((78 + 6 * np.sin(y / 23) - away) / 3, 0, 1)
            * np.clip((y - 95) / 30, 0, 1)
            * np.clip((285 - y) / 12, 0, 1)
        )
        colour = np.array(who.hair, np.float32) * (0.75 + 0.25 * np.clip(strands, -2, 2))[..., None]
        picture = picture * matte[..., None] + colour * (1 - matte[..., None])
        matte = np.maximum(matte, behind)
    collar = 243 - 9 * np.clip(away / 45, 0, 1) ** 2 + 0.9 * _soft(away - 46) - 0.62 * _soft(away - 66)
    clothes = np.clip((y - collar) / 1.5, 0, 1)
    shade = 0.95 + 0.1 * folds - 0.25 * np.exp(-np.clip(y - collar, 0, 99) / 4) * (away < 60)
    colour = np.array(who.clothes, np.float32) * shade[..., None]
    picture = picture + (colour - picture) * clothes[..., None]
    return np.clip(picture, 0, 255).astype(np.float32), np.maximum(matte, clothes).astype(np.float32)


def _soft(x: Floats) -> Floats:
    """Return max(x, 0) with its corner rounded over some 8 pixels."""
    return (np.logaddexp(0, x / 4) * 4).astype(np.float32)


def _with_glasses(picture: Floats, eyes: Floats) -> Floats:
    import cv2

    ink = np.zeros((_PLANE, _PLANE), np.uint8)
    (ax, ay), (bx, by) = np.rint(16 * (eyes + np.array([0, 2]))).astype(int).tolist()  # cv2 draws in 1/16 pixel
    wide, high = 19 * 16, 15 * 16
    for x, y in ((ax, ay), (bx, by)):
        cv2.ellipse(ink, (x, y), (wide, high), 0, 0, 360, 255, 1, cv2.LINE_AA, 4)
    temple_left, temple_right = (ax - 36 * 16, ay - 64), (bx + 36 * 16, by - 64)
    for a, b in (((ax + wide, ay), (bx - wide, by)), ((ax - wide, ay), temple_left), ((bx + wide, by), temple_right)):
        cv2.line(ink, a, b, 255, 1, cv2.LINE_AA, 4)
    return np.asarray(picture + (40 - picture) * (0.8 / 255 * ink)[..., None], np.float32)


def _wall(who: Speaker, rng: np.random.Generator) -> Picture:
    import cv2

    x, y = _X, _Y
    cloud = cv2.GaussianBlur(rng.normal(0, 1, x.shape).astype(np.float32), (0, 0), 25) * 40
    shade = (
        1 + 0.12 * cloud + 0.3 * (x / _PLANE - 0.5) * rng.uniform(-1, 1) + 0.3 * (y / _PLANE - 0.5) * rng.uniform(-1, 1)
    )
    return np.asarray(np.clip(np.array(who.wall, np.float32) * shade[..., None], 0, 255), np.uint8)


# ---------------------------------------------------------------- the picture
def render(take: Take, who: Speaker, size: int = 256) -> Picture:
    """Draw a take: uint8 (29, size, size, 3), RGB."""
    import cv2

    person, wall, eyes = _head(who)
    mouths, alphas = _mouths(take.lips, who)
    expression = _Expression(eyes)
    scale = size / 256
    offset = -_MARGIN * scale
    behind = cv2.warpAffine(wall, np.array([[scale, 0, offset], [0, scale, offset]]), (size, size))
    frames = np.empty((len(take.lips), size, size, 3), np.uint8)
    x0, y0, width, height = _MOUTH_BOX
    for i, (x, y, roll, zoom) in enumerate(take.pose.astype(float)):
        head = expression(person, float(take.lips[i, 0]), float(take.lips[i, 1]) - 1, float(take.lids[i]))
        box = head[y0 : y0 + height, x0 : x0 + width, :3]
        box[:] = np.rint(box + (mouths[i] - box) * alphas[i, ..., None])
        matrix = cv2.getRotationMatrix2D(_NECK, math.degrees(roll), zoom * scale)
        matrix[0, 2] += (x + _NECK[0] - _MARGIN) * scale - _NECK[0]
        matrix[1, 2] += (y + _NECK[1] - _MARGIN) * scale - _NECK[1]
        moved = cv2.warpAffine(head, matrix, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        seen = 255 - moved[..., 3:].repeat(3, axis=2)  # how much of the wall
        frames[i] = cv2.add(moved[..., :3], cv2.multiply(behind, seen, scale=1 / 255))
    return frames


class _Expression:
    """Moves jaw, mouth corners and eyelids of a head, by one remap of its face.

    eyes: (2, 2), x y on the plane.
    """

    X0, Y0, X1, Y1 = 95, 125, 225, 262

    def __init__(self, eyes: Floats) -> None:
        y, x = np.mgrid[self.Y0 : self.Y1, self.X0 : self.X1].astype(np.float32)
        self.x, self.y, self.eyes = x, y, eyes
        below = np.clip((y - _MOUTH[1] + 4) / 14, 0, 1)
        neck = np.clip((258 - y) / 26, 0, 1)
        self.drop = 8 * below * neck * np.exp(-0.5 * ((x - 160) / 34) ** 2)  # pixels at jaw 1
        self.pull = (x - 160) * 0.45 * _bump(x, y, _MOUTH, (30, 16))  # pixels for each unit of width

    def __call__(self, head: Picture, jaw: float, wider: float, lids: float) -> Picture:
        """Return a changed copy of `head`, (320, 320, 4)."""
        import cv2

        x, y = self.x - wider * self.pull, self.y - jaw * self.drop
        if lids > 0.02:
            y = y.copy()
            for eye_x, eye_y in self.eyes:
                y += self._lid(self.x - eye_x, self.y - eye_y, lids)
        out = head.copy()
        face = cv2.remap(head, x, y, cv2.INTER_LINEAR)
        out[self.Y0 : self.Y1, self.X0 : self.X1] = face
        return out

    @staticmethod
    def _lid(x: Floats, y: Floats, shut: float) -> Floats:
        """Return the change of y that stretches the skin between crease and lid edge over the eyeball."""
        crease, edge, lower = -8.0, -4.5, 5.0
        over = np.clip(1.35 - np.abs(x / 15) ** 3, 0, 1)
        moved = edge + shut * (lower - 1 - edge) * over  # where the edge comes to lie
        skin = crease + (y - crease) * (edge - crease) / (moved - crease)
        ball = edge + (y - moved) * (lower - edge) / (lower - moved)
        source = np.where(y < moved, skin, ball)
        return np.where((y > crease) & (y < lower) & (np.abs(x) < 17), source - y, 0).astype(np.float32)


_MOUTH_BOX = (122, 166, 76, 66)  # x, y, width, height on the plane


class _Edges(NamedTuple):
    """The four edges of a mouth as heights over x, (T, H, W), pixels below the mouth's centre."""

    upper_out: Floats
    upper_in: Floats
    lower_in: Floats
    lower_out: Floats


def _edges(lips: Floats, half: Floats, x: Floats, lip_size: float) -> _Edges:
    """Shape the lips of half width `half` over the points x."""
    jaw, wide, purse, teeth, _ = lips.T[:, :, None, None]
    u = np.clip(np.abs(x) / half, 0, 1)
    gap = np.clip(jaw * 1.12 - 0.03, 0, None) + 0.12 * np.clip(teeth - 0.4, 0, 1)  # teeth part the lips a little
    opening = gap * np.clip(1 - (u / (0.93 - 0.12 * purse)) ** 2.4, 0, 1)
    thick = lip_size * (1 + 0.2 * purse) / (0.6 + 0.4 * wide) * np.sqrt(np.clip(1 - u**2.2, 0, 1))
    bow = 1 - 0.22 * np.exp(-0.5 * (x / (0.14 * half)) ** 2) * (1 - purse)  # the dip in the upper lip
    corner = 1.5 * u**2 * (0.7 - 0.5 * wide)  # corners sink a little when the mouth narrows
    upper_in, lower_in = corner - 3.8 * opening, corner + 14 * opening
    lower = 6.2 * thick * (1 - 0.15 * np.clip(jaw, 0, 1))
    return _Edges(upper_in - 4.6 * thick * bow, upper_in, lower_in, lower_in + lower)


def _mouths(lips: Floats, who: Speaker) -> tuple[Floats, Floats]:
    """Draw the mouth of each frame: RGB float32 (T, 66, 76, 3), 0–255, and its opacity (T, 66, 76), 0–1."""
    x0, y0, width, height = _MOUTH_BOX
    plane_y, plane_x = np.mgrid[y0 : y0 + height, x0 : x0 + width].astype(np.float32)
    x, y = plane_x - _MOUTH[0], plane_y - _MOUTH[1]
    half = 20.5 * who.mouth_size * lips[:, 1, None, None]
    edges = _edges(lips, half, x, who.lip_size)
    _, upper_in, lower_in, lower_out = edges
    mouth = _between(edges.upper_out, y, lower_out, 2.2) * np.clip((half - np.abs(x)) / 2.5, 0, 1)
    hole = _between(upper_in, y, lower_in, 1.2) * np.clip((lower_in - upper_in) / 1.5, 0, 1)
    colour = _lip_colour(edges, half, x, y, who)
    colour += (_inside(lips, edges, half, x, y) - colour) * hole[..., None]
    shadow = 0.22 * np.exp(-(((y - lower_out) / 4 - 0.6) ** 2) - (x / (0.6 * half)) ** 2) * (1 - mouth)  # on the chin
    opacity = mouth + shadow
    colour *= (mouth / np.maximum(opacity, 1e-4))[..., None]
    return _exposed(colour, plane_x, plane_y, who), opacity.astype(np.float32)


def _between(top: Floats, y: Floats, bottom: Floats, soft: float) -> Floats:
    """Return 1 between two edges and 0 outside, over a ramp of `soft` pixels."""
    return np.asarray(np.clip((y - top) / soft + 0.5, 0, 1) * np.clip((bottom - y) / soft + 0.5, 0, 1))


def _lip_colour(edges: _Edges, half: Floats, x: Floats, y: Floats, who: Speaker) -> Floats:
    middle, gap = (edges.upper_in + edges.lower_in) / 2, edges.lower_in - edges.upper_in
    rise = (y - edges.lower_in) / (edges.lower_out - edges.lower_in + 1e-3)  # 0 at the wet edge … 1 at the chin's side
    shine = 0.26 * np.exp(-(((rise - 0.45) / 0.3) ** 2) - (x / (0.5 * half)) ** 2)
    shade = np.where(y < middle, 0.86 + 0.02 * (edges.upper_in - y), 1.04 + shine - 0.12 * rise)
    seam = 0.75 * np.exp(-(((y - middle) / 1.1) ** 2)) * (np.abs(x) < half) * np.clip(1.3 - gap / 3, 0, 1)
    red = np.array(who.skin, np.float32) * np.array([0.9, 0.6, 0.64], np.float32)
    return (red * (shade * (1 - seam))[..., None]).astype(np.float32)


def _inside(lips: Floats, edges: _Edges, half: Floats, x: Floats, y: Floats) -> Floats:
    """Paint what an open mouth shows: the dark, the tongue, the teeth."""
    jaw, _, _, teeth, tongue = lips.T[:, :, None, None]
    _, top, bottom, _ = edges
    picture = np.array([62, 22, 22], np.float32) * (0.55 + 0.5 * (y - top) / (bottom - top + 1e-3))[..., None]
    tongue_top = bottom - (1.5 + (bottom - top) * 0.62 * tongue + 2.2 * jaw)
    flesh = 0.85 * _between(tongue_top, y, bottom + 9, 2.0) * np.exp(-((x / (0.62 * half)) ** 4))
    picture += (np.array([176, 88, 84], np.float32) - picture) * flesh[..., None]
    u = np.clip(np.abs(x) / half, 0, 1)
    upper_row = _between(top - 9, y, top - 2 + 6.5 * teeth - 2.2 * u**2, 1.2)
    lower_row = _between(bottom + 1 - 12.8 * np.clip(teeth - 0.75, 0, 1), y, bottom + 9, 1.2) * (teeth > 0.75)
    chinks = 0.94 - 0.1 * np.cos(2 * np.pi * x / 5) ** 8
    white = np.array([232, 226, 212], np.float32) * (1 - 0.55 * u**2)[..., None]
    picture += (white - picture) * (np.maximum(upper_row, lower_row) * np.clip(teeth * 3, 0, 1) * chinks)[..., None]
    return np.asarray(picture)


# ---------------------------------------------------------------- the sound
_HOP = 80  # samples: 5 ms, the step of `Take.voice`
_FFT = 1024
_BANDWIDTHS = (90.0, 110.0, 170.0, 250.0)  # Hz, of the formants


def speak(take: Take, who: Speaker) -> Sound:
    """Synthesise the sound of a take: int16 (19456,), 16 kHz mono.

    A pulse train and noise, each filtered every 5 ms in the frequency domain and added up again.
    """
    rng = np.random.default_rng(take.seed)
    f0 = _pitch(take, who, rng)
    phase = np.cumsum(f0 / SAMPLE_RATE) % 1.0
    open_part = np.clip(phase / 0.62, 0, 1)
    buzz = 2 * open_part - 3 * open_part**2  # the derivative of the glottal flow p² − p³ (Klatt and Klatt 1990)
    buzz = buzz + 0.04 * rng.normal(size=SAMPLES)  # breath
    noise = rng.normal(size=SAMPLES)

    hertz = np.fft.rfftfreq(_FFT, 1 / SAMPLE_RATE)
    f1, f2, f3, voice, level, centre, spread = take.voice.T.astype(np.float64)[..., None]
    formants = (f1, f2, f3, np.array([[3500.0]]))
    tract = np.ones((len(take.voice), len(hertz)), complex)
    for formant, width in zip(formants, _BANDWIDTHS, strict=True):
        tract = tract * _resonance(formant / who.tract, width, hertz)
    hiss = np.exp(-0.5 * ((hertz - centre / who.tract**0.5) / spread) ** 2)
    voiced = _filtered(buzz, voice * tract) * 0.35
    sound = voiced + _filtered(noise, level * hiss)
    sound *= rng.uniform(0.04, 0.1) / np.sqrt(np.mean(sound**2))  # loudness differs from take to take
    sound += who.hiss * rng.normal(size=SAMPLES)
    return np.rint(32767 * np.clip(sound, -1, 1)).astype(np.int16)


def _pitch(take: Take, who: Speaker, rng: np.random.Generator) -> NDArray[np.float64]:
    """Return the pitch of each sample, Hz: it falls over the word, with a bend of its own and jitter."""
    seconds = np.arange(SAMPLES) / SAMPLE_RATE
    place = (seconds - take.edges[0]) / (take.edges[-1] - take.edges[0])
    contour = 1 + rng.uniform(0.02, 0.1) - 0.18 * place + 0.06 * np.sin(2 * np.pi * (place + rng.random()))
    cycles = np.arange(0, seconds[-1] + 0.01, 0.008)
    jitter = np.interp(seconds, cycles, rng.normal(0, 0.008, len(cycles)))
    return np.asarray(who.pitch * rng.uniform(0.94, 1.06) * np.clip(contour + jitter, 0.6, 1.6))


def _resonance(centre: NDArray[Any], width: float, hertz: NDArray[Any]) -> NDArray[np.complex128]:
    """Return the response of a two-pole resonator with gain 1 at 0 Hz; `centre` is (n, 1), the answer (n, bins)."""
    radius = math.exp(-math.pi * width / SAMPLE_RATE)
    b = 2 * radius * np.cos(2 * np.pi * centre / SAMPLE_RATE)
    z = np.exp(-2j * np.pi * hertz / SAMPLE_RATE)
    return np.asarray((1 - b + radius**2) / (1 - b * z + radius**2 * z**2))


def _filtered(source: NDArray[np.float64], response: NDArray[Any]) -> NDArray[np.float64]:
    """Filter samples (N,) by a response that changes each 5 ms: (n, bins); block k is centred on sample 80·k."""
    length = 4 * _HOP
    padded = np.pad(source, (length // 2, length + _FFT))
    window = np.hanning(length + 1)[:-1] / 2  # four overlapping windows add up to 1
    starts = np.arange(len(response)) * _HOP
    blocks = np.lib.stride_tricks.sliding_window_view(padded, length)[starts] * window
    blocks = np.fft.irfft(np.fft.rfft(blocks, _FFT) * response, _FFT)
    out = np.zeros(len(padded))
    for start, block in zip(starts, blocks, strict=True):
        out[start : start + _FFT] += block
    return out[length // 2 : length // 2 + len(source)]


def utterance(word: str, who: Speaker, take_seed: int, size: int = 256) -> tuple[Picture, Sound]:
    """Let a speaker say a word: frames uint8 (29, size, size, 3), RGB, and samples int16 (19456,), 16 kHz."""
    take = perform(word, who, take_seed)
    return render(take, who, size), speak(take, who)


# ---------------------------------------------------------------- the files
def write_clip(path: Path, frames: Picture, samples: Sound, sample_rate: int = SAMPLE_RATE) -> None:
    """Write an mp4 (H.264 and AAC): frame i is shown at i/25 s, and sample n is heard at n / sample_rate s.

    frames: uint8 (T, H, W, 3), RGB, even H and W. samples: int16 (N,), mono. The same input gives the same bytes.
    """
    import av

    with av.open(str(path), "w", format="mp4", options={"fflags": "+bitexact", "movflags": "+faststart"}) as out:
        video = out.add_stream("libx264", rate=FPS, options={"crf": "16", "preset": "fast", "bf": "0", "threads": "1"})
        video.height, video.width = frames.shape[1:3]
        video.pix_fmt = "yuv420p"
        audio = out.add_stream("aac", rate=sample_rate, layout="mono", options={"b": "64k"})
        for stream in (video, audio):
            stream.codec_context.flags |= av.codec.context.Flags.bitexact
        for i, picture in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            frame.pts, frame.time_base = i, Fraction(1, FPS)
            out.mux(video.encode(frame))
        out.mux(video.encode(None))
        for start in range(0, len(samples), AAC_FRAME):
            sound = av.AudioFrame.from_ndarray(samples[None, start : start + AAC_FRAME], format="s16", layout="mono")
            sound.sample_rate, sound.pts, sound.time_base = sample_rate, start, Fraction(1, sample_rate)
            out.mux(audio.encode(sound))
        out.mux(audio.encode(None))


class _Clip(NamedTuple):
    """One clip to make. text: what its .txt will hold."""

    path: Path
    word: str
    person: int
    take_seed: int
    text: str


def make_corpus(
    root: Path, *, words: int = 4, speakers: int = 4, takes: int = 2, seed: int = 0, size: int = 256, jobs: int = 1
) -> list[Path]:
    """Make `words` × `speakers` × `takes` clips in LRW's layout: ROOT/WORD/{train,val,test}/WORD_00001.mp4 and .txt.

    Speakers of val and test are not in train. The files do not depend on `jobs`, a number of processes; they are
    spawned, so a script that asks for more than one needs `if __name__ == "__main__":`. Returns the .mp4 paths.
    AvprepError where an argument is out of range or `root` holds anything but this very corpus, whole or in part.
    """
    limits = {"words": (words, 1, len(WORDS)), "speakers": (speakers, 1, 10_000), "takes": (takes, 1, 10_000)}
    for name, (value, low, high) in limits.items():
        if not low <= value <= high:
            raise AvprepError(f"{name} must be {low} to {high}, not {value}")
    if size < 128 or size % 2:
        raise AvprepError(f"size must be an even number of pixels from 128, not {size}")
    clips = list(_plan(Path(root), words, speakers, takes, seed, size))
    _check_folder(Path(root), clips)
    try:
        Path(root).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise AvprepError(f"cannot make the folder {root}: {error.strerror}") from error
    tasks = [[clip for clip in clips if clip.person == person] for person in range(speakers)]
    if jobs <= 1:
        for task in tasks:
            _make_clips(task, seed, size)
    else:
        with ProcessPoolExecutor(min(jobs, speakers), multiprocessing.get_context("spawn"), _one_thread) as pool:
            list(pool.map(_make_clips, tasks, [seed] * speakers, [size] * speakers))
    return [clip.path for clip in clips]


def _plan(root: Path, words: int, speakers: int, takes: int, seed: int, size: int) -> Iterator[_Clip]:
    held_out = max(1, round(0.15 * speakers)) if speakers >= 3 else 0  # speakers in each of val and test
    order = np.random.default_rng([seed, 2]).permutation(speakers)
    people = {"train": order[2 * held_out :], "val": order[:held_out], "test": order[held_out : 2 * held_out]}
    for word in list(WORDS)[:words]:
        for split, members in people.items():
            for n, (person, take) in enumerate(((p, t) for p in sorted(members) for t in range(takes)), start=1):
                path = root / word / split / f"{word}_{n:05d}.mp4"
                edges = perform(word, speaker(seed, int(person)), take).edges
                reference = zlib.crc32(f"{seed} {size} {word} {person} {take}".encode())
                text = (
                    f"Disk reference: {reference}\n{CHANNEL}\nProgram start: 2000-01-01 00:00:00 +0000\n"
                    f"Clip start: {take * 2.0:.2f} seconds\nDuration: {edges[-1] - edges[0]:.2f} seconds\n"
                    f"Speaker: s{person:02d}\n"
                )
                yield _Clip(path, word, int(person), take, text)


def _check_folder(root: Path, clips: list[_Clip]) -> None:
    """Refuse to mix with files that this call would not write."""
    if not root.exists():
        return
    if not root.is_dir():
        raise AvprepError(f"{root} is not a folder")
    ours = {path for clip in clips for path in (clip.path, clip.path.with_suffix(".txt"), _part(clip.path))}
    foreign = [path for path in root.rglob("*") if not path.is_dir() and path not in ours]
    foreign += [clip.path for clip in clips if not _is_ours(clip)]
    if foreign:
        raise AvprepError(
            f"{root} holds files that are not of this synthetic corpus ({foreign[0]}): use an empty folder"
        )


def _is_ours(clip: _Clip) -> bool:
    """Tell whether what lies in a clip's place, if anything, is that clip; a broken-off .txt alone is, too."""
    try:
        text = clip.path.with_suffix(".txt").read_text(encoding="utf-8")
    except FileNotFoundError:
        return not clip.path.exists()
    except (OSError, UnicodeDecodeError):
        return False
    return text == clip.text or (clip.text.startswith(text) and not clip.path.exists())


def _part(path: Path) -> Path:
    return path.with_suffix(".mp4.part")


def _make_clips(clips: list[_Clip], seed: int, size: int) -> None:
    """Make all clips of one speaker; a clip appears whole, after its .txt."""
    for clip in clips:
        frames, samples = utterance(clip.word, speaker(seed, clip.person), clip.take_seed, size)
        clip.path.parent.mkdir(parents=True, exist_ok=True)
        clip.path.with_suffix(".txt").write_text(clip.text, encoding="utf-8", newline="\n")
        write_clip(_part(clip.path), frames, samples)
        _part(clip.path).replace(clip.path)


def _one_thread() -> None:
    import cv2

    cv2.setNumThreads(1)  # each process has its own clips: threads would only contend
