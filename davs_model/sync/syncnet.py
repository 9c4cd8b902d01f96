"""The released SyncNet, and LSE-D and LSE-C as its evaluation computes them.

Out of Time: Automated Lip Sync in the Wild (Chung and Zisserman 2016); the field calls the minimum distance LSE-D and
the confidence LSE-C (Prajwal et al. 2020). Users provide the weights, `syncnet_v2.model`. As in the released
evaluation, audio features are padded with zeros at both ends, so that windows that do not exist count as features of
zeros; the last window is left out; and the median is over all 31 offsets.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from avprep.errors import CheckpointError
from avprep.media.mfcc import FRAME, PRE_EMPHASIS
from avprep.schema import HOP, SAMPLE_RATE, STEPS_PER_FRAME, WINDOW_FRAMES, WINDOW_STEPS
from davs_model import torch_file
from davs_model.checkpoint import is_plain
from davs_model.models.sync.curve import DECIMALS, REACH, Offset

SIDE = 224
"""Side of its input images in pixels."""
FEATURES = 1024
AT_ONCE = 20
"""Number of windows in one pass of the networks, as in the evaluation; each window is normalised independently."""
SAMPLES_PER_FRAME = 640


class SyncNet(nn.Module):
    """Both streams of SyncNet; the networks and layers have the names and shapes of the released weights."""

    def __init__(self) -> None:
        super().__init__()
        self.netcnnaud = nn.Sequential(
            *_conv2d(1, 64, 3, 1),
            nn.MaxPool2d((1, 1), stride=(1, 1)),
            *_conv2d(64, 192, 3, 1),
            nn.MaxPool2d((3, 3), stride=(1, 2)),
            *_conv2d(192, 384, 3, 1),
            *_conv2d(384, 256, 3, 1),
            *_conv2d(256, 256, 3, 1),
            nn.MaxPool2d((3, 3), stride=(2, 2)),
            *_conv2d(256, 512, (5, 4), 0),
        )
        self.netfcaud = _head()
        self.netfclip = _head()
        self.netcnnlip = nn.Sequential(
            *_conv3d(3, 96, (5, 7, 7), (1, 2, 2), 0),
            nn.MaxPool3d((1, 3, 3), stride=(1, 2, 2)),
            *_conv3d(96, 256, (1, 5, 5), (1, 2, 2), (0, 1, 1)),
            nn.MaxPool3d((1, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1)),
            *_conv3d(256, 256, (1, 3, 3), 1, (0, 1, 1)),
            *_conv3d(256, 256, (1, 3, 3), 1, (0, 1, 1)),
            *_conv3d(256, 256, (1, 3, 3), 1, (0, 1, 1)),
            nn.MaxPool3d((1, 3, 3), stride=(1, 2, 2)),
            *_conv3d(256, 512, (1, 6, 6), 1, 0),
        )

    @classmethod
    def load(cls, path: Path | str, device: torch.device | str = "cpu") -> SyncNet:
        """Read `syncnet_v2.model`; no code in the file is executed. CheckpointError, one line, for any other file."""
        found = torch_file.record(torch_file.read(Path(path)))
        net = cls().eval()
        wanted = net.state_dict()
        for name, tensor in wanted.items():
            given = (found or {}).get(name)
            if name.endswith("num_batches_tracked"):  # old files lack it, and it is not used
                continue
            if not is_plain(given) or given.shape != tensor.shape or not given.is_floating_point():
                raise CheckpointError(f"{path}: not those of SyncNet ({name} is missing or of another shape)")
            if not given.float().isfinite().all():
                raise CheckpointError(f"{path}: holds numbers that are not finite ({name})")
            tensor.copy_(given)
        return net.to(device)

    def see(self, windows: Tensor) -> Tensor:
        """Map N windows of five frames, BGR in 0 … 255 `[N, 3, 5, 224, 224]`, to `[N, 1024]`."""
        return self.netfclip(self.netcnnlip(windows).flatten(1))

    def hear(self, windows: Tensor) -> Tensor:
        """Map MFCC windows `[N, 1, 13, 20]` to `[N, 1024]`."""
        return self.netfcaud(self.netcnnaud(windows).flatten(1))


@dataclass(frozen=True)
class Lse:
    """The result of the evaluation.

    offset: frames by which the audio is early, a whole number. lse_d, lse_c: minimum distance, median minus minimum.
    mean: the mean distance at each offset, from audio early by 15 to late by 15 frames, as in the evaluation.
    """

    offset: int
    lse_d: float
    lse_c: float
    mean: NDArray[np.float32]
    n_windows: int

    def as_offset(self) -> Offset:
        """Convert it to our own `Offset`, whose curve goes from late to early."""
        curve = tuple(round(float(value), DECIMALS) for value in self.mean[::-1])
        lead, confidence, distance = float(self.offset), round(self.lse_c, DECIMALS), round(self.lse_d, DECIMALS)
        return Offset(lead, confidence, distance, self.n_windows, curve)


def picture(crop: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Convert a crop (256, 256, 3), RGB, to its input: BGR (224, 224, 3)."""
    return cv2.resize(crop[:, :, ::-1], (SIDE, SIDE)).astype(np.uint8, copy=False)


@torch.inference_mode()
def evaluate(net: SyncNet, frames: Iterable[NDArray[np.uint8]], samples: NDArray[np.int16]) -> Lse | None:
    """Return offset, LSE-D and LSE-C of a clip like the released evaluation; None for a clip of 5 frames or fewer.

    frames: BGR (224, 224, 3) each, at 25 fps; few of them are in memory at once. samples: int16 (N,), at 16 kHz,
    starting at the same time.
    """
    seen, heard = torch.empty(0, FEATURES), torch.zeros(REACH, FEATURES)
    found, count = torch.empty(len(samples) // SAMPLES_PER_FRAME, 2 * REACH + 1), 0  # small tensors fragment the heap
    for video, audio in _features(net, frames, samples):
        seen, heard = torch.cat((seen, video)), torch.cat((heard, audio))
        ready = len(heard) - 2 * REACH  # windows of video whose audio is there at all offsets
        if ready > 0:
            found[count : count + ready] = _distances(seen[:ready], heard)
            count += ready
            seen, heard = seen[ready:], heard[ready:]
    if len(heard) == REACH:
        return None
    found[count : count + len(seen)] = _distances(seen, functional.pad(heard, (0, 0, 0, REACH)))
    distances = found[: count + len(seen)]
    mean = distances.mean(0)
    least, place = mean.min(0)
    return Lse(
        offset=REACH - int(place),
        lse_d=float(least),
        lse_c=float(mean.median() - least),
        mean=mean.numpy(),
        n_windows=len(distances),
    )


def _features(
    net: SyncNet, frames: Iterable[NDArray[np.uint8]], samples: NDArray[np.int16]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the features of video and audio, each `[n, 1024]`, of at most `AT_ONCE` windows each; not of the last."""
    device = next(net.parameters()).device
    rest = itertools.islice(frames, len(samples) // SAMPLES_PER_FRAME)
    held: list[NDArray[np.uint8]] = []
    first = 0
    while True:
        held += itertools.islice(rest, AT_ONCE + WINDOW_FRAMES - len(held))
        count = len(held) - WINDOW_FRAMES
        if count < 1:
            return
        part = torch.from_numpy(np.stack(held)).permute(3, 0, 1, 2).float()
        seen = torch.stack([part[:, place : place + WINDOW_FRAMES] for place in range(count)])
        cepstra = torch.from_numpy(_mfcc(samples, first, count)).float()
        begins = [STEPS_PER_FRAME * place for place in range(count)]
        heard = torch.stack([cepstra[None, :, begin : begin + WINDOW_STEPS] for begin in begins])
        yield net.see(seen.to(device)).cpu(), net.hear(heard.to(device)).cpu()
        held, first = held[count:], first + count


def _mfcc(samples: NDArray[np.int16], first: int, count: int) -> NDArray[np.float64]:
    """Return the MFCC of `count` windows from frame `first` on, as the evaluation computes them: (13, steps)."""
    from python_speech_features import mfcc, sigproc

    begin = first * SAMPLES_PER_FRAME
    end = begin + (count - 1) * SAMPLES_PER_FRAME + (WINDOW_STEPS - 1) * HOP + FRAME
    lead = min(begin, 1)  # pre-emphasis needs the sample before, except at the clip's start
    part = sigproc.preemphasis(samples[begin - lead : end], coeff=PRE_EMPHASIS)[lead:]
    return np.asarray(mfcc(part, SAMPLE_RATE, preemph=0), np.float64).T


def _distances(video: Tensor, audio: Tensor) -> Tensor:
    """Return the distance of each window's video to the audio at 31 offsets: `[N, 31]`.

    video: `[N, 1024]`. audio: `[N + 30, 1024]`, from 15 windows before to 15 after these.
    """
    around = audio.unfold(0, 2 * REACH + 1, 1).transpose(1, 2)
    return functional.pairwise_distance(video[:, None], around)


def _conv2d(before: int, after: int, kernel: int | tuple[int, int], padding: int) -> tuple[nn.Module, ...]:
    return nn.Conv2d(before, after, kernel, padding=padding), nn.BatchNorm2d(after), nn.ReLU(inplace=True)


def _conv3d(
    before: int,
    after: int,
    kernel: tuple[int, int, int],
    stride: int | tuple[int, int, int],
    padding: int | tuple[int, int, int],
) -> tuple[nn.Module, ...]:
    return nn.Conv3d(before, after, kernel, stride, padding), nn.BatchNorm3d(after), nn.ReLU(inplace=True)


def _head() -> nn.Sequential:
    return nn.Sequential(nn.Linear(512, 512), nn.BatchNorm1d(512), nn.ReLU(), nn.Linear(512, FEATURES))
