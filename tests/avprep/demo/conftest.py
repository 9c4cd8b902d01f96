"""Clips with landmarks, whose mouth movements other speakers take over."""

from __future__ import annotations

from pathlib import Path

import pytest

import avprep
from avprep import layouts, manifest
from avprep.errors import AvprepError
from avprep.faces import detectors


@pytest.fixture(scope="session")
def marked(made_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six clips of synthetic people, in shards with landmarks; read-only."""
    try:
        detectors.require("dlib")
    except AvprepError as error:
        pytest.skip(str(error))
    folder = tmp_path_factory.mktemp("marked")
    plan, _ = layouts.index("lrw", made_corpus)
    (folder / "plan.jsonl").write_text(manifest.render(plan), encoding="utf-8")
    avprep.crop(folder / "plan.jsonl", folder / "out", detector="dlib", jobs=1)
    return folder / "out"
