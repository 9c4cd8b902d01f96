"""ET-GAN with adaptive cross-modal weighting (Neurocomputing 2022), after Talking Face Generation with
Expression-Tailored GAN (ACM Multimedia 2020).

No code of it is public, and of the papers only the abstracts were at hand: what they say is named where it is built;
every formula, size and weight of this package is ours.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from davs_model.models.etgan.settings import Settings

if TYPE_CHECKING:
    from davs_model.models.etgan.networks import ETGAN as Model  # noqa: N811 - the name that every model has

__all__ = ["Model", "Settings"]


def __getattr__(name: str) -> Any:
    """Load the networks once they are asked for: settings need no torch."""
    if name == "Model":
        from davs_model.models.etgan.networks import ETGAN

        return ETGAN
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
