"""The evaluation of expressive models distinguishes one that shows the expression from one that does not."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from expressive_shards import EMOTIONS, make_expressive_shards
from scipy.stats import spearmanr
from torch import Tensor

from davs_model import checkpoint
from davs_model.checkpoint import Checkpoint
from davs_model.data.clips import Clips, read_clips
from davs_model.data.reads import Reads
from davs_model.evaluation import evaluate as evaluation
from davs_model.evaluation import expression
from davs_model.evaluation.expression import steering
from davs_model.evaluation.expression.axes import Bench
from davs_model.evaluation.expression.damage import falling
from davs_model.evaluation.expression.readers import Readers
from davs_model.evaluation.expression.sheet import sheet
from davs_model.evaluation.expression.targets import others_showing, targets
from davs_model.evaluation.metrics.spread import estimate
from davs_model.models.base import FRAMES, WINDOWS, TalkingModel
from davs_model.models.etgan import readings
from davs_model.models.etgan.networks import ETGAN

SIDE = 64
BROWS = slice(SIDE * 64 // 256, SIDE * 130 // 256)


@dataclass
class Person:
    """Return an image `[B, 3, S, S]` and brows."""

    picture: Tensor
    brows: Tensor | None = None


@dataclass(frozen=True)
class Found:
    """The result of a sync model for a video."""

    audio_lead_frames: float
    confidence: float
    distance: float


class Collage(TalkingModel):
    """Generates a person's first image with the brows of the expression clip, or if blind with the person's own."""

    name = "collage"
    drivers = ("audio",)
    modalities = ("identity", "expression", "audio")
    expression_length = 1

    def __init__(self, *, blind: bool = False) -> None:
        super().__init__()
        self.dimensions, self.blind = {"image_size": SIDE}, blind

    @classmethod
    def dimensions_for(cls, corpus: Any, settings: Any) -> dict[str, int | float]:
        """Frames of size `SIDE`."""
        return {"image_size": SIDE}

    @classmethod
    def reads(cls, dimensions: Any) -> dict[str, Reads]:
        """Frames and their windows."""
        return {FRAMES: Reads("frames", 8), WINDOWS: Reads("windows", 8, beside=FRAMES)}

    def terms(self, batch: Any, wanted: Any, settings: Any, *, progress: float, gather: Any) -> dict[str, Tensor]:
        """The model does not train."""
        return {}

    def encode_identity(self, frames: Tensor) -> Person:
        """Use the first image."""
        return Person(frames[:, 0])

    def encode_speech(self, *, frames: Tensor | None = None, windows: Tensor | None = None) -> Tensor:
        """Use the windows unchanged."""
        assert windows is not None
        return windows.flatten(2)

    def encode_expression(self, frames: Tensor) -> Tensor:
        """Use the brows, in grey."""
        return frames[..., BROWS, :].mean((1, 2)).flatten(1)

    def expressing(self, identity: Person, expression: Tensor) -> Person:
        """Keep the brows with the person."""
        return Person(identity.picture, None if self.blind else expression.reshape(len(expression), 1, -1, SIDE))

    def decode(self, identity: Person, speech: Tensor) -> Tensor:
        """Generate the person with these brows, and with a lower half of the mouth that is darker for louder audio."""
        frames = identity.picture[:, None].repeat(1, speech.shape[1], 1, 1, 1)
        if identity.brows is not None:
            frames[..., BROWS, :] = identity.brows[:, None]
        upper, lower = (slice(top * SIDE // 256, (top + 19) * SIDE // 256) for top in (184, 203))
        frames[..., upper, 26:39] = 0.6
        frames[..., lower, 26:39] = (0.6 - 0.4 * speech[..., :1]).clamp(0, 1)[..., None, None]
        return frames

    def embeddings(self, batch: Any) -> dict[str, Tensor]:
        """The model has none."""
        return {}

    def person_features(self, frames: Tensor) -> Tensor:
        """Use the mean image, small."""
        return frames.mean(1)[..., ::8, ::8].flatten(1)

    def modality_weights(self, identity: Person, speech: Tensor) -> Tensor:
        """Give audio less weight the more it varies between windows, and the other modalities more."""
        trust = 1 / (1 + speech.std(-1))
        return torch.stack(((3 - trust) / 2, (3 - trust) / 2, trust), -1)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four people to fit readers to and three to measure on, each with three emotions and two words."""
    return make_expressive_shards(tmp_path_factory.mktemp("faces"), {"train": 4, "test": 3})


@pytest.fixture(scope="module")
def clips(shards: Path) -> Clips:
    """The clips to measure on."""
    return read_clips(shards, "test")


def measured(model: TalkingModel, clips: Clips, shards: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the facts of each measure, and the reasons for missing ones."""
    missing: dict[str, str] = {}
    how = expression.ExpressionSettings(9, 100)
    device = torch.device("cpu")
    found = expression.measure(model, clips, shards, device, how, missing=missing, say=lambda _: None)
    return {name: one["facts"] for name, one in found.items()}, missing


@pytest.fixture(scope="module")
def collage(clips: Clips, shards: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """The measures of a model that shows the expression."""
    return measured(Collage(), clips, shards)


def test_expression_is_read_where_it_is_shown(collage: tuple[dict[str, Any], dict[str, str]]) -> None:
    """The emotion of a model that transfers another person's expression is recognised in most videos."""
    facts = collage[0]["expression"]
    assert facts["real_emotion"] == facts["real_emotion_mouthless"] == 1
    assert facts["cross_emotion_mouthless"] > 0.7
    assert facts["cross_emotion"] > 0.6
    assert facts["photo_emotion_mouthless"] > 0.7
    assert facts["chance"] == pytest.approx(1 / 3)
    assert facts["intervals"]["cross"]["emotion"]["n_speakers"] == 3
    assert collage[0]["steering"]["emotion_mouthless"] > 0.7


def test_expression_is_not_read_where_it_is_not_shown(clips: Clips, shards: Path) -> None:
    """For a model that ignores the expression, emotions of the same face are read at chance level."""
    readers = Readers.fit(read_clips(shards, "train"), SIDE, limit=100)
    bench = Bench(Collage(blind=True), clips, torch.device("cpu"), readers)
    facts = steering.measure(bench, targets(clips, 3)).facts
    assert facts["emotion_mouthless"] == pytest.approx(1 / 3, abs=0.1)


def test_lips_are_compared_over_the_emotions(collage: tuple[dict[str, Any], dict[str, str]]) -> None:
    """Lips that follow the audio alone are equally good with every emotion."""
    steering = collage[0]["steering"]
    assert steering["opening_r"] > 0.8
    assert steering["opening_r_range"] < 0.05


def test_a_film_without_an_offset_does_not_end_the_evaluation(clips: Clips, shards: Path) -> None:
    """If the sync model finds no offset for a clip's videos, only that clip is left out of the sync figures."""

    class Judge:
        def __init__(self) -> None:
            self.films = 0

        def lead(self, film: Any, windows: Any, valid: Any) -> Any:
            """Find no offset for the first clip's videos of three emotions."""
            self.films += 1
            return None if self.films <= len(EMOTIONS) else Found(0.0, 0.5, 1.0)

    readers = Readers.fit(read_clips(shards, "train"), SIDE, limit=100)
    bench = Bench(Collage(), clips, torch.device("cpu"), readers, sync=Judge())
    facts = steering.measure(bench, targets(clips, 3)).facts
    assert facts["ranges"]["opening_r"]["n_clips"] == 3
    assert facts["ranges"]["sync_confidence"]["n_clips"] == 2


def test_weight_of_the_sound_falls_with_the_noise(collage: tuple[dict[str, Any], dict[str, str]]) -> None:
    """A weight that falls step by step has Spearman −1, one without any effect has 0; the loss by noise is given."""
    facts = collage[0]["weighing"]
    assert facts["audio_spearman"] == pytest.approx(-1)
    assert facts["expression_spearman"] == 0
    assert facts["audio_clean"] > facts["audio_worst"]
    assert facts["audio_opening_r_lost"] > 0.1


def test_leakage_has_emotions_people_and_words(collage: tuple[dict[str, Any], dict[str, str]]) -> None:
    """Brows reveal the emotion completely, and words not at all."""
    facts = collage[0]["expression_leakage"]
    assert facts["emotion_accuracy"] == 1
    assert facts["words_accuracy"] < 0.8


def test_views_are_measured_and_what_is_missing_has_a_reason(
    collage: tuple[dict[str, Any], dict[str, str]],
) -> None:
    """Merged images agree better the more there are; without another run identity is not read."""
    facts, missing = collage
    assert facts["views"]["cosine_8"] >= facts["views"]["cosine_1"]
    assert facts["views"]["spread_8"] <= facts["views"]["spread_1"]
    assert "--identity" in missing["expression: identity"]


def test_evaluate_measures_a_run_and_draws_each_emotion(shards: Path, tmp_path: Path) -> None:
    """For a run of ET-GAN evaluate has these measures, identity by another run's encoder, a sheet and page sections."""
    sizes = {"n_words": 2, "n_speakers": 4, "n_emotions": 3, "width": 0.05, "image_size": 64, "speech_frames": 5}
    note = {"steps": {"full": 1}, "words": ["word0", "word1"], "emotions": sorted(EMOTIONS), "mfcc_preset": "davs"}
    run = checkpoint.save(tmp_path / "run", Checkpoint.of(ETGAN(**sizes).eval(), note))
    settings = evaluation.EvaluationSettings(batch_size=6, workers=0, talking_clips=2, identity=str(run))
    found = evaluation.evaluate(run, shards, tmp_path, settings, say=lambda _: None)
    assert {"expression", "steering", "weighing", "views", "expression_leakage"} <= found["own"].keys()
    assert {"real_identity_cosine", "cross_identity_distance"} <= found["own"]["expression"]["facts"].keys()
    assert (tmp_path / evaluation.EXPRESSIONS).stat().st_size > 1000
    page = (tmp_path / evaluation.PAGE).read_text(encoding="utf-8")
    assert "## The same face and sound, each emotion" in page
    assert "cross: expression of another person" in page


def test_targets_take_turns_and_get_nothing_of_their_own(clips: Clips) -> None:
    """The first targets cover all speakers; images are from their other clips, the donor is another speaker."""
    found = targets(clips, 9)
    assert {target.speaker for target in found[:3]} == {0, 1, 2}
    assert sorted((target.speaker, target.emotion) for target in found) == [(s, e) for s in range(3) for e in range(3)]
    for target in found:
        assert all(row != target.row and clips.speakers[row] == target.speaker for row, _ in target.views)
        assert clips.emotions[target.donor] == target.emotion
        assert clips.speakers[target.donor] != target.speaker
    assert targets(clips, 9) == found


def damage(out: Path, clips: Clips, row: int) -> None:
    """Make a clip of the test split unreadable."""
    offset, length = clips.places[row, 0].tolist()
    tar = next((out / "crop").glob("test-*.tar"))
    data = bytearray(tar.read_bytes())
    data[offset : offset + length] = data[offset : offset + length].replace(b"\xff\xd8\xff", bytes(3))
    tar.write_bytes(data)


def test_a_damaged_clip_is_left_out(tmp_path: Path) -> None:
    """An unreadable clip is left out of the metrics, whatever its role, and the evaluation continues."""
    broken = make_expressive_shards(tmp_path, {"train": 2, "test": 3})
    table = read_clips(broken, "test")
    damage(broken, table, targets(table, 9)[0].row)
    facts, missing = measured(Collage(), table, broken)
    assert {"expression", "steering", "weighing", "expression_leakage"} <= facts.keys()
    assert 1 <= facts["expression"]["intervals"]["real"]["emotion"]["n_clips"] < 9
    assert "expression" not in missing


def test_tables_of_few_clips_do_without_the_damaged_first_ones(tmp_path: Path) -> None:
    """A table of the first clips takes the next ones if none of the first can be read."""
    broken = make_expressive_shards(tmp_path, {"train": 2, "test": 3})
    table = read_clips(broken, "test")
    for target in targets(table, 9)[:2]:
        damage(broken, table, target.row)
    facts, missing = measured(Collage(), table, broken)
    assert {"expression", "steering", "weighing"} <= facts.keys()
    assert "expression" not in missing


def test_where_no_clip_can_be_read_the_reason_is_given(tmp_path: Path) -> None:
    """An expressive model without a readable clip loses its own tables, but not the rest of the evaluation."""
    broken = make_expressive_shards(tmp_path, {"train": 2, "test": 3})
    table = read_clips(broken, "test")
    for row in range(len(table)):
        damage(broken, table, row)
    facts, missing = measured(Collage(), table, broken)
    assert not facts
    assert missing["expression"].startswith("no clip can be read")


def test_emotions_are_not_read_of_clips_that_cannot_be(tmp_path: Path) -> None:
    """The readers of ET-GAN itself give no figures if no clip is readable; otherwise they count each readable one."""
    out = make_expressive_shards(tmp_path, {"test": 2})
    table = read_clips(out, "test")
    model = ETGAN(n_words=2, n_speakers=4, n_emotions=3, width=0.05, image_size=64, speech_frames=5)
    (found,) = readings.measure(model, "judge", table, torch.device("cpu"), 100)
    assert found.facts["n_clips"] == len(table)
    for row in range(len(table)):
        damage(out, table, row)
    assert readings.measure(model, "judge", table, torch.device("cpu"), 100) == ()


def test_the_sheet_does_without_a_damaged_clip(tmp_path: Path) -> None:
    """If the clip that gives everyone on the sheet its expression is unreadable, the next one is used."""
    out = make_expressive_shards(tmp_path, {"train": 1, "test": 3})
    table = read_clips(out, "test")
    readers = Readers.fit(read_clips(out, "train"), SIDE, limit=100)
    bench = Bench(Collage(), table, torch.device("cpu"), readers)
    chosen = [target for target in targets(table, 18) if target.speaker != table.speakers[0]]
    whole = sheet(bench, chosen)
    damage(out, table, 0)
    assert all(others_showing(table, int(table.emotions[0]), target.speaker)[0] == 0 for target in chosen)
    assert sheet(bench, chosen).shape == whole.shape


def test_clips_without_emotions_have_no_targets(clips: Clips, shards: Path) -> None:
    """If no clip has an emotion nothing is measured, and the reason is given."""
    import dataclasses

    nothing = dataclasses.replace(clips, emotions=np.full(len(clips), -1))
    facts, missing = measured(Collage(), nothing, shards)
    assert not facts
    assert "emotions" in missing["expression"]


def test_interval_is_by_speaker() -> None:
    """Identical clips of a speaker count as one; a single speaker has no interval."""
    alike = estimate([1.0] * 50 + [0.0] * 50, [0] * 50 + [1] * 50)
    assert (alike.low, alike.high) == (0, 1)
    assert alike.mean == 0.5
    assert np.isnan(estimate([1.0, 0.0], [3, 3]).low)
    assert estimate([1.0, 0.0], [3, 3]).text() == "0.500"
    with pytest.raises(ValueError, match="no values"):
        estimate([], [])


def test_falling_is_spearman() -> None:
    """Falling means give −1, rising ones 1, equal ones 0; ties are treated as by SciPy."""
    tied = [0.9, 0.9, 0.9, 0.9, 0.8]
    assert falling(tied) == pytest.approx(spearmanr(tied, range(5)).statistic)
    assert falling([3.0, 2.0, 1.5]) == pytest.approx(-1)
    assert falling([1.0, 2.0, 3.0]) == pytest.approx(1)
    assert falling([1.0, 1.0]) == 0
