"""The words and people of the synthetic corpus, single utterances, and speech synthesis.

Each word is a sequence of units (`WORDS`); a unit (`UNITS`) has lip targets and audio targets on one time axis, so
audio and mouth are in sync by construction.
"""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from avprep.errors import AvprepError
from avprep.schema import FPS, SAMPLE_RATE

Colour = tuple[float, float, float]  # R, G, B: 0–255
Floats = NDArray[np.float32]
Sound = NDArray[np.int16]

FRAMES = 29  # LRW's clip length: 1.16 s
AAC_FRAME = 1024  # samples
SAMPLES = 19 * AAC_FRAME  # 1.216 s: LRW has 56 ms more audio than video
_TICKS = SAMPLES * 1000 // SAMPLE_RATE  # targets have steps of 1 ms
_PACE = 1.3  # `UNITS` has the durations of fluent speech; clear speech is slower
_BURST = 0.022  # seconds
_WARPS = 12  # of a face, see `avprep.demo.drawing`


class Unit(NamedTuple):
    """A phoneme-like unit: the look of the mouth and the sound at the same time.

    ms: duration. jaw, teeth, tongue: 0 hidden or shut … 1. width: of the mouth, 1 at rest. round: 0 spread … 1 pursed.
    hold: how strongly its lip targets dominate those of its neighbours (a closure must be reached).
    f1, f2, f3: formants in Hz. voice, noise: levels, 1 is an open vowel. centre, spread: of the noise, Hz.
    stop: silent except for a burst of the noise at its end.
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
"""The corpus's words, the most dissimilar first, each as a sequence of units."""


@dataclass(frozen=True)
class Speaker:
    """The look and voice of one person.

    seed: for anything not listed here, and for each take. shape: amounts of the warps of `avprep.demo.drawing`, −1 … 1.
    beard, moustache: 0 … 1. lip_size, mouth_size, tract (length of the vocal tract), rate (of speech): 1 is medium.
    side_light: −1 (the image's left is dark) … 1. contrast, gamma: of the camera. pitch: Hz.
    hiss: level of the background noise, 1 is full scale. teeth: how much of the upper teeth an open jaw shows, 0 … 1.
    inside: brightness of the open mouth behind them, 1 is medium. blur: of the camera, standard deviation in pixels of
    a 256×256 picture. smile: 0 … 1; from about 0.3 on it shows teeth when the person is silent.
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
    lips: Colour
    teeth: float
    inside: float
    moustache: float
    blur: float
    smile: float


_SKIN = ((232, 196, 174), (228, 180, 152), (205, 150, 118), (168, 115, 86), (122, 82, 62))
_HAIR = ((36, 30, 28), (72, 50, 36), (52, 44, 40), (128, 70, 40), (186, 150, 92), (150, 148, 146))  # dark ones first


def speaker(seed: int, index: int = 0, *, smiles: bool = True) -> Speaker:
    """Generate person number `index` of the population `seed`; consecutive ones differ in skin, hair and pitch.

    smiles: False: the same person, who does not smile.
    """
    rng = np.random.default_rng([seed, index, 1])
    turn = seed % 1000 + index
    deep, tone = turn * 0.618 % 1, turn * 0.7549 % 1  # golden steps: few speakers are well spread, many evenly
    skin = [float(np.interp(tone * 4, range(5), [colour[k] for colour in _SKIN])) for k in range(3)]

    def vivid(low: float, high: float) -> Colour:
        r, g, b = np.clip(rng.uniform(low, high) + rng.uniform(-40, 40, 3), 10, 245)
        return float(r), float(g), float(b)

    return Speaker(
        seed=int(rng.integers(2**31)),
        shape=tuple(float(v) for v in rng.uniform(-1, 1, _WARPS)),
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
        lips=_lip_colour(np.array(skin), rng),
        teeth=float(min(1, rng.uniform(0.2, 1.3))),
        inside=float(rng.uniform(0.5, 2)),
        moustache=float(rng.uniform(0.5, 1)) if deep > 0.55 and rng.random() < 0.5 else 0.0,
        blur=float(max(0, rng.uniform(-0.6, 1.4))),
        smile=float(np.clip(rng.uniform(-0.5, 1.2), 0, 1)) if smiles else 0.0,
    )


def _lip_colour(skin: NDArray[np.float64], rng: np.random.Generator) -> Colour:
    """Return a red that is darker than light skin, and darker or lighter than dark skin."""
    light = rng.uniform(0.7, 1.0) + 0.5 * rng.random() * np.clip((190 - skin.mean()) / 100, 0, 1)
    red, pale = rng.uniform(1.0, 1.15), rng.uniform(0.62, 0.88)
    r, g, b = np.clip(skin * light * [red, pale, pale + 0.04], 0, 250)
    return float(r), float(g), float(b)


_LIPS = ("jaw", "width", "round", "teeth", "tongue")
_SMILE = np.array([0.4, 1.4, 0, 1, 0.1], np.float32)
"""Lips of a broad smile."""
_AT_EASE = 0.1
"""`Unit.hold` of silence against a smile."""


@dataclass(frozen=True)
class Take:
    """One utterance before rendering and synthesis.

    edges: float64 (units + 1,), seconds: the start of each of the word's units, and the end of the last one.
    lips: float32 (T, 5): jaw, width, round, teeth, tongue (see `Unit`) per video frame.
    voice: float32 (243, 7): f1, f2, f3 (Hz), voice, noise, centre, spread every 5 ms.
    pose: float32 (T, 4): x, y (pixels of a 256×256 picture), roll (radians), zoom.
    smile: float32 (T,): 0 … 1: how far the corners of the mouth are raised.
    lids: float32 (T,): 0 open eyes … 1 shut.
    seed: of the audio's noise.
    """

    edges: NDArray[np.float64]
    lips: Floats
    voice: Floats
    pose: Floats
    smile: Floats
    lids: Floats
    seed: int


def perform(word: str, who: Speaker, take_seed: int) -> Take:
    """Make a speaker say a word once: always with the same units, but with different timing, effort and pose.

    Raises AvprepError for a word that is not in `WORDS`.
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
    smile = _smile(units, which, who.smile)
    return Take(
        edges=edges,
        lips=_smiling(_lips(row, which, rng), smile),
        voice=_voice(row, which, edges, rng),
        pose=_pose(rng),
        smile=smile,
        lids=_blink(rng),
        seed=int(rng.integers(2**31)),
    )


def performed(lips: Floats, who: Speaker, name: str) -> Take:
    """Return a take with given lips (T, 5) and without audio; its name determines pose and blinks."""
    rng = np.random.default_rng([who.seed, zlib.crc32(name.encode())])
    nothing = np.zeros(0)
    effort = rng.uniform(0.8, 1.1)
    return Take(
        edges=nothing,
        lips=(lips * np.array([effort, 1, 1, 1, 1])).astype(np.float32),
        voice=np.zeros((0, 7), np.float32),
        pose=_pose(rng, len(lips)),
        smile=np.zeros(len(lips), np.float32),
        lids=_blink(rng, len(lips)),
        seed=int(rng.integers(2**31)),
    )


def people(speakers: int, seed: int) -> dict[str, list[int]]:
    """Split speaker numbers into train, val and test, about 15 % in each of the last two; see `speaker`."""
    held_out = max(1, round(0.15 * speakers)) if speakers >= 3 else 0
    order = np.random.default_rng([seed, 2]).permutation(speakers)
    members = {"train": order[2 * held_out :], "val": order[:held_out], "test": order[held_out : 2 * held_out]}
    return {split: sorted(map(int, found)) for split, found in members.items()}


def _blur(track: Floats, sigma_ms: float) -> Floats:
    """Smooth a track (ticks, channels) in time; it is padded with its end values."""
    reach = int(3 * sigma_ms)
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma_ms) ** 2)
    padded = np.pad(track, ((reach, reach), (0, 0)), mode="edge")
    columns = [np.convolve(padded[:, k], kernel / kernel.sum(), mode="valid") for k in range(track.shape[1])]
    return np.stack(columns, axis=1).astype(np.float32)


def _lips(row: list[Unit], which: NDArray[np.intp], rng: np.random.Generator) -> Floats:
    """Blend lip targets, each weighted by its `hold` (the dominance model of Cohen and Massaro)."""
    hold = np.array([unit.hold for unit in row])[which][:, None]
    target = np.array([[getattr(unit, name) for name in _LIPS] for unit in row])[which]
    lips = _blur(target * hold, 26) / _blur(hold, 26)
    effort = rng.uniform([0.88, 0.95, 0.9, 0.9, 0.9], [1.12, 1.04, 1.1, 1.1, 1.1])
    lips = lips[:: 1000 // FPS][:FRAMES] * effort + rng.normal(
        0, [0.012, 0.008, 0.01, 0.02, 0.02], (FRAMES, len(_LIPS))
    )
    return np.clip(lips, [0, 0.5, 0, 0, 0], [1.2, 1.35, 1.1, 1, 1]).astype(np.float32)


def _smile(units: list[Unit], which: NDArray[np.intp], amount: float) -> Floats:
    """Return how much of a smile each frame has, (29,): nearly all in silence, little in closed or rounded lips."""
    hold = np.array([_AT_EASE, *(unit.hold + 2 * unit.round for unit in units), _AT_EASE], np.float32)[which]
    return (amount / (1 + _blur(hold[:, None], 26)))[:: 1000 // FPS, 0][:FRAMES].astype(np.float32)


def _smiling(lips: Floats, smile: Floats) -> Floats:
    """Blend lips (T, 5) with those of a smile (T,); the jaw is only lowered."""
    blended = lips + smile[:, None] * (_SMILE - lips)
    blended[:, 0] = np.maximum(blended[:, 0], lips[:, 0])
    return blended


def _voice(row: list[Unit], which: NDArray[np.intp], edges: NDArray[np.float64], rng: np.random.Generator) -> Floats:
    names = ("f1", "f2", "f3", "voice", "noise", "centre", "spread")
    track = np.array([[getattr(unit, name) for name in names] for unit in row], np.float32)[which]
    left = edges[np.clip(which, 0, len(edges) - 1)] - np.arange(_TICKS) / 1000  # seconds to the end of the unit
    stop = np.array([unit.stop for unit in row])[which]
    track[stop & (left > _BURST), 4] = 0
    slow = np.exp(_blur(np.log(track[:, :3]), 16))
    return np.hstack([slow, _blur(track[:, 3:5], 7), _blur(track[:, 5:], 7)])[::5].astype(np.float32)


def _pose(rng: np.random.Generator, length: int = FRAMES) -> Floats:
    """Return a slow motion of the head: (T, 4), as `Take.pose`."""
    return _sway(rng, length) * np.array([2.2, 1.8, 0.025, 0.015], np.float32) + np.array([0, 0, 0, 1], np.float32)


def _sway(rng: np.random.Generator, length: int) -> Floats:
    """Return a slow motion in four channels, each within about ±1: (T, 4)."""
    seconds = np.arange(length)[:, None, None] / FPS
    hertz, phase = rng.uniform(0.15, 1.1, (1, 4, 3)), rng.uniform(0, 2 * np.pi, (1, 4, 3))
    return np.asarray((np.sin(2 * np.pi * hertz * seconds + phase) / (1 + hertz)).sum(axis=2), np.float32)


def _blink(rng: np.random.Generator, length: int = FRAMES) -> Floats:
    """Return how far the lids are closed, (T,): one blink of about 0.2 s in a third of the takes, at random."""
    if rng.random() > 1 / 3:
        return np.zeros(length, np.float32)
    middle = rng.uniform(0.1, max(0.1, 1.05 + (length - FRAMES) / FPS))
    return np.exp(-0.5 * ((np.arange(length) / FPS - middle) / 0.045) ** 2).astype(np.float32)


_HOP = 80  # samples: 5 ms, the step of `Take.voice`
_FFT = 1024
_BANDWIDTHS = (90.0, 110.0, 170.0, 250.0)  # Hz, of the formants


def speak(take: Take, who: Speaker) -> Sound:
    """Synthesise the audio of a take: int16 (19456,), 16 kHz mono.

    A pulse train and noise are filtered in the frequency domain, by a filter that changes every 5 ms, and added.
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
    """Return the pitch of each sample, Hz: it falls over the word, with a random bend and jitter."""
    seconds = np.arange(SAMPLES) / SAMPLE_RATE
    place = (seconds - take.edges[0]) / (take.edges[-1] - take.edges[0])
    contour = 1 + rng.uniform(0.02, 0.1) - 0.18 * place + 0.06 * np.sin(2 * np.pi * (place + rng.random()))
    cycles = np.arange(0, seconds[-1] + 0.01, 0.008)
    jitter = np.interp(seconds, cycles, rng.normal(0, 0.008, len(cycles)))
    return np.asarray(who.pitch * rng.uniform(0.94, 1.06) * np.clip(contour + jitter, 0.6, 1.6))


def _resonance(centre: NDArray[Any], width: float, hertz: NDArray[Any]) -> NDArray[np.complex128]:
    """Return the response of a two-pole resonator with gain 1 at 0 Hz; `centre` is (n, 1), the response (n, bins)."""
    radius = math.exp(-math.pi * width / SAMPLE_RATE)
    b = 2 * radius * np.cos(2 * np.pi * centre / SAMPLE_RATE)
    z = np.exp(-2j * np.pi * hertz / SAMPLE_RATE)
    return np.asarray((1 - b + radius**2) / (1 - b * z + radius**2 * z**2))


def _filtered(source: NDArray[np.float64], response: NDArray[Any]) -> NDArray[np.float64]:
    """Filter samples (N,) by a response (n, bins) that changes every 5 ms; block k is centred on sample 80·k."""
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
