"""Generation of talking faces: the person in a photo, driven by the speech in windows or frames."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, Self

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from avprep.errors import RunError
from avprep.schema import CROP_SIZE, FPS, N_COEFFICIENTS, WINDOW_STEPS
from davs_model import adaptation, checkpoint, models, precision
from davs_model.checkpoint import Checkpoint
from davs_model.data.arrays import MIN_DEVIATION
from davs_model.data.pictures import WHOLE, Box, region, resized, to_crops
from davs_model.models.base import FRAMES, SOUND, TalkingModel

LISTENED = 60 * FPS
"""Number of windows that are read before the first frame is generated, by a model that standardises audio."""
AT_ONCE = 16
"""Number of frames after which these statistics are updated, however many a driver passes at once."""

NEUTRAL = "neutral"
"""The emotion that a face shows unless another one is requested."""
Pictures = NDArray[np.uint8]


class Heard:
    """Accumulates the windows of an audio track, part by part, for the statistics by which a model standardises them.

    n_frames: number of windows that were added.
    """

    def __init__(self) -> None:
        self.n_frames = 0
        self._sum = np.zeros(N_COEFFICIENTS)
        self._products = np.zeros((N_COEFFICIENTS, N_COEFFICIENTS))

    def add(self, windows: NDArray[np.floating[Any]]) -> None:
        """Add windows (n, 12, 20)."""
        self.n_frames += len(windows)
        self._sum = self._sum + windows.sum((0, 2), dtype=np.float64)
        steps = np.asarray(windows, np.float64).transpose(1, 0, 2).reshape(N_COEFFICIENTS, -1)
        self._products = self._products + steps @ steps.T

    def statistics(self) -> Tensor:
        """Return mean, standard deviation and covariance of all coefficients so far: float32 `[1, 14, 12]`."""
        count = self.n_frames * WINDOW_STEPS
        mean = self._sum / count
        covariance = self._products / count - np.outer(mean, mean)
        deviation = np.sqrt(covariance.diagonal().clip(MIN_DEVIATION**2))
        return torch.from_numpy(np.stack((mean, deviation, *covariance))[None]).float()


class Talker:
    """A model that generates a talking face.

    model: is moved to the device and put in eval mode.
    mfcc_preset: `davs` or `syncnet`, the preset that its windows must have; "" if the checkpoint does not name it.
    bf16: compute in bfloat16 where that is safe.
    doubt: reason why its faces may not talk, in one line; "" if none is known.
    people: number of speakers that it was trained on; None if unknown.
    measured: how well its faces talked in its last validation, in one line; "" if unknown.
    emotions: names of its emotions, in their order.
    drawn_from: what its last training generated frames from, audio, video or both; None: the drivers of the model.
    """

    def __init__(
        self,
        model: TalkingModel,
        *,
        device: torch.device | str = "cpu",
        bf16: bool = False,
        mfcc_preset: str = "davs",
        doubt: str = "",
        people: int | None = None,
        measured: str = "",
        emotions: tuple[str, ...] = (),
        drawn_from: tuple[str, ...] | None = None,
    ) -> None:
        self.model = precision.place(model, device).eval()
        self.device, self.bf16, self.mfcc_preset = torch.device(device), bf16, mfcc_preset
        self.doubt, self.people, self.measured, self.emotions = doubt, people, measured, emotions
        self.drawn_from = model.drivers if drawn_from is None else drawn_from
        self.side = int(model.dimensions["image_size"])

    @classmethod
    def load(cls, run: Path | str, *, device: torch.device | str | None = None, bf16: bool = False) -> Self:
        """Load the model of a run, or a checkpoint.

        device: by default CUDA if it is available. CheckpointError, one line, for a file that is not a checkpoint;
        RunError for a model that has not learned to generate frames; SettingsError for a device that is not usable.
        """
        saved = checkpoint.load(Path(run))
        if not draws(saved):
            if not (stage := generating_stage(saved)):
                raise RunError(f"{run}: a model {saved.name}, which draws no faces: give a RUN of a model that does")
            raise RunError(f"{run}: has not learned to draw faces: train its {stage} stage first (avprep train)")
        return cls(saved.model(), device=precision.device(device), bf16=bf16, doubt=_doubt(run, saved), **_said(saved))

    def driver(self, wanted: Literal["audio", "video"]) -> Literal["audio", "video"]:
        """Return the driver to use of a file: the wanted one, or audio if the model does not support that."""
        return wanted if wanted in self.model.drivers else "audio"

    def talk(
        self,
        faces: Pictures,
        speech: Iterable[NDArray[Any]],
        *,
        speech_scale: float = 1.0,
        more: Pictures | None = None,
        expression: Tensor | None = None,
        weighed: Callable[[NDArray[np.float32]], object] | None = None,
    ) -> Iterator[Pictures]:
        """Generate a frame for each frame of speech.

        faces: aligned, uint8 (256, 256, 3) RGB, or (K, 256, 256, 3) for K people with the same speech.
        speech: consecutive parts: windows float32 (n, 12, 20), or aligned faces of a speaker, uint8 (n, 256, 256, 3);
            memory grows with n × K. If the model standardises the audio of each clip, the first minute of windows is
            read before the first frame is generated, and later windows update the statistics.
        speech_scale: factor of the audio features; the released demo uses 1.5.
        more: other aligned images of a single person, (n, 256, 256, 3), which are combined with the first.
        expression: result of `expression`; None: its result without arguments.
        weighed: for a model that weights modalities: receives the weight of each modality in each frame, (n, M),
            averaged over the faces, before those frames are yielded.
        Yields frames, uint8, of the shape of `faces`.
        """
        identity, people = self._encode_faces(faces, more, expression), len(faces) if faces.ndim == 4 else 1
        for features in self._features(speech, speech_scale):
            features = features.expand(people, -1, -1)
            if weighed is not None:
                weighed(self._weights(identity, features))
            drawn, identity = self._decode(identity, features)
            yield from drawn if faces.ndim == 4 else drawn[:, 0]

    def expression(self, frames: Pictures | None = None, emotion: str | None = None) -> Tensor | None:
        """Return the expression of any person in aligned frames (n, 256, 256, 3), or the mean one of an emotion.

        Without arguments: that of `neutral` if the model has learned it, else the mean of all clips; None for a model
        that takes no expression. RunError if such a model is given one, and for an unknown or unseen emotion.
        """
        if not self.model.expression_length:
            if frames is None and emotion is None:
                return None
            raise RunError(f"the model {self.model.name} takes no expression: leave out --expression and --emotion")
        means = {name: self.model.mean_expression(number) for number, name in enumerate(self.emotions)}
        learned = [name for name, mean in means.items() if bool(mean.any())]
        if emotion is not None and emotion not in learned:
            problem = "has learned from no clip of the emotion" if emotion in means else "knows no emotion"
            raise RunError(f"the model {problem} {emotion}: it knows {', '.join(learned) or 'none'}")
        if frames is None:
            named = emotion or (NEUTRAL if NEUTRAL in learned else None)
            return self.model.mean_expression() if named is None else means[named]
        with torch.inference_mode(), precision.autocast(self.device, bf16=self.bf16):
            return self.model.encode_expression(self._pictures(frames).transpose(0, 1))

    def adapted(
        self,
        faces: Pictures,
        speech: Iterable[NDArray[Any]],
        steps: int,
        *,
        speech_scale: float = 1.0,
        video: Pictures | None = None,
        heard: NDArray[np.float32] | None = None,
        seed: int = 0,
    ) -> Talker:
        """Return a talker that is fine-tuned to a person in this number of steps; this one does not change.

        faces, speech, speech_scale: as for `talk`, with one photo per person. The first frames that `talk` would
            generate are made to look like the photo except for the mouth, as in the released demo.
        video: instead, a few seconds of one person, aligned, (n, 256, 256, 3), whose frames are generated from each
            other; heard: their windows (n, 12, 20), if there is audio. The driver is that of `talk`: these windows if
            `speech` holds windows. A model that only audio drives is tuned to the photo if the video has no audio.
            seed: draws the frames of each step.
        RunError for a model that cannot be adapted. See `davs_model.adaptation`.
        """
        if not self.model.adapts:
            raise RunError(f"the model {self.model.name} cannot be tuned to a face: leave out --adapt-steps")
        tuned = copy.copy(self)
        tuned.model = copy.deepcopy(self.model)
        if video is None or (heard is None and "video" not in self.model.drivers):
            features = next(self._features(speech, speech_scale))
            adaptation.to_photo(tuned.model, self._pictures(faces), features, steps, bf16=self.bf16)
        else:
            driving = video if heard is None or next(iter(speech)).dtype == np.uint8 else heard
            features = torch.cat(list(self._features([driving], 1.0)), dim=1)
            frames = self._pictures(video).transpose(0, 1)
            adaptation.to_video(tuned.model, frames, features, steps, seed=seed, bf16=self.bf16)
        return tuned

    def _encode_faces(self, faces: Pictures, more: Pictures | None, expression: Tensor | None) -> Any:
        seen = self._pictures(faces)
        with torch.inference_mode(), precision.autocast(self.device, bf16=self.bf16):
            if more is None or not len(more):
                identity = self.model.encode_identity(seen)
            else:
                identity = self.model.encode_person(torch.cat((seen, self._pictures(more))).transpose(0, 1))
            shown = self.expression() if expression is None else expression
            return identity if shown is None else self.model.expressing(identity, shown)

    @torch.inference_mode()
    def _weights(self, identity: Any, features: Tensor) -> NDArray[np.float32]:
        with precision.autocast(self.device, bf16=self.bf16):
            return self.model.modality_weights(identity, features).mean(0).float().cpu().numpy()

    def _pictures(self, faces: Pictures) -> Tensor:
        return pictures(faces, self.side).to(self.device)

    def _features(self, speech: Iterable[NDArray[Any]], scale: float) -> Iterator[Tensor]:
        """Yield f_w^a or f_w^v of parts of the speech; one frame late if the model smooths f_w^a."""
        waiting: Tensor | None = None
        drawn = 0
        reads = SOUND in self.model.reads(self.model.dimensions)
        for part, sound in with_statistics(speech) if reads else ((part, None) for part in speech):
            features = self._encode_speech(part, scale, sound)
            if part.dtype == np.uint8 or not self.model.smooths:
                yield features
                continue
            run = features if waiting is None else torch.cat((waiting, features), dim=1)
            if run.shape[1] > drawn + 1:
                yield self.model.smooth_sound(run)[:, drawn:-1]
            waiting, drawn = run[:, -2:], min(run.shape[1] - 1, 1)
        if waiting is not None:
            yield self.model.smooth_sound(waiting)[:, drawn:]

    @torch.no_grad()
    def _encode_speech(self, part: NDArray[Any], scale: float, sound: Tensor | None = None) -> Tensor:
        """Return f_w^a or f_w^v, `[1, n, 256]`; sound: the statistics for `TalkingModel.encode_sound`."""
        reads = self.model.reads(self.model.dimensions)
        with precision.autocast(self.device, bf16=self.bf16):
            if part.dtype == np.uint8:
                form = reads[FRAMES]
                frames = pictures(part, form.size or self.side, form.box).to(self.device)
                return self.model.encode_speech(frames=frames.transpose(0, 1))
            if part.shape[1:] != (N_COEFFICIENTS, WINDOW_STEPS):
                raise ValueError(f"windows are (n, {N_COEFFICIENTS}, {WINDOW_STEPS}), these {part.shape}")
            windows = torch.from_numpy(np.ascontiguousarray(part, np.float32)).to(self.device)
            sound = None if sound is None else sound.to(self.device)
            return scale * self.model.encode_sound(windows[None], sound)

    @torch.inference_mode()
    def _decode(self, identity: Any, features: Tensor) -> tuple[Pictures, Any]:
        """Return frames uint8 (n, K, 256, 256, 3), and the identity from which the next ones are generated."""
        with precision.autocast(self.device, bf16=self.bf16):
            drawn, identity = self.model.decode_on(identity, features)
        if not bool(drawn.isfinite().all()):
            raise RunError("the model generates numbers that are not finite: take another checkpoint")
        return to_crops(drawn.transpose(0, 1)), identity


def with_statistics(speech: Iterable[NDArray[Any]]) -> Iterator[tuple[NDArray[Any], Tensor | None]]:
    """Yield parts of the speech, windows with the statistics of their audio so far; see `Talker.talk`."""
    heard = Heard()
    waiting: list[NDArray[Any]] = []
    for part in _cut_alike(speech):
        if part.dtype == np.uint8:
            yield part, None
            continue
        heard.add(part)
        waiting.append(part)
        if heard.n_frames >= LISTENED:
            yield from ((one, heard.statistics()) for one in waiting)
            waiting = []
    yield from ((one, heard.statistics()) for one in waiting)


def _cut_alike(speech: Iterable[NDArray[Any]]) -> Iterator[NDArray[Any]]:
    """Regroup windows into parts that do not depend on the given parts, so that their statistics do not, either.

    The parts have `AT_ONCE` windows, and the rest of every `LISTENED`. Frames pass unchanged.
    """
    rest: NDArray[Any] | None = None
    done = 0
    for part in speech:
        if part.dtype == np.uint8:
            yield part
            continue
        rest = part if rest is None else np.concatenate((rest, part))
        while len(rest) >= (size := min(AT_ONCE, LISTENED - done % LISTENED)):
            yield rest[:size]
            rest, done = rest[size:], done + size
    if rest is not None and len(rest):
        yield rest


def pictures(faces: Pictures, side: int, box: Box = WHOLE) -> Tensor:
    """Convert faces (…, 256, 256, 3) to float32 `[K, 1, 3, S, S]` in [0, 1], downscaled as in training.

    side: S. box: the part of the faces that is seen.
    """
    if faces.dtype != np.uint8 or faces.ndim not in (3, 4) or faces.shape[-3:] != (CROP_SIZE, CROP_SIZE, 3):
        raise ValueError(f"faces are uint8 (…, {CROP_SIZE}, {CROP_SIZE}, 3), these {faces.dtype} {faces.shape}")
    many = faces.reshape(-1, CROP_SIZE, CROP_SIZE, 3)
    if (box, side) != (WHOLE, CROP_SIZE):
        rows, columns = region(box, CROP_SIZE)
        many = resized(many[:, rows, columns], side, cv2.INTER_AREA)
    return torch.from_numpy(np.ascontiguousarray(many)).permute(0, 3, 1, 2)[:, None].float() / 255


def _said(saved: Checkpoint) -> dict[str, Any]:
    """Return what a checkpoint records of its model, by the names of `Talker`'s arguments."""
    speakers, training = (saved.settings.get(name) for name in ("speakers", "training"))
    emotions = tuple(saved.settings.get("emotions") or ())
    return {
        "mfcc_preset": str(saved.settings.get("mfcc_preset") or "davs"),
        "people": len(speakers) if isinstance(speakers, list) and speakers else None,
        "measured": _measured(saved),
        "emotions": emotions if len(emotions) == saved.dimensions.get("n_emotions") else (),
        "drawn_from": models.find(saved.name).drawn_from(training) if isinstance(training, dict) else None,
    }


def _doubt(run: Path | str, saved: Checkpoint) -> str:
    """Return the reason why the faces of a model may not talk, according to its last validation."""
    talking = saved.settings.get("talking")
    if isinstance(talking, dict) and talking.get("talks") is False:
        return (
            f"{run}: does not talk: in its last validation another clip's audio was as good as the right one; "
            "the mouth will move little, or wrongly: train its generating stage longer"
        )
    return ""


def _measured(saved: Checkpoint) -> str:
    """Return how the faces of a model talked in its last validation, in one line."""
    talking = saved.settings.get("talking")
    scores = talking.get("audio") if isinstance(talking, dict) else None
    values = [scores.get(name) for name in ("opening_r", "amplitude")] if isinstance(scores, dict) else [None]
    if not all(isinstance(value, int | float) for value in values):
        return ""
    return "mouths opened with a correlation of {:.2f} with the real ones, and moved {:.0%} as far".format(*values)


def draws(saved: Checkpoint) -> bool:
    """Whether the model has a stage that generates, and its checkpoint records steps of it or no steps at all."""
    steps, stage = saved.settings.get("steps"), generating_stage(saved)
    return bool(stage) and (not isinstance(steps, dict) or bool(steps.get(stage)))


def generating_stage(saved: Checkpoint) -> str:
    """Return the name of the first stage that generates, "" for a model that has none."""
    return next((stage.name for stage in models.find(saved.name).stages.values() if stage.generates), "")
