"""The arguments that build AMIE, which a checkpoint keeps."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from davs_model.data.corpus import Corpus
from davs_model.models.amie.settings import Settings
from davs_model.models.davs.settings import STANDARDISE


@dataclass(frozen=True, kw_only=True)
class Dimensions:
    """The arguments of `AMIE`.

    n_words: N_w of the word classifier of the speech stage. n_people: people of the labelled faces; 0: no
        `person_classifier`.
    width, image_size: channel multiplier and S (64, 128 or 256).
    speech_frames: frames that C_w reads at once. run: frames in a row that are read of a clip.
    mouth_estimator: 1: T sees the mouth region alone; 0: whole frames.
    identity_scales, blend, speech_map, mouth_size, visual_width, audio_width, standardise: as of DAVS.
    """

    n_words: int = 500
    n_people: int = 0
    width: float = 1.0
    image_size: int = 256
    speech_frames: int = 12
    run: int = 16
    mouth_estimator: int = 0
    identity_scales: int = 0
    blend: int = 0
    speech_map: int = 0
    mouth_size: int = 0
    visual_width: float = 0.0
    audio_width: float = 0.0
    standardise: int = 0

    @classmethod
    def of(cls, corpus: Corpus, settings: Settings) -> Dimensions:
        """Return the dimensions that fit these clips and settings."""
        model = settings.model
        return cls(
            n_words=max(1, len(corpus.train.vocabulary)),
            n_people=len(corpus.faces or corpus.train.people),
            width=model.width,
            image_size=model.image_size,
            speech_frames=model.speech_frames,
            run=settings.generation.run,
            mouth_estimator=int(settings.mi.region == "mouth"),
            identity_scales=model.identity_scales,
            blend=int(model.blend),
            speech_map=model.speech_map,
            mouth_size=model.mouth_size,
            visual_width=model.visual_width,
            audio_width=model.audio_width,
            standardise=STANDARDISE.index(model.standardise),
        )

    def as_dict(self) -> dict[str, int | float]:
        """Return the dimensions by name."""
        return asdict(self)
