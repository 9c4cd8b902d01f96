"""The four axes of the paper: reconstruction, identity, expression and sync, in two protocols.

*self*: the expression comes from the generated clip itself; *cross*: from a clip of another person with the same
emotion, which tests transfer. Views of the speaker come from their other clips, the audio from the clip.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from davs_model import precision
from davs_model.data.clips import Clips
from davs_model.evaluation import in_sync, talk
from davs_model.evaluation.expression.readers import IdentityReader, Readers
from davs_model.evaluation.expression.targets import Target, each, evenly, expression_of, frames_of
from davs_model.evaluation.metrics import talking
from davs_model.evaluation.metrics.reconstruction import psnr, ssim
from davs_model.evaluation.metrics.spread import Estimate, estimate
from davs_model.evaluation.progress import Progress
from davs_model.models.base import Measure, SyncJudge, TalkingModel

FILMS = {
    "real": "real frames",
    "self": "self: expression of the clip itself",
    "cross": "cross: expression of another person",
    "photo": "cross: of a single frame of them",
    "picture": "first picture repeated",
    "other_person": "real frames of another person",
}
COLUMNS = {
    "psnr": ("PSNR, dB", ".2f"),
    "ssim": ("SSIM", ".3f"),
    "identity_cosine": ("identity, cosine", ".3f"),
    "identity_distance": ("identity, squared distance", ".3g"),
    "emotion": ("emotion read", ".3f"),
    "emotion_mouthless": ("emotion read without mouth", ".3f"),
    "opening_r": ("opening r", ".3f"),
    "sync_confidence": ("sync confidence", ".3f"),
    "sync_within_1": ("|lead| ≤ 1", ".3f"),
    "flicker": ("flicker", ".2f"),
    "second_difference": ("second difference", ".2f"),
}
"""The metrics of each video: the column and number format of each."""


@dataclass(frozen=True)
class Bench:
    """An expressive model in eval mode, the clips on which it is measured, and the readers of its videos.

    clips: with the emotion numbers of the readers. identity, sync: None if there is none.
    """

    model: TalkingModel
    clips: Clips
    device: torch.device
    readers: Readers
    identity: IdentityReader | None = None
    sync: SyncJudge | None = None
    bf16: bool = False
    seed: int = 0

    @property
    def side(self) -> int:
        """Side of the frames in pixels."""
        return int(self.model.dimensions["image_size"])

    def clip(self, row: int) -> talk.WholeClip:
        """Read a whole clip; ShardError."""
        return talk.whole_clip(self.model, self.clips, row, self.device)

    def views(self, target: Target, count: int | None = None) -> Tensor:
        """Return the first views of a speaker, `[1, K, 3, S, S]`; ShardError."""
        seen = [frames_of(self.clips, row, [frame], self.side, self.device) for row, frame in target.views[:count]]
        return torch.cat(seen)[None]

    def expression(self, row: int, *, photo: bool = False) -> Tensor:
        """Return the expression of a clip, or of its middle frame as a photo, `[1, D]`; ShardError."""
        frames = expression_of(self.clips, row, self.side, self.device)
        frames = frames[len(frames) // 2 :][:1] if photo else frames
        with precision.autocast(self.device, bf16=self.bf16):
            return self.model.encode_expression(frames[None])

    def film(self, person: Any, expression: Tensor, clip: talk.WholeClip) -> Tensor:
        """Generate a video `[T, 3, S, S]` of a person with an expression, driven by the audio of a clip."""
        with precision.autocast(self.device, bf16=self.bf16):
            said = talk.heard(self.model, clip.batch)
            return talk.generated(self.model, self.model.expressing(person, expression), said)

    def person(self, views: Tensor) -> Any:
        """Encode the identity in views `[1, K, 3, S, S]`."""
        with precision.autocast(self.device, bf16=self.bf16):
            return self.model.encode_person(views)

    def read(self, film: Tensor, clip: talk.WholeClip, emotion: int) -> tuple[int, dict[str, float]]:
        """Return the emotion recognised in a video, and its other metrics.

        The video is driven by the audio of `clip`, and should show `emotion`.
        """
        shown, part = self.readers.read(film), film[clip.spoken]
        found = {
            "emotion": float(shown[0] == emotion),
            "emotion_mouthless": float(shown[1] == emotion),
            "opening_r": talking.correlation(talking.opening(part), talking.opening(clip.real[0, clip.spoken])),
            "flicker": talking.flicker(film),
            "second_difference": talking.second_difference(film),
        }
        if self.sync is not None:
            offset = in_sync.offset_of(self.sync, film, clip)
            if offset is not None:
                found["sync_confidence"] = offset.confidence
                found["sync_within_1"] = float(abs(offset.audio_lead_frames) <= 1)
        return shown[0], found


@dataclass
class Kept:
    """Metrics of videos by the name of the video, each with its speaker."""

    values: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    speakers: dict[str, dict[str, list[int]]] = field(default_factory=dict)

    def add(self, name: str, speaker: int, found: Mapping[str, float]) -> None:
        """Keep the metrics of one video."""
        for key, value in found.items():
            self.values.setdefault(name, {}).setdefault(key, []).append(value)
            self.speakers.setdefault(name, {}).setdefault(key, []).append(speaker)

    def estimates(self, seed: int) -> dict[str, dict[str, Estimate]]:
        """Return the mean and interval of each metric of each video."""
        return {
            name: {key: estimate(of, self.speakers[name][key], seed=seed) for key, of in values.items()}
            for name, values in self.values.items()
        }


def measure(bench: Bench, chosen: Sequence[Target], progress: Progress = lambda _: None) -> Measure:
    """Generate each target in both protocols, and return the axes; progress: see `Progress`."""
    kept = Kept()
    read = each(chosen, progress, lambda target: _add(bench, target, kept))
    found = kept.estimates(bench.seed)
    emotions = bench.clips.emotions[[target.row for target in read]]
    chance = float(np.bincount(emotions).max() / len(emotions))
    return _shown(bench, found, chance)


def _add(bench: Bench, target: Target, kept: Kept) -> None:
    clip, views = bench.clip(target.row), bench.views(target)
    person, real = bench.person(views), clip.real[0]
    films = {
        "real": real,
        "self": bench.film(person, bench.expression(target.row), clip),
        "cross": bench.film(person, bench.expression(target.donor), clip),
        "photo": bench.film(person, bench.expression(target.donor, photo=True), clip),
        "picture": views[0, :1].expand_as(real),
    }
    at = evenly(len(real))
    known = None if bench.identity is None else bench.identity.features(views[0]).mean(0)
    for name, film in films.items():
        _, found = bench.read(film, clip, target.emotion)
        if name != "real":
            found |= {"psnr": float(psnr(real[at], film[at]).mean()), "ssim": float(ssim(real[at], film[at]).mean())}
        if bench.identity is not None and known is not None:
            found |= _identity(bench.identity, film[at], known)
        kept.add(name, target.speaker, {key: value for key, value in found.items() if np.isfinite(value)})
    if bench.identity is not None and known is not None:
        donor = expression_of(bench.clips, target.donor, bench.side, bench.device)
        kept.add("other_person", target.speaker, _identity(bench.identity, donor, known))


def _identity(reader: IdentityReader, frames: Tensor, known: Tensor) -> dict[str, float]:
    cosine, distance = reader.against(frames, known)
    return {"identity_cosine": cosine, "identity_distance": distance}


def _shown(bench: Bench, found: Mapping[str, Mapping[str, Estimate]], chance: float) -> Measure:
    columns = {key: of for key, of in COLUMNS.items() if any(key in values for values in found.values())}
    rows = [
        (title, *(found[name][key].text(form) if key in found[name] else "–" for key, (_, form) in columns.items()))
        for name, title in FILMS.items()
        if name in found
    ]
    rows.append(("chance", *(f"{chance:.3f}" if key.startswith("emotion") else "–" for key in columns)))
    facts: dict[str, Any] = {f"{name}_{key}": one.mean for name, values in found.items() for key, one in values.items()}
    facts |= {
        "chance": chance,
        "intervals": {name: {key: asdict(one) for key, one in values.items()} for name, values in found.items()},
        "reader_clips": bench.readers.n_clips,
    }
    cross, real = found["cross"], found["real"]
    summary = (
        f"emotion read in {cross['emotion'].mean:.0%} of films with another person's expression, "
        f"in {found['self']['emotion'].mean:.0%} with the clip's own, in {real['emotion'].mean:.0%} of real clips, "
        f"chance {chance:.0%}"
    )
    notes = (
        f"{cross['emotion'].n_clips} clips of {cross['emotion'].n_speakers} speakers, each with its 95 % interval by "
        "speaker. Pictures of the speaker from other clips of theirs, the sound from the clip.",
        f"Emotions are read by a linear SVM of gradients, fitted to {bench.readers.n_clips} real clips of the train "
        "split; its accuracy on real frames is the upper bound. Identity: in the encoder of another run, against the "
        "pictures that the model was given.",
    )
    head = ("film", *(title for title, _ in columns.values()))
    return Measure("expression", summary, facts, "Expression, on people not seen", notes, head, tuple(rows))
