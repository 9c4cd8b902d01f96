"""The settings of ET-GAN-ACW: networks, stages, corrupted inputs, weights, ablation and presets; all of them ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Le

from davs_model.models.davs.settings import (
    COURSE,
    NARROW,
    NEEDS,
    SHORT,
    TALKING,
    FirstSteps,
    Fraction,
    Networks,
    SpeechWeights,
)
from davs_model.settings import Ablation, Count, Factor, RunSettings, Section


class Model(Networks):
    """The networks."""

    weighting: bool = True
    """Adaptive cross-modal weighting; false: all modalities have the same weight."""
    expression_rank: Annotated[int, Ge(1), Le(64)] = 8
    """Number of values of which e_exp is a linear function, so that it has little room but for the expression."""


class Generation(Section):
    """From what the full stage generates."""

    identity: Literal["others", "labelled"] = "others"
    """Source of the views of the person: other clips of the speaker, for all clips or only for those with an emotion
    label. A clip without one then has views from its own other moments, where the head is nearly as in the target."""
    views: Annotated[int, Ge(1), Le(16)] = 4
    """Maximum number of views of the person; each step draws a number of at least 1."""


class Corruption(Section):
    """Corruption of the inputs, never of the target frames, so that the weights have something to learn."""

    probability: Fraction = 0.3
    """Fraction of the clips in which one modality is corrupted."""
    masked: Fraction = 0.5
    """Fraction of the clips whose positions are masked in addition, as they are when videos are generated."""


class Judge(Section):
    """The emotion classifier that supervises the full stage."""

    people: Fraction = 0.25
    """Fraction of the speakers that only it trains on, and not expression and generation."""


class Adversaries(Section):
    """When the terms of the discriminators begin, and those of the expression classifiers."""

    frame_from: Fraction = 0.1
    """Fraction of the full stage's steps after which D_frame begins."""
    clip_from: Fraction = 0.3
    """Fraction of the full stage's steps after which D_st begins."""
    read_from: Fraction = 0.3
    """Fraction of the full stage's steps after which the judge and E_exp supervise generated frames; if they do so
    earlier, the generator learns patterns instead of expressions."""


class Steps(FirstSteps):
    """Length of the stages; 0 leaves one out."""

    judge: Count = 20_000
    """Optimizer steps of the judge, on speakers of its own."""
    expression: Count = 50_000
    """Optimizer steps of the expression encoder, on emotions."""
    full: Count = 300_000
    """Optimizer steps of everything together."""


class Weights(SpeechWeights):
    """Factors of the terms of the objective; 0 switches a term off."""

    domain: Factor = 0.0
    """Factor of L_adv^D of the speech stage, both sides."""
    judge: Factor = 1.0
    """Factor of the judge's own cross-entropy."""
    emotion: Factor = 1.0
    """Factor of the cross-entropy of emotions predicted from e_exp."""
    expression_person: Factor = 20.0
    """Factor of the removal of people from e_exp, in the form of DAVS's eq. 4 and 5."""
    expression_word: Factor = 20.0
    """Factor of the removal of words from e_exp, in the form of DAVS's eq. 2 and 3."""
    reconstruction: Factor = 100.0
    """Factor of the L1 of frames."""
    mouth: Factor = 100.0
    """Factor of the L1 inside the mouth box, in addition."""
    motion: Factor = 0.0
    """Factor of the L1 of the motion in the mouth box: its difference from its mean over a clip's generated frames."""
    eyes: Factor = 0.0
    """Factor of the L1 of eyebrows and eyes, in addition."""
    frame: Factor = 1.0
    """Factor of the hinge loss of D_frame, both sides."""
    clip: Factor = 1.0
    """Factor of the hinge loss of D_st, both sides."""
    read: Factor = 1.0
    """Factor of the cross-entropy of emotions that the judge predicts from generated frames."""
    retained: Factor = 1.0
    """Factor of 1 − cosine similarity of e_exp and the expression encoded from the generated frames."""
    likeness: Factor = 5.0
    """Factor of 1 − cosine similarity of the person's identity feature and that of the generated frames."""
    doubt: Factor = 1.0
    """Factor of the cross-entropy by which the weighting learns to detect corrupted modalities."""
    spoken: Factor = 0.0
    """Factor of L_C between the audio features and those of a frozen visual speech encoder on generated frames."""


_TALKING: Mapping[str, Mapping[str, Any]] = {
    "model": {**NARROW, **TALKING},
    "generation": {"identity": "labelled"},
    "data": {"batch_size": 8, "workers": 0, "noise": 0.25},
    "optimizer": COURSE,
    "weights": {
        "contrastive": 0.2,
        "reconstruction": 50.0,
        "mouth": 100.0,
        "motion": 100.0,
        "eyes": 100.0,
        "frame": 0.2,
        "clip": 0.2,
        "read": 0.2,
        "retained": 0.2,
        "likeness": 1.0,
    },
    "loop": SHORT,
    "machine": {"bf16": False},
}
"""Settings that the small presets share: the options of DAVS with which it learns to talk."""


def _preset(side: int, mib: int, steps: Mapping[str, int]) -> dict[str, dict[str, Any]]:
    """Return `_TALKING` at a frame size, with memory for frames."""
    changes: dict[str, dict[str, Any]] = {"model": {"image_size": side}, "data": {"cache_mib": mib}}
    return {name: {**found, **changes.get(name, {})} for name, found in _TALKING.items()} | {"steps": dict(steps)}


PRESETS: Mapping[str, Mapping[str, Any]] = {
    "paper": {},
    "small": _preset(64, 2048, {"identity": 200, "speech": 400, "judge": 200, "expression": 1500, "full": 1500}),
    "medium": _preset(128, 6144, {"identity": 200, "speech": 600, "judge": 300, "expression": 1500, "full": 2500}),
}
"""What each preset changes. paper: nothing. small: 64-pixel frames, minutes on a CPU. medium: 128-pixel frames."""

ROWS: Mapping[str, tuple[str, ...]] = {
    "all": (),
    "without ACW": ("model.weighting=false",),
    "one view": ("generation.views=1",),
    "nothing spoilt": ("corruption.probability=0",),
    "without D_frame": ("weights.frame=0",),
    "without D_st": ("weights.clip=0",),
    "without the judge": ("weights.read=0",),
    "without the expression terms": ("weights.read=0", "weights.retained=0"),
}
"""Rows of an ablation of our own: that of the paper was not available."""


class Settings(RunSettings):
    """Every setting of `avprep train --model etgan`."""

    of_model: ClassVar[str] = "etgan"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = PRESETS
    needs: ClassVar[Mapping[str, Sequence[Mapping[str, Any]]]] = NEEDS
    ablation: ClassVar[Ablation | None] = Ablation(
        stage="full", rows=ROWS, before=("identity", "speech", "judge", "expression")
    )

    preset: Literal["paper", "small", "medium"] = "paper"
    """Name of the preset that the others started from."""
    model: Model = Model()
    generation: Generation = Generation()
    corruption: Corruption = Corruption()
    judge: Judge = Judge()
    adversaries: Adversaries = Adversaries()
    steps: Steps = Steps()
    weights: Weights = Weights()

    def paced(self) -> frozenset[str]:
        """Also return the stage in which adversarial terms begin later; see `RunSettings.paced`."""
        begins = self.adversaries
        return super().paced() | ({"full"} if begins.frame_from or begins.clip_from or begins.read_from else set())
