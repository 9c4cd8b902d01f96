"""The arguments that build AMIE; a checkpoint stores them."""

from __future__ import annotations

from dataclasses import dataclass

from davs_model.data.corpus import Corpus
from davs_model.models.amie.settings import Settings
from davs_model.models.davs.dimensions import SharedDimensions


@dataclass(frozen=True, kw_only=True)
class Dimensions(SharedDimensions):
    """The arguments of `AMIE`.

    run: number of consecutive frames that are read of a clip.
    mouth_estimator: 1: T sees only the mouth region; 0: whole frames.
    """

    run: int = 16
    mouth_estimator: int = 0

    @classmethod
    def of(cls, corpus: Corpus, settings: Settings) -> Dimensions:
        """Return the dimensions that fit these clips and settings."""
        return cls(
            **cls.shared(corpus, settings.model),
            run=settings.generation.run,
            mouth_estimator=int(settings.mi.region == "mouth"),
        )
