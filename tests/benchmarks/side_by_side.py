"""What others do with the same videos, written anew, side by side with `crop` and `mfcc`: CPU time per frame.

    python tests/benchmarks/side_by_side.py CLIPS [--repeat 5] [--limit 12] [--mediapipe PYTHON]

`script` is what one writes first: OpenCV's VideoCapture, YuNet on every frame, a similarity transform from eyes and
mouth, OpenCV's warp to 256×256, a JPEG; of the sound python_speech_features. `mediapipe` is how auto_avsr prepares
videos (its preparation/detectors/mediapipe): MediaPipe's full-range face detection on every frame, points averaged
over 12 frames, a partial affine transform by least median of squares, a warp to 256×256; a JPEG here, where it writes
a video. It needs an interpreter in which `pip install 'mediapipe<0.10.30' av` was done: those wheels hold the network.

Each runs in a process of its own with one thread for each of its libraries that can be told so. They take turns, pass
by pass over all clips, after a pass that does not count; CPU time is that of all threads of the process.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np

TEMPLATE = np.array([[91.1, 114.4], [168.7, 114.4], [129.9, 188.1]])
"""Where the eyes and the middle of the mouth lie in a crop of 256×256, x y."""
WINDOW = 12
"""Frames over which auto_avsr averages points."""

Picture = Any
Passes = Callable[[Path], tuple[int, float, float]]
"""Does one clip; returns its frames, and the CPU seconds of its pictures and of its sound."""


def cpu() -> float:
    """Return the CPU seconds of this process so far, of all its threads."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def pictures(path: Path) -> Iterator[Picture]:
    """Yield the pictures of a video as OpenCV reads them, uint8 (H, W, 3), BGR."""
    video = cv2.VideoCapture(str(path))
    while (read := video.read())[0]:
        yield read[1]


def jpeg(crop: Picture) -> bytes:
    """Return a crop as JPEG of quality 95."""
    return bytes(cv2.imencode(".jpg", crop, [cv2.IMWRITE_JPEG_QUALITY, 95])[1])


def sound(path: Path) -> Any:
    """Return the sound of a video, int16 (N,), 16 kHz mono, by libav's own resampler."""
    resampler = av.AudioResampler("s16", "mono", 16_000)
    with av.open(str(path)) as container:
        frames = [part for frame in container.decode(audio=0) for part in resampler.resample(frame)]
        frames += resampler.resample(None)
    return np.concatenate([frame.to_ndarray()[0] for frame in frames])


def script(folder: Path) -> Passes:
    """Return the plain script."""
    speech: Any = import_module("python_speech_features")
    detector: Any = cv2.FaceDetectorYN.create(str(weights()), "", (320, 320))

    def do(path: Path) -> tuple[int, float, float]:
        begin, count = cpu(), 0
        with (folder / "script").open("wb") as file:
            for picture in pictures(path):
                detector.setInputSize(picture.shape[1::-1])
                points = detector.detect(picture)[1][0, 4:14].reshape(5, 2)
                three = np.stack([points[0], points[1], points[3:].mean(axis=0)])
                affine = cv2.estimateAffinePartial2D(three, TEMPLATE)[0]
                file.write(jpeg(cv2.warpAffine(picture, affine, (256, 256))))
                count += 1
        seen = cpu()
        steps = speech.mfcc(sound(path), 16_000, nfft=512)
        (folder / "windows").write_bytes(steps.astype(np.float32).tobytes())
        return count, seen - begin, cpu() - seen

    return do


def mediapipe(folder: Path) -> Passes:
    """Return the pipeline with MediaPipe; it leaves the sound as it is."""
    found: Any = import_module("mediapipe").solutions.face_detection
    detector = found.FaceDetection(min_detection_confidence=0.5, model_selection=1)
    target = np.stack([*TEMPLATE[:2], TEMPLATE.mean(axis=0), TEMPLATE[2]])

    def points(picture: Picture) -> Any:
        height, width = picture.shape[:2]
        faces = detector.process(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)).detections
        if not faces:
            return None
        largest = max(faces, key=lambda face: face.location_data.relative_bounding_box.width)
        keys = largest.location_data.relative_keypoints[:4]  # eyes, nose, mouth
        return np.array([[int(key.x * width), int(key.y * height)] for key in keys], float)

    def do(path: Path) -> tuple[int, float, float]:
        begin = cpu()
        read = list(pictures(path))
        places = [points(picture) for picture in read]
        known = [n for n, place in enumerate(places) if place is not None]
        every = np.stack([places[min(known, key=lambda k, n=n: abs(k - n))] for n in range(len(read))])
        with (folder / "mediapipe").open("wb") as file:
            for n, picture in enumerate(read):
                margin = min(WINDOW // 2, n, len(read) - 1 - n)
                smooth = every[n - margin : n + margin + 1].mean(axis=0)
                smooth += every[n].mean(axis=0) - smooth.mean(axis=0)
                affine = cv2.estimateAffinePartial2D(smooth, target, method=cv2.LMEDS)[0]
                file.write(jpeg(cv2.warpAffine(picture, affine, (256, 256))))
        return len(read), cpu() - begin, 0.0

    return do


def ours(folder: Path) -> Passes:
    """Return what workers of `crop --detector yunet` and `mfcc` do."""
    stages: Any = import_module("avprep.stages")
    shards: Any = import_module("avprep.shards")
    clip_of: Any = import_module("avprep.manifest").Clip
    crop = stages.CropStage(Path("/"), stages.CropSettings("yunet"))()
    mfcc = stages.MfccStage(Path("/"), stages.MfccSettings("syncnet"))()

    def do(path: Path) -> tuple[int, float, float]:
        clip = clip_of("clip", str(path.absolute()).lstrip("/"), "train")
        begin = cpu()
        made = crop(clip)
        shards.write_members(folder / "ours", "clip", made.members)
        seen = cpu()
        shards.write_members(folder / "ours.mfcc", "clip", mfcc(clip).members)
        return made.n_frames, seen - begin, cpu() - seen

    return do


PIPELINES: dict[str, Callable[[Path], Passes]] = {"ours": ours, "script": script, "mediapipe": mediapipe}


def weights() -> Path:
    """Return YuNet's weights."""
    return Path(import_module("avprep.faces.weights").find("yunet"))


def serve(name: str, clips: Iterable[Path]) -> None:
    """Do a pass over the clips for each line of standard input, and answer with frames and CPU seconds."""
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        do = PIPELINES[name](Path(folder))
        for _ in sys.stdin:
            done = [do(clip) for clip in clips]
            print("pass", *(sum(column) for column in zip(*done, strict=True)), flush=True)


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("clips", type=Path, help="a folder of videos")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--limit", type=int, default=12)
    parser.add_argument("--mediapipe", metavar="PYTHON", help="an interpreter that has mediapipe")
    parser.add_argument("--serve", choices=PIPELINES, help=argparse.SUPPRESS)
    given = parser.parse_args()
    clips = sorted(path for path in given.clips.rglob("*") if path.suffix in (".mpg", ".mp4", ".mov", ".avi"))
    if given.serve:
        serve(given.serve, clips[: given.limit])
        return
    pythons = {"ours": sys.executable, "script": sys.executable, "mediapipe": given.mediapipe}
    environment = os.environ | dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    workers = {
        name: subprocess.Popen(
            [python, __file__, str(given.clips), "--limit", str(given.limit), "--serve", name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )
        for name, python in pythons.items()
        if python
    }
    rows: dict[str, list[tuple[float, float]]] = {name: [] for name in workers}
    for number in range(1 + given.repeat):
        for name, worker in workers.items():
            frames, seen, heard = asked(name, worker)
            if number:
                rows[name].append((seen / frames * 1e3, (seen + heard) / frames * 1e3))
    for name, spent in rows.items():
        pairs = zip(spent, rows["ours"], strict=True)
        ratios = [(seen / ours, both / ours_both) for (seen, both), (ours, ours_both) in pairs]
        (seen, both), (ratio, ratio_both) = (
            map(statistics.median, zip(*them, strict=True)) for them in (spent, ratios)
        )
        print(f"{name:10} {seen:6.2f} ms a frame, {ratio:5.2f} × ours; with sound {both:6.2f} ms, {ratio_both:5.2f} ×")


def asked(name: str, worker: subprocess.Popen[str]) -> tuple[float, ...]:
    """Have a pipeline do a pass; return frames, CPU seconds of pictures, and of sound."""
    assert worker.stdin is not None
    assert worker.stdout is not None
    worker.stdin.write("pass\n")
    worker.stdin.flush()
    for line in worker.stdout:
        if line.startswith("pass "):
            return tuple(map(float, line.split()[1:]))
    sys.exit(f"{name} has ended: run it by itself with --serve {name} to see why")


if __name__ == "__main__":
    main()
