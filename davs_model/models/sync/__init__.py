"""Sync: how far audio and video are apart, by contrast within a clip (after SyncNet, Chung and Zisserman 2016)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from davs_model.models.sync.settings import Settings

if TYPE_CHECKING:
    from davs_model.models.sync.model import Sync as Model

__all__ = ["Model", "Settings"]


def __getattr__(name: str) -> Any:
    """Load the networks once they are asked for: settings need no torch."""
    if name == "Model":
        from davs_model.models.sync.model import Sync

        return Sync
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
