"""The inputs and losses of ET-GAN-ACW: partners of clips, positions, disguise, corrupted inputs, terms."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_shards import make_shards
from torch import nn

from avprep import schema
from avprep.faces import align
from davs_model.data.batch import empty_batch
from davs_model.data.batches import Batches
from davs_model.data.clips import Clips, read_clips
from davs_model.data.loader import training_batches
from davs_model.data.partners import Partners
from davs_model.data.pictures import MOUTH_BOX, Augmentation, region
from davs_model.data.positions import PLACES, SHIFT_UNIT, TURN_UNIT, positions
from davs_model.data.reads import Reads, Shape
from davs_model.data.sampling import DISTANCE, spread
from davs_model.data.sources import ClipSource
from davs_model.models.etgan import Settings, corruption, losses, objective
from davs_model.models.etgan.corruption import Inputs
from davs_model.models.etgan.dimensions import MODALITIES
from davs_model.models.etgan.networks.expression import expressive
from davs_model.models.etgan.networks.position import PositionEncoder
from davs_model.models.etgan.stages import reads, training_reads

pytestmark = pytest.mark.usefixtures("one_thread")

READS = reads({"speech_frames": 12})


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Clips:
    """Clips of three people in two emotions, three of each; read-only."""
    out = make_shards(tmp_path_factory.mktemp("inputs") / "out", clips=18, people=3, emotions=("happy", "sad"))
    return read_clips(out, "train")


def test_partners_are_whom_they_should_be(clips: Clips) -> None:
    """Others are other clips of the speaker; of an emotion, half are the clip itself, half clips of other speakers."""
    partners, rng = Partners(clips), np.random.default_rng(0)
    own = 0
    for row in list(range(len(clips))) * 20:
        other = partners.draw("others", row, rng)
        assert other != row
        assert clips.speakers[other] == clips.speakers[row]
        felt = partners.draw("emotion", row, rng)
        assert clips.emotions[felt] == clips.emotions[row]
        assert felt == row or clips.speakers[felt] != clips.speakers[row]
        own += felt == row
    assert own / (20 * len(clips)) == pytest.approx(0.5, abs=0.1)
    assert partners.draw("others", 3, None) == partners.draw("emotion", 3, None) == 3


def test_any_clip_of_a_speaker_may_be_the_clip_itself(clips: Clips) -> None:
    """Of a speaker every clip is drawn; clips without labels are not of one speaker, nor of one emotion."""
    rng = np.random.default_rng(0)
    drawn = {Partners(clips).draw("speaker", 3, rng) for _ in range(200)}
    assert drawn == set(np.flatnonzero(clips.speakers == clips.speakers[3]).tolist())
    unknown = np.full(len(clips), -1)
    partners = Partners(replace(clips, speakers=unknown, emotions=unknown))
    assert {partners.draw(of, 3, rng) for of in ("speaker", "others", "emotion") for _ in range(20)} == {3}


def test_only_labelled_clips_are_shown_by_other_clips(clips: Clips) -> None:
    """With `generation.identity=labelled` views are from other clips of the speaker if the clip has an emotion."""
    emotions = clips.emotions.copy()
    emotions[3] = -1
    source = ClipSource(replace(clips, emotions=emotions), Shape({}, 64))
    views = [
        training_reads({"speech_frames": 12}, "full", Settings.resolve(preset, None, ("generation.views=3",)))["views"]
        for preset in ("paper", "small")
    ]
    for row in (3, 4):
        others, labelled = (
            {of for _ in range(20) for of, _ in source._portraits(each, row, [(row, 0)], np.random.default_rng(0))}
            for each in views
        )
        assert row not in others
        assert labelled == ({row} if row == 3 else others)


def test_without_partners_a_clip_is_alone(clips: Clips) -> None:
    """If no other clip of the emotion or the speaker exists, the clip itself is read, far from the run."""
    alone = clips.rows(np.array([0]))
    partners, rng = Partners(alone), np.random.default_rng(0)
    assert {partners.draw(of, 0, rng) for of in ("others", "emotion", "speaker") for _ in range(20)} == {0}
    shape = Shape({"run": Reads("frames", 8), "views": READS["views"]}, 64)
    source = ClipSource(alone, shape)
    for _ in range(10):
        run = source._portraits(READS["views"], 0, [(0, frame) for frame in range(8)], rng)
        assert all(frame >= 7 + DISTANCE for _, frame in run)


def test_a_view_of_another_clip_is_any_of_its_frames(clips: Clips) -> None:
    """Views of other clips, longer or shorter ones, are of any of their frames, also of the places of the run."""
    few = clips.rows(np.flatnonzero(clips.speakers == clips.speakers[0]))
    few = replace(few, n_frames=np.where(np.arange(len(few)) % 2, 9, 29))
    source, rng = ClipSource(few, Shape({"views": READS["views"]}, 64)), np.random.default_rng(0)
    for row in (0, 1):
        run = [(row, frame) for frame in range(8)]
        drawn = {one for _ in range(800) for one in source._portraits(READS["views"], row, run, rng)}
        for other in range(len(few)):
            found = {frame for by, frame in drawn if by == other}
            assert found == (set() if other == row else set(range(int(few.n_frames[other]))))


def test_batches_are_the_same_for_any_number_of_processes(clips: Clips) -> None:
    """Views and expressions of partners, with their labels, depend on seed and step alone, not on the process."""
    shape = Shape({name: READS[name] for name in ("run", "run_windows", "views", "expression")}, 64, flip=True)
    batches = Batches(ClipSource(clips, shape), shape, batch_size=6, seed=3)
    read = [
        [{name: tensor.clone() for name, tensor in raw.tensors.items()} for raw in found]
        for found in (training_batches(batches, first=0, last=4, workers=workers) for workers in (0, 2))
    ]
    later = next(iter(training_batches(batches, first=3, last=4, workers=0)))
    for one, other in zip(*read, strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)
        assert torch.equal(one["emotions"], one["expression_emotions"])
    assert all(torch.equal(later[name], read[0][3][name]) for name in later.tensors)
    assert any(not torch.equal(one["speakers"], one["expression_speakers"]) for one in read[0])


def test_spread_is_even() -> None:
    """Eight frames of a clip are evenly spread; in a shorter clip some are repeated."""
    assert spread(80, 8) == [5, 15, 25, 35, 45, 55, 65, 75]
    assert spread(4, 8) == [0, 0, 1, 1, 2, 2, 3, 3]


def test_positions_are_deviations() -> None:
    """A still face at its place is 0; rotation and translation of the head are relative to the median."""
    points = np.repeat(PLACES[None], 9, axis=0)
    affine = np.repeat(np.array([[[0.5, 0, 10], [0, 0.5, 20]]], np.float32), 9, axis=0)
    assert not positions(points, affine).any()
    moved = affine.copy()
    moved[0, :, 2] -= 0.5 * np.array([20, 0], np.float32)  # 20 source pixels to the right: 10 in the crop
    cos, sin = 0.5 * math.cos(0.1), 0.5 * math.sin(0.1)
    moved[1, :, :2] = [[cos, -sin], [sin, cos]]
    points[2] += 16
    points[3, 4] = np.nan
    found = positions(points, moved)
    assert found[0, -2:] == pytest.approx([10 / SHIFT_UNIT, 0], abs=1e-4)
    assert found[1, -4:-2] == pytest.approx([0, 0.1 / TURN_UNIT], abs=1e-3)
    assert found[2, :10] == pytest.approx(np.ones(10))
    assert np.flatnonzero(np.isnan(found[3])).tolist() == [8, 9]
    mirrored = positions(points, moved, mirrored=True)
    assert mirrored[0, -2:] == pytest.approx([-10 / SHIFT_UNIT, 0], abs=1e-4)
    assert mirrored[1, -4:-2] == pytest.approx([0, -0.1 / TURN_UNIT], abs=1e-3)
    assert np.isnan(positions(points, np.zeros((9, 2, 3), np.float32))).all()


def test_a_face_that_comes_nearer_or_turns_stays_where_it_is() -> None:
    """About the middle of the crop, a larger scale and a turn are these alone; mirrored, the turn is the other way."""
    points = np.repeat(PLACES[None], 9, axis=0)
    affine = np.repeat(np.array([[[0.8, 0, 10], [0, 0.8, 20]]], np.float32), 9, axis=0)
    middle = (128 - affine[0, :, 2]) / 0.8  # in the source
    affine[0, :, :2] *= 1.1
    affine[1, :, :2] = 0.8 * np.array([[math.cos(0.1), -math.sin(0.1)], [math.sin(0.1), math.cos(0.1)]])
    affine[:2, :, 2] = 128 - affine[:2, :, :2] @ middle
    for sign, found in ((1, positions(points, affine)), (-1, positions(points, affine, mirrored=True))):
        assert found[0, -4:] == pytest.approx([math.log(1.1) / TURN_UNIT, 0, 0, 0], abs=1e-3)
        assert found[1, -4:] == pytest.approx([0, sign * 0.1 / TURN_UNIT, 0, 0], abs=1e-3)
    points[2] += 1000
    assert positions(points, affine)[2, :10].tolist() == [10] * 10  # no number is larger


def test_a_point_that_no_detector_finds_leaves_the_others_known() -> None:
    """Without a nose, as with opencv in every frame, the other points and the transform still give the position."""
    points = np.repeat(PLACES[None], 5, axis=0) + np.arange(5, dtype=np.float32)[:, None, None]
    affine = np.repeat(np.array([[[0.5, 0, 10], [0, 0.5, 20]]], np.float32), 5, axis=0)
    noseless = points.copy()
    noseless[:, 2] = np.nan
    whole, found = positions(points, affine), positions(noseless, affine)
    nose = np.isin(np.arange(14), (4, 5))
    assert np.isnan(found[:, nose]).all()
    assert np.array_equal(found[:, ~nose], whole[:, ~nose])


def test_places_are_those_of_the_template() -> None:
    """Eyes and mouth centre are at the places where crops are aligned; mirroring keeps these places."""
    assert align.three_points(PLACES) == pytest.approx(align.TEMPLATE, abs=0.1)
    halves = np.split(PLACES[None], (2, 3), axis=1)
    turned = np.concatenate([Augmentation(mirror=True).points(part) for part in halves], axis=1)
    assert turned[0] == pytest.approx(PLACES, abs=5)


def test_unknown_positions_are_one_neutral_position() -> None:
    """Unknown positions are marked, not 0; the neutral position does not depend on the length of a speech."""
    torch.manual_seed(0)
    encoder = PositionEncoder()
    unknown, known = torch.full((1, 8, 14), math.nan), torch.zeros(1, 8, 14)
    with torch.no_grad():
        assert not torch.allclose(encoder(unknown), encoder(known))
        assert torch.equal(encoder.neutral(), encoder(unknown)[:, 4:5])
        assert bool(encoder(unknown).isfinite().all())


def test_positions_are_read_with_their_frames(tmp_path: Path, clips: Clips) -> None:
    """Points that a shard lacks are unknown positions, whether or not frames of the clip are read."""
    for names in (("run", "positions"), ("run", "run_windows", "positions")):
        shape = Shape({name: READS[name] for name in names}, 64)
        raw = empty_batch(shape, 1)
        ClipSource(clips, shape).load(0, raw, 0, np.random.default_rng(0))
        assert bool(raw["positions"].isnan().all())  # the made shards' transforms are 0, so they give no position


def test_positions_are_augmented_with_their_frames(clips: Clips, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a mirrored clip the head turns and moves the other way; landmarks move with a warped face."""
    n_frames = int(clips.n_frames[0])
    times = np.linspace(0, 0.3, n_frames)
    affine = np.zeros((n_frames, 2, 3), np.float32)
    affine[:, 0, 0] = affine[:, 1, 1] = np.cos(times)
    affine[:, 1, 0], affine[:, 0, 1], affine[:, 0, 2] = np.sin(times), -np.sin(times), 20 * times
    points = np.tile(PLACES, (n_frames, 1, 1))
    given = {"points.npy": schema.encode_array(points), "affine.npy": schema.encode_array(affine)}
    whole = {"positions": Reads("positions", n_frames)}

    def drawn(**how: float) -> list[torch.Tensor]:
        source = ClipSource(clips, shape := Shape(whole, 64, **how))  # type: ignore[arg-type]
        monkeypatch.setattr(source, "read", lambda *_, **__: given)
        raw = empty_batch(shape, 8)
        for place in range(8):
            source.load(0, raw, place, np.random.default_rng(place))
        return list(raw["positions"])

    still = torch.from_numpy(positions(points, affine))
    flipped = still[:, -4:] * torch.tensor([1, -1, -1, 1])
    moves = [one[:, -4:] for one in drawn(flip=True)]
    plain = [torch.equal(one, still[:, -4:]) for one in moves]
    assert {*plain} == {True, False}
    assert all(torch.equal(one, flipped) for one, unmoved in zip(moves, plain, strict=True) if not unmoved)
    unwarped = drawn()[0][:, :-4]
    assert all(not torch.allclose(one[:, :-4], unwarped, atol=0.01) for one in drawn(warp=0.1))


def test_a_disguise_has_no_lips() -> None:
    """The disguised clip does not depend on the mouth; each clip is flipped, moved and tinted separately."""
    torch.manual_seed(0)
    frames = torch.rand(3, 8, 3, 64, 64)
    rows, columns = region(MOUTH_BOX, 64)
    other = frames.clone()
    other[..., rows, columns] = other[..., rows, columns].flip(1, -1)
    found = []
    for clip in (frames, other, frames):
        torch.manual_seed(4)
        found.append(corruption.disguised(clip))
    assert torch.allclose(found[0], found[1], atol=1e-6)
    assert torch.equal(found[0], found[2])
    assert 0 <= float(found[0].min()) <= float(found[0].max()) <= 1
    same = corruption.disguised(frames[:1].expand(3, -1, -1, -1, -1))
    assert not torch.allclose(same[0], same[1])


def test_an_expression_has_no_colour_light_or_surroundings() -> None:
    """Tint, brightness, contrast, hair, background and mouth do not change the input of E_exp; brows do."""
    torch.manual_seed(0)
    frames = torch.rand(2, 3, 1, 64, 64).repeat(1, 1, 3, 1, 1)
    seen = expressive(frames)
    assert seen.shape == (2, 3, 1, 64, 64)
    other = (0.6 * frames + 0.1) * torch.tensor([0.9, 1.0, 0.7])[:, None, None]
    other[..., :10, :] = 0
    other[..., -6:] = 1
    other[..., region(MOUTH_BOX, 64)[0], 20:44] = torch.rand(16, 24)
    assert torch.allclose(expressive(other), seen, atol=0.02)
    brows = frames.clone()
    brows[..., 24:27, 20:44] = 0
    assert float((expressive(brows) - seen).abs().max()) > 0.2
    assert bool(expressive(torch.zeros(1, 2, 3, 64, 64)).isfinite().all())


def test_one_modality_is_spoilt_and_no_more() -> None:
    """At most one modality per clip is corrupted, at the given rate, the same for a seed; the inputs do not change."""
    views, expression = torch.rand(200, 2, 3, 16, 16), torch.rand(200, 3, 3, 16, 16)
    inputs = (views, expression, torch.randn(200, 5, 12, 20), torch.randn(200, 5, 14))
    kept, whole = [one.clone() for one in inputs], Inputs(*inputs, torch.full((200,), -1))
    found = []
    for _ in range(2):
        torch.manual_seed(1)
        found.append(corruption.spoil(whole, 0.3))
    first, second = found
    assert all(torch.equal(one, other) for one, other in zip(inputs, kept, strict=True))
    assert torch.equal(first.spoilt, second.spoilt)
    assert torch.equal(first.windows, second.windows)
    assert float((first.spoilt >= 0).float().mean()) == pytest.approx(0.3, abs=0.1)
    pairs = {"identity": "views", "expression": "expression", "audio": "windows", "position": "positions"}
    for (modality, name), given in zip(pairs.items(), kept, strict=True):
        changed = (getattr(first, name) != given).flatten(1).any(1)
        assert torch.equal(changed, ~first.whole(modality)), name
        assert bool(changed.any())
    assert set(pairs) == set(MODALITIES)
    assert bool((corruption.spoil(whole, 0.0).spoilt < 0).all())


def test_noise_has_the_ratio_that_is_asked_for() -> None:
    """Noise of −5 and 10 dB has the corresponding deviation relative to each coefficient."""
    torch.manual_seed(0)
    windows = torch.randn(400, 12, 20) * torch.arange(1, 13)[:, None]
    for ratio in (-5.0, 10.0):
        noise = corruption.noisy(windows, ratio) - windows
        found = 20 * torch.log10(windows.std((0, 2)) / noise.std((0, 2)))
        assert found.numpy() == pytest.approx(ratio, abs=0.3)


def test_positions_are_masked_whole() -> None:
    """A fraction of the clips has no position at all; the others keep all of theirs."""
    torch.manual_seed(0)
    hidden = corruption.masked(torch.zeros(400, 8, 14), 0.5).isnan().flatten(1)
    assert torch.equal(hidden.any(1), hidden.all(1))
    assert float(hidden.all(1).float().mean()) == pytest.approx(0.5, abs=0.1)


class Discriminator(nn.Module):
    """A discriminator of one number in place of D."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(2.0))

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        """Return a logit for each frame."""
        return self.weight * frames.mean((2, 3, 4))


def test_each_side_of_a_hinge_moves_its_own() -> None:
    """Both sides equal their closed forms; D's updates D alone, the other the frames alone."""
    real, discriminator = torch.full((1, 1, 3, 4, 4), 0.4), Discriminator()
    generated = torch.full((1, 1, 3, 4, 4), 0.3, requires_grad=True)
    loss = losses.hinge_loss(discriminator, real, generated)
    loss.backward()
    assert float(loss.detach()) == pytest.approx((1 - 0.8) + (1 + 0.6))
    assert generated.grad is None
    assert discriminator.weight.grad is not None
    discriminator.weight.grad = None
    confusion = losses.hinge_confusion(discriminator, generated)
    confusion.backward()
    assert float(confusion.detach()) == pytest.approx(-0.6)
    assert discriminator.weight.grad is None
    assert generated.grad is not None


def test_brows_count_besides() -> None:
    """The L1 of brows and eyes covers only their box, whatever differs elsewhere."""
    real, drawn = torch.zeros(1, 2, 3, 64, 64), torch.zeros(1, 2, 3, 64, 64)
    rows, columns = region(losses.EYES_BOX, 64)
    drawn[..., rows, columns] = 0.25
    assert float(losses.eyes_loss(real, drawn)) == pytest.approx(0.25)
    drawn[..., 40:, :] = 1.0
    assert float(losses.eyes_loss(real, drawn)) == pytest.approx(0.25)


def test_unlikeness_is_of_those_that_count() -> None:
    """The loss is 1 − cosine over the selected clips, 0 if none is selected; the second input has no gradient."""
    one = torch.tensor([[1.0, 0.0], [1.0, 0.0]], requires_grad=True)
    other = torch.tensor([[1.0, 0.0], [0.0, 1.0]], requires_grad=True)
    assert float(losses.unlikeness(one, other).detach()) == pytest.approx(0.5)
    second = losses.unlikeness(one, other, torch.tensor([False, True]))
    assert float(second.detach()) == pytest.approx(1.0)
    assert float(losses.unlikeness(one, other, torch.zeros(2, dtype=torch.bool)).detach()) == 0
    second.backward()
    assert other.grad is None
    assert one.grad is not None


def test_discriminators_begin_late() -> None:
    """D_frame begins at a tenth of the steps, D_st at three tenths."""
    settings = Settings.resolve("small")
    terms = ("reconstruction", "frame", "frame_confusion", "clip", "clip_confusion")
    names = [set(objective.begun(terms, settings, progress)) - {"reconstruction"} for progress in (0.05, 0.2, 0.4)]
    assert names == [set(), {"frame", "frame_confusion"}, set(terms[1:])]


def test_every_modality_is_spoilt_by_itself() -> None:
    """To train doubt, every modality of every clip and view is corrupted, and audio not only by reordering."""
    inputs = (
        torch.rand(40, 3, 3, 16, 16),
        torch.rand(40, 3, 3, 16, 16),
        torch.randn(40, 5, 12, 20),
        torch.zeros(40, 5, 14),
    )
    whole = Inputs(*inputs, torch.full((40,), -1))
    found = corruption.spoil_all(whole)
    assert bool((found.views != whole.views).flatten(2).any(2).all())
    for name in ("expression", "windows"):
        assert bool((getattr(found, name) != getattr(whole, name)).flatten(1).any(1).all()), name
    assert bool(found.positions.isnan().all())
    sums = found.windows.sum((1, 2, 3)) - whole.windows.sum((1, 2, 3))
    assert 5 < int((sums.abs() > 1e-2).sum()) < 35  # noise changes it, the mean does not
    assert not whole.positions.any()


def test_doubt_is_a_cross_entropy() -> None:
    """The loss is 2 ln 2 for logits of 0, 0 if intact and corrupted are surely detected, and finite if wrong."""
    nothing, sure = torch.zeros(3, 2, 4), torch.full((3, 2, 4), 40.0)
    assert float(losses.doubt_loss(nothing, nothing)) == pytest.approx(2 * math.log(2))
    assert float(losses.doubt_loss(-sure, sure)) == pytest.approx(0)
    assert float(losses.doubt_loss(sure, -sure)) == pytest.approx(80)
