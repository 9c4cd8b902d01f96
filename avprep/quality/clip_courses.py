"""Plots over a clip's time, one below the other on the same axis: transforms, audio, valid windows, MFCC."""

from __future__ import annotations

import itertools
import math
import textwrap
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from avprep.faces import align
from avprep.media import mfcc
from avprep.media.audio import Sound
from avprep.pages.drawing import COLOURS
from avprep.quality.clip_view import ClipView, printable
from avprep.schema import CROP_SIZE, FPS, HOP, N_COEFFICIENTS, SAMPLE_RATE, STEPS_PER_FRAME, WINDOW_STEPS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import SubFigure

ALARM = "#B3261E"
"""Colour of failures."""
TIME_AXIS = 70
"""Pixels above and below the plots."""
_HEIGHTS = {"scale": 100, "rotation": 100, "centre": 120, "sound": 140, "valid": 36, "mfcc": 220}
"""Pixels of each plot and the gap below it."""
_SAMPLES = 1680  # ranges of the audio that are drawn, about one per pixel
_LEGEND = (
    "; MFCC columns at the middle of their 25 ms, each row by its own mean and spread; grey: no audio there, and the "
    "nearest column stands in; hatched: a window that touches it"
)


def heights(view: ClipView) -> dict[str, int]:
    """Return the names of the plots over time, with the height of each in pixels."""
    found = {**_HEIGHTS}
    if view.mfcc.state != "ok":
        found |= {"mfcc": 80}
        del found["valid"]
    if view.crop.state != "ok":
        for name in ("scale", "rotation", "centre"):
            del found[name]
    return found


def draw(part: SubFigure, courses: dict[str, int], view: ClipView, sound: Sound | str, chosen: list[int]) -> None:
    """Draw all plots over the clip's time, one below the other on the same axis."""
    end = _length(view, sound)
    columns = part.subplots(len(courses), 1, sharex=True, squeeze=False, height_ratios=list(courses.values()))[:, 0]
    columns[0].set_xlim(-(mfcc.SAMPLES_BEFORE + HOP) / SAMPLE_RATE, end + (mfcc.SAMPLES_AFTER + HOP) / SAMPLE_RATE)
    _frame_numbers(columns[0], view.n_frames)
    columns[-1].set_xlabel(f"seconds of the clip{_LEGEND if view.mfcc.state == 'ok' else ''}")
    for axes, name in zip(columns, courses, strict=True):
        for number, index in enumerate(chosen):
            if name not in ("mfcc", "valid"):
                axes.axvspan(
                    index / FPS, (index + 1) / FPS, color=COLOURS[number % len(COLOURS)], alpha=0.3, linewidth=0
                )
        _COURSES[name](axes, view, sound, chosen)
    part.align_ylabels(columns)


def _length(view: ClipView, sound: Sound | str) -> float:
    """Return the length of the time axis in seconds, 1 if nothing is known."""
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
    """Keep an axis from magnifying tiny changes: it spans at least `least`."""
    low, high = axes.get_ylim()
    if high - low < least:
        axes.set_ylim((low + high - least) / 2, (low + high + least) / 2)
    axes.grid(color="0.92")


def _draw_sound(axes: Axes, view: ClipView, sound: Sound | str, _chosen: list[int]) -> None:
    """Draw the range of the samples below each pixel."""
    axes.set_ylabel("source audio")
    axes.set_yticks([])
    if isinstance(sound, str):
        text = "\n".join(textwrap.wrap(printable(sound, 400), 130))
        axes.text(0.5, 0.5, text, ha="center", va="center", color=ALARM, transform=axes.transAxes)
        return
    per_pixel = max(1, sound.samples.size // _SAMPLES)
    n = sound.samples.size // per_pixel
    pieces = sound.samples[: n * per_pixel].reshape(n, per_pixel)
    times = (sound.first + (np.arange(n) + 0.5) * per_pixel) / SAMPLE_RATE
    # Each range overlaps the next pixel's, otherwise a slope between them would be a gap.
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
    """Concatenate the windows of all frames, (T, 12, 20), to (12, 4·(T−1)+20); the first column has the number −8."""
    first = windows[0]
    others = windows[1:, :, -STEPS_PER_FRAME:]  # each frame's window ends one frame later
    return np.concatenate([first, *others], axis=1)


def _draw_mfcc(axes: Axes, view: ClipView, _sound: Sound | str, chosen: list[int]) -> None:
    """Draw the columns, each at the middle of its 25 ms, and outline the windows of chosen frames."""
    from matplotlib.patches import Rectangle

    axes.set_ylabel("MFCC coefficient" if view.mfcc.state == "ok" else "MFCC")
    axes.set_ylim(0.5, N_COEFFICIENTS + 0.5)
    axes.set_facecolor("0.85")
    if view.mfcc.state != "ok":
        axes.set_yticks([])
        axes.text(0.5, 0.5, f"no windows: mfcc is {view.mfcc.words}", ha="center", va="center", color=ALARM,
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
    axes.set_yticks(range(1, N_COEFFICIENTS + 1, 1), [str(n) for n in range(1, N_COEFFICIENTS + 1)], fontsize=7)
    for n, index in enumerate(chosen):
        begin = (STEPS_PER_FRAME * index - mfcc.BEFORE) * HOP / SAMPLE_RATE + middle
        # Windows of neighbours overlap: each outline is a little lower than the one before.
        inset = 0.12 + 0.22 * (n % 3)
        for width, colour in ((4.5, "white"), (2.5, COLOURS[n % len(COLOURS)])):
            axes.add_patch(
                Rectangle(
                    (begin, 0.5 + inset), WINDOW_STEPS * HOP / SAMPLE_RATE, N_COEFFICIENTS - 2 * inset, fill=False,
                    edgecolor=colour, linewidth=width,
                )
            )  # fmt: skip
        axes.text(
            begin + 0.004, N_COEFFICIENTS + 0.2 - inset, str(index), va="top", fontsize=8, color="white",
            bbox={"facecolor": COLOURS[n % len(COLOURS)], "edgecolor": "white", "pad": 1.5}, clip_on=True,
        )  # fmt: skip


def _real(facts: dict[str, Any], numbers: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return for which columns the source has audio; all of them if the metadata does not state it."""
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
