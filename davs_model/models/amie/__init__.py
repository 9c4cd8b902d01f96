"""AMIE with dynamic attention: Attentional Audio-Visual Coherence Learning (IJCAI 2020)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from davs_model.models.amie.settings import Settings

if TYPE_CHECKING:
    from davs_model.models.amie.networks import AMIE as Model  # noqa: N811 - the name that every model has

__all__ = ["Model", "Settings"]


def __getattr__(name: str) -> Any:
    """Load the networks once they are asked for: settings need no torch."""
    if name == "Model":
        from davs_model.models.amie.networks import AMIE

        return AMIE
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
