"""Finding the faces of a clip: detected in its keyframes, followed through the frames between."""

from __future__ import annotations

from collections.abc import Iterable

from avprep.faces.cuts import Thumbnail, with_cuts
from avprep.faces.detectors.base import Detector
from avprep.faces.following import Following
from avprep.faces.track import Detections
from avprep.media.picture import Picture


def find_faces(pictures: Iterable[Picture], detector: Detector, every: int) -> Detections:
    """Find the faces of a clip.

    pictures: the clip at 25 fps, read once; a few are held in memory.
    every: frames from one detection pass to the next, see `Following`. In between, faces are followed by registration.
    Raises what reading the pictures raises.
    """
    cuts: set[int] = set()
    seen: list[Thumbnail] = []
    faces = Following(detector, cuts, every)
    n_frames, picture = 0, None
    for frame, (picture, begins) in enumerate(with_cuts(pictures, seen)):
        if begins:
            cuts.add(frame)
        faces.add(frame, picture)
        n_frames = frame + 1
    size = (0, 0) if picture is None else picture.size
    return Detections(n_frames, size, faces.finish(n_frames), frozenset(cuts), seen)
