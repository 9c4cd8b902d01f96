"""The arguments that build ET-GAN; a checkpoint stores them."""

from __future__ import annotations

from dataclasses import dataclass

from davs_model.data.corpus import Corpus
from davs_model.models.davs.dimensions import SharedDimensions
from davs_model.models.etgan.settings import Settings

MODALITIES = ("identity", "expression", "audio", "position")
RUN_LENGTH = 8
"""Number of consecutive frames that are generated in a step."""


@dataclass(frozen=True, kw_only=True)
class Dimensions(SharedDimensions):
    """The arguments of `ETGAN`.

    n_speakers, n_emotions: numbers of speakers and emotions of the clips; below 2: no classifier of them.
    weighting: 1: ACW; 0: all modalities have the same weight.
    expression_rank: see `ExpressionEncoder`.
    """

    n_speakers: int = 0
    n_emotions: int = 0
    weighting: int = 1
    expression_rank: int = 8

    @classmethod
    def of(cls, corpus: Corpus, settings: Settings) -> Dimensions:
        """Return the dimensions that fit these clips and settings."""
        return cls(
            **cls.shared(corpus, settings.model),
            n_speakers=len(corpus.train.label_names["speakers"]),
            n_emotions=len(corpus.train.label_names["emotions"]),
            weighting=int(settings.model.weighting),
            expression_rank=settings.model.expression_rank,
        )
