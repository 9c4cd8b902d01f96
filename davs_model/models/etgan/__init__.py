"""ET-GAN with adaptive cross-modal weighting (Neurocomputing 2022), after Talking Face Generation with
Expression-Tailored GAN (ACM Multimedia 2020).

No code of it is public, and only the abstracts of the papers were available. What they state is cited where it is
implemented; every formula, size and weight of this package is ours.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from avprep.lazy import on_first_use
from davs_model.models.etgan.settings import Settings

if TYPE_CHECKING:
    from davs_model.models.etgan.networks import Model

__all__ = ["Model", "Settings"]
__getattr__, __dir__ = on_first_use(__name__, {"networks": ["Model"]})  # settings need no torch
