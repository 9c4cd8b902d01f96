"""The audio-video offset of a single video, without shards, and its curve as an image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from avprep.auto import Remark, log
from avprep.errors import AvprepError, Reject
from avprep.manifest import Clip
from avprep.pages.drawing import COLOURS, drawing
from avprep.schema import ARRAYS, decode_array
from avprep.stages import MfccSettings, clip_sound, mfcc_clip
from avprep.talking import inputs
from avprep.talking.driver import Driver
from davs_model.models.sync import curve
from davs_model.models.sync.curve import Offset
from davs_model.models.sync.scorer import Scorer
from davs_model.sync import syncnet
from davs_model.sync.syncnet import SyncNet

Sound = TypeVar("Sound")


@dataclass(frozen=True)
class FilmOffset:
    """The offset of a video; seconds: the offset of each single second, for a video of at least 5 s."""

    whole: Offset
    seconds: tuple[tuple[int, Offset], ...]


def measure_video(
    path: Path,
    model: Scorer | SyncNet,
    *,
    detector: str = "auto",
    track: int | None = None,
    channel: int | None = None,
    max_seconds: float = inputs.MAX_SECONDS,
    remark: Remark = log,
) -> FilmOffset:
    """Measure a video with audio: its subject is detected and cropped, and its windows computed, as for shards.

    model: ours, or the released SyncNet for offset, LSE-C and LSE-D.
    track, channel: of the audio, counted from 0; None: the defaults. AvprepError, one line, if it cannot be measured.
    """
    settings = MfccSettings(max_seconds=max_seconds, audio_track=track, audio_channel=channel)
    if isinstance(model, SyncNet):
        heard, driver = _read(path, clip_sound, settings, detector, remark)
        pictures = (syncnet.picture(crop) for part in driver.read() for crop in part)
        measured = syncnet.evaluate(model, pictures, heard.beside(driver.n_frames))
        whole, seconds = None if measured is None else measured.as_offset(), []
        short = "no more than the 5 frames of a window"
    else:
        if model.mfcc_preset == "syncnet":
            settings = replace(settings, preset="syncnet")
        sample, driver = _read(path, mfcc_clip, settings, detector, remark)
        windows, valid = (decode_array(dict(sample.members)[name]) for name in ARRAYS["mfcc"])
        found = model.features(np.concatenate([model.grey(part) for part in driver.read()]), windows, valid).distances()
        whole = curve.complete_offset(found)
        seconds = [] if whole is None else curve.seconds(found)
        short = curve.TOO_FEW
    if whole is None:
        raise AvprepError(f"{path}: too short: {short}")
    return FilmOffset(whole, tuple(seconds))


def _read(
    path: Path,
    sound: Callable[[Clip, Path, MfccSettings], Sound],
    settings: MfccSettings,
    detector: str,
    remark: Remark,
) -> tuple[Sound, Driver]:
    """Return the result of `sound` for a video, and the crops of its subject."""
    try:
        heard = sound(Clip("video", path.name, "test"), path.parent, settings)
    except Reject as reject:
        raise AvprepError(reject.message) from reject
    longest, track = settings.max_seconds, settings.audio_track
    return heard, inputs.read_driver(path, "video", detector=detector, max_seconds=longest, track=track, remark=remark)


def draw(found: FilmOffset, title: str) -> NDArray[np.uint8]:
    """Return an image of the curve of a video, with the lead of each second below it: uint8 (H, W, 3), RGB."""
    whole, leads = found.whole, range(-curve.REACH, curve.REACH + 1)
    with drawing(6.4, 5.2 if found.seconds else 3.6, 120) as drawn:
        upper, *lower = drawn.figure.subplots(2 if found.seconds else 1, 1, squeeze=False)[:, 0]
        upper.plot(leads, [np.nan if y is None else y for y in whole.curve], color=COLOURS[0], marker=".")
        upper.axvline(whole.audio_lead_frames, color=COLOURS[1], linestyle="--")
        upper.set_title(f"{title}: {in_words(whole)}", fontsize=10)
        upper.set_xlabel("audio early by (frames of 40 ms)")
        upper.set_ylabel("distance of audio and video")
        for axes in lower:
            _draw_seconds(axes, found.seconds)
    return drawn.pixels


def _draw_seconds(axes: object, seconds: Sequence[tuple[int, Offset]]) -> None:
    from matplotlib.axes import Axes

    assert isinstance(axes, Axes)
    axes.scatter(
        [second + 0.5 for second, _ in seconds],
        [one.audio_lead_frames for _, one in seconds],
        s=[20 + 200 * max(0.0, one.confidence) for _, one in seconds],
        color=COLOURS[0],
    )
    axes.set_ylim(-curve.REACH - 1, curve.REACH + 1)
    axes.set_xlabel("second of the video; larger dots are surer")
    axes.set_ylabel("lead (frames)")


def in_words(found: Offset) -> str:
    """Return an offset as one line of text."""
    lead = found.audio_lead_frames
    more = " or more" if abs(lead) >= curve.REACH else ""
    side = "in sync" if not lead else f"audio {'early' if lead > 0 else 'late'} by {abs(lead):g} frames{more}"
    return f"{side} ({found.audio_lead_ms:+g} ms), confidence {found.confidence:.3f}"
