"""Detector weights: only verified files are used, only `fetch` downloads, and no half-written file is left."""

from __future__ import annotations

import hashlib
import importlib
import io
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from http.client import HTTPMessage
from pathlib import Path
from urllib.error import URLError

import pytest

from avprep.errors import WeightsError
from avprep.faces import https, weights

CONTENT = b"tensors" * 100
TINY = weights.WeightsFile(
    name="tiny",
    detector="tiny-detector",
    file="tiny.onnx",
    url="https://weights.test/tiny.onnx",
    sha256=hashlib.sha256(CONTENT).hexdigest(),
    size=len(CONTENT),
    licence="MIT",
    source="https://weights.test",
)
HUB = weights.WeightsFile(**{name: getattr(TINY, name) for name in TINY.__slots__} | {"torch_hub": True})


@pytest.fixture(autouse=True)
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put one tiny weights file into the table and every folder under tmp_path; return the folder of weights."""
    monkeypatch.setitem(weights.known(), "tiny", TINY)
    monkeypatch.setenv("AVPREP_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("TORCH_HOME", raising=False)
    monkeypatch.setattr(https, "open_url", refuse)
    return tmp_path / "weights"


def refuse(url: str) -> io.BytesIO:
    """Stand in for a machine without a network."""
    raise URLError("Name or service not known")


def serve(content: bytes) -> Callable[[str], io.BytesIO]:
    """Return an opener that sends the same bytes for any address."""
    return lambda url: io.BytesIO(content)


def put(folder: Path, content: bytes = CONTENT) -> Path:
    """Write the tiny weights file."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / TINY.file
    path.write_bytes(content)
    return path


def test_import_is_light() -> None:
    """Importing the detectors' names and the table of weights loads neither cv2 nor torch."""
    loaded = "print(*{'cv2', 'torch', 'face_alignment'} & set(sys.modules))"
    code = f"import sys, avprep.faces.detectors, avprep.faces.weights; {loaded}"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == ""


def test_find_returns_a_verified_file(tiny: Path) -> None:
    """A file with the pinned digest in the folder of weights is found."""
    path = put(tiny)
    assert weights.find("tiny") == path


def test_find_reads_the_cache_by_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without AVPREP_WEIGHTS the folder is avprep/weights in the user's cache."""
    monkeypatch.delenv("AVPREP_WEIGHTS")
    path = put(tmp_path / "cache" / "avprep" / "weights")
    assert weights.find("tiny") == path


def test_missing_weights_name_the_command(tiny: Path) -> None:
    """The error for missing weights is one line: the file, the folder, and how to get all that the detector needs."""
    with pytest.raises(WeightsError) as caught:
        weights.find("tiny")
    message = str(caught.value)
    for part in ("tiny.onnx", str(tiny), "avprep weights fetch tiny-detector`", "--to DIR", "AVPREP_WEIGHTS=DIR"):
        assert part in message
    assert "\n" not in message


def test_wrong_digest_is_refused_and_kept(tiny: Path) -> None:
    """Another file under the right name is not used, and is not deleted."""
    path = put(tiny, b"something else")
    with pytest.raises(WeightsError, match="not the pinned"):
        weights.find("tiny")
    assert path.read_bytes() == b"something else"


def test_torch_hub_copy_is_accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file in the torch hub folder is used where it lies, but only for weights that come from there."""
    path = put(tmp_path / "cache" / "torch" / "hub" / "checkpoints")
    assert not weights.available("tiny-detector")
    monkeypatch.setitem(weights.known(), "tiny", HUB)
    assert weights.available("tiny-detector")
    assert weights.find("tiny") == path


def test_torch_home_is_honoured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """TORCH_HOME changes the torch hub folder that is searched."""
    monkeypatch.setitem(weights.known(), "tiny", HUB)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    path = put(tmp_path / "torch" / "hub" / "checkpoints")
    assert weights.find("tiny") == path


def test_available_needs_every_file(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A detector is available if all its files are there; one that needs none always is."""
    assert weights.available("opencv")
    assert not weights.available("tiny-detector")
    put(tiny)
    assert weights.available("tiny-detector")


def test_fetch_downloads_and_verifies(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fetch makes the folder, writes the file under its name alone and reports what was fetched."""
    monkeypatch.setattr(https, "open_url", serve(CONTENT))
    arrived: list[tuple[str, int]] = []
    assert list(weights.fetch(["tiny"], progress=lambda name, count: arrived.append((name, count)))) == [
        (TINY, tiny / TINY.file, True)
    ]
    assert [path.name for path in tiny.iterdir()] == [TINY.file]
    assert weights.find("tiny").read_bytes() == CONTENT
    assert arrived == [("tiny", len(CONTENT))]


def test_fetch_takes_a_detector_and_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A detector's name means all of its files, and --to names the folder."""
    monkeypatch.setattr(https, "open_url", serve(CONTENT))
    assert [path for _, path, _ in weights.fetch(["tiny-detector"], tmp_path / "usb")] == [tmp_path / "usb" / TINY.file]


def test_fetch_keeps_a_good_file(tiny: Path) -> None:
    """A good file is kept without a request to the network."""
    path = put(tiny)
    before = path.stat().st_mtime_ns
    assert list(weights.fetch(["tiny"])) == [(TINY, path, False)]
    assert path.stat().st_mtime_ns == before


def test_fetch_never_overwrites(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another file under the same name stops fetch and is kept."""
    monkeypatch.setattr(https, "open_url", serve(CONTENT))
    path = put(tiny, b"mine")
    with pytest.raises(WeightsError, match="move it away"):
        list(weights.fetch(["tiny"]))
    assert path.read_bytes() == b"mine"


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"<html>404</html>", "thrown away"), (CONTENT[:-1], "thrown away"), (CONTENT + b"x", "more than")],
    ids=["page", "cut short", "too long"],
)
def test_fetch_throws_away_what_is_wrong(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, message: str
) -> None:
    """A download that is not the pinned file leaves no file behind."""
    monkeypatch.setattr(https, "open_url", serve(content))
    with pytest.raises(WeightsError, match=message):
        list(weights.fetch(["tiny"]))
    assert list(tiny.iterdir()) == []


def test_fetch_broken_off_leaves_nothing(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that breaks midway is a one-line error and leaves no file; the next fetch starts afresh."""

    class Breaking(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            if self.tell():
                raise ConnectionResetError("connection reset by peer")
            return super().read(10)

    monkeypatch.setattr(https, "open_url", lambda url: Breaking(CONTENT))
    with pytest.raises(WeightsError, match=r"https://weights\.test/tiny\.onnx.*reset"):
        list(weights.fetch(["tiny"]))
    assert list(tiny.iterdir()) == []
    monkeypatch.setattr(https, "open_url", serve(CONTENT))
    assert [downloaded for *_, downloaded in weights.fetch(["tiny"])] == [True]


def test_fetch_offline_says_what_to_do() -> None:
    """Without a network the error is one line that explains how to copy the file over."""
    with pytest.raises(WeightsError) as caught:
        list(weights.fetch(["tiny"]))
    assert "not known" in str(caught.value)
    assert "--to DIR" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("place", ["", "below/it"])
def test_fetch_into_what_is_no_folder_names_it(tmp_path: Path, place: str) -> None:
    """If the folder cannot be made or written, the error names it and --to, and does not mention the network."""
    (tmp_path / "file").write_text("")
    with pytest.raises(WeightsError, match=r"file.*: cannot write there \(.+\); name another folder by --to DIR$"):
        list(weights.fetch(["tiny"], tmp_path / "file" / place))


def test_unknown_names_are_refused_first(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that does not exist is refused before anything is downloaded."""
    monkeypatch.setattr(https, "open_url", serve(CONTENT))
    with pytest.raises(WeightsError, match="choose from"):
        list(weights.fetch(["tiny", "tinny"]))
    assert not tiny.exists()


def test_only_https(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither an address nor a redirect may use anything but https."""
    monkeypatch.undo()
    with pytest.raises(OSError, match="not an https"):
        https.open_url("http://weights.test/tiny.onnx")
    request = urllib.request.Request(TINY.url)  # noqa: S310 - never opened
    handler = https._HttpsOnly()
    with pytest.raises(OSError, match="not an https"):
        handler.redirect_request(request, io.BytesIO(), 302, "Found", HTTPMessage(), "http://weights.test/")
    assert handler.redirect_request(request, io.BytesIO(), 302, "Found", HTTPMessage(), "https://weights.test/")


@pytest.mark.parametrize("url", ["https://[::1/tiny.onnx", f"https://{'a' * 300}/tiny.onnx"])
def test_an_address_that_is_none(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """A redirect to an invalid address is reported as unreachable, not as an internal error."""
    monkeypatch.undo()
    with pytest.raises(OSError, match="an address on the way is none"):
        https.open_url(url)


def test_weights_of_a_package_are_read_where_it_is_installed(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights that come with a package are taken from it alone, without importing it, and verified like any file."""
    put(tiny)
    package = tiny.parent / "has_weights"
    fields = {name: getattr(TINY, name) for name in TINY.__slots__}
    monkeypatch.setitem(weights.known(), "tiny", weights.WeightsFile(**fields | {"package": "has_weights/models"}))
    monkeypatch.syspath_prepend(tiny.parent)
    remedy = "pip install --force-reinstall --no-deps has_weights"
    with pytest.raises(WeightsError, match=f"^tiny.onnx is not installed: {remedy}$"):
        weights.find("tiny")
    path = put(package / "models")
    (package / "__init__.py").write_text("raise ImportError('it needs what is not there')")
    importlib.invalidate_caches()
    assert weights.find("tiny") == path
    put(package / "models", b"damaged")
    with pytest.raises(WeightsError, match=f"has_weights/models/tiny.onnx has the sha256 .*: {remedy}$"):
        weights.find("tiny")


def test_weights_of_a_package_are_not_downloaded() -> None:
    """Without names all other weights are fetched; by name these are refused with what installs them."""
    assert weights.downloadable() == [name for name in weights.known() if name != "dlib-68"]
    with pytest.raises(WeightsError, match=r"comes with a package: pip install .* face_recognition_models$"):
        list(weights.fetch(["dlib"]))


def test_table_tells_the_state(tiny: Path) -> None:
    """The list has one row per file: its source, its licence, and whether a good copy is here."""
    states = {row["name"]: row["state"] for row in weights.table() if row["name"] != "dlib-68"}
    assert states == dict.fromkeys(["yunet", "s3fd", "2dfan4", "tiny"], "missing")
    path = put(tiny)
    assert weights.table()[-1]["state"] == f"ready: {path}"
    put(tiny, b"damaged")
    assert "not the pinned" in weights.table()[-1]["state"]


def test_published_files_are_pinned() -> None:
    """Every published file has a full digest, an https address or the package that it comes with, and a licence."""
    for row in weights.table():
        assert len(row["sha256"]) == 64
        assert row["url"].startswith(("https://", "pip install "))
        assert row["licence"]
