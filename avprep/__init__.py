"""Videos of talking faces in, sharded crops and MFCC windows out.

    import avprep

    manifest = avprep.index("grid", "/data/grid")
    avprep.crop(manifest, "out", detector="auto", jobs=8)
    avprep.mfcc(manifest, "out")
    avprep.verify("out")
    for sample in avprep.open("out", split="train"):
        sample.key, sample.frames, sample.windows, sample.valid, sample.word

Each of these is also a command of `avprep`. They are loaded on first use.
"""

from __future__ import annotations

from avprep.lazy import on_first_use

TYPE_CHECKING = False  # as typing.TYPE_CHECKING; importing typing takes ten times as long as all else here
if TYPE_CHECKING:
    from avprep.api import Example, crop, index, mfcc, open, verify  # noqa: A004 - avprep.open is read as such

__version__ = "0.1.0"
__all__ = ["Example", "crop", "index", "mfcc", "open", "verify"]
__getattr__, __dir__ = on_first_use(__name__, {"api": __all__})
