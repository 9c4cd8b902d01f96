"""Whole clips generated from their own sound, from their own pictures and from a wrong sound, and how they talk."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from avprep.errors import ShardError
from davs_model import precision
from davs_model.data.batch import empty_batch
from davs_model.data.clips import NO_WORDS, Clips
from davs_model.data.reads import Batch, Reads, Shape
from davs_model.data.sampling import portrait_rng, spoken_part
from davs_model.data.sources import ClipSource
from davs_model.evaluation.metrics.talking import TalkingScores
from davs_model.models.base import FRAMES, REAL, SOUND, WINDOWS, TalkingModel

RIVALS = ("repeated", "mean")
"""Pictures that do not move: the identity frame, and the mean of the real clip, the best of them."""
AT_ONCE = 32
"""Frames that are decoded at once."""


@dataclass(frozen=True)
class WholeClip:
    """A clip from its first frame to its last, on a device.

    batch: `FRAMES`, `WINDOWS`, `REAL` and `SOUND` of all T frames, `[1, T, …]`.
    spoken: the frames in which somebody speaks. identity: the frame that shows who it is.
    """

    batch: Batch
    spoken: slice
    identity: int

    @property
    def real(self) -> Tensor:
        """The frames to generate, `[1, T, 3, S, S]`."""
        return self.batch.get(REAL, self.batch[FRAMES])


def whole_clips(
    model: TalkingModel, clips: Clips, device: torch.device, *, limit: int, seed: int = 0
) -> Iterator[WholeClip]:
    """Read the first clips of a table whole, at most `limit`; broken ones are left out.

    seed: draws the identity frame.
    """
    reads = model.reads(model.dimensions)
    for row in range(min(limit, len(clips))):
        n_frames = int(clips.n_frames[row])
        wanted: dict[str, Reads] = {}
        for name in (FRAMES, WINDOWS, REAL, SOUND):
            if name in reads:
                whole = replace(reads[name], length=n_frames, every=1, at="anywhere", beside="", part=0)
                wanted[name] = reads[name] if name == SOUND else whole
        shape = Shape(wanted, int(model.dimensions["image_size"]))
        raw, source = empty_batch(shape, 1), ClipSource(clips, shape)
        try:
            source.load(row, raw, 0, None)
            valid = source.valid(row)
        except ShardError:
            continue
        first, end = spoken_part(n_frames, clips.timed[row] if clips.timed else NO_WORDS, valid)
        identity = int(portrait_rng(seed, row).integers(n_frames))
        yield WholeClip(raw.to(device), slice(first, end), identity)


@torch.inference_mode()
def measure(
    model: TalkingModel,
    clips: Clips,
    device: torch.device,
    *,
    limit: int,
    seed: int = 0,
    bf16: bool = False,
    cheap: bool = False,
    told: Callable[[int], object] = lambda _: None,
) -> dict[str, dict[str, Any]]:
    """Generate clips whole and return how they talk, by what they are generated from; the model is left in eval mode.

    `audio`, `video`, `wrong_audio`: its own sound, its own pictures, the sound of the clip before. `repeated`, `mean`:
    see `RIVALS`.
    cheap: by sound alone, right and wrong. told: is called with the number of clips done. Empty without two clips.
    """
    model.eval()
    scores: dict[str, TalkingScores] = {}
    before: WholeClip | None = None
    first: WholeClip | None = None
    for done, clip in enumerate(whole_clips(model, clips, device, limit=limit, seed=seed)):
        if before is not None:
            _add(model, before, clip, scores, bf16=bf16, cheap=cheap)
        first, before = first or clip, clip
        told(done + 1)
    if first is None or before is None or first is before:
        return {}
    _add(model, before, first, scores, bf16=bf16, cheap=cheap)
    return {name: asdict(kept.result()) for name, kept in scores.items()}


def _add(
    model: TalkingModel,
    clip: WholeClip,
    other: WholeClip,
    scores: dict[str, TalkingScores],
    *,
    bf16: bool,
    cheap: bool,
) -> None:
    """Measure a clip; other: one with another sound."""
    real, device = clip.real[0], clip.real.device
    n_frames = len(real)
    repeated = real[clip.identity].expand_as(real)
    with precision.autocast(device, bf16=bf16):
        identity = model.encode_identity(clip.real[:, clip.identity : clip.identity + 1])
        speech = {"audio": model.encode_sound(clip.batch[WINDOWS], clip.batch.get(SOUND))}
        wrong = model.encode_sound(other.batch[WINDOWS], other.batch.get(SOUND))
        speech["wrong_audio"] = wrong[:, [t % wrong.shape[1] for t in range(n_frames)]]
        if not cheap and "video" in model.drivers:
            speech["video"] = model.encode_speech(frames=clip.batch[FRAMES])
        drawn = {name: _whole(model, identity, features) for name, features in speech.items()}
    if not cheap:
        drawn |= {"repeated": repeated, "mean": real[clip.spoken].mean(0).expand_as(real)}
    for name, frames in drawn.items():
        kept = scores.setdefault(name, TalkingScores())
        kept.add(real, frames, clip.spoken, identity=clip.identity, repeated=repeated)


def _whole(model: TalkingModel, identity: Any, features: Tensor) -> Tensor:
    """Return the frames of all features `[1, T, F]`, decoded part by part: `[T, 3, S, S]`."""
    frames = []
    for part in features.split(AT_ONCE, 1):
        generated, identity = model.decode_on(identity, part)
        frames.append(generated[0].float())
    return torch.cat(frames)
