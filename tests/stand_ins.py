"""Stand-ins for the work on a clip, picklable for worker processes: each clip's `word` determines its outcome.

`python stand_ins.py MANIFEST OUT` is a run in a separate process, which tests can kill.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from avprep import manifest, schema
from avprep.errors import AvprepError, Reject, WeightsError
from avprep.manifest import Clip, Manifest
from avprep.shards import Sample

if TYPE_CHECKING:
    from avprep.runs.run import Outcome

FILE = "STAND_INS_FILE"
"""Environment variable that names the file to open for the word `open`."""

MERCY = "STAND_INS_MERCY"
"""Environment variable under which `hang` is `ok`: the same manifest on a better day."""


def clips(words: Iterable[str], split: str = "train") -> list[Clip]:
    """Return one clip per word."""
    return [Clip(f"{split}/s{n % 7}/{word}_{n:04d}", f"{n}.mp4", split, word=word) for n, word in enumerate(words)]


def plan(words: Iterable[str], root: str = "/nowhere", dataset: str = "stand-ins") -> Manifest:
    """Return a manifest with one clip per word, all in the train split."""
    return Manifest(dataset, Path(root), tuple(clips(words)))


def mfcc_members(key: str, n_frames: int, seed: int = 0) -> list[tuple[str, bytes]]:
    """Return the members of a well-formed mfcc sample."""
    windows = np.random.default_rng(seed).normal(size=(n_frames, 12, 20)).astype(np.float32)
    return [
        ("mfcc.npy", schema.encode_array(windows)),
        ("valid.npy", schema.encode_array(np.ones(n_frames, bool))),
        ("audio.json", schema.encode_json({"key": key, "n_frames": n_frames})),
    ]


@dataclass(frozen=True)
class Stage:
    """A stage in which each clip's `word` determines what happens.

    start: what happens when a worker starts. setting, version: stand for everything that determines the bytes.
    """

    start: str = "ok"
    setting: str = "a"
    version: str = "1"

    column = "mfcc"

    def resolved(self) -> dict[str, Any]:
        """Return the settings."""
        return {"setting": self.setting, "pair": (1, 2)}

    def versions(self) -> dict[str, str]:
        """Return the versions."""
        return {"stand-ins": self.version}

    def seconds(self, clip: Clip) -> float | None:
        """Return the duration of a clip according to the manifest."""
        return clip.duration

    def __call__(self) -> Callable[[Clip], Sample]:
        """Start, or fail to start."""
        match self.start:
            case "ok":
                return do
            case "user-error":
                raise WeightsError("stand-in.onnx: the weights are missing; fetch them")
            case "exit":
                sys.exit(4)
            case "library":
                raise ImportError("libGL.so.1: cannot open shared object file: No such file or directory")
            case "abort":
                os.abort()
        raise ValueError(f"a worker that\ncannot {self.start}")


@dataclass(frozen=True)
class LateStage(Stage):
    """A stage that the first worker unpickles quickly and every other worker in a second."""

    marker: str = ""

    def __reduce__(self) -> tuple[Callable[[str], Stage], tuple[str]]:
        """Unpickle late."""
        return _read_late, (self.marker,)


def _read_late(marker: str) -> Stage:
    try:
        os.close(os.open(marker, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        time.sleep(1)
    return Stage()


def do(clip: Clip) -> Sample:
    """Do what the clip's word demands; `ok` takes about a millisecond."""
    n_frames = 3 + len(clip.key) % 3
    word = "ok" if clip.word == "hang" and os.environ.get(MERCY) else clip.word
    members: Iterable[tuple[str, bytes]] = mfcc_members(clip.key, n_frames, seed=int(clip.video.removesuffix(".mp4")))
    summary: dict[str, Any] = {"n_valid": n_frames}
    match word:
        case "ok":
            time.sleep(0.001)
        case "slow":
            time.sleep(0.1)
        case "hang":
            time.sleep(3600)
        case "hang-in-c":
            _ = 7 ** (10**9)  # one instruction of the interpreter: no other thread and no signal handler runs
        case "open":
            Path(os.environ[FILE]).open().close()
        case "segv":
            os.kill(os.getpid(), signal.SIGSEGV)
        case "oom":
            os.kill(os.getpid(), signal.SIGKILL)
        case "term":
            os.kill(os.getpid(), signal.SIGTERM)
        case "realtime":
            os.kill(os.getpid(), signal.SIGRTMIN + 3)
        case "abort":
            os.abort()
        case "exit":
            os._exit(3)
        case "sys-exit":
            sys.exit(5)
        case "memory":
            raise MemoryError("no room")
        case "raise":
            raise ValueError("a bad\nnumber")
        case "reject":
            raise Reject("no_face", f"{clip.video}: nobody\nis there")
        case "fatal":
            raise AvprepError("the GPU fell off the bus")
        case "raise-in-members":
            members = _then(members, ZeroDivisionError("half a sample"))
        case "no-file-in-members":
            members = _then(members, FileNotFoundError(2, "No such file or directory", clip.video))
        case "reject-in-members":
            members = _then(members, Reject("unreadable", "the second half is noise"))
        case "not-json":
            summary["score"] = float("nan")
        case _:
            raise AssertionError(word)
    return Sample(members, n_frames, summary)


def _then(members: Iterable[tuple[str, bytes]], error: Exception) -> Iterator[tuple[str, bytes]]:
    yield next(iter(members))
    raise error


def start(
    words: Iterable[str], out: Path, *, jobs: int = 1, shard_size: int = 5, clip_timeout: float = 30.0, **options: Any
) -> Outcome:
    """Run the stand-ins in this process."""
    from avprep.runs.run import run  # which workers need not load

    stage = Stage(**{name: options.pop(name) for name in ("start", "setting", "version") if name in options})
    made = options.pop("plan", None) or plan(words)
    return run(stage, made, out, jobs=jobs, shard_size=shard_size, clip_timeout=clip_timeout, **options)


def end_instead(*_: object) -> None:
    """End the process, whatever the arguments."""
    os._exit(7)


def still_or_hang(video: Path, start: float | None, side: int) -> bytes | str:
    """Do as `excerpts.still` does, but never end with a video named `hangs.mp4` or, computing, `spins.mp4`."""
    from avprep.quality import excerpts  # which other workers need not load

    if video.name == "hangs.mp4":
        time.sleep(3600)
    while video.name == "spins.mp4":
        pass
    return excerpts.still(video, start, side)


def still_if_deaf(video: Path, start: float | None, side: int) -> bytes | str:
    """Return, in place of a picture, whether a Ctrl-C of the terminal would end this worker, and with a traceback."""
    return "deaf" if signal.getsignal(signal.SIGINT) == signal.SIG_IGN else "ends"


def main() -> int:
    """Run the stand-ins over a manifest; as `avprep` does, a user error is one line and exit status 1."""
    import argparse

    from avprep.runs.run import run

    parser = argparse.ArgumentParser()
    parser.add_argument("manifest", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--shard-size", type=int, default=5)
    parser.add_argument("--clip-timeout", type=float, default=600)
    parser.add_argument("--retry", default="")
    given = parser.parse_args()
    try:
        run(
            Stage(),
            manifest.read(given.manifest),
            given.out,
            jobs=given.jobs,
            shard_size=given.shard_size,
            clip_timeout=given.clip_timeout,
            retry=frozenset(filter(None, [given.retry])),
        )
    except AvprepError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    import stand_ins  # by its own name, as in the workers

    sys.exit(stand_ins.main())
