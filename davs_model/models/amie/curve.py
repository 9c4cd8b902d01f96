"""The estimator's bound on clips that it does not train on, for matched and for shifted audio."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from avprep.errors import ShardError, plural
from davs_model.data.clips import Clips
from davs_model.data.reads import chosen
from davs_model.data.sources import read_whole
from davs_model.models.amie import losses
from davs_model.models.amie.objective import HEARD, RUN, RUN_WINDOWS
from davs_model.models.base import SOUND, Measure

if TYPE_CHECKING:
    from davs_model.models.amie.networks import AMIE

SHIFTS = range(-10, 11)
"""Shifts of the windows in frames; positive: the window is later than the frame."""
FAR = 5
"""Shift in frames that people notice."""

AT_ONCE = 32
"""Frames compared with all windows at once: a pair takes kilobytes, and a clip of T frames has T² pairs."""


@dataclass(frozen=True)
class ShiftCurve:
    """The Jensen–Shannon bound in nats, plus 2 log 2, so that independence is 0.

    bound: by shift. area: area under the ROC curve of T, of matched pairs against those shifted by `FAR` or more.
    n_clips, n_pairs: numbers of clips and of matched pairs.
    """

    bound: dict[int, float]
    area: float
    n_clips: int
    n_pairs: int


@torch.inference_mode()
def shift_curve(model: AMIE, clips: Iterable[tuple[Tensor, Tensor, Tensor | None, Tensor]]) -> ShiftCurve:
    """Measure T on clips: frames `[1, T, 3, S, S]`, windows `[1, T, 12, 20]`, `SOUND` or None, and `HEARD` `[T]`.

    ValueError if no clip has a pair.
    """
    by_shift: dict[int, list[Tensor]] = {shift: [] for shift in SHIFTS}
    marginal: list[Tensor] = []
    n_clips = 0
    for frames, windows, sound, heard in clips:
        instants = torch.arange(len(heard), device=heard.device)
        images, sounds = model.estimator.encode(frames, windows, sound)
        scores = torch.cat([model.estimator(part, sounds)[0] for part in images.split(AT_ONCE, 1)])
        both = heard[:, None] & heard[None]
        apart = instants[None] - instants[:, None]
        marginal.append(scores[both & (apart.abs() >= losses.APART)])
        for shift in SHIFTS:
            by_shift[shift].append(scores[both & (apart == shift)])
        n_clips += 1
    scored = {shift: torch.cat(found) for shift, found in by_shift.items() if found}
    if not scored or not len(scored[0]):
        raise ValueError("no clip with a frame that is heard")
    others = torch.cat(marginal)
    far = torch.cat([found for shift, found in scored.items() if abs(shift) >= FAR])
    bounds = {shift: float(losses.bound(found, others)) + losses.DROP for shift, found in scored.items()}
    return ShiftCurve(bounds, _area(scored[0], far), n_clips, len(scored[0]))


def _area(matched: Tensor, others: Tensor) -> float:
    """Return the probability that a matched pair scores higher than another pair; ties count half."""
    ordered = others.sort().values
    below = torch.searchsorted(ordered, matched, right=False) + torch.searchsorted(ordered, matched, right=True)
    return float(below.double().mean()) / (2 * len(others))


def measure(model: AMIE, clips: Clips, device: torch.device, limit: int) -> tuple[Measure, ...]:
    """Measure T on the first `limit` clips, whole; nothing if none can be measured."""
    try:
        found = shift_curve(model.eval(), _read(model, clips, device, limit))
    except ValueError:
        return ()
    best = max(found.bound, key=lambda shift: found.bound[shift])
    summary = (
        f"coherence of audio and video {found.bound[0]:.3f} nats, most at a shift of {best} frames; matched pairs told "
        f"from those {FAR} frames apart: area {found.area:.3f}"
    )
    return (
        Measure(
            "coherence",
            summary,
            {
                **asdict(found),
                "matched": found.bound[0],
                "bound": {str(shift): value for shift, value in found.bound.items()},
            },
            "Audio-visual coherence, as the estimator has it",
            (
                f"The bound of Jensen and Shannon, + 2 log 2, of real frames with their own windows and with windows "
                f"that are some frames later; {plural(found.n_clips, 'clip')}. {summary[0].upper()}{summary[1:]}.",
            ),
            ("shift, frames", *map(str, found.bound)),
            (("bound, nats", *(f"{value:.2f}" for value in found.bound.values())),),
        ),
    )


def _read(
    model: AMIE, clips: Clips, device: torch.device, limit: int
) -> Iterator[tuple[Tensor, Tensor, Tensor | None, Tensor]]:
    """Yield the input of `shift_curve` for each clip; unreadable clips are left out."""
    reads = chosen(model.reads(model.dimensions), (RUN, RUN_WINDOWS, HEARD, SOUND))
    for row in range(min(limit, len(clips))):
        try:
            batch = read_whole(clips, row, reads, int(model.dimensions["image_size"])).to(device)
        except ShardError:
            continue
        yield batch[RUN], batch[RUN_WINDOWS], batch.get(SOUND), batch[HEARD][0] > 0
