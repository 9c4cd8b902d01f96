"""A clip of a run as a picture: its crops, points and transforms, its audio and MFCC on one time axis.

The same input gives the same picture: see `avprep.pages.drawing`.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from avprep.errors import RunError, plural
from avprep.faces import align
from avprep.media.audio import Sound
from avprep.pages.drawing import COLOURS, drawing
from avprep.quality import clip_courses
from avprep.quality.clip_courses import ALARM
from avprep.quality.clip_view import ClipView, images, printable, sound_of
from avprep.schema import CROP_SIZE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import SubFigure

POINTS = ("#56B4E9", "#56B4E9", "#E69F00", "#CC79A7", "#CC79A7")
"""Colour of each of the five points on a crop: eyes, nose, corners of the mouth."""
MOST_CHOSEN = 12
"""Maximum frames whose windows are outlined."""
MOST_SHOWN = 600
"""Maximum crops in a picture; for a longer clip they are evenly spaced."""

_WIDTH = 1680  # pixels of the picture
_DPI = 100
_CELLS = ((50, 157), (240, 98), (MOST_SHOWN, 62))  # (maximum crops, pixels of the side of each)
_PADS = {"w_pad": 0.1, "h_pad": 0.06, "hspace": 0, "wspace": 0}  # inches
_GAP = 2  # pixels between crops
_LONGEST = 78  # letters of a line in one of the three columns of facts
_LINE, _TITLES = 17, 50  # pixels of a line of facts, and of the lines above a part


def draw(view: ClipView, frames: Sequence[int] | None = None) -> NDArray[np.uint8]:
    """Draw a clip.

    frames: frames whose MFCC windows are outlined; None: the first, the middle and the last.
    Returns uint8 (H, W, 3), RGB. Raises RunError for a frame that the clip does not have, and for too many.
    """
    chosen = _chosen(view, frames)
    sound = sound_of(view)
    facts = _facts(view, sound)
    grid = _Grid.of(view)
    courses = clip_courses.heights(view)
    heights = (
        _TITLES + _LINE * (1 + max(map(len, facts))),
        _TITLES + grid.height,
        clip_courses.TIME_AXIS + sum(courses.values()),
    )
    with drawing(_WIDTH / _DPI, sum(heights) / _DPI, _DPI, pads=_PADS, font_size=9.0) as drawn:
        top, middle, bottom = drawn.figure.subfigures(3, 1, squeeze=False, height_ratios=heights)[:, 0]
        _draw_facts(top, view, facts)
        _draw_crops(middle, grid, view, chosen)
        clip_courses.draw(bottom, courses, view, sound, chosen)
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
        *([f"audio    {clip.audio}"] if clip.audio is not None else []),
        f"span     {span}",
        f"split    {clip.split}, shard {view.shard}",
        f"word     {clip.word or '–'}   speaker {clip.speaker or '–'}",
        *(f"{name:8} {text}" for name, text in (clip.labels or {}).items()),
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
        columns[0] += textwrap.wrap(printable(f"no audio: {sound}", 3 * _LONGEST), _LONGEST)
    return [[printable(line, _LONGEST) for line in column] for column in columns]


def _crop_facts(facts: dict[str, Any]) -> list[str]:
    if not facts:
        return []
    size = facts.get("size")
    source = "×".join(map(str, size)) if isinstance(size, list) else "?"
    return [
        f"detector {facts.get('detector', '?')}, align {facts.get('align', '?')}, detected in "
        f"{facts.get('detections', '?')} of {facts.get('keyframes', '?')} keyframes",
        f"score    {_number(facts.get('score'))} (minimum {_number(facts.get('score_min'))})",
        f"face     {_number(facts.get('face_size'), 1)} px wide in a picture of {source}",
        f"jitter   {_number(facts.get('jitter'))} crop px per frame, slip {_number(facts.get('slip'))} crop px",
        f"cuts     {facts.get('cuts', '?')}   decode errors {facts.get('decode_errors', '?')}"
        f"{f'   turned {turned}°' if (turned := facts.get('turned')) else ''}",
    ]


def _mfcc_facts(facts: dict[str, Any]) -> list[str]:
    if not facts:
        return []
    channels = facts.get("channels")
    heard = "? channels" if channels is None else plural(channels, "channel")
    return [
        f"preset   {facts.get('preset', '?')}",
        f"source   {facts.get('sample_rate', '?')} Hz, {heard}",
        f"audio    {_number(facts.get('seconds'))} s from {_number(facts.get('start_offset'))} s",
        f"peak     {_number(facts.get('peak'))} of full scale, silent fraction {_number(facts.get('silent_share'))}",
        f"valid    {facts.get('n_valid', '?')} of {facts.get('n_frames', '?')} windows",
    ]


def _number(value: object, digits: int = 3) -> str:
    return f"{value:.{digits}f}" if isinstance(value, int | float) else "?"


@dataclass(frozen=True)
class _Grid:
    """A grid of crops; n: their number, cell: pixels of the side of each."""

    n: int
    cell: int

    @classmethod
    def of(cls, view: ClipView) -> _Grid:
        """Return the grid for the crops of a clip."""
        n = min(view.n_frames, MOST_SHOWN) if view.crop.state == "ok" else 0
        return cls(n, next(side for most, side in _CELLS if n <= most))

    @property
    def step(self) -> int:
        """Pixels from one crop to the next."""
        return self.cell + _GAP

    @property
    def per_row(self) -> int:
        """Crops in a row."""
        return (_WIDTH - 40) // self.step

    @property
    def height(self) -> int:
        """Pixels of all rows, or of one line if there are no crops."""
        return math.ceil(self.n / self.per_row) * self.step or _LINE


def _draw_facts(part: SubFigure, view: ClipView, facts: list[list[str]]) -> None:
    """Write the clip's key and, below it, the three columns of facts."""
    part.suptitle(printable(view.clip.key, 100), x=0.01, ha="left", fontsize=15, fontweight="bold")
    for axes, lines, of in zip(part.subplots(1, 3), facts, (None, view.crop, view.mfcc), strict=True):
        axes.set_axis_off()
        for row, line in enumerate(lines):
            alarm = of is not None and of.state != "ok" and row == 0
            style: dict[str, Any] = {"color": ALARM, "fontweight": "bold"} if alarm else {}
            axes.annotate(
                line, (0, 1), (2, -_LINE * row * 72 / _DPI), xycoords="axes fraction", textcoords="offset points",
                va="top", family="monospace", fontsize=8, annotation_clip=False, in_layout=False, **style,
            )  # fmt: skip


def _draw_crops(part: SubFigure, grid: _Grid, view: ClipView, chosen: list[int]) -> None:
    """Draw the crops in a grid, each with its number and points; chosen ones are framed in their colours."""
    axes = part.subplots()
    axes.set_axis_off()
    axes.set_anchor("NW")
    if view.crop.state != "ok":
        axes.set_title(f"no crops: {view.crop.words}", loc="left", fontsize=11, color=ALARM)
        return
    n_frames = view.n_frames
    even = np.linspace(0, n_frames - 1, grid.n).round().astype(int)
    for index in chosen:
        even[np.abs(even - index).argmin()] = index
    shown = even.tolist()
    colours = {index: COLOURS[n % len(COLOURS)] for n, index in enumerate(chosen)}
    placed = align.apply(view.crop.array("affine.npy"), view.crop.array("points.npy"))
    width, height = grid.per_row * grid.step, grid.height
    sheet = np.full((height, width, 3), 255, np.uint8)
    marks: list[NDArray[np.float64]] = []
    paints: list[str] = []
    for n, (index, image) in enumerate(zip(shown, images(view, shown), strict=True)):
        y, x = (grid.step * place for place in divmod(n, grid.per_row))
        sheet[y : y + grid.cell, x : x + grid.cell] = cv2.resize(
            image, (grid.cell, grid.cell), interpolation=cv2.INTER_AREA
        )
        inside = ((placed[index] > -0.5) & (placed[index] < CROP_SIZE - 0.5)).all(axis=1)  # NaN is not
        marks.append((placed[index][inside] + 0.5) * (grid.cell / CROP_SIZE) + (x, y))
        paints += [POINTS[number] for number in np.flatnonzero(inside)]
        _label_crop(axes, index, x, y, grid.cell, colours.get(index))
    spots = np.concatenate(marks)
    axes.scatter(spots[:, 0], spots[:, 1], s=grid.cell / 11, c=paints, edgecolors="black", linewidths=0.5, zorder=3)
    axes.imshow(sheet, extent=(0, width, height, 0), zorder=1)
    axes.set_xlim(0, _WIDTH - 20)  # so that a pixel of the sheet is about one of the picture
    note = "" if len(shown) == n_frames else f" ({len(shown)} of {n_frames} frames, evenly spaced)"
    axes.set_title(f"crops with their points{note}", loc="left", fontsize=9, color="0.35")


def _label_crop(axes: Axes, index: int, x: int, y: int, cell: int, colour: str | None) -> None:
    """Write a crop's number into its corner, and frame it in a colour."""
    from matplotlib.patches import Rectangle

    axes.text(
        x + 3, y + 3, str(index), va="top", fontsize=6.5, color="white", zorder=4,
        bbox={"facecolor": colour or "black", "edgecolor": "none", "pad": 1, "alpha": 0.85},
    )  # fmt: skip
    if colour is not None:
        axes.add_patch(Rectangle((x + 1, y + 1), cell - 2, cell - 2, fill=False, color=colour, linewidth=2.5, zorder=2))
