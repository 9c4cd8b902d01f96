"""Whether a mouth follows the audio: generated frames of whole clips are compared with the real ones, only by pixels.

All metrics except the ranks are computed during speech, in grey (ITU-R BT.601) or in all three colours, inside boxes of
the crop. Frames are float `[T, 3, S, S]` in [0, 1]; row t of one matches row t of the other.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import torch
from torch import Tensor

from davs_model.data.pictures import MOUTH_BOX, Box, grey_levels, region
from davs_model.evaluation.metrics.reconstruction import WINDOW_SIDE, ssim
from davs_model.evaluation.metrics.retrieval import ranks

INNER_MOUTH: Box = (184, 222, 104, 156)
"""The area between the lips: the dark, the teeth and the tongue make it vary more when the mouth is open."""
STILL = 1e-6
"""Standard deviation of pixel values from 0 to 1 below which nothing moves."""
LEAST = 1e-8
"""Minimum mean squared error, at which PSNR is 80 dB."""
TALKS = {"opening_r": 0.1, "motion_r": 0.05}
"""The margins by which the clip's own audio must exceed wrong audio for a model to count as talking."""


@dataclass(frozen=True)
class Talking:
    """Means over clips of the motion of generated mouths.

    opening_r: correlation over time between the `opening` of the generated and the real mouth.
    motion_r, amplitude: correlation of the motion of the mouth's pixels (`mouth_sequence`), and the ratio of the
        standard deviations, over clips whose real mouth moves; 0 if none does.
    r1, r10, median_rank: retrieval of real mouth sequences by generated ones, by Euclidean distance; cosine_r1: by the
        angle.
    mouth_psnr, mouth_ssim: of the mouth box, without the identity frame; better: fraction of clips whose mouth is
        closer to the real one than the repeated identity frame is.
    flicker: mean absolute difference between successive frames outside the mouth box, in grey levels of 255.
    """

    opening_r: float
    motion_r: float
    amplitude: float
    r1: float
    r10: float
    median_rank: int
    cosine_r1: float
    mouth_psnr: float
    mouth_ssim: float
    better: float
    flicker: float
    n_clips: int


def mean(results: Sequence[Talking]) -> dict[str, Any]:
    """Return the means of several results of the same clips by the names of `Talking`; for ranks, a whole number."""
    means = {name: math.fsum(getattr(one, name) for one in results) / len(results) for name in vars(results[0])}
    return means | {name: round(means[name]) for name in ("median_rank", "n_clips")}


def opening(frames: Tensor) -> Tensor:
    """Return the standard deviation of the grey levels between the lips of each frame: `[T]`."""
    return _grey(frames, INNER_MOUTH).std(1, correction=0)


def mouth_sequence(frames: Tensor) -> Tensor:
    """Return the motion of the mouth box: grey levels minus their mean over the frames, `[T, H·W]`."""
    grey = _grey(frames, MOUTH_BOX)
    return grey - grey.mean(0)


def correlation(first: Tensor, second: Tensor) -> float:
    """Return Pearson's correlation of all values of two tensors; 0 if either does not vary."""
    x, y = (one.double().flatten() - one.double().mean() for one in (first, second))
    if min(float(one.square().mean()) for one in (x, y)) < STILL**2:
        return 0.0
    return float((x @ y) / (x.norm() * y.norm()))


def sequence_ranks(generated: Tensor, real: Tensor) -> Tensor:
    """Return how many other real sequences are not farther from a generated one than its own, int64 `[N]`.

    generated, real: `[N, D]`, float32; row n of both is of the same clip.
    """
    products = generated @ real.T
    squares = real.square().sum(1)
    distances = squares[None] - 2 * products  # without |generated|², which is the same for a whole row
    return (distances <= distances.diagonal()[:, None]).sum(1) - 1


def flicker(frames: Tensor) -> float:
    """Return the mean absolute difference of successive frames outside the mouth box, in grey levels of 255."""
    return _outside(frames[1:] - frames[:-1])


def second_difference(frames: Tensor) -> float:
    """Return the mean absolute second difference over time outside the mouth box, in grey levels of 255.

    Unlike `flicker`, it is small for a face that moves smoothly.
    """
    return _outside(frames[2:] - 2 * frames[1:-1] + frames[:-2])


def _outside(differences: Tensor) -> float:
    """Return the mean absolute value outside the mouth box, in grey levels of 255; 0 without frames."""
    if not len(differences):
        return 0.0
    mean = differences.abs().mean(1)
    outside = torch.ones(mean.shape[-2:], dtype=torch.bool, device=mean.device)
    outside[region(MOUTH_BOX, mean.shape[-1])] = False
    return 255 * float(mean[:, outside].mean())


@dataclass
class TalkingScores:
    """Measures clips one by one; keeps sums, and the mouth sequences that are ranked at the end."""

    _sums: dict[str, list[float]] = field(default_factory=dict)
    _sequences: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    @torch.no_grad()
    def add(
        self, real: Tensor, generated: Tensor, span: slice, *, identity: int, repeated: Tensor | None = None
    ) -> None:
        """Add a clip: frames `[T, 3, S, S]`, of which those of `span` are measured.

        identity: number of the identity frame, in which no error is measured. repeated: frames of the same shape, with
            which the generated ones are compared for `better`.
        """
        frames = [t for t in range(*span.indices(len(real))) if t != identity] or [identity]
        inside, moves = real[span], (mouth_sequence(generated[span]), mouth_sequence(real[span]))
        psnr = mouth_psnr(real[frames], generated[frames])
        values = {
            "opening_r": correlation(opening(generated[span]), opening(inside)),
            "motion_r": correlation(*moves),
            "mouth_psnr": psnr,
            "mouth_ssim": mouth_ssim(real[frames], generated[frames]),
            "better": float(repeated is not None and psnr > mouth_psnr(real[frames], repeated[frames])),
            "flicker": flicker(generated[span]),
        }
        if (deviation := float(moves[1].std())) >= STILL:
            values["amplitude"] = float(moves[0].std()) / deviation
        for name, value in values.items():
            self._sums.setdefault(name, []).append(value)
        # In half precision, so that a thousand clips of a few seconds fit in memory.
        self._sequences.append((_grey(generated, MOUTH_BOX).cpu().half(), _grey(real, MOUTH_BOX).cpu().half()))

    def __len__(self) -> int:
        return len(self._sequences)

    def result(self) -> Talking:
        """Return the means over all clips so far; ValueError if there are none.

        Sequences are compared over the number of frames that all clips have.
        """
        if not self._sequences:
            raise ValueError("no clips to measure")
        common = min(len(real) for _, real in self._sequences)
        generated, real = (torch.stack([pair[side][:common].float() for pair in self._sequences]) for side in range(2))
        generated, real = ((one - one.mean(1, keepdim=True)).flatten(1) for one in (generated, real))
        plain, angles = sequence_ranks(generated, real), ranks(generated, real)
        means = {name: math.fsum(values) / len(values) for name, values in self._sums.items()}
        return Talking(
            **{"amplitude": 0.0, **means},
            r1=_share(plain < 1),
            r10=_share(plain < 10),
            median_rank=math.floor(median(plain.tolist())) + 1,
            cosine_r1=_share(angles < 1),
            n_clips=len(plain),
        )


def mouth_psnr(real: Tensor, generated: Tensor) -> float:
    """Return the mean PSNR of the mouth box over frames, in dB."""
    rows, columns = region(MOUTH_BOX, real.shape[-1])
    errors = (real - generated)[..., rows, columns].double().square().mean((1, 2, 3))
    return float(-10 * errors.clamp(min=LEAST).log10().mean())


def mouth_ssim(real: Tensor, generated: Tensor) -> float:
    """Return the mean SSIM of the mouth box over frames."""
    rows, columns = region(MOUTH_BOX, real.shape[-1])
    boxes = [frames[..., rows, columns] for frames in (real, generated)]
    return float(ssim(*boxes).mean()) if min(boxes[0].shape[-2:]) >= WINDOW_SIDE else math.nan


def talks(scores: Mapping[str, Any]) -> bool | None:
    """Return whether a model's mouths follow the audio: whether the clip's own audio exceeds wrong audio by `TALKS`.

    scores: metrics of `Talking` for `audio` and `wrong_audio`; None if either is missing.
    """
    right, wrong = scores.get("audio"), scores.get("wrong_audio")
    if not right or not wrong:
        return None
    return all(float(right[name]) - float(wrong[name]) >= least for name, least in TALKS.items())


def _grey(frames: Tensor, box: Box) -> Tensor:
    """Return the grey levels inside a box, `[T, H·W]`."""
    rows, columns = region(box, frames.shape[-1])
    return grey_levels(frames[..., rows, columns]).flatten(1)


def _share(found: Tensor) -> float:
    return float(found.float().mean())


def summary(scores: Mapping[str, Any]) -> str:
    """Return in one line of text how mouths follow their own audio and wrong audio; scores: as in `talks`."""
    parts = [
        "{} opening r {opening_r:.2f}, motion r {motion_r:.2f}, amplitude {amplitude:.2f}, R@1 {r1:.0%}".format(
            title, **scores[name]
        )
        for name, title in (("audio", "mouths from audio:"), ("wrong_audio", "from another clip's audio:"))
        if name in scores
    ]
    verdict = {True: "it talks", False: "it does not talk"}.get(scores.get("talks"), "")  # type: ignore[arg-type]
    return ", ".join([*parts, *([verdict] if verdict else [])])
