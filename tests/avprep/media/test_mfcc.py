"""MFCC steps and windows, tested against recorded values and against the formulas written out."""

from __future__ import annotations

import math
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from python_speech_features import mfcc as reference_mfcc

from avprep.media import mfcc


@pytest.fixture(scope="module")
def golden(shared: Path) -> dict[str, NDArray[np.generic]]:
    """Values of the authors' own code."""
    with np.load(shared / "reference" / "mfcc" / "golden.npz") as values:
        return dict(values)


def speech(seconds: float = 1.5, seed: int = 0) -> NDArray[np.int16]:
    """Noise with a moving spectrum, int16, 16 kHz."""
    rng = np.random.default_rng(seed)
    n = int(16000 * seconds)
    t = np.arange(n) / 16000
    tone = np.sin(2 * np.pi * (300 + 400 * np.sin(3 * t)) * t)
    return np.asarray(np.clip(4000 * tone + rng.normal(0, 500, n), -32768, 32767), np.int16)


@pytest.mark.parametrize("name", ["tone", "speech", "speech2"])
def test_davs_equals_the_authors_chain(golden: dict[str, NDArray[np.generic]], name: str) -> None:
    """Every step of the `davs` preset equals that of the released MATLAB code to 1e-6."""
    ours = mfcc.coefficients(golden[f"{name}_pcm16"])
    np.testing.assert_allclose(ours.T, golden[f"{name}_ceps"], rtol=0, atol=1e-6)


def test_windows_equal_the_recorded_ones(golden: dict[str, NDArray[np.generic]]) -> None:
    """The windows of a clip equal those that the authors' code cuts, coefficient × time."""
    samples = np.asarray(golden["tone_pcm16"], np.int16)
    windows, valid, _ = mfcc.clip_windows(samples, 0, 29, "davs")
    index = golden["tone_window_index"]
    recorded = np.asarray(golden["tone_windows_20x12"]).transpose(0, 2, 1).astype(np.float32)
    np.testing.assert_array_equal(windows[index], recorded)
    assert valid[index].all()


def test_davs_follows_its_formulas() -> None:
    """A step equals the written-out chain: pre-emphasis, Hamming, magnitudes, mel triangles, log, DCT, lifter."""
    samples = speech(0.1)
    x = samples.astype(float)
    y = [x[0]] + [x[n] - 0.97 * x[n - 1] for n in range(1, len(x))]
    frame = [y[160 + n] * (0.54 - 0.46 * math.cos(2 * math.pi * n / 399)) for n in range(400)]
    spectrum = np.abs(np.fft.fft(frame, 512))[:257]
    to_mel, from_mel = lambda f: 1127 * math.log(1 + f / 700), lambda m: 700 * (math.exp(m / 1127) - 1)
    low, high = to_mel(300), to_mel(3700)
    edges = [from_mel(low + (high - low) * k / 14) for k in range(15)]
    energies = []
    for m in range(1, 14):
        total = 0.0
        for k in range(257):
            f = k * 16000 / 512
            rise = (f - edges[m - 1]) / (edges[m] - edges[m - 1])
            fall = (edges[m + 1] - f) / (edges[m + 1] - edges[m])
            total += max(0.0, min(rise, fall)) * spectrum[k]
        energies.append(math.log(max(total, 1.0)))
    expected = [
        math.sqrt(2 / 13)
        * sum(e * math.cos(math.pi * n * (m - 0.5) / 13) for m, e in enumerate(energies, 1))
        * (1 + 11 * math.sin(math.pi * n / 22))
        for n in range(13)
    ]
    np.testing.assert_allclose(mfcc.coefficients(samples)[1], expected, rtol=0, atol=1e-9)


def test_syncnet_is_python_speech_features() -> None:
    """The `syncnet` preset is that package's default MFCC, without its zero-padded last step."""
    samples = speech()
    theirs = reference_mfcc(samples, 16000)
    ours = mfcc.coefficients(samples, "syncnet")
    assert len(ours) == mfcc.n_steps(samples.size)
    np.testing.assert_allclose(ours, theirs[: len(ours)], rtol=0, atol=1e-9)


def test_kept_davs_coefficients_ignore_loudness() -> None:
    """Coefficients 1 … 12 of `davs` do not depend on the level: int16 scale, floats of at most 1, or louder."""
    samples = speech()
    base = mfcc.coefficients(samples)[:, 1:]
    np.testing.assert_allclose(mfcc.coefficients(samples / 32768.0)[:, 1:], base, rtol=0, atol=1e-9)
    np.testing.assert_allclose(mfcc.coefficients(samples * 2.0)[:, 1:], base, rtol=0, atol=1e-9)


@pytest.mark.parametrize("preset", mfcc.PRESETS)
@pytest.mark.parametrize("peak", [0.5, 1.0])
def test_floats_of_at_most_one_are_in_int16_scale(preset: mfcc.Preset, peak: float) -> None:
    """Floats of at most 1 give the coefficients of the same audio in int16 scale, also with a preceding sample."""
    samples = speech(0.1) * (32768 * peak / 8000)
    samples[7] = 32768 * peak
    samples = samples.clip(-32768 * peak, 32768 * peak)
    for previous in (None, 900.0):
        scaled = mfcc.coefficients(samples / 32768, preset, previous=None if previous is None else previous / 32768)
        np.testing.assert_allclose(scaled, mfcc.coefficients(samples, preset, previous=previous), rtol=0, atol=1e-9)


def test_davs_has_a_floor_of_one() -> None:
    """A filter without energy counts as 1, whose logarithm is 0; so digital silence is all 0."""
    assert (mfcc.coefficients(np.zeros(1000, np.int16)) == 0).all()


@pytest.mark.parametrize(("level", "silent"), [(32, True), (33, False)])
def test_steps_below_minus_60_db_are_silent(level: int, silent: bool) -> None:
    """The threshold of silence is a thousandth of full scale, 32.8."""
    assert (mfcc.silent_steps(np.full(2000, level, np.int16), 0) == silent).all()


@pytest.mark.parametrize("preset", mfcc.PRESETS)
def test_digital_silence_is_finite_and_flagged(preset: mfcc.Preset) -> None:
    """Silence gives finite windows, and each of its steps counts as silent."""
    windows, _, silent = mfcc.clip_windows(np.zeros(18560, np.int16), 0, 29, preset)
    assert np.isfinite(windows).all()
    assert silent.all()


@pytest.mark.parametrize(("first", "step"), [(0, 0), (37, 1)])
def test_loud_steps_are_not_silent(first: int, step: int) -> None:
    """Only steps with audible audio count as loud, wherever the audio begins."""
    samples = np.zeros(16000, np.int16)
    samples[8000:8400] = 3000
    _, _, silent = mfcc.clip_windows(samples[first:], first, 25, "davs")
    loud = {c for c in range(98) if 160 * c + 400 > 8000 and 160 * c < 8400}
    assert set(step + np.flatnonzero(~silent)) == loud
    assert np.array_equal(mfcc.silent_steps(samples[first:], first), silent)


@pytest.mark.parametrize(("n_samples", "last"), [(18560, 25), (18880, 26), (19456, 27)])
def test_valid_frames_of_an_lrw_length_clip(n_samples: int, last: int) -> None:
    """Of 29 frames exactly those whose window has all 20 steps are valid: 2 … 25 for 18,560 samples."""
    _, valid, _ = mfcc.clip_windows(speech(2)[:n_samples], 0, 29, "davs")
    assert list(np.flatnonzero(valid)) == list(range(2, last + 1))


def test_real_sound_around_the_clip_is_used() -> None:
    """Windows at the clip's ends contain the audio before and after it, as if the clip were cut from a longer one."""
    samples = speech(3)
    start = 640 * 20
    whole = mfcc.coefficients(samples)
    used = samples[start - mfcc.SAMPLES_BEFORE : start + 640 * 29 + mfcc.SAMPLES_AFTER]
    windows, valid, _ = mfcc.clip_windows(used, -mfcc.SAMPLES_BEFORE, 29, "davs")
    assert valid.all()
    for i in (0, 14, 28):
        step = start // 160 + 4 * (i - 2)
        np.testing.assert_allclose(windows[i], whole[step : step + 20, 1:].T, rtol=0, atol=1e-5)


def test_missing_steps_repeat_the_nearest() -> None:
    """Where the source has no audio, the nearest real step is repeated and the frame is not valid."""
    samples = speech(1.16)
    windows, valid, _ = mfcc.clip_windows(samples, 3200, 29, "davs")  # audio starts 200 ms late
    assert not valid[:7].any()
    assert valid[8]
    assert (windows[0] == windows[0][:, :1]).all()
    np.testing.assert_array_equal(windows[0][:, 0], mfcc.coefficients(samples)[0, 1:].astype(np.float32))


@given(st.integers(-2000, 4000), st.integers(0, 9000), st.integers(1, 12))
@settings(max_examples=60, deadline=None)
def test_windows_agree_with_a_literal_reading(first: int, n_samples: int, n_frames: int) -> None:
    """For any stretch of audio each window step is that of sample 160·c, or the nearest real one."""
    rng = np.random.default_rng(5)
    source = rng.integers(-3000, 3000, 16000).astype(np.int16)
    offset = 6000  # position of the clip's start in the source
    samples = source[offset + first : offset + first + n_samples]
    windows, valid, silent = mfcc.clip_windows(samples, first, n_frames, "davs")
    whole = {
        c: mfcc.coefficients(
            source[offset + 160 * c : offset + 160 * c + 400], previous=float(source[offset + 160 * c - 1])
        )
        for c in range(-20, 100)
        if offset + 160 * c + 400 <= source.size
    }
    real = [c for c in whole if first < 160 * c and 160 * c + 400 <= first + n_samples]
    at_start = [c for c in whole if 160 * c == first and 160 * c + 400 <= first + n_samples]
    assert silent.size == len(real) + len(at_start)
    if at_start or not real:
        return  # the first step then has no preceding sample, so its pre-emphasis differs
    for i in range(n_frames):
        wanted = [4 * (i - 2) + k for k in range(20)]
        assert valid[i] == all(c in real for c in wanted)
        for k, c in enumerate(wanted):
            nearest = min(real, key=lambda r: abs(r - c))
            np.testing.assert_allclose(windows[i, :, k], whole[nearest][0, 1:], rtol=0, atol=2e-5)


def test_blocks_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps computed in blocks equal those computed at once."""
    samples = speech()
    at_once = mfcc.coefficients(samples)
    monkeypatch.setattr(mfcc, "_BLOCK", 7)
    np.testing.assert_allclose(mfcc.coefficients(samples), at_once, rtol=0, atol=1e-12)


def test_memory_is_that_of_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    """Besides its windows, long audio takes the memory of one block, not several times its own size."""
    samples = np.zeros(2_000_000, np.int16)
    monkeypatch.setattr(mfcc, "_BLOCK", 100)
    tracemalloc.start()
    windows, _, _ = mfcc.clip_windows(samples, 0, 5, "davs")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak - windows.nbytes < samples.nbytes


def test_too_little_sound_has_no_step() -> None:
    """Less than 25 ms of audio gives no step, and raises an error."""
    windows, valid, silent = mfcc.clip_windows(np.ones(399, np.int16), 0, 5, "davs")
    assert silent.size == 0
    assert not valid.any()
    assert windows.shape == (5, 12, 20)
