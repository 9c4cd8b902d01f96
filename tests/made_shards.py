"""Tiny shards of both columns, as `avprep crop` and `mfcc` write them.

The picture and audio of a frame encode its number, so that a test can identify the frames that it gets.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from avprep import manifest, schema, shards

N_FRAMES = 29
Picture = Callable[[int], NDArray[np.uint8]]
Members = dict[str, bytes]


@dataclass(frozen=True)
class Made:
    """A clip of the manifest and its outcome.

    crop, mfcc: the reason of its failure in that column, "" if it is ok.
    """

    key: str
    shard: int = 0
    word: str | None = None
    speaker: str | None = None
    split: str = "train"
    n_frames: int = N_FRAMES
    crop: str = ""
    mfcc: str = ""


def grey(frame: int) -> int:
    """Return the grey level of a frame."""
    return 8 * frame + 10


def frame_of(level: float) -> int:
    """Return the frame of a grey level, even after JPEG compression."""
    return round((float(level) - 10) / 8)


def plain(frame: int) -> NDArray[np.uint8]:
    """Return a uniform frame of its grey level, RGB."""
    return np.full((256, 256, 3), grey(frame), np.uint8)


@functools.lru_cache(128)
def encoded(picture: Picture, frame: int, image_format: str) -> bytes:
    """Return a frame as JPEG or PNG."""
    bgr = np.ascontiguousarray(picture(frame)[:, :, ::-1])
    return cv2.imencode(f".{image_format}", bgr, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()


def crop_members(key: str, n_frames: int = N_FRAMES, picture: Picture = plain, image_format: str = "jpg") -> Members:
    """Return the members of a crop sample."""
    members = {schema.frame_member(i, image_format): encoded(picture, i, image_format) for i in range(n_frames)}
    return {
        **members,
        "points.npy": schema.encode_array(np.zeros((n_frames, 5, 2), np.float32)),
        "affine.npy": schema.encode_array(np.zeros((n_frames, 2, 3), np.float32)),
        "clip.json": schema.encode_json({"key": key, "n_frames": n_frames}),
    }


def mfcc_members(key: str, n_frames: int = N_FRAMES, silent: int = 2) -> Members:
    """Return an mfcc sample's members: each window is full of its frame's number; `silent` at each end not valid."""
    windows = np.broadcast_to(np.arange(n_frames, dtype=np.float32)[:, None, None], (n_frames, 12, 20)).copy()
    valid = np.zeros(n_frames, bool)
    valid[silent : n_frames - silent] = True
    return {
        "mfcc.npy": schema.encode_array(windows),
        "valid.npy": schema.encode_array(valid),
        "audio.json": schema.encode_json({"key": key, "n_frames": n_frames}),
    }


def stretch(folder: Path, key: str, members: Members | Iterable[tuple[str, bytes]]) -> bytes:
    """Return a sample in the form of a tar."""
    path = folder / "stretch.part"
    shards.write_members(path, key, members.items() if isinstance(members, dict) else members)
    data = path.read_bytes()
    path.unlink()
    return data


def write_shard(out: Path, column: str, name: str, clips: Sequence[tuple[Made, bytes]]) -> Path:
    """Write a shard and its sidecar from tar stretches; a clip that failed in the column has none."""
    folder = out / column
    folder.mkdir(parents=True, exist_ok=True)
    writer = shards.ShardWriter(folder / f"{name}.tar", folder / f"{name}.part")
    rows: list[dict[str, Any]] = []
    for clip, data in clips:
        reason = clip.crop if column == "crop" else clip.mfcc
        if reason:
            rows.append({"key": clip.key, "state": "failed", "reason": reason, "message": "so it is", "seconds": 0.1})
            continue
        (folder / "stretch.part").write_bytes(data)
        writer.append(folder / "stretch.part")
        rows.append({"key": clip.key, "state": "ok", "n_frames": clip.n_frames, "seconds": 0.1, "bytes": len(data)})
    digest, size = writer.finish()
    head = {
        "avprep_sidecar": schema.SIDECAR_VERSION,
        "column": column,
        "shard": name,
        "sha256": digest,
        "bytes": size,
        "counts": shards.counts(rows),
        "timings": {"clip_seconds": 1.0},
    }
    shards.publish(writer.path, folder / f"{name}.part", shards.render_sidecar(head, rows), folder / "sidecar.part")
    return writer.path


def write_runs(out: Path, shard_size: int = 500, **more: Any) -> None:
    """Write the run.json of both columns, with the entries that readers need."""
    run = {"clips": manifest.read(out / "manifest.jsonl").counts(), "shard_size": shard_size, **more}
    for column in schema.COLUMNS:
        (out / column / "run.json").write_text(json.dumps(run), encoding="utf-8")


def write(
    out: Path,
    clips: Sequence[Made],
    *,
    picture: Picture = plain,
    image_format: str = "jpg",
    silent: int = 2,
) -> Path:
    """Write the manifest and the shards of both columns."""
    for column in schema.COLUMNS:
        (out / column).mkdir(parents=True, exist_ok=True)
    plan = tuple(manifest.Clip(c.key, f"{n}.mp4", c.split, word=c.word, speaker=c.speaker) for n, c in enumerate(clips))
    text = manifest.render(manifest.Manifest("made", Path("/nowhere"), plan))
    (out / "manifest.jsonl").write_text(text, encoding="utf-8")
    write_runs(out, settings={"preset": "davs"})
    for split, number in sorted({(clip.split, clip.shard) for clip in clips}):
        of_shard = [clip for clip in clips if (clip.split, clip.shard) == (split, number)]
        crops = [
            (
                clip,
                b""
                if clip.crop
                else stretch(out, clip.key, crop_members(clip.key, clip.n_frames, picture, image_format)),
            )
            for clip in of_shard
        ]
        sounds = [
            (clip, b"" if clip.mfcc else stretch(out, clip.key, mfcc_members(clip.key, clip.n_frames, silent)))
            for clip in of_shard
        ]
        write_shard(out, "crop", manifest.shard_name(split, number), crops)
        write_shard(out, "mfcc", manifest.shard_name(split, number), sounds)
    return out


def a_dozen() -> list[Made]:
    """Return twelve clips in three shards: three words, two speakers."""
    return [
        Made(f"s{n % 2}/{('yes', 'no', 'why')[n % 3]}_{n:02d}", n // 4, ("yes", "no", "why")[n % 3], f"s{n % 2}")
        for n in range(12)
    ]


def with_failures(clips: Sequence[Made], crop: dict[str, str], mfcc: dict[str, str]) -> list[Made]:
    """Return the clips with failures in either column: key -> reason."""
    return [replace(clip, crop=crop.get(clip.key, ""), mfcc=mfcc.get(clip.key, "")) for clip in clips]
