"""The result of `crop_clip` and `mfcc_clip` for odd files is a sample, or one line that gives the reason."""

from __future__ import annotations

import hashlib
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import av
import made_media as made
import numpy as np
import pytest
from made_faces import Anywhere, clip_of
from numpy.typing import NDArray

from avprep import stages
from avprep.demo import synthetic
from avprep.errors import Reject
from avprep.faces import detectors
from avprep.media.audio import read_sound
from avprep.media.video import Frames
from avprep.shards import Sample

TIMES = made.steady(25, 1.0)
TONE = made.clicks([0.25, 0.75], 1.2, 44_100)


def crop(video: Path, detector: Any = None, **span: float) -> Sample:
    """Run the crop stage, members and all."""
    settings = stages.CropSettings(min_face=1.0)
    sample = stages.crop_clip(clip_of(video, **span), video.parent, settings, detector or Anywhere())
    members = list(sample.members)
    assert sum(name.endswith(".jpg") for name, _ in members) == sample.n_frames
    return Sample(members, sample.n_frames, sample.summary)


def mfcc(video: Path, audio: Path | None = None, **span: float) -> Sample:
    """Run the mfcc stage."""
    return stages.mfcc_clip(clip_of(video, audio, **span), video.parent, stages.MfccSettings())


def ending(stage: Callable[[], Sample], path: Path) -> str:
    """Return `ok` or the reason of the Reject, whose message must be one line that names the file."""
    try:
        stage()
    except Reject as reject:
        reason, message = reject.reason, reject.message
    else:
        return "ok"
    assert path.name in message
    assert "\n" not in message
    assert len(message.partition(path.name)[2]) > 5
    return reason


def state(folder: Path) -> dict[str, tuple[int, str]]:
    """Return time and digest of every file of a folder."""
    return {
        os.fsencode(path).hex(): (path.stat().st_mtime_ns, hashlib.sha256(path.read_bytes()).hexdigest())
        for path in folder.iterdir()
        if path.is_file()
    }


# ---------------------------------------------------------------- makers
def good(path: Path) -> None:
    """A plain second of video and audio."""
    made.numbered(path, TIMES, TONE, rate=44_100, container="mp4", video={"g": "10"})


def cut_to(share: float, *, index_first: bool = False, container: str = "mp4") -> Callable[[Path], None]:
    """Return a maker of a truncated file."""

    def make(path: Path) -> None:
        whole = path.with_suffix(".whole")
        made.numbered(whole, TIMES, TONE, rate=44_100, container=container, video={"g": "10"})
        if index_first:
            made.ffmpeg("-i", whole, "-c", "copy", "-movflags", "+faststart", "-f", "mp4", path)
            whole.unlink()
            whole = path
        data = whole.read_bytes()
        path.write_bytes(data[: int(len(data) * share)])
        if whole != path:
            whole.unlink()

    return make


def holding(data: bytes) -> Callable[[Path], None]:
    """Return a maker of a file with these bytes."""
    return lambda path: path.write_bytes(data) and None


def encoded(*arguments: str, source: str = "testsrc2=size=96x80:rate=25:duration=1") -> Callable[[Path], None]:
    """Return a maker that lets ffmpeg encode a test video and a tone."""

    def make(path: Path) -> None:
        tone = "sine=frequency=440:sample_rate=44100:duration=1"
        made.ffmpeg("-f", "lavfi", "-i", source, "-f", "lavfi", "-i", tone, *arguments, path)

    return make


def joined(*parts: tuple[int, int, int]) -> Callable[[Path], None]:
    """Return a maker of concatenated transport streams: (width, height, sample rate) of each."""

    def make(path: Path) -> None:
        data = b""
        for n, (width, height, rate) in enumerate(parts):
            part = path.with_name(f"part{n}.ts")
            source = f"testsrc2=size={width}x{height}:rate=25:duration=1"
            offset = ("-output_ts_offset", str(n))
            encoded("-ar", str(rate), "-preset", "ultrafast", *offset, source=source)(part)
            data += part.read_bytes()
            part.unlink()
        path.write_bytes(data)

    return make


def with_cover(path: Path) -> None:
    """Audio with cover art."""
    cover = path.with_suffix(".png")
    made.ffmpeg("-f", "lavfi", "-i", "testsrc2=size=64x64:duration=0.04", "-frames:v", "1", cover)
    sound = ("-f", "lavfi", "-i", "sine=duration=1")
    made.ffmpeg(*sound, "-i", cover, "-map", "0", "-map", "1", "-c:v", "copy", "-disposition:v:0", "attached_pic", path)
    cover.unlink()


HUGE = ("-vf", "scale=12000:12000:flags=neighbor", "-c:v", "png", "-pix_fmt", "monob")


def huge_inside(path: Path) -> None:
    """A header that gives 96×80 before frames of 12000×12000."""
    encoded("-frames:v", "1", *HUGE)(path)
    data = bytearray(path.read_bytes())
    size = (
        data.index(b"png ", data.index(b"stsd") + 4) + 28
    )  # of the sample description: width and height, 2 bytes each
    assert data[size : size + 4] == b"\x2e\xe0\x2e\xe0"
    data[size : size + 4] = b"\x00\x60\x00\x50"
    path.write_bytes(data)


class Case(NamedTuple):
    """A file and how crop and mfcc may end for it."""

    name: str
    make: Callable[[Path], Any]
    crop: str
    mfcc: str


X264 = ("-preset", "ultrafast", "-shortest")
LOSSLESS = ("-c:v", "ffv1", "-c:a", "pcm_s16le")
PLAYLIST = b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n%s\n#EXT-X-ENDLIST\n"
SDP = (
    b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\na=rtpmap:96 H264/90000\n"
)
DASH = b'<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011"><BaseURL>canary.mp4</BaseURL></MPD>'

CASES = [
    Case("good.mp4", good, "ok", "ok"),
    Case("zero.mp4", holding(b""), "unreadable", "unreadable"),
    Case("text.mp4", holding(b"This is a page of text.\n" * 200), "unreadable", "unreadable"),
    Case("noise.mp4", holding(np.random.default_rng(0).bytes(60_000)), "unreadable", "unreadable"),
    Case("directory.mp4", Path.mkdir, "unreadable", "unreadable"),
    Case("missing.mp4", lambda path: None, "missing", "missing"),
    Case("broken_link.mp4", lambda path: path.symlink_to("nowhere.mp4"), "missing", "missing"),
    Case("no_index.mp4", cut_to(0.6), "unreadable", "unreadable"),
    Case("truncated.mp4", cut_to(0.6, index_first=True), "ok", "ok"),
    Case("truncated.mkv", cut_to(0.6, container="matroska"), "ok", "ok"),
    Case("playlist.mp4", holding(PLAYLIST % b"canary.mp4"), "unreadable", "unreadable"),
    Case("web_playlist.mp4", holding(PLAYLIST % b"http://127.0.0.1:9/x.ts"), "unreadable", "unreadable"),
    Case("script.mp4", holding(b"ffconcat version 1.0\nfile canary.mp4\n"), "unreadable", "unreadable"),
    Case("session.mp4", holding(SDP), "unreadable", "unreadable"),
    Case("dash.mp4", holding(DASH), "unreadable", "unreadable"),
    Case("audio_only.mp4", encoded("-map", "1", "-c:a", "aac"), "no_video", "no_video"),
    Case("huge_claim.mov", encoded("-frames:v", "1", *HUGE), "unreadable", "too_short"),
    Case("huge_inside.mov", huge_inside, "unreadable", "too_short"),
    Case("picture_only.mp4", encoded("-map", "0", *X264), "ok", "no_audio"),
    Case("cover.m4a", with_cover, "no_video", "no_video"),
    Case("half_second.mp4", encoded("-t", "0.5", *X264), "ok", "ok"),
    Case("four_frames.mp4", encoded("-t", "0.16", *X264), "too_short", "too_short"),
    Case("one_picture.mp4", encoded("-frames:v", "1", "-t", "0.04", *X264), "too_short", "too_short"),
    Case("odd_size.mkv", encoded(*LOSSLESS, "-shortest", source="testsrc2=size=255x191:duration=1"), "ok", "ok"),
    Case("ten_bit.mkv", encoded("-pix_fmt", "yuv420p10le", *X264), "ok", "ok"),
    Case("yuv444.mp4", encoded("-pix_fmt", "yuv444p", *X264), "ok", "ok"),
    Case("yuv410.mkv", encoded("-pix_fmt", "yuv410p", *LOSSLESS), "ok", "ok"),
    Case("grey.mkv", encoded("-pix_fmt", "gray", *LOSSLESS), "ok", "ok"),
    Case("grey16.mkv", encoded("-pix_fmt", "gray16le", *LOSSLESS), "ok", "ok"),
    Case("rgb.mkv", encoded("-pix_fmt", "bgr0", *LOSSLESS), "ok", "ok"),
    Case("rgb48.mkv", encoded("-pix_fmt", "gbrp12le", *LOSSLESS), "ok", "ok"),
    Case("png.mov", encoded("-c:v", "png", "-pix_fmt", "rgb24"), "ok", "ok"),
    Case("palette.mov", encoded("-c:v", "png", "-pix_fmt", "pal8"), "ok", "ok"),
    Case("alpha.mov", encoded("-c:v", "png", "-pix_fmt", "rgba"), "ok", "ok"),
    Case("bilevel.mov", encoded("-c:v", "png", "-pix_fmt", "monob"), "ok", "ok"),
    Case("hz8000.mp4", encoded("-ar", "8000", *X264), "ok", "ok"),
    Case("hz96000.mp4", encoded("-ar", "96000", *X264), "ok", "ok"),
    Case("pcm_u8.mkv", encoded("-c:a", "pcm_u8", *X264), "ok", "ok"),
    Case("pcm_s24.mkv", encoded("-c:a", "pcm_s24le", *X264), "ok", "ok"),
    Case("pcm_f32.mkv", encoded("-c:a", "pcm_f32le", *X264), "ok", "ok"),
    Case("surround.mkv", encoded("-ac", "6", "-c:a", "aac", *X264), "ok", "ok"),
    Case("mp3_in_mp4.mp4", encoded("-c:a", "libmp3lame", *X264), "ok", "ok"),
    Case("size_changes.ts", joined((96, 80, 44_100), (128, 96, 44_100)), "unreadable", "unreadable"),
    Case("rate_changes.ts", joined((96, 80, 44_100), (96, 80, 48_000)), "ok", "unreadable"),
    Case("with space.mp4", good, "ok", "ok"),
    Case("two  spaces.mp4", good, "ok", "ok"),
    Case("100%03d.mp4", good, "ok", "ok"),
    Case("http:x.mp4", good, "ok", "ok"),
    Case("concat:a|b.mp4", good, "ok", "ok"),
    Case("-i.mp4", good, "ok", "ok"),
    Case("quo'te\".mp4", good, "ok", "ok"),
    Case("naïve ☃.mp4", good, "ok", "ok"),
    Case(os.fsdecode(b"latin-\xe9.mp4"), good, "ok", "ok"),
    Case(os.fsdecode(b"latin-\xe9-text.mp4"), holding(b"text"), "unreadable", "unreadable"),
]


@pytest.fixture(scope="module", params=CASES, ids=lambda case: case.name.encode("ascii", "replace").decode())
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Case, Path]:
    """One odd file in a folder of its own, next to a good file that must not be read."""
    odd: Case = request.param
    path = tmp_path_factory.mktemp("odd") / odd.name
    odd.make(path)
    return odd, path


def test_crop_ends_in_a_sample_or_a_reason(case: tuple[Case, Path]) -> None:
    """Cropping any file gives a sample or one line that names the file, and does not change the file."""
    odd, path = case
    before = state(path.parent)
    assert ending(lambda: crop(path), path) == odd.crop
    assert state(path.parent) == before


def test_mfcc_ends_in_a_sample_or_a_reason(case: tuple[Case, Path]) -> None:
    """Reading the audio of any file gives a sample or one line that names the file, and does not change the file."""
    odd, path = case
    before = state(path.parent)
    assert ending(lambda: mfcc(path), path) == odd.mfcc
    assert state(path.parent) == before


@pytest.mark.parametrize("script", [PLAYLIST, b"ffconcat version 1.0\nfile %s\n"], ids=["hls", "concat"])
def test_a_script_opens_no_second_file(script: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A playlist with a video's name is refused, and the file that it names is not opened."""
    monkeypatch.chdir(tmp_path)  # so that a relative name would be found in both cases
    canary, clip = tmp_path / "canary.mp4", tmp_path / "clip.mp4"
    good(canary)
    os.utime(canary, (0, 0))
    clip.write_bytes(script % b"canary.mp4")
    for stage in (crop, mfcc):
        assert ending(lambda stage=stage: stage(clip), clip) == "unreadable"
    assert canary.stat().st_atime == 0
    canary.read_bytes()
    if canary.stat().st_atime == 0:
        pytest.skip("this file system keeps no access times")


def test_a_playlist_opens_no_connection(tmp_path: Path) -> None:
    """A playlist of web addresses with a video's name is refused without a connection."""
    clip = tmp_path / "clip.mp4"
    with socket.create_server(("127.0.0.1", 0)) as server:
        clip.write_bytes(PLAYLIST % b"http://127.0.0.1:%d/x.ts" % server.getsockname()[1])
        for stage in (crop, mfcc):
            assert ending(lambda stage=stage: stage(clip), clip) == "unreadable"
        server.setblocking(False)
        with pytest.raises(BlockingIOError):
            server.accept()


@pytest.mark.parametrize(("degrees", "size"), [(0, (64, 48)), (90, (48, 64)), (180, (64, 48)), (270, (48, 64))])
def test_a_turned_picture_comes_out_upright(degrees: int, size: tuple[int, int], tmp_path: Path) -> None:
    """A frame rotated by a display matrix is upright at full size, at small size and in its dimensions."""
    stored = np.rot90(np.kron([[230, 30], [30, 30]], np.ones((48, 48))), 0).astype(np.uint8)[:48, :64]
    upright = np.full((size[1], size[0]), 30, np.uint8)
    upright[: size[1] // 2, : size[0] // 2] = 230  # bright in the upper left
    stored = np.rot90(upright, degrees // 90).copy()  # players turn it clockwise by `degrees`
    plain = made.write(tmp_path / "plain.mp4", TIMES, [stored] * 25)
    clip = tmp_path / "turned.mp4"
    made.ffmpeg("-display_rotation", -degrees, "-i", plain, "-c", "copy", clip)
    picture = next(iter(Frames(clip)))
    assert picture.size == size
    for image in (picture.rgb(), picture.small(32)):
        height, width = image.shape[:2]
        assert (width > height) == (size[0] > size[1])
        quarters = image.reshape(2, height // 2, 2, width // 2, 3).mean(axis=(1, 3, 4))
        assert quarters[0, 0] > 200
        assert max(quarters[0, 1], quarters[1, 0], quarters[1, 1]) < 60


@pytest.mark.parametrize("name", ["fields.mpg", "fields.avi", "fields.mp4"])
def test_interlaced_pictures_are_made_whole(name: str, tmp_path: Path) -> None:
    """25 interlaced pictures give 25 frames, each without combing."""
    clip = tmp_path / name
    moving = "color=black:size=128x96:rate=50:duration=1[b];color=white:size=24x96:rate=50:duration=1[w]"
    moving = f"{moving};[b][w]overlay=x='mod(4*n,100)':eval=frame,interlace=lowpass=off,setfield=tff"
    codec = ("-c:v", "libx264", "-x264-params", "interlaced=1:tff=1") if name.endswith("mp4") else ()
    codec = codec or ("-c:v", "mpeg2video", "-flags", "+ildct+ilme", "-qscale:v", "2")
    made.ffmpeg("-f", "lavfi", "-i", moving, *codec, clip)
    frames = Frames(clip)
    combs = [_comb(picture.rgb()) for picture in frames]
    assert len(combs) == frames.n_frames == 25
    assert frames.interlaced
    assert np.median(combs) < 2
    with av.open(str(clip)) as container:  # as stored, lines alternate
        stored = [_comb(frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]
    assert np.median(stored) > 5


def test_progressive_pictures_after_interlaced_ones(tmp_path: Path) -> None:
    """In a recording of both kinds, pictures that are stored whole are shown as they are."""
    for n, flags in enumerate(("+ildct+ilme", "0")):
        codec = ("-c:v", "mpeg2video", "-flags", flags, "-qscale:v", "2", "-output_ts_offset", 1.04 * n)
        made.ffmpeg("-f", "lavfi", "-i", "testsrc2=size=96x80:rate=25:duration=1", *codec, tmp_path / f"{n}.ts")
    (tmp_path / "both.ts").write_bytes((tmp_path / "0.ts").read_bytes() + (tmp_path / "1.ts").read_bytes())
    frames, plain = Frames(tmp_path / "both.ts"), list(Frames(tmp_path / "1.ts"))
    both = list(frames)
    assert frames.interlaced
    assert (len(both), len(plain)) == (50, 25)
    for picture, alone in zip(both[30:], plain[5:], strict=True):
        assert np.array_equal(picture.rgb(), alone.rgb())


def _comb(image: NDArray[np.uint8]) -> float:
    """Return how much each line differs from the mean of its neighbours."""
    grey = image.mean(axis=2)
    return float(np.abs(grey[1:-1] - (grey[:-2] + grey[2:]) / 2).mean())


CODECS = {
    **dict.fromkeys(["pcm_u8", "pcm_s16le", "pcm_s24le", "pcm_s32le", "pcm_f32le", "pcm_f64le", "flac"], "mkv"),
    **dict.fromkeys(["pcm_s16be", "pcm_mulaw", "alac"], "mov"),
    "aac": "mp4",
}


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("channels", [1, 2, 6])
def test_one_channel_is_read_at_its_level(codec: str, channels: int, tmp_path: Path) -> None:
    """The first channel of mono and stereo audio is read at its level in any sample format; of surround, the centre.

    PCM in Matroska does not say which of six channels is the centre: there the first one is read.
    """
    sound = 12_000 * np.sin(2 * np.pi * 440 * np.arange(16_000) / 16_000)
    every = [sound] + [
        8000 * np.sign(np.sin(2 * np.pi * (700 + 100 * n) * np.arange(16_000) / 16_000)) for n in range(5)
    ]
    surround = channels == 6 and not (codec.startswith("pcm") and CODECS[codec] == "mkv")
    if surround:
        every.insert(2, every.pop(0))
    data = np.stack(every[:channels], axis=1).astype("<i2")
    (tmp_path / "sound.raw").write_bytes(data.tobytes())
    clip = tmp_path / f"clip.{CODECS[codec]}"
    raw = ("-f", "s16le", "-ar", 16_000, "-ac", channels, "-i", tmp_path / "sound.raw")
    made.ffmpeg("-f", "lavfi", "-i", "testsrc2=size=64x48:rate=25:duration=1", *raw, "-c:a", codec, clip)
    heard = read_sound(clip)
    assert (heard.rate, heard.channels, heard.channel) == (16_000, channels, 2 if surround else 0)
    middle = slice(2000, 14_000)
    allowed = {"pcm_u8": 300, "pcm_mulaw": 600, "aac": 1500}.get(codec, 1)
    assert np.abs(heard.samples[middle] - sound[middle]).max() <= allowed


def test_silence_of_eight_bits_is_silence(tmp_path: Path) -> None:
    """The midpoint of unsigned samples becomes exactly zero, so that silence is recognised."""
    (tmp_path / "sound.raw").write_bytes(bytes([128]) * 16_000)
    picture = ("-f", "lavfi", "-i", "testsrc2=size=64x48:rate=25:duration=1")
    sound = ("-f", "u8", "-ar", 16_000, "-ac", 1, "-i", tmp_path / "sound.raw")
    made.ffmpeg(*picture, *sound, "-c:a", "copy", tmp_path / "clip.mkv")
    assert not read_sound(tmp_path / "clip.mkv").samples.any()


def test_float_sound_beyond_all_measure(tmp_path: Path) -> None:
    """Float samples that are too loud, infinite or NaN become valid samples without a warning."""
    raw = np.zeros(16_000, "<f4")
    raw[4000:4004] = [2.5, -np.inf, np.nan, 0.5]
    (tmp_path / "sound.raw").write_bytes(raw.tobytes())
    picture = ("-f", "lavfi", "-i", "testsrc2=size=64x48:rate=25:duration=1")
    sound = ("-f", "f32le", "-ar", 16_000, "-ac", 1, "-i", tmp_path / "sound.raw")
    made.ffmpeg(*picture, *sound, "-c:a", "copy", tmp_path / "clip.mkv")
    assert read_sound(tmp_path / "clip.mkv").samples[4000:4004].tolist() == [32767, -32768, 0, 16384]


def test_ten_minutes(tmp_path: Path) -> None:
    """A clip of ten minutes is read to its end."""
    clip = tmp_path / "long.mp4"
    source = "color=gray:size=64x48:rate=25:duration=600"
    encoded("-preset", "ultrafast", "-t", "600", "-c:a", "aac", source=source)(clip)
    assert mfcc(clip).n_frames == 15_000
    frames = Frames(clip, keep_bytes=0)
    assert sum(1 for _ in frames) == frames.n_frames == 15_000


def test_too_long(tmp_path: Path) -> None:
    """A clip longer than the maximum is refused by both stages, whether or not the file gives its length."""
    said, unsaid = tmp_path / "said.mp4", tmp_path / "unsaid.h264"
    made.numbered(said, made.steady(25, 4), made.clicks([1], 4, 16_000))
    made.ffmpeg("-i", said, "-an", "-c", "copy", unsaid)
    for path in (said, unsaid):
        with pytest.raises(Reject, match=f"{path.name}.*longer than 2 s"):
            list(Frames(path, max_seconds=2.0))
    with pytest.raises(Reject, match="longer than 2 s") as reject:
        read_sound(said, max_seconds=2.0)
    assert reject.value.reason == "too_long"
    assert read_sound(said, duration=1.16, max_seconds=2.0).n_frames == 29


def test_a_huge_picture(tmp_path: Path) -> None:
    """Frames of 7680×4320 are cropped."""
    clip = tmp_path / "huge.mp4"
    made.ffmpeg("-f", "lavfi", "-i", "color=gray:size=7680x4320:rate=25:duration=0.2", "-preset", "ultrafast", clip)
    assert crop(clip).n_frames == 5


def test_a_real_face(tmp_path: Path) -> None:
    """The built-in detector finds a talking face, also one that a display matrix rotates, and none where none is."""
    frames, samples = synthetic.utterance(next(iter(synthetic.WORDS)), synthetic.speaker(0, 0), 0)
    face, turned, blank = (tmp_path / name for name in ("face.mp4", "turned.mp4", "blank.mp4"))
    synthetic.write_clip(face, frames, samples)
    synthetic.write_clip(tmp_path / "lying.mp4", np.rot90(frames, 1, axes=(1, 2)), samples)
    made.ffmpeg("-display_rotation", -90, "-i", tmp_path / "lying.mp4", "-c", "copy", turned)
    synthetic.write_clip(blank, np.full((29, 96, 128, 3), 90, np.uint8), samples)
    opencv = detectors.build("opencv")
    assert crop(face, opencv).n_frames == mfcc(face).n_frames == 29
    assert crop(turned, opencv).n_frames == 29
    assert ending(lambda: crop(blank, opencv), blank) == "no_face"
    assert ending(lambda: mfcc(blank), blank) == "ok"


# Not ru_maxrss: a child of a large process starts with that one's peak.
MEASURE = """
import re, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from avprep import stages
from avprep.faces import detectors
from made_faces import Anywhere, clip_of
detectors.build = lambda name: Anywhere()
video = Path(sys.argv[1])
sample = stages.CropStage(video.parent, stages.CropSettings())()(clip_of(video))
peak = re.search("VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())
print(sum(name.endswith(".jpg") for name, _ in sample.members), peak[1])
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
def test_two_minutes_of_full_hd_take_bounded_memory(tmp_path: Path) -> None:
    """Cropping two minutes of 1920×1080 takes less than 1.5 GiB."""
    clip = tmp_path / "long.mp4"
    source = "testsrc=size=1920x1080:rate=25:duration=1,loop=loop=-1:size=1,trim=duration=120"
    made.ffmpeg("-f", "lavfi", "-i", source, "-preset", "ultrafast", "-g", "3000", clip)
    command = [sys.executable, "-c", MEASURE, str(clip), str(Path(__file__).parents[1])]
    frames, kilobytes = map(int, subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())
    assert frames == 3000
    assert kilobytes < 1.5 * 2**20
