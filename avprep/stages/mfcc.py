"""The MFCC windows of one clip."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from avprep import schema
from avprep.errors import Reject
from avprep.manifest import Clip
from avprep.media import mfcc
from avprep.media.audio import Sound, read_heard
from avprep.shards import Sample
from avprep.stages import MfccSettings
from avprep.stages.facts import check_length, labels, named, rounded


def mfcc_clip(clip: Clip, root: Path, settings: MfccSettings) -> Sample:
    """Compute the MFCC windows of one clip; raises Reject."""
    sound = clip_sound(clip, root, settings)
    with named(clip.video):
        check_length(sound.n_frames)
    windows, valid, silent = mfcc.clip_windows(sound.samples, sound.first, sound.n_frames, settings.preset)
    if not silent.size:
        raise Reject("no_audio", f"{clip.audio or clip.video}: the sound is shorter than one 25 ms column")
    share = float(silent.mean())
    source = {"audio_track": sound.track, "audio_channel": sound.channel}
    facts = {
        **labels(clip),
        "n_frames": sound.n_frames,
        "preset": settings.preset,
        "sample_rate": sound.rate,
        "channels": sound.channels,
        **(source if any(source.values()) else {}),
        "decode_errors": sound.decode_errors,
        **({} if sound.promised is None else {"promised_seconds": rounded(sound.promised)}),
        "n_samples": int(sound.samples.size),
        "first_sample": sound.first,
        "seconds": rounded(sound.samples.size / schema.SAMPLE_RATE),
        "start_offset": rounded(sound.first / schema.SAMPLE_RATE),
        "peak": rounded(float(np.abs(sound.samples.astype(np.int32)).max()) / 32768),
        "silent_share": rounded(share),
        "silent": share == 1.0,
        "n_valid": int(valid.sum()),
    }
    members = [
        ("mfcc.npy", schema.encode_array(windows)),
        ("valid.npy", schema.encode_array(valid)),
        (schema.METADATA["mfcc"], schema.encode_json(facts)),
    ]
    return Sample(members, sound.n_frames, {name: facts[name] for name in ("n_valid", "silent_share", "silent")})


def clip_sound(clip: Clip, root: Path, settings: MfccSettings) -> Sound:
    """Read the audio from which a clip's windows are made; see `read_heard`, which raises Reject."""
    return read_heard(
        root / clip.video,
        None if clip.audio is None else root / clip.audio,
        start=clip.start,
        duration=clip.duration,
        before=mfcc.SAMPLES_BEFORE,
        after=mfcc.SAMPLES_AFTER,
        shift=settings.audio_shift_ms / 1000,
        max_seconds=settings.max_seconds,
        track=settings.audio_track,
        channel=settings.audio_channel,
    )
