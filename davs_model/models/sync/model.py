"""The sync model as a `TalkingModel`: its reads, stages and terms."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from davs_model.data.clips import Clips
from davs_model.data.corpus import Corpus
from davs_model.data.reads import Batch, Reads
from davs_model.models.base import FRAMES, SOUND, WINDOWS, Gather, Measure, Phase, Stage, TalkingModel
from davs_model.models.sync import clips as offsets
from davs_model.models.sync import settings as own
from davs_model.models.sync.loss import contrast
from davs_model.models.sync.networks import (
    CONTEXT,
    LOWER_HALF,
    AudioEncoder,
    Temperature,
    VisualEncoder,
    moved,
    standardised_grey,
    standardised_windows,
)
from davs_model.models.sync.scorer import Scorer

EVALUATED_FRAMES = 25
"""Number of frames of a clip that retrieval compares: one second."""
NOISE = 0.2
"""Standard deviation of the noise that is added to standardised MFCC in training, at strength 1."""

VALID = "valid"
"""Name of the read of which windows hold nothing but real audio."""

_PHASES = (Phase("sync", ("visual_encoder", "audio_encoder", "temperature")),)
_READS = (FRAMES, WINDOWS, VALID, SOUND)


class Sync(TalkingModel):
    """Features of audio and video that are similar if both are of the same instant; it generates no frames."""

    name = "sync"
    Settings = own.Settings
    stages: ClassVar[Mapping[str, Stage]] = {
        # First far negatives, of all clips.
        "contrast": Stage("contrast", reads=_READS, terms=("contrast",), phases=_PHASES),
        # Near negatives, of the clips that are in sync.
        "refine": Stage("refine", reads=_READS, terms=("refine",), phases=_PHASES, chooses=True),
    }

    def __init__(self, *, width: float = 1.0, image_size: int = 48) -> None:
        super().__init__()
        self.dimensions = {"width": width, "image_size": image_size}
        self.visual_encoder = VisualEncoder(width=width, side=image_size)
        self.audio_encoder = AudioEncoder(width=width)
        self.temperature = Temperature()

    @classmethod
    def dimensions_for(cls, corpus: Corpus, settings: own.Settings) -> dict[str, int | float]:
        """Return the arguments that fit these settings."""
        return {"width": settings.model.width, "image_size": settings.model.mouth_size}

    @classmethod
    def reads(cls, dimensions: Mapping[str, int | float]) -> dict[str, Reads]:
        """Return the lower half of consecutive frames, their windows and the statistics of the clip's windows."""
        side = int(dimensions["image_size"])
        return {
            FRAMES: Reads("frames", EVALUATED_FRAMES, at="sound", box=LOWER_HALF, size=side),
            WINDOWS: Reads("windows", EVALUATED_FRAMES, beside=FRAMES),
            SOUND: Reads("statistics", 2),
        }

    @classmethod
    def training_reads(
        cls, dimensions: Mapping[str, int | float], stage: str, settings: own.Settings
    ) -> dict[str, Reads]:
        """Return `reads` with the number of frames in the settings, and which of their windows are valid."""
        found, length = cls.reads(dimensions), settings.contrast.frames
        longer = {name: replace(found[name], length=length) for name in (FRAMES, WINDOWS)}
        return found | longer | {VALID: Reads("valid", length, beside=FRAMES)}

    def terms(
        self, batch: Batch, wanted: Collection[str], settings: own.Settings, *, progress: float, gather: Gather
    ) -> dict[str, Tensor]:
        """Return the contrastive loss of valid windows; `contrast` begins with far negatives, `refine` with near."""
        (term,) = wanted
        strength = settings.contrast.augment
        grey, windows = standardised_grey(batch[FRAMES]), standardised_windows(batch[WINDOWS], batch[SOUND])
        if strength:
            grey, windows = moved(grey, strength), windows + NOISE * strength * torch.randn_like(windows)
        inner = slice(CONTEXT, -CONTEXT)  # beyond, the visual encoder sees repeated frames
        video, audio, valid = (
            gather(each[:, inner]) for each in (self.visual_encoder(grey), self.audio_encoder(windows), batch[VALID])
        )
        nearest = _nearest(settings.contrast, progress if term == "contrast" else 1.0)
        scale, others = self.temperature.scale(), settings.contrast.others
        return {term: contrast(video, audio, valid > 0, scale, nearest=nearest, others=others)}

    def measures(self, stage: str, clips: Clips, device: torch.device, *, limit: int) -> tuple[Measure, ...]:
        """Return how many known shifts of clips are recovered."""
        return offsets.measure(Scorer(self, device=device), clips, limit)

    def left_out(self, clips: Clips, device: torch.device, settings: own.Settings) -> dict[str, Any]:
        """Return the clips that are out of sync or uncertain; see `clips.doubtful`."""
        limits = settings.refine
        return offsets.doubtful(Scorer(self, device=device), clips, limits.offset, limits.confidence)

    def encode_speech(self, *, frames: Tensor | None = None, windows: Tensor | None = None) -> Tensor:
        """Encode frames `[B, T, 3, S, S]`, or grey ones, or windows `[B, T, 12, 20]` as unit vectors `[B, T, 256]`.

        The features of the first two and last two frames depend on repeated frames.
        """
        if frames is not None:
            return self.visual_encoder(standardised_grey(frames))
        assert windows is not None
        return self.encode_sound(windows)

    def encode_sound(self, windows: Tensor, statistics: Tensor | None = None) -> Tensor:
        """Encode windows `[B, T, 12, 20]` as unit vectors `[B, T, 256]`; statistics: of their clips."""
        return self.audio_encoder(
            standardised_windows(windows, _statistics(windows) if statistics is None else statistics)
        )

    def embeddings(self, batch: Batch) -> dict[str, Tensor]:
        """Return the features of frames and of their windows, without those at the ends."""
        inner = slice(CONTEXT, -CONTEXT)
        video, audio = self.encode_speech(frames=batch[FRAMES]), self.encode_sound(batch[WINDOWS], batch[SOUND])
        return {"video": video[:, inner], "audio": audio[:, inner]}

    def encode_identity(self, frames: Tensor) -> Any:
        """Raise NotImplementedError: it generates nothing."""
        raise NotImplementedError("the sync model generates nothing")

    def decode(self, identity: Any, speech: Tensor) -> Tensor:
        """Raise NotImplementedError: it generates nothing."""
        raise NotImplementedError("the sync model generates nothing")


def _statistics(windows: Tensor) -> Tensor:
    """Return mean and standard deviation of each coefficient of windows `[B, T, 12, 20]`: `[B, 2, 12]`."""
    mean, deviation = windows.mean((1, 3)), windows.std((1, 3), unbiased=False)
    return torch.stack([mean, deviation.clamp(min=1e-3)], 1)


def _nearest(settings: own.Contrast, progress: float) -> int:
    """Return the minimum distance of negatives: `far` up to the middle of the stage, then linearly down to `near`."""
    left = min(1.0, max(0.0, 2 * (1 - progress)))
    return settings.near + round((settings.far - settings.near) * left)


Model = Sync
"""The name that every model has."""
