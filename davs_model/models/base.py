"""The interface of a model. Training, evaluation and generation depend on nothing else of it."""

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
"""What evaluation and sample sheets read, if the model reads it. In this order: the identity frame; the frames that
visual speech is encoded from; their MFCC windows; consecutive frames, in whose identity features leakage is measured;
the frames to generate, if those of `FRAMES` have another form; the statistics of the clip's windows; frames that show
an expression."""
EXPRESSION_FRAMES = 8
"""Number of frames, evenly spread over a clip, that its expression is encoded from."""
EVALUATED = (PORTRAIT, FRAMES, WINDOWS, SEQUENCE, REAL, SOUND, EXPRESSION)
DRIVERS = ("audio", "video")
"""What frames are generated from, unless a model sets its own `drivers`."""

Gather = Callable[[Tensor], Tensor]
"""Concatenates the features `[B, …]` of all processes."""


@dataclass(frozen=True)
class Phase:
    """The networks, attributes of the model, that one optimizer updates."""

    name: str
    networks: tuple[str, ...]


@dataclass(frozen=True)
class Stage:
    """One stage of training.

    reads: names of `TalkingModel.reads`. terms: names of the terms of the objective.
    phases: the optimizers; a network belongs to at most one.
    validation_reads: what validation reads instead of `reads`; None: the same.
    people: whether it tells people apart. It then needs several, those of `data.faces` if that is set.
    emotions: whether it tells emotions apart. It then needs several.
    frozen: networks that are not trained and stay in eval mode; they belong to no phase.
    initialises: whether the model fits its initial weights to a batch before the first such stage.
    generates: whether the model can generate frames from this stage on.
    chooses: whether to leave out the clips that `TalkingModel.left_out` names, by the model as it is before the stage.
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
        """Return the stage without training these networks; a phase that has no network left is dropped."""
        kept = (tuple(name for name in phase.networks if name not in networks) for phase in self.phases)
        phases = (replace(phase, networks=names) for phase, names in zip(self.phases, kept, strict=True) if names)
        return replace(self, phases=tuple(phases))


@dataclass(frozen=True)
class Measure:
    """A measure that only one model has, taken on clips that it does not train on.

    name: its name in logs and in metrics.json. facts: its JSON values there. summary: the same in one line.
    title, notes, head, rows: its section of the evaluation page, as text.
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
    """A table of the paper, which the evaluation page shows below the values measured here.

    columns: the title of each, with its place in metrics.json, such as `reconstruction.audio.psnr`; "": not measured
    here. A fraction is shown in % if the title ends in %.
    rows: the cells of the paper, by the name of the row.
    """

    title: str
    note: str
    columns: Mapping[str, str]
    rows: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class PaperData:
    """The clips on which a paper measured all its tables; only results on the same clips are comparable.

    dataset: its name; manifests have it in lower case. words, clips: numbers of words and clips of the split.
    image_size: side of a frame in pixels.
    """

    dataset: str
    split: str
    words: int
    clips: int
    image_size: int


class Lead(Protocol):
    """The audio-video offset of a video: by how many frames its audio is early, and the confidence in that."""

    @property
    def audio_lead_frames(self) -> float:
        """Positive if the audio is early."""
        ...

    @property
    def confidence(self) -> float:
        """On the scale of the model."""
        ...

    @property
    def distance(self) -> float:
        """Distance between audio and video at that lead, on the scale of the model."""
        ...


class SyncJudge(Protocol):
    """Measures the audio-video offset of videos."""

    def lead(self, crops: NDArray[np.uint8], windows: NDArray[np.float32], valid: NDArray[np.bool_]) -> Lead | None:
        """Return the lead of a video; None if it is too short.

        crops: (T, 256, 256, 3), RGB. windows: (T, 12, 20). valid: (T,), which windows hold nothing but real audio.
        """
        ...


class TalkingModel(nn.Module, ABC):
    """A model that makes the person in an image speak, driven by audio or by the video of another speaker."""

    name: ClassVar[str]
    """Name of its module in `davs_model.models`."""
    Settings: ClassVar[type[RunSettings]]
    stages: ClassVar[Mapping[str, Stage]]
    """In the order of training."""
    labels: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    """The terms that need a label of each clip, by the label: `words`, `speakers` or `emotions`."""
    paper: ClassVar[tuple[PaperTable, ...]] = ()
    paper_data: ClassVar[PaperData | None] = None
    code_length: ClassVar[int] = 0
    """F of `encode_speech`, for a model that reads `codes`; otherwise 0."""
    drivers: ClassVar[tuple[str, ...]] = DRIVERS
    """What its frames are generated from, of `DRIVERS`; a model without `video` uses the audio of a driving video."""
    modalities: ClassVar[tuple[str, ...]] = ()
    """The M modalities that `modality_weights` weights."""
    expression_length: ClassVar[int] = 0
    """D of `encode_expression`; 0: the model takes no expression."""
    adapts: ClassVar[tuple[str, ...]] = ()
    """Networks that can be fine-tuned to one person before generation; empty: the model cannot be adapted."""
    in_order: ClassVar[bool] = False
    """Whether a frame depends on the one generated before it; the model then trains on consecutive frames only."""

    smooths: bool = False
    """Whether `smooth_sound` changes anything."""
    dimensions: dict[str, int | float]
    """The arguments that build a model of the same shapes; `image_size` is one of them."""

    @classmethod
    @abstractmethod
    def dimensions_for(cls, corpus: Corpus, settings: Any) -> dict[str, int | float]:
        """Return the arguments that fit these clips and settings."""

    @classmethod
    @abstractmethod
    def reads(cls, dimensions: Mapping[str, int | float]) -> dict[str, Reads]:
        """Return everything that a model of these dimensions reads, in the order in which it is sampled."""

    @classmethod
    def training_reads(cls, dimensions: Mapping[str, int | float], stage: str, settings: Any) -> dict[str, Reads]:
        """Return the same as a stage of a training with these settings reads it."""
        return cls.reads(dimensions)

    @classmethod
    def plan(cls, name: str, settings: Any) -> Stage:
        """Return a stage, as modified by these settings."""
        return cls.stages[name]

    @classmethod
    def drawn_from(cls, settings: Mapping[str, Any]) -> tuple[str, ...]:
        """Return which `drivers` a training with these settings (JSON values, may be empty) generates frames from."""
        return cls.drivers

    @abstractmethod
    def terms(
        self, batch: Batch, wanted: Collection[str], settings: Any, *, progress: float, gather: Gather
    ) -> dict[str, Tensor]:
        """Return the wanted terms of the objective, unweighted, one scalar each.

        A term may occur once for each of `DRIVERS`, as `TERM_audio` and `TERM_video`.
        progress: fraction of the stage's steps that are done, this one included.
        gather: for terms that compare all clips of a batch.
        """

    @abstractmethod
    def encode_identity(self, frames: Tensor) -> Any:
        """Encode the identity in frames `[B, K, 3, S, S]`; only `decode` interprets the result."""

    def encode_person(self, frames: Tensor) -> Any:
        """Encode the identity in K frames of one person, `[B, K, 3, S, S]`; only `decode` interprets the result.

        The appearance is that of the first frame, or the model chooses. One that cannot combine several uses the first.
        """
        return self.encode_identity(frames[:, :1])

    @abstractmethod
    def encode_speech(self, *, frames: Tensor | None = None, windows: Tensor | None = None) -> Tensor:
        """Encode speech as `[B, T, F]`, from frames in the form of `FRAMES` or from windows `[B, T, 12, 20]`."""

    # Only models with an `expression_length` need the next three methods; only those with `modalities` need weights.
    def encode_expression(self, frames: Tensor) -> Tensor:
        """Encode the expression in T frames of any person, `[B, T, 3, S, S]`, as `[B, D]`."""
        raise NotImplementedError

    def mean_expression(self, emotion: int | None = None) -> Tensor:
        """Return the mean expression `[1, D]` of the clips of an emotion, given by its number; None: of all clips."""
        raise NotImplementedError

    def expressing(self, identity: Any, expression: Tensor) -> Any:
        """Return the identity with another expression, `[B, D]` or `[1, D]`; only `decode` interprets the result."""
        raise NotImplementedError

    def conditioned(self, identity: Any, batch: Batch) -> Any:
        """Return the identity with all conditions on its appearance that a batch of `EVALUATED` contains."""
        return identity

    def modality_weights(self, identity: Any, speech: Tensor) -> Tensor:
        """Return the weight `[B, T, M]` of each of `modalities` in each frame; the weights are 1 on average."""
        raise NotImplementedError

    def encode_sound(self, windows: Tensor, statistics: Tensor | None = None) -> Tensor:
        """Encode speech in windows `[B, T, 12, 20]` as `[B, T, F]`; a model that reads `SOUND` standardises by it.

        statistics: `SOUND` of the clips that the windows are from, `[B, 2, 12]`, or `[B, 14, 12]` with the
            covariance; None: the statistics of these windows.
        """
        return self.encode_speech(windows=windows)

    def smooth_sound(self, speech: Tensor) -> Tensor:
        """Return the `encode_sound` features of consecutive frames, smoothed for `decode` over neighbouring frames."""
        return speech

    @abstractmethod
    def decode(self, identity: Any, speech: Tensor) -> Tensor:
        """Generate frames `[B, T, 3, S, S]` in [0, 1] of B people from speech features `[B, T, F]`."""

    def decode_on(self, identity: Any, speech: Tensor) -> tuple[Tensor, Any]:
        """Generate frames as `decode` does, and also return the identity to use for the frames that follow.

        A model whose frames depend on earlier ones thus generates long speech in parts, exactly as in one piece.
        """
        return self.decode(identity, speech), identity

    @abstractmethod
    def embeddings(self, batch: Batch) -> dict[str, Tensor]:
        """Return the embeddings of those of `EVALUATED` that a batch has.

        `video` and `audio` `[B, T, F]`: `encode_speech` of `FRAMES` and `WINDOWS`. If the model has them:
        `identity` `[B, D]` of `PORTRAIT`, `identity_sequence` `[B, K, D]` of `SEQUENCE`, and `video_logits` and
        `audio_logits` `[B, N_w]` of a word classifier.
        """

    def person_features(self, frames: Tensor) -> Tensor:
        """Return the identity feature `[B, F]` of K frames `[B, K, 3, S, S]`; here the mean of those of each frame."""
        each = self.embeddings({PORTRAIT: frames.flatten(0, 1)[:, None]})["identity"]
        return each.unflatten(0, frames.shape[:2]).mean(1)

    def factors(self, stage: Stage, settings: Any, *, people_are_speakers: bool) -> dict[str, float]:
        """Return the factor of each term that a stage minimises; both sides of an adversarial pair have the same one.

        Terms that are switched off or `idle` are absent, and are not computed.
        people_are_speakers: the labelled faces are those of the speakers of the clips, not those of `data.faces`.
        """
        idle = self.idle(stage, settings, people_are_speakers=people_are_speakers)
        names = {term: name for term in stage.terms if (name := term.removesuffix("_confusion")) not in idle}
        found = {term: float(getattr(settings.weights, name)) for term, name in names.items()}
        return {term: factor for term, factor in found.items() if factor}

    def idle(self, stage: Stage, settings: Any, *, people_are_speakers: bool) -> Collection[str]:
        """Return the terms, without `_confusion`, that this model cannot compute or these settings leave out."""
        return ()

    @property
    def listens(self) -> bool:
        """Whether `listen` must be called before training."""
        return False

    def listen(self, batches: Sequence[Batch]) -> None:
        """Estimate statistics of the training voices, in place; see `listens`. ValueError if all clips are silent."""

    @property
    def is_fitted(self) -> bool:
        """Whether the weights, loaded from another run, need no `initialise`."""
        return True

    def initialise(self, batch: Batch) -> None:
        """Fit the initial weights to a batch of the training set, float32, in place; see `Stage.initialises`."""

    def adaptation_loss(self, photo: Tensor, generated: Tensor, before: Tensor) -> Tensor:
        """Return the loss of fine-tuning to photos; frames are in [0, 1].

        photo: `[K, 1, 3, S, S]`. generated: frames of some speech, `[K, T, 3, S, S]`. before: the same frames,
        generated before fine-tuning.
        """
        return (photo.float() - generated.float()).abs().mean()

    def imitation_loss(self, real: Tensor, generated: Tensor) -> Tensor:
        """Return the loss of fine-tuning to a video; frames `[B, T, 3, S, S]` in [0, 1], any T frames of a clip."""
        return (real.float() - generated.float()).abs().mean()

    @classmethod
    def uses(cls, clips: Clips, stage: str, settings: Any) -> NDArray[np.bool_]:
        """Return which of the training clips a stage trains on, bool (N,)."""
        return np.ones(len(clips), bool)

    def measures(self, stage: str, clips: Clips, device: torch.device, *, limit: int) -> tuple[Measure, ...]:
        """Measure after a stage what only this model has, on the first `limit` whole clips, in eval mode."""
        return ()

    def left_out(self, clips: Clips, device: torch.device, settings: Any) -> dict[str, Any]:
        """Return the clips that a stage which `chooses` leaves out, by key, each with its measured JSON values."""
        return {}

    def generated_part(self, batch: Batch) -> slice:
        """Return the slice of `FRAMES` that a step generates."""
        part = self.reads(self.dimensions)[FRAMES].part
        start = int(batch[f"{FRAMES}_start"]) if part else 0
        return slice(start, start + part if part else None)


def term_of(name: str) -> str:
    """Return the term that a loss belongs to: `sequence` of `sequence_audio`."""
    for driver in DRIVERS:
        name = name.removesuffix(f"_{driver}")
    return name
