"""Fixtures that several test files share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

SHARED = Path(os.environ.get("AVPREP_SHARED") or Path(__file__).resolve().parents[2] / "shared")
"""Real clips, reference values and weights; not part of the repository."""


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real clips and reference values; the test is skipped where it is absent."""
    if not (SHARED / "clips").is_dir():
        pytest.skip(f"no real clips at {SHARED} (AVPREP_SHARED)")
    return SHARED


@pytest.fixture(scope="session")
def yunet_weights(shared: Path) -> Path:
    """The folder of YuNet's weights; the test is skipped where it is absent."""
    folder = shared / "weights"
    if not (folder / "face_detection_yunet_2023mar.onnx").is_file():
        pytest.skip(f"no YuNet weights at {folder}")
    return folder


@pytest.fixture
def yunet(yunet_weights: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of the YuNet detector, its weights made available as a user would."""
    monkeypatch.setenv("AVPREP_WEIGHTS", str(yunet_weights))
    return "yunet"
