"""Measured speed of crop and mfcc on this machine, per step, and relative to the minimum work of any tool."""

from __future__ import annotations

import contextlib
import os
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from avprep import layouts, shards, stages
from avprep.errors import Reject, RunError, plural
from avprep.faces import detectors, keyframes
from avprep.manifest import Clip, Manifest
from avprep.media import mfcc
from avprep.media.video import Frames
from avprep.memory import keep_freed_memory
from avprep.runs import run
from avprep.runs.fingerprint import ColumnStage
from avprep.runs.progress import counted
from avprep.runs.threads import KEPT, one_thread
from avprep.schema import FPS, SAMPLE_RATE
from avprep.shards import Sample
from avprep.shards.image import encode_bgr

LRW_CLIPS, LRW_FRAMES = 538_766, 29
"""Number of clips in LRW's three splits, and frames per clip."""
VOXCELEB2_HOURS = 2_300
"""Hours of its dev split; all of it has 2,442."""
PACED = 200
"""Minimum number of clips in the runs that measure the speed of several processes together."""


_LOOKS, _BETWEEN = 5, 0.02
"""How often the machine's processes are listed, and seconds in between: one that runs each time keeps it busy."""


@dataclass(frozen=True)
class Floor:
    """The minimum work of any tool: median seconds of a pass over all clips; the median ratio of our passes to these.

    cpu_seconds, cpu_ratio: the same in CPU time, which other load affects less.
    """

    name: str
    seconds: float
    ratio: float
    cpu_seconds: float
    cpu_ratio: float


@dataclass(frozen=True)
class Result:
    """The measurements: medians of passes over all clips.

    seconds, cpu_seconds: of the whole column in one process, wall-clock and CPU time.
    steps: seconds of each step by itself, in one process.
    clips_per_s: of a run, by its number of processes.
    projected_h: hours for whole corpora with the largest number of processes.
    """

    name: str
    detector: str | None
    clips: int
    frames: int
    seconds: float
    cpu_seconds: float
    steps: dict[str, float]
    floors: list[Floor]
    clips_per_s: dict[int, float]
    projected_h: dict[str, float]

    @property
    def scaling(self) -> float:
        """Speed with the largest number of processes, relative to one process."""
        return self.clips_per_s[max(self.clips_per_s)] / self.clips_per_s[1]

    def to_json(self) -> dict[str, Any]:
        """Return the measurements as JSON."""
        shares = {name: seconds / self.seconds for name, seconds in self.steps.items()}
        return {**asdict(self), "shares": shares, "scaling": self.scaling}

    def table(self) -> str:
        """Return the measurements as text."""
        detector = f" with {self.detector}" if self.detector else ""
        frames_per_s = self.frames / self.seconds
        clips = plural(self.clips, "clip")
        lines = [
            f"{self.name}{detector}: {clips}, {self.frames} frames ({self.frames / FPS:.0f} s)",
            f"  one process     {self._ms(self.seconds)} a clip {frames_per_s:8.0f} frames/s, "
            f"{self._ms(self.cpu_seconds).strip()} of CPU time",
        ]
        lines += [
            f"    {name:13} {self._ms(seconds)} {seconds / self.seconds:8.0%}" for name, seconds in self.steps.items()
        ]
        lines += [
            f"  {floor.ratio:5.2f} × {floor.name} ({self._ms(floor.seconds).strip()}); "
            f"{floor.cpu_ratio:.2f} × in CPU time"
            for floor in self.floors
        ]
        paces = ", ".join(f"-j {jobs} {pace:.1f} clips/s" for jobs, pace in self.clips_per_s.items())
        lines.append(f"  runs: {paces} ({self.scaling:.2f} ×)")
        lines.append("  " + ", ".join(f"{corpus}: {hours:.1f} h" for corpus, hours in self.projected_h.items()))
        return "\n".join(lines)

    def _ms(self, seconds: float) -> str:
        return f"{seconds * 1e3 / self.clips:7.2f} ms"


def bench_crop(plan: Manifest, detector: str, *, repeat: int, jobs: int) -> Result:
    """Measure `crop` on a manifest's clips; RunError if none of them can be used.

    detector: resolved name. repeat: passes over all clips, steps and floors in turn. jobs: processes of the last run.
    """
    settings, built = stages.CropSettings(detector), detectors.build(detector)
    crops: dict[str, list[NDArray[np.uint8]]] = {}
    found: dict[str, stages.Aligned] = {}

    def do(clip: Clip) -> Sample:
        return stages.crop_clip(clip, plan.root, settings, built)

    def frames_of(clip: Clip) -> Frames:
        return Frames(plan.root / clip.video, start=clip.start, duration=clip.duration, keep_bytes=64 << 20)

    def track(clip: Clip) -> None:
        one = found[clip.key]
        stages.align_detections(one.frames, one.detections, settings, name=clip.video)

    converter = VideoReformatter()

    def quickly(frame: av.VideoFrame) -> None:
        converter.reformat(frame, format="rgb24", threads=1).to_ndarray()

    def plainly(frame: av.VideoFrame) -> None:  # as in PyAV's documentation: a new converter for each frame
        frame.to_ndarray(format="rgb24")

    plan = _usable(plan, do)
    for clip in plan.clips:
        found[clip.key] = stages.align_clip(frames_of(clip), built, settings, name=clip.video)
        crops[clip.key] = list(found[clip.key].crops("bgra"))
    n_frames = sum(map(len, crops.values()))

    with tempfile.TemporaryDirectory(prefix="avprep-bench-") as temporary, _writing(Path(temporary)) as write:
        members = {clip.key: list(do(clip).members) for clip in plan.clips}
        timed = _timed(
            plan.clips,
            {
                "crop": lambda clip: write(clip.key, do(clip).members, append=False),
                "decode": lambda clip: _exhaust(frames_of(clip)),
                "detect": lambda clip: keyframes.find_faces(found[clip.key].frames, built, settings.every),
                "track": track,
                "warp": lambda clip: _exhaust(found[clip.key].crops("bgra")),
                "encode": lambda clip: [encode_bgr(crop, "jpg") for crop in crops[clip.key]],
                "write": lambda clip: write(clip.key, members[clip.key], append=True),
                "floor": lambda clip: _decode_and_encode(plan.root / clip.video, crops[clip.key], quickly),
                "script": lambda clip: _decode_and_encode(plan.root / clip.video, crops[clip.key], plainly),
            },
            repeat,
        )
    return _result(
        "crop",
        detector,
        plan,
        n_frames,
        timed,
        {"floor": "decoding to RGB and encoding as many JPEGs", "script": "the same in a plain script"},
        stages.CropStage(plan.root, settings),
        jobs,
    )


def bench_mfcc(plan: Manifest, *, repeat: int, jobs: int) -> Result:
    """Measure `mfcc` on a manifest's clips; RunError if none of them can be used. See `bench_crop`."""
    settings = stages.MfccSettings()

    def do(clip: Clip) -> Sample:
        return stages.mfcc_clip(clip, plan.root, settings)

    plan = _usable(plan, do)
    sounds = {clip.key: stages.clip_sound(clip, plan.root, settings) for clip in plan.clips}

    def windows(clip: Clip) -> None:
        sound = sounds[clip.key]
        mfcc.clip_windows(sound.samples, sound.first, sound.n_frames, settings.preset)

    with tempfile.TemporaryDirectory(prefix="avprep-bench-") as temporary, _writing(Path(temporary)) as write:
        members = {clip.key: list(do(clip).members) for clip in plan.clips}
        timed = _timed(
            plan.clips,
            {
                "mfcc": lambda clip: write(clip.key, do(clip).members, append=False),
                "decode": lambda clip: stages.clip_sound(clip, plan.root, settings),
                "windows": windows,
                "write": lambda clip: write(clip.key, members[clip.key], append=True),
                "stored": lambda clip: decode_sound(plan.root / (clip.audio or clip.video), resample=False),
                "mono": lambda clip: decode_sound(plan.root / (clip.audio or clip.video)),
            },
            repeat,
        )
    floors = {"stored": "decoding the sound", "mono": "decoding it to 16 kHz mono"}
    n_frames = sum(sound.n_frames for sound in sounds.values())
    return _result("mfcc", None, plan, n_frames, timed, floors, stages.MfccStage(plan.root, settings), jobs)


def plan_of(folder: Path | None, temporary: Path, limit: int, *, as_lrw: bool = False) -> Manifest:
    """Return the clips to measure with.

    folder: a tree of videos, or a GRID or VoxCeleb2 tree; None makes a synthetic corpus with clips like LRW's.
    temporary: a folder for files that are made. limit: maximum number of clips.
    as_lrw: cut one clip like LRW's out of each video: 29 frames, 256×256, H.264 and AAC.
    """
    if folder is None:
        from avprep.demo import synthetic

        synthetic.make_corpus(temporary / "corpus", words=4, speakers=3, takes=-(-limit // 12))
        plan, _ = layouts.index("lrw", temporary / "corpus")
        return replace(plan, clips=plan.clips[:limit])
    voxceleb2 = any((folder / part).is_dir() for part in ("aac", "dev/aac", "test/aac"))
    plan, _ = layouts.index("voxceleb2" if voxceleb2 else "folder", folder)
    plan = replace(plan, clips=plan.clips[:limit])
    if not as_lrw:
        return plan
    for clip in counted(plan.clips, "avprep bench --as-lrw", len(plan.clips), "clip"):
        _cut_as_lrw(plan.root / clip.video, temporary / "lrw" / f"{clip.key}.mp4")
    return replace(layouts.index("folder", temporary / "lrw")[0], dataset="lrw")


def _cut_as_lrw(source: Path, output: Path) -> None:
    """Cut the middle of a video, in time and in space, into a new file."""
    from avprep.media import film
    from avprep.media.container import duration

    length = LRW_FRAMES / FPS
    begin = max(0.0, ((duration(source) or 0) - length) / 2)
    output.parent.mkdir(parents=True, exist_ok=True)
    square = r"crop=min(iw\,ih):min(iw\,ih),scale=256:256"
    film.transcode(
        source, output, ss=begin, t=length, vf=square, r=FPS, vcodec="libx264", pix_fmt="yuv420p", acodec="aac", ac=1
    )


def _usable(plan: Manifest, do: Callable[[Clip], Sample]) -> Manifest:
    usable = []
    for clip in plan.clips:
        try:
            _exhaust(do(clip).members)
        except Reject:
            continue
        usable.append(clip)
    if not usable:
        raise RunError(f"{plan.root}: none of {len(plan.clips)} clips can be used to measure with")
    return replace(plan, clips=tuple(usable))


def _result(
    name: str,
    detector: str | None,
    plan: Manifest,
    n_frames: int,
    timed: dict[str, list[Spent]],
    floors: dict[str, str],
    stage: ColumnStage,
    jobs: int,
) -> Result:
    """Assemble the timings; add the overhead of processes and the speed of several together."""
    whole = timed.pop(name)
    shown = [_floor(title, whole, timed[key]) for key, title in floors.items()]
    steps = {step: statistics.median(one.wall for one in spent) for step, spent in timed.items() if step not in floors}
    steps["IPC"] = _seconds_a_clip(_Nothing(), plan, 1, 4 * PACED) * len(plan.clips)
    paces = {count: 1 / _seconds_a_clip(stage, plan, count, PACED * count, verbosity=0) for count in sorted({1, jobs})}
    frames_per_s = paces[max(paces)] * n_frames / len(plan.clips)
    projected = {
        "LRW": LRW_CLIPS * LRW_FRAMES / frames_per_s / 3600,
        "VoxCeleb2": VOXCELEB2_HOURS * FPS / frames_per_s,
    }
    seconds, cpu = (statistics.median(one) for one in zip(*whole, strict=True))
    return Result(name, detector, len(plan.clips), n_frames, seconds, cpu, steps, shown, paces, projected)


def _floor(title: str, whole: Sequence[Spent], floor: Sequence[Spent]) -> Floor:
    pairs = list(zip(whole, floor, strict=True))
    return Floor(
        title,
        seconds=statistics.median(one.wall for one in floor),
        ratio=statistics.median(ours.wall / least.wall for ours, least in pairs),
        cpu_seconds=statistics.median(one.cpu for one in floor),
        cpu_ratio=statistics.median(ours.cpu / max(least.cpu, 1e-9) for ours, least in pairs),
    )


def busy() -> str | None:
    """Return a line about other load on this machine, which distorts wall-clock times; None if it is idle."""
    seen: Counter[tuple[int, str]] = Counter()
    for look in range(_LOOKS):
        if look:
            time.sleep(_BETWEEN)
        seen.update(_running())
    beside = Counter(name for (_, name), times in seen.items() if times == _LOOKS)
    return busy_line(os.getloadavg()[0], os.cpu_count() or 1, beside)


def busy_line(load: float, cores: int, beside: Mapping[str, int]) -> str | None:
    """Return a line if a machine is busy: the load is at least half a core per core, or others run; None otherwise.

    load: average number of running processes over the last minute. beside: number of other running processes, by name.
    """
    if load < cores / 2 and not beside:
        return None
    names = ", ".join(name if count == 1 else f"{count} × {name}" for name, count in sorted(beside.items()))
    running = f"; running beside: {names}" if names else ""
    return (
        f"this machine is busy (load average {load:.1f} on {cores} cores{running}): "
        "what the clock measures is too slow; ratios in CPU time suffer less"
    )


def _running() -> Iterator[tuple[int, str]]:
    """Yield the ID and name of each other process that is running at this moment (Linux)."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended in the meantime
            name, _, rest = path.read_text(errors="replace").partition("(")[2].rpartition(")")
            if rest.split()[0] == "R" and int(path.parent.name) != os.getpid():
                yield int(path.parent.name), name


class Spent(NamedTuple):
    """Seconds of a pass over all clips: wall-clock time, and CPU time of this process."""

    wall: float
    cpu: float


def _timed(clips: Sequence[Clip], steps: dict[str, Callable[[Clip], object]], repeat: int) -> dict[str, list[Spent]]:
    """Time passes over all clips, as in a worker; the steps take turns, so that a slowdown of the machine affects all.

    The first pass of each step does not count. Progress goes to standard error, under the name of the first step.
    """
    keep_freed_memory(KEPT)
    spent: dict[str, list[Spent]] = {name: [] for name in steps}
    turns = [*steps.items()] * (1 + repeat)
    with one_thread():
        for name, step in counted(turns, f"avprep bench {next(iter(steps))}", len(turns), "step"):
            begin, cpu = time.perf_counter(), time.process_time()
            for clip in clips:
                step(clip)
            spent[name].append(Spent(time.perf_counter() - begin, time.process_time() - cpu))
    return {name: found[1:] for name, found in spent.items()}


def _seconds_a_clip(stage: ColumnStage, plan: Manifest, jobs: int, count: int, *, verbosity: int = -1) -> float:
    """Return the seconds per clip of a run of `count` clips with `jobs` processes, without the time to start.

    verbosity: of that run. The short run that measures the time to start shows nothing.
    """
    begin, rows = 4 * jobs, []
    for number in range(begin + count):
        clip = plan.clips[number % len(plan.clips)]
        rows.append(replace(clip, key=f"{number}/{clip.key}", split="train"))
    seconds = []
    for part, told in ((rows[:begin], -1), (rows, verbosity)):
        with tempfile.TemporaryDirectory(prefix="avprep-bench-") as out:
            outcome = run.run(stage, replace(plan, clips=tuple(part)), Path(out), jobs=jobs, verbosity=told)
            seconds.append(outcome.seconds)
    return max(seconds[1] - seconds[0], 1e-9) / count


@dataclass(frozen=True)
class _Nothing:
    """A stage that does nothing, so that the time of a run is the overhead of processes and shards."""

    column = "mfcc"

    def resolved(self) -> dict[str, Any]:
        return {}

    def versions(self) -> dict[str, str]:
        return {}

    def seconds(self, _: Clip) -> float | None:
        return None

    def __call__(self) -> Callable[[Clip], Sample]:
        return _nothing


def _nothing(clip: Clip) -> Sample:
    return Sample([("valid.npy", clip.key.encode())], 1)


class _Write(Protocol):
    def __call__(self, key: str, members: Iterable[tuple[str, bytes]], *, append: bool) -> None: ...


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[_Write]:
    """Provide a function that writes a sample as a worker does, and appends it to a shard if `append` is set."""
    stretch = folder / "stretch.part"
    with contextlib.closing(shards.ShardWriter(folder / "shard.tar", folder / "shard.part")) as writer:

        def write(key: str, members: Iterable[tuple[str, bytes]], *, append: bool) -> None:
            shards.write_members(stretch, key, members)
            if append:
                writer.append(stretch)
            else:  # if overwritten, a file system may flush it to disk first; workers write new files
                stretch.unlink()

        yield write


def _decode_and_encode(
    path: Path, crops: Sequence[NDArray[np.uint8]], to_rgb: Callable[[av.VideoFrame], object]
) -> None:
    """Decode a video and convert it to RGB, and encode crops."""
    with av.open(str(path)) as container:
        container.streams.video[0].codec_context.thread_count = 1
        for frame in container.decode(video=0):
            to_rgb(frame)
    for crop in crops:
        encode_bgr(crop, "jpg")


def decode_sound(path: Path, *, resample: bool = True) -> int:
    """Decode a file's audio the plain way, with libav's own resampler; return the number of samples."""
    resampler = av.AudioResampler("s16", "mono", SAMPLE_RATE)
    count = 0
    with av.open(str(path)) as container:
        for frame in container.decode(audio=0):
            for part in resampler.resample(frame) if resample else (frame,):
                count += part.to_ndarray().size
        for part in resampler.resample(None) if resample else ():
            count += part.to_ndarray().size
    return count


def _exhaust(items: Iterable[object]) -> None:
    for _ in items:
        pass
