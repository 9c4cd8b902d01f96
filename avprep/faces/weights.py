"""Detector weights: their sources, their folder, and the verification of their digests.

Only `fetch` ever uses the network. Everything else reads a folder: `$AVPREP_WEIGHTS` if it is set, else
`$XDG_CACHE_HOME/avprep/weights` (`~/.cache/avprep/weights`). Some weights come with a Python package instead: pip
installs them, and they are read from there. For a node without a network, fetch elsewhere with
`avprep weights fetch NAME --to DIR` and set `AVPREP_WEIGHTS=DIR`.

pooch was tried: it does not limit downloads for us, so it saves only two lines. It brings seven packages, does not sync
files to disk, and makes files that only their owner can read, while a cluster shares one folder.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO, TYPE_CHECKING

from avprep.errors import WeightsError
from avprep.files import sha256

if TYPE_CHECKING:
    from avprep.faces.https import Response

BLOCK = 1 << 20  # bytes read at a time


@dataclass(frozen=True, slots=True)
class WeightsFile:
    """One file of weights.

    sha256: lower-case hex digest of the whole file.
    size: bytes; `None` if the source does not state it: then only `limit` bounds the download.
    torch_hub: whether torch hub keeps this same file in its `checkpoints` folder, so that a copy there can be used.
    package: the folder inside an installed package that holds the file, starting with the package's import name; such
        weights are not downloaded, and their url is empty.
    """

    name: str
    detector: str
    file: str
    url: str
    sha256: str
    size: int | None
    licence: str
    source: str
    torch_hub: bool = False
    package: str = ""
    limit: int = 256 << 20

    @property
    def largest(self) -> int:
        """Maximum bytes of a download of this file."""
        return self.limit if self.size is None else self.size


@cache
def known() -> dict[str, WeightsFile]:
    """Return the `WEIGHTS` of all detectors, by the names that `avprep weights fetch` takes."""
    from avprep.faces import detectors

    found = (weights for name in detectors.NAMES for weights in getattr(detectors.module(name), "WEIGHTS", ()))
    return {weights.name: weights for weights in found}


def folder() -> Path:
    """Return the folder from which weights are read, and to which they are fetched by default."""
    chosen = os.environ.get("AVPREP_WEIGHTS")
    if chosen:
        return Path(chosen).expanduser()
    return _cache() / "avprep" / "weights"


def needed(detector: str) -> list[WeightsFile]:
    """Return the weights that a detector reads; none for `opencv`."""
    from avprep.faces import detectors

    if detector in detectors.NAMES:  # loads no module of another detector, nor OpenCV with it
        return list(getattr(detectors.module(detector), "WEIGHTS", ()))
    return [weights for weights in known().values() if weights.detector == detector]


def require(detector: str) -> None:
    """Raise WeightsError, with the remedy, if a detector's weights are missing."""
    for entry in needed(detector):
        find(entry.name)


def downloadable() -> list[str]:
    """Return the names of all weights except those that come with a package."""
    return [name for name, weights in known().items() if not weights.package]


def available(detector: str) -> bool:
    """Return whether every file that the detector needs is there.

    The digests are checked by `find`: damaged weights must stop a run, not silently select another detector.
    """
    return all(_locate(weights) is not None for weights in needed(detector))


def find(name: str) -> Path:
    """Return the verified file of the weights `name`; WeightsError if it is missing or its digest is wrong."""
    weights = _entry(name)
    path = _locate(weights)
    if path is None and weights.package:
        raise WeightsError(f"{weights.file} is not installed: {_reinstall(weights)}")
    if path is None:
        who = weights.detector  # which may need other files as well
        raise WeightsError(
            f"{weights.file} is not in {folder()}: run `avprep weights fetch {who}`; for a machine without a network, "
            f"run `avprep weights fetch {who} --to DIR` elsewhere and set AVPREP_WEIGHTS=DIR here"
        )
    problem = _problem(path, weights)
    if problem:
        remedy = _reinstall(weights) if weights.package else f"move it away, then run `avprep weights fetch {name}`"
        raise WeightsError(f"{path} {problem}: {remedy}")
    return path


def fetch(
    names: Iterable[str], to: Path | None = None, progress: Callable[[str, int], None] | None = None
) -> Iterator[tuple[WeightsFile, Path, bool]]:
    """Download weights over https, verify them, and only then give the files their names.

    names: names of weights or of detectors (`face-alignment` means both of its files).
    to: the folder to write to; by default the one that `find` reads.
    progress: called with the file's name and the bytes received since the last call.
    Yields (weights, path, downloaded) as each file is ready; an existing verified file is kept. It is a generator:
    nothing happens until it is iterated. Raises WeightsError if a download fails or another file has the name.
    """
    where = folder() if to is None else to
    for weights in _entries(names):
        if weights.package:
            raise WeightsError(f"{weights.file} is not downloaded, it comes with a package: {_reinstall(weights)}")
        path = where / weights.file
        if path.exists():
            problem = _problem(path, weights)
            if problem:
                raise WeightsError(f"{path} {problem}: move it away, then fetch again")
            yield weights, path, False
        else:
            _download(weights, path, progress)
            yield weights, path, True


def table() -> list[dict[str, str | int | None]]:
    """Return one row per file for `avprep weights list`: what it is, and whether a verified copy is present.

    bytes: its size, None if unknown.
    """
    return [
        {
            "name": weights.name,
            "detector": weights.detector,
            "state": _state(weights),
            "file": weights.file,
            "bytes": weights.size,
            "sha256": weights.sha256,
            "licence": weights.licence,
            "source": weights.source,
            "url": weights.url or _reinstall(weights),
        }
        for weights in known().values()
    ]


def _download(weights: WeightsFile, path: Path, progress: Callable[[str, int], None] | None) -> None:
    """Download and verify a file and write it atomically; the process id keeps concurrent fetches apart."""
    from http.client import HTTPException

    from avprep.faces import https  # imported here: only downloads need it

    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        opened = part.open("wb")
    except OSError as error:
        raise WeightsError(
            f"{path.parent}: cannot write there ({error.strerror}); name another folder by --to DIR"
        ) from error
    try:
        with opened as file, https.open_url(weights.url) as response:
            _copy(response, file, weights, progress)
            file.flush()
            os.fsync(file.fileno())
        problem = _problem(part, weights)
        if problem:
            raise WeightsError(f"what {weights.url} sent {problem}: it was thrown away; fetch again later")
        part.replace(path)
    except (OSError, HTTPException) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise WeightsError(
            f"{weights.file} could not be fetched from {weights.url} to {path.parent}: {reason}; for a machine without "
            f"a network, run `avprep weights fetch {weights.name} --to DIR` elsewhere and set AVPREP_WEIGHTS=DIR here"
        ) from error
    finally:
        part.unlink(missing_ok=True)


def _copy(
    response: Response, file: IO[bytes], weights: WeightsFile, progress: Callable[[str, int], None] | None
) -> None:
    arrived = 0
    while block := response.read(BLOCK):
        arrived += len(block)
        if arrived > weights.largest:
            raise WeightsError(f"{weights.url} sends more than the {weights.largest:,} bytes of {weights.file}")
        file.write(block)
        if progress:
            progress(weights.name, len(block))


def _problem(path: Path, weights: WeightsFile) -> str:
    """Return what is wrong with a file, empty if nothing."""
    try:
        digest = sha256(path)
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    return "" if digest == weights.sha256 else f"has the sha256 {digest[:10]}…, not the pinned {weights.sha256[:10]}…"


def _state(weights: WeightsFile) -> str:
    path = _locate(weights)
    if path is None:
        return "missing"
    return _problem(path, weights) or f"ready: {path}"


def _reinstall(weights: WeightsFile) -> str:
    return f"pip install --force-reinstall --no-deps {weights.package.partition('/')[0]}"


def _locate(weights: WeightsFile) -> Path | None:
    places = _package_folders(weights.package) if weights.package else [folder()]
    if weights.torch_hub:
        hub = os.environ.get("TORCH_HOME") or _cache() / "torch"
        places.append(Path(hub).expanduser() / "hub" / "checkpoints")
    return next((place / weights.file for place in places if (place / weights.file).is_file()), None)


def _package_folders(package: str) -> list[Path]:
    """Return where a folder of a package is installed, without importing the package."""
    name, _, inside = package.partition("/")
    spec = importlib.util.find_spec(name)
    return [Path(place) / inside for place in (spec and spec.submodule_search_locations) or ()]


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()


def _entry(name: str) -> WeightsFile:
    for weights in needed(name):  # most have the name of their detector
        if weights.name == name:
            return weights
    if name not in known():
        raise WeightsError(f"no weights are called {name}: choose from {', '.join(known())}")
    return known()[name]


def _entries(names: Iterable[str]) -> list[WeightsFile]:
    """Resolve names of weights and of detectors before anything is downloaded."""
    found: list[WeightsFile] = []
    for name in names:
        found += [weights for weights in known().values() if weights.detector == name] or [_entry(name)]
    return found
