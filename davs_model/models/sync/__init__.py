"""Sync: the audio-video offset, by contrastive learning within a clip (after SyncNet, Chung and Zisserman 2016)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from avprep.lazy import on_first_use
from davs_model.models.sync.settings import Settings

if TYPE_CHECKING:
    from davs_model.models.sync.model import Model

__all__ = ["Model", "Settings"]
__getattr__, __dir__ = on_first_use(__name__, {"model": ["Model"]})  # settings need no torch
