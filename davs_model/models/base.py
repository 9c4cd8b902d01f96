"""What a model is to training, evaluation and generation, which know it by this alone."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from davs_model.data.clips import Clips
from davs_model.data.corpus import Corpus
from davs_model.data.reads import Batch, Reads
from davs_model.settings import RunSettings

PORTRAIT, FRAMES, WINDOWS, SEQUENCE = "identity_frame", "frames", "windows", "consecutive"
REAL, SOUND, EXPRESSION = "real_frames", "sound", "expression"
"""What evaluation and sample sheets read, if the model reads it: a single frame that shows who is to speak; the frames
that visual speech is read from; their MFCC windows; frames in a row, whose identity features leakage is measured in;
the frames to generate, where those of `FRAMES` are of another form; the statistics of the clip's windows; frames that
show an expression."""
EXPRESSION_FRAMES = 8
"""Frames, evenly spread over a clip, that its expression is read from."""
EVALUATED = (PORTRAIT, FRAMES, WINDOWS, SEQUENCE, REAL, SOUND, EXPRESSION)
DRIVERS = ("audio", "video")
"""What frames are generated from, by a model that says no other."""

Gather = Callable[[Tensor], Tensor]
"""Puts the features `[B, …]` of all processes together."""


@dataclass(frozen=True)
class Phase:
    """Networks, attributes of the model, that one optimizer moves."""

    name: str
    networks: tuple[str, ...]


@dataclass(frozen=True)
class Stage:
    """One stage of training.

    reads: names of `TalkingModel.reads`. terms: those of the objective. phases: each network belongs to one at most.
    validation_reads: what validation reads instead; None: the same.
    people: whether it tells people apart, so that it needs several, and takes those of `data.faces` if that is set.
    emotions: whether it tells emotions apart, so that it needs several.
    frozen: networks that stay as they are, in eval mode; they belong to no phase.
    initialises: whether the model fits its first weights to a batch before the first of such stages.
    generates: whether the model can generate frames from then on.
    chooses: whether clips are left out that the model, as it is before the stage, names in `TalkingModel.left_out`.
    """

    name: str
    reads: tuple[str, ...]
    terms: tuple[str, ...]
    phases: tuple[Phase, ...]
    validation_reads: tuple[str, ...] | None = None
    people: bool = False
    emotions: bool = False
    frozen: tuple[str, ...] = ()
    initialises: bool = False
    generates: bool = False
    chooses: bool = False

    def without(self, networks: Collection[str]) -> Stage:
        """Return the stage as it is where these networks are not trained."""
        kept = (tuple(name for name in phase.networks if name not in networks) for phase in self.phases)
        phases = (replace(phase, networks=names) for phase, names in zip(self.phases, kept, strict=True) if names)
        return replace(self, phases=tuple(phases))


@dataclass(frozen=True)
class Measure:
    """Something that is measured of one model alone, on clips that it does not learn from.

    name: in logs and metrics.json, which have `facts`, JSON values. summary: it in one line.
    title, notes, head, rows: its section of the evaluation's page, as text.
    """

    name: str
    summary: str
    facts: Mapping[str, Any]
    title: str
    notes: tuple[str, ...]
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class PaperTable:
    """A table of the paper, which stands on the evaluation's page below what was measured here.

    columns: each with where it stands in metrics.json, `reconstruction.audio.psnr`; "": it is not measured here. A
    fraction there is shown in % where the column's title ends so.
    rows: the paper's, with the name of each.
    """

    title: str
    note: str
    columns: Mapping[str, str]
    rows: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class PaperData:
    """The clips that all tables of a paper are of, so that figures of the very same ones compare.

    dataset: its name; manifests have it in lower case. words, clips: those of the split. image_size: pixels of a
    frame's side.
    """

    dataset: str
    split: str
    words: int
    clips: int
    image_size: int


class Lead(Protocol):
    """How far audio and video of a film are apart: how early its audio is, in frames, and how sure that is."""

    @property
    def audio_lead_frames(self) -> float:
        """Positive where the audio is early."""
        ...

    @property
    def confidence(self) -> float:
        """On the scale of the model."""
        ...

    @property
    def distance(self) -> float:
        """Of audio and video at that lead, on the scale of the model."""
        ...


class SyncJudge(Protocol):
    """Finds out how far audio and video of films are apart."""

    def lead(self, crops: NDArray[np.uint8], windows: NDArray[np.float32], valid: NDArray[np.bool_]) -> Lead | None:
        """Return that of a film; None where it is too short.

        crops: (T, 256, 256, 3), RGB. windows: (T, 12, 20). valid: (T,), which windows hold real audio alone.
        """
        ...


class TalkingModel(nn.Module, ABC):
    """A model that makes a person in a picture say what is heard or seen elsewhere."""

    name: ClassVar[str]
    """Of its module in `davs_model.models`."""
    Settings: ClassVar[type[RunSettings]]
    stages: ClassVar[Mapping[str, Stage]]
    """In the order of training."""
    labels: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    """The terms that need a label of each clip, `words`, `speakers` or `emotions`."""
    paper: ClassVar[tuple[PaperTable, ...]] = ()
    paper_data: ClassVar[PaperData | None] = None
    code_length: ClassVar[int] = 0
    """F of `encode_speech`, for a model that reads `codes`."""
    drivers: ClassVar[tuple[str, ...]] = DRIVERS
    """Of `DRIVERS`, what its frames are generated from; a video drives others by its sound."""
    modalities: ClassVar[tuple[str, ...]] = ()
    """What `modality_weights` weighs."""
    expression_length: ClassVar[int] = 0
    """D of `encode_expression`; 0: the model takes no expression."""
    adapts: ClassVar[tuple[str, ...]] = ()
    """Networks that are tuned to a person before they talk; none: the model cannot be adapted."""
    in_order: ClassVar[bool] = False
    """Whether a frame depends on the one generated before, so that it learns from frames in a row alone."""

    smooths: bool = False
    """Whether `smooth_sound` does anything."""
    dimensions: dict[str, int | float]
    """The arguments that make another one like this; `image_size` is among them."""

    @classmethod
    @abstractmethod
    def dimensions_for(cls, corpus: Corpus, settings: Any) -> dict[str, int | float]:
        """Return the arguments that fit these clips and settings."""

    @classmethod
    @abstractmethod
    def reads(cls, dimensions: Mapping[str, int | float]) -> dict[str, Reads]:
        """Return all that a model of these dimensions reads, in the order in which it is drawn."""

    @classmethod
    def training_reads(cls, dimensions: Mapping[str, int | float], stage: str, settings: Any) -> dict[str, Reads]:
        """Return that, as a stage of training with these settings reads it."""
        return cls.reads(dimensions)

    @classmethod
    def plan(cls, name: str, settings: Any) -> Stage:
        """Return a stage as these settings change it."""
        return cls.stages[name]

    @classmethod
    def drawn_from(cls, settings: Mapping[str, Any]) -> tuple[str, ...]:
        """Return from which of `drivers` a training with these settings generates frames; JSON values, maybe none."""
        return cls.drivers

    @abstractmethod
    def terms(
        self, batch: Batch, wanted: Collection[str], settings: Any, *, progress: float, gather: Gather
    ) -> dict[str, Tensor]:
        """Return the terms of the objective that are wanted, one number each, without factors.

        A term may come once for each of `DRIVERS`, as `TERM_audio` and `TERM_video`.
        progress: fraction of the steps of the stage that are done, this one included.
        gather: for terms that compare all clips of a batch.
        """

    @abstractmethod
    def encode_identity(self, frames: Tensor) -> Any:
        """Encode who is seen in frames `[B, K, 3, S, S]`; for `decode` alone."""

    def encode_person(self, frames: Tensor) -> Any:
        """Encode who is seen in K frames of the same person, `[B, K, 3, S, S]`; for `decode` alone.

        A model shows the first, or chooses among them. One that cannot put several together has the first alone.
        """
        return self.encode_identity(frames[:, :1])

    @abstractmethod
    def encode_speech(self, *, frames: Tensor | None = None, windows: Tensor | None = None) -> Tensor:
        """Encode what is said in frames, of the form of `FRAMES`, or windows `[B, T, 12, 20]`: `[B, T, F]`."""

    # Only a model with an `expression_length` is asked for the next three, one with `modalities` for their weights.
    def encode_expression(self, frames: Tensor) -> Tensor:
        """Encode the expression in T frames of any person, `[B, T, 3, S, S]`: `[B, D]`."""
        raise NotImplementedError

    def mean_expression(self, emotion: int | None = None) -> Tensor:
        """Return the mean of what clips of an emotion express, by its number, or clips of any: `[1, D]`."""
        raise NotImplementedError

    def expressing(self, identity: Any, expression: Tensor) -> Any:
        """Return somebody with another expression, `[B, D]` or `[1, D]`; for `decode` alone."""
        raise NotImplementedError

    def conditioned(self, identity: Any, batch: Batch) -> Any:
        """Return somebody with all that a batch of `EVALUATED` says of how they are to look."""
        return identity

    def modality_weights(self, identity: Any, speech: Tensor) -> Tensor:
        """Return how much each of `modalities` counts in each frame, 1 on average: `[B, T, M]`."""
        raise NotImplementedError

    def encode_sound(self, windows: Tensor, statistics: Tensor | None = None) -> Tensor:
        """Encode what is said in windows `[B, T, 12, 20]`: `[B, T, F]`; for a model that reads `SOUND`, by that.

        statistics: `SOUND` of the clips that the windows are from, `[B, 2, 12]`, or `[B, 14, 12]` with the
            covariance; None: that of these windows.
        """
        return self.encode_speech(windows=windows)

    def smooth_sound(self, speech: Tensor) -> Tensor:
        """Return what `encode_sound` made of frames in a row as it is decoded; each may depend on those beside it."""
        return speech

    @abstractmethod
    def decode(self, identity: Any, speech: Tensor) -> Tensor:
        """Generate frames `[B, T, 3, S, S]` in [0, 1] of B people saying `[B, T, F]`."""

    def decode_on(self, identity: Any, speech: Tensor) -> tuple[Tensor, Any]:
        """Generate frames as `decode`, and return what stands for the identity where the frames after them begin.

        For a model whose frames depend on those before: it draws a long speech part by part as it would at once.
        """
        return self.decode(identity, speech), identity

    @abstractmethod
    def embeddings(self, batch: Batch) -> dict[str, Tensor]:
        """Return what the encoders make of that part of `EVALUATED` which a batch has.

        `video` and `audio` `[B, T, F]`: `encode_speech` of `FRAMES` and `WINDOWS`. Each of these if the model has it:
        `identity` `[B, D]` of `PORTRAIT`, `identity_sequence` `[B, K, D]` of `SEQUENCE`, and `video_logits` and
        `audio_logits` `[B, N_w]`, the words that a classifier finds.
        """

    def person_features(self, frames: Tensor) -> Tensor:
        """Return the feature of who is seen in K frames, `[B, K, 3, S, S]`: `[B, F]`, here the mean of each frame's."""
        each = self.embeddings({PORTRAIT: frames.flatten(0, 1)[:, None]})["identity"]
        return each.unflatten(0, frames.shape[:2]).mean(1)

    def factors(self, stage: Stage, settings: Any, *, people_are_speakers: bool) -> dict[str, float]:
        """Return the factor of each term that a stage minimises, those of both sides of an adversarial pair alike.

        Terms that are switched off, or `idle`, are not in it: nothing of them is computed.
        people_are_speakers: a person of the labelled faces is a speaker of the clips, not one of `data.faces`.
        """
        idle = self.idle(stage, settings, people_are_speakers=people_are_speakers)
        names = {term: name for term in stage.terms if (name := term.removesuffix("_confusion")) not in idle}
        found = {term: float(getattr(settings.weights, name)) for term, name in names.items()}
        return {term: factor for term, factor in found.items() if factor}

    def idle(self, stage: Stage, settings: Any, *, people_are_speakers: bool) -> Collection[str]:
        """Return the terms, without `_confusion`, that this model cannot have, or these settings leave out."""
        return ()

    @property
    def listens(self) -> bool:
        """Whether the model is to `listen` before it learns."""
        return False

    def listen(self, batches: Sequence[Batch]) -> None:
        """Take what it has to know of the training's voices, in place; see `listens`. ValueError for silence."""

    @property
    def is_fitted(self) -> bool:
        """Whether weights of another run leave nothing to `initialise`."""
        return True

    def initialise(self, batch: Batch) -> None:
        """Fit the first weights to a batch of the training set, float32, in place; see `Stage.initialises`."""

    def adaptation_loss(self, photo: Tensor, generated: Tensor, before: Tensor) -> Tensor:
        """Return what tuning to a photo minimises; frames in [0, 1].

        photo: `[K, 1, 3, S, S]`. generated: frames of some speech, `[K, T, 3, S, S]`. before: the same before tuning.
        """
        return (photo.float() - generated.float()).abs().mean()

    def imitation_loss(self, real: Tensor, generated: Tensor) -> Tensor:
        """Return what tuning to a video minimises; frames `[B, T, 3, S, S]` in [0, 1], any T of a clip."""
        return (real.float() - generated.float()).abs().mean()

    @classmethod
    def uses(cls, clips: Clips, stage: str, settings: Any) -> NDArray[np.bool_]:
        """Return which of the training clips a stage learns from, bool (N,)."""
        return np.ones(len(clips), bool)

    def measures(self, stage: str, clips: Clips, device: torch.device, *, limit: int) -> tuple[Measure, ...]:
        """Return what can be measured of this model alone after a stage, on the first whole clips; in eval mode."""
        return ()

    def left_out(self, clips: Clips, device: torch.device, settings: Any) -> dict[str, Any]:
        """Return the names of clips that a stage which chooses leaves out, each with what was measured of it, JSON."""
        return {}

    def generated_part(self, batch: Batch) -> slice:
        """Return which of `FRAMES` are generated in a step."""
        part = self.reads(self.dimensions)[FRAMES].part
        start = int(batch[f"{FRAMES}_start"]) if part else 0
        return slice(start, start + part if part else None)


def term_of(name: str) -> str:
    """Return the term that a loss belongs to: `sequence` of `sequence_audio`."""
    for driver in DRIVERS:
        name = name.removesuffix(f"_{driver}")
    return name
