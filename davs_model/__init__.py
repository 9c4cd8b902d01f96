"""DAVS: Talking Face Generation by Adversarially Disentangled Audio-Visual Representation (Zhou et al., AAAI 2019).

    import davs_model

    davs_model.train("out", "run", preset="small")
    talker = davs_model.load("run")
    talker.film("photo.jpg", "speech.wav", "talking.mp4")

Both are loaded, and torch with them, when they are first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from davs_model.api import load, train

__all__ = ["load", "train"]


def __getattr__(name: str) -> Any:
    """Load the public API (PEP 562)."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from davs_model import api

    return getattr(api, name)


def __dir__() -> list[str]:
    """List the public API, loaded or not."""
    return sorted({*globals(), *__all__})
