"""Synthetic people who say what the people of an OUT say: many faces for a few voices.

A generator trained on two speakers learns to associate each voice with a face. Here many faces have the lip motion of
one real speaker, together with that speaker's own audio.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from avprep import files, manifest, schema, shards
from avprep.columns import rebuilt
from avprep.demo import voices as recorded
from avprep.demo.drawing import render
from avprep.demo.speech import Floats, people, performed, speaker
from avprep.demo.synthetic import in_processes, write_whole
from avprep.errors import AvprepError, Reject, ShardError
from avprep.manifest import Clip, Manifest
from avprep.media.audio import Sound, read_heard
from avprep.runs import fingerprint
from avprep.stages import MfccSettings

PLAN = "manifest.jsonl"
CORNERS, INNER_UPPER, INNER_LOWER = (48, 54), (61, 62, 63), (67, 66, 65)
"""Indices of the 68 landmarks of iBUG 300-W: the mouth's corners, and opposite points of the inner lips."""
SHUT, OPEN = 15, 97
"""Percentiles of a speaker's gap between the lips that count as a shut mouth and a wide-open one."""
LEAST = 4.0
"""Minimum difference between these two in pixels: less is landmark noise."""
PURSED = 0.93
"""Mouth width, relative to the speaker's median, below which lips are rounded."""
FOUND = 0.5
"""Minimum fraction of a clip's frames with landmarks."""
LONGEST_NAME, SHORTENED = 240, 200
"""Maximum bytes of a part of a key that becomes a file name unchanged, and the bytes kept of a longer one."""
LONGEST = 20 * schema.FPS
"""Maximum frames of a clip: all rendered frames are in memory at once."""


class Mouth(NamedTuple):
    """The mouth of a speaker in a clip: gap between the lips and mouth width, float32 (T, 2), crop pixels."""

    whose: str
    track: Floats


class _Part(NamedTuple):
    """One clip to make: the source clip and its root, the person who says it, and the lip motion (T, 5).

    heard: how the source's audio is read. recording: replaces it.
    """

    clip: Clip
    source: Path
    person: int
    lips: Floats
    heard: MfccSettings = MfccSettings()
    recording: Path | None = None

    @property
    def row(self) -> Clip:
        """The clip to be made."""
        name = f"s{self.person:03d}"
        key = f"{name}/{self.clip.key}"
        whole = replace(self.clip, audio=None, start=None, duration=None, track=None)
        video = "/".join(map(_file_name, key.split("/")))
        return replace(whole, key=manifest.make_key(key), video=f"{video}.mp4", speaker=name)


def _file_name(part: str) -> str:
    """Return a part of a key as a file or folder name; it is shortened, since keys may be longer than file names."""
    if len(part.encode()) <= LONGEST_NAME:
        return part
    return f"{part.encode()[:SHORTENED].decode(errors='ignore')}~{hashlib.sha256(part.encode()).hexdigest()[:16]}"


def dub(
    out: Path,
    root: Path,
    *,
    speakers: int = 100,
    clips: int = 600,
    voices: Path | None = None,
    seed: int = 0,
    jobs: int = 1,
) -> Manifest:
    """Make `speakers` synthetic people say what the clips of OUT say: ROOT/SPEAKER/CLIP.mp4 and ROOT/manifest.jsonl.

    out: a run whose crops have the 68 landmarks: detector `dlib` or `face-alignment`.
    clips: maximum number of clips per split: the first ones in the manifest's order; memory grows with this number.
    voices: recordings VOICES/NAME/KEY.wav of what clip KEY of OUT says, by other voices. The people of train are given
        one voice each, in turn; lip motion and word times are moved to where the recording says the words. Clips
        without a recording or word times, and those of val and test, keep the source's audio.
    The audio is that of OUT's windows, if it has any: the same track and channel, delayed by as much.
    Splits, words and labels are those of OUT; people of val and test are not in train. The files do not depend on
    `jobs`. After an interruption the same call resumes. The manifest's `left_out` counts clips that are longer than
    `LONGEST`, or have landmarks in too few frames; `recorded` counts those that have other voices; `audio` is a digest
    of delays, tracks and channels, if any audio is not read as it is.
    Raises AvprepError if no clip can be used, a source has no readable audio, or `root` holds anything but this corpus.
    """
    source = fingerprint.read_manifest(out)
    mouths, left_out = _mouths(out, {clip.key: clip.speaker for clip in source.clips}, clips)
    said = [clip for clip in source.clips if clip.key in mouths]
    parts = list(_parts(said, source.root, lips_of(mouths), people(speakers, seed), _readings(out, source)))
    # Few people have the same numbers with any seed.
    extra: dict[str, Any] = {"left_out": left_out, "people_seed": seed}
    if audio := _readings_digest(parts):  # before a resumed call, the windows of OUT may have been moved
        extra["audio"] = audio
    if voices is not None:
        parts = _recorded(parts, voices, seed)
        extra["recorded"] = sum(part.recording is not None for part in parts)
    rows = tuple(part.row for part in parts)
    made = Manifest("dubbed", root.resolve(), rows, seed=source.seed, extra=extra)
    _begin(root, manifest.render(made).encode("utf-8", "surrogateescape"))
    in_processes(partial(_make, root, seed), parts, jobs)
    return made


def mouth(landmarks: NDArray[np.float32]) -> Floats | None:
    """Measure a mouth by landmarks (T, 68, 2): gap and width, float32 (T, 2); None if too few frames have landmarks.

    Frames without landmarks are interpolated from those with landmarks, and the track is smoothed over three frames.
    """
    gaps = np.linalg.norm(landmarks[:, INNER_UPPER] - landmarks[:, INNER_LOWER], axis=2).mean(axis=1)
    track = np.stack((gaps, np.linalg.norm(np.diff(landmarks[:, CORNERS], axis=1)[:, 0], axis=1)), axis=1)
    there = np.isfinite(track).all(axis=1)
    if there.mean() < FOUND:
        return None
    frames = np.arange(len(track))
    whole = np.stack([np.interp(frames, frames[there], column[there]) for column in track.T], axis=1)
    padded = np.pad(whole, ((1, 1), (0, 0)), mode="edge")
    return np.asarray(0.25 * padded[:-2] + 0.5 * padded[1:-1] + 0.25 * padded[2:], np.float32)


def lips_of(mouths: Mapping[str, Mouth]) -> dict[str, Floats]:
    """Return the lips of each clip, float32 (T, 5), in the form of `Take.lips`; teeth and tongue are unknown, hence 0.

    Each speaker's mouth is normalised by its own median width, and by its own gaps when shut and when wide open.
    """
    found: dict[str, Floats] = {}
    for name in sorted({one.whose for one in mouths.values()}):
        own = {key: one.track for key, one in mouths.items() if one.whose == name}
        gaps, widths = np.concatenate(list(own.values())).T
        shut, wide_open = np.percentile(gaps, (SHUT, OPEN))
        for key, track in own.items():
            jaw = np.clip((track[:, 0] - shut) / max(wide_open - shut, LEAST), 0, 1.1)
            width = np.clip(track[:, 1] / np.median(widths), 0.55, 1.3)
            purse = np.clip(4 * (PURSED - width), 0, 1)
            nothing = np.zeros_like(jaw)
            found[key] = np.stack((jaw, width, purse, nothing, nothing), axis=1).astype(np.float32)
    return found


def _mouths(out: Path, speakers: Mapping[str, str | None], clips: int) -> tuple[dict[str, Mouth], int]:
    """Measure the mouths of the first clips of each split, and count those that are left out.

    A clip without a speaker label counts as a speaker of its own.
    """
    found: dict[str, Mouth] = {}
    left_out = 0
    run = fingerprint.started(out, "crop")
    for split in manifest.SPLITS:
        names = fingerprint.shard_names(out, run, split)
        crops = chain.from_iterable(shards.read(shards.ColumnShard.finished(out, "crop", name).path) for name in names)
        for key, members in islice(crops, clips):
            if (member := members.get("landmarks.npy")) is None:
                raise AvprepError(f"{out}: its crops have no landmarks: crop with --detector dlib or face-alignment")
            points = schema.decode_array(member)
            if points.shape[1:] != (schema.N_LANDMARKS, 2) or not len(points):
                raise ShardError(f"{out}: {key}: landmarks.npy is damaged: run avprep verify {out}")
            if len(points) <= LONGEST and (track := mouth(points)) is not None:
                found[key] = Mouth(speakers.get(key) or key, track)
            else:
                left_out += 1
    if not found:
        raise AvprepError(f"{out}: no clip shows a mouth, or all are longer than {LONGEST // schema.FPS} s")
    return found, left_out


def _parts(
    clips: list[Clip],
    source: Path,
    lips: Mapping[str, Floats],
    members: Mapping[str, list[int]],
    heard: Mapping[str, MfccSettings],
) -> Iterator[_Part]:
    """Assign each clip to a person: the people of its split in turn, or of train if the split has none."""
    for split in manifest.SPLITS:
        who = members[split] or members["train"]
        for turn, clip in enumerate(one for one in clips if one.split == split):
            yield _Part(clip, source, who[turn % len(who)], lips[clip.key], heard[clip.key])


def _readings(out: Path, source: Manifest) -> dict[str, MfccSettings]:
    """Return, by key, how the audio of each clip is read: as the mfcc column of OUT read it, if there is one.

    Raises RunError if the windows of that column are moved one by one, and not all are there.
    """
    run = shards.read_run(out, "mfcc") or {}
    settings = run.get("settings", {})
    plain: Any = rebuilt(out, "mfcc", settings, source.root).settings
    records: dict[str, dict[str, Any]] = {}
    if settings.get("audio_offset"):
        names = fingerprint.shard_names(out, run, None)
        clips = chain.from_iterable(shards.ColumnShard.finished(out, "mfcc", name).clips for name in names)
        records = {clip["key"]: clip for clip in clips}
    return {clip.key: plain.delayed(records.get(clip.key, {})) for clip in source.clips}


def _readings_digest(parts: list[_Part]) -> str:
    """Return a digest of the delay, track and channel of each clip's audio; "" if all audio is read as it is."""
    plain = MfccSettings()
    read = [(float(one.heard.audio_shift_ms), one.heard.audio_track, one.heard.audio_channel) for one in parts]
    if set(read) == {(plain.audio_shift_ms, plain.audio_track, plain.audio_channel)}:
        return ""
    return hashlib.sha256(json.dumps(read).encode()).hexdigest()[:16]


def _recorded(parts: list[_Part], voices: Path, seed: int) -> list[_Part]:
    """Assign voices to the people of train in turn, and move their lips in sync with the recordings; see `dub`."""
    names = recorded.names(voices)
    people = sorted({part.person for part in parts if part.clip.split == "train"})
    voice = {person: names[(turn + seed) % len(names)] for turn, person in enumerate(people)}
    moved = []
    for part in parts:
        heard = None
        if part.clip.split == "train" and part.clip.words:
            heard = voices / voice[part.person] / f"{part.clip.key}{recorded.SUFFIX}"
        moved.append(part if heard is None or not heard.exists() else _moved(part, heard))
    if not any(part.recording for part in moved):
        timed = [part.clip.key for part in parts if part.clip.split == "train" and part.clip.words]
        such = f"such as {names[0]}/{timed[0]}{recorded.SUFFIX}" if timed else "for none has the times of its words"
        raise AvprepError(f"{voices}: no recording of a clip of train is used, {such}")
    return moved


def _moved(part: _Part, recording: Path) -> _Part:
    """Return a clip whose lips and word times are in sync with a recording."""
    n_frames = len(part.lips)
    again = recorded.recording(recording, LONGEST)
    words = part.clip.words
    assert words, part.clip.key
    times = recorded.aligned(_heard(part).beside(n_frames), again.beside(again.n_frames), (words[0][1], words[-1][2]))
    if times is None:
        raise AvprepError(f"{recording}: too little is spoken there, or in {part.clip.key}: take it away")
    steps = np.arange(len(times)) / recorded.STEPS_PER_SECOND
    at = np.interp(np.arange(again.n_frames) / schema.FPS, steps, times) * schema.FPS
    lips = np.stack([np.interp(at, np.arange(n_frames), column) for column in part.lips.T], axis=1)
    begins, ends = np.interp([word[1:] for word in words], times, steps).round(3).T.tolist()
    said = tuple(zip((word for word, _, _ in words), begins, ends, strict=True))
    return part._replace(clip=replace(part.clip, words=said), lips=lips.astype(np.float32), recording=recording)


def _heard(part: _Part) -> Sound:
    """Read the audio of a clip's source; AvprepError if it has none."""
    clip, heard = part.clip, part.heard
    audio = None if clip.audio is None else part.source / clip.audio
    span = {"start": clip.start, "duration": clip.duration, "shift": heard.audio_shift_ms / 1000}
    try:
        return read_heard(part.source / clip.video, audio, **span, track=heard.audio_track, channel=heard.audio_channel)
    except Reject as reject:
        raise AvprepError(f"{clip.key}: {reject.message}") from reject


def _begin(root: Path, plan: bytes) -> None:
    """Write the manifest, or check that an existing one is the same, so that the folder holds nothing else."""
    try:
        if (root / PLAN).exists():
            if (root / PLAN).read_bytes() != plan:
                raise AvprepError(f"{root / PLAN} is of other clips, audio or settings: use an empty folder")
            return
        if root.exists() and any(root.iterdir()):
            raise AvprepError(f"{root} holds other files: use an empty folder")
    except OSError as error:
        raise AvprepError(f"{error.filename or root}: {error.strerror}") from error
    files.write_whole(root / PLAN, plan)


def _make(root: Path, seed: int, part: _Part) -> None:
    """Make one clip, unless it exists; it is written atomically."""
    path = root / part.row.video
    if path.exists():
        return
    sound = _heard(part) if part.recording is None else recorded.recording(part.recording, LONGEST)
    who = speaker(seed, part.person)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, render(performed(part.lips, who, part.clip.key), who), sound.beside(len(part.lips)))
