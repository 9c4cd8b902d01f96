"""Batches: which frames of which clips are read, how images are augmented, and processes that read ahead."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import made_shards
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_shards import Made, frame_of
from numpy.typing import NDArray
from small_models import READS

from avprep.errors import RunError, ShardError
from avprep.schema import picture_size
from avprep.shards.image import decode_picture
from davs_model.data.batch import RawBatch, empty_batch
from davs_model.data.batches import Batches, EvaluationBatches
from davs_model.data.clips import Clips, read_clips
from davs_model.data.faces import FaceFolder
from davs_model.data.loader import AHEAD, evaluation_batches, first_batch, living_readers, training_batches
from davs_model.data.pictures import Augmentation
from davs_model.data.reads import LABELS, Reads, Shape, chosen
from davs_model.data.sampling import epoch_order, sound_stretch, stretch
from davs_model.data.sources import ClipSource

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")  # more processes than there are cores

PORTRAIT = chosen(READS, ("identity_frame",))
SMALL = Shape(READS, image_size=32, flip=True, shift=2)
FULL = Shape(READS)


def scene(frame: int) -> NDArray[np.uint8]:
    """Return an RGB image in which no two rows, columns, colours or frames are alike."""
    return np.random.default_rng(frame).integers(0, 256, (256, 256, 3), np.uint8)


def red(frame: int) -> NDArray[np.uint8]:
    """Return a red image."""
    return np.broadcast_to(np.array([250, 10, 20], np.uint8), (256, 256, 3))


@pytest.fixture(scope="session")
def dozen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of twelve clips; read-only."""
    return made_shards.write(tmp_path_factory.mktemp("dozen"), made_shards.a_dozen())


@pytest.fixture(scope="session")
def clips(dozen: Path) -> Clips:
    """Twelve clips in three shards."""
    return read_clips(dozen, "train")


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Clips:
    """Two clips whose PNGs show the augmentation."""
    made = [Made("a/one"), Made("a/two")]
    out = made_shards.write(tmp_path_factory.mktemp("scenes"), made, picture=scene, image_format="png")
    return read_clips(out, "train")


@pytest.fixture(scope="session")
def batches(clips: Clips) -> Batches:
    """Batches of four, three per epoch."""
    return Batches(ClipSource(clips, SMALL), SMALL, batch_size=4, seed=7, window=2)


@pytest.fixture(scope="session")
def steps(batches: Batches) -> list[RawBatch]:
    """The batches of twenty steps, read in this process."""
    return copied(training_batches(batches, first=0, last=20, workers=0))


def same(one: RawBatch, other: RawBatch) -> bool:
    """Return whether two batches are bit-identical."""
    parts = ("starts", "keys", "skipped")
    return one.tensors.keys() == other.tensors.keys() and all(
        [
            *(a.dtype == other[name].dtype and torch.equal(a, other[name]) for name, a in one.tensors.items()),
            *(getattr(one, part) == getattr(other, part) for part in parts),
        ]
    )


def copied(batches: Iterator[RawBatch]) -> list[RawBatch]:
    """Return copies of batches, each made before the next one is requested."""
    return [replace(batch, tensors={name: x.clone() for name, x in batch.tensors.items()}) for batch in batches]


def damaged(out: Path, to: Path, *rows: int) -> Clips:
    """Return the clips of a copy in which the crops of some rows are no longer a tar."""
    clips = read_clips(Path(shutil.copytree(out, to)), "train")
    for row in rows:
        with (to / "crop" / f"{clips.shards[clips.shard[row]]}.tar").open("r+b") as file:
            file.seek(int(clips.places[row, 0, 0]) + 257)
            file.write(b"XXXXX")
    return clips


def levels(frames: torch.Tensor) -> list[list[int]]:
    """Return the number of the frame in each image of each clip."""
    return [[frame_of(picture.float().mean().item()) for picture in clip] for clip in frames]


class TestOrder:
    """The order of an epoch."""

    @settings(deadline=None, max_examples=60)
    @given(st.lists(st.integers(1, 9), max_size=8), st.integers(1, 10), st.integers(0, 2**63), st.integers(0, 99))
    def test_each_row_once(self, sizes: list[int], window: int, seed: int, epoch: int) -> None:
        """An epoch has each row once, whole groups of a window together, and is always the same."""
        ends = np.cumsum([0, *sizes])
        groups = [np.arange(a, b) for a, b in itertools.pairwise(ends)]
        order = epoch_order(groups, seed=seed, epoch=epoch, window=window)
        assert sorted(order) == list(range(sum(sizes)))
        assert order.tolist() == epoch_order(groups, seed=seed, epoch=epoch, window=window).tolist()
        group_of = np.repeat(np.arange(len(sizes)), sizes)
        left = order.tolist()
        while left:
            together: set[int] = set()
            for place, row in enumerate(left):  # until all rows of as many groups as a window has were seen
                together.add(int(group_of[row]))
                assert len(together) <= window
                if place + 1 == sum(sizes[g] for g in together) and len(together) in (window, len(set(group_of[left]))):
                    left = left[place + 1 :]
                    break
            else:
                pytest.fail("rows of a window are not together")

    def test_epochs_and_seeds_differ(self) -> None:
        """Another epoch and another seed have another order, of groups and of rows."""
        groups = [np.arange(n, n + 10) for n in range(0, 100, 10)]
        made = {
            tuple(epoch_order(groups, seed=seed, epoch=e, window=3).tolist()) for seed in range(4) for e in range(4)
        }
        assert len(made) == 16
        assert len({tuple(sorted(order[:30])) for order in made}) > 1

    def test_batches_of_an_epoch(self, clips: Clips) -> None:
        """The batches of an epoch contain each clip once; an incomplete last batch is left out."""
        batches = Batches(ClipSource(clips, SMALL), SMALL, batch_size=4, seed=3)
        keys = [key for number in range(len(batches)) for key in batches[0, number].keys]
        assert sorted(keys) == sorted(clips.key(row) for row in range(12))
        assert keys != [key for number in range(len(batches)) for key in batches[1, number].keys]
        assert len(Batches(ClipSource(clips, SMALL), SMALL, batch_size=5, seed=3)) == 2

    def test_seeds_differ_in_all_that_is_drawn(self, clips: Clips) -> None:
        """Another seed has another order of the clips, other frames of each, and other parts that are generated."""
        shape = Shape({"sound": Reads("windows", 20, part=1)})
        read = [Batches(ClipSource(clips, shape), shape, batch_size=12, seed=seed)[0, 0] for seed in (0, 1)]
        begins = [dict(zip(batch.keys, batch["sound"][:, 0, 0, 0].tolist(), strict=True)) for batch in read]
        assert read[0].keys != read[1].keys
        assert read[0].starts != read[1].starts
        assert begins[0] != begins[1]

    def test_a_window_of_one_shard_does_not_mix_shards(self, clips: Clips) -> None:
        """The clips of as many shards as the window has are shuffled together, and no more."""
        shape = Shape({"sound": Reads("windows", 1)})
        source = ClipSource(clips, shape)
        shards = {frozenset(source.key(int(row)) for row in group) for group in source.groups}
        for window, alone in ((1, True), (3, False)):
            batches = Batches(source, shape, batch_size=4, seed=0, window=window)
            assert ({frozenset(batches[0, number].keys) for number in range(3)} == shards) is alone

    def test_groups_are_shards(self, clips: Clips) -> None:
        """Rows of one shard are one group."""
        assert [group.tolist() for group in ClipSource(clips, SMALL).groups] == [
            [0, 1, 2, 3],
            [4, 5, 6, 7],
            [8, 9, 10, 11],
        ]
        nobody = clips.where(np.zeros(12, bool), "not wanted")
        assert ClipSource(nobody, SMALL).groups == []
        assert len(Batches(ClipSource(nobody, SMALL), SMALL, batch_size=4, seed=0)) == 0

    def test_partners_are_drawn_among_the_clips_of_a_speaker(self, clips: Clips) -> None:
        """Each clip's partner is numpy's draw from all rows of its speaker; without a speaker it is the clip itself."""
        some = replace(clips, speakers=np.where(np.arange(len(clips)) % 5 == 0, -1, clips.speakers[::-1]))
        source = ClipSource(some, SMALL)
        ours, theirs = np.random.default_rng(0), np.random.default_rng(0)
        for row in [*range(len(some))] * 3:
            same = np.flatnonzero(some.speakers == some.speakers[row])
            assert source._partners.draw("speaker", row, ours) == (row if row % 5 == 0 else theirs.choice(same))


class TestProcesses:
    """Processes that read ahead change only the time."""

    @pytest.mark.parametrize("workers", [1, 3])
    def test_any_number_of_processes(
        self, batches: Batches, steps: list[RawBatch], workers: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The same batches in the same order come from any number of processes, slots being used again and again."""
        if hasattr(os, "sched_getaffinity"):
            monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))
        read = copied(training_batches(batches, first=0, last=20, workers=workers))
        assert len(read) == 20
        assert all(same(a, b) for a, b in zip(read, steps, strict=True))

    @pytest.mark.parametrize("workers", [0, 2])
    def test_starting_anywhere(self, batches: Batches, steps: list[RawBatch], workers: int) -> None:
        """A run that starts at a step gets the same batches from there as a run from the beginning."""
        for first in (1, 5, 17):
            read = copied(training_batches(batches, first=first, last=first + 3, workers=workers))
            assert all(same(a, b) for a, b in zip(read, steps[first : first + 3], strict=True))
        assert copied(training_batches(batches, first=4, last=4, workers=workers)) == []

    def test_steps_differ(self, steps: list[RawBatch]) -> None:
        """No two steps are alike, nor is a clip in two epochs; the six frames of twelve begin anywhere."""
        assert not any(same(a, b) for n, a in enumerate(steps) for b in steps[:n])
        assert {batch.starts["frames"] for batch in steps} <= set(range(7))
        assert len({batch.starts["frames"] for batch in steps}) > 3
        frames = {tuple(levels(b["consecutive"])[b.keys.index("s0/yes_00")]) for b in steps if "s0/yes_00" in b.keys}
        assert len(frames) > 1

    def test_ranks(self, clips: Clips, steps: list[RawBatch]) -> None:
        """Two ranks with half a batch each have together the clips and numbers of the whole batch."""
        halves = [
            Batches(ClipSource(clips, SMALL), SMALL, batch_size=4, seed=7, window=2, rank=rank, world=2)
            for rank in range(2)
        ]
        assert all(len(half) == 3 and half.share == 2 for half in halves)
        for whole, *parts in zip(
            steps[:7], *(copied(training_batches(half, first=0, last=7, workers=0)) for half in halves), strict=True
        ):
            joined = RawBatch(
                {name: torch.cat([part[name] for part in parts]) for name in whole.tensors},
                starts=parts[0].starts,
                keys=parts[0].keys + parts[1].keys,
            )
            assert parts[0].starts == parts[1].starts
            assert same(joined, whole)

    @pytest.mark.parametrize("workers", [0, 2])
    def test_a_batch_outlives_the_next(self, batches: Batches, steps: list[RawBatch], workers: int) -> None:
        """A batch is unchanged while the next one is used."""
        before: RawBatch | None = None
        for number, batch in enumerate(training_batches(batches, first=0, last=20, workers=workers)):
            if before is not None:
                assert same(before, steps[number - 1])
            before = batch

    def test_stopping_early(self, batches: Batches, steps: list[RawBatch]) -> None:
        """An iteration that is stopped early can be started again."""
        for _ in range(2):
            running = training_batches(batches, first=0, last=1000, workers=2)
            first = next(running)
            assert same(first, steps[0])
            running.close()  # type: ignore[attr-defined]

    @pytest.mark.parametrize("workers", [0, 2])
    def test_evaluation(self, clips: Clips, workers: int) -> None:
        """Evaluation goes through all clips in order; its last batch is smaller."""
        shape = Shape(READS, image_size=32)
        batches = EvaluationBatches(ClipSource(clips, shape), shape, batch_size=5)
        assert len(batches) == 3
        read = copied(evaluation_batches(batches, workers=workers))
        assert [len(batch.keys) for batch in read] == [len(batch["frames"]) for batch in read] == [5, 5, 2]
        assert [key for batch in read for key in batch.keys] == [clips.key(row) for row in range(12)]
        assert torch.cat([batch["words"] for batch in read]).tolist() == clips.words.tolist()
        assert torch.cat([batch["speakers"] for batch in read]).tolist() == clips.speakers.tolist()
        assert {batch.starts["frames"] for batch in read} == {3}
        assert all(same(batch, batches[number]) for number, batch in enumerate(read))
        few = EvaluationBatches(ClipSource(clips, shape), shape, batch_size=5, limit=7)
        assert [len(batch.keys) for batch in copied(evaluation_batches(few, workers=workers))] == [5, 2]

    @pytest.mark.parametrize("workers", [0, 1])
    def test_nothing_of_a_batch_can_be_read(self, dozen: Path, tmp_path: Path, workers: int) -> None:
        """An evaluation batch in which nothing is readable is empty, gives the reasons, and does not end the others."""
        clips = damaged(dozen, tmp_path / "out", *range(5), 10, 11)
        batches = EvaluationBatches(ClipSource(clips, SMALL), SMALL, batch_size=5)
        read = copied(evaluation_batches(batches, workers=workers))
        assert [(len(batch.keys), len(batch.skipped)) for batch in read] == [(0, 5), (5, 0), (0, 2)]
        assert first_batch(batches).keys == tuple(clips.key(row) for row in range(5, 10))

    @pytest.mark.parametrize("workers", [0, 1])
    def test_nothing_can_be_read(self, dozen: Path, tmp_path: Path, workers: int) -> None:
        """If nothing can be read the caller gets a ShardError of one line that names a file."""
        clips = damaged(dozen, tmp_path / "out", *range(12))
        training = Batches(ClipSource(clips, SMALL), SMALL, batch_size=4, seed=0)
        evaluation = EvaluationBatches(ClipSource(clips, SMALL), SMALL, batch_size=4)
        for batches in (
            training_batches(training, first=0, last=9, workers=workers),
            evaluation_batches(evaluation, workers=workers),
        ):
            with pytest.raises(
                ShardError, match=r"^none of (12|21) clips .*train-00000\d\.tar: s\d/\w+: not a whole"
            ) as told:
                list(batches)
            assert len(str(told.value).splitlines()) == 1

    @pytest.mark.parametrize("workers", [0, 1])
    def test_an_error_of_ours(self, clips: Clips, workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
        """Any other error reaches the caller with its type and its origin."""

        def broken(*_: object) -> None:
            raise ZeroDivisionError("a flaw")

        monkeypatch.setattr(ClipSource, "load", broken)
        batches = Batches(ClipSource(clips, SMALL), SMALL, batch_size=4, seed=0)
        with pytest.raises(ZeroDivisionError, match="a flaw"):
            list(training_batches(batches, first=0, last=AHEAD, workers=workers))

    def test_a_killed_reader_is_one_line(self, clips: Clips, monkeypatch: pytest.MonkeyPatch) -> None:
        """If the kernel kills a process that reads, as for want of memory, one line says so."""
        monkeypatch.setattr(ClipSource, "load", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
        batches = Batches(ClipSource(clips, SMALL), SMALL, batch_size=4, seed=0)
        with (
            pytest.raises(
                RunError, match=r"^a process .* has ended \((killed by signal: Killed|exited unexpectedly)\): .*$"
            ),
            living_readers(),
        ):
            list(training_batches(batches, first=0, last=2, workers=1))

    def test_an_error_in_the_middle_ends_the_program(self, dozen: Path) -> None:
        """A program that fails while processes read ahead ends at once, and these do not outlive it."""
        program = """if True:
            import sys
            from pathlib import Path
            from davs_model.data.batches import Batches
            from davs_model.data.clips import read_clips
            from davs_model.data.loader import training_batches
            from davs_model.data.reads import Reads, Shape
            from davs_model.data.sources import ClipSource
            shape = Shape({"face": Reads("frames", 1, at="portrait")}, image_size=32)
            clips = read_clips(Path(sys.argv[1]), "train")
            batches = Batches(ClipSource(clips, shape), shape, batch_size=4, seed=0)
            running = training_batches(batches, first=0, last=10**6, workers=1)
            next(running)
            raise ZeroDivisionError("a flaw")
        """
        ended = subprocess.run(
            [sys.executable, "-c", program, str(dozen)], capture_output=True, text=True, timeout=100, check=False
        )
        assert ended.returncode == 1
        assert ended.stderr.splitlines()[-1] == "ZeroDivisionError: a flaw"


class TestFrames:
    """Which frames of a clip are read, and in which form."""

    def test_speech(self, clips: Clips) -> None:
        """Twelve frames are read, every second one, with the windows of the same frames, all of real audio."""
        batches = Batches(ClipSource(clips, FULL), FULL, batch_size=4, seed=1)
        begins = set()
        for number in range(len(batches)):
            batch = batches[0, number]
            for clip, windows in zip(levels(batch["frames"]), batch["windows"], strict=True):
                assert clip == list(range(clip[0], clip[0] + 24, 2))
                assert (windows == torch.tensor(clip)[:, None, None]).all()
                assert clip[0] >= 2
                assert clip[-1] <= 26
                begins.add(clip[0])
        assert begins == {2, 3, 4}

    def test_consecutive_and_identity(self, clips: Clips) -> None:
        """Twenty consecutive frames, and one single frame, are read from anywhere in the clip."""
        batches = Batches(ClipSource(clips, FULL), FULL, batch_size=12, seed=1)
        read = [batches[epoch, 0] for epoch in range(3)]
        stretches = [clip for batch in read for clip in levels(batch["consecutive"])]
        assert all(clip == list(range(clip[0], clip[0] + 20)) for clip in stretches)
        assert {clip[0] for clip in stretches} >= {0, 9}
        single = {frame for batch in read for (frame,) in levels(batch["identity_frame"])}
        assert single <= set(range(29))
        assert len(single) > 12
        assert min(single) < 5
        assert max(single) > 23

    def test_the_middle(self, clips: Clips) -> None:
        """Evaluation takes the middle of a clip."""
        batch = EvaluationBatches(ClipSource(clips, FULL), FULL, batch_size=1)[0]
        assert levels(batch["frames"]) == [list(range(3, 26, 2))]
        assert levels(batch["consecutive"]) == [list(range(4, 24))]
        assert levels(batch["identity_frame"]) == [[14]]

    @settings(deadline=None, max_examples=200)
    @given(st.integers(23, 60), st.integers(0, 59), st.integers(0, 60), st.none() | st.integers(0, 9))
    def test_real_sound_where_possible(self, n_frames: int, first: int, count: int, seed: int | None) -> None:
        """Windows of real audio are used if there are enough of them, and always a part of the clip."""
        valid = np.zeros(n_frames, bool)
        valid[first : first + count] = True
        rng = None if seed is None else np.random.default_rng(seed)
        frames = sound_stretch(valid, 12, 2, rng)
        assert frames == list(range(frames[0], frames[0] + 24, 2))
        assert 0 <= frames[0] <= frames[-1] < n_frames
        if valid.sum() >= 23:
            assert valid[frames].all()

    def test_a_stretch_is_anywhere(self) -> None:
        """All positions of a stretch are drawn, the first and last too."""
        rng = np.random.default_rng(0)
        begins = {stretch(29, 20, 1, rng)[0] for _ in range(300)}
        assert begins == set(range(10))
        assert stretch(20, 20, 1, rng) == list(range(20))

    def test_colours(self, tmp_path: Path) -> None:
        """A red image is red: channels are RGB."""
        made_shards.write(tmp_path, [Made("red")], picture=red)
        batch = EvaluationBatches(ClipSource(read_clips(tmp_path, "train"), FULL), FULL, batch_size=1)[0]
        for frames in (batch["identity_frame"], batch["frames"], batch["consecutive"]):
            assert (frames.float().mean((0, 1, 2, 3)) - torch.tensor([250.0, 10, 20])).abs().max() < 4
        pictures = batch.to(torch.device("cpu"))["frames"]
        assert pictures[0, 0, 0].mean() > 0.9
        assert pictures[0, 0, 1:].mean() < 0.1

    def test_only_what_a_stage_needs(self, clips: Clips) -> None:
        """Inputs that a stage does not need take no memory and are not read."""
        shape = Shape(PORTRAIT, image_size=64)
        batch = Batches(ClipSource(clips, shape), shape, batch_size=4, seed=0)[0, 0]
        assert batch["identity_frame"].shape == (4, 1, 64, 64, 3)
        assert batch.tensors.keys() == {"identity_frame", *LABELS}
        assert shape.shortest() == 1
        assert Shape(chosen(READS, ("frames", "windows"))).shortest() == 23
        assert Shape(READS).shortest() == 23

    def test_reads_of_any_model(self, clips: Clips, monkeypatch: pytest.MonkeyPatch) -> None:
        """Reading windows alone does not read frames, and reads with `beside` are of the same frames."""
        columns: list[str] = []
        read = ClipSource.read

        def watched(self: ClipSource, row: int, column: str, frames: Any, **more: bool) -> dict[str, bytes]:
            columns.append(column)
            return read(self, row, column, frames, **more)

        monkeypatch.setattr(ClipSource, "read", watched)
        sound = {"sound": Reads("windows", 5, every=3, at="sound", part=2)}
        shape = Shape(sound)
        batch = Batches(ClipSource(clips, shape), shape, batch_size=4, seed=0)[0, 0]
        assert set(columns) == {"mfcc"}
        assert batch.tensors.keys() == {"sound", *LABELS}
        assert batch.starts["sound"] in range(4)
        assert (batch["sound"][:, 1:, 0, 0] - batch["sound"][:, :-1, 0, 0] == 3).all()
        assert shape.shortest() == 13
        both = Shape({**sound, "mouth": Reads("frames", 5, beside="sound")}, image_size=32)
        batch = Batches(ClipSource(clips, both), both, batch_size=4, seed=0)[0, 0]
        assert levels(batch["mouth"]) == batch["sound"][:, :, 0, 0].int().tolist()

    def test_moved_as_one(self, scenes: Clips) -> None:
        """All frames of a clip are shifted and mirrored alike, exactly as by repeated edges and mirroring."""
        shape = Shape(READS, flip=True, shift=3)
        still = ClipSource(scenes, FULL)
        source = ClipSource(scenes, shape)
        moves = set()
        for draw in range(8):
            batch = empty_batch(shape, 1)
            source.load(draw % 2, batch, 0, np.random.default_rng(draw))
            unmoved = empty_batch(FULL, 1)
            still.load(draw % 2, unmoved, 0, np.random.default_rng(draw))  # draws the same frames
            one, other = batch["identity_frame"][0, 0], unmoved["identity_frame"][0, 0].numpy()
            (found,) = [
                (x, y, mirror)
                for x in range(-3, 4)
                for y in range(-3, 4)
                for mirror in (False, True)
                if np.array_equal(one, moved(other, x, y, mirror))
            ]
            moves.add(found)
            for name in ("frames", "consecutive"):
                for after, before in zip(batch[name][0], unmoved[name][0], strict=True):
                    assert np.array_equal(after, moved(before.numpy(), *found))
        assert {mirror for _, _, mirror in moves} == {False, True}
        assert len(moves) > 6

    def test_unmoved(self, scenes: Clips) -> None:
        """Without flips and shifts, images are those that were written; evaluation never augments them."""
        shape = Shape(READS, flip=True, shift=3)
        batch = EvaluationBatches(ClipSource(scenes, shape), shape, batch_size=2)[0]
        for clip in range(2):
            assert np.array_equal(batch["identity_frame"][clip, 0], scene(14))
            assert all(np.array_equal(frame, scene(3 + 2 * n)) for n, frame in enumerate(batch["frames"][clip]))
            assert all(np.array_equal(frame, scene(4 + n)) for n, frame in enumerate(batch["consecutive"][clip]))
        drawn = Batches(ClipSource(scenes, FULL), FULL, batch_size=2, seed=0)[0, 0]
        assert any(np.array_equal(drawn["identity_frame"][0, 0], scene(frame)) for frame in range(29))

    @pytest.mark.parametrize("side", [32, 100, 128])
    def test_smaller(self, scenes: Clips, side: int) -> None:
        """Smaller images are the full ones, augmented and then reduced by area averaging."""
        small = Shape(READS, image_size=side, flip=True, shift=2)
        full = Shape(READS, flip=True, shift=2)
        little, large = empty_batch(small, 1), empty_batch(full, 1)
        for seed in range(4):
            ClipSource(scenes, small).load(1, little, 0, np.random.default_rng(seed))
            ClipSource(scenes, full).load(1, large, 0, np.random.default_rng(seed))
            for name in ("identity_frame", "frames", "consecutive"):
                for one, other in zip(little[name][0], large[name][0], strict=True):
                    assert np.array_equal(one, cv2.resize(other.numpy(), (side, side), interpolation=cv2.INTER_AREA))

    def test_what_a_network_gets(self, clips: Clips) -> None:
        """On a device frames are float32 [B, T, 3, S, S], value / 255; the rest is unchanged."""
        raw = Batches(ClipSource(clips, SMALL), SMALL, batch_size=4, seed=0)[0, 1]
        batch = raw.to(torch.device("cpu"))
        for before, after in ((raw[name], batch[name]) for name in ("identity_frame", "frames", "consecutive")):
            assert after.dtype == torch.float32
            assert after.shape == (*before.shape[:2], 3, 32, 32)
            assert torch.equal(after, before.permute(0, 1, 4, 2, 3).float() / 255)
            assert 0 <= after.min() <= after.max() <= 1
        assert torch.equal(batch["windows"], raw["windows"])
        assert batch["windows"].dtype == torch.float32
        assert torch.equal(batch["words"], raw["words"])
        assert torch.equal(batch["speakers"], raw["speakers"])
        assert batch["frames_start"] == raw.starts["frames"]


def moved(picture: NDArray[np.uint8], x: int, y: int, mirror: bool) -> NDArray[np.uint8]:
    """Return an image mirrored, then shifted with its edges repeated."""
    rows, columns = np.arange(len(picture)), np.arange(picture.shape[1])
    source = picture[:, ::-1] if mirror else picture
    return source[np.clip(rows - y, 0, len(picture) - 1)][:, np.clip(columns - x, 0, picture.shape[1] - 1)]


class TestUnreadable:
    """Only the clips that cannot be read are lost."""

    @pytest.mark.parametrize("workers", [0, 1])
    def test_another_takes_its_place(self, dozen: Path, tmp_path: Path, workers: int) -> None:
        """A training batch stays full and lists the lost clip with the reason; the result is always the same."""
        clips = damaged(dozen, tmp_path / "out", 1, 6, 7)
        lost = {clips.key(row) for row in (1, 6, 7)}
        batches = Batches(ClipSource(clips, SMALL), SMALL, batch_size=4, seed=5)
        whole = Batches(ClipSource(read_clips(dozen, "train"), SMALL), SMALL, batch_size=4, seed=5)
        read = copied(training_batches(batches, first=0, last=3, workers=workers))
        assert {key for batch in read for key, _ in batch.skipped} == lost
        substitutes = set()
        for batch, before in zip(read, copied(training_batches(whole, first=0, last=3, workers=0)), strict=True):
            assert len(batch.keys) == len(batch["frames"]) == 4
            assert not lost & set(batch.keys)
            assert all(f"{key}: not a whole sample" in why and ".tar: " in why for key, why in batch.skipped)
            for place, key in enumerate(before.keys):  # the others are unchanged
                assert batch.keys[place] == key or key in lost
                assert key in lost or torch.equal(batch["frames"][place], before["frames"][place])
                substitutes |= {batch.keys[place]} - {key}
        assert len(substitutes) > 1
        again = Batches(ClipSource(clips, SMALL), SMALL, batch_size=4, seed=5)
        assert all(same(again[0, number], batch) for number, batch in enumerate(read))

    def test_evaluation_leaves_it_out(self, dozen: Path, tmp_path: Path) -> None:
        """An evaluation batch is smaller by the lost clip, and the labels are still those of the remaining clips."""
        clips = damaged(dozen, tmp_path / "out", 0, 6)
        shape = Shape(READS, image_size=32)
        read = copied(evaluation_batches(EvaluationBatches(ClipSource(clips, shape), shape, batch_size=4), workers=0))
        assert [len(batch.keys) for batch in read] == [len(batch["words"]) for batch in read] == [3, 3, 4]
        assert [key for batch in read for key, _ in batch.skipped] == [clips.key(0), clips.key(6)]
        kept = [row for row in range(12) if row not in (0, 6)]
        assert [key for batch in read for key in batch.keys] == [clips.key(row) for row in kept]
        assert torch.cat([batch["words"] for batch in read]).tolist() == clips.words[kept].tolist()

    def test_a_tar_that_is_gone(self, dozen: Path, tmp_path: Path) -> None:
        """A tar that disappears during a run costs its clips."""
        clips = damaged(dozen, tmp_path / "out")
        (tmp_path / "out" / "mfcc" / "train-000001.tar").unlink()
        read = EvaluationBatches(ClipSource(clips, SMALL), SMALL, batch_size=12)[0]
        assert len(read.keys) == 8
        assert all("No such file" in why for _, why in read.skipped)


class TestFaces:
    """Folders of faces."""

    shape = Shape(PORTRAIT, image_size=256)

    @staticmethod
    def make(folder: Path, *names: str) -> Path:
        """Write images of one colour, a different one each."""
        for n, name in enumerate(names):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            picture = np.full((40 + 100 * n, 60, 3), (200, 100, 10 * n), np.uint8)[:, :, ::-1]  # OpenCV writes BGR
            (folder / name).write_bytes(cv2.imencode(".png", np.ascontiguousarray(picture))[1].tobytes())
        return folder

    def test_people_and_pictures(self, tmp_path: Path) -> None:
        """People are the sorted folders, at any depth below; images become square; other files are ignored."""
        self.make(tmp_path, "zoe/1.png", "Ann/b/2.PNG", "Ann/1.jpg", "müller/x.jpeg")
        (tmp_path / "zoe" / "notes.txt").write_text("none")
        (tmp_path / "alone.png").write_bytes(b"")
        (tmp_path / "nobody").mkdir()
        faces = FaceFolder(tmp_path, self.shape)
        assert faces.people == ("Ann", "müller", "zoe")
        batch = EvaluationBatches(faces, self.shape, batch_size=9)[0]
        assert batch.keys == ("Ann/1.jpg", "Ann/b/2.PNG", "müller/x.jpeg", "zoe/1.png")
        assert batch["speakers"].tolist() == [0, 0, 1, 2]
        assert batch["words"].tolist() == [-1] * 4
        assert batch["identity_frame"].shape == (4, 1, 256, 256, 3)
        for picture, blue in zip(batch["identity_frame"][:, 0], (20, 10, 30, 0), strict=True):
            assert (picture == torch.tensor([200, 100, blue], dtype=torch.uint8)).all()

    def test_moved_and_smaller(self, tmp_path: Path) -> None:
        """An image is resized to the size of a crop, augmented like a crop, then reduced."""
        (tmp_path / "ann").mkdir()
        (tmp_path / "ann" / "1.png").write_bytes(cv2.imencode(".png", scene(0)[:200, :180, ::-1].copy())[1].tobytes())
        shape = Shape(PORTRAIT, image_size=64, flip=True, shift=3)
        batch = empty_batch(shape, 1)
        square = cv2.resize(scene(0)[:200, :180], (256, 256), interpolation=cv2.INTER_AREA)
        for seed in range(5):
            FaceFolder(tmp_path, shape).load(0, batch, 0, np.random.default_rng(seed))
            move = Augmentation.draw(np.random.default_rng(seed), shift=3, flip=True)
            small = cv2.resize(moved(square, *move), (64, 64), interpolation=cv2.INTER_AREA)
            assert np.array_equal(batch["identity_frame"][0, 0], small)

    @pytest.mark.parametrize("change", [{"jitter": 0.2}, {"warp": 0.1}])
    def test_colours_and_shapes_change(self, tmp_path: Path, change: dict[str, float]) -> None:
        """Images are tinted and warped like frames of clips: anew in each draw, but not in evaluation."""
        (tmp_path / "Ann").mkdir()
        cv2.imwrite(str(tmp_path / "Ann" / "1.png"), np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))
        batch = empty_batch(shape := replace(self.shape, **change), 4)
        for place, rng in enumerate((None, None, np.random.default_rng(1), np.random.default_rng(2))):
            FaceFolder(tmp_path, shape).load(0, batch, place, rng)
        (name,) = shape.reads
        assert [torch.equal(batch[name][0], batch[name][place]) for place in (1, 2, 3)] == [True, False, False]
        assert not torch.equal(batch[name][2], batch[name][3])

    @pytest.mark.parametrize("name", ["ann/2.jpg", os.fsdecode(b"ann/\xff.jpg")], ids=["plain", "no-utf-8"])
    def test_no_picture(self, tmp_path: Path, name: str) -> None:
        """A file that is not an image is skipped and named by its path, whatever its bytes."""
        self.make(tmp_path, "ann/1.png", "bob/1.png")
        (tmp_path / name).write_bytes(b"no picture")
        faces = FaceFolder(tmp_path, self.shape)
        batch = EvaluationBatches(faces, self.shape, batch_size=9)[0]
        assert batch.keys == ("ann/1.png", "bob/1.png")
        assert batch.skipped == ((name, f"{tmp_path / name}: not a JPEG or PNG picture"),)
        training = Batches(faces, self.shape, batch_size=3, seed=0)[0, 0]
        assert len(training.keys) == 3
        assert name not in training.keys

    def test_none_at_all(self, tmp_path: Path) -> None:
        """A folder without images of people is refused by its name."""
        (tmp_path / "ann").mkdir()
        (tmp_path / "face.png").write_bytes(b"")
        for folder in (tmp_path, tmp_path / "gone"):
            with pytest.raises(ShardError, match=f"^{folder}: no pictures"):
                FaceFolder(folder, self.shape)


class TestPictures:
    """Images and their augmentation."""

    @staticmethod
    def encoded(kind: str, *options: int, picture: NDArray[Any] | None = None) -> bytes:
        """Return a smooth image of 70×50, which JPEG preserves well."""
        if picture is None:
            x, y = np.meshgrid(np.arange(70), np.arange(50))
            picture = np.stack([2 * x + 20, 3 * y + 20, x + y], 2).astype(np.uint8)
        return cv2.imencode(kind, picture, options)[1].tobytes()

    @pytest.mark.parametrize(
        ("kind", "options"),
        [
            (".jpg", (cv2.IMWRITE_JPEG_PROGRESSIVE, 1)),
            (".jpg", (cv2.IMWRITE_JPEG_QUALITY, 95, cv2.IMWRITE_JPEG_RST_INTERVAL, 4)),
            (".jpg", (cv2.IMWRITE_JPEG_OPTIMIZE, 1)),
            (".png", ()),
        ],
        ids=["progressive", "restarts", "optimised", "png"],
    )
    def test_kinds(self, kind: str, options: tuple[int, ...]) -> None:
        """JPEGs of all kinds and PNGs are decoded as RGB, and their size is known beforehand."""
        data = self.encoded(kind, *options)
        assert picture_size(data) == (70, 50)
        picture = decode_picture(data, (70, 50))
        assert picture.shape == (50, 70, 3)
        assert picture.dtype == np.uint8
        bgr = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        assert np.array_equal(picture, bgr[:, :, ::-1])

    @pytest.mark.parametrize(
        "array",
        [np.zeros((50, 70), np.uint8), np.zeros((50, 70, 4), np.uint8), np.full((50, 70, 3), 65535, np.uint16)],
        ids=["grey", "transparent", "16 bits"],
    )
    def test_odd_pngs(self, array: NDArray[Any]) -> None:
        """Grey, transparent and 16-bit PNGs become RGB of 8 bits."""
        picture = decode_picture(self.encoded(".png", picture=array))
        assert (picture.shape, picture.dtype) == ((50, 70, 3), np.uint8)
        assert picture.min() == picture.max() == (255 if array.dtype == np.uint16 else 0)

    def test_not_turned(self) -> None:
        """An EXIF orientation does not rotate an image: its size stays that of the header."""
        note = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
        plain = self.encoded(".jpg")
        data = plain[:2] + b"\xff\xe1" + (len(note) + 2).to_bytes(2, "big") + note + plain[2:]
        assert cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR).shape == (70, 50, 3)
        assert np.array_equal(decode_picture(data), decode_picture(plain))

    def test_fill_bytes(self) -> None:
        """Fill bytes before a marker, as some cameras write them, are ignored."""
        plain = self.encoded(".jpg")
        begin = plain.index(b"\xff\xc0")
        data = plain[:begin] + b"\xff\xff" + plain[begin:]
        assert picture_size(data) == (70, 50)
        assert np.array_equal(decode_picture(data), decode_picture(plain))

    @settings(deadline=None, max_examples=100)
    @given(st.sampled_from([".jpg", ".png"]), st.data())
    def test_damaged(self, kind: str, data: st.DataObject) -> None:
        """A truncated or changed image is decoded or refused with one line, and never has another size."""
        content = bytearray(self.encoded(kind))
        for place in data.draw(st.lists(st.integers(0, len(content) - 1), max_size=3)):
            content[place] = data.draw(st.integers(0, 255))
        cut = bytes(content[: data.draw(st.integers(0, len(content)))])
        try:
            assert decode_picture(cut, (70, 50)).shape == (50, 70, 3)
        except ShardError as error:
            assert len(str(error).splitlines()) == 1  # noqa: PT017 - either is right

    def test_too_large(self) -> None:
        """An image of any size is accepted if none is required, except one too large for memory."""
        data = bytearray(self.encoded(".jpg"))
        place = data.index(b"\xff\xc0") + 5
        data[place : place + 4] = b"\xff\xff\xff\xff"
        with pytest.raises(ShardError, match="65535×65535: too large"):
            decode_picture(bytes(data))

    @settings(deadline=None, max_examples=60)
    @given(st.integers(-9, 9), st.integers(-9, 9), st.booleans(), st.sampled_from([256, 128, 50]))
    def test_moves(self, x: int, y: int, mirror: bool, side: int) -> None:
        """An augmentation equals mirroring and shifting with repeated edges."""
        target = np.zeros((side, side, 3), np.uint8)
        Augmentation(x, y, mirror).into(target, scene(1).copy())
        expected = moved(scene(1), x, y, mirror)
        if side != 256:
            expected = cv2.resize(expected, (side, side), interpolation=cv2.INTER_AREA)
        assert np.array_equal(target, expected)

    def test_draws(self) -> None:
        """Shifts are drawn from the whole range, half of them mirrored; without random numbers or need none are."""
        rng = np.random.default_rng(0)
        drawn = [Augmentation.draw(rng, shift=2, flip=True) for _ in range(400)]
        assert {move.x for move in drawn} == {move.y for move in drawn} == {-2, -1, 0, 1, 2}
        assert 150 < sum(move.mirror for move in drawn) < 250
        assert {Augmentation.draw(rng, shift=0, flip=False) for _ in range(20)} == {Augmentation()}
        assert Augmentation.draw(None, shift=5, flip=True) == Augmentation()
