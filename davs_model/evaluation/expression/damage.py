"""Modalities corrupted step by step: how the weights of a model respond, and how quality falls.

Not from the paper. Audio is corrupted in its MFCC, since shards hold no waveform: decibels are the ratio of their
variance over the clip to that of the noise.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor

from davs_model import precision
from davs_model.data.sound import noisy
from davs_model.evaluation import talk
from davs_model.evaluation.expression.axes import Bench
from davs_model.evaluation.expression.targets import Target, each, expression_of
from davs_model.evaluation.metrics.reconstruction import psnr
from davs_model.evaluation.metrics.spread import Estimate, estimate
from davs_model.evaluation.metrics.talking import correlation, mouth_psnr, opening
from davs_model.evaluation.progress import Progress
from davs_model.models.base import WINDOWS, Measure

DECIBELS = (math.inf, 20.0, 10.0, 5.0, 0.0, -5.0, -10.0)
"""Signal-to-noise ratios of the audio, from clean to worst."""
BLURS = (0.0, 2.0, 4.0, 8.0, 16.0, 32.0)
"""Standard deviations of the blur of an expression clip, in pixels of the 256×256 crop."""
COVERED = (0, 1, 2, 3, 4)
"""Numbers of views, of `VIEWS`, of which a half is covered."""


class Ladder(NamedTuple):
    """The steps in which one modality is corrupted.

    modality: one of `TalkingModel.modalities`. title, unit: in words. steps: from clean to worst.
    """

    modality: str
    title: str
    unit: str
    steps: tuple[float, ...]


LADDERS = (
    Ladder("audio", "noise on the sound", "dB", DECIBELS),
    Ladder("expression", "blur of the expression clip", "px", BLURS),
    Ladder("identity", "pictures half covered", "of 4", COVERED),
)


def measure(
    bench: Bench, chosen: Sequence[Target], progress: Progress = lambda _: None, wanted: int | None = None
) -> Measure:
    """Corrupt each modality of targets in steps, with the others clean; progress, wanted: as in `each`."""
    weights: dict[tuple[str, float], list[float]] = {}
    quality: dict[tuple[str, float], list[dict[str, float]]] = {}

    def spoil(target: Target) -> None:
        rng = np.random.default_rng([bench.seed, 22, target.row])
        clip, seen = bench.clip(target.row), bench.views(target)
        watched = expression_of(bench.clips, target.donor, bench.side, bench.device)
        for ladder in LADDERS:
            for step in ladder.steps:
                inputs = _spoiled(ladder.modality, step, (clip.batch[WINDOWS], watched, seen), rng)
                weight, found = _drawn(bench, clip, inputs, ladder.modality)
                weights.setdefault((ladder.modality, step), []).append(weight)
                quality.setdefault((ladder.modality, step), []).append(found)

    read = each(chosen, progress, spoil, wanted)
    return _shown(bench, [target.speaker for target in read], weights, quality)


def _spoiled(
    modality: str, amount: float, inputs: tuple[Tensor, Tensor, Tensor], rng: np.random.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Return windows `[1, T, 12, 20]`, expression frames `[8, 3, S, S]` and views `[1, K, 3, S, S]`, one corrupted."""
    windows, watched, seen = inputs
    if modality == "audio" and math.isfinite(amount):
        heard = windows[0].cpu().numpy()
        deviation = heard.std((0, 2)) * 10 ** (-amount / 20)
        windows = torch.from_numpy(noisy(heard, deviation.astype(np.float32), rng))[None].to(windows)
    if modality == "expression" and amount:
        watched = blurred(watched, amount)
    if modality == "identity" and amount:
        seen = half_covered(seen, int(amount), rng)
    return windows, watched, seen


def blurred(frames: Tensor, deviation: float) -> Tensor:
    """Blur frames `[T, 3, S, S]`; deviation: standard deviation in pixels of the 256×256 crop."""
    side = frames.shape[-1]
    found = [
        cv2.GaussianBlur(np.ascontiguousarray(one), (0, 0), deviation * side / 256)
        for one in frames.movedim(1, -1).cpu().numpy()
    ]
    return torch.from_numpy(np.stack(found)).movedim(-1, 1).to(frames)


def half_covered(seen: Tensor, count: int, rng: np.random.Generator) -> Tensor:
    """Cover the left or right half of the first `count` views of `[1, K, 3, S, S]` with grey."""
    seen = seen.clone()
    half = seen.shape[-1] // 2
    for view in range(min(count, seen.shape[1])):
        part = slice(0, half) if rng.integers(2) else slice(half, None)
        seen[:, view, ..., part] = 0.5
    return seen


def _drawn(
    bench: Bench, clip: talk.WholeClip, inputs: tuple[Tensor, Tensor, Tensor], modality: str
) -> tuple[float, dict[str, float]]:
    """Return the mean weight of a modality during speech, and quality metrics of the frames."""
    windows, watched, seen = inputs
    spoiled = replace(clip, batch={**clip.batch, WINDOWS: windows})
    person = bench.person(seen)
    with precision.autocast(bench.device, bf16=bench.bf16):
        expressed = bench.model.expressing(person, bench.model.encode_expression(watched[None]))
        said = talk.heard(bench.model, spoiled.batch)
        weight = bench.model.modality_weights(expressed, said)[..., bench.model.modalities.index(modality)]
        film = talk.generated(bench.model, expressed, said)
    part, real = film[clip.spoken], clip.real[0, clip.spoken]
    found = {
        "psnr": float(psnr(real, part).mean()),
        "mouth_psnr": mouth_psnr(real, part),
        "opening_r": correlation(opening(part), opening(real)),
    }
    return float(weight[0, clip.spoken].float().mean()), found


def _shown(
    bench: Bench,
    speakers: Sequence[int],
    weights: Mapping[tuple[str, float], Sequence[float]],
    quality: Mapping[tuple[str, float], Sequence[Mapping[str, float]]],
) -> Measure:
    rows, parts = [], []
    facts: dict[str, Any] = {}
    curves: dict[str, Any] = {}
    for ladder in LADDERS:
        means: list[Estimate] = []
        found: list[dict[str, float]] = []
        for step in ladder.steps:
            place = ladder.modality, step
            means.append(estimate(weights[place], speakers, seed=bench.seed))
            of = {key: float(np.mean([one[key] for one in quality[place]])) for key in quality[place][0]}
            found.append(of)
            name = "clean" if step == ladder.steps[0] else f"{step:g} {ladder.unit}"
            cells = (f"{of['psnr']:.2f}", f"{of['mouth_psnr']:.2f}", f"{of['opening_r']:.3f}")
            rows.append((ladder.title, name, means[-1].text(), *cells))
            curves.setdefault(ladder.modality, {})[name] = {"weight": means[-1].mean, **of}
        best, worst = found[0], found[-1]
        rho = falling([one.mean for one in means])
        facts |= {
            f"{ladder.modality}_spearman": rho,
            f"{ladder.modality}_clean": means[0].mean,
            f"{ladder.modality}_worst": means[-1].mean,
            **{f"{ladder.modality}_{key}_lost": best[key] - worst[key] for key in worst},
        }
        parts.append(f"{ladder.modality} {means[0].mean:.2f} → {means[-1].mean:.2f} (Spearman {rho:+.2f})")
    summary = "weights from clean to worst: " + ", ".join(parts)
    note = (
        f"Each modality is spoiled alone; {len(speakers)} clips, intervals by speaker; all weights sum to "
        "their number. Spearman: of the mean weight with the step. Decibels are those of the cepstra, not of the wave."
    )
    head = ("spoiled", "by", "its mean weight", "PSNR, dB", "mouth PSNR, dB", "opening r")
    return Measure(
        "weighing", summary, {**facts, "curves": curves}, "Weights of the modalities", (note,), head, tuple(rows)
    )


def falling(means: Sequence[float]) -> float:
    """Return Spearman's correlation of means with their order; ties share a rank; 0 if all are the same."""
    from scipy.stats import rankdata  # here, since the import takes a second and only expressive models need it

    if max(means) - min(means) < 1e-9:
        return 0.0
    return float(np.corrcoef(rankdata(means), np.arange(len(means)))[0, 1])
