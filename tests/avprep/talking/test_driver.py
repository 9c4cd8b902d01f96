"""The input of a talking face: windows and crops of any length, the same as in the shards."""

from __future__ import annotations

import re
from pathlib import Path

import cv2
import made_media as made
import numpy as np
import pytest
from numpy.typing import NDArray

from avprep import layouts
from avprep.errors import AvprepError
from avprep.faces import detectors
from avprep.manifest import Manifest
from avprep.media import mfcc
from avprep.media.audio import SoundFile, read_sound
from avprep.shards.image import decode_image
from avprep.stages import CropSettings, crop_clip
from avprep.talking import driver as drivers
from avprep.talking import inputs
from avprep.talking.driver import Driver


def whole(driver: Driver) -> NDArray[np.generic]:
    """Return all that a driver yields; no part is longer than allowed."""
    parts = list(driver.read())
    assert max(len(part) for part in parts) <= drivers.AT_ONCE
    together = np.concatenate(parts)
    assert len(together) == driver.n_frames
    return together


class TestSound:
    """Windows of an audio file."""

    @pytest.mark.parametrize("preset", mfcc.PRESETS)
    @pytest.mark.parametrize("stretch", [1, 7, 1500])
    def test_windows_are_those_of_the_whole_sound(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, preset: mfcc.Preset, stretch: int
    ) -> None:
        """However long the parts that are read at once, the windows are those of the audio in one piece."""
        monkeypatch.setattr(drivers, "_STRETCH", stretch)
        samples = made.noise(2.6, 16_000)
        driver = drivers.from_sound(made.write_wav(tmp_path / "a.wav", samples, 16_000), preset)
        expected, _, _ = mfcc.clip_windows(samples, 0, 65, preset)
        assert (driver.kind, driver.n_frames, driver.zero) == ("audio", 65, 0)
        assert np.allclose(whole(driver), expected, atol=1e-5)
        assert np.array_equal(whole(driver), whole(driver))

    def test_windows_are_those_of_the_shards(self, tmp_path: Path) -> None:
        """The audio of a video gives the windows that its clip has in a shard."""
        clip = made.numbered(tmp_path / "a.mkv", made.steady(25, 2), made.noise(2, 16_000), acodec="pcm_s16le")
        sound = read_sound(clip, before=mfcc.SAMPLES_BEFORE, after=mfcc.SAMPLES_AFTER)
        expected, _, _ = mfcc.clip_windows(sound.samples, sound.first, sound.n_frames, "davs")
        assert np.allclose(whole(drivers.from_sound(clip)), expected, atol=1e-5)

    def test_long_sound_is_no_more_than_a_minute(self, tmp_path: Path) -> None:
        """Ten minutes of audio are 15,000 frames, read minute by minute."""
        path = made.write_wav(tmp_path / "a.wav", np.tile(made.noise(10, 16_000), 60), 16_000)
        file = SoundFile(path)
        file.scan()
        assert file.n_frames == 15_000
        assert max(part.samples.nbytes for part in file.stretches(drivers._STRETCH)) < 2_000_000

    def test_the_shortest_sound(self, tmp_path: Path) -> None:
        """One MFCC step of audio gives a frame; less, or none, is refused in one line."""
        assert drivers.from_sound(made.write_wav(tmp_path / "a.wav", made.noise(0.03, 16_000), 16_000)).n_frames == 1
        for name, length, words in (("b.wav", 0.01, "shorter than one 25 ms column"), ("c.wav", 0, "holds no sound")):
            path = made.write_wav(tmp_path / name, made.noise(length, 16_000)[: round(length * 16_000)], 16_000)
            with pytest.raises(AvprepError, match=rf"{name}: .*{words}"):
                drivers.from_sound(path)

    @pytest.mark.parametrize("name", ["a.wav", "a.m4a", "a.mka"])
    def test_a_file_that_breaks_off_is_treated_as_in_clips(self, tmp_path: Path, name: str) -> None:
        """Of a cut file the rest is used, with a description; with less than a third left it is refused."""
        whole, path = made.write_wav(tmp_path / "whole.wav", made.noise(6, 16_000), 16_000), tmp_path / name
        made.ffmpeg("-i", whole, "-ac", "1", *(("-movflags", "faststart") if name == "a.m4a" else ()), path)
        data = path.read_bytes()
        assert drivers.from_sound(path).damage == ""
        path.write_bytes(data[: len(data) // 2])
        found = drivers.from_sound(path)
        there = f"of 6.0 s that its header promises only {found.n_frames / 25:.1f} s are there"
        assert 60 < found.n_frames < 90
        assert there in found.damage
        said: list[str] = []
        inputs.read_driver(path, remark=said.append)
        assert said == [f"warning: {path}: {found.damage}"]
        path.write_bytes(data[: len(data) // 6])
        with pytest.raises(AvprepError, match=rf"{name}: .*breaks off: of 6\.0 s"):
            drivers.from_sound(path)

    @pytest.mark.parametrize("count", [True, False])
    def test_a_cut_mp3_is_described_if_it_counts_its_frames(self, tmp_path: Path, count: bool) -> None:
        """An MP3 with a count of its frames, behind a tag too, is used with a description however little is left."""
        path = tmp_path / "a.mp3"
        sound = made.write_wav(tmp_path / "a.wav", made.noise(6, 16_000), 16_000)
        made.ffmpeg("-i", sound, "-metadata", f"comment={'x' * 3000}", "-write_xing", int(count), path)
        assert drivers.from_sound(path).damage == ""
        data = path.read_bytes()
        path.write_bytes(data[: 3000 + (len(data) - 3000) // 4])
        found = drivers.from_sound(path)
        assert found.n_frames < 50
        assert found.damage.startswith("damaged: of 6.0 s that its header promises only 1." if count else "")
        assert bool(found.damage) is count

    def test_an_mp3_of_changing_bit_rate_is_whole(self, tmp_path: Path) -> None:
        """The length of an MP3 without a count of its frames, which a quiet beginning makes too long, is no promise."""
        samples = np.concatenate([np.zeros(48_000, np.int16), made.noise(2, 16_000)])
        sound = made.write_wav(tmp_path / "a.wav", samples, 16_000)
        made.ffmpeg("-i", sound, "-q:a", "2", "-write_xing", "0", tmp_path / "a.mp3")
        found = drivers.from_sound(tmp_path / "a.mp3")
        assert 124 < found.n_frames < 130
        assert found.damage == ""

    def test_packets_that_cannot_be_decoded_are_counted(self, tmp_path: Path) -> None:
        """An MP3 whose second half is noise is used as far as it can be decoded, with a description."""
        path = tmp_path / "a.mp3"
        made.ffmpeg("-i", made.write_wav(tmp_path / "a.wav", made.noise(6, 16_000), 16_000), "-write_xing", "0", path)
        data = path.read_bytes()
        noise = np.random.default_rng(0).integers(0, 256, len(data) // 2, np.uint8).tobytes()
        path.write_bytes(data[: len(data) // 2] + noise)
        found = drivers.from_sound(path)
        assert found.n_frames < 90
        assert re.fullmatch(r"damaged: \d+ packets? of its audio cannot be decoded; the rest is used", found.damage)

    @pytest.mark.parametrize("data", [b"", b"no sound", b"#EXTM3U\nhttp://example.org/a.mp3\n"])
    def test_no_sound(self, tmp_path: Path, data: bytes) -> None:
        """A file without audio, and a playlist, end in one line."""
        (tmp_path / "a.wav").write_bytes(data)
        with pytest.raises(AvprepError, match=r"a\.wav: "):
            drivers.from_sound(tmp_path / "a.wav")


class TestVideo:
    """Crops of a talking face."""

    def test_crops_are_those_of_the_shards(self, corpus: Manifest) -> None:
        """The crops that a clip drives with are those that it has in a shard."""
        detector, settings = detectors.build("opencv"), CropSettings("opencv", image_format="png")
        clip = corpus.clips[0]
        members = crop_clip(clip, corpus.root, settings, detector).members
        images = [decode_image(data) for name, data in members if name.endswith(".png")]
        driver = drivers.from_video(corpus.root / clip.video, detector, settings)
        assert driver.kind == "video"
        assert driver.sound == corpus.root / clip.video
        assert np.array_equal(whole(driver), np.stack([image for image in images if image is not None]))

    def test_nobody_to_be_seen(self, tmp_path: Path) -> None:
        """A video without a face, and a file that is not a video, end in one line."""
        clip = made.numbered(tmp_path / "a.mp4", made.steady(25, 1))
        (tmp_path / "b.mp4").write_bytes(b"no video")
        for name, words in (
            ("a.mp4", "no face was found"),
            ("b.mp4", "cannot be read as a video"),
            ("c.mp4", "no such file"),
        ):
            with pytest.raises(AvprepError, match=rf"{name}: {words}"):
                drivers.from_video(clip.with_name(name), detectors.build("opencv"), CropSettings("opencv"))


@pytest.fixture(scope="module")
def corpus(lrw: Path) -> Manifest:
    """The clips of the small synthetic corpus, all of them videos."""
    plan, _ = layouts.index("lrw", lrw / "corpus")
    good = tuple(clip for clip in plan.clips if (plan.root / clip.video).stat().st_size > 100)
    return Manifest(plan.dataset, plan.root, good)


class TestPrepared:
    """The released code's own format."""

    def write_windows(self, folder: Path, numbers: list[int]) -> NDArray[np.float64]:
        """Write windows as the released code does; return them, time × coefficient."""
        folder.mkdir()
        windows = np.random.default_rng(0).normal(size=(len(numbers), 20, 12))
        for number, window in zip(numbers, windows, strict=True):
            (folder / f"{number}.bin").write_bytes(window.astype("<f8").tobytes())
        return windows

    def test_windows(self, tmp_path: Path) -> None:
        """N.bin are windows, 20×12 in the file and 12×20 here, in the order of their numbers; others are ignored."""
        written = self.write_windows(tmp_path / "mfcc", list(range(2, 40)))
        (tmp_path / "mfcc" / "notes.txt").write_text("x")
        driver = drivers.from_windows(tmp_path / "mfcc")
        assert driver.sound is None
        assert np.allclose(whole(driver), written.transpose(0, 2, 1), atol=1e-6)

    def test_frames(self, tmp_path: Path) -> None:
        """N.jpg are aligned frames: 256×256, or 260×260 of which the middle is taken."""
        for side, folder in ((256, tmp_path / "a"), (260, tmp_path / "b")):
            folder.mkdir()
            for n in range(20):
                cv2.imwrite(str(folder / f"{n}.png"), np.full((side, side, 3), (n, 2 * n, 255 - n), np.uint8))
            driver = drivers.from_frames(folder)
            frames = whole(driver)
            assert frames.shape == (20, 256, 256, 3)
            assert frames[7, 0, 0].tolist() == [248, 14, 7]

    def test_what_is_missing_or_broken(self, tmp_path: Path) -> None:
        """A gap, a number twice, a wrong size, non-finite values and an empty folder give one line each."""
        folder = tmp_path / "mfcc"
        self.write_windows(folder, [2, 3, 5])
        with pytest.raises(AvprepError, match=r"mfcc: 4\.bin is missing between others"):
            drivers.from_windows(folder)
        (folder / "4.bin").write_bytes(bytes(1919))
        driver = drivers.from_windows(folder)
        with pytest.raises(AvprepError, match=r"4\.bin: not a window"):
            whole(driver)
        (folder / "4.bin").write_bytes(np.full(240, np.nan).tobytes())
        with pytest.raises(AvprepError, match=r"4\.bin: holds numbers that are not finite"):
            whole(driver)
        (folder / "04.bin").write_bytes(bytes(1920))
        with pytest.raises(AvprepError, match="has the same number"):
            drivers.from_windows(folder)
        for empty in (drivers.from_windows, drivers.from_frames):
            with pytest.raises(AvprepError, match="holds no prepared files"):
                empty(tmp_path)

    def test_the_authors_own_sample(self, shared: Path) -> None:
        """The released sample has 98 windows and 100 frames."""
        sample = shared / "clips" / "davs_sample"
        heard, seen = drivers.from_windows(sample / "mfcc"), drivers.from_frames(sample / "frames")
        assert whole(heard).shape == (98, 12, 20)
        assert whole(seen).shape == (100, 256, 256, 3)
