"""The three stages of training: what each reads, which terms it minimises, which networks which optimizer moves.

This is the one place that says whose gradients are whose. A term moves what its function in `losses` lets it move; each
network belongs to one phase, and a phase has an optimizer: a step is one pass, one backward and a step of each phase.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from davs_model.data.batches import Need
from davs_model.models.davs import objective
from davs_model.models.davs.losses import RELEASED_WEIGHTS, Form
from davs_model.models.davs.networks import DAVS
from davs_model.settings import Weights

Name = Literal["identity", "speech", "full"]


@dataclass(frozen=True)
class Phase:
    """Networks, attributes of `DAVS`, that one optimizer moves."""

    name: str
    networks: tuple[str, ...]


@dataclass(frozen=True)
class Stage:
    """One stage of training.

    needs: what is read of each clip. terms: names of `objective.terms`.
    """

    name: Name
    needs: frozenset[Need]
    terms: tuple[str, ...]
    phases: tuple[Phase, ...]


STAGES: dict[Name, Stage] = {
    # The identity encoder on labelled faces.
    "identity": Stage(
        "identity",
        frozenset(["identity"]),
        objective.PERSON,
        (Phase("identity", ("identity_encoder", "person_classifier")),),
    ),
    # The shared speech space, Figure 3 (a).
    "speech": Stage(
        "speech",
        frozenset(["speech"]),
        objective.SPEECH,
        (
            Phase(
                "speech",
                ("visual_speech_encoder", "audio_speech_encoder", "word_classifier", "audio_word_classifier"),
            ),
            Phase("domain", ("domain_discriminator",)),
        ),
    ),
    # Everything together, Figure 2 and Figure 3.
    "full": Stage(
        "full",
        frozenset(["identity", "speech", "consecutive"]),
        (*objective.PERSON, *objective.SPEECH, *objective.DISENTANGLING, *objective.GENERATION),
        (
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
                "judges",
                (
                    "sequence_discriminator",
                    "domain_discriminator",
                    "identity_word_classifier",
                    "speech_person_classifier",
                ),
            ),
        ),
    ),
}
"""In the order of training."""


def factors(stage: Stage, model: DAVS, weights: Weights, form: Form, *, people_are_speakers: bool) -> dict[str, float]:
    """Return the factor of each term that a stage minimises, those of both sides of an adversarial pair alike.

    In the released form a term has the released factor besides. Terms that are switched off, or whose classifier the
    model does not have, are not in it: nothing of them is computed.
    people_are_speakers: the person classifier knows the speakers of the clips, and not the people of other pictures.
    """
    found: dict[str, float] = {}
    for term in stage.terms:
        weight = float(getattr(weights, term.removesuffix("_confusion")))
        if term == "stillness" and form == "paper":
            continue
        if term == "person" and (model.person_classifier is None or (stage.name == "full" and not people_are_speakers)):
            continue
        if term.startswith("speech_person") and model.speech_person_classifier is None:
            continue
        if form == "released":
            weight *= RELEASED_WEIGHTS.get(term, 1.0)
        if weight:
            found[term] = weight
    return found
