"""The ablation of a paper: its rows as settings, trained, evaluated and tabulated."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from avprep_cli.main import main
from click.testing import CliRunner, Result
from tiny_shards import make_shards
from torch import Tensor

from avprep import files
from avprep.errors import RunError, SettingsError
from davs_model import ablation, models
from davs_model.data.clips import read_clips
from davs_model.evaluation import dependence, evaluate, page
from davs_model.models.amie import Settings
from davs_model.models.amie.networks import AMIE
from davs_model.settings import ablation_of

pytestmark = pytest.mark.usefixtures("one_thread")

TINY = (
    "model.width=0.05",
    "model.audio_width=0",
    "model.mouth_size=0",
    "model.speech_frames=8",
    "data.batch_size=4",
    "data.cache_mib=0",
    "loop.talking_clips=0",
    "loop.validation_clips=2",
    "steps.identity=0",
    "steps.speech=0",
    "steps.coherence=1",
    "steps.talk=1",
)
ROWS = ("baseline",)


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of shards; read-only."""
    return make_shards(tmp_path_factory.mktemp("ablation") / "shards")


def ablate(out: Path, folder: Path, *more: str) -> Result:
    """Run the command on a row of AMIE."""
    settings = [word for setting in TINY for word in ("--set", setting)]
    rows = [word for row in ROWS for word in ("--row", row)]
    command = ["ablate", str(out), str(folder), "--model", "amie", "--preset", "small", "--limit", "2", "--seeds", "1"]
    return CliRunner().invoke(main, [*command, *rows, *settings, "--detector", "opencv", "--device", "cpu", *more])


def test_every_row_of_a_paper_is_settings_that_there_are() -> None:
    """AMIE's Table 3 has nine rows, DAVS's four, and no two rows of a table train the same."""
    for name, count in (("amie", 9), ("davs", 4)):
        kind = models.settings(name)
        assert kind.ablation is not None
        made = {row: kind.resolve("small", None, settings) for row, settings in kind.ablation.rows.items()}
        assert len({settings.to_toml() for settings in made.values()}) == len(made) == count
        assert set(kind.ablation.paper) <= set(made)


def test_one_command_trains_evaluates_and_tells(out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each row has a run and an evaluation of the given clips, and a second command repeats nothing."""
    monkeypatch.setattr(evaluate.figures, "draw", lambda *_: {})  # those are tested elsewhere
    done = ablate(out, tmp_path)
    assert done.exit_code == 0, done.output
    assert "1 run of 1 row\n" in done.output
    rows = json.loads((tmp_path / ablation.TABLE).read_text(encoding="utf-8"))
    assert [row["row"] for row in rows] == list(ROWS)
    assert all({"PSNR", "SSIM", "coherence: matched"} <= row["figures"].keys() for row in rows)
    assert {Path(row["run"]).name for row in rows} == {"baseline-0"}
    assert {folder.name for folder in tmp_path.iterdir() if folder.is_dir()} == {"first-0", "baseline-0"}
    text = (tmp_path / ablation.PAGE).read_text(encoding="utf-8")
    assert "| baseline | weights.mi=0, attention.on=none | 1 |" in text
    assert "| AMIE + DA | 29.64 | 0.92 | 1.18 |" in text
    assert "<table" in (tmp_path / ablation.HTML).read_text(encoding="utf-8")
    for row in rows:
        assert json.loads((Path(row["run"]) / "run.json").read_text(encoding="utf-8"))
        metrics = json.loads((Path(row["run"]) / "results" / "metrics.json").read_text(encoding="utf-8"))
        assert metrics["own"]["coherence"]["facts"]["n_clips"] == 2  # of --limit
        assert "here: " in page.render(metrics, {})
        assert "paper: Chen 2019 (ATVGnet)" in page.render(metrics, {})
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.safetensors")}
    evaluated = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("metrics.json")}
    again = ablate(out, tmp_path)
    assert again.exit_code == 0, again.output
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.safetensors")} == before
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("metrics.json")} == evaluated


@pytest.fixture
def evaluated(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Replace training and evaluation by stand-ins; return the list of the landmarks of each evaluation."""
    trained_with: dict[str, Any] = {}  # by run

    def train(_: Path, run: Path, settings: Any, **__: Any) -> None:
        trained_with.setdefault(run.name, settings.to_json())

    monkeypatch.setattr(ablation.loop, "train", train)
    monkeypatch.setattr(ablation, "require", lambda *_: None)
    monkeypatch.setattr(ablation, "digests", lambda sync, _: {"sync": Path(sync).read_text()} if sync else {})
    monkeypatch.setattr(ablation.checkpoint, "load", lambda _: SimpleNamespace(digest=lambda: "digest"))
    by: list[str] = []

    def stand_in(run: Path, out: Path, results: Path, how: Any, *, landmarks: Any, say: Any) -> dict[str, Any]:
        mouth = {} if isinstance(landmarks, str) else {"mouth": {"landmarks": landmarks[1]}}
        found = {"checkpoint": "digest", "settings": asdict(how), "reconstruction": {"audio": {"psnr": 20.0}}, **mouth}
        found |= {"judges": ablation.digests(how.sync, how.identity), "training": trained_with[run.name]}
        files.write_whole(results / evaluate.METRICS, json.dumps(found).encode())
        by.append(landmarks if isinstance(landmarks, str) else landmarks[1])
        return found

    monkeypatch.setattr(evaluate, "evaluate", stand_in)
    return by


def quietly(out: Path, folder: Path, *common: str, **more: Any) -> list[ablation.Trained]:
    """Run rows of AMIE's ablation with common settings, saying nothing."""

    def resolve(overrides: Any) -> Any:
        return Settings.resolve("small", None, [*common, *overrides])

    return ablation.ablate(out, folder, resolve, **{"how": evaluate.EvaluationSettings(), **more}, say=lambda _: None)


def test_mouths_are_measured_once_there_are_landmarks(out: Path, tmp_path: Path, evaluated: list[str]) -> None:
    """A run evaluated without landmarks or with others is evaluated again; if no landmarks are requested it is not."""
    for landmarks in ("no weights", ("finder", "yunet"), ("finder", "yunet"), "no weights", ("finder", "dlib")):
        quietly(out, tmp_path, rows=ROWS, seeds=1, landmarks=landmarks)
    assert evaluated == ["no weights", "yunet", "dlib"]


def test_the_table_keeps_the_rows_of_other_calls(out: Path, tmp_path: Path, evaluated: list[str]) -> None:
    """A later row joins those that have results, in the paper's order; differing settings of evaluation are named."""
    quietly(out, tmp_path, rows=("(a) MINE",), seeds=2)
    assert [one.row for one in quietly(out, tmp_path, rows=ROWS, seeds=1)] == [*ROWS]
    assert len(evaluated) == 3
    rows = json.loads((tmp_path / ablation.TABLE).read_text(encoding="utf-8"))
    assert [(row["row"], row["seed"]) for row in rows] == [("baseline", 0), ("(a) MINE", 0), ("(a) MINE", 1)]
    text = (tmp_path / ablation.PAGE).read_text(encoding="utf-8")
    assert text.index("| baseline | weights.mi=0, attention.on=none | 1 | 20.00 |") < text.index("| (a) MINE | ")
    assert "alike" not in text
    quietly(out, tmp_path, rows=ROWS, seeds=1, how=evaluate.EvaluationSettings(limit=2))
    text = (tmp_path / ablation.PAGE).read_text(encoding="utf-8")
    assert "Not all runs were evaluated alike: they differ in limit." in text
    assert "| (a) MINE | " in text


def test_a_judge_that_was_trained_on_measures_anew(out: Path, tmp_path: Path, evaluated: list[str]) -> None:
    """A row is measured anew if the sync model at the same path has changed; rows of the old one are named."""
    judge = tmp_path / "judge"
    how = evaluate.EvaluationSettings(sync=str(judge))
    judge.write_text("old")
    quietly(out, tmp_path, rows=("(a) MINE", *ROWS), seeds=1, how=how)
    quietly(out, tmp_path, rows=ROWS, seeds=1, how=how)
    quietly(out, tmp_path, rows=ROWS, seeds=1, how=replace(how, sync=f"{tmp_path}/../{tmp_path.name}/judge"))
    assert len(evaluated) == 2
    judge.write_text("new")
    quietly(out, tmp_path, rows=ROWS, seeds=1, how=how)
    assert len(evaluated) == 3
    page_of = tmp_path / ablation.PAGE
    assert "Not all runs were evaluated alike: they differ in sync model." in page_of.read_text(encoding="utf-8")
    quietly(out, tmp_path, rows=("(a) MINE",), seeds=1, how=how)
    assert "alike" not in page_of.read_text(encoding="utf-8")


def test_results_without_the_digests_of_their_judges(out: Path, tmp_path: Path, evaluated: list[str]) -> None:
    """A row that an earlier version measured by a sync model is measured anew; without such a model it is kept."""
    (tmp_path / "judge").write_text("any")
    for sync, times in (("", 1), (str(tmp_path / "judge"), 3)):
        quietly(out, tmp_path, rows=ROWS, seeds=1, how=evaluate.EvaluationSettings(sync=sync))
        path = tmp_path / "baseline-0" / ablation.RESULTS / evaluate.METRICS
        found = json.loads(path.read_text(encoding="utf-8"))
        path.write_text(json.dumps({name: found[name] for name in ("checkpoint", "settings")}), encoding="utf-8")
        quietly(out, tmp_path, rows=ROWS, seeds=1, how=evaluate.EvaluationSettings(sync=sync))
        assert len(evaluated) == times


def test_rows_trained_with_other_settings_are_named(out: Path, tmp_path: Path, evaluated: list[str]) -> None:
    """Rows of several calls with other numbers of steps are named; settings of the rows and the log's are not."""
    quietly(out, tmp_path, "steps.talk=100", rows=ROWS, seeds=2)
    quietly(out, tmp_path, "steps.talk=100", "loop.log_every=7", rows=("(a) MINE",), seeds=1)
    page_of = tmp_path / ablation.PAGE
    assert "comparable, because" not in page_of.read_text(encoding="utf-8")
    quietly(out, tmp_path, "steps.talk=200", rows=("(b) DA",), seeds=1)
    text = page_of.read_text(encoding="utf-8")
    assert "different settings: steps.talk = 100 (baseline, (a) MINE), 200 ((b) " in text
    assert len(evaluated) == 4


def test_what_would_fail_after_the_training_is_refused_before(out: Path, tmp_path: Path) -> None:
    """An OUT without clips to evaluate, and a stage without steps, are refused before anything is trained."""
    bare = tmp_path / "bare"
    shutil.copytree(out, bare)
    for path in bare.glob("*/test-*"):
        path.unlink()
    with pytest.raises(RunError, match=r"bare: no clip of the test split can be used \(\d+ in no finished shard\)$"):
        quietly(bare, tmp_path / "runs", *TINY)
    with pytest.raises(SettingsError, match=r"^steps\.talk = 0, but this is the stage in which the rows differ"):
        quietly(out, tmp_path / "runs", *TINY, "steps.talk=0")
    assert not (tmp_path / "runs").exists()


def test_seeds_begin_with_that_of_the_settings(out: Path, tmp_path: Path, evaluated: list[str]) -> None:
    """The runs of a row have the seeds from that of the settings on, and join those of other seeds in the table."""
    assert [one.seed for one in quietly(out, tmp_path, rows=ROWS, seeds=1)] == [0]
    assert [one.seed for one in quietly(out, tmp_path, "seed=5", rows=ROWS, seeds=2)] == [5, 6]
    assert {folder.name for folder in tmp_path.iterdir() if folder.is_dir()} == {f"baseline-{n}" for n in (0, 5, 6)}
    assert len(evaluated) == 3
    assert "| baseline | weights.mi=0, attention.on=none | 3 | " in (tmp_path / ablation.PAGE).read_text("utf-8")


def test_damaged_results_are_one_line(out: Path, tmp_path: Path, evaluated: list[str]) -> None:
    """Results that are no JSON, of a row of the call or another one, are named with the remedy."""
    quietly(out, tmp_path, rows=("(a) MINE", *ROWS), seeds=1)
    path = tmp_path / "baseline-0" / ablation.RESULTS / evaluate.METRICS
    path.write_text('{"a', encoding="utf-8")
    for row in ("(a) MINE", *ROWS):
        with pytest.raises(RunError, match=r"baseline-0/results/metrics\.json: cannot be read .*: delete it and run"):
            quietly(out, tmp_path, rows=(row,), seeds=1)
    path.unlink()
    quietly(out, tmp_path, rows=ROWS, seeds=1)
    assert len(evaluated) == 3


def test_rows_measured_on_other_clips_are_named(out: Path, tmp_path: Path) -> None:
    """If more clips of the split were finished between two evaluations, the page says that the clips differ."""
    plan = ablation_of(Settings.resolve())
    runs = [ablation.Trained("baseline", n, f"run{n}", {"PSNR": 28.0}, {"clips": n + 3}) for n in range(2)]
    ablation.write(tmp_path, plan, "amie", runs)
    text = (tmp_path / ablation.PAGE).read_text(encoding="utf-8")
    assert "Not all runs were evaluated alike: they differ in clips." in text


def test_a_run_that_cannot_judge_is_told_before_a_row_is_trained(out: Path, tmp_path: Path) -> None:
    """A --sync RUN without a model is refused in one line before anything is trained."""
    done = ablate(out, tmp_path, "--sync", str(out))
    assert done.exit_code == 1
    assert "no model in this folder yet" in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_row_that_there_is_not(out: Path, tmp_path: Path) -> None:
    """The error for an unknown row is one line that names the rows, and nothing is trained."""
    done = ablate(out, tmp_path, "--row", "no such row")
    assert done.exit_code == 1
    assert "no row no such row: there is baseline, (a) MINE" in done.output
    assert not list(tmp_path.iterdir())


def test_a_model_without_an_ablation() -> None:
    """The error for a model without an ablation says so."""
    with pytest.raises(SettingsError, match="the model sync has no ablation"):
        ablation_of(models.settings("sync").resolve())


def test_the_table_has_the_mean_and_how_far_seeds_lie_apart(tmp_path: Path) -> None:
    """Two seeds make one row of the mean and half the difference; a figure that no run has gets no column."""
    plan = ablation_of(Settings.resolve())
    runs = [ablation.Trained("baseline", n, f"run{n}", {"PSNR": value}) for n, value in enumerate((28.0, 29.0))]
    ablation.write(tmp_path, plan, "amie", runs)
    text = (tmp_path / ablation.PAGE).read_text(encoding="utf-8")
    assert "| row | settings | seeds | PSNR |" in text
    assert "| 2 | 28.50 ± 0.50 |" in text


class _Picture(AMIE):
    """Generates the identity frame, brightened by the speech in proportion to `sound`."""

    sound = 0.0
    face = 1.0

    def decode_on(self, identity: Any, speech: Tensor) -> tuple[Tensor, Any]:
        """Generate."""
        said = (speech.mean(-1) * self.sound)[..., None, None, None]
        return (identity.frame * self.face).expand(-1, speech.shape[1], -1, -1, -1) + said, identity


@pytest.mark.parametrize(("face", "sound", "least", "most"), [(1, 0, 1, 1), (0, 1, 0, 0), (1, 1, 0.01, 0.99)])
def test_dependence_on_the_reference(out: Path, face: float, sound: float, least: float, most: float) -> None:
    """The dependence is 1 for a model that repeats the image, 0 for one that follows audio, and in between for both."""
    torch.manual_seed(0)
    model = _Picture(n_words=3, width=0.05, image_size=64)
    model.face, model.sound = face, sound
    found = dependence.measure(model, read_clips(out, "test"), torch.device("cpu"))
    assert found is not None
    assert least - 1e-6 <= found.dependence <= most + 1e-6
    assert found.n_clips >= 1


def test_dependence_is_measured_at_the_scale_of_the_audio_features(out: Path) -> None:
    """Doubled features double the difference between a model's mouths due to the audio, not that due to the frame."""
    torch.manual_seed(0)
    model = _Picture(n_words=3, width=0.05, image_size=64)
    model.sound = 0.1
    clips, device = read_clips(out, "test"), torch.device("cpu")
    once, twice = (dependence.measure(model, clips, device, scale=scale) for scale in (1.0, 2.0))
    assert once is not None
    assert twice is not None
    assert twice.between_sounds == pytest.approx(2 * once.between_sounds, rel=1e-3)
    assert twice.between_references == pytest.approx(once.between_references, rel=1e-3)
