"""Data-dependent initial weights of the speech encoders, without which they learn late or never."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from davs_model.data.reads import Batch
from davs_model.models.base import FRAMES, SOUND, WINDOWS

if TYPE_CHECKING:
    from davs_model.models.davs.networks.speech import AudioSpeechEncoder
    from davs_model.models.davs.speech_model import SpeechModel


@torch.no_grad()
def fit_speech_encoders(model: SpeechModel, batch: Batch) -> None:
    """Initialise both speech encoders so that no feature is dead and none is the same in all frames; in place.

    The single map at the end of E_w^v is followed by a ReLU, which weights of mixed sign can leave dead for good. Its
    weights therefore begin non-negative. With torch's initial weights, the features of two frames differ by only a
    hundredth of what they have in common, so that for thousands of steps the classifier sees the same clip every time.
    The last layer of both encoders therefore begins with features of mean 0 and variance 1 over a batch (the
    data-dependent initialisation of Krähenbühl et al., ICLR 2016, applied to the last layer only).

    model: if either encoder has been trained, both are left unchanged: one may be kept on purpose, and is fitted
    already. batch: of the training set, float32.
    """
    video, audio = model.visual_speech_encoder, model.audio_speech_encoder
    if lacks_statistics(audio):
        deviation, mean = torch.std_mean(batch[WINDOWS], dim=(0, 1, 3))
        audio.mean.copy_(mean)
        audio.deviation.copy_(deviation)
    if has_learned(video) or has_learned(audio):
        return
    last = video.to_map[2]
    assert isinstance(last, nn.Conv2d)
    assert last.bias is not None
    last.weight.abs_()
    last.bias.zero_()
    # On copies: in training mode BatchNorm updates its running statistics.
    if FRAMES in batch:
        _normalise(video.fc, copy.deepcopy(video).train()(batch[FRAMES]))
    _normalise(audio.fc, copy.deepcopy(audio).train()(batch[WINDOWS], batch.get(SOUND)))


def has_learned(encoder: nn.Module) -> bool:
    """Whether a whole encoder has been trained, here or elsewhere: whether every BatchNorm has running statistics."""
    layers = [layer for name, layer in encoder.named_modules() if not name.startswith("unused")]
    means = [layer.running_mean for layer in layers if isinstance(layer, _BatchNorm)]
    return all(mean is not None and bool(mean.any()) for mean in means)


def lacks_statistics(audio: AudioSpeechEncoder) -> bool:
    """Whether E_w^a standardises by the statistics of the training set and does not have them yet."""
    return audio.standardise == "corpus" and not bool(audio.mean.any())


def _normalise(last: nn.Linear, features: Tensor) -> None:
    """Rescale a last layer, in place, so that its outputs, now `features` `[B, T, 256]`, have mean 0 and variance 1."""
    deviation, mean = torch.std_mean(features.float().flatten(0, 1), dim=0)
    deviation = deviation.clamp(min=1e-6)
    last.weight.div_(deviation[:, None])
    last.bias.sub_(mean).div_(deviation)
