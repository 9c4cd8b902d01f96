"""The settings of AMIE: its networks, the rows of its Table 3, the length of its stages, and its presets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Le

from davs_model.models.davs.settings import COURSE, NARROW, NEEDS, SHORT, TALKING, FirstSteps, Networks, SpeechWeights
from davs_model.settings import Ablation, Count, Factor, RunSettings, Section

Form = Literal["js", "dv"]
"""The bound of mutual information: Jensen–Shannon, or Donsker–Varadhan as in MINE."""
On = Literal["none", "previous", "face", "both"]
"""What attention masks: nothing, the frame generated before (the paper's Figure 2), the input face (its text), both."""


class Attention(Section):
    """Dynamic attention."""

    on: On = "previous"
    """What the mask is applied to; none: no attention."""


class Mi(Section):
    """The estimator T and its bound of mutual information."""

    form: Form = "js"
    """The bound that T and the generator maximise."""
    asymmetric: bool = True
    """Train T on real pairs only; false: on generated ones only, as MINE does."""
    region: Literal["frame", "mouth"] = "frame"
    """What T sees: whole frames, or only the mouth region."""


class Generation(Section):
    """What the talk stage generates."""

    run: Annotated[int, Ge(4), Le(1000)] = 16
    """Number of consecutive frames that are read of a clip; T compares them."""
    frames: Annotated[int, Ge(1), Le(1000)] = 6
    """Number of these frames that are generated one after the other in a step."""


class Steps(FirstSteps):
    """Length of the stages; 0 leaves one out."""

    coherence: Count = 50_000
    """Optimizer steps of T only, on real pairs."""
    talk: Count = 300_000
    """Optimizer steps of everything together."""


class Weights(SpeechWeights):
    """Factors of the terms of the objective; 0 switches a term off. The paper gives none of them."""

    domain: Factor = 0.0
    """Factor of L_adv^D of the speech stage, both sides."""
    estimator: Factor = 1.0
    """Factor of T's own bound."""
    mi: Factor = 1.0
    """Factor of L_mi, eq. 12: λ3."""
    frame: Factor = 1.0
    """Factor of L_GAN, eq. 9, both sides."""
    lip: Factor = 100.0
    """Factor of L_lip: λ2."""
    perceptual: Factor = 10.0
    """Factor of L_perc: λ1."""
    face: Factor = 50.0
    """Factor of the L1 of whole frames; not in the paper, whose L_perc is of a larger network. 0 is eq. 13."""
    mask: Factor = 1.0
    """Factor of the cross-entropy between the attention and the lips; the paper gives no target for attention."""


PRESETS: Mapping[str, Mapping[str, Any]] = {
    "paper": {},
    "small": {
        "model": {**NARROW, **TALKING},
        "mi": {"region": "mouth"},
        "generation": {"frames": 4},
        "data": {"batch_size": 12, "workers": 0, "cache_mib": 2048},
        "optimizer": COURSE,
        "weights": {"contrastive": 0.2, "mi": 0.3, "frame": 0.1},
        "steps": {"identity": 200, "speech": 500, "coherence": 500, "talk": 1500},
        "loop": SHORT,
        "machine": {"bf16": False},
    },
}
"""What each preset changes. paper: nothing. small: frames of 64 pixels, minutes on a CPU, with the options of DAVS."""


_NO_ATTENTION, _NO_MI = "attention.on=none", "weights.mi=0"
_MINE, _SYMMETRIC = "mi.form=dv", "mi.asymmetric=false"
TABLE_3: Mapping[str, tuple[tuple[str, ...], tuple[float, float, float]]] = {
    "baseline": ((_NO_MI, _NO_ATTENTION), (28.88, 0.89, 1.36)),
    "(a) MINE": ((_MINE, _SYMMETRIC, _NO_ATTENTION), (29.05, 0.89, 1.38)),
    "(b) DA": ((_NO_MI,), (29.19, 0.90, 1.37)),
    "(c) MINE + DA": ((_MINE, _SYMMETRIC), (29.08, 0.89, 1.32)),
    "(d) MINE + JS": ((_SYMMETRIC, _NO_ATTENTION), (29.33, 0.90, 1.50)),
    "(e) MINE + JS + DA": ((_SYMMETRIC,), (29.12, 0.91, 1.21)),
    "(f) MINE + Asy + DA": ((_MINE,), (29.30, 0.90, 1.33)),
    "(g) MINE + Asy + JS": ((_NO_ATTENTION,), (29.41, 0.92, 1.22)),
    "AMIE + DA": ((), (29.64, 0.92, 1.18)),
}
"""The rows of Table 3: the settings of each, and the paper's results on LRW: PSNR, SSIM and LMD."""


class Settings(RunSettings):
    """Every setting of `avprep train --model amie`."""

    of_model: ClassVar[str] = "amie"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = PRESETS
    needs: ClassVar[Mapping[str, Sequence[Mapping[str, Any]]]] = NEEDS
    bounds: ClassVar[Mapping[str, str]] = {"generation.frames": "generation.run"}
    ablation: ClassVar[Ablation | None] = Ablation(
        stage="talk",
        rows={name: settings for name, (settings, _) in TABLE_3.items()},
        before=("identity", "speech", "coherence"),
        paper={name: dict(zip(("PSNR", "SSIM", "LMD"), found, strict=True)) for name, (_, found) in TABLE_3.items()},
    )

    preset: Literal["paper", "small"] = "paper"
    """Name of the preset that the others started from."""
    model: Networks = Networks()
    attention: Attention = Attention()
    mi: Mi = Mi()
    generation: Generation = Generation()
    steps: Steps = Steps()
    weights: Weights = Weights()

    def paced(self) -> frozenset[str]:
        """Also return the stage in which attention, teacher forcing and L_mi depend on progress; see `RunSettings`."""
        return super().paced() | {"talk"}
