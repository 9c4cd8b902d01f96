"""`avprep train`, and docs/training.md, which describes it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from string import Template

import pytest
import torch
from avprep_cli.main import main
from click.testing import CliRunner, Result
from command_line import assert_one_line
from small_models import SMALL
from tiny_shards import make_shards

from davs_model import checkpoint
from davs_model.models.amie import Settings as AmieSettings
from davs_model.models.davs import Settings as DavsSettings
from davs_model.models.davs.stages import STAGES

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE, RESULTS = ((DOCS / name).read_text(encoding="utf-8") for name in ("training.md", "results.md"))
OVERRIDES = [word for setting in SMALL for word in ("--set", setting)]


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of shards; read-only."""
    return make_shards(tmp_path_factory.mktemp("cli") / "shards")


@pytest.fixture(autouse=True)
def threads() -> object:
    """Restore torch's threads afterwards."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def call(*arguments: object) -> Result:
    """Run a command in this process."""
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_train(out: Path, tmp_path: Path) -> None:
    """The output has settings, progress, validations and the place of the samples; the run ends with a checkpoint."""
    result = call("train", out, tmp_path / "run", "--preset", "small", "--stage", "full", *OVERRIDES)
    assert result.exit_code == 0, result.output
    assert "[model]\nwidth = 0.05\n" in result.stdout
    assert "train: 12 clips\n" in result.stdout
    assert re.search(r"^full 2 validation, 4 clips: words .* L1 ", result.stdout, re.MULTILINE | re.DOTALL)
    assert [line for line in result.stdout.splitlines() if len(line) > 120 and str(tmp_path) not in line] == []
    assert f"full 2 sample grid: {tmp_path / 'run' / 'samples' / 'full-000002.png'}" in result.stdout
    assert checkpoint.load(tmp_path / "run").settings["training"]["preset"] == "small"


def test_a_run_without_steps_has_no_result(out: Path, tmp_path: Path) -> None:
    """If no stage has steps, no checkpoint is named, as there is none."""
    result = call("train", out, tmp_path / "run", "--stage", "full", *OVERRIDES, "--set", "steps.full=0")
    assert result.exit_code == 1
    assert f"{tmp_path / 'run'}: nothing was trained" in result.stderr
    assert "checkpoint.safetensors" not in result.output


def test_dry_run_writes_nothing(out: Path, tmp_path: Path) -> None:
    """--dry-run shows settings, clips and sizes, and makes no folder."""
    result = call("train", out, tmp_path / "run", "--dry-run", "--set", "model.width=0.5")
    assert result.exit_code == 0, result.output
    shown = result.stdout.partition("\ntrain: 12 clips")[0]
    path = tmp_path / "shown.toml"
    path.write_text(shown, encoding="utf-8")
    assert DavsSettings.resolve(file=path) == DavsSettings.resolve(None, None, ["model.width=0.5"])
    assert "decoder" in result.stdout
    assert not (tmp_path / "run").exists()


def test_one_of_several_processes_speaks(out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """--dry-run under torchrun is printed by its first process alone."""
    monkeypatch.setenv("RANK", "1")
    result = call("train", out, tmp_path / "run", "--dry-run")
    assert (result.exit_code, result.output) == (0, "")


def test_dry_run_foresees_what_each_stage_leaves_out(out: Path, tmp_path: Path) -> None:
    """--dry-run counts the clips that each stage can use, those that it cannot, by reason, and too few for a batch."""
    long = ("--set", "model.width=0.05", "--set", "model.speech_frames=20", "--set", "steps.full=0")
    for batch_size, few in ((12, ""), (13, ", fewer than a batch of 13: give a smaller data.batch_size")):
        size = ("--set", f"data.batch_size={batch_size}")
        shown = call("train", out, tmp_path / "run", "--dry-run", *long, *size).stdout
        assert re.findall(r"^(?:identity|speech|full): .*$", shown, re.MULTILINE) == [
            f"identity: 12 clips{few}",
            "speech: 0 clips, 12 left out: shorter than 39 frames",
        ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--set", "model.widht=1"), "--set: no setting model.widht; did you mean model.width?"),
        (("--set", "data.batch_size=1"), "--set: data.batch_size = 1 must be a whole number from 2 to 65536"),
        (("--config", "/nowhere.toml"), "/nowhere.toml: cannot be read: No such file or directory"),
    ],
)
def test_mistakes_are_one_line(out: Path, tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    """A wrong setting or file gives one clear line, and nothing is written."""
    result = call("train", out, tmp_path / "run", *arguments)
    assert result.exit_code == 1
    assert result.stderr == f"Error: {message}\n"
    assert not (tmp_path / "run").exists()


def test_a_folder_without_shards(tmp_path: Path) -> None:
    """For a folder without shards one line says what to run."""
    result = call("train", tmp_path, tmp_path / "run")
    assert (result.exit_code, result.stderr) == (
        1,
        f"Error: {tmp_path}: no shards here (no manifest.jsonl): run `avprep crop` and `mfcc`\n",
    )


@pytest.mark.slow
def test_the_rows_of_the_papers_tables(out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loops of docs/results.md train the rows of its tables, and evaluate them."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "people").mkdir()
    for link, there in (("grid", out), ("people/shards", out), ("docs", DOCS)):
        (tmp_path / link).symlink_to(there)
    lines = re.findall(r"^ +avprep ((?:train|evaluate) .*)$", RESULTS, re.MULTILINE)
    (row,) = (line for line in lines if "runs/table-$sharing-$adversarial" in line)
    (people,) = (line for line in lines if line.startswith("train people/shards runs/syn "))
    switched, measure = (line for line in lines if "runs/words-$weight" in line)
    for sharing, adversarial in (("false", "0"), ("true", "1")):
        run_line(row, sharing=sharing, adversarial=adversarial)
    assert "validation" in (tmp_path / "runs" / "table-true-1" / "metrics.jsonl").read_text(encoding="utf-8")
    run_line(people)
    for weight in ("0", "20"):
        run_line(switched, weight=weight)
        run_line(measure, weight=weight)
    found = json.loads((tmp_path / "runs" / "words-20" / "results" / "metrics.json").read_text())
    assert "words_from_identity" in found["leakage"]
    assert {"recognition", "retrieval"} < found.keys()


def run_line(line: str, **variables: str) -> None:
    """Run a line of a page at small scale, with its variables replaced."""
    words = Template(line).substitute(variables).split()
    small = (
        [*OVERRIDES, "--set", "model.blend=true"]
        if words[0] == "train"
        else ["--workers", "0", "--mouth-clips", "0", "--detector", "opencv"]
    )
    result = call(*words, *small)
    assert result.exit_code == 0, result.output


def test_the_page_names_the_stages_and_real_settings() -> None:
    """docs/training.md lists every stage, and each setting in it exists and accepts the value given there."""
    assert [name for name in re.findall(r"^\| `(\w+)` \| ", PAGE, re.MULTILINE) if name in STAGES] == list(STAGES)
    for line in PAGE.splitlines():  # a setting may need another one that is given with it
        given = set(re.findall(r"--set ([\w.]+=[^`\s]+)", line)) - {"section.name=value"}
        DavsSettings.resolve(None, None, sorted(given))
    for name in re.findall(r"`((?:data|model|machine|weights)\.\w+)`", PAGE):
        assert name in DavsSettings.defaults()


@pytest.mark.parametrize("words", [("train", "{out}", "{run}"), ("ablate", "{out}", "{run}"), ("bench", "load")])
def test_a_preset_that_the_model_lacks_is_refused(words: tuple[str, ...], out: Path, tmp_path: Path) -> None:
    """The error for a missing preset lists the existing ones, before anything is read."""
    words = tuple(word.format(out=out, run=tmp_path / "run") for word in words)
    assert_one_line(call(*words, "--preset", "huge"), 2, "--preset", "paper, small")
    assert not (tmp_path / "run").exists()


def test_the_settings_beside_the_pages_are_real() -> None:
    """The settings of people.toml and strangers.toml fit the presets of docs/results.md, and need no words or names."""
    settings = DavsSettings.resolve("small", DOCS / "people.toml")
    assert not settings.weights.word + settings.weights.identity_word + settings.weights.person
    assert not AmieSettings.resolve("small", DOCS / "strangers.toml").steps.speech


def test_the_python_lines_work(out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The Python lines on the page run unchanged, given OUT."""
    monkeypatch.chdir(out.parent)
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    exec(code.replace('Path("OUT")', f"Path({str(out)!r})"), {})  # noqa: S102 - our own page
    assert capsys.readouterr().out.count("[4, 12, 256, 256, 3]") == 10
