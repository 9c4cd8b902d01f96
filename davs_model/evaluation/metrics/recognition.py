"""Word recognition from video, from audio and from both (left half of Table 3)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Recognition:
    """Fractions of clips whose word was recognised, from 0 to 1."""

    visual: float
    audio: float
    both: float
    chance: float
    """The accuracy of always predicting the most frequent word of these clips."""
    n_clips: int


def recognise(video_logits: Tensor, audio_logits: Tensor, labels: Tensor) -> Recognition:
    """Return the accuracies of C_w on audio and video of the same clips.

    video_logits, audio_logits: `[N, N_w]`. labels: int64 `[N]`, -1 for an unknown word, which is never correct.
    Both: the paper adds "the two score vectors"; here these are softmax probabilities, so that no modality has more
    weight because its logits are larger. Raises ValueError as `accuracy` does.
    """
    if video_logits.shape != audio_logits.shape:
        raise ValueError(
            f"logits of the same clips and words differ in shape: "
            f"video {list(video_logits.shape)}, audio {list(audio_logits.shape)}"
        )
    visual, audio = accuracy(video_logits, labels), accuracy(audio_logits, labels)
    # In float64: in float32, two words, each almost certain for one modality, would tie at 1 + 0.
    scores = video_logits.double().softmax(-1) + audio_logits.double().softmax(-1)
    frequencies = labels[labels >= 0].bincount(minlength=1)
    return Recognition(
        visual=visual,
        audio=audio,
        both=accuracy(scores, labels),
        chance=int(frequencies.max()) / len(labels),
        n_clips=len(labels),
    )


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Return the fraction of rows whose largest logit (the first of equals) is the label.

    logits: `[N, K]`. labels: int64 `[N]`, -1 where unknown, which is never correct.
    Raises ValueError for no rows, for shapes that do not fit and for logits that are not finite.
    """
    if logits.ndim != 2 or labels.shape != logits.shape[:1]:
        raise ValueError(f"logits {list(logits.shape)} and labels {list(labels.shape)} should be [N, K] and [N]")
    if len(labels) == 0:
        raise ValueError("no clips to recognise anything in")
    if not bool(logits.isfinite().all()):  # The largest of a row with a NaN would be that NaN.
        raise ValueError("logits are not finite: has training diverged?")
    return int((logits.argmax(-1) == labels).sum()) / len(labels)
