"""Readers of emotion and identity in generated frames; the model was trained with none of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from avprep.errors import RunError, ShardError
from davs_model import checkpoint, precision
from davs_model.data.clips import Clips
from davs_model.data.pictures import as_read, to_pictures
from davs_model.evaluation.expression.targets import evenly, expression_of
from davs_model.evaluation.metrics.emotion import EmotionSVM, gradients
from davs_model.models.base import PORTRAIT, TalkingModel


@dataclass(frozen=True)
class Readers:
    """Two emotion classifiers, of whole faces and of faces without mouths; n_clips: number of their training clips."""

    whole: EmotionSVM
    mouthless: EmotionSVM
    n_clips: int

    @classmethod
    def fit(cls, clips: Clips, side: int, *, limit: int, seed: int = 0) -> Readers:
        """Fit them to real frames of the first clips with an emotion; ValueError for fewer than two emotions."""
        seen: dict[bool, list[NDArray[np.float64]]] = {True: [], False: []}
        emotions = []
        for row in np.flatnonzero(clips.emotions >= 0)[:limit]:
            try:
                frames = to_pictures(expression_of(clips, int(row), side))
            except ShardError:
                continue
            for mouth, found in seen.items():
                found.append(gradients(frames, mouth=mouth))
            emotions.append(int(clips.emotions[row]))
        if len(set(emotions)) < 2:
            raise ValueError("the train split has no clips of two emotions")
        labels = np.array(emotions)
        whole, mouthless = (EmotionSVM.fit(np.stack(seen[mouth]), labels, seed=seed) for mouth in (True, False))
        return cls(whole, mouthless, len(labels))

    def read(self, frames: Tensor) -> tuple[int, int]:
        """Return the emotion of a clip `[T, 3, S, S]` by the whole face, and without its mouth."""
        shown = to_pictures(frames[evenly(len(frames))])
        by = ((self.whole, True), (self.mouthless, False))
        whole, mouthless = (int(reader.read(gradients(shown, mouth=mouth)[None])[0]) for reader, mouth in by)
        return whole, mouthless


class IdentityReader:
    """The identity encoder of another run."""

    def __init__(self, model: TalkingModel) -> None:
        self.model = model
        self._form = model.reads(model.dimensions)[PORTRAIT]
        self._side = self._form.size or int(model.dimensions["image_size"])

    @classmethod
    def load(cls, run: Path, device: str) -> IdentityReader:
        """Load the model of a run; CheckpointError, or RunError if it does not encode identity."""
        model = precision.place(checkpoint.load(run).model(), device).eval()
        if PORTRAIT not in model.reads(model.dimensions):
            raise RunError(f"{run}: a model {model.name}, which does not encode identity")
        return cls(model)

    @torch.inference_mode()
    def features(self, frames: Tensor) -> Tensor:
        """Return the identity features `[T, D]` of frames `[T, 3, S, S]`."""
        read = as_read(frames[:, None].float(), self._form.box, self._side)
        return self.model.embeddings({PORTRAIT: read})["identity"].float().flatten(1)

    def against(self, frames: Tensor, person: Tensor) -> tuple[float, float]:
        """Return mean cosine similarity and squared distance of frames `[T, 3, S, S]` to a person's feature `[D]`."""
        found = self.features(frames)
        cosine = functional.cosine_similarity(found, person[None].expand_as(found)).mean()
        return float(cosine), float((found - person).square().sum(1).mean())
