"""The settings of DAVS: its networks, the length of its stages, the weights of its terms, and its presets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Gt, Le

from davs_model.settings import Count, Factor, RunSettings, Section

Form = Literal["paper", "released"]
"""Losses as the paper writes them, or as the released code has them."""
Frames = Annotated[int, Ge(1), Le(1000)]


class Model(Section):
    """The networks; 1 and 256 are the released ones."""

    width: Annotated[float, Gt(0), Le(16)] = 1.0
    """Multiplier of all channel counts."""
    image_size: Literal[64, 128, 256] = 256
    """Side of the frames in pixels."""
    speech_frames: Frames = 12
    """Frames that C_w reads at once."""
    identity_frames: Frames = 20
    """Frames that C_p^w reads at once."""
    sequence_frames: Frames = 6
    """Frames that are generated, and that D_seq reads at once; they are among the `speech_frames`."""
    shared_classifier: bool = True
    """One word classifier for audio and video (SC of Table 3); false: one each."""


class Steps(Section):
    """Length of the three stages; 0 leaves one out."""

    identity: Count = 100_000
    """Optimizer steps of the identity encoder on labelled faces."""
    speech: Count = 300_000
    """Optimizer steps of the speech space."""
    full: Count = 300_000
    """Optimizer steps of everything together."""


class Weights(Section):
    """Factors of the terms of the objective; 0 switches a term off."""

    person: Factor = 1.0
    """Factor of the cross-entropy over people of the identity stage."""
    word: Factor = 1.0
    """Factor of L_w."""
    contrastive: Factor = 1.0
    """Factor of L_C, eq. 1."""
    domain: Factor = 1.0
    """Factor of L_adv^D, both sides."""
    identity_word: Factor = 200.0
    """Factor of eq. 2 and 3; the released code has twice its factor of L_1."""
    speech_person: Factor = 20.0
    """Factor of eq. 4 and 5."""
    reconstruction: Factor = 100.0
    """Factor of L_1, eq. 6: the α of eq. 8."""
    sequence: Factor = 1.0
    """Factor of L_GAN, eq. 7, both sides."""
    stillness: Factor = 0.0
    """Factor of the L1 to the frame before, outside the mouth; only the released code has it."""


class Settings(RunSettings):
    """Every setting of `avprep train`."""

    of_model: ClassVar[str] = "davs"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {},
        "small": {
            "model": {"width": 0.25, "image_size": 64},
            "data": {"workers": 1},
            "optimizer": {"learning_rate": 1e-3, "schedule": "cosine", "warmup": 50},
            "steps": {"identity": 200, "speech": 1000, "full": 400},
            "weights": {"contrastive": 0.1},
            "loop": {
                "log_every": 20,
                "validate_every": 200,
                "sample_every": 200,
                "save_every": 100,
                "validation_clips": 400,
            },
        },
    }
    """What each preset changes: paper nothing, small as much as a CPU needs."""
    bounds: ClassVar[Mapping[str, str]] = {"model.sequence_frames": "model.speech_frames"}

    preset: Literal["paper", "small"] = "paper"
    """Name of the preset that the others started from."""
    form: Form = "paper"
    """Form of the losses: as the paper writes them, or as the released code has them."""
    model: Model = Model()
    steps: Steps = Steps()
    weights: Weights = Weights()
