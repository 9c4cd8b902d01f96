"""DAVS: Talking Face Generation by Adversarially Disentangled Audio-Visual Representation (AAAI 2019)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from davs_model.models.davs.settings import Settings

if TYPE_CHECKING:
    from davs_model.models.davs.networks import DAVS as Model  # noqa: N811 - the name that every model has

__all__ = ["Model", "Settings"]


def __getattr__(name: str) -> Any:
    """Load the networks once they are asked for: settings need no torch."""
    if name == "Model":
        from davs_model.models.davs.networks import DAVS

        return DAVS
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
