"""Viewing one clip: it is found in its shard, drawn with the available parts, and played with its audio in sync."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import click
import cv2
import made_media as made
import made_shards
import numpy as np
import pytest
from avprep_cli import look
from avprep_cli.main import Commands
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from avprep import manifest
from avprep.errors import RunError, ShardError
from avprep.manifest import Clip, Manifest
from avprep.media import mfcc
from avprep.media.audio import read_sound
from avprep.media.video import Frames
from avprep.quality import clip_courses, clip_picture, clip_view
from avprep.runs.run import run
from avprep.shards import column as column_shards
from avprep.stages import CropSettings, CropStage, MfccSettings, MfccStage

HOSTILE = "a$_{x}^/<b>|?ß日%"
BROKEN = "ABOUT/train/ABOUT_00001"
WHOLE = "FAMILY/val/FAMILY_00001"
SPAN = (0.24, 0.6)  # start and duration of a clip within its file (s)
RED = (0xB3, 0x26, 0x1E)


def call(*arguments: object) -> Result:
    """Run the command in this process."""
    group = Commands("avprep", commands={command.name or "": command for command in look.COMMANDS})
    return CliRunner().invoke(group, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def run_of_all(lrw: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the corpus and of odd clips made from it, in shards of two; read-only."""
    folder = tmp_path_factory.mktemp("look")
    plan = manifest.read(lrw / "plan.jsonl")
    root = folder / "root"
    shutil.copytree(plan.root, root)
    video = root / "source.mp4"
    shutil.copy(root / f"{WHOLE}.mp4", video)
    made.ffmpeg("-i", video, "-c", "copy", root / "late.ts")  # whose clock starts at 1.4 s
    made.ffmpeg("-i", video, "-c:v", "copy", "-an", root / "silent.mp4")
    made.write_wav(root / "beside.wav", read_sound(video).samples, made.RATE)
    odd = (
        Clip(HOSTILE, "source.mp4", "train", word="$word", speaker="<s>"),
        Clip("span", "source.mp4", "train", start=SPAN[0], duration=SPAN[1]),
        Clip("late", "late.ts", "train", start=SPAN[0], duration=SPAN[1]),
        Clip("beside", "late.ts", "train", audio="beside.wav", start=SPAN[0], duration=SPAN[1]),
        Clip("silent", "silent.mp4", "train"),
    )
    plan = replace(plan, root=root, clips=plan.clips + odd)
    out = folder / "out"
    run(CropStage(root, CropSettings()), plan, out, jobs=1, shard_size=2)
    run(MfccStage(root, MfccSettings()), plan, out, jobs=1, shard_size=2)
    return out


@pytest.fixture(scope="module")
def whole_picture(run_of_all: Path) -> NDArray[np.uint8]:
    """The image of a complete clip; read-only."""
    return clip_picture.draw(clip_view.read(run_of_all, WHOLE))


def has(picture: NDArray[np.uint8], colour: tuple[int, int, int]) -> bool:
    """Return whether an image contains a colour."""
    return bool((picture == np.array(colour, np.uint8)).all(axis=2).any())


class TestFinding:
    """A clip is found by its key, in its own shard."""

    def test_only_the_clips_own_shard_is_read(self, run_of_all: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """One tar of each column is opened: the shard of the clip in the manifest."""
        opened = []
        whole = column_shards.read_sample
        monkeypatch.setattr(column_shards, "read_sample", lambda path, *rest: opened.append(path) or whole(path, *rest))
        for clip in manifest.read(run_of_all / "manifest.jsonl").clips:
            opened.clear()
            view = clip_view.read(run_of_all, clip.key)
            assert view.clip == clip
            states = {"crop": view.crop.state, "mfcc": view.mfcc.state}
            assert opened == [
                run_of_all / column / f"{view.shard}.tar" for column, state in states.items() if state == "ok"
            ]
        assert (view.shard, states) == ("train-000003", {"crop": "ok", "mfcc": "failed"})

    def test_an_unknown_key_names_the_nearest(self, run_of_all: Path) -> None:
        """A typing error, a part of a key and an unrelated key each end in one line."""
        with pytest.raises(RunError, match=f"no clip of this run has that key; nearest: {WHOLE}"):
            clip_view.read(run_of_all, "FAMILY/val/FAMLY_00001")
        with pytest.raises(RunError, match="nearest: beside"):
            clip_view.read(run_of_all, "besi")
        for key in ("", "zzz", "\n", "x" * 10**6, "\x00", "/", "."):
            with pytest.raises(RunError, match="no clip of this run") as error:
                clip_view.read(run_of_all, key)
            assert "\n" not in str(error.value)
            assert len(str(error.value)) < 1000

    def test_likes_are_looked_for_in_a_bounded_number(self) -> None:
        """Among a hundred thousand keys the nearest is found at once if its start or its end is right."""
        keys = [f"speaker{n % 100:03d}/clip_{n:06d}" for n in range(100_000)]
        assert "speaker012/clip_000012" in clip_view.similar("speaker012/clip_000013", keys)
        assert "speaker077/clip_000077" in clip_view.similar("spaeker077/clip_000077", keys)
        assert clip_view.similar("000077", keys) == ["speaker077/clip_000077"]
        assert len(clip_view.similar("speaker012", keys)) == 5

    def test_shards_are_counted_in_each_split(self) -> None:
        """Row n of a split is in shard n // shard_size, whatever the order of splits in the manifest."""
        clips = [Clip(f"c{n}", "v.mp4", ("test", "train", "val")[n % 3]) for n in range(12)]
        plan = Manifest("made", Path("/nowhere"), tuple(clips))
        for size in (1, 2, 3, 500):
            where = {clip.key: name for name, rows in plan.shards(size) for clip in rows}
            assert {clip.key: clip_view.find(plan, clip.key, size)[1] for clip in clips} == where

    def test_a_shard_that_lacks_the_clip_is_named(self, run_of_all: Path, tmp_path: Path) -> None:
        """A tar without the content that its sidecar lists is a one-line error."""
        out = tmp_path / "out"
        shutil.copytree(run_of_all, out)
        shutil.copy(out / "crop/test-000000.tar", out / "crop/val-000000.tar")
        with pytest.raises(ShardError, match=r"val-000000\.tar: .*FAMILY/val/FAMILY_00001"):
            clip_view.read(out, WHOLE)

    @given(st.text(max_size=300))
    def test_file_names_are_harmless(self, key: str) -> None:
        """The image of any key is a single file in the current folder, with a name that is short enough."""
        name = clip_view.file_name(key)
        assert 0 < len(name.encode()) <= 200
        assert not set(name) & set("/\\.\0\n:*?")


class TestPicture:
    """The available parts of a clip are drawn, and missing ones are named."""

    def test_a_whole_clip(self, run_of_all: Path, whole_picture: NDArray[np.uint8]) -> None:
        """Every crop is in the image; chosen frames have their colour; nothing is in the red of failures."""
        view = clip_view.read(run_of_all, WHOLE)
        assert (view.crop.state, view.mfcc.state, view.n_frames) == ("ok", "ok", 29)
        picture = whole_picture
        assert picture.dtype == np.uint8
        assert picture.shape[1:] == (1680, 3)
        assert not has(picture, RED)
        blue, orange, green = (tuple(bytes.fromhex(colour[1:])) for colour in clip_picture.COLOURS[:3])
        for colour in (blue, orange, green):
            assert has(picture, (colour[0], colour[1], colour[2]))
        assert np.array_equal(clip_picture.draw(clip_view.read(run_of_all, WHOLE)), picture)
        assert not np.array_equal(clip_picture.draw(view, [3]), picture)

    def test_crops_are_shown_as_they_are(self, run_of_all: Path, whole_picture: NDArray[np.uint8]) -> None:
        """The grid shows crops in their places, only resized, wherever nothing is drawn over them."""
        view, picture = clip_view.read(run_of_all, WHOLE), whole_picture
        grid = clip_picture._Grid.of(view)
        corners = []
        for index, crop in list(enumerate(clip_view.images(view)))[::3]:
            resized = cv2.resize(crop, (grid.cell,) * 2, interpolation=cv2.INTER_AREA)[124:-6, 6:-6]  # below the mouth
            column = index % grid.per_row
            column_of_crops = picture[:, column * grid.step :][:, : grid.step + resized.shape[1] - 1]
            least, _, (x, y), _ = cv2.minMaxLoc(cv2.matchTemplate(column_of_crops, resized, cv2.TM_SQDIFF))
            assert least / resized.size < 50  # squared grey levels
            corners.append((x, y))
        away = np.array(corners) - corners[0] + grid.step // 2  # a still face looks the same in each row
        assert np.ptp(away % grid.step, axis=0).max() <= 2

    @pytest.mark.parametrize("key", [BROKEN, "silent", HOSTILE, "beside"])
    def test_odd_clips_are_drawn(self, run_of_all: Path, key: str) -> None:
        """A clip that failed in one column or both, or has a hostile key, has an image; failures are in red."""
        view = clip_view.read(run_of_all, key)
        picture = clip_picture.draw(view)
        assert has(picture, RED) == (key in (BROKEN, "silent"))
        assert view.n_frames == {BROKEN: 0, "beside": 15}.get(key, 29)

    def test_without_the_source(self, run_of_all: Path, tmp_path: Path) -> None:
        """If the data set or the file is missing, the image says so and shows the rest."""
        for root in (tmp_path / "nowhere", tmp_path):
            view = clip_view.read(run_of_all, WHOLE, root)
            assert has(clip_picture.draw(view), RED)

    def test_a_column_that_was_never_begun(self, run_of_all: Path, tmp_path: Path) -> None:
        """A run without mfcc shows its crops; one whose shard is not finished shows neither."""
        shutil.copytree(run_of_all / "crop", tmp_path / "crop")
        shutil.copy(run_of_all / "manifest.jsonl", tmp_path)
        view = clip_view.read(tmp_path, WHOLE)
        assert (view.crop.state, view.mfcc.state) == ("ok", "missing")
        assert has(clip_picture.draw(view), RED)
        (tmp_path / "crop/val-000000.json").unlink()
        view = clip_view.read(tmp_path, WHOLE)
        assert (view.crop.state, view.n_frames) == ("missing", 0)
        clip_picture.draw(view)

    def test_frames_that_are_not_there(self, run_of_all: Path) -> None:
        """A frame beyond the clip, too many frames, and any frame of a clip without frames are refused in one line."""
        view = clip_view.read(run_of_all, WHOLE)
        for frames, message in (
            ([0, 29], "frame 29: .* has frames 0 to 28"),
            ([-1], "frame -1"),
            (range(13), "up to 12"),
        ):
            with pytest.raises(RunError, match=message):
                clip_picture.draw(view, list(frames))
        with pytest.raises(RunError, match="has no frames to show"):
            clip_picture.draw(clip_view.read(run_of_all, BROKEN), [0])

    def test_a_long_clip_stays_within_bounds(self, tmp_path: Path) -> None:
        """Of many frames, evenly spaced ones are shown; odd transforms and missing facts raise no error."""
        clips = [made_shards.Made("long", 0, "yes", "s1", n_frames=500)]
        made_shards.write(tmp_path, clips, picture=lambda frame: made_shards.plain(frame % 29))
        made_shards.write_runs(tmp_path, shard_size=4)
        picture = clip_picture.draw(clip_view.read(tmp_path, "long"))
        assert picture.shape[0] < 3000

    def test_windows_are_strung_together_again(self) -> None:
        """The MFCC steps from which windows were cut are restored, from step -8 on."""
        cepstra = np.random.default_rng(0).normal(size=(132, 13))
        windows, _ = mfcc.windows(cepstra, -8, 29)
        course = clip_courses.course_of_windows(windows)
        assert np.array_equal(course, cepstra[:, 1:].T.astype(np.float32))
        assert clip_courses.course_of_windows(windows[:1]).shape == (12, 20)

    def test_columns_without_sound_are_known(self, run_of_all: Path) -> None:
        """The frames whose window includes a step without audio in the source are exactly the invalid ones."""
        for key in (WHOLE, "span", "beside"):
            view = clip_view.read(run_of_all, key)
            numbers = np.arange(4 * (view.n_frames - 1) + 20) - 8
            real = clip_courses._real(view.mfcc.facts, numbers)
            whole = np.lib.stride_tricks.sliding_window_view(real, 20)[::4].all(axis=1)
            assert np.array_equal(whole, view.mfcc.array("valid.npy"))


class TestFilm:
    """The crops as a video, with the audio in sync."""

    def lag(self, heard: NDArray[np.int16], wanted: NDArray[np.int16]) -> int:
        """Return by how many samples the audio is late, searched within 100 ms either way."""
        n = min(len(heard), len(wanted))
        a, b = heard[:n].astype(float), wanted[:n].astype(float)
        both = np.fft.irfft(np.fft.rfft(a, 2 * n) * np.fft.rfft(b, 2 * n).conj(), 2 * n)
        lags = np.arange(-1600, 1601)
        best = int(lags[both[lags].argmax()])
        assert both[best] > 0.9 * np.sqrt((a**2).sum() * (b**2).sum())
        return best

    @pytest.mark.parametrize("key", [WHOLE, "span", "late", "beside"])
    def test_sound_is_in_step(self, run_of_all: Path, tmp_path: Path, key: str) -> None:
        """Whatever the file's clock and audio offset, the video has the clip's audio, to half a millisecond."""
        film = tmp_path / "film.mp4"
        view = clip_view.read(run_of_all, key)
        assert clip_view.play(view, film) == ""
        root = view.root
        start, duration = (None, None) if key == WHOLE else SPAN
        if key == "beside":  # both files' clocks start at their own start
            wanted = read_sound(root / "late.ts", root / "beside.wav", start=start, duration=duration)
        else:  # a copy of the same packets in another container has the same times
            wanted = read_sound(root / "source.mp4", start=start, duration=duration)
        heard = read_sound(film)
        assert heard.n_frames == view.n_frames
        assert heard.samples.size == 640 * view.n_frames
        assert abs(self.lag(heard.samples, wanted.samples[-wanted.first :])) <= 8
        assert abs(self.lag(np.roll(heard.samples, 100), wanted.samples) - 100) <= 8  # so the measure detects a shift

    def test_pictures_are_the_crops(self, run_of_all: Path, tmp_path: Path) -> None:
        """The video has every crop once, in order, at 25 fps."""
        view = clip_view.read(run_of_all, WHOLE)
        clip_view.play(view, tmp_path / "film.mp4")
        shown = [picture.rgb() for picture in Frames(tmp_path / "film.mp4")]
        crops = list(clip_view.images(view))
        assert len(shown) == len(crops) == 29
        found = made.probe(tmp_path / "film.mp4")
        assert found.fps == 25
        assert found.duration == pytest.approx(29 / 25, abs=0.03)
        apart = np.array([[np.abs(a.astype(int) - b).mean() for b in crops] for a in shown])
        assert apart.diagonal().max() < 4
        # Some neighbours are nearly the same image: in no row is another one nearer by more than a trifle.
        assert (apart.diagonal() < apart.min(axis=1) + 0.3).all()

    def test_without_sound_it_is_silent(self, run_of_all: Path, tmp_path: Path) -> None:
        """A source that is missing or has no audio gives a silent video and one line with the cause."""
        for view in (clip_view.read(run_of_all, "silent"), clip_view.read(run_of_all, WHOLE, tmp_path)):
            assert clip_view.play(view, tmp_path / "film.mp4")
            assert made.probe(tmp_path / "film.mp4").audio is None

    def test_a_clip_without_crops_has_no_film(self, run_of_all: Path, tmp_path: Path) -> None:
        """A clip that failed is refused in one line, and no file is left."""
        with pytest.raises(RunError, match=r"no crops to play: crop is failed \(unreadable\)"):
            clip_view.play(clip_view.read(run_of_all, BROKEN), tmp_path / "film.mp4")
        assert list(tmp_path.iterdir()) == []


class TestCommand:
    """`avprep inspect`."""

    @pytest.fixture
    def here(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
        """Work in an empty folder; a function that lists it."""
        monkeypatch.chdir(tmp_path)
        return lambda: sorted(path.name for path in tmp_path.iterdir())

    def test_a_picture_and_a_film(self, run_of_all: Path, here: Callable[[], list[str]]) -> None:
        """Without a given name the image is named after the key; the states of both columns are printed."""
        result = call("inspect", run_of_all, WHOLE, "--play", "film.mp4")
        assert result.exit_code == 0, result.output
        assert here() == ["FAMILY_val_FAMILY_00001.png", "film.mp4"]
        assert result.output.splitlines() == [
            "FAMILY_val_FAMILY_00001.png: crop ok, mfcc ok, 29 frames",
            "film.mp4: 1.16 s",
        ]

    def test_a_hostile_key(self, run_of_all: Path, here: Callable[[], list[str]]) -> None:
        """A key with odd characters writes one file, in the current folder."""
        result = call("inspect", run_of_all, HOSTILE, "--frames", "0, 5")
        assert result.exit_code == 0, result.output
        assert here() == ["a___x____b___ß日%.png"]

    def test_a_failed_clip_is_no_error(self, run_of_all: Path, here: Callable[[], list[str]]) -> None:
        """The image of a clip that failed is written, and its reasons are printed."""
        result = call("inspect", run_of_all, BROKEN, "-o", "x.png")
        assert result.exit_code == 0
        assert result.output == "x.png: crop failed (unreadable), mfcc failed (unreadable), 0 frames\n"

    @pytest.mark.parametrize(
        ("arguments", "status", "words"),
        [
            (("FAMILY/val/FAMLY",), 1, "nearest: FAMILY/val/FAMILY_00001"),
            ((WHOLE, "--frames", "99"), 1, "has frames 0 to 28"),
            ((WHOLE, "--frames", "1,x"), 2, "no list of frames"),
            ((WHOLE, "--frames", ""), 2, "no list of frames"),
            ((WHOLE, "-o", "x.jpg"), 2, "name it .png"),
            ((WHOLE, "--play", "x.avi"), 2, "name it .mp4"),
            ((WHOLE, "-o", "nowhere/x.png"), 1, "its folder is not there"),
            ((WHOLE, "--root", "nowhere"), 2, "does not exist"),
            ((BROKEN, "-o", "b.png", "--play", "b.mp4"), 1, "has no crops to play"),
        ],
    )
    def test_errors_are_one_line(
        self,
        run_of_all: Path,
        here: Callable[[], list[str]],
        arguments: tuple[str, ...],
        status: int,
        words: str,
    ) -> None:
        """Errors are one line with the documented exit status and no traceback."""
        result = call("inspect", run_of_all, *arguments)
        assert result.exit_code == status, result.output
        lines = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
        assert len(lines) == 1
        assert words in lines[0]
        assert isinstance(result.exception, SystemExit)

    def test_help(self) -> None:
        """The command and each of its options are explained."""
        for command in look.COMMANDS:
            assert command.help
            assert all(param.help for param in command.params if isinstance(param, click.Option))


def test_a_run_that_moved_the_sound_shows_it_moved(lrw: Path, tmp_path: Path) -> None:
    """With --audio-shift-ms the waveform and the video have the audio from which the windows were made."""
    plan = manifest.read(lrw / "plan.jsonl")
    plan = replace(plan, clips=tuple(clip for clip in plan.clips if clip.key == WHOLE))
    run(CropStage(plan.root, CropSettings()), plan, tmp_path, jobs=1)
    run(MfccStage(plan.root, MfccSettings(audio_shift_ms=50.0)), plan, tmp_path, jobs=1)
    view = clip_view.read(tmp_path, WHOLE)
    assert json.loads((tmp_path / "mfcc/run.json").read_text())["settings"]["audio_shift_ms"] == 50
    assert view.shift == 0.05
    sound = clip_view.sound_of(view)
    plain = read_sound(plan.root / f"{WHOLE}.mp4")
    assert not isinstance(sound, str)
    assert sound.first == pytest.approx(plain.first + 800, abs=1)
    clip_view.play(view, tmp_path / "film.mp4")
    heard = read_sound(tmp_path / "film.mp4").samples
    assert abs(TestFilm().lag(heard, plain.samples[-plain.first :]) - 800) <= 8
