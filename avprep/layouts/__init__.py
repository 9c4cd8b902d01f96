"""Data set layouts: one module each, whose name is its name on the command line.

A layout module has `scan(root, scan, **options)`, which walks a data set and hands what it finds to a `Scan`, and
`EXPECTS`, which states in one line what it looks for. `SIGN`, where a corpus has one, fits the path of a file that
hardly any other corpus would hold. Only names and text annotations are read, never a video.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from avprep.errors import ManifestError
from avprep.layouts.scan import Scan, is_unicode, printable, walk
from avprep.manifest import Clip, Manifest, duplicate_keys, shuffled

NAMES = ("lrw", "voxceleb1", "voxceleb2", "grid", "folder")


def index(
    layout: str,
    root: Path,
    *,
    seed: int = 0,
    limit: int | None = None,
    audio_root: Path | None = None,
    **options: Any,
) -> tuple[Manifest, Scan]:
    """Scan a data set into a shuffled manifest; also return the scan, which holds the problems.

    limit: keep the first so many clips of each split, after shuffling.
    audio_root: the folder that holds the audio files, for layouts whose `scan` takes it. The root of the manifest is
    then the folder that holds both; keys are those without it.
    options: keyword options of the layout's `scan`.

    Raises ManifestError where the root is missing, no clip is found, or several clips share a key.
    """
    if layout not in NAMES:
        raise ManifestError(f"{layout}: no such layout; choose one of {', '.join(NAMES)}")
    if limit is not None and limit < 1:
        raise ManifestError(f"--limit must be at least 1, not {limit}")
    root = _folder(root, "ROOT is the folder that holds the data set")
    module = importlib.import_module(f"{__name__}.{layout}")
    found = Scan()
    if audio_root is None:
        module.scan(root, found, **options)
    else:
        audio_root = _folder(audio_root, "--audio-root is the folder that holds the audio files")
        module.scan(root, found, audio_root=audio_root, **options)
    if not found.clips:
        problems = ", ".join(f"{count} {kind}" for kind, count in sorted(found.counts().items())) or "none"
        raise ManifestError(
            f"{root}: no clip found; the layout {layout} expects {module.EXPECTS} under ROOT (problems: {problems})"
            + _resemblance(layout, root)
        )
    _refuse_duplicates(root, found.clips)
    if audio_root is not None:
        root, found.clips = _joined(root, audio_root, found.clips)
    return Manifest(layout, root, shuffled(found.clips, seed), seed).limited(limit), found


def _folder(path: Path, meaning: str) -> Path:
    """Return the absolute path of a folder; ManifestError where it is none or cannot be named in a manifest."""
    if not os.path.isdir(path):  # Path.is_dir raises below a closed folder
        raise ManifestError(f"{path}: not a folder; {meaning}")
    path = path.resolve()
    if not is_unicode(str(path)):
        raise ManifestError(f"{printable(str(path))}: the name is not UTF-8, which a manifest cannot hold; rename it")
    return path


def _joined(root: Path, audio_root: Path, clips: Sequence[Clip]) -> tuple[Path, list[Clip]]:
    """Return the lowest folder that holds both roots, and clips whose paths are relative to it."""
    common = Path(os.path.commonpath((root, audio_root)))
    video_prefix, audio_prefix = (folder.relative_to(common).as_posix() for folder in (root, audio_root))

    def below(prefix: str, path: str | None) -> str | None:
        return path if path is None or prefix == "." else f"{prefix}/{path}"

    return common, [
        replace(
            clip,
            video=f"{below(video_prefix, clip.video)}",
            audio=below(audio_prefix, clip.audio),
            track=below(video_prefix, clip.track),
        )
        for clip in clips
    ]


def _resemblance(layout: str, root: Path) -> str:
    """Return what the tree below a root looks like, as the end of a sentence; empty where nothing is recognised."""
    signs = {
        name: sign
        for name in NAMES
        if (sign := getattr(importlib.import_module(f"{__name__}.{name}"), "SIGN", None)) is not None
    }
    paths = list(walk(root, Scan()))
    above: tuple[str, ...] = ()
    for folder in (root, *root.parents[:2]):  # ROOT may lie inside of what it should be
        whole = ["/".join((*above, path)) for path in paths]
        counts = {name: sum(sign.fullmatch(path) is not None for path in whole) for name, sign in signs.items()}
        name = max(counts, key=lambda one: counts[one])
        if counts[name]:
            if above:
                return f"; it looks like a part of {name}: try `avprep index {name}` with ROOT {folder}"
            return "" if name == layout else f"; it looks like {name}: try `avprep index {name}`"
        above = (folder.name, *above)
    return ""


def _refuse_duplicates(root: Path, clips: Sequence[Clip]) -> None:
    duplicates = duplicate_keys(clips)
    if duplicates:
        examples = "; ".join(f"{key} ({', '.join(videos[:3])})" for key, videos in list(duplicates.items())[:3])
        raise ManifestError(
            f"{root}: {len(duplicates)} keys would be there more than once: {examples}; "
            "rename, remove or set apart all but one of each"
        )
