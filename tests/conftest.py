"""Fixtures that several test files share."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import forked
import hypothesis
import pytest

from avprep import layouts, manifest
from avprep.demo import synthetic
from avprep.runs import pool

if TYPE_CHECKING:
    from playwright.sync_api import Browser

SHARED = Path(os.environ.get("AVPREP_SHARED") or Path(__file__).resolve().parents[2] / "shared")
"""Real clips, reference values and weights; not part of the repository."""


FIRST = {"slurm", "browser"}
"""Fixtures of files that take long and mostly wait: these files start first, so that none is left at the end."""
LONG = (
    *("test_training", "test_run", "test_talking_training", "test_generate_cli", "test_photo", "test_stages"),
    *(
        "test_timing",
        "test_evaluate",
        "test_etgan_model",
        "test_clip_view",
        "test_amie_model",
        "test_sync",
        "test_evaluation_page",
    ),
    *("test_generate", "test_loading", "test_released", "test_manners", "test_odd_inputs", "test_docs_commands"),
    *(
        "test_processes",
        "test_checkpoint",
        "test_dubbing",
        "test_torch_file",
        "test_synthetic",
        "test_streams",
        "test_study_cli",
        "test_privacy",
    ),
)
"""Files with long computations, the longest first: they come next, for the same reason."""


hypothesis.settings.register_profile("whole", deadline=None)
hypothesis.settings.register_profile("quick", max_examples=25, derandomize=True, deadline=None)


def pytest_configure(config: pytest.Config) -> None:
    """Use fewer examples of a property, and the same ones each time, if slow tests are left out."""
    hypothesis.settings.load_profile("quick" if config.getoption("markexpr") == "not slow" else "whole")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start with those files; files stay whole, since `--dist loadfile` gives each to one process."""
    first = {item.path for item in items if FIRST & set(getattr(item, "fixturenames", ()))}
    order = {name: place for place, name in enumerate(LONG, 1)}
    items.sort(key=lambda item: 0 if item.path in first else order.get(item.path.stem, len(order) + 1))


@pytest.fixture(scope="module", autouse=True)
def forked_workers(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fork the workers of runs in this process, except in files marked `interpreters`."""
    with pytest.MonkeyPatch.context() as patch:
        if request.node.get_closest_marker("interpreters") is None:
            patch.setattr(pool.Pool, "_start", forked.start)
        yield


@pytest.fixture
def interpreters(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start the workers of this test as users do, in a file whose other tests fork them."""
    monkeypatch.setattr(pool.Pool, "_start", forked.INTERPRETER)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real clips and reference values; the test is skipped where it is absent."""
    if not (SHARED / "clips").is_dir():
        pytest.skip(f"no real clips at {SHARED} (AVPREP_SHARED)")
    return SHARED


@pytest.fixture(scope="session")
def yunet_weights() -> Path:
    """The folder of YuNet's weights, the user's or the one beside the clips; the test is skipped where it is absent."""
    folder = Path(os.environ.get("AVPREP_WEIGHTS") or SHARED / "weights")
    if not (folder / "face_detection_yunet_2023mar.onnx").is_file():
        pytest.skip(f"no YuNet weights at {folder}")
    return folder


@pytest.fixture
def yunet(yunet_weights: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of the YuNet detector, its weights made available as a user would."""
    monkeypatch.setenv("AVPREP_WEIGHTS", str(yunet_weights))
    return "yunet"


@pytest.fixture(scope="session")
def made_corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus like LRW of two words by three speakers; not to be changed."""
    root = tmp_path_factory.mktemp("corpus")
    synthetic.make_corpus(root, words=2, speakers=3, takes=1)
    return root


@pytest.fixture(scope="session")
def lrw(made_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with that corpus, one clip no video, and its manifest, `plan.jsonl`; not to be changed."""
    folder = tmp_path_factory.mktemp("lrw")
    shutil.copytree(made_corpus, folder / "corpus")
    (folder / "corpus/ABOUT/train/ABOUT_00001.mp4").write_bytes(b"not a video")
    plan, _ = layouts.index("lrw", folder / "corpus")
    (folder / "plan.jsonl").write_text(manifest.render(plan), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Make torch use one thread: the models are small, and other tests need processors, too."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def torch_and_opencv_in_one_thread() -> Iterator[None]:
    """Keep both libraries to one thread, as workers do."""
    import cv2
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """The system's Chromium, without a window; the test is skipped where there is none."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    # The first one has no window at all: a page in it takes a quarter of the time.
    names = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
    programs = map(shutil.which, names)
    program = next(filter(None, programs), None)
    if program is None:
        pytest.skip("no Chromium on PATH")
    flags = ["--disable-gpu", "--disable-background-networking", "--no-first-run", "--mute-audio"]
    if os.geteuid() == 0:
        flags.append("--no-sandbox")  # without which Chromium does not run as root
    with playwright.sync_playwright() as running:
        opened = running.chromium.launch(executable_path=program, args=flags)
        yield opened
        opened.close()


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], Path]:
    """A function that puts a small program on PATH, where Slurm is not, whatever this machine has."""
    folder = tmp_path / "programs"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))

    def write(name: str, text: str) -> Path:
        path = folder / name
        path.write_text(text)
        path.chmod(0o755)
        return path

    return write
