"""The three stages of training DAVS: what each reads, which terms it minimises, which networks which optimizer moves.

This is the one place that says whose gradients are whose. A term moves what its function in `losses` lets it move; each
network belongs to one phase, and a phase has an optimizer: a step is one pass, one backward and a step of each phase.
"""

from __future__ import annotations

from collections.abc import Mapping

from davs_model.data.reads import Reads
from davs_model.models.base import FRAMES, PORTRAIT, SEQUENCE, WINDOWS, Phase, Stage
from davs_model.models.davs import objective

EVERY = 2
"""Speech is read from every second frame."""
SPEECH = (FRAMES, WINDOWS)
LABELS = {"words": ("word", "identity_word"), "speakers": ("person", "speech_person")}
"""Terms that need labels; of an adversarial pair, the side that moves the classifier."""

STAGES: dict[str, Stage] = {
    # The identity encoder on labelled faces.
    "identity": Stage(
        "identity",
        reads=(PORTRAIT,),
        terms=objective.PERSON,
        phases=(Phase("identity", ("identity_encoder", "person_classifier")),),
        people=True,
    ),
    # The shared speech space, Figure 3 (a).
    "speech": Stage(
        "speech",
        reads=SPEECH,
        terms=objective.SPEECH,
        phases=(
            Phase(
                "speech",
                ("visual_speech_encoder", "audio_speech_encoder", "word_classifier", "audio_word_classifier"),
            ),
            Phase("domain", ("domain_discriminator",)),
        ),
        initialises=True,
    ),
    # Everything together, Figure 2 and Figure 3.
    "full": Stage(
        "full",
        reads=(*SPEECH, SEQUENCE, PORTRAIT),
        terms=(*objective.PERSON, *objective.SPEECH, *objective.DISENTANGLING, *objective.GENERATION),
        phases=(
            Phase(
                "model",
                (
                    "identity_encoder",
                    "visual_speech_encoder",
                    "audio_speech_encoder",
                    "decoder",
                    "word_classifier",
                    "audio_word_classifier",
                    "person_classifier",
                ),
            ),
            Phase(
                "discriminators",
                (
                    "sequence_discriminator",
                    "domain_discriminator",
                    "identity_word_classifier",
                    "speech_person_classifier",
                ),
            ),
        ),
        validation_reads=(*SPEECH, PORTRAIT),
        initialises=True,
        generates=True,
    ),
}
"""In the order of training."""


def reads(dimensions: Mapping[str, int | float]) -> dict[str, Reads]:
    """Return all that a model of these dimensions reads: C_w twelve frames, C_p^w twenty in a row, D_seq six of C_w's.

    The order decides which random numbers draw what.
    """
    speech, identity, sequence = (int(dimensions[f"{name}_frames"]) for name in ("speech", "identity", "sequence"))
    return {
        FRAMES: Reads("frames", speech, every=EVERY, at="sound", part=sequence),
        WINDOWS: Reads("windows", speech, beside=FRAMES),
        SEQUENCE: Reads("frames", identity),
        PORTRAIT: Reads("frames", 1, at="portrait"),
    }
