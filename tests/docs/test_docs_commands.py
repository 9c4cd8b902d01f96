"""The documentation can be followed: its commands parse and run, its names and messages are the program's."""

from __future__ import annotations

import ast
import builtins
import functools
import importlib
import itertools
import os
import re
import shlex
import shutil
import subprocess
import textwrap
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import cv2
import made_media as made
import pytest
import skimage.data
from avprep_cli.main import main
from click.testing import CliRunner
from small_models import made_model
from test_cluster_docs import FRAMES, known, parse
from tiny_shards import make_shards

from davs_model import checkpoint
from davs_model.checkpoint import Checkpoint
from davs_model.models.davs import Settings as DavsSettings
from davs_model.models.davs import losses

pytestmark = pytest.mark.usefixtures("one_thread")

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = ("README.md", *(f"docs/{path.name}" for path in sorted(DOCS.glob("*.md"))))
TUTORIALS = tuple(page for page in PAGES if page.startswith("docs/tutorial-"))
NEW = (*TUTORIALS, *(f"docs/{name}.md" for name in ("corpora", "index", "paper", "shards", "troubleshooting")))

PAGES_NOT_RUN = {
    "docs/cli.md": "it repeats the help of the commands, with placeholders",
    "docs/cluster.md": "it is about a cluster; test_cluster_docs.py and test_slurm_jobs.py look after it",
    "docs/results.md": "hours of benchmarks",
    "docs/sync.md": "it needs a trained sync model, and the released one; tests/davs_model/sync",
}
NOT_RUN = {
    "ablate": "trains for minutes; tests/davs_model/test_ablation.py",
    "bench": "measures for minutes; test_bench.py, test_bench_cli.py",
    "demo": "takes minutes; test_cli.py",
    "select": "needs figures of a sync model; tests/davs_model/sync/test_sync.py",
    "sync": "needs a trained sync model; tests/davs_model/sync/test_sync.py",
    "import-checkpoint": "needs the 800 MB of the released weights; test_released.py",
    "study": "makes films for minutes; test_study_cli.py",
    "study-results": "needs the answers of people; test_study_cli.py",
    "weights fetch": "needs a network; test_weights.py",
}
"""Commands that are only parsed. `train` runs as --dry-run, `slurm` without --submit: training takes minutes, and
test_training_cli.py does it; a Slurm is started by test_slurm_jobs.py."""

EXPRESSIVE = {"--expression", "--emotion"}
"""Options of `generate` that need a model with expressions; tests/davs_model/etgan/test_etgan_model.py."""

SPARING = {
    "crop": ("--jobs", "1"),
    "mfcc": ("--jobs", "1"),
    "verify": ("--jobs", "1"),
    "retry": ("--jobs", "1"),
    "index": ("--force",),
    "train": ("--dry-run",),
    "evaluate": ("--workers", "0", "--mouth-clips", "0", "--detector", "opencv"),
    "generate": ("--detector", "opencv"),
}
"""What is added to each command line that runs, so that it is quick here."""


def text_of(page: str) -> str:
    """The text of a page, by its path in the repository."""
    return (ROOT / page).read_text(encoding="utf-8")


def shell_lines(page: str) -> list[str]:
    """The lines of a page's indented blocks, without trailing comments."""
    indent = 2 if page == "docs/cli.md" else 4
    whole = re.sub(r" \\\n +", " ", text_of(page))  # a line that continues on the next one
    lines = re.findall(rf"^ {{{indent}}}(\S.*)$", whole, re.MULTILINE)
    return [re.sub(r" {3,}(?![-/'\\ ]).*$", "", line) for line in lines]


def command_of(line: str) -> list[str] | None:
    """The words after `avprep` in a line that calls it, directly or through srun or torchrun; otherwise None."""
    if not re.match(r"(avprep|(srun|torchrun) .*\bavprep) ", line):
        return None
    words = shlex.split(line, comments=True)
    return list(itertools.takewhile(lambda word: word not in (">", "&", "|"), words[words.index("avprep") + 1 :]))


def calls(page: str) -> list[list[str]]:
    """The calls of avprep in a page's indented blocks."""
    return [words for line in shell_lines(page) if (words := command_of(line))]


def spans(page: str) -> list[str]:
    """The text between single backticks in prose and tables."""
    prose = re.sub(r"^(```.*?^```|>.*?)$", "", text_of(page), flags=re.MULTILINE | re.DOTALL)
    return re.findall(r"`([^`\n]+)`", prose)


class TestCommandLines:
    """The commands on the pages exist."""

    @pytest.mark.parametrize("page", PAGES)
    def test_every_command_line_parses(self, page: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """Each `avprep …` in an indented block is a command with existing options and values; paths need not exist."""

        def convert(self: click.Path, value: Any, param: Any, ctx: Any) -> Path:
            return Path(value)

        monkeypatch.setattr(click.Path, "convert", convert)
        found = calls(page)
        assert found or page not in (*TUTORIALS, "README.md", "docs/cli.md")
        for words in found:
            try:
                parse(words)
            except click.UsageError as error:
                pytest.fail(f"{page}: avprep {shlex.join(words)}: {error.format_message()}")

    @pytest.mark.parametrize(
        "line", ["crop a b --detektor yunet", "crop a b --detector retinaface", "crop a", "cropp a b"]
    )
    def test_what_is_wrong_would_be_found(self, line: str) -> None:
        """An option, a choice or a command that does not exist, and a missing argument, are refused."""
        with pytest.raises((click.UsageError, AssertionError)):
            parse(line.split())

    @pytest.mark.parametrize("page", PAGES)
    def test_commands_and_options_in_running_text_exist(self, page: str) -> None:
        """Each `avprep …` between backticks is a command, and its options exist."""
        for span in spans(page):
            words = command_of(span.replace("…", ""))
            if not words or "|" in words[-1]:
                continue
            if words[0] in ("COMMAND", "crop|mfcc"):
                continue
            command: click.Command = main
            while isinstance(command, click.Group) and words:
                assert words[0] in command.commands, f"{page}: `{span}`"
                command = command.commands[words.pop(0)]
            options = {name for parameter in command.params for name in parameter.opts} | {"--help"}
            assert {word for word in words if word.startswith("--")} <= options, f"{page}: `{span}`"

    @pytest.mark.parametrize("page", NEW)
    def test_settings_exist(self, page: str) -> None:
        """Each `--set` on a page is an existing setting with a valid value."""
        for override in set(re.findall(r"--set ([\w.]+=[^\s`]+)", text_of(page))):
            DavsSettings.resolve(None, None, [override])


@dataclass
class Workshop:
    """A folder with small corpora at the places that the pages use, and the lines that were run in it so far."""

    folder: Path
    typed: set[str] = field(default_factory=set)
    ran: set[str] = field(default_factory=set)

    def type(self, line: str) -> None:
        """Run one line of a page, unless it has run before or cannot run here."""
        words = command_of(line)
        if words is None:
            if re.match(r"(head|grep) ", line):
                subprocess.run(["bash", "-c", line], cwd=self.folder, check=True)
            return
        name = " ".join(words[:2]) if words[0] in ("weights", "slurm") else words[0]
        if not line.startswith("avprep ") or name in NOT_RUN or (name == "generate" and EXPRESSIVE & set(words)):
            return
        words = [*self._here(name, words), *SPARING.get(name, ())]
        if (typed := shlex.join(words)) in self.typed:
            return
        self.typed.add(typed)
        self.ran.add(name)
        result = CliRunner().invoke(main, words)
        assert result.exit_code == 0, f"{line}\n{typed}\n{result.output}"

    def _here(self, name: str, words: list[str]) -> list[str]:
        """Replace the page's names by the local ones."""
        words = [str(self.folder / word[1:]) if word.startswith("/data/") else word for word in words]
        words = [
            "opencv" if before == "--detector" else word for before, word in zip(["", *words], words, strict=False)
        ]
        words = [word for word in words if word != "--submit"]
        if name in ("report", "inspect"):
            real = {"OUT": "shards/lrw", "OTHER_OUT": "shards/lrw", "KEY": "FAMILY/train/FAMILY_00001"}
            words = [real.get(word, word) for word in words]
        if name in ("evaluate", "generate"):
            words[1], words[words.index("-o") + 1] = "RUN", {"evaluate": "results", "generate": "film.mp4"}[name]
        if name == "evaluate":
            words[2] = "OUT"
        if name == "train" and not (self.folder / words[1] / "mfcc").is_dir():
            words[1] = "OUT"
        return words


@pytest.fixture(scope="module")
def workshop(lrw: Path, tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    """A workshop whose corpora are a few clips of the synthetic one, and a file that is not a video."""
    folder = tmp_path_factory.mktemp("workshop")
    data = folder / "data"
    shutil.copytree(lrw / "corpus" / "FAMILY", data / "lipread_mp4" / "FAMILY")
    (data / "lipread_mp4" / "ABOUT" / "train").mkdir(parents=True)
    (data / "lipread_mp4" / "ABOUT" / "train" / "ABOUT_00001.mp4").write_bytes(b"not a video")
    (data / "lrw").symlink_to(data / "lipread_mp4")
    clips = sorted(path for path in (lrw / "corpus").rglob("*.mp4") if path.stat().st_size > 100)
    align = "0 8000 sil\n8000 20000 bin\n20000 29000 sil\n"
    track = "FRAME X Y W H\n" + "".join(f"{n} 60 60 140 140\n" for n in range(29))
    places = {
        "voxceleb1/id10270/a/00001.mp4": clips[0],
        "voxceleb2/dev/mp4/id00012/a/00001.mp4": clips[0],
        "voxceleb2/dev/aac/id00012/a/00001.m4a": clips[0],
        "voxceleb2/test/mp4/id00017/b/00001.mp4": clips[1],
        "voxceleb2/test/aac/id00017/b/00001.m4a": clips[1],
        "grid/s1/bbaf2n.mpg": clips[0],
        "grid/s26/lbij7s.mpg": clips[1],
        "mead/video/M003/video/front/angry/level_1/001.mp4": clips[0],
        "mead/audio/M003/audio/angry/level_1/001.m4a": clips[0],
        "mine/anna/hello/take 1.mp4": clips[0],
        "mine/ben/thanks/2024-05-01.mov": clips[1],
    }
    for place, clip in places.items():
        (data / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(clip, data / place)
    texts = {
        "voxceleb1/txt/id10270/a/00001.txt": track,
        "grid/alignments/s1/bbaf2n.align": align,
        "grid/alignments/s26/lbij7s.align": align,
    }
    for place, text in texts.items():
        (data / place).parent.mkdir(parents=True, exist_ok=True)
        (data / place).write_text(text)
    make_shards(folder / "OUT", clips=6)
    saved = Checkpoint.of(made_model(), {"mfcc_preset": "davs", "steps": {"full": 1}})
    for run in ("RUN", "OTHER_RUN", "runs/released"):
        checkpoint.save(folder / run, saved)
    for name in ("photo.jpg", "a.jpg", "b.jpg", "faces/anna/1.jpg", "faces/ben/1.jpg"):
        face = cv2.resize(skimage.data.astronaut(), (256, 256)) if "/" in name else skimage.data.astronaut()
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / name), cv2.cvtColor(face, cv2.COLOR_RGB2BGR))
    made.write_wav(folder / "speech.wav", made.noise(0.6, 16_000), 16_000)
    shutil.copy(clips[0], folder / "driver.mp4")
    return Workshop(folder)


class TestFollowing:
    """The commands work, line after line, from the corpus to the video."""

    @pytest.fixture(autouse=True)
    def there(self, workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
        """Change into the workshop, which has no weights and no array job."""
        monkeypatch.chdir(workshop.folder)
        monkeypatch.setenv("AVPREP_WEIGHTS", str(workshop.folder / "weights"))

    @pytest.mark.parametrize(
        "page",
        [
            pytest.param(page, marks=pytest.mark.slow if page in TUTORIALS[1:] else ())
            for page in PAGES
            if page not in PAGES_NOT_RUN
        ],
    )
    def test_the_lines_of_a_page_run(self, page: str, workshop: Workshop) -> None:
        """Each line that can run here runs, in the order of the page, after those of the README."""
        for line in itertools.chain.from_iterable(shell_lines(name) for name in ("README.md", page)):
            workshop.type(line)
        everything = {"index", "crop", "mfcc", "status", "verify", "train", "evaluate", "generate"}
        if page in TUTORIALS:
            assert {words[0] for words in calls(page)} >= everything
            assert workshop.ran >= everything

    @pytest.mark.filterwarnings("ignore:unclosed file")  # webdataset leaves that to the garbage collector
    @pytest.mark.parametrize("page", ["docs/tutorial-voxceleb.md", "docs/tutorial-own.md"])
    def test_the_python_of_a_tutorial_runs(self, page: str, workshop: Workshop) -> None:
        """A tutorial's Python works on shards that its own lines made."""
        for line in itertools.chain.from_iterable(shell_lines(name) for name in ("README.md", page)):
            if line.startswith(("avprep index", "avprep crop")):
                workshop.type(line)
        (code,) = re.findall(r"```python\n(.*?)```", text_of(page), re.DOTALL)
        shutil.rmtree("faces", ignore_errors=page.endswith("own.md"))
        exec(code.replace("train-{000000..000009}", "train-000000"), {})  # noqa: S102 - our own page
        if page.endswith("voxceleb.md"):
            (face,) = Path("faces").glob("*/*.jpg")
            assert face.parent.name == "id00012"
            assert cv2.imread(str(face)).shape == (256, 256, 3)
        else:
            assert cv2.imread("sheet.png").shape[2] == 3

    @pytest.mark.filterwarnings("ignore:unclosed file")
    def test_shards_are_read_without_avprep(self, workshop: Workshop, capsys: pytest.CaptureFixture[str]) -> None:
        """The lines of docs/shards.md read both columns of every split with webdataset and with numpy alone."""
        for line in shell_lines("README.md"):
            if re.match(r"avprep (index|crop|mfcc) .*\blrw", line):
                workshop.type(line)
        (code,) = re.findall(r"```python\n(.*?)```", text_of("docs/shards.md"), re.DOTALL)
        assert "avprep" not in code
        code = code.replace('("train-000000", "train-000001")', '("train-000000", "val-000000", "test-000000")')
        exec(code.replace("OUT/", "shards/lrw/"), {})  # noqa: S102 - our own page
        lines = capsys.readouterr().out.splitlines()
        assert all(re.fullmatch(r"FAMILY/\w+/FAMILY_00001 FAMILY 29 \(29, 12, 20\) 26", line) for line in lines), lines
        assert len(lines) == 3  # one of the four files is not a video


class TestNames:
    """The names on the pages exist."""

    def test_the_paper_map_names_real_things(self) -> None:
        """Each dotted name of docs/paper.md can be imported."""
        names = {span for span in spans("docs/paper.md") if re.fullmatch(r"(avprep|davs_model)(\.\w+)+", span)}
        assert len(names) > 40
        for name in names:
            assert resolve(name) is not None, name

    def test_the_paper_map_is_complete(self) -> None:
        """Equations 1 to 8, figures 1 to 5 and tables 1 to 4 have a row each, and no loss is missing."""
        page = text_of("docs/paper.md")
        for name, numbers in (("Equations", range(1, 9)), ("Figures", range(1, 6)), ("Tables", range(1, 5))):
            section = page.split(f"## {name}\n")[1].split("\n## ")[0]
            first = {int(n) for n in re.findall(r"^\| (?:eq\. )?(\d)(?:\b(?!\.)| )", section, re.MULTILINE)}
            assert first >= set(numbers), name
        for name in vars(losses):
            if name.endswith(("_loss", "_confusion")):
                assert f"`davs_model.models.davs.losses.{name}`" in page, name

    def test_quoted_messages_are_the_program_s_own(self) -> None:
        """Each quoted line of docs/troubleshooting.md, with … for variable parts, is in the source code."""
        quotes = re.findall(r"^> (.*)$", text_of("docs/troubleshooting.md"), re.MULTILINE)
        assert len(quotes) > 30
        source = messages()
        for quote in quotes:
            wanted = blank(quote).strip("\0 ")
            assert any(wanted in message for message in source), quote

    def test_a_changed_message_would_be_found(self) -> None:
        """A quotation with a changed word is not in the source code."""
        assert not any("made with different settings" in message for message in messages())

    @pytest.mark.parametrize("page", PAGES)
    def test_python_imports_what_it_uses(self, page: str) -> None:
        """Each block of Python, fenced or indented, is complete: it defines or imports each name that it uses."""
        indented = re.findall(r"(?:^ {4}(?:from|import) .*\n)(?:(?: {4}.*)?\n)*", text_of(page), re.MULTILINE)
        for code in (*re.findall(r"```python\n(.*?)```", text_of(page), re.DOTALL), *map(textwrap.dedent, indented)):
            nodes = list(ast.walk(ast.parse(code)))
            known = {
                alias.asname or alias.name.partition(".")[0]
                for one in nodes
                if isinstance(one, ast.Import | ast.ImportFrom)
                for alias in one.names
            }
            names = [one for one in nodes if isinstance(one, ast.Name)]
            known |= {one.id for one in names if isinstance(one.ctx, ast.Store)} | set(dir(builtins))
            assert {one.id for one in names} <= known, page

    @pytest.mark.parametrize("page", PAGES)
    def test_links_lead_somewhere(self, page: str) -> None:
        """Each link of a page to another file of the repository leads to an existing file."""
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", text_of(page)):
            assert (ROOT / page).parent.joinpath(target).exists(), target

    def test_every_page_is_in_the_contents(self) -> None:
        """docs/index.md leads to every page."""
        linked = set(re.findall(r"\]\((\w[\w-]*\.md)\)", text_of("docs/index.md")))
        assert linked == {path.name for path in DOCS.glob("*.md")} - {"index.md"}


def test_figures_follow_from_the_cluster_page() -> None:
    """Hours and gigabytes of the tutorials follow from the speeds and sizes of docs/cluster.md."""
    (crop,) = known("LRW", "`crop --detector yunet`, frames/s per core")
    (mfcc,) = known("LRW", "`mfcc`, frames/s per core")
    sizes = [known(name, f"bytes per frame: `{column}`")[0] for name in FRAMES for column in ("crop", "mfcc")]
    lrw, vox2 = sizes[0] + sizes[1], sizes[2] + sizes[3]
    part = 10_000 * 194.8
    expected = {
        "docs/tutorial-lrw.md": (
            f"{FRAMES['LRW']:,} | / {crop:.0f} / 3,600 = {FRAMES['LRW'] / crop / 3600:.1f} h | "
            f"{FRAMES['LRW'] / crop / 16 / 60:.0f} min",
            f"/ {mfcc:,.0f} / 3,600 = {FRAMES['LRW'] / mfcc / 3600:.1f} h | {FRAMES['LRW'] / mfcc / 16 / 60:.0f} min",
            f"× {sizes[0]:,.0f} = {FRAMES['LRW'] * sizes[0] / 1e9:.0f} GB",
            f"× {sizes[1]:,.0f} = {FRAMES['LRW'] * sizes[1] / 1e9:.0f} GB",
            f"{319_000 / crop / 60:.0f} minutes of one core and {319_000 * lrw / 1e9:.1f} GB",
        ),
        "docs/tutorial-grid.md": (
            f"{174_000:,} | {174_000 / crop / 60:.0f} min | {174_000 / mfcc:.0f} s | {174_000 * lrw / 1e9:.1f} GB",
            f"{5_742_000:,} | {5_742_000 / crop / 3600:.1f} h | {5_742_000 / mfcc / 60:.0f} min | "
            f"{5_742_000 * lrw / 1e9:.0f} GB",
            f"= 2,475,000 frames, {2_475_000 * lrw / 1e9:.0f} GB",
        ),
        "docs/tutorial-voxceleb.md": (
            f"{part:,.0f} | {part / crop / 60:.0f} min | {part / mfcc / 60:.1f} min | {part * vox2 / 1e9:.0f} GB",
            f"{FRAMES['VoxCeleb2']:,} | {FRAMES['VoxCeleb2'] / crop / 3600:.0f} h | "
            f"{FRAMES['VoxCeleb2'] / mfcc / 3600:.0f} h | {FRAMES['VoxCeleb2'] * vox2 / 1e12:.1f} TB",
            f"disk, {vox2:,.0f} bytes per frame",
        ),
        "docs/tutorial-own.md": (f"{lrw:,.0f} bytes", f"= {1500 * lrw / 1e6:.0f} MB a minute"),
    }
    for page, figures in expected.items():
        words = " ".join(text_of(page).split())
        for figure in figures:
            assert figure in words, f"{page}: {figure}"


def resolve(name: str) -> Any:
    """The object of a dotted name, or the annotation of a class's field."""
    parts = name.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:cut]))
        except ModuleNotFoundError:
            continue
        for part in parts[cut:]:
            found = getattr(found, part, None) or getattr(found, "__annotations__", {}).get(part)
        return found
    return None


def blank(text: str) -> str:
    """A message with a zero byte for each variable part."""
    return re.sub("\0+", "\0", text.replace("…", "\0"))


@functools.cache
def messages() -> list[str]:
    """Every text of the source code, with its variable parts blanked."""
    found = []
    for package in ("avprep", "davs_model", "cli/avprep_cli"):
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.JoinedStr):
                    parts = (str(part.value) if isinstance(part, ast.Constant) else "\0" for part in node.values)
                    found.append(blank("".join(parts)))
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    found.append(blank(node.value))
    return found


def test_large_names_a_stage_that_has_no_time_for_a_step(tmp_path: Path) -> None:
    """Where a stage is stopped before it has saved anything, large.sh ends in a line that names it and the remedy."""
    avprep = tmp_path / "bin" / "avprep"
    avprep.parent.mkdir()
    avprep.write_text("#!/bin/sh\ncase $1 in train) exec sleep 60 ;; esac\n", encoding="utf-8")
    avprep.chmod(0o755)
    environment = {"PATH": f"{avprep.parent}:{os.environ['PATH']}", "SECONDS_EACH": "0.1 60 60"}
    command = ["sh", DOCS / "large.sh", tmp_path / "grid", tmp_path / "work"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == (
        "large.sh: 0.1 s were too short for a step of the stage identity: give more in SECONDS_EACH\n"
    )
