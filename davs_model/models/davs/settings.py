"""The settings of DAVS: its networks, the length of its stages, the weights of its terms, and its presets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Gt, Le

from davs_model.settings import ON, Ablation, Count, Factor, RunSettings, Section

Form = Literal["paper", "released"]
"""Losses of the paper, or those of the released code."""
GanForm = Literal["paper", "released", "hinge"]
"""Losses of D_seq: cross-entropy in either form, or hinge, which is not in the paper."""
Frames = Annotated[int, Ge(1), Le(1000)]
STANDARDISE = ("none", "corpus", "clip", "voice", "voice of syncnet")
"""Ways to standardise MFCC; a checkpoint stores the index. The last one is `voice` for the MFCC preset `syncnet`."""
Fraction = Annotated[float, Ge(0), Le(1)]
OwnWidth = Annotated[float, Ge(0), Le(16)]


class Networks(Section):
    """The networks that AMIE has, too; a width of 1 and frames of 256 pixels are the released ones."""

    width: Annotated[float, Gt(0), Le(16)] = 1.0
    """Multiplier of all channel counts."""
    image_size: Literal[64, 128, 256] = 256
    """Side of the frames in pixels."""
    speech_frames: Frames = 12
    """Frames that C_w reads at once."""
    identity_scales: Annotated[int, Ge(1), Le(4)] = 1
    """Identity maps that the decoder sees: 1: an eighth of the frame's side, 2: a quarter, 3: a half, 4: the frame."""
    blend: bool = False
    """Let the decoder keep parts of the identity frame, by a fourth output that weights them."""
    flow: bool = False
    """Let the decoder warp the identity frame before it joins it and keeps parts of it."""
    speech_map: Annotated[int, Ge(0), Le(1024)] = 0
    """Channels of a map of speech that the decoder sees with the identity maps; 0: none."""
    mouth_size: Literal[0, 64, 128, 256] = 0
    """Side in pixels of the mouth region that the visual speech encoder sees; 0: it sees whole frames."""
    visual_width: OwnWidth = 0.0
    """Multiplier of the visual speech encoder's channels; 0: the same as `width`."""
    audio_width: OwnWidth = 0.0
    """Multiplier of the audio encoders' channels; 0: the same as `width`."""
    standardise: Literal["none", "corpus", "clip", "voice"] = "none"
    """Statistics by which MFCC are standardised: none, those of a batch of the training set, those of each clip, or
    those of each clip after its formants are moved to those of the speaker with the most training clips."""


class Model(Networks):
    """The networks."""

    identity_frames: Frames = 20
    """Frames that C_p^w reads at once."""
    sequence_frames: Frames = 6
    """Frames that are generated, and that D_seq reads at once; they are among the `speech_frames`."""
    shared_classifier: bool = True
    """One word classifier for audio and video (SC of Table 3); false: one each."""
    identity_words: Literal["maps", "feature"] = "maps"
    """What C_p^w reads of the identity encoder: its maps, as in the released code, or how its features change."""
    audio_smoothing: Fraction = 0.0
    """Fraction of a frame's audio features that is taken from its neighbours when whole clips are generated."""
    normalised: bool = False
    """Give the features of each modality mean 0 and variance 1, by BatchNorm without parameters."""


class Generation(Section):
    """What the full stage generates, and from what."""

    targets: Annotated[int, Ge(0), Le(1000)] = 0
    """Frames of a clip that are generated, each at a random moment; 0: `model.sequence_frames` in a row."""
    identity: Literal["clip", "speaker"] = "clip"
    """Source of the identity frame: another moment of the clip, or any clip of its speaker."""
    drive: Literal["both", "alternate"] = "both"
    """What frames are generated from: both audio and video, or some clips from audio and the others from video."""
    video: Annotated[float, Ge(0), Le(1)] = 0.5
    """Fraction of the clips that are generated from video if `drive` is alternate."""
    visual: Literal["train", "freeze", "cache"] = "train"
    """The visual speech encoder: trained further, frozen, or frozen with its features of all frames cached in memory.
    With the cache, clips are not shifted, and are mirrored only with `data.warp`."""
    audio: Literal["train", "freeze"] = "train"
    """The audio speech encoder: trained further, or frozen."""


class Adversaries(Section):
    """When adversarial terms begin, and how D_seq is trained."""

    gan_from: Fraction = 0.0
    """Fraction of the full stage's steps after which L_GAN begins; D_seq learns from then on, too."""
    domain_from: Fraction = 0.0
    """Fraction of a stage's steps after which L_adv^D begins, both sides."""
    gan_loss: Literal["form", "hinge"] = "form"
    """Loss of L_GAN: cross-entropy in the form of the objective, or hinge."""
    identity_stage: bool = False
    """Remove words from the identity in the identity stage, too, by eq. 2 and 3; not with `data.faces`."""
    wrong_sound: bool = False
    """Also train D_seq on real frames with the audio of another clip, as out of sync."""


class FirstSteps(Section):
    """Length of the first stages, which AMIE has, too."""

    identity: Count = 100_000
    """Optimizer steps of the identity encoder on labelled faces."""
    speech: Count = 300_000
    """Optimizer steps of the speech space."""


class Steps(FirstSteps):
    """Length of the three stages; 0 leaves one out."""

    full: Count = 300_000
    """Optimizer steps of everything together."""


class SpeechWeights(Section):
    """Factors of the first terms, which AMIE has, too; 0 switches a term off."""

    person: Factor = 1.0
    """Factor of the cross-entropy over people of the identity stage."""
    word: Factor = 1.0
    """Factor of L_w."""
    contrastive: Factor = 1.0
    """Factor of L_C, eq. 1."""
    domain: Factor = 1.0
    """Factor of L_adv^D, both sides."""


class Weights(SpeechWeights):
    """Factors of the terms of the objective; 0 switches a term off."""

    identity_word: Factor = 200.0
    """Factor of eq. 2 and 3; the released code has twice its factor of L_1."""
    speech_person: Factor = 20.0
    """Factor of eq. 4 and 5."""
    reconstruction: Factor = 100.0
    """Factor of L_1, eq. 6: the α of eq. 8."""
    sequence: Factor = 1.0
    """Factor of L_GAN, eq. 7, both sides."""
    mouth: Factor = 0.0
    """Factor of the L1 inside the mouth box, in addition to L_1."""
    motion: Factor = 0.0
    """Factor of the L1 of the motion in the mouth box: its difference from its mean over a clip's generated frames."""
    mouth_reading: Factor = 0.0
    """Factor of the L1 between the motion of the mouth and its prediction from audio features by a linear layer."""
    stillness: Factor = 0.0
    """Factor of the L1 to the previous frame, outside the mouth; only with `form=released` and consecutive frames."""


NEEDS: Mapping[str, Sequence[Mapping[str, Any]]] = {"model.flow": ({"model.blend": True, "model.identity_scales": 4},)}
"""A warped frame has no effect unless the decoder keeps parts of it or joins it."""
TALKING: Mapping[str, Any] = {
    "identity_scales": 4,
    "blend": True,
    "speech_map": 16,
    "mouth_size": 64,
    "standardise": "clip",
}
"""Network settings with which every model learns to talk."""
NARROW: Mapping[str, Any] = {"width": 0.25, "image_size": 64, "audio_width": 0.5}
"""Network settings for a CPU."""
COURSE: Mapping[str, Any] = {"learning_rate": 1e-3, "schedule": "cosine", "warmup": 30}
"""Optimizer settings of short trainings."""
SHORT: Mapping[str, Any] = {
    "log_every": 25,
    "validate_every": 1000,
    "sample_every": 500,
    "save_every": 250,
    "validation_clips": 400,
}
"""Loop settings of a training of minutes."""

_TALKING: Mapping[str, Mapping[str, Any]] = {
    "model": {**TALKING, "audio_smoothing": 0.5},
    "generation": {"targets": 3, "drive": "alternate", "video": 0.35, "visual": "cache"},
    "data": {"noise": 0.25},
    "optimizer": COURSE,
    "weights": {
        "contrastive": 0.2,
        "domain": 0.0,
        "identity_word": 0.0,
        "speech_person": 0.0,
        "reconstruction": 10.0,
        "mouth": 40.0,
        "motion": 40.0,
        "sequence": 0.0,
    },
}
"""Settings with which it learns to talk, in every preset except that of the paper."""


def _preset(**changes: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return `_TALKING` with changes of its sections."""
    return {name: {**_TALKING.get(name, {}), **changes.get(name, {})} for name in (*_TALKING, *changes)}


PRESETS: Mapping[str, Mapping[str, Any]] = {
    "paper": {},
    "small": _preset(
        model=NARROW,
        data={"batch_size": 12, "workers": 0, "cache_mib": 2048},
        steps={"identity": 200, "speech": 600, "full": 2400},
        loop=SHORT,
        machine={"bf16": False},
    ),
    "medium": _preset(
        model={**NARROW, "image_size": 128},
        data={"batch_size": 12, "workers": 0, "cache_mib": 6144},
        steps={"identity": 200, "speech": 600, "full": 2500},
        loop={**SHORT, "log_every": 50, "validate_every": 1250, "sample_every": 1250},
        machine={"bf16": False},
    ),
    "large": _preset(
        model={"mouth_size": 128},
        generation={"targets": 4, "visual": "freeze"},
        data={"batch_size": 16, "jitter": 0.2},
        optimizer={"learning_rate": 5e-4, "warmup": 200},
        steps={"identity": 1000, "speech": 5000, "full": 20_000},
    ),
}
"""What each preset changes. paper: nothing. small: frames of 64 pixels that talk after minutes on a CPU. medium: frames
of 128 pixels, an hour. large: the paper's width and size, on a GPU."""


TABLE_3: Mapping[str, tuple[str, ...]] = {
    "L_C": ("model.shared_classifier=false", "weights.domain=0"),
    "L_C + SC": ("model.shared_classifier=true", "weights.domain=0"),
    "L_C + L_adv": ("model.shared_classifier=false", "weights.domain=1"),
    "L_C + SC + L_adv": ("model.shared_classifier=true", "weights.domain=1"),
}
"""The settings of each row of Table 3; SC is the shared classifier."""


class Settings(RunSettings):
    """Every setting of `avprep train`."""

    of_model: ClassVar[str] = "davs"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = PRESETS
    bounds: ClassVar[Mapping[str, str]] = {"model.sequence_frames": "model.speech_frames"}
    needs: ClassVar[Mapping[str, Sequence[Mapping[str, Any]]]] = {
        **NEEDS,
        "adversaries.gan_loss": ({"weights.sequence": ON},),
        "adversaries.wrong_sound": ({"weights.sequence": ON},),
        "adversaries.identity_stage": ({"weights.identity_word": ON}, {"data.faces": ""}),
        "weights.stillness": ({"form": "released"}, {"generation.targets": 0}),
    }
    ablation: ClassVar[Ablation | None] = Ablation(stage="speech", rows=TABLE_3)

    preset: Literal["paper", "small", "medium", "large"] = "paper"
    """Name of the preset that the others started from."""
    form: Form = "paper"
    """Form of the losses: as the paper writes them, or as the released code has them."""
    model: Model = Model()
    generation: Generation = Generation()
    adversaries: Adversaries = Adversaries()
    steps: Steps = Steps()
    weights: Weights = Weights()

    def paced(self) -> frozenset[str]:
        """Also return the stages in which an adversarial term begins later; see `RunSettings.paced`."""
        found = set(super().paced())
        if self.adversaries.domain_from and self.weights.domain:
            found |= {"speech", "full"}
        if self.adversaries.gan_from and self.weights.sequence:
            found.add("full")
        return frozenset(found)
