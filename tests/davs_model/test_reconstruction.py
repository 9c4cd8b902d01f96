"""PSNR, SSIM and L1 of frames: each equals its definition, whatever the batches, and refuses invalid frames."""

from __future__ import annotations

import math
from dataclasses import asdict, astuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage import data as pictures
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure

from davs_model.evaluation.metrics import reconstruction
from davs_model.evaluation.metrics.reconstruction import Reconstructions, psnr, ssim

seeds = st.integers(0, 2**16)


def frames(seed: int, *shape: int, noise: float = 0.1) -> tuple[Tensor, Tensor]:
    """Draw real frames in float64 and generated ones with some noise."""
    generator = torch.Generator().manual_seed(seed)
    real = torch.rand(shape, generator=generator, dtype=torch.float64)
    generated = real + noise * torch.randn(shape, generator=generator, dtype=torch.float64)
    return real, generated.clamp(0, 1)


def portrait() -> tuple[Tensor, Tensor]:
    """Return an image of a face and a blurred version of it, float64 `[1, 3, 200, 256]`."""
    sharp = torch.from_numpy(pictures.astronaut()[:200, 100:356] / 255).permute(2, 0, 1)[None]
    return sharp, torch.nn.functional.avg_pool2d(sharp, 7, stride=1, padding=3)


def library_ssim(real: Tensor, generated: Tensor) -> list[float]:
    """Return the SSIM of each frame by scikit-image with the settings of Wang et al."""
    return [
        structural_similarity(
            x, y, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1.0, channel_axis=0
        )
        for x, y in zip(real.double().numpy(), generated.double().numpy(), strict=True)
    ]


def slow_ssim(real: list[list[float]], generated: list[list[float]]) -> float:
    """Return the SSIM of one colour channel, window by window: weights, means, variances, formula."""
    weights = [[math.exp(-(i * i + j * j) / (2 * 1.5**2)) for j in range(-5, 6)] for i in range(-5, 6)]
    total = sum(map(sum, weights))
    found = []
    for top in range(len(real) - 10):
        for left in range(len(real[0]) - 10):
            window = [
                (weights[i][j] / total, real[top + i][left + j], generated[top + i][left + j])
                for i in range(11)
                for j in range(11)
            ]
            mean_x, mean_y = sum(w * x for w, x, _ in window), sum(w * y for w, _, y in window)
            variances = sum(w * ((x - mean_x) ** 2 + (y - mean_y) ** 2) for w, x, y in window)
            covariance = sum(w * (x - mean_x) * (y - mean_y) for w, x, y in window)
            luminance = (2 * mean_x * mean_y + 0.01**2) / (mean_x**2 + mean_y**2 + 0.01**2)
            found.append(luminance * (2 * covariance + 0.03**2) / (variances + 0.03**2))
    return sum(found) / len(found)


# PSNR and SSIM of a frame


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_psnr_and_ssim_agree_with_scikit_image(dtype: torch.dtype) -> None:
    """Frames of any float type score as by scikit-image for the same numbers, a portrait format too."""
    for real, generated in (frames(0, 3, 3, 40, 32), frames(1, 2, 3, 24, 24, noise=0.5), portrait()):
        x, y = real.to(dtype), generated.to(dtype)
        ratios = [
            peak_signal_noise_ratio(one.numpy(), other.numpy(), data_range=1.0)
            for one, other in zip(x.double(), y.double(), strict=True)
        ]
        torch.testing.assert_close(psnr(x, y), torch.tensor(ratios, dtype=torch.float64), rtol=1e-6, atol=0)
        similarities = torch.tensor(library_ssim(x, y), dtype=torch.float64)
        torch.testing.assert_close(ssim(x, y), similarities, rtol=0, atol=1e-10)


@pytest.mark.parametrize(("height", "width"), [(11, 11), (13, 12)])
def test_ssim_is_the_formula(height: int, width: int) -> None:
    """SSIM is the mean of the paper's formula over the windows that fit, and over colour channels."""
    real, generated = frames(2, 2, 3, height, width)
    expected = [
        np.mean([slow_ssim(x, y) for x, y in zip(one, other, strict=True)])
        for one, other in zip(real.tolist(), generated.tolist(), strict=True)
    ]
    torch.testing.assert_close(ssim(real, generated), torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-12)


def test_ssim_is_that_of_torchmetrics_away_from_the_border() -> None:
    """Torchmetrics, in float64 and without its padded windows, gives the same values."""
    real, generated = frames(3, 2, 3, 30, 36)
    _, places = structural_similarity_index_measure(
        generated, real, data_range=1.0, reduction="none", return_full_image=True
    )
    expected = places[..., 5:-5, 5:-5].mean((1, 2, 3))
    torch.testing.assert_close(ssim(real, generated), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize(("one", "other"), [(0.0, 1.0), (0.9, 0.97), (0.5, 0.5 + 1 / 255), (0.0, 0.0)])
def test_flat_frames_differ_in_brightness_alone(one: float, other: float) -> None:
    """Without contrast SSIM is (2xy + c₁)/(x² + y² + c₁), to the last digits, and PSNR −20·log₁₀|x − y|."""
    x, y = torch.full((1, 3, 64, 64), one, dtype=torch.float64), torch.full((1, 3, 64, 64), other, dtype=torch.float64)
    expected = (2 * one * other + 1e-4) / (one**2 + other**2 + 1e-4)
    assert float(ssim(x, y)) == pytest.approx(expected, abs=1e-10)
    assert float(psnr(x, y)) == pytest.approx(
        -20 * math.log10(abs(one - other)) if one != other else math.inf, abs=1e-5
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_identical_frames_are_perfect(dtype: torch.dtype) -> None:
    """Equal frames, flat or not, have SSIM 1 exactly and infinite PSNR, and do not affect other frames."""
    real, generated = (side.to(dtype) for side in frames(4, 4, 3, 50, 50))
    real[3] = 0.9
    generated[[0, 3]] = real[[0, 3]]
    assert ssim(real, generated)[[0, 3]].tolist() == [1, 1]
    assert psnr(real, generated)[[0, 3]].tolist() == [math.inf, math.inf]
    assert bool((ssim(real, generated)[1:3] < 1).all() and psnr(real, generated)[1:3].isfinite().all())


def test_frames_are_independent() -> None:
    """A frame's scores do not depend on the other frames, and are in order, over several chunks."""
    count = 2 * reconstruction.CHUNK + 1
    one, other = frames(5, 1, 3, 12, 12)
    real = one.expand(count, -1, -1, -1)
    generated = one + torch.linspace(0, 1, count)[:, None, None, None] * (other - one)
    for measure in (psnr, ssim):
        together = measure(real, generated)
        apart = torch.cat([measure(real[[n]], generated[[n]]) for n in range(count)])
        torch.testing.assert_close(together, apart, rtol=1e-12, atol=1e-12)
        assert together.tolist() == sorted(together.tolist(), reverse=True)


def test_mixed_precision_around_it_changes_no_score() -> None:
    """Scores are computed in float64 under autocast too."""
    real, generated = (side.float() for side in frames(6, 2, 3, 32, 32))
    with torch.autocast("cpu", torch.bfloat16):
        found = psnr(real, generated), ssim(real, generated)
    torch.testing.assert_close(found, (psnr(real, generated), ssim(real, generated)), rtol=0, atol=0)


def test_scores_carry_no_gradients() -> None:
    """Frames generated with gradients give scores without."""
    real, generated = frames(7, 1, 3, 12, 12)
    assert not psnr(real, generated.requires_grad_()).requires_grad
    assert not ssim(real, generated).requires_grad


@pytest.mark.gpu
def test_scores_on_a_gpu_are_those_on_the_cpu() -> None:
    """CUDA gives the CPU's scores, TensorFloat-32 or not, and identical frames are perfect there too."""
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    real, generated = (side.float() for side in frames(8, 20, 3, 256, 256))
    generated[0] = real[0]
    with torch.autocast("cuda", torch.bfloat16):
        ratios, similarities = psnr(real.cuda(), generated.cuda()), ssim(real.cuda(), generated.cuda())
    assert ratios.device.type == similarities.device.type == "cuda"
    assert float(similarities[0]) == 1
    torch.testing.assert_close(ratios.cpu(), psnr(real, generated), rtol=1e-7, atol=0)
    torch.testing.assert_close(similarities.cpu(), ssim(real, generated), rtol=0, atol=1e-10)


good = torch.full((2, 3, 16, 16), 0.5)


@pytest.mark.parametrize(
    ("real", "generated", "complaint"),
    [
        (good, good[:1], "differ in shape"),
        (good[0], good[0], r"should be \[N, 3, H, W\]"),
        (good[:, :1], good[:, :1], r"should be \[N, 3, H, W\]"),
        (good[:0], good[:0], "no frames"),
        (good, torch.full_like(good, math.nan), "generated frames are not finite"),
        (torch.full_like(good, math.inf), good, "real frames are not finite"),
        (good * 255, good, "real frames span 127.5 to 127.5"),
        (good, good - 1, "generated frames span -0.5"),
        (good.byte(), good.byte(), "torch.uint8; they should be float"),
    ],
)
def test_what_is_no_frame_is_refused(real: Tensor, generated: Tensor, complaint: str) -> None:
    """Shapes that differ or do not fit, no frames, and values outside the range of brightness raise ValueError."""
    for measure in (psnr, ssim):
        with pytest.raises(ValueError, match=complaint):
            measure(real, generated)
    with pytest.raises(ValueError, match=complaint):
        Reconstructions().add(real, generated)


@pytest.mark.parametrize("shape", [(1, 3, 10, 30), (1, 3, 30, 10), (3,)])
def test_frames_smaller_than_the_window_have_no_ssim(shape: tuple[int, ...]) -> None:
    """A frame that is smaller than the window raises ValueError."""
    with pytest.raises(ValueError, match="smaller than SSIM's window of 11"):
        ssim(torch.zeros(shape), torch.zeros(shape))


def test_rounding_is_no_wrong_range() -> None:
    """Frames that leave [0, 1] by resizing's rounding are accepted."""
    assert float(ssim(good + 0.5 + 1e-6, good)[0]) < 1


# Many frames


@settings(deadline=None)
@given(seeds, st.lists(st.integers(1, 4), min_size=1, max_size=4), st.sets(st.integers(0, 3)))
def test_batches_change_nothing(seed: int, sizes: list[int], equal: set[int]) -> None:
    """Frames in batches of any size give the means over all; identical ones are counted but left out of PSNR."""
    real, generated = frames(seed, sum(sizes), 3, 12, 12)
    same = [n for n in equal if n < len(real)]
    generated[same] = real[same]
    kept = Reconstructions()
    for x, y in zip(real.split(sizes), generated.split(sizes), strict=True):
        kept.add(x, y)
    others = [n for n in range(len(real)) if n not in same]
    assert asdict(kept.result()) == pytest.approx(
        {
            "psnr": float(psnr(real[others], generated[others]).mean()) if others else math.inf,
            "ssim": float(ssim(real, generated).mean()),
            "l1": float((real - generated).abs().mean()),
            "identical": len(same),
            "n_frames": len(real),
        }
    )


def test_frames_that_are_all_identical_are_perfect() -> None:
    """If no frame differs, PSNR is infinite, SSIM 1 and L1 0."""
    kept = Reconstructions()
    kept.add(good, good.clone())
    assert astuple(kept.result()) == (math.inf, 1, 0, 2, 2)


def test_a_batch_that_is_refused_is_not_counted() -> None:
    """After a ValueError the means are those of the previous frames."""
    kept = Reconstructions()
    kept.add(good, good * 0.9)
    before = kept.result()
    with pytest.raises(ValueError, match="not finite"):
        kept.add(good, good * math.nan)
    assert kept.result() == before


def test_no_frames_have_no_means() -> None:
    """The result before any frame raises ValueError."""
    with pytest.raises(ValueError, match="no frames"):
        Reconstructions().result()
