"""The arguments that build DAVS; a checkpoint stores them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from typing import Any

from davs_model.data.corpus import Corpus
from davs_model.models.davs.settings import STANDARDISE, Networks, Settings

OPTIONS = (
    "identity_scales",
    "blend",
    "flow",
    "speech_map",
    "mouth_size",
    "visual_width",
    "audio_width",
    "normalised",
    "standardise",
    "words_from_feature",
    "audio_smoothing",
    "reads_mouth",
)
"""Dimensions that are not in the paper; a checkpoint without one of them means 0."""


@dataclass(frozen=True, kw_only=True)
class SharedDimensions(ABC):
    """The arguments that all talking-face models have in common.

    n_words: N_w of the word classifiers.
    n_people: number of people in the labelled faces; 0: no `person_classifier`.
    width, image_size: channel multiplier and S (64, 128 or 256).
    speech_frames: frames that C_w reads at once.
    identity_scales, blend, flow, speech_map: see `Decoder`.
    mouth_size: side in pixels of the mouth region that E_w^v sees; 0: it sees whole frames of `image_size`.
    visual_width, audio_width: channel multipliers of E_w^v and of the audio encoders; 0: `width`.
    standardise: index in `STANDARDISE`, for E_w^a.
    """

    n_words: int = 500
    n_people: int = 0
    width: float = 1.0
    image_size: int = 256
    speech_frames: int = 12
    identity_scales: int = 0
    blend: int = 0
    flow: int = 0
    speech_map: int = 0
    mouth_size: int = 0
    visual_width: float = 0.0
    audio_width: float = 0.0
    standardise: int = 0

    @classmethod
    @abstractmethod
    def of(cls, corpus: Corpus, settings: Any) -> SharedDimensions:
        """Return the dimensions that fit these clips and settings."""

    @staticmethod
    def shared(corpus: Corpus, model: Networks) -> dict[str, Any]:
        """Return the common arguments that fit these clips and settings."""
        named = ("width", "image_size", "speech_frames", "identity_scales", "speech_map", "mouth_size")
        return {
            "n_words": max(1, len(corpus.train.label_names["words"])),
            "n_people": len(corpus.faces or corpus.train.label_names["speakers"]),
            **{name: getattr(model, name) for name in (*named, "visual_width", "audio_width")},
            "blend": int(model.blend),
            "flow": int(model.flow),
            "standardise": STANDARDISE.index(model.standardise),
        }

    def as_dict(self) -> dict[str, int | float]:
        """Return the dimensions by name."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Dimensions(SharedDimensions):
    """The arguments of `DAVS`; the defaults are the released networks.

    n_speakers: number of speakers of the clips; 0: no `speech_person_classifier`.
    identity_frames, sequence_frames: frames that C_p^w and D_seq read at once.
    n_word_classifiers: 1: C_w, shared by both modalities; 2: one each, as in the rows of Table 3 without SC.
    words_from_feature: see `IdentityWordClassifier`. audio_smoothing: see `DAVS.smooth_sound`.
    normalised: see `VisualSpeechEncoder`. reads_mouth: 1: there is a `MouthReader`.

    The `OPTIONS` are not in the paper; each is 0 in the released networks.
    """

    n_speakers: int = 0
    identity_frames: int = 20
    sequence_frames: int = 6
    n_word_classifiers: int = 1
    normalised: int = 0
    words_from_feature: int = 0
    audio_smoothing: float = 0.0
    reads_mouth: int = 0

    def __post_init__(self) -> None:
        if self.n_word_classifiers not in (1, 2):
            raise ValueError(f"n_word_classifiers {self.n_word_classifiers}: 1, shared, or 2")

    @classmethod
    def of(cls, corpus: Corpus, settings: Settings) -> Dimensions:
        """Return the dimensions that fit these clips and settings."""
        model, shared = settings.model, cls.shared(corpus, settings.model)
        if model.standardise == "voice" and corpus.train.mfcc_preset == "syncnet":
            shared["standardise"] = STANDARDISE.index("voice of syncnet")
        if model.identity_scales == 1:
            shared["identity_scales"] = 0  # 1 is the released decoder, whose dimensions do not have this option
        return cls(
            **shared,
            n_speakers=len(corpus.train.label_names["speakers"]),
            identity_frames=model.identity_frames,
            sequence_frames=model.sequence_frames,
            n_word_classifiers=1 if model.shared_classifier else 2,
            normalised=int(model.normalised),
            words_from_feature=int(model.identity_words == "feature"),
            audio_smoothing=model.audio_smoothing,
            reads_mouth=int(settings.weights.mouth_reading > 0),
        )

    def as_dict(self) -> dict[str, int | float]:
        """Return the dimensions by name, without options that are 0: the released networks have none of these."""
        return {name: size for name, size in asdict(self).items() if size or name not in OPTIONS}
