"""The terms of AMIE: the bounds of mutual information, the networks that each term updates, attention."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from davs_model.models.amie import curve, losses, masks
from davs_model.models.amie.curve import FAR, shift_curve
from davs_model.models.amie.networks import AMIE
from davs_model.models.amie.networks.estimator import Estimator

pytestmark = pytest.mark.usefixtures("one_thread")


def test_the_bounds_are_their_closed_forms() -> None:
    """On given logits both bounds equal the formulas of the papers."""
    joint, marginal = torch.tensor([0.3, -1.2, 2.0]), torch.tensor([-0.7, 0.1])
    p, q = joint.numpy().astype(float), marginal.numpy().astype(float)
    js = np.mean([-math.log(1 + math.exp(-t)) for t in p]) - np.mean([math.log(1 + math.exp(t)) for t in q])
    dv = p.mean() - math.log(np.mean(np.exp(q)))
    assert float(losses.bound(joint, marginal, "js")) == pytest.approx(js, abs=1e-6)
    assert float(losses.bound(joint, marginal, "dv")) == pytest.approx(dv, abs=1e-6)


def test_the_bound_of_jensen_and_shannon_has_its_ends() -> None:
    """The bound is 0 for a T that separates all pairs, and −2 log 2 for an uninformative T of 0."""
    certain = losses.bound(torch.full((4,), 40.0), torch.full((4,), -40.0), "js")
    nothing = losses.bound(torch.zeros(4), torch.zeros(9), "js")
    assert float(certain) == pytest.approx(0, abs=1e-6)
    assert float(nothing) + losses.DROP == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("correlation", [0.0, 0.7])
def test_a_trained_estimator_finds_the_information_of_gaussians(correlation: float) -> None:
    """T, trained with JS and evaluated with DV, gives −½ log(1 − ρ²) for correlated Gaussians within 10 %."""
    torch.manual_seed(1)
    estimator = Estimator(width=0.05, audio_width=0.05, image_size=64)
    adam = torch.optim.Adam(estimator.classifier.parameters(), 2e-3)
    ways = torch.randn(2, 256) / 4

    def scores(clips: int) -> torch.Tensor:
        noise = torch.randn(2, clips, 2, 1)
        second = correlation * noise[0] + math.sqrt(1 - correlation**2) * noise[1]
        return estimator(noise[0] * ways[0], second * ways[1])

    def parts(found: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        same = torch.eye(2, dtype=torch.bool).expand_as(found)
        return found[same], found[~same]

    for step in range(400):
        for group in adam.param_groups:
            group["lr"] = 2e-3 * (1 - step / 400)
        loss = -losses.bound(*parts(scores(64)), "js")
        adam.zero_grad()
        loss.backward()
        adam.step()
    with torch.no_grad():
        measured = float(losses.bound(*parts(scores(30_000)), "dv"))
    truth = -0.5 * math.log(1 - correlation**2)
    assert measured == pytest.approx(truth, rel=0.1, abs=0.01)


def test_pairs_are_of_one_instant_or_three_apart_and_heard() -> None:
    """Joint pairs are of one instant, marginal ones at least three apart; frames that are not heard are in neither."""
    heard = torch.ones(1, 8, dtype=torch.bool)
    heard[0, 5] = False
    joint, marginal = losses.pairs(torch.tensor([2, 5]), torch.arange(8), heard)
    assert joint[0].nonzero().tolist() == [[0, 2]]
    assert marginal[0].nonzero().tolist() == [[0, 6], [0, 7]]


def test_without_pairs_there_is_no_coherence() -> None:
    """A batch in which nothing is heard has a coherence of 0 and a finite gradient."""
    scores = torch.randn(2, 3, 4, requires_grad=True)
    none = torch.zeros(2, 3, 4, dtype=torch.bool)
    found = losses.coherence(scores, none, none)
    found.backward()
    assert float(found.detach()) == 0
    assert scores.grad is not None
    assert bool((scores.grad == 0).all())


class Discriminator(nn.Module):
    """A small discriminator in place of D."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.5))

    def forward(self, frames: torch.Tensor, windows: torch.Tensor) -> torch.Tensor:
        """Return a logit for each frame."""
        return self.weight * frames.mean((2, 3, 4)) + windows.mean((2, 3))


def test_each_side_of_the_discriminator_moves_its_own() -> None:
    """`frame_loss` has a gradient for D alone, `frame_confusion` for generated frames alone; both are as written."""
    real, windows = torch.rand(2, 3, 3, 8, 8), torch.rand(2, 3, 12, 20)
    generated = torch.rand(2, 3, 3, 8, 8, requires_grad=True)
    discriminator = Discriminator()
    loss = losses.frame_loss(discriminator, real, generated, windows)
    loss.backward()
    assert generated.grad is None
    assert discriminator.weight.grad is not None
    true, false = discriminator(real, windows).sigmoid(), discriminator(generated, windows).sigmoid()
    assert float(loss.detach()) == pytest.approx(
        float((-true.log().mean() - (1 - false).log().mean()).detach()), abs=1e-5
    )
    discriminator.weight.grad = None
    confusion = losses.frame_confusion(discriminator, generated, windows)
    confusion.backward()
    assert discriminator.weight.grad is None
    assert generated.grad is not None
    assert float(confusion.detach()) == pytest.approx(float(-false.log().mean().detach()), abs=1e-5)


def test_perceptual_loss_counts_maps_alike() -> None:
    """A relative error of feature maps counts the same at any scale of the maps."""
    maps = torch.randn(2, 3, 4, 5, 5)
    once = losses.perceptual_loss([maps], [1.1 * maps])
    assert float(once) == pytest.approx(0.01, rel=1e-3)
    assert float(losses.perceptual_loss([maps, 100 * maps], [1.1 * maps, 110 * maps])) == pytest.approx(float(once))


def test_attention_falls_and_ends_at_one() -> None:
    """r is drawn from .7–.9 at first, from .1–.3 late, from ranges in between otherwise, and is 1 in the last tenth."""
    ranges = {0.0: (0.7, 0.9), 0.15: (0.7, 0.9), 0.425: (0.4, 0.6), 0.7: (0.1, 0.3), 0.89: (0.1, 0.3), 0.9: (1, 1)}
    for progress, expected in ranges.items():
        assert masks.attention_range(progress) == pytest.approx(expected)
    assert [losses.teaching(x) for x in (0.0, 0.1, 0.2, 1.0)] == pytest.approx([1, 0.5, 0, 0])


@pytest.mark.parametrize("side", [64, 256])
def test_a_mask_hides_what_attention_sees(side: int) -> None:
    """M is 1 away from the mouth, r inside its box, and 1 everywhere if r is 1."""
    first = masks.first_attention(side)
    masked = masks.mask(first, 0.2, side)[0, 0]
    rows, columns = slice(200 * side // 256, 208 * side // 256), slice(100 * side // 256, 156 * side // 256)
    assert masked[rows, columns].numpy() == pytest.approx(0.2, abs=1e-5)
    assert bool((masked[: side // 2] == 1).all())
    assert bool((masks.mask(first, 1.0, side) == 1).all())


def test_lips_lie_on_the_corners_of_the_mouth() -> None:
    """Attention learns an ellipse through the mouth corners at their slant; without corners, the motion in the box."""
    corners = torch.tensor([[[[100.0, 195.0], [156.0, 215.0]], [[math.nan] * 2, [math.nan] * 2]]])
    real = torch.zeros(1, 2, 3, 256, 256)
    real[0, 1, :, 200:216, 120:136] = 1.0
    lips = masks.lips(corners, real)[0]
    weight = lips[0] / lips[0].sum()
    grid = torch.arange(64) + 0.5
    x, y = float((weight.sum(0) * grid).sum()), float((weight.sum(1) * grid).sum())
    assert (4 * x, 4 * y) == pytest.approx((128, 205), abs=2)
    slant = (weight * (grid[:, None] - y) * (grid[None] - x)).sum()
    assert float(slant) > 0
    assert float(lips[1, 51, 31]) == 1.0
    assert float(lips[1].sum()) == pytest.approx(16, abs=1)


def test_mask_loss_looks_at_the_box_alone() -> None:
    """The cross-entropy of attention covers only the pixels of the widened box."""
    logits, lips = torch.randn(1, 1, 16, 16), torch.rand(1, 1, 16, 16)
    inside = masks.wide_box(64)[0, 0].bool()
    expected = functional.binary_cross_entropy_with_logits(logits[..., inside], lips[..., inside])
    changed = torch.where(inside, logits, 9.0)
    assert float(losses.mask_loss(changed, lips)) == pytest.approx(float(expected))


class Clocks(nn.Module):
    """An estimator that reads the instants encoded in frames and windows."""

    def encode(self, frames: torch.Tensor, windows: torch.Tensor, _: object) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the instants themselves."""
        return frames[..., 0, 0, 0], windows[..., 0, 0]

    def forward(self, images: torch.Tensor, sounds: torch.Tensor) -> torch.Tensor:
        """Return a high logit if both are of the same instant."""
        return 3.0 - 2 * (images[:, :, None] - sounds[:, None]).abs()


def test_the_curve_compares_few_pairs_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pairs of a long clip, which grow with its square, are compared in parts, with the same curve."""
    torch.manual_seed(0)
    model = AMIE(n_words=3, width=0.05, image_size=64).eval()
    clip = (torch.rand(1, 40, 3, 64, 64), torch.randn(1, 40, 12, 20), None, torch.ones(40, dtype=torch.bool))
    counts: list[int] = []

    def counted(_: object, inputs: tuple[Tensor, ...]) -> None:
        counts.append(inputs[0].shape[1])

    model.estimator.register_forward_pre_hook(counted)
    found = shift_curve(model, [clip])
    monkeypatch.setattr(curve, "AT_ONCE", 40)
    whole = shift_curve(model, [clip])
    assert counts == [32, 8, 40]
    assert found.bound == pytest.approx(whole.bound, abs=1e-4)
    assert found.area == pytest.approx(whole.area, abs=1e-2)


def test_the_curve_peaks_where_sound_and_picture_agree() -> None:
    """For an estimator that identifies instants, the bound is highest at the true shift of the audio."""
    for late in (0, 2):
        instants = torch.arange(40.0)
        frames = instants.view(1, 40, 1, 1, 1).expand(-1, -1, 3, 4, 4)
        windows = (instants - late).view(1, 40, 1, 1).expand(-1, -1, 12, 20)
        model = type("Model", (), {"estimator": Clocks()})()
        found = shift_curve(model, [(frames, windows, None, torch.ones(40, dtype=torch.bool))])
        assert max(found.bound, key=lambda shift: found.bound[shift]) == late
        assert (found.n_clips, found.n_pairs) == (1, 40)
        assert found.area == pytest.approx(1.0 if late == 0 else found.area)
        assert found.bound[late] > 0 > found.bound[late + FAR]
