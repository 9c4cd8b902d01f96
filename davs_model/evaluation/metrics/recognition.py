"""Words recognised from pictures, from sound and from both (left half of Table 3)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Recognition:
    """Shares of clips whose word was found, from 0 to 1."""

    visual: float
    audio: float
    both: float
    chance: float
    """The share that always saying the most frequent word of these clips would get."""
    n_clips: int


def recognise(video_logits: Tensor, audio_logits: Tensor, labels: Tensor) -> Recognition:
    """Judge the words that C_w hears and sees in the same clips.

    video_logits, audio_logits: `[N, N_w]`. labels: int64 `[N]`, -1 where the word is not known, which is never right.
    Both: the paper adds "the two score vectors"; here they are softmax probabilities, so that neither modality weighs
    more because its logits are larger. Raises ValueError as `accuracy` does.
    """
    if video_logits.shape != audio_logits.shape:
        raise ValueError(
            f"logits of the same clips and words differ in shape: "
            f"video {list(video_logits.shape)}, audio {list(audio_logits.shape)}"
        )
    visual, audio = accuracy(video_logits, labels), accuracy(audio_logits, labels)
    # In float64, or two words that are each all but certain to one modality tie at 1 + 0 in float32.
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
    """Return the share of rows whose largest logit (the first of equals) is the label.

    logits: `[N, K]`. labels: int64 `[N]`, -1 where not known, which is never right.
    Raises ValueError for no rows, for shapes that do not fit and for logits that are not finite.
    """
    if logits.ndim != 2 or labels.shape != logits.shape[:1]:
        raise ValueError(f"logits {list(logits.shape)} and labels {list(labels.shape)} should be [N, K] and [N]")
    if len(labels) == 0:
        raise ValueError("no clips to recognise anything in")
    if not bool(logits.isfinite().all()):  # The largest of a row with a NaN would be that NaN.
        raise ValueError("logits are not finite: has training diverged?")
    return int((logits.argmax(-1) == labels).sum()) / len(labels)
