"""The smallest talking model: a few linear layers with reads, terms and settings of its own."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from davs_model.data.corpus import Corpus
from davs_model.data.reads import Batch, Reads
from davs_model.models.base import FRAMES, PORTRAIT, WINDOWS, Gather, Phase, Stage, TalkingModel
from davs_model.settings import Count, Factor, RunSettings, Section

SIDE = 8
"""Side of the pictures that it looks at and draws, before they are made larger."""


class Networks(Section):
    """The networks."""

    features: Count = 6
    """Length of a feature."""


class Steps(Section):
    """Length of the stages."""

    listen: Count = 4
    """Steps of the speech encoders."""
    talk: Count = 3
    """Steps of everything."""


class Weights(Section):
    """Factors of the terms."""

    agreement: Factor = 1.0
    """Factor of the distance of audio and video."""
    picture: Factor = 2.0
    """Factor of the error of frames."""
    likeness: Factor = 0.5
    """Factor of the distance of a face to itself at other moments."""


class Settings(RunSettings):
    """Its settings."""

    of_model: ClassVar[str] = "toy"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"plain": {}}

    preset: Literal["plain"] = "plain"
    model: Networks = Networks()
    steps: Steps = Steps()
    weights: Weights = Weights()


class Model(TalkingModel):
    """Linear layers between images of 8×8, windows and features."""

    name = "toy"
    Settings = Settings
    stages: ClassVar[Mapping[str, Stage]] = {
        "listen": Stage(
            "listen",
            reads=(FRAMES, WINDOWS),
            terms=("agreement",),
            phases=(Phase("ears", ("eye", "ear")),),
            initialises=True,
        ),
        "talk": Stage(
            "talk",
            reads=("other_moments", FRAMES, WINDOWS, PORTRAIT),
            terms=("picture", "likeness"),
            phases=(Phase("mouth", ("mouth",)), Phase("face", ("face", "eye", "ear"))),
            validation_reads=(FRAMES, WINDOWS, PORTRAIT),
            generates=True,
        ),
    }

    def __init__(self, *, features: int = 6, image_size: int = 64) -> None:
        super().__init__()
        self.dimensions = {"features": features, "image_size": image_size}
        self.eye, self.face = (nn.Linear(3 * SIDE * SIDE, features) for _ in range(2))
        self.ear = nn.Linear(12 * 20, features)
        self.mouth = nn.Linear(2 * features, 3 * SIDE * SIDE)
        self.noise = nn.Dropout(0.1)

    @classmethod
    def dimensions_for(cls, corpus: Corpus, settings: Settings) -> dict[str, int | float]:
        """The features of the settings, in images of 64 pixels."""
        return {"features": settings.model.features, "image_size": 64}

    @classmethod
    def reads(cls, dimensions: Mapping[str, int | float]) -> dict[str, Reads]:
        """Three instants far apart, seven consecutive frames with their windows, and a portrait."""
        return {
            "other_moments": Reads("frames", 3, every=9),
            FRAMES: Reads("frames", 7, at="sound"),
            WINDOWS: Reads("windows", 7, beside=FRAMES),
            PORTRAIT: Reads("frames", 1, at="portrait"),
        }

    def terms(
        self, batch: Batch, wanted: Collection[str], settings: Settings, *, progress: float, gather: Gather
    ) -> dict[str, Tensor]:
        """Agreement of audio and video, error of frames, weighted by the progress, and likeness of a face."""
        audio, video = self.encode_speech(windows=batch[WINDOWS]), self.encode_speech(frames=batch[FRAMES])
        found = {"agreement": functional.mse_loss(self.noise(audio), video)}
        if "picture" in wanted:
            identity = self.encode_identity(batch[PORTRAIT])
            for driver, speech in (("audio", audio), ("video", video)):
                error = functional.l1_loss(self.decode(identity, speech), batch[FRAMES])
                found[f"picture_{driver}"] = progress * error
        if "likeness" in wanted:
            moments = self.encode_identity(batch["other_moments"])
            found["likeness"] = functional.mse_loss(moments[:, :1].expand_as(moments), moments)
        return {name: value for name, value in found.items() if name.partition("_")[0] in wanted}

    def initialise(self, batch: Batch) -> None:
        """Make features of windows start with a mean of 0."""
        with torch.no_grad():
            self.ear.bias -= self.encode_speech(windows=batch[WINDOWS]).mean((0, 1))

    def encode_identity(self, frames: Tensor) -> Tensor:
        """Return a feature of each image."""
        return self.face(_small(frames))

    def encode_speech(self, *, frames: Tensor | None = None, windows: Tensor | None = None) -> Tensor:
        """Return a feature of each frame or window."""
        if frames is not None:
            return self.eye(_small(frames))
        assert windows is not None
        return self.ear(windows.flatten(2))

    def decode(self, identity: Tensor, speech: Tensor) -> Tensor:
        """Return an enlarged image of 8×8 for each speech feature."""
        side = int(self.dimensions["image_size"])
        features = torch.cat((identity.expand(*speech.shape[:2], -1), speech), dim=-1)
        pictures = self.mouth(features).float().sigmoid().view(-1, 3, SIDE, SIDE)
        return functional.interpolate(pictures, side).view(*speech.shape[:2], 3, side, side)

    def embeddings(self, batch: Batch) -> dict[str, Tensor]:
        """Return features of speech and of the portrait."""
        found: dict[str, Tensor] = {}
        if FRAMES in batch:
            found["video"] = self.encode_speech(frames=batch[FRAMES])
            found["audio"] = self.encode_speech(windows=batch[WINDOWS])
        if PORTRAIT in batch:
            found["identity"] = self.encode_identity(batch[PORTRAIT])[:, 0]
        return found


def _small(frames: Tensor) -> Tensor:
    """Return images of 8×8 as vectors `[B, T, 192]`."""
    small = functional.adaptive_avg_pool2d(frames.flatten(0, 1), SIDE)
    return small.reshape(*frames.shape[:2], -1)
