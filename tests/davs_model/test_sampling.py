"""Which frames of a clip are read: every valid position is drawn, and no other one."""

from __future__ import annotations

import numpy as np
import pytest

from davs_model.data import sampling
from davs_model.data.reads import Reads, Shape

SEEDS = range(300)


def rng(seed: int = 0) -> np.random.Generator:
    """Random numbers of a seed."""
    return np.random.default_rng(seed)


def test_a_stretch_may_begin_anywhere_and_without_chance_in_the_middle() -> None:
    """Every position between the first frame and the end is drawn, and without random numbers the middle one."""
    assert {sampling.stretch(12, 3, 2, rng(n), first=4)[0] for n in SEEDS} == {4, 5, 6, 7}
    assert sampling.stretch(13, 3, 2, None, first=4) == [6, 8, 10]


def test_sound_that_is_just_long_enough_is_taken() -> None:
    """A stretch stays within the frames with real audio if these are enough, and may be anywhere otherwise."""
    valid = np.zeros(20, bool)
    valid[7:12] = True
    assert {tuple(sampling.sound_stretch(valid, 3, 2, rng(n))) for n in SEEDS} == {(7, 9, 11)}
    valid[11] = False
    assert {sampling.sound_stretch(valid, 3, 2, rng(n))[0] for n in SEEDS} == set(range(16))


@pytest.mark.parametrize(
    ("start", "end", "begins"),
    [
        (10, 15, range(7, 14)),
        (10, 14, range(7, 14)),
        (10, 16, range(7, 14)),
        (0, 3, range(3)),
        (27, 30, range(23, 26)),
        (-9, 0, range(1)),
    ],
)
def test_frames_lie_around_a_word_within_three(start: float, end: float, begins: range) -> None:
    """The middle of five frames is that of the word, shifted by up to three frames, but never out of the clip."""
    word = np.array([0.0, start, end])
    drawn = [sampling.word_stretch(30, word, 5, 1, rng(n)) for n in SEEDS]
    assert {frames[0] for frames in drawn} == set(begins)
    assert all(frames == list(range(frames[0], frames[0] + 5)) for frames in drawn)


@pytest.mark.parametrize(
    ("words", "part"),
    [
        ([(10, 14), (16, 20)], (7, 24)),
        ([(1, 4), (20, 28)], (0, 30)),
        ([], (5, 26)),
        ([(40, 50)], (29, 30)),
        ([(-9, -8)], (0, 1)),
    ],
)
def test_a_mouth_moves_around_its_words_else_where_sound_is(
    words: list[tuple[int, int]], part: tuple[int, int]
) -> None:
    """Speech begins 3 frames before the first word and ends 4 after the last; without words it is the real audio."""
    valid = np.zeros(30, bool)
    valid[5:26] = True
    timed = np.array([(0, *times) for times in words], np.float64).reshape(-1, 3)
    assert sampling.spoken_part(30, timed, valid) == part
    assert sampling.spoken_part(30, np.empty((0, 3)), np.zeros(30, bool)) == (0, 30)


def test_most_moments_are_drawn_while_somebody_speaks() -> None:
    """85 % of the moments are drawn from speech, the others from the whole clip; without randomness they are spread."""
    drawn = np.array(sampling.moments(100, (40, 50), 20_000, rng()))
    assert np.mean((drawn >= 40) & (drawn < 50)) == pytest.approx(0.85 + 0.15 * 0.1, abs=0.01)
    assert set(drawn.tolist()) == set(range(100))
    assert sampling.moments(100, (40, 50), 5, None) == [41, 43, 45, 47, 49]


def test_spread_frames_lie_in_the_middle_of_equal_parts() -> None:
    """Frames are spread evenly; in a shorter clip some are repeated."""
    assert sampling.spread(10, 5) == [1, 3, 5, 7, 9]
    assert sampling.spread(2, 4) == [0, 0, 1, 1]


def test_what_is_kept_apart_is_eight_frames_away_or_as_far_as_can_be() -> None:
    """A portrait is drawn from the frames at least eight away; a shorter clip gives one of the furthest."""
    assert {sampling.apart(30, [10, 12], rng(n)) for n in SEEDS} == {0, 1, 2, *range(20, 30)}
    assert {sampling.apart(9, [4], rng(n)) for n in SEEDS} == {0, 8}


def test_the_part_that_is_generated_may_be_the_last() -> None:
    """Each first frame of a part is drawn in some batch of an epoch, and evaluation uses the middle one."""
    shape = Shape({"targets": Reads("frames", 9, part=4), "windows": Reads("windows", 9)})
    drawn = [sampling.drawn_starts(shape, seed=1, epoch=2, number=n) for n in range(60)]
    assert {tuple(starts.items()) for starts in drawn} == {(("targets", first),) for first in range(6)}
    assert sampling.middle_starts(shape) == {"targets": 2}


def test_rows_of_a_window_of_groups_are_mixed() -> None:
    """Rows of the groups of a window are mixed, then those of the next window, and each epoch has its own order."""
    groups = [np.arange(10 * n, 10 * n + 10) for n in range(4)]
    orders = [sampling.epoch_order(groups, seed=1, epoch=epoch, window=2) for epoch in range(2)]
    for order in orders:
        assert sorted(order.tolist()) == list(range(40))
        halves = [set((half // 10).tolist()) for half in np.split(order, 2)]
        assert [len(half) for half in halves] == [2, 2]
        assert any(len(set((ten // 10).tolist())) == 2 for ten in np.split(order, 4))
    assert orders[0].tolist() != orders[1].tolist()
    assert len(sampling.epoch_order([], seed=1, epoch=0, window=2)) == 0


def test_every_row_has_random_numbers_of_its_own_in_every_epoch() -> None:
    """The random numbers of a row differ by seed, epoch and row; those of evaluation's portraits by seed and row."""
    drawn = [sampling.clip_rng(*key).random() for key in ((1, 2, 3), (2, 2, 3), (1, 3, 3), (1, 2, 4))]
    drawn += [sampling.portrait_rng(*key).random() for key in ((1, 3), (2, 3), (1, 4))]
    assert len(set(drawn)) == len(drawn)


def test_a_row_that_cannot_be_read_has_twenty_substitutes() -> None:
    """The candidates of a row are the row and then twenty others, always the same, and others for another row."""
    first, again, other = (list(sampling.candidates(row, 1000)) for row in (7, 7, 8))
    assert (first[0], len(first), first == again) == (7, 21, True)
    assert first[1:] != other[1:]
