"""Opening and probing files, and counting their frames."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import made_media as made
import numpy as np
import pytest

from avprep.errors import Reject
from avprep.media import audio
from avprep.media.audio import read_sound
from avprep.media.container import duration, open_file
from avprep.media.timeline import KEPT
from avprep.media.video import Frames

TIMES = made.steady(25, 3)
GOP = {"g": "12", "bf": "2"}


def h264(path: Path, **options: str) -> Path:
    """Three seconds of H.264 with B-frames, and AAC."""
    return made.numbered(path, TIMES, made.noise(3.2, 44_100), rate=44_100, video={**GOP, **options})


def copied(*options: str, source: Callable[[Path], Path] = h264) -> Callable[[Path], Path]:
    """Return a maker that copies or converts a generated file with ffmpeg."""

    def make(path: Path) -> Path:
        whole = source(path.with_name("source" + (".ts" if source is mpeg2_ts else ".mp4")))
        before, after = (options[:2], options[2:]) if options[:1] == ("-ss",) else ((), options)
        made.ffmpeg(*before, "-i", whole, *after, path)
        return path

    return make


def open_gop(path: Path) -> Path:
    """H.264 whose B-frames refer to the next GOP."""
    return h264(path, **{"x264-params": "open-gop=1:scenecut=0"})


def without_gop(path: Path) -> Path:
    """H.264 in which every key frame but the first is whole only after some of the frames behind it."""
    return h264(path, **{"bf": "0", "x264-params": "intra-refresh=1"})


def mpeg(vcodec: str) -> Callable[[Path], Path]:
    """Return a maker of MPEG-1 or 2 with open GOPs, and MP2."""

    def make(path: Path) -> Path:
        # As many slices as threads; otherwise the bytes would depend on the number of cores.
        options = {"vcodec": vcodec, "acodec": "mp2", "video": {**GOP, "threads": "2"}}
        container = {".ts": None, ".mpg": "vob" if vcodec == "mpeg2video" else None}[path.suffix]
        return made.numbered(path, TIMES, made.noise(3, 44_100), rate=44_100, fps=25, container=container, **options)

    return make


mpeg1, mpeg2, mpeg2_ts = mpeg("mpeg1video"), mpeg("mpeg2video"), mpeg("mpeg2video")


def torn(make: Callable[[Path], Path], first: float, last: float) -> Callable[[Path], Path]:
    """Return a maker of a file of which only a fraction is there."""

    def tear(path: Path) -> Path:
        data = make(path).read_bytes()
        path.write_bytes(data[int(len(data) * first) : int(len(data) * last)])
        return path

    return tear


def avi(vcodec: str, b_frames: int) -> Callable[[Path], Path]:
    """Return a maker of AVI, which has no presentation times."""
    video = {"g": "12", "bf": str(b_frames)}
    options = {"fps": 25, "vcodec": vcodec, "acodec": "pcm_s16le", "video": video}
    return lambda path: made.numbered(path, TIMES, made.noise(3, 16_000), **options)


def fast(fps: Fraction | int, length: float) -> Callable[[Path], Path]:
    """Return a maker of another frame rate."""
    return lambda path: made.numbered(path, made.steady(fps, length), made.noise(length, 16_000))


INDEX_FIRST = copied("-c", "copy", "-movflags", "+faststart")
MADE: dict[str, tuple[Callable[[Path], Path], list[int]]] = {
    "b_frames.mp4": (h264, list(range(75))),
    "open_gop.mp4": (open_gop, list(range(75))),
    "open_gop.mkv": (copied("-ss", "0.9", "-c", "copy", source=open_gop), list(range(24, 75))),
    "cut.mp4": (copied("-ss", "0.9", "-c", "copy"), list(range(23, 75))),
    "cut.mkv": (copied("-ss", "0.9", "-c", "copy"), list(range(12, 75))),
    "cut.ts": (copied("-ss", "0.9", "-c", "copy"), list(range(12, 75))),
    "cut_twice.mp4": (copied("-ss", "0.9", "-t", "1", "-c", "copy"), []),
    "hevc.mp4": (copied("-c:v", "libx265", "-x265-params", "log-level=error"), list(range(75))),
    "vp8.webm": (
        copied("-c:v", "libvpx", "-auto-alt-ref", "1", "-b:v", "1M", "-deadline", "realtime"),
        list(range(75)),
    ),
    "vp9.webm": (copied("-c:v", "libvpx-vp9", "-b:v", "1M", "-deadline", "realtime"), list(range(75))),
    "mpeg1.mpg": (mpeg1, list(range(75))),
    "mpeg2.mpg": (mpeg2, list(range(75))),
    "mpeg2.ts": (mpeg2_ts, list(range(75))),
    "open_gop_cut.ts": (copied("-ss", "0.9", "-c", "copy", source=mpeg2_ts), list(range(24, 75))),
    "plain.avi": (avi("mpeg4", 0), list(range(75))),
    "b_frames.avi": (avi("mpeg4", 2), list(range(75))),
    "h264.avi": (avi("libx264", 3), list(range(75))),
    "torn.mp4": (torn(INDEX_FIRST, 0, 0.6), []),
    "torn.mkv": (torn(h264, 0, 0.6), []),
    "torn.mpg": (torn(mpeg1, 0, 0.7), []),
    "torn.ts": (torn(mpeg2_ts, 0, 0.7), []),
    "headless.mpg": (torn(mpeg1, 0.3, 1), []),
    "headless.ts": (torn(mpeg2_ts, 0.3, 1), []),
    "one.mp4": (fast(25, 0.04), [0]),
    "two.mp4": (fast(25, 0.08), [0, 1]),
    "one_a_second.mp4": (fast(1, 3), []),
    "fps29.97.mp4": (fast(made.NTSC, 2.002), []),
    "fps60.mp4": (fast(60, 2.97), []),
    "fps120.mp4": (fast(120, 2.99), []),
    "fps240.mp4": (fast(240, 2.97), []),
    "fps1000.mp4": (fast(1000, 1.01), []),
}


@pytest.fixture(scope="module", params=MADE)
def file(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[int]]:
    """A generated file and the frames that it shows, if known."""
    make, shown = MADE[request.param]
    return make(tmp_path_factory.mktemp("media") / request.param), shown


@pytest.mark.parametrize("span", [{}, {"duration": 1.16}, {"start": 0.333, "duration": 1.16}, {"start": 0.5}])
def test_counting_packets_gives_the_frames_that_are_decoded(
    file: tuple[Path, list[int]], span: dict[str, float]
) -> None:
    """The mfcc stage, which counts packets, and the crop stage, which decodes, agree on the number of frames."""
    path, _ = file
    frames = Frames(path, keep_bytes=0, **span)
    decoded = _count_or_reason(lambda: sum(1 for _ in frames))
    silence = _silent(path) if path.stem.startswith(("one", "two", "headless")) else None
    assert _count_or_reason(lambda: read_sound(path, silence, **span).n_frames) == decoded
    assert decoded in (frames.n_frames, "too_short")


def _count_or_reason(count: Callable[[], int]) -> int | str:
    try:
        return count()
    except Reject as reject:
        return reject.reason


def _silent(beside: Path) -> Path:
    return made.write_wav(beside.with_suffix(".wav"), np.zeros(64_000, np.int16), 16_000)


def test_frames_show_the_right_pictures(file: tuple[Path, list[int]]) -> None:
    """Every frame that a player would show is returned, in order."""
    path, shown = file
    numbers = [made.number_of(picture.rgb()) for picture in Frames(path)]
    assert numbers == (shown or sorted(numbers))


@pytest.mark.slow
def test_real_clips_agree_too(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On real clips, damaged ones among them, counting packets gives the number of decoded frames."""
    clips = shared / "clips"
    paths = [*clips.glob("grid/*/*.mpg"), *clips.glob("hard/*.mp4"), *clips.glob("voxceleb2/dev/mp4/*/*/*.mp4")]
    paths += sorted(clips.glob("grid_s1/*/*.mp4"))[::60]
    assert len(paths) > 40
    for path in sorted(paths):
        frames = Frames(path, keep_bytes=0)
        decoded = sum(1 for _ in frames)
        assert decoded == frames.n_frames
        if "voxceleb2" in path.parts:
            apart = Path(str(path).replace("/mp4/", "/aac/")).with_suffix(".m4a")
            assert read_sound(path, apart).n_frames == decoded, path
        elif path.name == "no_audio_9fps.mp4":
            with pytest.raises(Reject, match="no sound"):
                read_sound(path)
        else:
            assert read_sound(path).n_frames == decoded, path


def test_the_video_is_not_decoded_for_the_sound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading the audio of an intact file decodes no frame."""
    monkeypatch.setattr(audio, "Frames", None)
    for path in (h264(tmp_path / "a.mp4"), mpeg1(tmp_path / "a.mpg"), avi("mpeg4", 2)(tmp_path / "a.avi")):
        assert read_sound(path).n_frames == 75


@pytest.mark.parametrize(
    "make", [INDEX_FIRST, mpeg1, mpeg2_ts, h264], ids=["torn.mp4", "torn.mpg", "torn.ts", "torn.mkv"]
)
def test_wherever_a_file_breaks_off(
    make: Callable[[Path], Path], request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Counting packets gives the number of decoded frames even if the last frame is truncated."""
    path = tmp_path / request.node.callspec.id
    data = make(path).read_bytes()
    for cut in range(len(data) * 45 // 100, len(data) * 45 // 100 + 1480, 37):
        path.write_bytes(data[:cut])
        frames = Frames(path, keep_bytes=0)
        assert sum(1 for _ in frames) == read_sound(path).n_frames


@pytest.mark.parametrize("holes", [{31, 32, 33, 34, 35, 50}, {1}, {2, 3}, {60}])
@pytest.mark.parametrize(("vcodec", "b_frames"), [("mpeg4", 0), ("mpeg4", 2), ("libx264", 3)])
def test_holes_in_avi(vcodec: str, b_frames: int, holes: set[int], tmp_path: Path) -> None:
    """If an AVI leaves frames out, the previous frame is held, and later ones keep their times."""
    times = [time for n, time in enumerate(TIMES) if n not in holes]
    options = {"fps": 25, "vcodec": vcodec, "acodec": "pcm_s16le", "video": {"bf": str(b_frames)}}
    clip = made.numbered(tmp_path / "holes.avi", times, made.noise(3, 16_000), **options)
    frames = Frames(clip)
    shown = [made.number_of(picture.rgb()) for picture in frames]
    assert shown == [min(range(len(times)), key=lambda i, t=t: (abs(times[i] - t), i)) for t in TIMES]
    assert read_sound(clip).n_frames == 75


@pytest.mark.parametrize(("default", "shown"), [((0,), 0), ((1,), 1), ((), 0)])
def test_the_default_video_track(default: tuple[int, ...], shown: int, tmp_path: Path) -> None:
    """Of several video tracks the default one is shown; without any, the first."""
    tracks = [made.write(tmp_path / f"{n}.mkv", TIMES[:5], [made.picture(n)] * 5) for n in range(2)]
    inputs = [word for track in tracks for word in ("-i", track)]
    marks = [word for n in range(2) for word in (f"-disposition:v:{n}", "default" if n in default else "0")]
    options = ("-map", "0", "-map", "1", "-c", "copy", *marks, "-default_mode", "passthrough")
    made.ffmpeg(*inputs, *options, tmp_path / "a.mkv")
    assert [made.number_of(picture.rgb()) for picture in Frames(tmp_path / "a.mkv")] == [shown] * 5


def test_raw_video_counts(tmp_path: Path) -> None:
    """Raw H.264 has no time stamps; its frames last as long as its frame rate says."""
    raw, wav = copied("-c", "copy")(tmp_path / "raw.h264"), _silent(tmp_path / "a")
    assert [made.number_of(picture.rgb()) for picture in Frames(raw)] == list(range(75))
    assert read_sound(raw, wav).n_frames == 75
    assert read_sound(raw, wav, start=1.0, duration=1.16).n_frames == 29


def test_iterating_again_gives_the_same(tmp_path: Path) -> None:
    """On the second reading frames are the same objects if they fit into `keep_bytes`; otherwise the same pixels."""
    path = h264(tmp_path / "a.mp4")
    kept, lost = Frames(path), Frames(path, keep_bytes=20 * 64 * 48)
    first, again = list(kept), list(kept)
    assert all(one is other for one, other in zip(first, again, strict=True))
    numbers = [made.number_of(picture.rgb()) for picture in lost]
    assert numbers == [made.number_of(picture.rgb()) for picture in lost] == list(range(75))
    assert lost.n_frames == lost.source_frames == 75


@pytest.mark.parametrize("keep", [0, 30_000, 10**9])
def test_kept_pictures_are_bounded(keep: int, tmp_path: Path) -> None:
    """Frames are kept for the next reading only if all of them fit into `keep_bytes`."""
    path = h264(tmp_path / "a.mp4")
    frames = Frames(path, keep_bytes=keep)
    size = 0
    for picture in frames:
        size += picture.nbytes
    held = sum(picture.nbytes for picture in frames._kept or ())
    assert held == (size if keep == 10**9 else 0)


def test_a_slow_source_shows_a_picture_again(tmp_path: Path) -> None:
    """At 10 fps an image is shown two or three times as the same object, and kept once."""
    path = made.numbered(tmp_path / "slow.mp4", made.steady(10, 2))
    pictures = list(Frames(path))
    assert len(pictures) == 50
    assert len({id(picture) for picture in pictures}) == 20
    assert [made.number_of(picture.rgb()) for picture in pictures[:8]] == [0, 0, 1, 1, 2, 2, 2, 3]


def test_duration(tmp_path: Path) -> None:
    """A file's header gives its duration."""
    assert duration(h264(tmp_path / "a.mp4")) == pytest.approx(3.2, abs=0.05)


def test_small_and_thumbnail(tmp_path: Path) -> None:
    """A frame's small form keeps its shape, and its thumbnail its brightness."""
    image = np.zeros((96, 256), np.uint8)
    image[:, 128:] = 200
    picture = next(iter(Frames(made.write(tmp_path / "a.mp4", TIMES[:2], [image] * 2))))
    small = picture.small(64)
    assert small.shape == (24, 64, 3)
    assert small[:, :30].max() < 10
    assert abs(int(small[:, 34:].min()) - 200) < 10
    assert picture.small(512).shape == (96, 256, 3)
    thumbnail = picture.thumbnail()
    assert thumbnail.dtype == np.uint8
    assert (
        int(thumbnail[:, : thumbnail.shape[1] // 2 - 1].max()) + 100 < thumbnail[:, thumbnail.shape[1] // 2 + 1 :].min()
    )


@pytest.mark.parametrize("name", ["a" * 300 + ".mp4", "nul\0.mp4"])
def test_impossible_names(name: str, tmp_path: Path) -> None:
    """A name that no file can have raises Reject, not another error."""
    with pytest.raises(Reject) as reject, open_file(tmp_path / name):
        pass
    assert reject.value.reason in ("missing", "unreadable")


@pytest.mark.parametrize(
    ("make", "name"),
    [(mpeg1, "a.mpg"), (mpeg2, "a.mpg"), (mpeg2_ts, "a.ts"), (h264, "a.mp4"), (without_gop, "a.ts")],
)
def test_a_clip_within_a_file_shows_the_same_pictures_as_the_whole_file(
    make: Callable[[Path], Path], name: str, tmp_path: Path
) -> None:
    """Data before a clip's first frame is skipped up to a key frame, without changing a pixel."""
    path = make(tmp_path / name)
    whole = [picture.rgb() for picture in Frames(path)]
    for start in (0.2, 1.0, 1.52, 2.0):
        clip = Frames(path, start=start, duration=0.6)
        for frame, picture in enumerate(clip):
            np.testing.assert_array_equal(picture.rgb(), whole[round(start * 25) + frame])
    assert clip.source_frames < 40 or make in (h264, without_gop)  # of the 67 to the clip's end


def test_interlaced_pictures_of_a_clip_are_those_of_the_whole_file(tmp_path: Path) -> None:
    """Wherever a clip starts within a GOP, its first pictures are deinterlaced with the pictures before them."""
    video = {**GOP, "flags": "+ildct+ilme", "threads": "2"}
    path = made.numbered(tmp_path / "a.mpg", TIMES, fps=25, vcodec="mpeg2video", container="vob", video=video)
    whole = [picture.rgb() for picture in Frames(path)]
    assert [made.number_of(image) for image in whole] == list(range(75))
    for first in range(22, 38):
        clip = Frames(path, start=first / 25, duration=0.12)
        np.testing.assert_array_equal([picture.rgb() for picture in clip], whole[first : first + 3])
        assert clip.interlaced


@pytest.mark.parametrize("span", [{}, {"duration": 0.4}, {"start": 2.0}])
def test_packets_too_large_to_keep(span: dict[str, float], tmp_path: Path) -> None:
    """A clip shows the same frames if its packets, here more than 8 MiB, are read from the file twice."""
    large = (np.kron(made.picture(n), np.ones((5, 5), np.uint8)) for n in range(75))
    path = made.write(tmp_path / "a.mkv", TIMES, large, fps=25, vcodec="rawvideo")
    assert path.stat().st_size > KEPT
    first, last = round(span.get("start", 0) * 25), 10 if "duration" in span else 75
    shown = [made.number_of(picture.rgb()[::5, ::5]) for picture in Frames(path, **span)]
    assert shown == list(range(first, last))
