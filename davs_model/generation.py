"""Talking faces: who is seen in a photo, saying what is heard in windows or seen in frames."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from avprep.errors import RunError
from avprep.schema import CROP_SIZE, N_COEFFICIENTS, WINDOW_STEPS
from davs_model import checkpoint, models, precision
from davs_model.checkpoint import Checkpoint
from davs_model.data.pictures import resized, to_crops
from davs_model.models.base import TalkingModel

ADAPTATION_RATE = 1e-4
"""Step size of Adam in `Talker.adapted`; the paper gives none."""

Pictures = NDArray[np.uint8]


class Talker:
    """A model that draws a face saying something.

    model: is moved to the device and put in eval mode.
    mfcc_preset: `davs` or `syncnet`: what its windows have to be; "" where the checkpoint does not say it.
    bf16: compute in bfloat16 where that is safe.
    """

    def __init__(
        self, model: TalkingModel, *, device: torch.device | str = "cpu", bf16: bool = False, mfcc_preset: str = "davs"
    ) -> None:
        self.model = precision.place(model, device).eval()
        self.device, self.bf16, self.mfcc_preset = torch.device(device), bf16, mfcc_preset
        self.side = int(model.dimensions["image_size"])

    @classmethod
    def load(cls, run: Path | str, *, device: torch.device | str | None = None, bf16: bool = False) -> Talker:
        """Load the model of a run, or a checkpoint.

        device: by default CUDA where there is one. CheckpointError, one line, for what is none; RunError for a model
        that has not learned to draw.
        """
        saved = checkpoint.load(Path(run))
        if not draws(saved):
            stage = generating_stage(saved)
            raise RunError(f"{run}: has not learned to draw faces: train its {stage} stage first (avprep train)")
        preset = str(saved.settings.get("mfcc_preset") or "davs")
        chosen = device or ("cuda" if torch.cuda.is_available() else "cpu")
        return cls(saved.model(), device=chosen, bf16=bf16, mfcc_preset=preset)

    def talk(self, faces: Pictures, speech: Iterable[NDArray[Any]], *, speech_scale: float = 1.0) -> Iterator[Pictures]:
        """Draw each frame of speech.

        faces: aligned, uint8 (256, 256, 3) RGB, or (K, 256, 256, 3) for K people saying the same.
        speech: runs of frames one after the other: windows float32 (n, 12, 20), or the aligned faces of somebody who
            speaks, uint8 (n, 256, 256, 3); memory grows with n × K.
        speech_scale: factor of the features of sound; the released demo takes 1.5.
        Yields frames, uint8, of the shape of `faces`.
        """
        identity, people = self._encode_faces(faces), len(faces) if faces.ndim == 4 else 1
        for part in speech:
            drawn = self._decode(identity, self._encode_speech(part, speech_scale).expand(people, -1, -1))
            yield from drawn if faces.ndim == 4 else drawn[:, 0]

    def adapted(self, faces: Pictures, speech: NDArray[Any], steps: int, *, speech_scale: float = 1.0) -> Talker:
        """Return a talker that is tuned to these faces, as the released demo tunes its own; this one stays as it is.

        The networks that the model adapts take so many steps of Adam on its loss between the faces and the frames of
        `speech`, a first run of what `talk` reads. RunError for a model that cannot be adapted.
        """
        if not self.model.adapts:
            raise RunError(f"the model {self.model.name} cannot be tuned to a face: leave out --adapt-steps")
        tuned = Talker(copy.deepcopy(self.model), device=self.device, bf16=self.bf16, mfcc_preset=self.mfcc_preset)
        model = tuned.model
        parameters = [each for name in model.adapts for each in model.get_submodule(name).parameters()]
        adam = torch.optim.Adam(parameters, lr=ADAPTATION_RATE)
        features = tuned._encode_speech(speech, speech_scale).clone()  # a leaf that autograd may read
        truth = self._pictures(faces)
        for _ in range(steps):
            with precision.autocast(self.device, bf16=self.bf16):
                drawn = model.decode(model.encode_identity(truth), features.expand(len(truth), -1, -1))
            loss = model.adaptation_loss(truth, drawn)
            adam.zero_grad()
            torch.autograd.backward(loss)
            adam.step()
        return tuned

    def _encode_faces(self, faces: Pictures) -> Any:
        with torch.inference_mode(), precision.autocast(self.device, bf16=self.bf16):
            return self.model.encode_identity(self._pictures(faces))

    @torch.no_grad()
    def _encode_speech(self, part: NDArray[Any], scale: float) -> Tensor:
        """Return f_w^a or f_w^v, `[1, n, 256]`."""
        with precision.autocast(self.device, bf16=self.bf16):
            if part.dtype == np.uint8:
                return self.model.encode_speech(frames=self._pictures(part).transpose(0, 1))
            if part.shape[1:] != (N_COEFFICIENTS, WINDOW_STEPS):
                raise ValueError(f"windows are (n, {N_COEFFICIENTS}, {WINDOW_STEPS}), these {part.shape}")
            windows = torch.from_numpy(np.ascontiguousarray(part, np.float32)).to(self.device)
            return scale * self.model.encode_speech(windows=windows[None])

    @torch.inference_mode()
    def _decode(self, identity: Any, features: Tensor) -> Pictures:
        """Return frames uint8 (n, K, 256, 256, 3)."""
        with precision.autocast(self.device, bf16=self.bf16):
            drawn = self.model.decode(identity, features)
        if not bool(drawn.isfinite().all()):
            raise RunError("the model generates numbers that are not finite: take another checkpoint")
        return to_crops(drawn.transpose(0, 1))

    def _pictures(self, faces: Pictures) -> Tensor:
        """Return faces (…, 256, 256, 3) as float32 `[K, 1, 3, S, S]` in [0, 1], made smaller as in training."""
        if faces.dtype != np.uint8 or faces.ndim not in (3, 4) or faces.shape[-3:] != (CROP_SIZE, CROP_SIZE, 3):
            raise ValueError(f"faces are uint8 (…, {CROP_SIZE}, {CROP_SIZE}, 3), these {faces.dtype} {faces.shape}")
        many = faces.reshape(-1, CROP_SIZE, CROP_SIZE, 3)
        if self.side != CROP_SIZE:
            many = resized(many, self.side, cv2.INTER_AREA)
        tensor = torch.from_numpy(np.ascontiguousarray(many)).to(self.device)
        return tensor.permute(0, 3, 1, 2)[:, None].float() / 255


def draws(saved: Checkpoint) -> bool:
    """Whether the model has trained the stage that generates, as far as its checkpoint says."""
    steps = saved.settings.get("steps")
    return not isinstance(steps, dict) or bool(steps.get(generating_stage(saved)))


def generating_stage(saved: Checkpoint) -> str:
    """Return the name of the first stage that generates."""
    return next(stage.name for stage in models.find(saved.name).stages.values() if stage.generates)
