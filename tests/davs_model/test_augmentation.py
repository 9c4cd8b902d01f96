"""Faces are warped and voices stretched consistently in everything that is read of a clip."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from avprep.demo.speech import perform, speak, speaker
from avprep.media.mfcc import coefficients
from davs_model.data.pictures import WHOLE, Warp, shown
from davs_model.data.sound import warped_voice
from davs_model.models.davs.networks.speech import Voice, sound_statistics

MOUTH = (144, 248, 76, 180)


def test_a_stretched_voice_is_that_of_another_vocal_tract() -> None:
    """Stretching brings a voice's cepstra nearer to those of a tract shorter by a ninth; the inverse takes them away.

    A stretch of 0 changes nothing, in either preset.
    """
    for preset in ("davs", "syncnet"):
        assert warped_voice(0, preset) == pytest.approx(np.eye(12), abs=1e-5)
    who = replace(speaker(3, 1), hiss=1e-4)
    take = perform("SEVEN", who, 0)
    long, short = (coefficients(speak(take, replace(who, tract=who.tract / by)))[30:90, 1:] for by in (1, 1.12))

    def distance(amount: float) -> float:
        return float(np.abs(long @ warped_voice(amount, "davs").T - short).mean())

    assert distance(-np.log(1.12)) < 0.75 * distance(0) < distance(0) < distance(np.log(1.12))


def test_a_voice_is_moved_to_the_reference() -> None:
    """Words of a longer and a shorter vocal tract are shifted back by the difference; those of the reference are not.

    Without a reference nothing is shifted; shifted MFCC have mean 0 and variance 1.
    """
    who = replace(speaker(3, 1), hiss=1e-4)

    def windows(by: float) -> torch.Tensor:
        takes = [perform(word, who, 0) for word in ("SEVEN", "FAMILY", "WATER", "ABOUT", "HOUSE", "PEOPLE")]
        sounds = [speak(take, replace(who, tract=who.tract * by)) for take in takes]
        steps = np.stack([coefficients(sound)[30:90, 1:] for sound in sounds]).reshape(1, -1, 20, 12)
        return torch.from_numpy(steps.transpose(0, 1, 3, 2).astype(np.float32))

    voice = Voice("davs").eval()
    reference, longer, shorter = (sound_statistics(windows(by))[:, 2:] for by in (1, 1.12, 1 / 1.12))
    assert voice.steps(longer).tolist() == [0]
    voice.fit(reference)
    steps = [int(voice.steps(one)) for one in (longer, reference, shorter)]
    assert abs(steps[1]) <= 1
    assert steps[0] < steps[1] < steps[2]
    moved = voice(windows(1.12), sound_statistics(windows(1.12)))
    assert moved.mean((1, 3)) == pytest.approx(np.zeros((1, 12)), abs=1e-3)
    assert moved.std((1, 3)) == pytest.approx(np.ones((1, 12)), abs=0.01)


def test_a_part_is_warped_as_the_whole() -> None:
    """The mouth region of a warped crop and the warped mouth region are equal up to interpolation."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (9, 9, 3)).astype(np.uint8)
    crop = cv2.resize(coarse, (256, 256), interpolation=cv2.INTER_CUBIC)
    warp = Warp.draw(rng, 0.1)
    part = np.empty((1, 64, 64, 3), np.uint8)
    shown(crop, MOUTH, part[0])
    unmoved = part[0].copy()
    warp.apply(part, MOUTH)
    whole = crop[None].copy()
    warp.apply(whole, WHOLE)
    wanted = np.empty((64, 64, 3), np.uint8)
    shown(whole[0], MOUTH, wanted)
    inside = (slice(12, 52), slice(12, 52))  # outside, the part has no pixels to take from
    far, near = (np.abs(one[inside].astype(int) - wanted[inside]).mean() for one in (unmoved, part[0]))
    assert near < 2
    assert near < far / 4


def test_no_warp_leaves_a_picture_as_it_is() -> None:
    """An amount of 0 gives the identity."""
    picture = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3)).astype(np.uint8)
    changed = picture.copy()
    Warp.draw(np.random.default_rng(0), 0).apply(changed, WHOLE)
    assert np.array_equal(changed, picture)
