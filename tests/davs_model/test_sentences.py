"""Words and random moments of whole sentences, read from one OUT, and frames that are kept in memory."""

from __future__ import annotations

import shutil
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import made_shards
import numpy as np
import pytest
import torch
from made_shards import Made, frame_of

from avprep import manifest, schema
from avprep.errors import RunError, ShardError
from avprep.manifest import Clip, Manifest
from avprep.media.mfcc import Preset, clip_windows
from davs_model import checkpoint
from davs_model.data import sources
from davs_model.data.arrays import heard, statistics
from davs_model.data.batch import empty_batch
from davs_model.data.clips import Clips, joined, read_clips
from davs_model.data.partners import Partners
from davs_model.data.pictures import WHOLE, as_read
from davs_model.data.reads import Reads, Shape
from davs_model.data.sampling import spoken_part
from davs_model.data.sources import ClipSource, usable
from davs_model.data.store import FrameStore
from davs_model.evaluation import evaluate
from davs_model.models.davs import Settings
from davs_model.training import loop

WORDS = (("now", 0.2, 0.4), ("then", 0.6, 0.9))
READS = {
    "windows": Reads("windows", 5, every=2, at="sound"),
    "targets": Reads("frames", 6, at="moments"),
    "mouths": Reads("frames", 6, beside="targets", box=(64, 192, 64, 192), size=32),
    "identity_frame": Reads("frames", 1, at="portrait", of="speaker"),
    "sound": Reads("statistics", 2),
}


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three sentences of one speaker and one of another, with the times of two words each."""
    folder = tmp_path_factory.mktemp("sentences")
    make(folder, [Made(f"train/clip{n}", speaker="b" if n == 3 else "a") for n in range(4)])
    return folder


def make(folder: Path, rows: list[Made]) -> None:
    """Make sentences with the times of two words each."""
    plan = tuple(Clip(row.key, f"{row.key}.mp4", row.split, speaker=row.speaker, words=WORDS) for row in rows)
    (folder / "manifest.jsonl").write_text(manifest.render(Manifest("tiny", folder, plan)), encoding="utf-8")
    for column, members in (("crop", made_shards.crop_members), ("mfcc", made_shards.mfcc_members)):
        for split in {row.split for row in rows}:
            made = [row for row in rows if row.split == split]
            stretches = [(row, made_shards.stretch(folder, row.key, members(row.key).items())) for row in made]
            made_shards.write_shard(folder, column, manifest.shard_name(split, 0), stretches)


@pytest.fixture(scope="module")
def clips(out: Path) -> Clips:
    """The table of these sentences."""
    return read_clips(out, "train")


def load(source: ClipSource, row: int, seed: int | None) -> dict[str, torch.Tensor]:
    """Read a single row."""
    raw = empty_batch(source.shape, 1)
    source.load(row, raw, 0, None if seed is None else np.random.default_rng(seed))
    return {name: tensor[0] for name, tensor in raw.tensors.items()}


def test_timed_words_are_labels_of_a_sentence(clips: Clips) -> None:
    """Words of the manifest are numbered like other labels, with their times in frames."""
    assert clips.label_names["words"] == ("now", "then")
    assert clips.timed[0].tolist() == [[0, 5, 10], [1, 15, 22.5]]
    assert usable(clips, Shape({}), words=True, speakers=False) is clips


def test_words_beyond_the_end_of_a_clip_are_left_out(tmp_path: Path) -> None:
    """Of a video that breaks off, only words whose middle is shown are labels; a clip without any of them has none."""
    make(tmp_path, [Made("train/some"), Made("train/none")])
    beyond = (("soon", 1.3, 1.3), ("late", 1.3, 1.4))  # 29 frames are 1.16 s
    plan = (
        Clip("train/some", "some.mp4", "train", words=(*WORDS, ("end", 1.0, 1.3), *beyond)),
        Clip("train/none", "none.mp4", "train", words=beyond),
    )
    (tmp_path / "manifest.jsonl").write_text(manifest.render(Manifest("tiny", tmp_path, plan)), encoding="utf-8")
    clips = read_clips(tmp_path, "train")
    names = clips.label_names["words"]
    assert [[names[int(word)] for word in timed[:, 0]] for timed in clips.timed] == [["now", "then", "end"], []]
    assert usable(clips, Shape({}), words=True).keys.tolist() == [b"train/some"]
    assert clips.spoken_words().words.tolist() == [*clips.timed[0][:, 0], -1]


def test_words_that_a_model_does_not_know_are_spoken_all_the_same(clips: Clips, out: Path) -> None:
    """With any vocabulary the spoken part is from the first word to the last, and known words alone are read."""
    fewer = read_clips(out, "train", label_names={"words": ("then",)})
    valid = np.ones(29, bool)
    assert spoken_part(29, fewer.timed[0], valid) == spoken_part(29, clips.timed[0], valid)
    assert fewer.spoken_words().words.tolist() == [0] * len(fewer)
    assert {int(load(ClipSource(fewer, Shape(READS, 64)), 0, seed)["words"]) for seed in range(9)} == {0}
    none = read_clips(out, "train", label_names={"words": ("other",)})
    assert spoken_part(29, none.timed[0], valid) == spoken_part(29, clips.timed[0], valid)
    assert not len(usable(none, Shape({}), words=True, speakers=False))
    assert none.spoken_words().n_frames.tolist() == none.n_frames.tolist()


def test_a_word_is_read_with_its_label(clips: Clips) -> None:
    """Frames around a word have that word's number; both words are drawn, with the middle within three frames."""
    source = ClipSource(clips, Shape(READS, 64))
    seen = set()
    for seed in range(20):
        found = load(source, 0, seed)
        word = int(found["words"])
        seen.add(word)
        middle = float(found["windows"][2, 0, 0])  # a window's numbers are those of its frame
        assert abs(middle - (7.5, 18.75)[word]) <= 4.5
    assert seen == {0, 1}


@pytest.mark.parametrize("first", ["windows", "row"])
def test_all_that_is_read_around_a_word_is_around_the_same(clips: Clips, first: str) -> None:
    """Reads at the word and at the audio are around the same word of the clip, whose number is the label."""
    reads = {
        "windows": READS["windows"],
        "row": Reads("windows", 7, at="word"),
        "again": Reads("windows", 3, at="sound"),
    }
    order = sorted(reads, key=lambda name: name != first)
    source = ClipSource(clips, Shape({name: reads[name] for name in order}, 64))
    seen = set()
    for seed in range(20):
        found = load(source, 0, seed)
        seen.add(word := int(found["words"]))
        for name, one in reads.items():
            middle = float(found[name][one.length // 2, 0, 0])
            assert abs(middle - (7.5, 18.75)[word]) <= 4.5
    assert seen == {0, 1}


def test_frames_in_a_row_are_anywhere_where_no_times_are_known(clips: Clips) -> None:
    """A clip without word times keeps its label, and `word` acts as `anywhere`, in training and evaluation."""
    plain = replace(clips, timed=(), words=np.full(len(clips), 1))
    found = {}
    for at in ("word", "anywhere"):
        source = ClipSource(plain, Shape({"row": Reads("windows", 7, at=at), "sound": READS["sound"]}, 64))
        found[at] = [load(source, 0, seed) for seed in (*range(10), None)]
    for one, other in zip(found["word"], found["anywhere"], strict=True):
        assert one["words"] == 1
        assert torch.equal(one["row"], other["row"])


def test_eq_2_reads_words_of_sentences(out: Path, tmp_path: Path) -> None:
    """The full stage removes words from the identity of sentences, even if no other term reads words.

    The run does not continue with words at other times.
    """
    settings = Settings.resolve(
        "small",
        None,
        (
            *("model.width=0.05", "model.audio_width=0.05", "data.batch_size=4", "machine.threads=1"),
            *("generation.video=0", "weights.word=0", "weights.contrastive=0", "weights.identity_word=1"),
            *("weights.person=0", "loop.talking_clips=0", "steps.full=2"),
        ),
    )
    said: list[str] = []
    loop.train(out, tmp_path / "run", settings, stages=("full",), say=said.append)
    assert any("identity_word × 1" in line for line in said)
    assert checkpoint.load(tmp_path / "run").settings["steps"] == {"full": 2}
    later = Path(shutil.copytree(out, tmp_path / "later"))
    listed = (later / "manifest.jsonl").read_text(encoding="utf-8")
    (later / "manifest.jsonl").write_text(listed.replace("0.6", "0.5"), encoding="utf-8")
    with pytest.raises(RunError, match="the clips are not those that it was started with"):
        loop.train(later, tmp_path / "run", settings, stages=("full",), say=said.append)


def test_the_words_that_the_svm_learns_from_are_counted(tmp_path: Path) -> None:
    """Evaluation says how many words of sentences the SVM is trained on, not how many sentences."""
    make(tmp_path, [Made(f"{split}/clip{n}", split=split) for split in ("train", "test") for n in range(2)])
    narrow = ("model.width=0.05", "model.audio_width=0.05", "data.batch_size=2", "machine.threads=1", "steps.full=1")
    settings = Settings.resolve("small", None, (*narrow, "weights.person=0", "loop.talking_clips=0"))
    loop.train(tmp_path, tmp_path / "run", settings, stages=("full",), say=lambda line: None)
    said: list[str] = []
    how = evaluate.EvaluationSettings(batch_size=2, workers=0, talking_clips=0)
    evaluate.evaluate(tmp_path / "run", tmp_path, tmp_path / "results", how, say=said.append)
    assert [line for line in said if line.startswith("train: 4 clips for the SVM")]


def test_moments_are_mostly_of_speech(clips: Clips) -> None:
    """Most targets are around the words, and the input of E_w^v is from the same frames."""
    source = ClipSource(clips, Shape(READS, 64))
    first, end = spoken_part(29, clips.timed[0], np.ones(29, bool))
    assert (first, end) == (2, 26)
    frames = []
    for seed in range(40):
        found = load(source, 0, seed)
        frames += [frame_of(float(picture.float().mean())) for picture in found["targets"]]
        assert found["mouths"].shape == (6, 32, 32, 3)
        assert [frame_of(float(one.float().mean())) for one in found["mouths"]] == frames[-6:]
    inside = np.mean([first <= frame < end for frame in frames])
    assert 0.85 < inside < 1
    assert len(set(frames)) > 20


@pytest.mark.parametrize("preset", ["davs", "syncnet"])
def test_digital_silence_is_not_heard(clips: Clips, preset: Preset) -> None:
    """Between the first word and the last, frames whose whole window is digital silence are not heard; others are."""
    samples = np.random.default_rng(0).integers(-3000, 3000, (29 + 8) * 640).astype(np.int16)
    samples[(4 + 8) * 640 : (4 + 20) * 640] = 0  # frames 8 to 19
    windows, valid, _ = clip_windows(samples, -4 * 640, 29, preset)
    found = heard(clips, 0, {"mfcc.npy": windows, "valid.npy": valid})
    assert valid.all()
    assert np.flatnonzero(found == 0).tolist() == [0, 1, *range(11, 17), 26, 27, 28]


def test_the_identity_frame_is_of_any_clip_of_the_speaker(clips: Clips, monkeypatch: pytest.MonkeyPatch) -> None:
    """The portrait comes from all clips of its speaker, and from those alone."""
    source = ClipSource(clips, Shape(READS, 64))
    read: list[int] = []
    whole = Clips.read

    def noted(self: Clips, row: int, column: str, frames: Collection[int], *, arrays: bool = False) -> dict[str, bytes]:
        if column == "crop":
            read.append(row)
        return whole(self, row, column, frames, arrays=arrays)

    monkeypatch.setattr(Clips, "read", noted)
    for seed in range(30):
        load(source, 0, seed)
    assert set(read) == {0, 1, 2}
    read.clear()
    load(source, 3, 0)
    assert set(read) == {3}


def test_word_clips_are_parts_of_sentences(clips: Clips) -> None:
    """Each word becomes a clip of its own, cut from the sentence's sample, with the statistics of its whole audio."""
    longer = replace(clips, n_frames=clips.n_frames)
    words = longer.spoken_words()
    assert len(words) == 2 * len(clips)
    assert words.words.tolist() == [0, 1] * 4
    assert set(words.n_frames.tolist()) == {29}
    short = replace(words, n_frames=np.full(len(words), 7), first=np.full(len(words), 4))
    shape = Shape({"windows": Reads("windows", 7), "frames": Reads("frames", 7), "sound": READS["sound"]}, 64)
    found = load(ClipSource(short, shape), 1, None)
    assert found["windows"][:, 0, 0].tolist() == [4, 5, 6, 7, 8, 9, 10]
    assert [frame_of(float(one.float().mean())) for one in found["frames"]] == [4, 5, 6, 7, 8, 9, 10]
    assert found["sound"][0, 0] == pytest.approx(14)


def test_sentences_and_word_clips_train_together(clips: Clips) -> None:
    """In one table, sentences have the labels of their words and word clips their own; both are used and measured."""
    plain = replace(clips, timed=(), words=np.full(len(clips), 1))
    both = joined([clips, plain])
    assert len(usable(both, Shape({}), words=True, speakers=False)) == 2 * len(clips)
    unlabelled = joined([clips, replace(plain, words=np.full(len(clips), -1))])
    assert len(usable(unlabelled, Shape({}), words=True, speakers=False)) == len(clips)
    apart = both.spoken_words()
    assert apart.words.tolist() == [0, 1] * 4 + [1] * 4
    assert load(ClipSource(both, Shape(READS, 64)), 6, 0)["words"] == 1


def test_a_share_of_an_out_without_clips_is_refused(clips: Clips) -> None:
    """An OUT without clips cannot have a share of the training; without shares it is accepted and adds none."""
    nobody = clips.rows(np.zeros(0, np.int64))
    with pytest.raises(ShardError, match="holds no clips to learn from"):
        joined([clips, nobody], (1, 3))
    assert len(joined([clips, nobody])) == len(clips)


@pytest.mark.parametrize("small", [1e-12, 5e-324])
def test_shares_that_differ_without_measure_are_refused(clips: Clips, small: float) -> None:
    """Shares that would repeat clips beyond the memory are refused beforehand."""
    with pytest.raises(ShardError, match=r"^shares 1, \S+: .* give shares that differ less$"):
        joined([clips, clips], (1, small))


def test_a_repeated_clip_is_not_another_one(clips: Clips) -> None:
    """The other clips of a speaker are different samples, even if the shares of several OUT repeat clips."""
    twice = replace(clips, speakers=np.zeros_like(clips.speakers))
    twice = twice.rows(np.tile(np.arange(len(clips)), 2))
    partners, rng = Partners(twice), np.random.default_rng(0)
    drawn = [(row, partners.draw("others", row, rng)) for row in range(len(twice)) for _ in range(20)]
    assert all(twice.sample(row) != twice.sample(other) for row, other in drawn)
    alone = twice.rows(np.array([0, len(clips)]))
    assert Partners(alone).draw("others", 1, rng) == 1


def test_kept_frames_are_those_that_are_decoded(clips: Clips) -> None:
    """Batches are the same with frames in memory, of all clips or within the limit; mirrored ones, too."""
    shape = Shape(READS, 64, flip=True)
    forms = {shape.form(reads) for reads in READS.values() if reads.source == "frames"}
    each = 29 * 3 * (64 * 64 + 32 * 32)
    for limit, count in ((10 * each, 4), (2 * each + 1, 2), (1, 0)):
        store = FrameStore(limit)
        store.fill(clips, forms)
        assert len(store) == count
        assert store.size == count * each <= limit
        for row in range(4):
            plain, kept = (load(ClipSource(clips, shape, store=one), row, 7) for one in (None, store))
            for name, tensor in plain.items():
                assert torch.equal(tensor, kept[name]), name


def test_colours_change_alike_in_all_frames_of_a_clip(clips: Clips) -> None:
    """Jitter changes portrait and targets by one table of levels, drawn anew each time, and never in evaluation."""
    plain, shape = ClipSource(clips, Shape(READS, 64)), Shape(READS, 64, jitter=0.3)
    changed = ClipSource(clips, shape)
    before, after, other = load(plain, 0, 1), load(changed, 0, 1), load(changed, 0, 2)
    assert not torch.equal(before["targets"], after["targets"])
    levels = {
        int(level): int(new) for level, new in zip(before["targets"].flatten(), after["targets"].flatten(), strict=True)
    }
    assert len(levels) > 1
    assert not torch.equal(after["targets"], other["targets"])
    assert torch.equal(load(plain, 0, None)["targets"], load(changed, 0, None)["targets"])


def test_faces_and_voices_change_alike_in_all_that_is_read(clips: Clips) -> None:
    """Warps change frames, noise changes windows, voices their statistics too: anew each time, never in evaluation."""
    shape = Shape(READS, 64)
    frames = {"targets", "mouths", "identity_frame"}
    changes = (replace(shape, warp=0.1), frames), (replace(shape, noise=1), {"windows"})
    for other, changed_names in (*changes, (replace(shape, voice=(0.1, 0.2)), set())):
        changed = ClipSource(clips, other)
        plain, first, second = load(ClipSource(clips, shape), 0, None), load(changed, 0, None), load(changed, 0, 1)
        for name, tensor in plain.items():
            assert torch.equal(tensor, first[name]), name
        third = load(changed, 0, 2)
        assert all(not torch.equal(second[name], third[name]) for name in changed_names)
    whole = load(changed, 0, 1)["sound"]
    assert not torch.equal(whole, plain["sound"])


@pytest.mark.parametrize(("voice", "amounts"), [((0.2, 0.0), (0.0, 0.2)), ((0.0, 0.2), (-0.2, 0.0))])
def test_a_voice_is_lowered_or_raised(
    clips: Clips, monkeypatch: pytest.MonkeyPatch, voice: tuple[float, float], amounts: tuple[float, float]
) -> None:
    """Voices are stretched by up to `voice_down` and compressed by up to `voice_up`, and by no other amount."""
    drawn: list[float] = []
    real = sources.warped_voice
    monkeypatch.setattr(sources, "warped_voice", lambda by, preset: drawn.append(by) or real(by, preset))
    source = ClipSource(clips, Shape({"windows": Reads("windows", 5)}, voice=voice))
    for seed in range(20):
        load(source, 0, seed)
    assert amounts[0] <= min(drawn) < amounts[0] + 0.05
    assert amounts[1] - 0.05 < max(drawn) <= amounts[1]


def test_statistics_are_of_each_coefficient() -> None:
    """Mean and deviation are over frames and steps, and silence has a deviation above 0."""
    windows = np.random.default_rng(0).normal(3, 2, (50, 12, 20)).astype(np.float32)
    windows[:, 5] = 7
    mean, deviation = statistics(windows)
    assert mean == pytest.approx(windows.mean((0, 2)), abs=1e-5)
    assert deviation[:5] == pytest.approx(windows[:, :5].std((0, 2)), abs=1e-4)
    assert deviation[5] > 0


def test_generated_frames_are_seen_as_the_reads_have_them() -> None:
    """A part cut from a generated frame has the size of the encoder's input; whole frames are unchanged."""
    frames = torch.rand(1, 2, 3, 64, 64)
    assert as_read(frames, WHOLE, 0) is frames
    part = as_read(frames, (64, 192, 64, 192), 32)
    assert torch.allclose(part, frames[..., 16:48, 16:48], atol=1e-6)


def test_a_sentence_keeps_its_words_in_the_manifest(tmp_path: Path) -> None:
    """Word times are written, read back and checked."""
    clip = Clip("a", "a.mp4", "train", words=WORDS)
    path = tmp_path / "plan.jsonl"
    path.write_text(manifest.render(Manifest("tiny", tmp_path, (clip,))), encoding="utf-8")
    assert manifest.read(path).clips == (clip,)
    text = path.read_text(encoding="utf-8")
    for bad in ('[["now", 0.2]]', '[["now", 0.4, 0.2]]', '"now"', "[[1, 2, 3]]", '[["now", -1, 2]]'):
        path.write_text(text.replace('[["now", 0.2, 0.4], ["then", 0.6, 0.9]]', bad), encoding="utf-8")
        with pytest.raises(manifest.ManifestError, match=r":2: words must be"):
            manifest.read(path)
    assert schema.FPS == 25
