"""The mouth-reading term of E_w^a: it learns how a mouth moves, and can be frozen afterwards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from avprep.errors import RunError
from davs_model import checkpoint
from davs_model.data.pictures import MOUTH_BOX, MOUTH_REGION, region
from davs_model.models.davs import Settings, losses
from davs_model.models.davs.networks.mouth_reader import COLUMNS, ROWS
from davs_model.training import loop
from davs_model.training import state as states

TINY = (
    "model.width=0.05",
    "model.audio_width=0.05",
    "model.speech_map=2",
    "model.speech_frames=8",
    "data.batch_size=4",
    "machine.threads=1",
    "loop.log_every=1",
    "loop.talking_clips=2",
    "steps.identity=0",
    "steps.speech=1",
    "steps.full=1",
    "weights.mouth_reading=40",
)
LESSON = ("weights.word=0", "weights.contrastive=0")
ALONE = ("generation.video=0", *LESSON)
pytestmark = pytest.mark.usefixtures("one_thread")
AUDIO, VISUAL, READER = "audio_speech_encoder.", "visual_speech_encoder.", "mouth_reader."


def train(out: Path, run: Path, *overrides: str, stages: tuple[str, ...], **more: Any) -> states.TrainingState:
    """Train the preset `small`, made tiny; return its state."""
    settings = Settings.resolve("small", None, (*TINY, *overrides))
    loop.train([out], run, settings, stages=stages, say=lambda _: None, **more)
    found = states.load(run)
    assert found is not None
    return found[0]


def moved(before: states.TrainingState, after: states.TrainingState, network: str) -> bool:
    """Return whether anything of a network has changed."""
    first, last = before.checkpoint.weights, after.checkpoint.weights
    return any(not torch.equal(value, last[name]) for name, value in first.items() if name.startswith(network))


@pytest.fixture(scope="module")
def lesson(out: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, states.TrainingState]:
    """A run of the speech stage with the mouth-reading term alone, and its state; read-only."""
    folder = tmp_path_factory.mktemp("lesson") / "run"
    return folder, train(out, folder, *LESSON, stages=("speech",))


def test_the_lesson_moves_what_hears_and_nothing_that_sees(
    out: Path, lesson: tuple[Path, states.TrainingState], tmp_path: Path
) -> None:
    """If it is the only term of the stage, E_w^a and the reader learn, and E_w^v is not computed."""
    one = lesson[1]
    two = train(out, tmp_path / "two", *LESSON, stages=("speech",), init_from=lesson[0])
    assert moved(one, two, AUDIO)
    assert moved(one, two, READER)
    assert not moved(one, two, VISUAL)


def test_what_was_learned_is_kept_while_frames_are(
    out: Path, lesson: tuple[Path, states.TrainingState], tmp_path: Path
) -> None:
    """With `generation.audio=freeze` the full stage leaves E_w^a unchanged; else it trains it, by this term too."""
    folder, before = lesson
    begun: dict[str, Any] = {"stages": ("full",), "init_from": folder}
    frozen = train(out, tmp_path / "kept", *ALONE, "generation.audio=freeze", **begun)
    free = train(out, tmp_path / "free", *ALONE, **begun)
    assert not moved(before, frozen, AUDIO)
    assert not moved(before, frozen, READER)
    assert moved(before, frozen, "decoder.")
    assert moved(before, free, AUDIO)
    assert moved(before, free, READER)
    assert not any(AUDIO in name for name in frozen.moments)


def test_a_stage_of_a_term_that_cannot_teach_is_refused(out: Path, tmp_path: Path) -> None:
    """Weights that leave a stage without anything to learn give a one-line error."""
    with pytest.raises(RunError, match="nothing to learn"):
        train(out, tmp_path / "none", *LESSON, "weights.mouth_reading=0", stages=("speech",))


def test_options_are_in_the_checkpoint(out: Path, lesson: tuple[Path, states.TrainingState], tmp_path: Path) -> None:
    """A model with a reader is rebuilt with it from its checkpoint; one without has no reader weights."""
    train(out, tmp_path / "without", "weights.mouth_reading=0", stages=("speech",))
    whole, plain = (checkpoint.load(folder) for folder in (lesson[0], tmp_path / "without"))
    assert whole.model().dimensions["reads_mouth"] == 1
    assert whole.weights["mouth_reader.weight"].shape == (ROWS * COLUMNS, 256)
    assert not any(name.startswith(READER) for name in plain.weights)
    assert "reads_mouth" not in plain.dimensions


def test_only_the_motion_of_a_mouth_counts() -> None:
    """A reading that is correct up to the mean over frames costs nothing; a still one costs the motion."""
    rng = torch.Generator().manual_seed(0)
    frames = torch.rand((2, 5, 3, 64, 64), generator=rng)
    rows, columns = region(MOUTH_BOX, 64)
    grey = (frames[..., rows, columns] * torch.tensor((0.299, 0.587, 0.114))[:, None, None]).sum(2)
    small = grey.unflatten(-1, (COLUMNS, -1)).unflatten(2, (ROWS, -1)).mean((3, 5))
    face = torch.rand((2, 1, ROWS, COLUMNS), generator=rng)
    assert losses.mouth_reading_loss(small + face, frames).item() == pytest.approx(0, abs=1e-6)
    still = losses.mouth_reading_loss(torch.zeros_like(small), frames)
    assert still.item() == pytest.approx((small - small.mean(1, keepdim=True)).abs().mean().item(), rel=1e-5)


def test_a_mouth_is_read_alike_where_only_its_region_is_shown() -> None:
    """The cost of a reading is the same for whole crops and for a box of them."""
    rng = torch.Generator().manual_seed(0)
    frames, read = torch.rand((1, 2, 3, 256, 256), generator=rng), torch.rand((1, 2, ROWS, COLUMNS), generator=rng)
    part = losses.mouth_reading_loss(read, frames[..., 128:256, 64:192], (128, 256, 64, 192))
    assert part.item() == pytest.approx(losses.mouth_reading_loss(read, frames).item(), rel=1e-5)


def test_the_mouth_is_found_where_only_its_region_is_shown() -> None:
    """A box of the crop is at the same position in images of the mouth region, as far as these show it."""
    crop = torch.arange(256.0)
    for size in (64, 104):
        rows, columns = region(MOUTH_BOX, size, MOUTH_REGION)
        scale = size / 104
        assert crop[144 + round(rows.start / scale)] == pytest.approx(170, abs=1)
        assert crop[144 + round(rows.stop / scale)] == pytest.approx(234, abs=1)
        assert (columns.start, columns.stop) == (0, size), "the region is narrower than the box"
    assert region(MOUTH_BOX, 256) == (slice(170, 234), slice(64, 192))
