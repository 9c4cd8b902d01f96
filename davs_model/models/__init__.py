"""Models: what each of them is, reads and minimises."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from davs_model.models.davs.networks import DAVS

NAMES = ("davs",)


def build(name: str, dimensions: Mapping[str, int | float]) -> DAVS:
    """Build a model, its weights drawn at random; ValueError for a name that no model has, TypeError as its class."""
    if name not in NAMES:
        raise ValueError(f"no model {name}: there is {', '.join(NAMES)}")
    from davs_model.models.davs.networks import DAVS

    return DAVS(**dimensions)  # type: ignore[arg-type]
