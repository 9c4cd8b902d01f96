"""The five stages of training ET-GAN-ACW: what each reads, which terms it minimises, which networks it trains; ours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from davs_model.data.clips import Clips
from davs_model.data.reads import Reads
from davs_model.models.base import EXPRESSION, EXPRESSION_FRAMES, FRAMES, PORTRAIT, REAL, SOUND, WINDOWS, Phase, Stage
from davs_model.models.davs import stages as davs
from davs_model.models.davs.objective import RUN, RUN_WINDOWS
from davs_model.models.etgan import objective
from davs_model.models.etgan.dimensions import RUN_LENGTH
from davs_model.models.etgan.objective import JUDGED, POSITIONS, VIEWS
from davs_model.models.etgan.settings import Settings

LABELS = {
    "words": ("word", "expression_word"),
    "speakers": ("person", "expression_person"),
    "emotions": ("emotion", "read", "judge"),
}
"""Terms that need labels."""
JUDGED_FRAMES = 4
"""Frames per clip that the judge trains on."""
READERS = ("emotion_classifier", "expression_person_classifier", "expression_word_classifier")
"""The classifiers of emotions, people and words from e_exp."""

STAGES: dict[str, Stage] = {
    # Initial weights, as in DAVS.
    "identity": davs.STAGES["identity"],
    "speech": davs.WORDS_AND_CONTRAST,
    # The emotion classifier, on speakers of its own.
    "judge": Stage(
        "judge",
        reads=(JUDGED,),
        terms=("judge",),
        phases=(Phase("judge", ("judge",)),),
        validation_reads=(PORTRAIT, EXPRESSION),
        emotions=True,
    ),
    # e_exp, with emotions, without people and words.
    "expression": Stage(
        "expression",
        reads=(EXPRESSION,),
        terms=objective.EXPRESSIVE,
        phases=(Phase("expression", ("expression_encoder", READERS[0])), Phase("readers", READERS[1:])),
        validation_reads=(PORTRAIT, EXPRESSION),
        emotions=True,
    ),
    # Everything together.
    "full": Stage(
        "full",
        reads=(RUN, RUN_WINDOWS, POSITIONS, VIEWS, EXPRESSION, SOUND),
        terms=("person", *objective.EXPRESSIVE, *objective.GENERATION),
        phases=(
            Phase(
                "generator",
                (
                    "identity_encoder",
                    "person_classifier",
                    "merge",
                    "expression_encoder",
                    READERS[0],
                    "audio_speech_encoder",
                    "position_encoder",
                    "weighting",
                    "decoder",
                ),
            ),
            Phase("discriminators", ("frame_discriminator", "clip_discriminator", *READERS[1:])),
        ),
        validation_reads=(FRAMES, WINDOWS, PORTRAIT, REAL, SOUND, EXPRESSION),
        frozen=("visual_speech_encoder", "judge"),
        generates=True,
    ),
}
"""In the order of training."""


def reads(dimensions: Mapping[str, int | float]) -> dict[str, Reads]:
    """Return everything that a model of these dimensions reads: the reads of DAVS, and the inputs of ET-GAN."""
    own = {
        RUN: Reads("frames", RUN_LENGTH, at="sound"),
        RUN_WINDOWS: Reads("windows", RUN_LENGTH, beside=RUN),
        POSITIONS: Reads("positions", RUN_LENGTH, beside=RUN),
        VIEWS: Reads("frames", 1, at="portrait", of="others", apart=RUN),
        EXPRESSION: Reads("frames", EXPRESSION_FRAMES, at="spread", of="emotion"),
        JUDGED: Reads("frames", JUDGED_FRAMES, at="portrait"),
    }
    return davs.speech_reads(dimensions, own)


def training_reads(dimensions: Mapping[str, int | float], stage: str, settings: Settings) -> dict[str, Reads]:
    """Return `reads` as a stage reads them: with the views' source and the maximum number that a step may draw."""
    found, generation = reads(dimensions), settings.generation
    found[VIEWS] = replace(found[VIEWS], length=generation.views, of=generation.identity)
    return found


def plan(name: str, settings: Settings) -> Stage:
    """Return a stage, as modified by the settings: discriminators that are switched off are not trained."""
    weights = {"frame_discriminator": settings.weights.frame, "clip_discriminator": settings.weights.clip}
    return STAGES[name].without([network for network, weight in weights.items() if not weight])


def judges(clips: Clips, fraction: float) -> NDArray[np.bool_]:
    """Return which clips are of the speakers that the judge trains on, bool (N,): ours.

    They are this fraction of the speakers with emotion labels, evenly spread in the order of their names; none if that
    leaves either side without speakers.
    """
    people = np.unique(clips.speakers[(clips.speakers >= 0) & (clips.emotions >= 0)])
    count = round(fraction * len(people))
    if not 0 < count < len(people):
        return np.zeros(len(clips), bool)
    return np.isin(clips.speakers, people[[(2 * n + 1) * len(people) // (2 * count) for n in range(count)]])


def uses(clips: Clips, stage: str, settings: Settings) -> NDArray[np.bool_]:
    """Return which clips a stage trains on: the judge on its speakers, expression and generation on the others.

    If no speaker can be spared, these stages train on all clips.
    """
    found = judges(clips, settings.judge.people)
    if stage not in ("judge", "expression", "full") or not found.any():
        return np.ones(len(clips), bool)
    return found if stage == "judge" else ~found
