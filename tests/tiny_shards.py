"""Shards of tiny clips for training a small model: smooth noise as faces and random windows, in the real format."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path

import cv2
import made_shards
import numpy as np
from made_shards import N_FRAMES, Made
from stand_ins import mfcc_members

from avprep import manifest, schema
from avprep.manifest import Clip, Manifest

SHARD_SIZE = 6


def make_shards(out: Path, *, clips: int = 12, words: int = 3, people: int = 2, emotions: tuple[str, ...] = ()) -> Path:
    """Fill OUT as `avprep crop` and `mfcc` do: `clips` in train, four each in val and test; return OUT.

    words, people: numbers of labels, given in turn; 0: none. emotions: likewise, each for as many clips as people.
    """
    rows = [
        Made(
            f"{split}/clip{n:02d}",
            shard=n // SHARD_SIZE,
            split=split,
            word=f"word{n % words}" if words else None,
            speaker=f"person{n % people}" if people else None,
        )
        for split, count in (("train", clips), ("val", 4), ("test", 4))
        for n in range(count)
    ]
    out.mkdir(parents=True, exist_ok=True)
    labels = [
        {"emotion": emotions[int(row.key[-2:]) // max(1, people) % len(emotions)]} if emotions else None for row in rows
    ]
    plan = (
        Clip(row.key, f"{row.key}.mp4", row.split, word=row.word, speaker=row.speaker, labels=given)
        for row, given in zip(rows, labels, strict=True)
    )
    (out / "manifest.jsonl").write_text(manifest.render(Manifest("tiny", out, tuple(plan))), encoding="utf-8")
    for split, number in sorted({(row.split, row.shard) for row in rows}):
        of_shard = [row for row in rows if (row.split, row.shard) == (split, number)]
        for column, members in (("crop", _crop), ("mfcc", _mfcc)):
            stretches = [(row, made_shards.stretch(out, row.key, members(row.key))) for row in of_shard]
            made_shards.write_shard(out, column, manifest.shard_name(split, number), stretches)
    return out


def _mfcc(key: str) -> Iterator[tuple[str, bytes]]:
    yield from mfcc_members(key, N_FRAMES, seed=zlib.crc32(key.encode()))


def _crop(key: str) -> Iterator[tuple[str, bytes]]:
    rng = np.random.default_rng(zlib.crc32(key.encode()))
    person = rng.integers(0, 255, (4, 4, 3))
    for name, data in made_shards.crop_members(key).items():
        if name.endswith(".jpg"):
            soft = ((person + rng.integers(0, 255, (4, 4, 3))) // 2).astype(np.uint8)
            picture = cv2.resize(soft, (schema.CROP_SIZE, schema.CROP_SIZE), interpolation=cv2.INTER_LINEAR)
            yield name, cv2.imencode(".jpg", picture)[1].tobytes()
        else:
            yield name, data
