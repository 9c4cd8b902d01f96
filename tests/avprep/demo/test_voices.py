"""The same words by other voices: word times, who is heard, how the lips move, and what is refused."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from command_line import assert_one_line, call
from hypothesis import given, settings
from hypothesis import strategies as st
from made_media import write_wav

from avprep import manifest
from avprep.demo import dubbing, speech, voices
from avprep.media.audio import read_sound
from avprep.media.video import Frames
from avprep.schema import FPS, SAMPLE_RATE

pytestmark = pytest.mark.usefixtures("torch_and_opencv_in_one_thread")

LATE = 0.3
"""Seconds of silence before what a recording says."""
OTHER = speech.speaker(7, 9)


@settings(max_examples=25)
@given(st.sampled_from(sorted(speech.WORDS)), st.integers(1, 60), st.integers(0, 60), st.integers(0, 20))
def test_units_are_found_where_the_other_voice_says_them(word: str, other: int, person: int, take: int) -> None:
    """For two people who say a word at their own pace, most units are aligned to 60 ms, and time never goes back."""
    people = speech.speaker(5, person), speech.speaker(5, person + other)
    said, again = (speech.perform(word, who, take + number) for number, who in enumerate(people))
    sounds = speech.speak(said, people[0]), speech.speak(again, people[1])
    times = voices.aligned(*sounds, (said.edges[0], said.edges[-1]))
    assert times is not None
    assert (np.diff(times) >= 0).all()
    found = np.interp(again.edges, np.arange(len(times)) / voices.STEPS_PER_SECOND, times)
    assert np.median(np.abs(found - said.edges)) < 0.06


@pytest.mark.parametrize("silence", [np.zeros(16000, np.int16), np.zeros(100, np.int16), np.zeros(0, np.int16)])
def test_silence_is_aligned_with_nothing(silence: np.ndarray) -> None:
    """Silence, or nearly silent audio, has no alignment."""
    word = speech.speak(speech.perform("ABOUT", OTHER, 0), OTHER)
    assert voices.aligned(word, silence, (0.1, 0.9)) is None
    assert voices.aligned(silence, word, (0.1, 0.9)) is None
    assert voices.aligned(word, word, (0.5, 0.5)) is None


@pytest.fixture(scope="module")
def timed(marked: Path, made_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The clips of `marked` in an OUT whose manifest has the times of their words; read-only."""
    out = tmp_path_factory.mktemp("timed") / "out"
    shutil.copytree(marked, out)
    plan = manifest.read(out / "manifest.jsonl")
    clips = []
    for clip in plan.clips:
        text = (made_corpus / clip.key).with_suffix(".txt").read_text(encoding="utf-8")
        take = speech.perform(str(clip.word), speech.speaker(0, int(text.split("Speaker: s")[1])), 0)
        clips.append(replace(clip, words=((str(clip.word), float(take.edges[0]), float(take.edges[-1])),)))
    (out / "manifest.jsonl").write_text(manifest.render(replace(plan, clips=tuple(clips))), encoding="utf-8")
    return out


def recording(folder: Path, clip: manifest.Clip) -> speech.Take:
    """Let another voice say a clip's word, `LATE` seconds later; return the take."""
    take = speech.perform(str(clip.word), OTHER, 1)
    path = folder / f"{clip.key}.wav"
    path.parent.mkdir(parents=True, exist_ok=True)
    sound = np.concatenate((np.zeros(int(LATE * SAMPLE_RATE), np.int16), speech.speak(take, OTHER)))
    write_wav(path, sound, SAMPLE_RATE)
    return take


def test_people_of_train_say_what_the_recordings_say(timed: Path, tmp_path: Path) -> None:
    """Train clips take audio, mouth movement and word times from the recordings; val and test clips keep their own."""
    train = manifest.read(timed / "manifest.jsonl").split("train")
    takes = {clip.key: recording(tmp_path / "voices" / "other", clip) for clip in train}
    made = dubbing.dub(timed, tmp_path / "new", speakers=10, voices=tmp_path / "voices")
    assert made.extra["recorded"] == len(train) > 0
    likeness = []
    for clip in made.clips:
        key = clip.key.partition("/")[2]
        heard = read_sound(tmp_path / "new" / clip.video)
        if key not in takes:
            assert clip.split != "train"
            assert heard.n_frames == 29
            continue
        ((word, begin, end),) = clip.words or ()
        assert word == clip.word
        np.testing.assert_allclose([begin, end], takes[key].edges[[0, -1]] + LATE, atol=0.08)
        said = read_sound(tmp_path / "new" / clip.video).samples
        assert np.abs(said[: int((LATE - 0.1) * SAMPLE_RATE)]).max() < 300
        frames = np.stack([frame.rgb() for frame in Frames(tmp_path / "new" / clip.video)])
        assert len(frames) == heard.n_frames == round((LATE + speech.SAMPLES / SAMPLE_RATE) * FPS)
        mouth = frames[:, 150:186, 106:150].mean(axis=3)
        dark = (mouth < 0.55 * np.median(mouth)).mean(axis=(1, 2))
        jaw = np.zeros(len(frames))
        late = round(LATE * FPS)
        jaw[late : late + speech.FRAMES] = takes[key].lips[:, 0][: len(frames) - late]
        likeness.append(np.corrcoef(jaw, dark)[0, 1])
    assert np.median(likeness) > 0.7, likeness


def test_clips_without_a_recording_or_times_keep_their_sound(timed: Path, marked: Path, tmp_path: Path) -> None:
    """A train clip without a recording keeps its own audio; a corpus without word times is refused."""
    first, second = manifest.read(timed / "manifest.jsonl").split("train")
    recording(tmp_path / "voices" / "other", first)
    made = dubbing.dub(timed, tmp_path / "new", speakers=10, voices=tmp_path / "voices")
    assert made.extra["recorded"] == 1
    (kept,) = (clip for clip in made.clips if clip.key.endswith(second.key))
    assert kept.words == second.words
    assert read_sound(tmp_path / "new" / kept.video).n_frames == 29
    refused = call("dub", marked, tmp_path / "none", "--voices", tmp_path / "voices")
    assert_one_line(refused, 1, "voices", "times of its words")
    assert not (tmp_path / "none").exists()


def test_what_is_no_folder_of_voices_is_told(timed: Path, tmp_path: Path) -> None:
    """An empty folder, recordings of other clips and a file without audio are each named in one line."""
    folder, root = tmp_path / "voices", tmp_path / "new"
    folder.mkdir()
    assert_one_line(call("dub", timed, root, "--voices", folder), 1, "voices", "KEY.wav")
    (clip, _) = manifest.read(timed / "manifest.jsonl").split("train")
    recording(folder / "other", replace(clip, key="another"))
    assert_one_line(call("dub", timed, root, "--voices", folder), 1, "voices", f"{clip.key}.wav")
    recording(folder / "other", clip)
    (folder / "other" / f"{clip.key}.wav").write_text("no sound")
    assert_one_line(call("dub", timed, root, "--voices", folder), 1, f"{clip.key}.wav")
    write_wav(folder / "other" / f"{clip.key}.wav", np.zeros(16000, np.int16), 16000)
    assert_one_line(call("dub", timed, root, "--voices", folder), 1, f"{clip.key}.wav", "too little is spoken")
    assert not root.exists()
