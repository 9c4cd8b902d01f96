"""A synthetic corpus in LRW's layout: synthetic people say words that are visible and audible."""

from __future__ import annotations

import multiprocessing
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

import av
import numpy as np

from avprep.demo.drawing import Picture, render
from avprep.demo.expression import EMOTIONS, INTENSITIES, expression
from avprep.demo.speech import AAC_FRAME, WORDS, Sound, Speaker, people, perform, speak, speaker
from avprep.errors import AvprepError
from avprep.runs.threads import one_thread
from avprep.schema import FPS, SAMPLE_RATE

CHANNEL = "Channel: avprep synthetic"  # the line of a .txt that marks this corpus

Task = TypeVar("Task")
APART = 100_000
"""Distance between the take seeds of two emotions: no speaker says a word twice in the same way."""


class Feeling(NamedTuple):
    """An emotion of `EMOTIONS` and an intensity of `INTENSITIES`."""

    emotion: str
    intensity: str


def utterance(
    word: str, who: Speaker, take_seed: int, size: int = 256, *, feeling: Feeling | None = None
) -> tuple[Picture, Sound]:
    """Make a speaker say a word: frames uint8 (29, size, size, 3), RGB, and samples int16 (19456,), 16 kHz.

    feeling: affects only the face, and replaces the speaker's smile; None: the face of a corpus without emotions.
    """
    who = who if feeling is None else replace(who, smile=0.0)
    take = perform(word, who, take_seed)
    face = None if feeling is None else expression(*feeling, who, take_seed)
    return render(take, who, size, face), speak(take, who)


def write_clip(path: Path, frames: Picture, samples: Sound) -> None:
    """Write an mp4 (H.264 and AAC): frame i is shown at i/25 s, and sample n is heard at n/16000 s.

    frames: uint8 (T, H, W, 3), RGB, even H and W. samples: int16 (N,), mono. The same input gives the same bytes.
    """
    with av.open(str(path), "w", format="mp4", options={"fflags": "+bitexact", "movflags": "+faststart"}) as out:
        options = {"crf": "16", "preset": "veryfast", "bf": "0", "threads": "1"}
        video = out.add_stream("libx264", rate=FPS, options=options)
        video.height, video.width = frames.shape[1:3]
        video.pix_fmt = "yuv420p"
        audio = out.add_stream("aac", rate=SAMPLE_RATE, layout="mono", options={"b": "64k"})
        for stream in (video, audio):
            stream.codec_context.flags |= av.codec.context.Flags.bitexact
        for i, picture in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            frame.pts, frame.time_base = i, Fraction(1, FPS)
            out.mux(video.encode(frame))
        out.mux(video.encode(None))
        for start in range(0, len(samples), AAC_FRAME):
            sound = av.AudioFrame.from_ndarray(samples[None, start : start + AAC_FRAME], format="s16", layout="mono")
            sound.sample_rate, sound.pts, sound.time_base = SAMPLE_RATE, start, Fraction(1, SAMPLE_RATE)
            out.mux(audio.encode(sound))
        out.mux(audio.encode(None))


def write_whole(path: Path, frames: Picture, samples: Sound) -> None:
    """Write an mp4 as `write_clip` does, but atomically."""
    write_clip(_part(path), frames, samples)
    _part(path).replace(path)


def write_sentence(
    path: Path, words: Sequence[str], person: int, take_seed: int, *, seed: int, smiles: bool = True
) -> None:
    """Write an mp4 in which a speaker of the corpus with `seed` says words one after another, 1.16 s each."""
    takes = [utterance(word, speaker(seed, person, smiles=smiles), take_seed) for word in words]
    frames = np.concatenate([frames for frames, _ in takes])
    per_word = len(takes[0][0]) * SAMPLE_RATE // FPS
    write_clip(path, frames, np.concatenate([samples[:per_word] for _, samples in takes]))


class _Clip(NamedTuple):
    """One clip to make. text: content of its .txt."""

    path: Path
    word: str
    person: int
    take_seed: int
    feeling: Feeling | None
    text: str


def make_corpus(
    root: Path,
    *,
    words: int = 4,
    speakers: int = 4,
    takes: int = 2,
    emotions: bool = False,
    smiles: bool = True,
    seed: int = 0,
    size: int = 256,
    jobs: int = 1,
) -> list[Path]:
    """Make `words` × `speakers` × `takes` clips in LRW's layout: ROOT/WORD/{train,val,test}/WORD_00001.mp4 and .txt.

    emotions: make that many clips in each of `EMOTIONS`, with alternating high and low intensity; the .txt has both.
    smiles: most people smile, each to a degree of their own, but not with emotions.
    Speakers of val and test are not in train. `jobs` is the number of processes; the files do not depend on it.
    Processes are spawned, so a script that asks for more than one needs `if __name__ == "__main__":`. Returns the .mp4
    paths. Raises AvprepError if an argument is out of range or `root` holds anything but this corpus, whole or in part.
    """
    limits = {"words": (words, 1, len(WORDS)), "speakers": (speakers, 1, 10_000), "takes": (takes, 1, 10_000)}
    for name, (value, low, high) in limits.items():
        if not low <= value <= high:
            raise AvprepError(f"{name} must be {low} to {high}, not {value}")
    if size < 128 or size % 2:
        raise AvprepError(f"size must be an even number of pixels from 128, not {size}")
    clips = list(_plan(Path(root), words, speakers, takes, seed, size, emotions=emotions, smiles=smiles))
    _check_folder(Path(root), clips)
    try:
        Path(root).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise AvprepError(f"cannot make the folder {root}: {error.strerror}") from error
    tasks = [[clip for clip in clips if clip.person == person] for person in range(speakers)]
    in_processes(partial(_make_clips, seed=seed, size=size, smiles=smiles), tasks, jobs)
    return [clip.path for clip in clips]


def in_processes(make: Callable[[Task], object], tasks: Sequence[Task], jobs: int) -> None:
    """Do all tasks, in this process or in several spawned ones, up to the first error.

    Raises AvprepError if a file cannot be written.
    """
    work = partial(_do, make)
    if jobs <= 1:
        for task in tasks:
            work(task)
    else:
        with ProcessPoolExecutor(min(jobs, len(tasks)), multiprocessing.get_context("spawn"), _one_thread) as pool:
            list(pool.map(work, tasks))


def _do(make: Callable[[Task], object], task: Task) -> None:
    """Do a task; AvprepError, which survives the way from another process, if a file cannot be written."""
    try:
        make(task)
    except OSError as error:
        raise AvprepError(f"{error.filename or 'a video'}: cannot write ({error.strerror})") from error


def _one_thread() -> None:
    """Initialise a worker; this module has imported the libraries that must use one thread."""
    one_thread()


def _plan(
    root: Path, words: int, speakers: int, takes: int, seed: int, size: int, *, emotions: bool, smiles: bool
) -> Iterator[_Clip]:
    performed = list(_takes(takes, emotions=emotions))
    for word in list(WORDS)[:words]:
        for split, members in people(speakers, seed).items():
            each = ((person, *one) for person in members for one in performed)
            for n, (person, take, feeling) in enumerate(each, start=1):
                path = root / word / split / f"{word}_{n:05d}.mp4"
                edges = perform(word, speaker(seed, person), take).edges
                look = f" {' '.join(feeling)}" if feeling else " smiles" if smiles else ""
                said = f"{seed} {size} {word} {person} {take}{look}"
                text = (
                    f"Disk reference: {zlib.crc32(said.encode())}\n{CHANNEL}\n"
                    f"Program start: 2000-01-01 00:00:00 +0000\n"
                    f"Clip start: {take * 2.0:.2f} seconds\nDuration: {edges[-1] - edges[0]:.2f} seconds\n"
                    f"Speaker: s{person:02d}\n{_described(feeling)}"
                )
                yield _Clip(path, word, person, take, feeling, text)


def _takes(takes: int, *, emotions: bool) -> Iterator[tuple[int, Feeling | None]]:
    """Yield the seed and feeling of each take of a word."""
    intensities = list(reversed(INTENSITIES))  # high first
    for number, emotion in enumerate(EMOTIONS if emotions else ("",)):
        for take in range(takes):
            feeling = Feeling(emotion, intensities[take % len(intensities)]) if emotion else None
            yield take + APART * number, feeling


def _described(feeling: Feeling | None) -> str:
    """Return the .txt lines of a feeling; a neutral face has no intensity."""
    if feeling is None:
        return ""
    intensity = "" if feeling.emotion == "neutral" else f"Intensity: {feeling.intensity}\n"
    return f"Emotion: {feeling.emotion}\n{intensity}"


def _check_folder(root: Path, clips: list[_Clip]) -> None:
    """Raise AvprepError if the folder holds files that this call would not write."""
    if not root.exists():
        return
    if not root.is_dir():
        raise AvprepError(f"{root} is not a folder")
    ours = {path for clip in clips for path in (clip.path, clip.path.with_suffix(".txt"), _part(clip.path))}
    foreign = [path for path in root.rglob("*") if not path.is_dir() and path not in ours]
    foreign += [clip.path for clip in clips if not _is_ours(clip)]
    if foreign:
        raise AvprepError(
            f"{root} holds files that are not of this synthetic corpus ({foreign[0]}): use an empty folder"
        )


def _is_ours(clip: _Clip) -> bool:
    """Return whether the files at a clip's path, if any, are that clip; an incomplete .txt alone counts, too."""
    try:
        text = clip.path.with_suffix(".txt").read_text(encoding="utf-8")
    except FileNotFoundError:
        return not clip.path.exists()
    except (OSError, UnicodeDecodeError):
        return False
    return text == clip.text or (clip.text.startswith(text) and not clip.path.exists())


def _part(path: Path) -> Path:
    return path.with_suffix(".mp4.part")


def _make_clips(clips: list[_Clip], *, seed: int, size: int, smiles: bool) -> None:
    """Make all clips of one speaker; a clip is written atomically, after its .txt."""
    for clip in clips:
        who = speaker(seed, clip.person, smiles=smiles)
        frames, samples = utterance(clip.word, who, clip.take_seed, size, feeling=clip.feeling)
        clip.path.parent.mkdir(parents=True, exist_ok=True)
        clip.path.with_suffix(".txt").write_text(clip.text, encoding="utf-8", newline="\n")
        write_whole(clip.path, frames, samples)
