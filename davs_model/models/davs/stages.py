"""The three stages of training DAVS: what each reads, which terms it minimises, which optimizer updates which networks.

Only this file defines which gradients update which networks. A term has gradients for the networks that its function in
`losses` trains. Each network belongs to one phase, and each phase has an optimizer: a step is one forward pass, one
backward pass and one optimizer step per phase.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from davs_model.data.pictures import MOUTH_REGION
from davs_model.data.reads import Reads
from davs_model.data.sound import ALL_STATISTICS
from davs_model.models.base import FRAMES, PORTRAIT, REAL, SEQUENCE, SOUND, WINDOWS, Phase, Stage
from davs_model.models.davs import objective
from davs_model.models.davs.objective import (
    CODES,
    RUN,
    RUN_CODES,
    RUN_FRAMES,
    RUN_WINDOWS,
    TARGET_CODES,
    TARGET_FRAMES,
    TARGET_WINDOWS,
    TARGETS,
)
from davs_model.models.davs.settings import STANDARDISE, Settings

EVERY = 2
"""Speech is encoded from every second frame."""
SPEECH = (FRAMES, WINDOWS)
VISUAL = "visual_speech_encoder"
LABELS = {"words": ("word", "identity_word"), "speakers": ("person", "speech_person")}
"""Terms that need labels; of an adversarial pair, the side that trains the classifier."""

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
        terms=(*objective.SPEECH, *objective.READING),
        phases=(
            Phase(
                "speech",
                (
                    "visual_speech_encoder",
                    "audio_speech_encoder",
                    "word_classifier",
                    "audio_word_classifier",
                    "mouth_reader",
                ),
            ),
            Phase("domain", ("domain_discriminator",)),
        ),
        initialises=True,
    ),
    # Everything together, Figure 2 and Figure 3.
    "full": Stage(
        "full",
        reads=(*SPEECH, SEQUENCE, PORTRAIT),
        terms=(
            *objective.PERSON,
            *objective.SPEECH,
            *objective.READING,
            *objective.DISENTANGLING,
            *objective.GENERATION,
        ),
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
                    "mouth_reader",
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
WORDS_AND_CONTRAST = replace(
    STAGES["speech"].without(("mouth_reader",)), reads=(*SPEECH, SOUND), terms=objective.SPEECH
)
"""The speech stage of AMIE and ET-GAN, as in the paper of DAVS."""


def reads(dimensions: Mapping[str, int | float]) -> dict[str, Reads]:
    """Return everything that a model of these dimensions reads.

    In the paper's sizes, C_w reads 12 frames, C_p^w 20 consecutive ones, and D_seq 6 of those of C_w. If E_w^v sees
    only the mouth region, `REAL` holds the frames of C_w whole. The order determines which random numbers sample what.
    """
    speech, identity, sequence = (int(dimensions[f"{name}_frames"]) for name in ("speech", "identity", "sequence"))
    mouth = int(dimensions.get("mouth_size", 0))
    seen = Reads("frames", speech, every=EVERY, at="sound", part=sequence)
    found = {
        FRAMES: replace(seen, box=MOUTH_REGION, size=mouth) if mouth else seen,
        WINDOWS: Reads("windows", speech, beside=FRAMES),
        SEQUENCE: Reads("frames", identity, at="word"),
        PORTRAIT: Reads("frames", 1, at="portrait"),
    }
    if mouth:
        found[REAL] = Reads("frames", speech, beside=FRAMES)
    standardise = STANDARDISE[int(dimensions.get("standardise", 0))]
    if standardise == "clip":
        found[SOUND] = Reads("statistics", 2)
    elif standardise.startswith("voice"):
        found[SOUND] = Reads("statistics", ALL_STATISTICS)
    return found


def speech_reads(dimensions: Mapping[str, int | float], own: Mapping[str, Reads]) -> dict[str, Reads]:
    """Return the reads that AMIE and ET-GAN share with DAVS, and their own ones before the portrait.

    The shared ones are all but `SEQUENCE`; none has a `part`.
    """
    found = reads({**dimensions, "identity_frames": 1, "sequence_frames": dimensions["speech_frames"]})
    shared = {name: replace(one, part=0) for name, one in found.items() if name not in (SEQUENCE, PORTRAIT)}
    return {**shared, **own, PORTRAIT: found[PORTRAIT]}


def training_reads(dimensions: Mapping[str, int | float], stage: str, settings: Settings) -> dict[str, Reads]:
    """Return `reads` as a stage reads them; if it generates frames at random moments, also these and what drives them.

    D_seq then has frames of its own. They are every second frame, like the frames of C_w that D_seq reads in the paper.
    """
    found, generation = reads(dimensions), settings.generation
    if generation.identity == "speaker":
        found[PORTRAIT] = replace(found[PORTRAIT], of="speaker")
    if not (STAGES[stage].generates and generation.targets):
        return found
    count, seen = generation.targets, found[FRAMES]
    if generation.visual == "cache":
        found[WINDOWS] = Reads("windows", seen.length, every=seen.every, at=seen.at)
        found[CODES] = Reads("codes", seen.length, beside=WINDOWS)
    found[TARGETS] = Reads("frames", count, at="moments")
    found[TARGET_WINDOWS] = Reads("windows", count, beside=TARGETS)
    found[TARGET_FRAMES] = replace(seen, length=count, every=1, at="anywhere", beside=TARGETS, part=0)
    found[TARGET_CODES] = Reads("codes", count, beside=TARGETS)
    found[RUN] = Reads("frames", seen.part, every=EVERY)
    found[RUN_WINDOWS] = Reads("windows", seen.part, beside=RUN)
    found[RUN_FRAMES] = replace(seen, length=seen.part, at="anywhere", beside=RUN, part=0)
    found[RUN_CODES] = Reads("codes", seen.part, beside=RUN)
    return found


def hears_alone(settings: Settings) -> bool:
    """Return whether the full stage generates from audio only and has no speech term; no video is then encoded."""
    generation, weights = settings.generation, settings.weights
    speech = (weights.word, weights.contrastive, weights.domain, weights.speech_person)
    return generation.drive == "alternate" and generation.video == 0 and not any(speech)


def plan(name: str, settings: Settings) -> Stage:
    """Return a stage, as modified by the settings of `Generation`."""
    stage, generation = STAGES[name], settings.generation
    if stage.people and settings.adversaries.identity_stage:
        disentangling = Phase("discriminators", ("identity_word_classifier",))
        words = ("identity_word", "identity_word_confusion")
        return replace(
            stage, reads=(*stage.reads, SEQUENCE), terms=(*stage.terms, *words), phases=(*stage.phases, disentangling)
        )
    if WINDOWS in stage.reads:
        stage = replace(stage, reads=(*stage.reads, SOUND))
    if not stage.generates:
        return stage
    stage = replace(stage, validation_reads=(*SPEECH, PORTRAIT, REAL, SOUND))
    if generation.targets:
        video: tuple[str, ...] = (*SPEECH, TARGET_FRAMES, RUN_FRAMES)
        if generation.visual == "cache":
            video = (WINDOWS, CODES, TARGET_CODES, RUN_CODES)
        if hears_alone(settings):
            video = ()
        disentangles = (SEQUENCE,) if settings.weights.identity_word else ()
        judged = (RUN, RUN_WINDOWS) if settings.weights.sequence else ()
        video = tuple(name for name in video if judged or name not in (RUN_FRAMES, RUN_CODES))
        stage = replace(stage, reads=(*video, *disentangles, PORTRAIT, TARGETS, TARGET_WINDOWS, *judged, SOUND))
    stays = {VISUAL: generation.visual != "train", objective.AUDIO: generation.audio == "freeze"}
    frozen = tuple(network for network, still in stays.items() if still)
    return replace(stage.without(frozen), frozen=frozen)
