"""Models that train on avprep's shards: talking faces by DAVS (AAAI 2019), AMIE and ET-GAN-ACW, and a sync model.

    import davs_model

    davs_model.train("out", "run", preset="small")
    talker = davs_model.load("run")
    talker.film("photo.jpg", "speech.wav", "talking.mp4")

Both functions, and torch with them, are imported on first use.
"""

from __future__ import annotations

from avprep.lazy import on_first_use

TYPE_CHECKING = False  # instead of typing's, which takes ten times as long to import as everything else here
if TYPE_CHECKING:
    from davs_model.api import load, train

__all__ = ["load", "train"]
__getattr__, __dir__ = on_first_use(__name__, {"api": __all__}, extra="model")
