"""DAVS: Talking Face Generation by Adversarially Disentangled Audio-Visual Representation (AAAI 2019)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from avprep.lazy import on_first_use
from davs_model.models.davs.settings import Settings

if TYPE_CHECKING:
    from davs_model.models.davs.networks import Model

__all__ = ["Model", "Settings"]
__getattr__, __dir__ = on_first_use(__name__, {"networks": ["Model"]})  # settings need no torch
