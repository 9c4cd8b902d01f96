"""Talking metrics of whole clips, generated from their own audio, from their own video and from wrong audio."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from avprep.errors import ShardError
from davs_model import precision
from davs_model.data.batch import RawBatch
from davs_model.data.clips import NO_WORDS, Clips
from davs_model.data.reads import Batch, Reads, chosen
from davs_model.data.sampling import portrait_rng, spoken_part
from davs_model.data.sources import read_whole
from davs_model.evaluation.metrics.talking import TalkingScores, mean
from davs_model.evaluation.progress import Progress
from davs_model.models.base import EXPRESSION, FRAMES, REAL, SOUND, WINDOWS, TalkingModel

VALID = "valid"
"""Name of the read of which windows hold nothing but real audio."""
AT_ONCE = 32
"""Number of frames that are decoded at once."""
WRONG = 3
"""Number of other clips whose audio drives each clip; with only one, for 67 sentences, opening r is ± .03."""


@dataclass(frozen=True)
class WholeClip:
    """A clip from its first frame to its last, on a device.

    row: its number in the table. batch: `FRAMES`, `WINDOWS`, `REAL` and `SOUND` of all T frames, `[1, T, …]`, and
        `EXPRESSION`.
    valid: bool (T,), which windows hold nothing but real audio. spoken: the frames with speech. identity: the number of
        the identity frame.
    """

    row: int
    batch: Batch
    valid: NDArray[np.bool_]
    spoken: slice
    identity: int

    @property
    def real(self) -> Tensor:
        """The frames to generate, `[1, T, 3, S, S]`."""
        return self.batch.get(REAL, self.batch[FRAMES])


Watch = Callable[[WholeClip, Sequence[tuple[str, Tensor]]], None]
"""Gets each clip with its generated frames `[T, 3, S, S]`, and what each were generated from."""


def whole_clips(
    model: TalkingModel, clips: Clips, device: torch.device, *, limit: int, seed: int = 0
) -> Iterator[WholeClip]:
    """Read the first clips of a table whole, at most `limit`; unreadable ones are left out.

    seed: draws the identity frame.
    """
    for row in range(min(limit, len(clips))):
        with contextlib.suppress(ShardError):
            yield whole_clip(model, clips, row, device, seed=seed)


def whole_clip(model: TalkingModel, clips: Clips, row: int, device: torch.device, *, seed: int = 0) -> WholeClip:
    """Read one whole clip of a table, like `whole_clips`; ShardError."""
    raw = _whole(model, clips, row, (FRAMES, WINDOWS, REAL, SOUND, EXPRESSION))
    valid = raw[VALID][0].numpy() > 0
    n_frames = len(valid)
    first, end = spoken_part(n_frames, clips.timed[row] if clips.timed else NO_WORDS, valid)
    identity = int(portrait_rng(seed, row).integers(n_frames))
    return WholeClip(row, raw.to(device), valid, slice(first, end), identity)


def _whole(model: TalkingModel, clips: Clips, row: int, names: tuple[str, ...]) -> RawBatch:
    """Read the named reads of a model, and `VALID`, for all frames of a clip; ShardError."""
    reads = chosen(model.reads(model.dimensions), names) | {VALID: Reads("valid", 1)}
    return read_whole(clips, row, reads, int(model.dimensions["image_size"]))


def _heard(
    model: TalkingModel, clips: Clips, device: torch.device, *, limit: int, bf16: bool, scale: float
) -> dict[int, Tensor]:
    """Return the audio features of the first clips, `[1, T, F]`, by row; unreadable clips are left out."""
    found: dict[int, Tensor] = {}
    for row in range(min(limit, len(clips))):
        with contextlib.suppress(ShardError), precision.autocast(device, bf16=bf16):
            found[row] = heard(model, _whole(model, clips, row, (WINDOWS, SOUND)).to(device), scale)
    return found


@torch.inference_mode()
def measure(
    model: TalkingModel,
    clips: Clips,
    device: torch.device,
    *,
    limit: int,
    seed: int = 0,
    bf16: bool = False,
    scale: float = 1.0,
    cheap: bool = False,
    progress: Progress = lambda _: None,
    watch: Watch | None = None,
) -> dict[str, dict[str, Any]]:
    """Generate whole clips and return how they talk, by what they are generated from; leaves the model in eval mode.

    `audio`, `video`: the clip's own audio or video. `wrong_audio`: the audio of each of the next `WRONG` clips, over
    which it is averaged. `repeated`, `mean`: still images: the identity frame, and the mean of the real clip, the best
    of them.
    scale: factor of the audio features. cheap: only the clip's own audio, and that of one wrong clip. progress: see
    `Progress`. watch: see `Watch`. Empty for fewer than two clips.
    """
    model.eval()
    scores: dict[str, list[TalkingScores]] = {}
    sounds = _heard(model, clips, device, limit=limit, bf16=bf16, scale=scale)
    rows = list(sounds)
    n_wrong = min(1 if cheap else WRONG, len(rows) - 1)
    if n_wrong < 1:
        return {}
    for done, clip in enumerate(whole_clips(model, clips, device, limit=limit, seed=seed)):
        at = rows.index(clip.row)
        others = [sounds[rows[(at + n) % len(rows)]] for n in range(1, n_wrong + 1)]
        videos = _add(model, clip, sounds[clip.row], others, scores, bf16=bf16, cheap=cheap)
        if watch is not None:
            watch(clip, videos)
        progress(done + 1)
    return {name: mean([one.result() for one in kept]) for name, kept in scores.items()}


def _add(
    model: TalkingModel,
    clip: WholeClip,
    own: Tensor,
    others: Sequence[Tensor],
    scores: dict[str, list[TalkingScores]],
    *,
    bf16: bool,
    cheap: bool,
) -> list[tuple[str, Tensor]]:
    """Measure a clip with its own audio features and with those of others, `[1, T, F]`; return what was generated."""
    real, device = clip.real[0], clip.real.device
    n_frames = len(real)
    repeated = real[clip.identity].expand_as(real)
    with precision.autocast(device, bf16=bf16):
        identity = model.encode_identity(clip.real[:, clip.identity : clip.identity + 1])
        identity = model.conditioned(identity, clip.batch)
        speech = [("audio", own)]
        speech += [("wrong_audio", lasting(other, n_frames)) for other in others]
        if not cheap and "video" in model.drivers:
            speech.append(("video", model.encode_speech(frames=clip.batch[FRAMES])))
        drawn = [(name, generated(model, identity, features)) for name, features in speech]
    still = [] if cheap else [("repeated", repeated), ("mean", real[clip.spoken].mean(0).expand_as(real))]
    counts: Counter[str] = Counter()
    for name, frames in (*drawn, *still):
        kept = scores.setdefault(name, [])
        if len(kept) == counts[name]:
            kept.append(TalkingScores())
        kept[counts[name]].add(real, frames, clip.spoken, identity=clip.identity, repeated=repeated)
        counts[name] += 1
    return drawn


def heard(model: TalkingModel, batch: Batch, scale: float = 1.0) -> Tensor:
    """Return the audio features `[B, T, F]` for `decode`; batch: consecutive frames of clips, such as a `WholeClip`.

    scale: factor of the audio features, as in `Talker.talk`.
    """
    return model.smooth_sound(scale * model.encode_sound(batch[WINDOWS], batch.get(SOUND)))


def as_generated(model: TalkingModel, driver: str, speech: Tensor) -> Tensor:
    """Return the features `[B, T, F]` of consecutive frames as `decode` gets them when this driver drives a clip."""
    return model.smooth_sound(speech) if driver == "audio" else speech


def lasting(speech: Tensor, n_frames: int) -> Tensor:
    """Return the features of another clip `[1, T, F]` for `n_frames` frames: truncated, or repeated."""
    return speech[:, [t % speech.shape[1] for t in range(n_frames)]]


def generated(model: TalkingModel, identity: Any, features: Tensor) -> Tensor:
    """Return the frames `[T, 3, S, S]` of all features `[1, T, F]`, decoded part by part."""
    frames = []
    for part in features.split(AT_ONCE, 1):
        drawn, identity = model.decode_on(identity, part)
        frames.append(drawn[0].float())
    return torch.cat(frames)
