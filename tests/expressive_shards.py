"""Shards of schematic faces: a colour, two brows that tilt with the emotion, and a mouth that opens with the audio."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path

import cv2
import made_shards
import numpy as np
from made_shards import Made
from numpy.typing import NDArray

from avprep import manifest, schema
from avprep.manifest import Clip, Manifest

EMOTIONS = {"angry": 12, "happy": 0, "sad": -12}
"""Pixels by which the inner ends of the brows hang lower than the outer ones."""
WORDS = ("word0", "word1")
N_FRAMES = 12


def make_expressive_shards(out: Path, people: dict[str, int]) -> Path:
    """Fill OUT with a clip of each emotion and word by each person; people: their number per split. Return OUT."""
    rows, plan = [], []
    for split, count in people.items():
        for n in range(count):
            for emotion in EMOTIONS:
                for word in WORDS:
                    key, who = f"{split}/{split}{n}-{emotion}-{word}", f"{split}{n}"
                    rows.append(Made(key, 0, word=word, speaker=who, split=split, n_frames=N_FRAMES))
                    labels = {"emotion": emotion}
                    plan.append(Clip(key, f"{key}.mp4", split, word=word, speaker=who, labels=labels))
    out.mkdir(parents=True, exist_ok=True)
    (out / "manifest.jsonl").write_text(manifest.render(Manifest("faces", out, tuple(plan))), encoding="utf-8")
    for split in people:
        for column, members in (("crop", _crop), ("mfcc", _mfcc)):
            stretches = [
                (row, made_shards.stretch(out, row.key, members(row, clip)))
                for row, clip in zip(rows, plan, strict=True)
                if row.split == split
            ]
            made_shards.write_shard(out, column, manifest.shard_name(split, 0), stretches)
    return out


def picture(who: str, emotion: str, opening: float, seed: int) -> NDArray[np.uint8]:
    """Return a face, uint8 (256, 256, 3), RGB."""
    rng = np.random.default_rng(zlib.crc32(who.encode()))
    face = np.full((256, 256, 3), rng.integers(110, 200, 3), np.uint8)
    cv2.rectangle(face, (0, 0), (256, 60), rng.integers(0, 120, 3).tolist(), -1)
    tilt = EMOTIONS[emotion]
    for outer, inner in ((60, 110), (200, 150)):
        cv2.line(face, (outer, 95 - tilt), (inner, 95 + tilt), (20, 20, 20), 7, cv2.LINE_AA)
    cv2.ellipse(face, (130, 200), (30, 3 + round(7 * opening)), 0, 0, 360, (60, 10, 20), -1)
    noise = np.random.default_rng(seed).integers(0, 8, face.shape, dtype=np.uint8)
    return np.asarray(cv2.add(face, noise), np.uint8)


def _openings(key: str) -> NDArray[np.float64]:
    return np.random.default_rng(zlib.crc32(key.encode())).random(N_FRAMES)


def _crop(row: Made, clip: Clip) -> Iterator[tuple[str, bytes]]:
    emotion, openings = (clip.labels or {})["emotion"], _openings(row.key)
    for name, data in made_shards.crop_members(row.key, n_frames=row.n_frames).items():
        if name.endswith(".jpg"):
            frame = int(name.split(".")[0])
            shown = picture(row.speaker or "", emotion, openings[frame], frame)
            yield name, cv2.imencode(".jpg", shown[..., ::-1])[1].tobytes()
        else:
            yield name, data


def _mfcc(row: Made, clip: Clip) -> Iterator[tuple[str, bytes]]:
    windows = np.random.default_rng(1).normal(0, 0.1, (row.n_frames, 12, 20)) + _openings(row.key)[:, None, None]
    yield "mfcc.npy", schema.encode_array(windows.astype(np.float32))
    yield "valid.npy", schema.encode_array(np.ones(row.n_frames, bool))
    yield "audio.json", schema.encode_json({"key": row.key, "n_frames": row.n_frames})
