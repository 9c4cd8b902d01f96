"""HDTF, High-definition Talking Face dataset: hours of speeches and interviews with one person in view.

Source: Z. Zhang et al., Flow-guided One-shot Talking Face Generation, CVPR 2021, https://github.com/MRzzm/HDTF
Terms: CC BY 4.0 for the annotations; the copyright of the videos remains with their owners.
Splits: none is official. A hash of the person puts about 80, 10 and 10 % of the people into train, val and test.

    RD_Radio1_000.mp4, WDA_BarackObama_000.mp4, WRA_MittRomney_000.mp4      SOURCE_PERSON_PART, at any depth

HDTF is a list of URLs and times; this layout reads the clips that its tools or yours make from it. In WDA and WRA, a
number after a person's name, as in `WDA_NancyPelosi1_000`, distinguishes videos of one person; the people of RD have no
names.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from avprep.layouts.scan import Scan, is_video, stable_split, walk
from avprep.manifest import Clip, make_key

EXPECTS = "RD_Radio1_000.mp4, WDA_BarackObama_000.mp4"
SIGN = re.compile(r"(?:[^/]+/)*(?:RD|WDA|WRA)_[^/_]+_\d{3}\.[^./]+")

_NAME = re.compile(r"(?P<source>RD|WDA|WRA)_(?P<person>[^_]+)(?:_.*)?", re.DOTALL)


def scan(root: Path, scan: Scan) -> None:
    """Make a clip of every video.

    Problems: `unexpected_place`.
    """
    for path in filter(is_video, walk(root, scan)):
        stem = posixpath.splitext(path)[0]
        name = _NAME.fullmatch(posixpath.basename(stem)) or _NAME.fullmatch(posixpath.basename(posixpath.dirname(path)))
        if name is None:
            scan.problem("unexpected_place", path, f"expected {EXPECTS}")
            continue
        person = name["person"] if name["source"] == "RD" else name["person"].rstrip("0123456789") or name["person"]
        speaker = f"{name['source']}_{person}" if name["source"] == "RD" else person
        scan.clips.append(Clip(make_key(stem), path, stable_split(speaker), speaker=speaker))
