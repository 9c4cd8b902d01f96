"""Shards of clips in which a mouth opens as the audio gets louder, with a known offset, for training a sync model."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import cv2
import made_shards
import numpy as np
from made_shards import Made
from numpy.typing import NDArray

from avprep import manifest, schema
from avprep.manifest import Clip, Manifest

N_FRAMES = 40
SHARD_SIZE = 8
PAD = 20  # frames of audio around a clip


def make_talking_shards(
    out: Path,
    counts: Mapping[str, int],
    *,
    leads: Mapping[str, int] | None = None,
    failed: Mapping[str, str] | None = None,
    n_frames: int = N_FRAMES,
) -> Path:
    """Fill OUT with a number of clips of each split; return OUT.

    leads: key -> frames by which its audio is early, 0 for others. failed: key -> the reason why it failed in crop.
    """
    leads, failed = leads or {}, failed or {}
    rows = [
        Made(key, n // SHARD_SIZE, split=split, n_frames=n_frames, crop=failed.get(key, ""))
        for split, count in counts.items()
        for n in range(count)
        for key in [f"{split}/clip{n:03d}"]
    ]
    out.mkdir(parents=True, exist_ok=True)
    plan = tuple(
        Clip(row.key, f"{row.key}.mp4", row.split, word=f"word{n % 2}", speaker=f"person{n // 2 % 2}")
        for n, row in enumerate(rows)
    )
    (out / "manifest.jsonl").write_text(manifest.render(Manifest("talking", out, plan)), encoding="utf-8")
    for split, number in sorted({(row.split, row.shard) for row in rows}):
        of_shard = [row for row in rows if (row.split, row.shard) == (split, number)]
        for column in schema.COLUMNS:
            stretches = [
                (row, made_shards.stretch(out, row.key, _members(column, row, leads.get(row.key, 0))))
                for row in of_shard
            ]
            made_shards.write_shard(out, column, manifest.shard_name(split, number), stretches)
    for column in schema.COLUMNS:
        head = {
            "avprep_run": 1,
            "column": column,
            "manifest": Manifest("talking", out, plan).digest(),
            "clips": Manifest("talking", out, plan).counts(),
            "shard_size": SHARD_SIZE,
            "settings": {"preset": "davs"} if column == "mfcc" else {},
            "versions": {},
        }
        (out / column / "run.json").write_bytes(schema.encode_json(head))
    return out


def openings(key: str, n_frames: int) -> NDArray[np.float64]:
    """Return how far a mouth is open in each frame, and in `PAD` more before and after."""
    return np.random.default_rng(zlib.crc32(key.encode())).random(n_frames + 2 * PAD)


def picture(opening: float, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Return a face whose mouth is open to the given degree."""
    image = np.full((256, 256, 3), 170, np.uint8)
    cv2.ellipse(image, (130, 188), (38, 4 + round(30 * opening)), 0, 0, 360, (60, 30, 40), -1)
    return cv2.add(image, rng.integers(0, 12, image.shape, dtype=np.uint8)).astype(np.uint8)


def windows(key: str, n_frames: int, lead: int) -> NDArray[np.float32]:
    """Return the windows (T, 12, 20) of audio that is early by `lead` frames."""
    rng = np.random.default_rng(zlib.crc32(key.encode()) + 1)
    steps = np.repeat(openings(key, n_frames), schema.STEPS_PER_FRAME)
    basis = np.linspace(-1, 1, schema.N_COEFFICIENTS)[:, None]
    track = basis * steps + 0.05 * rng.normal(size=(schema.N_COEFFICIENTS, len(steps)))
    first = schema.STEPS_PER_FRAME * (PAD + lead - schema.WINDOW_FRAMES // 2)
    cut = (first + schema.STEPS_PER_FRAME * np.arange(n_frames))[:, None] + np.arange(schema.WINDOW_STEPS)
    return track[:, cut].transpose(1, 0, 2).astype(np.float32)


def _members(column: str, row: Made, lead: int) -> Iterator[tuple[str, bytes]]:
    if column == "mfcc":
        yield "mfcc.npy", schema.encode_array(windows(row.key, row.n_frames, lead))
        yield "valid.npy", schema.encode_array(np.ones(row.n_frames, bool))
        yield "audio.json", schema.encode_json({"key": row.key, "n_frames": row.n_frames})
        return
    rng = np.random.default_rng(zlib.crc32(row.key.encode()) + 2)
    for n, opening in enumerate(openings(row.key, row.n_frames)[PAD : PAD + row.n_frames]):
        done, data = cv2.imencode(".jpg", picture(opening, rng), [cv2.IMWRITE_JPEG_QUALITY, 95])
        assert done
        yield schema.frame_member(n, "jpg"), data.tobytes()
    yield "points.npy", schema.encode_array(np.zeros((row.n_frames, 5, 2), np.float32))
    yield "affine.npy", schema.encode_array(np.zeros((row.n_frames, 2, 3), np.float32))
    yield "clip.json", schema.encode_json({"key": row.key, "n_frames": row.n_frames})
