"""The four stages of training AMIE: what each reads, which terms it minimises, which networks it trains."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from davs_model.data.reads import Reads
from davs_model.models.amie import objective
from davs_model.models.amie.objective import CORNERS, HEARD, RUN, RUN_WINDOWS
from davs_model.models.amie.settings import Settings
from davs_model.models.base import FRAMES, PORTRAIT, REAL, SOUND, WINDOWS, Phase, Stage
from davs_model.models.davs import stages as davs

LABELS = {"words": ("word",), "speakers": ("person",)}
"""Terms that need labels."""
VALIDATED = (FRAMES, WINDOWS, PORTRAIT, REAL, SOUND)

STAGES: dict[str, Stage] = {
    # Initial weights and the perceptual network, as in DAVS.
    "identity": davs.STAGES["identity"],
    "speech": davs.WORDS_AND_CONTRAST,
    # T only, on real pairs.
    "coherence": Stage(
        "coherence",
        reads=(RUN, RUN_WINDOWS, HEARD, SOUND),
        terms=("estimator",),
        phases=(Phase("estimator", ("estimator",)),),
        validation_reads=(FRAMES, WINDOWS, PORTRAIT, SOUND),
    ),
    # Everything together.
    "talk": Stage(
        "talk",
        reads=(RUN, RUN_WINDOWS, HEARD, CORNERS, PORTRAIT, SOUND),
        terms=objective.TALK,
        phases=(
            Phase(
                "generator",
                ("identity_encoder", "audio_speech_encoder", "image_encoder", "decoder", "attention"),
            ),
            Phase("estimator", ("estimator",)),
            Phase("discriminator", ("frame_discriminator",)),
        ),
        validation_reads=VALIDATED,
        frozen=("visual_speech_encoder",),
        generates=True,
    ),
}
"""In the order of training."""


def reads(dimensions: Mapping[str, int | float]) -> dict[str, Reads]:
    """Return everything that a model of these dimensions reads: the reads of DAVS, and a run of consecutive frames.

    The portrait is at least 8 frames away from the run if the clip has such a frame (ours).
    """
    length = int(dimensions["run"])
    own = {
        RUN: Reads("frames", length, at="sound"),
        RUN_WINDOWS: Reads("windows", length, beside=RUN),
        HEARD: Reads("heard", length, beside=RUN),
        CORNERS: Reads("corners", length, beside=RUN),
    }
    return davs.speech_reads(dimensions, own)


def training_reads(dimensions: Mapping[str, int | float], stage: str, settings: Settings) -> dict[str, Reads]:
    """Return `reads` as a stage reads them: the same part of the run is generated in all clips."""
    found = reads(dimensions)
    if STAGES[stage].generates:
        found[RUN] = replace(found[RUN], part=settings.generation.frames)
        found[PORTRAIT] = replace(found[PORTRAIT], apart=RUN)
    return found


def plan(name: str, settings: Settings) -> Stage:
    """Return a stage, as modified by the settings: networks that are switched off are not trained."""
    stage, weights = STAGES[name], settings.weights
    idle = {
        "attention": settings.attention.on == "none",
        "estimator": not weights.mi,
        "frame_discriminator": not weights.frame,
    }
    return stage.without([network for network, off in idle.items() if off]) if stage.generates else stage
