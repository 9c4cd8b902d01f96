"""The contrastive loss of the sync model: its formula, written out, and which windows it compares."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from davs_model.models.sync import Settings
from davs_model.models.sync import model as sync
from davs_model.models.sync.loss import contrast
from davs_model.models.sync.networks import Temperature

SCALE = torch.tensor(6.0, dtype=torch.float64)


def units(seed: int, *shape: int) -> Tensor:
    """Draw unit vectors in float64."""
    drawn = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.nn.functional.normalize(drawn, dim=-1)


def written_out(video: Tensor, audio: Tensor, valid: Tensor, scale: float, nearest: int, others: float) -> float:
    """Return the mean of −log(e^s_ii ÷ (e^s_ii + Σ negatives)), over both directions and all valid windows."""
    windows = [(clip, time) for clip in range(len(valid)) for time in range(valid.shape[1]) if valid[clip, time]]
    total = 0.0
    for asked, found in ((video, audio), (audio, video)):
        for clip, time in windows:
            right = math.exp(scale * float(asked[clip, time] @ found[clip, time]))
            negatives = 0.0
            for other, at in windows:
                score = math.exp(scale * float(asked[clip, time] @ found[other, at]))
                if other != clip:
                    negatives += others * score
                elif abs(at - time) >= nearest:
                    negatives += score
            total -= math.log(right / (right + negatives))
    return total / (2 * len(windows))


@pytest.mark.parametrize(("nearest", "others"), [(2, 0.02), (5, 0.02), (2, 0.0), (3, 1.0)])
def test_the_loss_is_its_formula(nearest: int, others: float) -> None:
    """Each window finds its own among far ones of its clip and, at a low weight, those of other clips, both ways."""
    video, audio, valid = units(0, 3, 7, 8), units(1, 3, 7, 8), torch.ones(3, 7, dtype=torch.bool)
    found = contrast(video, audio, valid, SCALE, nearest=nearest, others=others)
    assert float(found) == pytest.approx(written_out(video, audio, valid, 6.0, nearest, others), rel=1e-9)


@pytest.mark.parametrize("others", [0.02, 0.0])
def test_windows_beyond_the_audio_are_left_out(others: float) -> None:
    """A window that is not valid is neither sought nor a negative, and its features get no gradient."""
    video, audio = units(0, 3, 7, 8), units(1, 3, 7, 8)
    valid = torch.ones(3, 7, dtype=torch.bool)
    valid[0, 5:] = valid[2] = False
    expected = written_out(video, audio, valid, 6.0, 2, others)
    found = contrast(video.requires_grad_(), audio.requires_grad_(), valid, SCALE, nearest=2, others=others)
    assert float(found.detach()) == pytest.approx(expected, rel=1e-9)
    found.backward()
    for features in (video, audio):
        assert features.grad is not None
        moved = features.grad.abs().sum(-1) > 0
        assert torch.equal(moved, valid)


def test_without_a_valid_window_nothing_is_learned() -> None:
    """Where no clip of the batch has a valid window, the loss and its gradients are 0."""
    video, audio = units(0, 2, 5, 8).requires_grad_(), units(1, 2, 5, 8)
    found = contrast(video, audio, torch.zeros(2, 5, dtype=torch.bool), SCALE, nearest=2, others=0.02)
    found.backward()
    assert float(found.detach()) == 0
    assert video.grad is not None
    assert not video.grad.any()


def test_negatives_are_far_at_first_and_near_at_the_end() -> None:
    """For half of the first pass negatives are 8 frames away or more, at its end 2."""
    settings = Settings.resolve("small").contrast
    found = [sync._nearest(settings, progress) for progress in (0.0, 0.5, 0.75, 1.0)]
    assert found == [8, 8, 5, 2]


def test_the_first_temperature_is_seven_hundredths() -> None:
    """Similarities are divided by .07 at first, which is learned, and never by less than a hundredth."""
    temperature = Temperature()
    assert float(temperature.scale().detach()) == pytest.approx(1 / 0.07)
    assert [parameter.requires_grad for parameter in temperature.parameters()] == [True]
    temperature.inverse_log.data.fill_(9.0)
    assert float(temperature.scale().detach()) == 100
