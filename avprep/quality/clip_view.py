"""One clip of a run: its samples in both columns, its audio, and its crops as a video.

Reads only the shard to which the manifest assigns the clip.
"""

from __future__ import annotations

import bisect
import difflib
import itertools
import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from avprep import schema, shards
from avprep.columns import rebuilt
from avprep.errors import Reject, RunError, ShardError
from avprep.manifest import SPLITS, Clip, Manifest, shard_name
from avprep.media import film
from avprep.media.audio import Sound
from avprep.media.container import Seconds, container_start, open_file, seconds
from avprep.media.video import Frames
from avprep.runs.fingerprint import read_manifest
from avprep.schema import CROP_SIZE, FPS
from avprep.shards.image import decode_image
from avprep.stages import MfccSettings, MfccStage, clip_sound

SIMILAR = 5
"""Number of similar keys to name if one is unknown."""
NEAR = 1000
"""Number of keys before and after an unknown one, in alphabetical order, among which similar ones are searched."""


@dataclass(frozen=True)
class Part:
    """A clip's result in one column.

    state: `ok`, `failed`, or `missing` if its shard is not finished or the column was never started.
    reason, message: why it failed. members: of its sample, checked. facts: the contents of its JSON member.
    """

    state: str
    reason: str = ""
    message: str = ""
    members: dict[str, bytes] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def words(self) -> str:
        """The state in words, without the message."""
        return f"{self.state} ({self.reason})" if self.reason else self.state

    def array(self, member: str) -> NDArray[Any]:
        """Return an array of the sample."""
        return schema.decode_array(self.members[member])


@dataclass(frozen=True)
class ClipView:
    """A clip and its results in both columns of a run.

    shard: the name of the shard to which the manifest assigns it. root: the folder of its data set.
    heard: the settings with which the run read the audio.
    """

    clip: Clip
    shard: str
    root: Path
    heard: MfccSettings
    crop: Part
    mfcc: Part

    @property
    def shift(self) -> float:
        """The run's delay of the audio in seconds."""
        return self.heard.audio_shift_ms / 1000

    @property
    def n_frames(self) -> int:
        """Frames of the clip; 0 if no column states it."""
        return int(self.crop.facts.get("n_frames") or self.mfcc.facts.get("n_frames") or 0)


def read(out: Path, key: str, root: Path | None = None) -> ClipView:
    """Read one clip of a run.

    root: the data set's present folder, if it is not that of the manifest.
    Raises RunError if `out` holds no run and, naming similar keys, if the manifest has no such key; ShardError if its
    shard is damaged.
    """
    plan = read_manifest(out)
    runs = {column: shards.read_run(out, column) for column in schema.COLUMNS}
    size = next((int(run["shard_size"]) for run in runs.values() if run is not None), 500)
    clip, shard = find(plan, key, size)
    parts = {column: _part(out, column, shard, key) for column in schema.COLUMNS}
    where = plan.root if root is None else root
    stage = rebuilt(out, "mfcc", (runs["mfcc"] or {}).get("settings") or {}, where)
    assert isinstance(stage, MfccStage)
    heard = replace(stage.settings.delayed(parts["mfcc"].facts), max_seconds=math.inf)
    return ClipView(clip, shard, where, heard, parts["crop"], parts["mfcc"])


def find(plan: Manifest, key: str, shard_size: int) -> tuple[Clip, str]:
    """Return a clip of a manifest and the name of its shard; RunError, naming similar keys, if there is none."""
    rows = dict.fromkeys(SPLITS, 0)
    for clip in plan.clips:
        if clip.key == key:
            return clip, shard_name(clip.split, rows[clip.split] // shard_size)
        rows[clip.split] += 1
    near = similar(key, [clip.key for clip in plan.clips])
    hint = f"; nearest: {', '.join(map(printable, near))}" if near else ""
    raise RunError(f"{printable(key)!r}: no clip of this run has that key{hint}")


def similar(key: str, keys: Iterable[str]) -> list[str]:
    """Return up to five of the most similar keys, searched among a bounded number of them.

    First come keys that contain it; then similar ones among its alphabetical neighbours and the keys with the same
    ending.
    """
    wanted = key[:200]
    ordered = sorted(keys)
    found = list(itertools.islice((one for one in ordered if wanted in one), SIMILAR)) if wanted else []
    place = bisect.bisect_left(ordered, wanted)
    near = ordered[max(0, place - NEAR) : place + NEAR]
    last = wanted.rpartition("/")[2]
    near += itertools.islice((one for one in ordered if last and one.endswith(last)), NEAR)
    found += difflib.get_close_matches(wanted, [one[:200] for one in dict.fromkeys(near)], SIMILAR, 0.6)
    known = set(ordered)  # a truncated key is not a key
    return [one for one in dict.fromkeys(found) if one in known][:SIMILAR]


def file_name(key: str) -> str:
    """Return a file name without extension for a clip: its key with `_` for slashes and unusual characters."""
    plain = re.sub(r"[^\w+=@,%-]", "_", key)
    return plain.encode("utf-8", "replace")[:200].decode("utf-8", "ignore") or "_"


def printable(text: str, longest: int = 120) -> str:
    """Return a text that fits on a line: unprintable characters become dots, a long text ends in an ellipsis."""
    shown = "".join(letter if letter.isprintable() else "·" for letter in text[: longest + 1])
    return shown if len(shown) <= longest else f"{shown[: longest - 1]}…"


def play(view: ClipView, output: Path) -> str:
    """Write the crops of a clip as an mp4 video of 25 fps, with its audio in sync.

    Returns why the video is silent, in one line; empty if it has its audio. Raises RunError if there are no crops,
    AvprepError if the video cannot be written.
    """
    if view.crop.state != "ok":
        raise RunError(f"{printable(view.clip.key)}: has no crops to play: crop is {view.crop.words}")
    sound, zero, track, silent = None, None, 0, ""
    try:
        sound, zero, track = _sound_at_start(view)
    except Reject as reject:
        silent = reject.message
    film.write_film(output, images(view), view.n_frames, sound=sound, zero=zero, track=track)
    return silent


def _part(out: Path, column: str, shard: str, key: str) -> Part:
    """Return a clip's result in a column; other samples of its shard are not read."""
    found = shards.ColumnShard.read(out, column, shard)
    record = None if found is None else found.record(key)
    if found is None or record is None:
        return Part("missing")
    if record["state"] == "failed":
        return Part("failed", record["reason"], " ".join(record["message"].split()))
    members = found.members(key)
    try:
        return Part("ok", members=members, facts=schema.check_sample(column, key, members))
    except ShardError as error:
        raise ShardError(f"{found.path}: {printable(str(error), 300)}") from error


def sound_of(view: ClipView) -> Sound | str:
    """Return the audio of a clip's source as used for its windows, or one line of explanation if it cannot be read."""
    if not view.root.is_dir():
        return f"the data set is not at {view.root}: give --root"
    try:
        return clip_sound(view.clip, view.root, view.heard)
    except Reject as reject:
        return f"{reject.reason}: {reject.message}"


def _sound_at_start(view: ClipView) -> tuple[Path, Seconds, int]:
    """Return the file with a clip's audio, the time stamp in it of the clip's start, and the audio track.

    Raises Reject without audio.

    The clock is that of `avprep.media.audio.read_sound`: zero is the file's first picture; if the audio is in another
    file, each file's clock begins at its own start.
    """
    clip = view.clip
    video, sound = view.root / clip.video, view.root / (clip.audio or clip.video)
    if isinstance(heard := sound_of(view), str):
        raise Reject("no_audio", heard)
    assert heard.samples.size
    first = Frames(video, duration=1 / FPS, keep_bytes=0)
    for _ in first:  # the first picture sets the clock
        pass
    zero = first.zero + seconds(clip.start) - seconds(view.shift)
    if clip.audio is None:
        return sound, zero, heard.track
    with open_file(video) as shown, open_file(sound) as other:
        return sound, zero - container_start(shown) + container_start(other), heard.track


def images(view: ClipView, indices: Iterable[int] | None = None) -> Iterator[NDArray[np.uint8]]:
    """Yield crops, uint8 (256, 256, 3), RGB, all of them or some; ShardError for one that is damaged."""
    members = view.crop.members
    image_format = schema.image_format(members)
    for index in range(view.n_frames) if indices is None else indices:
        image = decode_image(members[schema.frame_member(index, image_format)])
        if image is None or image.shape != (CROP_SIZE, CROP_SIZE, 3):
            raise ShardError(f"{printable(view.clip.key)}: crop {index} is no picture of {CROP_SIZE}×{CROP_SIZE}")
        yield image
