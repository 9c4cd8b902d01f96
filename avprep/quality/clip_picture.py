"""A clip of a run as a picture: its crops, points and transforms, its sound and MFCC on one time axis.

Drawn without pyplot and whatever the user's matplotlibrc says; the same input gives the same picture. matplotlib takes
a second to import and is, where something is drawn.
"""

from __future__ import annotations

import itertools
import logging
import math
import textwrap
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from avprep.errors import RunError
from avprep.faces import align
from avprep.media import mfcc
from avprep.media.audio import Sound
from avprep.quality.clip_view import ClipView, images, printable, sound_of
from avprep.schema import COLUMNS_PER_FRAME, CROP_SIZE, FPS, HOP, N_COEFFICIENTS, SAMPLE_RATE, WINDOW_COLUMNS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Told apart by the colour-blind (Okabe and Ito 2008)."""
POINTS = ("#56B4E9", "#56B4E9", "#E69F00", "#CC79A7", "#CC79A7")
"""Colour of each of the five points on a crop: eyes, nose, corners of the mouth."""
MOST_CHOSEN = 12
"""Frames whose windows are outlined."""
MOST_SHOWN = 600
"""Crops in a picture; of a longer clip they are evenly spaced."""

_WIDTH, _LEFT, _RIGHT = 1680, 90, 20  # pixels of the picture and of its margins beside the axes
_DPI = 100
_CELLS = ((50, 157), (240, 98), (MOST_SHOWN, 62))  # up to so many crops, each of them has so many pixels
_LINE = 17  # pixels from one line of text to the next
_LEGEND = (
    "; MFCC columns at the middle of their 25 ms, each row by its own mean and spread; grey: no sound there, and the "
    "nearest column stands in; hatched: a window that touches it"
)
_LONGEST = 78  # letters of a line in one of the three columns of facts


def draw(view: ClipView, frames: Sequence[int] | None = None) -> NDArray[np.uint8]:
    """Draw a clip.

    frames: those whose MFCC windows are outlined; None: the first, the middle and the last.
    Returns uint8 (H, W, 3), RGB. Raises RunError for a frame that the clip does not have, and for too many.
    """
    chosen = _chosen(view, frames)
    sound = sound_of(view)
    facts = _facts(view, sound)
    heights = _Heights(view, lines=max(map(len, facts)))
    with _drawing(_WIDTH, heights.total) as drawn:
        figure = drawn.figure
        _draw_facts(figure, heights, view, facts)
        _draw_crops(figure, heights, view, chosen)
        _draw_courses(figure, heights, view, sound, chosen)
    return drawn.pixels


def _chosen(view: ClipView, frames: Sequence[int] | None) -> list[int]:
    n_frames = view.n_frames
    if frames is None:
        return sorted({0, n_frames // 2, n_frames - 1}) if n_frames else []
    wanted = list(dict.fromkeys(frames))
    if wrong := [index for index in wanted if not 0 <= index < n_frames]:
        has = f"has frames 0 to {n_frames - 1}" if n_frames else "has no frames to show"
        raise RunError(f"frame {wrong[0]}: {printable(view.clip.key)} {has}")
    if len(wanted) > MOST_CHOSEN:
        raise RunError(f"{len(wanted)} frames to outline are too many: give up to {MOST_CHOSEN}")
    return wanted


def _facts(view: ClipView, sound: Sound | str) -> list[list[str]]:
    """Return three columns of lines: the clip, its crops, its windows."""
    clip = view.clip
    span = "whole file" if clip.start is None and clip.duration is None else f"from {clip.start or 0:g} s"
    if clip.duration is not None:
        span += f", {clip.duration:g} s"
    about = [
        f"video    {clip.video}",
        *([f"sound    {clip.audio}"] if clip.audio is not None else []),
        f"span     {span}",
        f"split    {clip.split}, shard {view.shard}",
        f"word     {clip.word or '–'}   speaker {clip.speaker or '–'}",
        f"frames   {view.n_frames or 'unknown'}",
    ]
    columns = [about]
    for title, part, lines in (
        ("crop", view.crop, _crop_facts(view.crop.facts)),
        ("mfcc", view.mfcc, _mfcc_facts(view.mfcc.facts)),
    ):
        why = textwrap.wrap(printable(part.message, 4 * _LONGEST), _LONGEST)
        columns.append([f"{title}     {part.words}", *why, *lines])
    if isinstance(sound, str):
        columns[0] += textwrap.wrap(printable(f"no sound: {sound}", 3 * _LONGEST), _LONGEST)
    return [[printable(line, _LONGEST) for line in column] for column in columns]


def _crop_facts(facts: dict[str, Any]) -> list[str]:
    if not facts:
        return []
    size = facts.get("size")
    source = "×".join(map(str, size)) if isinstance(size, list) else "?"
    known = "jitter" not in facts or facts["jitter"] is not None  # null where it is 0 by construction
    jitter = _number(facts.get("jitter")) if known else "n/a"
    return [
        f"detector {facts.get('detector', '?')}, align {facts.get('align', '?')}, found in "
        f"{facts.get('detections', '?')} of {facts.get('keyframes', '?')} keyframes",
        f"score    {_number(facts.get('score'))} (least {_number(facts.get('score_min'))})",
        f"face     {_number(facts.get('face_size'), 1)} px wide in a picture of {source}",
        f"jitter   {jitter} crop px a frame ({_number(facts.get('jitter_unsmoothed'))} without smoothing)",
        f"cuts     {facts.get('cuts', '?')}   decode errors {facts.get('decode_errors', '?')}"
        f"{f'   turned {turned}°' if (turned := facts.get('turned')) else ''}",
    ]


def _mfcc_facts(facts: dict[str, Any]) -> list[str]:
    if not facts:
        return []
    return [
        f"preset   {facts.get('preset', '?')}",
        f"source   {facts.get('sample_rate', '?')} Hz, {facts.get('channels', '?')} channel(s)",
        f"sound    {_number(facts.get('seconds'))} s from {_number(facts.get('start_offset'))} s",
        f"peak     {_number(facts.get('peak'))} of full scale, silent share {_number(facts.get('silent_share'))}",
        f"valid    {facts.get('n_valid', '?')} of {facts.get('n_frames', '?')} windows",
    ]


def _number(value: object, digits: int = 3) -> str:
    return f"{value:.{digits}f}" if isinstance(value, int | float) else "?"


class _Heights:
    """Where the parts of a picture lie, in pixels from its top."""

    def __init__(self, view: ClipView, lines: int) -> None:
        n_crops = min(view.n_frames, MOST_SHOWN) if view.crop.state == "ok" else 0
        self.cell = next(side for most, side in _CELLS if n_crops <= most)
        self.per_row = (_WIDTH - 2 * _RIGHT) // (self.cell + 2)
        self.facts = 60
        self.crops = self.facts + lines * _LINE + 36
        self.crops_height = math.ceil(n_crops / self.per_row) * (self.cell + 2) if n_crops else 20
        self.courses = self.crops + self.crops_height + 64
        self.course_heights = {"scale": 90, "rotation": 90, "centre": 110, "sound": 130, "valid": 26, "mfcc": 210}
        if view.mfcc.state != "ok":
            self.course_heights |= {"valid": 0, "mfcc": 70}
        if view.crop.state != "ok":
            for name in ("scale", "rotation", "centre"):
                del self.course_heights[name]
        self.course_heights = {name: height for name, height in self.course_heights.items() if height}
        self.total = self.courses + sum(self.course_heights.values()) + 14 * len(self.course_heights) + 56


@dataclass
class _Drawn:
    figure: Figure
    pixels: NDArray[np.uint8]


@contextmanager
def _drawing(width: int, height: int) -> Iterator[_Drawn]:
    """Give a figure of a size in pixels to draw on, and its pixels afterwards; matplotlib goes by its own defaults."""
    logger = logging.getLogger("matplotlib")
    level = logger.level
    logger.setLevel(logging.ERROR)  # it warns of building its font cache, and of a home that cannot be written
    try:
        import matplotlib
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        with matplotlib.rc_context(), warnings.catch_warnings():
            matplotlib.rcdefaults()
            matplotlib.rcParams["text.parse_math"] = False  # a $ in a key is a $
            matplotlib.rcParams["font.size"] = 9.0
            warnings.filterwarnings("ignore", r"Glyph \d+")  # a sign that the font lacks is a box
            canvas = FigureCanvasAgg(Figure((width / _DPI, height / _DPI), dpi=_DPI))
            drawn = _Drawn(canvas.figure, np.empty((0, 0, 3), np.uint8))
            yield drawn
            canvas.draw()  # type: ignore[no-untyped-call]
            drawn.pixels = np.array(canvas.buffer_rgba(), np.uint8)[..., :3]  # type: ignore[no-untyped-call]
    finally:
        logger.setLevel(level)


def _axes(figure: Figure, top: int, height: int, left: int = _LEFT, right: int = _RIGHT) -> Axes:
    """Add axes whose box lies on whole pixels."""
    total = round(figure.get_figheight() * _DPI)
    box = (left / _WIDTH, 1 - (top + height) / total, (_WIDTH - left - right) / _WIDTH, height / total)
    return figure.add_axes(box)


def _write(figure: Figure, x: float, y: float, text: str, **style: Any) -> None:
    """Write a text whose top left corner is at a pixel."""
    total = figure.get_figheight() * _DPI
    figure.text(x / _WIDTH, 1 - y / total, text, va="top", **style)


def _draw_facts(figure: Figure, heights: _Heights, view: ClipView, facts: list[list[str]]) -> None:
    _write(figure, _RIGHT, 18, printable(view.clip.key, 100), fontsize=15, fontweight="bold")
    for n, (lines, part) in enumerate(zip(facts, (None, view.crop, view.mfcc), strict=True)):
        for row, line in enumerate(lines):
            alarm = part is not None and part.state != "ok" and row == 0
            style: dict[str, Any] = {"color": "#B3261E", "fontweight": "bold"} if alarm else {}
            x = _RIGHT + n * (_WIDTH - 2 * _RIGHT) / 3
            _write(figure, x, heights.facts + row * _LINE, line, family="monospace", fontsize=8, **style)


def _draw_crops(figure: Figure, heights: _Heights, view: ClipView, chosen: list[int]) -> None:
    """Draw the crops in a grid, each with its number and points; chosen ones are framed in their colours."""
    from matplotlib.patches import Rectangle

    top, cell = heights.crops, heights.cell
    if view.crop.state != "ok":
        _write(figure, _RIGHT, top, f"no crops: {view.crop.words}", fontsize=11, color="#B3261E")
        return
    n_frames = view.n_frames
    even = np.linspace(0, n_frames - 1, min(n_frames, MOST_SHOWN)).round().astype(int)
    for index in chosen:
        even[np.abs(even - index).argmin()] = index
    shown = even.tolist()
    step = cell + 2
    rows = math.ceil(len(shown) / heights.per_row)
    width = heights.per_row * step
    sheet = np.full((rows * step, width, 3), 255, np.uint8)
    placed = align.apply(view.crop.array("affine.npy"), view.crop.array("points.npy"))
    colours = {index: COLOURS[n % len(COLOURS)] for n, index in enumerate(chosen)}
    axes = _axes(figure, top, rows * step, _RIGHT, _WIDTH - _RIGHT - width)
    axes.set_axis_off()
    axes.set_xlim(0, width)
    axes.set_ylim(rows * step, 0)
    marks: list[NDArray[np.float64]] = []
    paints: list[str] = []
    for n, (index, image) in enumerate(zip(shown, images(view, shown), strict=True)):
        y, x = (step * place for place in divmod(n, heights.per_row))
        sheet[y : y + cell, x : x + cell] = cv2.resize(image, (cell, cell), interpolation=cv2.INTER_AREA)
        inside = ((placed[index] > -0.5) & (placed[index] < CROP_SIZE - 0.5)).all(axis=1)  # NaN is not
        spots = (placed[index][inside] + 0.5) * (cell / CROP_SIZE) + (x, y)
        marks.append(spots)
        paints += [POINTS[number] for number in np.flatnonzero(inside)]
        axes.text(
            x + 3, y + 3, str(index), va="top", fontsize=6.5, color="white", zorder=4,
            bbox={"facecolor": colours.get(index, "black"), "edgecolor": "none", "pad": 1, "alpha": 0.85},
        )  # fmt: skip
        if index in colours:
            frame = Rectangle(
                (x + 1, y + 1), cell - 2, cell - 2, fill=False, color=colours[index], linewidth=2.5, zorder=2
            )
            axes.add_patch(frame)
    spots = np.concatenate(marks)
    axes.scatter(spots[:, 0], spots[:, 1], s=cell / 11, c=paints, edgecolors="black", linewidths=0.5, zorder=3)
    axes.imshow(sheet, extent=(0, width, rows * step, 0), interpolation="nearest", aspect="auto", zorder=1)
    note = "" if len(shown) == n_frames else f"{len(shown)} of {n_frames} frames, evenly spaced"
    _write(figure, _RIGHT, top - 20, f"crops with their points {f'({note})' if note else ''}", color="0.35")


def _draw_courses(figure: Figure, heights: _Heights, view: ClipView, sound: Sound | str, chosen: list[int]) -> None:
    """Draw everything that has a course over the clip's time, one below another on the same axis."""
    end = _length(view, sound)
    first, last = -(mfcc.SAMPLES_BEFORE + HOP) / SAMPLE_RATE, end + (mfcc.SAMPLES_AFTER + HOP) / SAMPLE_RATE
    top, n_axes = heights.courses, len(heights.course_heights)
    for n, (name, height) in enumerate(heights.course_heights.items()):
        axes = _axes(figure, top, height)
        top += height + 14
        axes.set_xlim(first, last)
        if n == 0:
            _frame_numbers(axes, view.n_frames)
        axes.tick_params(labelbottom=n == n_axes - 1)
        if n == n_axes - 1:
            axes.set_xlabel(f"seconds of the clip{_LEGEND if view.mfcc.state == 'ok' else ''}")
        for number, index in enumerate(chosen):
            if name not in ("mfcc", "valid"):
                axes.axvspan(
                    index / FPS, (index + 1) / FPS, color=COLOURS[number % len(COLOURS)], alpha=0.3, linewidth=0
                )
        _COURSES[name](axes, view, sound, chosen)


def _length(view: ClipView, sound: Sound | str) -> float:
    """Return the seconds that the time axis has to hold, 1 where nothing is known."""
    if view.n_frames:
        return view.n_frames / FPS
    return view.clip.duration or (1.0 if isinstance(sound, str) else sound.n_frames / FPS)


def _frame_numbers(axes: Axes, n_frames: int) -> None:
    """Number frames above axes, each at the middle of its 40 ms."""
    if not n_frames:
        return
    above = axes.secondary_xaxis("top")
    step = next(step for step in (1, 2, 5, 10, 25, 50, 100, 250, 500, 1000, 10**9) if n_frames <= 45 * step)
    numbers = range(0, n_frames, step)
    above.set_xticks([(index + 0.5) / FPS for index in numbers], [str(index) for index in numbers], fontsize=8)
    above.set_xlabel("frame")


def _affine(view: ClipView) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the transforms, float64 (T, 2, 3), and the time of each frame's middle in seconds."""
    affine = view.crop.array("affine.npy").astype(np.float64)
    return affine, (np.arange(len(affine)) + 0.5) / FPS


def _draw_scale(axes: Axes, view: ClipView, _sound: Sound | str, _chosen: list[int]) -> None:
    affine, times = _affine(view)
    _line(axes, times, align.scale(affine), "scale,\ncrop px per px")
    _roomy(axes, 0.02)


def _draw_rotation(axes: Axes, view: ClipView, _sound: Sound | str, _chosen: list[int]) -> None:
    affine, times = _affine(view)
    degrees = np.degrees(np.unwrap(np.arctan2(affine[:, 1, 0], affine[:, 0, 0])))
    _line(axes, times, degrees, "rotation,\ndegrees")
    _roomy(axes, 2.0)


def _draw_centre(axes: Axes, view: ClipView, _sound: Sound | str, _chosen: list[int]) -> None:
    """Draw the course of the source pixel at the crop's centre, about its median."""
    affine, times = _affine(view)
    centre = np.full(2, (CROP_SIZE - 1) / 2)
    places = (np.linalg.pinv(affine[:, :, :2]) @ (centre - affine[:, :, 2])[..., None])[..., 0]  # singular if hostile
    for course, name, style in zip(places.T, ("x", "y"), ("-", "--"), strict=True):
        middle = float(np.median(course))
        axes.plot(times, course - middle, style, color="0.15", linewidth=1.2, label=f"{name} − {middle:.1f}")
    axes.set_ylabel("crop's centre,\nsource px")
    axes.legend(loc="best", ncols=2, fontsize=8, framealpha=0.9)
    _roomy(axes, 2.0)


def _line(axes: Axes, times: NDArray[np.float64], values: NDArray[np.float64], label: str) -> None:
    axes.plot(times, values, ".-" if len(times) <= 100 else "-", color="0.15", linewidth=1.2, markersize=4)
    axes.set_ylabel(label)


def _roomy(axes: Axes, least: float) -> None:
    """Keep an axis from magnifying what hardly moves: it spans `least` at least."""
    low, high = axes.get_ylim()
    if high - low < least:
        axes.set_ylim((low + high - least) / 2, (low + high + least) / 2)
    axes.grid(color="0.92")


def _draw_sound(axes: Axes, view: ClipView, sound: Sound | str, _chosen: list[int]) -> None:
    """Draw the range of the samples below each pixel."""
    axes.set_ylabel("source sound")
    axes.set_yticks([])
    if isinstance(sound, str):
        text = "\n".join(textwrap.wrap(printable(sound, 400), 130))
        axes.text(0.5, 0.5, text, ha="center", va="center", color="#B3261E", transform=axes.transAxes)
        return
    per_pixel = max(1, sound.samples.size // (_WIDTH - _LEFT))
    n = sound.samples.size // per_pixel
    pieces = sound.samples[: n * per_pixel].reshape(n, per_pixel)
    times = (sound.first + (np.arange(n) + 0.5) * per_pixel) / SAMPLE_RATE
    # Each range reaches into the next pixel's, or a slope between them would be a gap.
    low, high = pieces.min(axis=1), pieces.max(axis=1)
    low[1:], high[1:] = np.minimum(low[1:], high[:-1]), np.maximum(high[1:], low[:-1])
    axes.fill_between(times, low, high, color="0.15", linewidth=0.4)
    peak = max(1, int(np.abs(sound.samples.astype(np.int32)).max()))
    axes.set_ylim(-1.1 * peak, 1.1 * peak)
    axes.text(
        0.995, 0.93, f"peak {peak / 32768:.3f} of full scale", ha="right", va="top", fontsize=8, color="0.35",
        transform=axes.transAxes,
    )  # fmt: skip


def _draw_valid(axes: Axes, view: ClipView, _sound: Sound | str, chosen: list[int]) -> None:
    """Draw a box for each frame, green where its window is valid, hatched where not."""
    axes.set_yticks([])
    axes.set_ylabel("window\nvalid", rotation=0, ha="right", va="center")
    axes.set_ylim(0, 1)
    valid = view.mfcc.array("valid.npy")
    turns = np.flatnonzero(np.diff(valid)) + 1
    edges = [0, *turns.tolist(), len(valid)]
    for state, colour, edge, hatch in ((True, COLOURS[2], "none", None), (False, "#F2C4B3", "#A33B00", "////")):
        runs = [(begin / FPS, (end - begin) / FPS) for begin, end in itertools.pairwise(edges) if valid[begin] == state]
        axes.broken_barh(runs, (0, 1), linewidth=0, facecolor=colour, edgecolor=edge, hatch=hatch)
    if len(valid) <= 250:
        axes.vlines(np.arange(len(valid) + 1) / FPS, 0, 1, color="white", linewidth=0.8)


def course_of_windows(windows: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
    """String the windows of all frames, (T, 12, 20), together again: (12, 4·(T−1)+20), the first column number −8."""
    first = windows[0]
    others = windows[1:, :, -COLUMNS_PER_FRAME:]  # each frame's window ends one frame later
    return np.concatenate([first, *others], axis=1)


def _draw_mfcc(axes: Axes, view: ClipView, _sound: Sound | str, chosen: list[int]) -> None:
    """Draw the columns, each at the middle of its 25 ms, and outline the windows of chosen frames."""
    from matplotlib.patches import Rectangle

    axes.set_ylabel("MFCC coefficient" if view.mfcc.state == "ok" else "MFCC")
    axes.set_ylim(0.5, N_COEFFICIENTS + 0.5)
    axes.set_facecolor("0.85")
    if view.mfcc.state != "ok":
        axes.set_yticks([])
        axes.text(0.5, 0.5, f"no windows: mfcc is {view.mfcc.words}", ha="center", va="center", color="#B3261E",
                  transform=axes.transAxes)  # fmt: skip
        return
    course = course_of_windows(view.mfcc.array("mfcc.npy")).astype(np.float64)
    numbers = np.arange(course.shape[1]) - mfcc.BEFORE
    real = _real(view.mfcc.facts, numbers)
    spread = course[:, real] if real.any() else course
    scaled = (course - spread.mean(axis=1, keepdims=True)) / np.maximum(spread.std(axis=1, keepdims=True), 1e-6)
    scaled[:, ~real] = np.nan
    middle = (mfcc.FRAME - HOP) / 2 / SAMPLE_RATE  # of a column's 25 ms, less that of its 10 ms
    left, right = numbers[0] * HOP / SAMPLE_RATE + middle, (numbers[-1] + 1) * HOP / SAMPLE_RATE + middle
    axes.imshow(
        scaled, cmap="viridis", vmin=-2.5, vmax=2.5, interpolation="nearest", aspect="auto", origin="lower",
        extent=(left, right, 0.5, N_COEFFICIENTS + 0.5),
    )  # fmt: skip
    axes.set_xlim(axes.get_xlim())
    axes.set_yticks(range(1, N_COEFFICIENTS + 1, 1), [str(n) for n in range(1, N_COEFFICIENTS + 1)], fontsize=7)
    for n, index in enumerate(chosen):
        begin = (COLUMNS_PER_FRAME * index - mfcc.BEFORE) * HOP / SAMPLE_RATE + middle
        # Windows of neighbours overlap: each outline is a little lower than the one before.
        inset = 0.12 + 0.22 * (n % 3)
        for width, colour in ((4.5, "white"), (2.5, COLOURS[n % len(COLOURS)])):
            axes.add_patch(
                Rectangle(
                    (begin, 0.5 + inset), WINDOW_COLUMNS * HOP / SAMPLE_RATE, N_COEFFICIENTS - 2 * inset, fill=False,
                    edgecolor=colour, linewidth=width,
                )
            )  # fmt: skip
        axes.text(
            begin + 0.004, N_COEFFICIENTS + 0.2 - inset, str(index), va="top", fontsize=8, color="white",
            bbox={"facecolor": COLOURS[n % len(COLOURS)], "edgecolor": "white", "pad": 1.5}, clip_on=True,
        )  # fmt: skip


def _real(facts: dict[str, Any], numbers: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return which columns the source has sound for; all of them where the facts do not tell."""
    first, count = facts.get("first_sample"), facts.get("n_samples")
    if type(first) is not int or type(count) is not int:
        return np.ones(len(numbers), np.bool_)
    begin = math.ceil(first / HOP)
    end = begin + mfcc.n_steps(count - (begin * HOP - first))
    return (numbers >= begin) & (numbers < end)


_COURSES = {
    "scale": _draw_scale,
    "rotation": _draw_rotation,
    "centre": _draw_centre,
    "sound": _draw_sound,
    "valid": _draw_valid,
    "mfcc": _draw_mfcc,
}
