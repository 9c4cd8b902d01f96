"""Whether mouths move as they should, measured on images whose motion is known."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from davs_model.data.pictures import MOUTH_BOX, region
from davs_model.evaluation.metrics import talking
from davs_model.evaluation.metrics.talking import INNER_MOUTH, TalkingScores

SIDE, T = 64, 20


def face(seed: int, course: Tensor) -> Tensor:
    """A still face `[T, 3, 64, 64]` whose mouth opens by a curve `[T]`: dark stripes between the lips."""
    generator = torch.Generator().manual_seed(seed)
    frames = (0.4 + 0.2 * torch.rand(1, 3, SIDE, SIDE, generator=generator)).repeat(len(course), 1, 1, 1)
    rows, columns = region(INNER_MOUTH, SIDE)
    frames[..., rows, columns] = 0.5
    frames[..., rows.start : rows.stop : 2, columns] -= 0.4 * course[:, None, None, None]
    return frames


def course(seed: int) -> Tensor:
    """Return the mouth opening over time, from 0 to 1."""
    return torch.rand(T, generator=torch.Generator().manual_seed(100 + seed))


def measured(generated: list[Tensor], real: list[Tensor]) -> talking.Talking:
    """Measure clips whose identity frame is the first one."""
    scores = TalkingScores()
    for drawn, truth in zip(generated, real, strict=True):
        scores.add(truth, drawn, slice(0, T), identity=0, repeated=truth[:1].expand_as(truth))
    return scores.result()


REAL = [face(n, course(n)) for n in range(12)]


def test_a_perfect_film_has_perfect_scores() -> None:
    """Frames equal to the real ones have correlations of 1, are all retrieved, and beat the repeated frame."""
    found = measured(REAL, REAL)
    assert found.opening_r == pytest.approx(1, abs=1e-6)
    assert found.motion_r == pytest.approx(1, abs=1e-6)
    assert found.amplitude == pytest.approx(1)
    assert (found.r1, found.cosine_r1, found.better, found.median_rank) == (1, 1, 1, 1)
    assert found.mouth_psnr == pytest.approx(80)
    assert found.mouth_ssim == pytest.approx(1)


def test_a_still_picture_does_not_talk() -> None:
    """The repeated identity frame has no motion and no correlation, and retrieves no clip."""
    still = [frames[:1].expand_as(frames) for frames in REAL]
    found = measured(still, REAL)
    assert (found.opening_r, found.motion_r, found.flicker) == (0, 0, 0)
    assert found.amplitude == pytest.approx(0, abs=1e-4)  # rounding
    assert found.r1 == pytest.approx(1 / len(REAL))  # the clip with the least mouth motion
    assert found.cosine_r1 == 0
    assert found.better == 0


def test_motion_of_another_clip_is_told_from_the_right_one() -> None:
    """The right mouths on other faces are retrieved all the same; those of the next clip are not."""
    right = [face(50 + n, course(n)) for n in range(12)]
    wrong = [face(n, course((n + 1) % 12)) for n in range(12)]
    of_right, of_wrong = measured(right, REAL), measured(wrong, REAL)
    assert of_right.r1 == 1
    assert of_right.opening_r == pytest.approx(1, abs=1e-4)
    assert of_wrong.r1 == 0
    assert abs(of_wrong.opening_r) < 0.3
    scores = {"audio": vars(of_right), "wrong_audio": vars(of_wrong)}
    assert talking.talks(scores) is True
    assert talking.talks({"audio": vars(of_wrong), "wrong_audio": vars(of_wrong)}) is False
    assert talking.talks({"audio": vars(of_right)}) is None


@pytest.mark.parametrize(
    ("opening_r", "motion_r", "talks"), [(0.1, 0.05, True), (0.099, 0.9, False), (0.9, 0.049, False)]
)
def test_talking_takes_a_lead_in_both_correlations(opening_r: float, motion_r: float, talks: bool) -> None:
    """The right audio must exceed the wrong one by a tenth in opening and by half of that in motion."""
    scores = {"audio": {"opening_r": opening_r, "motion_r": motion_r}, "wrong_audio": {"opening_r": 0, "motion_r": 0}}
    assert talking.talks(scores) is talks


def test_a_mouth_that_moves_half_as_far_has_half_the_amplitude() -> None:
    """Half the motion has an amplitude of a half, and still a correlation of 1."""
    half = [face(n, course(n) / 2) for n in range(12)]
    found = measured(half, REAL)
    assert found.amplitude == pytest.approx(0.5, abs=1e-3)
    assert found.motion_r == pytest.approx(1, abs=1e-4)


def test_a_real_mouth_that_never_moves_has_no_amplitude() -> None:
    """A clip whose real mouth is still is not in the mean amplitude, which is 0 if all are."""
    still = REAL[11][:1].expand_as(REAL[11])
    assert measured(REAL, [*REAL[:11], still]).amplitude == pytest.approx(1)
    assert measured(REAL[11:], [still]).amplitude == 0


def test_the_median_of_the_ranks_is_that_of_retrieval() -> None:
    """For ranks 0, 0, 2 and 3 the median is 1, so MedR is 2."""
    real = [face(n, course(n) * scale) for n, scale in enumerate((0.1, 0.3, 0.6, 1))]
    still = REAL[5][:1].expand_as(REAL[5])  # nearest to the clip with the least motion
    scores = measured([real[0], real[1], still, still], real)
    assert scores.median_rank == 2


def test_still_mouths_find_clips_by_how_little_they_move() -> None:
    """Of twelve clips with increasing motion, a still mouth retrieves one first, and ten among the first ten."""
    real = [face(n, course(0) * (n + 1) / 12) for n in range(12)]
    found = measured([one[:1].expand_as(one) for one in real], real)
    assert (found.r1, found.r10, found.median_rank) == (pytest.approx(1 / 12), pytest.approx(10 / 12), 6)


def test_clips_of_other_lengths_are_compared_where_all_have_frames() -> None:
    """Clips are retrieved by the frames that all of them have, and measured in their spans alone."""
    scores = TalkingScores()
    for n, length in enumerate((T, T - 5, T - 2)):
        scores.add(REAL[n][:length], REAL[n][:length], slice(2, length - 1), identity=0)
    assert (scores.result().r1, len(scores)) == (1, 3)
    assert scores.result().opening_r == pytest.approx(1, abs=1e-6)


def test_a_span_of_the_identity_frame_alone_is_measured_in_it() -> None:
    """If only the identity frame is in the span, errors are those of that frame, and there is no flicker."""
    scores = TalkingScores()
    scores.add(REAL[0], REAL[0] + 0.1, slice(3, 4), identity=3)
    found = scores.result()
    assert found.mouth_psnr == pytest.approx(20, abs=1e-3)
    assert found.flicker == 0


def test_the_identity_frame_is_left_out_of_errors() -> None:
    """An identity frame that is copied to the output does not raise PSNR."""
    drawn = REAL[0].clone()
    drawn[1:] += 0.1
    scores = TalkingScores()
    scores.add(REAL[0], drawn, slice(0, T), identity=0)
    assert scores.result().mouth_psnr == pytest.approx(20, abs=1e-3)


def test_mouths_are_compared_in_structure_where_they_fill_a_window() -> None:
    """Frames of 44 pixels, whose mouth box is as high as SSIM's window, have an SSIM; those of 40 have none."""
    assert talking.mouth_ssim(REAL[0][..., :44, :44], REAL[0][..., :44, :44]) == pytest.approx(1)
    assert math.isnan(talking.mouth_ssim(REAL[0][..., :40, :40], REAL[0][..., :40, :40]))


def test_flicker_is_measured_outside_the_mouth() -> None:
    """A moving mouth is no flicker; an image that alternates by four grey levels has a flicker of four."""
    assert talking.flicker(REAL[0]) == 0
    trembling = REAL[0].clone()
    trembling[::2] += 4 / 255
    assert talking.flicker(trembling) == pytest.approx(4, abs=1e-3)
    rows, columns = region(MOUTH_BOX, SIDE)
    assert (rows.stop - rows.start, columns.stop - columns.start) == (16, 32)


def test_a_picture_that_brightens_evenly_has_no_second_difference() -> None:
    """A constant step per frame is flicker of that step; the second difference shows only changes of the step."""
    steps = torch.arange(5)[:, None, None, None] / 255
    even = torch.full((5, 3, SIDE, SIDE), 0.2) + steps
    assert talking.flicker(even) == pytest.approx(1, abs=1e-3)
    assert talking.second_difference(even) == pytest.approx(0, abs=1e-3)
    assert talking.second_difference(torch.full((5, 3, SIDE, SIDE), 0.2) + steps**2 * 255) == pytest.approx(2, abs=1e-3)


def test_sequences_that_are_all_alike_find_nothing() -> None:
    """Ties count against the right clip."""
    assert talking.sequence_ranks(torch.zeros(5, 3), torch.ones(5, 3)).tolist() == [4] * 5
