"""A sheet of samples: the same face at the same instant of the same audio, with each emotion."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from avprep.errors import ShardError
from avprep.pages.captions import caption
from davs_model import precision
from davs_model.data.pictures import tiled, to_pictures
from davs_model.evaluation import talk
from davs_model.evaluation.expression.axes import Bench
from davs_model.evaluation.expression.targets import Target, others_showing
from davs_model.evaluation.metrics.talking import opening

PEOPLE = 4
GAP = 4
"""White pixels around each image."""


def sheet(bench: Bench, chosen: Sequence[Target]) -> NDArray[np.uint8]:
    """Return a sheet, RGB uint8 (H, W, 3): a row for each of the first people, a column for each emotion.

    A row begins with the first view of the person. All other frames are generated, at the instant at which the real
    mouth is most open, with the expression of the first clip of another person who shows the emotion. Damaged clips are
    replaced by the next ones; at least one of `chosen` must be readable.
    """
    names = bench.clips.label_names["emotions"]
    rows: list[NDArray[np.uint8]] = []
    for speaker in dict.fromkeys(target.speaker for target in chosen):
        for target in (one for one in chosen if one.speaker == speaker):
            with contextlib.suppress(ShardError):
                rows.append(np.concatenate((to_pictures(bench.views(target)[0, :1]), _drawn(bench, target))))
                break
        if len(rows) == PEOPLE:
            break
    body = tiled(np.stack(rows), GAP)
    heads = ("picture", *names)
    above = np.concatenate([caption(head, body.shape[1] // len(heads)) for head in heads], axis=1)
    return np.concatenate((above, body))


def _drawn(bench: Bench, target: Target) -> NDArray[np.uint8]:
    """Return the frame of a target with each emotion, (E, S, S, 3); white if no other speaker shows it."""
    clip, person = bench.clip(target.row), bench.person(bench.views(target))
    at = clip.spoken.start + int(opening(clip.real[0, clip.spoken]).argmax())
    frames = []
    for emotion in range(len(bench.clips.label_names["emotions"])):
        expression = _shown_by_others(bench, emotion, target.speaker)
        if expression is None:
            frames.append(torch.ones_like(clip.real[0, at]))
            continue
        expressed = bench.model.expressing(person, expression)
        with precision.autocast(bench.device, bf16=bench.bf16):
            said = talk.heard(bench.model, clip.batch)[:, at : at + 1]
            frames.append(bench.model.decode(expressed, said)[0, 0].float())
    return to_pictures(torch.stack(frames))


def _shown_by_others(bench: Bench, emotion: int, speaker: int) -> Tensor | None:
    """Return the expression `[1, D]` of the first readable clip of another speaker with the emotion, or None."""
    for row in others_showing(bench.clips, emotion, speaker):
        with contextlib.suppress(ShardError):
            return bench.expression(int(row))
    return None
