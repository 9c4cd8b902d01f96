"""The contract of the shards for all their readers: members, dtypes, shapes, units.

A sample is a set of tar members `<key>.<member>`. `crop` and `mfcc` are two columns of one table: the same keys and
shard numbers, joined by key when read. `sync` is a third, measured on these two. This module needs only numpy and the
standard library.
"""

from __future__ import annotations

import io
import json
import math
import re
import struct
from collections.abc import Container, Mapping
from typing import TYPE_CHECKING, Any, Literal

from avprep import untrusted
from avprep.errors import ShardError

if TYPE_CHECKING:  # at run time numpy is imported only by functions on arrays: names and numbers load without it
    from numpy.typing import NDArray

FPS = 25
"""Video frames per second: frame `i` shows the instant `start + i / FPS`."""
MAX_LEAD = 15
"""Maximum lead or lag of the audio that is searched, in frames. A measured value at this limit may really be larger."""
SAMPLE_RATE = 16_000
"""Audio samples per second, mono; frame `i` spans samples `640*i … 640*i + 639`."""
HOP = 160
"""Samples between MFCC steps: 100 steps per second; step `c` starts at sample `160*c`."""
STEPS_PER_FRAME = SAMPLE_RATE // (FPS * HOP)
assert STEPS_PER_FRAME * FPS * HOP == SAMPLE_RATE
WINDOW_STEPS = 20
"""MFCC steps per window: 200 ms, five video frames centred on the window's own frame."""
WINDOW_FRAMES = WINDOW_STEPS // STEPS_PER_FRAME
N_COEFFICIENTS = 12
CROP_SIZE = 256
"""Width and height of a crop in pixels."""
MAX_PICTURE = 1 << 20
"""Maximum size of an encoded crop (bytes): about five times its raw pixels."""
MAX_SCANS = 64
"""Maximum scans of a JPEG; a progressive one has ten."""
N_POINTS = 5
"""Left eye, right eye, nose, left mouth corner, right mouth corner; left is the image's left."""
N_LANDMARKS = 68
"""Landmarks of 300-W: jaw, brows, nose, eyes, outer and inner edge of the lips."""

MANIFEST_VERSION = 1
SIDECAR_VERSION = 1
"""Versions of `manifest.jsonl` and of each shard's JSON sidecar; readers refuse any other."""
COLUMNS = ("crop", "mfcc")
"""The columns that every reader joins."""
MEASURED = ("sync",)
"""Columns that are measured on `COLUMNS`; an OUT may lack them."""
ALL_COLUMNS = (*COLUMNS, *MEASURED)
IMAGE_FORMATS = ("jpg", "png")
ARRAYS: dict[str, dict[str, tuple[str, tuple[int, ...]]]] = {
    "crop": {
        "points.npy": ("<f4", (N_POINTS, 2)),  # source pixels, x y, smoothed; NaN: the detector does not give it
        "affine.npy": ("<f4", (2, 3)),  # source pixel -> crop pixel
    },
    "mfcc": {
        "mfcc.npy": ("<f4", (N_COEFFICIENTS, WINDOW_STEPS)),  # coefficient × time
        "valid.npy": ("|b1", ()),  # whether the window holds only real steps
    },
    "sync": {},
}
"""Per column and array member: dtype and the shape of one frame; the array's first axis is the frame."""
OPTIONAL_ARRAYS: dict[str, dict[str, tuple[str, tuple[int, ...]]]] = {
    "crop": {"landmarks.npy": ("<f4", (N_LANDMARKS, 2))},  # crop pixels, x y; NaN: not found in that frame
    "mfcc": {},
    "sync": {},
}
"""The same for members that only some detectors provide."""
METADATA = {"crop": "clip.json", "mfcc": "audio.json", "sync": "sync.json"}
"""The JSON member of each column; each holds `key` and `n_frames`."""
CURVE = 31
"""Points of the curve of `sync`: mean audio-video distance at audio leads of −15 … 15 frames."""

_MAY_BE_NAN = ("points.npy", "landmarks.npy")
_IMAGE_MAGIC = {"jpg": b"\xff\xd8\xff", "png": b"\x89PNG\r\n\x1a\n"}
_ARRAY = re.compile(
    rb"\x93NUMPY\x01\x00(..)\{'descr': '([<>|][biufc]\d{1,2})', 'fortran_order': (True|False), "
    rb"'shape': \(((?:\d{1,18}, ?){0,8}(?:\d{1,18})?)\), \} *\n",
    re.DOTALL,
)  # as numpy writes it; numpy's own reader parses the header as Python
_FRAME = re.compile(r"(\d{3,})\.(jpg|png)")


def frame_member(index: int, image_format: str) -> str:
    """Return the member name of frame `index`: `000.jpg`, …, `999.jpg`, `1000.jpg`."""
    return f"{index:03d}.{image_format}"


def image_format(members: Container[str], frame: int = 0) -> str:
    """Return the image format of a crop sample's frames, found by the member of one frame."""
    jpg, png = (frame_member(frame, name) for name in IMAGE_FORMATS)
    return "png" if png in members and jpg not in members else "jpg"


def encode_array(array: NDArray[Any]) -> bytes:
    """Return the bytes of a `.npy` file."""
    import numpy as np

    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def decode_array(data: bytes) -> NDArray[Any]:
    """Read the bytes of a `.npy` file; ShardError for anything else, in particular pickled objects."""
    import numpy as np

    match = _ARRAY.match(data)
    try:
        if match is None or len(match[0]) != 10 + int.from_bytes(match[1], "little"):
            raise ValueError("another header than ours")
        dtype = np.dtype(match[2].decode())
        shape = tuple(int(length) for length in match[4].split(b",") if length.strip())
        content = memoryview(data)[match.end() :]
        if math.prod(shape) * dtype.itemsize != len(content):  # checked before memory is allocated
            raise ValueError(f"{len(content)} bytes for {dtype} {shape}")
        order: Literal["C", "F"] = "F" if match[3] == b"True" else "C"
        return np.frombuffer(content, dtype).reshape(shape, order=order).copy()
    except (ValueError, TypeError) as error:
        raise ShardError(f"not a plain .npy array ({error})") from error


def encode_json(value: Mapping[str, Any]) -> bytes:
    """Return the bytes of a JSON member: keys in the order given, UTF-8, no NaN."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False).encode() + b"\n"


def decode_json(data: bytes) -> dict[str, Any]:
    """Read a JSON member; ShardError if it is not a JSON object."""
    try:
        return untrusted.parse_json(data)
    except ValueError as error:
        raise ShardError(f"not JSON ({error})") from error


def picture_size(data: bytes) -> tuple[int, int] | None:
    """Return the width and height in the header of a JPEG or PNG, None if there is none."""
    if data.startswith(b"\x89PNG\r\n\x1a\n") and data[12:16] == b"IHDR" and len(data) >= 24:
        width, height = struct.unpack(">II", data[16:24])
        return int(width), int(height)
    place = 2
    while data.startswith(b"\xff\xd8") and place + 9 <= len(data) and data[place] == 0xFF:
        marker, length = data[place + 1], int.from_bytes(data[place + 2 : place + 4], "big")
        if marker == 0xFF:  # a fill byte
            place += 1
            continue
        if marker <= 0x01 or 0xD0 <= marker <= 0xD9:  # has no length: a decoder would proceed differently
            return None
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # the start of a frame
            height, width = struct.unpack(">HH", data[place + 5 : place + 9])
            return int(width), int(height)
        place += 2 + length
    return None


def costly(data: bytes) -> bool:
    """Whether an encoded crop, in spite of its small width and height, is too expensive to decode.

    A JPEG of 1 MB can demand 50,000 passes over the picture; a PNG of 200 kB can hold 200 MB of text or colours.
    """
    if len(data) > MAX_PICTURE:
        return True
    if not data.startswith(_IMAGE_MAGIC["png"]):
        return data.count(b"\xff\xda") > MAX_SCANS
    place = 8
    while place + 8 <= len(data):
        if data[place + 4 : place + 8] in (b"iCCP", b"zTXt", b"iTXt"):
            return True
        place += 12 + int.from_bytes(data[place : place + 4], "big")
    return False


def check_sample(column: str, key: str, members: Mapping[str, bytes]) -> dict[str, Any]:
    """Check that the members of one sample keep the contract; return its metadata.

    column: `crop`, `mfcc` or `sync`.
    members: member name (without the key) -> bytes.
    Raises ShardError, one line, for a missing or surplus member or a wrong shape or dtype. Only the first bytes of
    images are checked: decoding them needs an image library.
    """
    import numpy as np

    name = METADATA[column]
    if name not in members:
        raise ShardError(f"{key}: {name} is missing")
    try:
        metadata = decode_json(members[name])
    except ShardError as error:
        raise ShardError(f"{key}: {name}: {error}") from error
    if metadata.get("key") != key:
        raise ShardError(f"{key}: {name} says that its key is {str(metadata.get('key'))[:100]!r}")
    n_frames = metadata.get("n_frames")
    if type(n_frames) is not int or n_frames < 1:  # a bool is an int
        raise ShardError(f"{key}: {name} holds no positive n_frames")
    if column == "crop" and n_frames > len(members):  # checked before their names take memory
        raise ShardError(f"{key}: {name} speaks of {n_frames} frames, more than there are")
    given = {member: array for member, array in OPTIONAL_ARRAYS[column].items() if member in members}
    expected = {name, *ARRAYS[column], *given}
    for member, (dtype, shape) in (ARRAYS[column] | given).items():
        if member not in members:
            raise ShardError(f"{key}: {member} is missing")
        try:
            array = decode_array(members[member])
        except ShardError as error:
            raise ShardError(f"{key}: {member}: {error}") from error
        if array.dtype.str != dtype or array.shape != (n_frames, *shape):
            raise ShardError(
                f"{key}: {member} is {array.dtype.str} {array.shape}, expected {dtype} {(n_frames, *shape)}"
            )
        if (np.isinf(array) if member in _MAY_BE_NAN else ~np.isfinite(array)).any():
            raise ShardError(f"{key}: {member} holds numbers that are not finite")
    if column == "crop":
        expected |= _check_images(key, members, n_frames)
    if column == "sync":
        _check_offset(key, metadata)
    if surplus := sorted(members.keys() - expected):
        raise ShardError(f"{key}: {surplus[0]} does not belong to a {column} sample")
    return metadata


def _check_offset(key: str, metadata: Mapping[str, Any]) -> None:
    for name in ("audio_lead_frames", "audio_lead_ms", "confidence", "distance", "n_windows"):
        if type(metadata.get(name)) not in (int, float):
            raise ShardError(f"{key}: {METADATA['sync']} holds no number {name}")
    curve = metadata.get("curve")
    if (
        not isinstance(curve, list)
        or len(curve) != CURVE
        or any(type(y) not in (int, float, type(None)) for y in curve)
    ):
        raise ShardError(f"{key}: {METADATA['sync']} holds no curve of {CURVE} numbers")


def _check_images(key: str, members: Mapping[str, bytes], n_frames: int) -> set[str]:
    formats = {match[2] for member in members if (match := _FRAME.fullmatch(member))}
    if len(formats) != 1:
        raise ShardError(f"{key}: expected the frames in one of the formats {', '.join(IMAGE_FORMATS)}")
    (image_format,) = formats
    names = {frame_member(i, image_format) for i in range(n_frames)}
    for member in sorted(names):
        if member not in members:
            raise ShardError(f"{key}: {member} is missing")
        if not members[member].startswith(_IMAGE_MAGIC[image_format]):
            raise ShardError(f"{key}: {member} is not a {image_format} image")
    return names
