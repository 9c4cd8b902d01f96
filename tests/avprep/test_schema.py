"""The contract: a good sample passes, every violation is detected, hostile bytes are refused."""

from __future__ import annotations

import contextlib
import io
import json
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from avprep import schema
from avprep.errors import ShardError

T = 3
JPEG, PNG = b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n"
Members = dict[str, bytes]


def f4(*shape: int) -> np.ndarray[Any, Any]:
    """Return float32 zeros."""
    return np.zeros(shape, np.float32)


def crop() -> Members:
    """Return a good crop sample of T frames."""
    return {
        **{f"{n:03d}.jpg": JPEG for n in range(T)},
        "points.npy": schema.encode_array(np.full((T, 5, 2), np.nan, np.float32)),
        "affine.npy": schema.encode_array(f4(T, 2, 3)),
        "clip.json": schema.encode_json({"key": "a/b", "n_frames": T}),
    }


def mfcc() -> Members:
    """Return a good mfcc sample of T frames."""
    return {
        "mfcc.npy": schema.encode_array(f4(T, 12, 20)),
        "valid.npy": schema.encode_array(np.ones(T, bool)),
        "audio.json": schema.encode_json({"key": "a/b", "n_frames": T}),
    }


GOOD: dict[str, Callable[[], Members]] = {"crop": crop, "mfcc": mfcc}


def objects() -> bytes:
    """Return a .npy file of Python objects."""
    buffer = io.BytesIO()
    np.save(buffer, np.array([{"a": 1}, None], object), allow_pickle=True)
    return buffer.getvalue()


def npy(header: str, data: bytes = b"", version: bytes = b"\x01\x00") -> bytes:
    """Return a .npy file with the given header."""
    return b"\x93NUMPY" + version + len(header).to_bytes(2, "little") + header.encode() + data


@pytest.mark.parametrize("column", GOOD)
def test_a_good_sample(column: str) -> None:
    """A sample that keeps the contract passes and yields its facts."""
    assert schema.check_sample(column, "a/b", GOOD[column]()) == {"key": "a/b", "n_frames": T}


def test_png_is_as_good() -> None:
    """Frames may be PNG."""
    members = {name.replace("jpg", "png"): PNG if "jpg" in name else data for name, data in crop().items()}
    assert schema.check_sample("crop", "a/b", members)["n_frames"] == T


def test_landmarks_may_be_there() -> None:
    """Crops of a detector with landmarks contain them, with NaN in frames without a face."""
    landmarks = np.full((T, 68, 2), np.nan, np.float32)
    members = crop() | {"landmarks.npy": schema.encode_array(landmarks)}
    assert schema.check_sample("crop", "a/b", members)["n_frames"] == T


@pytest.mark.parametrize(("column", "name"), [(column, name) for column, good in GOOD.items() for name in good()])
def test_each_member_is_needed(column: str, name: str) -> None:
    """A sample without one of its members is refused."""
    members = GOOD[column]()
    del members[name]
    with pytest.raises(ShardError, match=f"^a/b: {name} is missing$"):
        schema.check_sample(column, "a/b", members)


@pytest.mark.parametrize(
    ("column", "change", "message"),
    [
        ("crop", {"points.npy": schema.encode_array(f4(T, 5, 3))}, "points.npy is <f4"),
        ("crop", {"points.npy": schema.encode_array(f4(T + 1, 5, 2))}, "points.npy is <f4"),
        ("crop", {"points.npy": schema.encode_array(np.zeros((T, 5, 2)))}, "points.npy is <f8"),
        ("crop", {"affine.npy": schema.encode_array(f4(T, 3, 2))}, "affine.npy is <f4"),
        ("crop", {"affine.npy": schema.encode_array(np.zeros((T, 2, 3), ">f4"))}, "affine.npy is >f4"),
        ("crop", {"affine.npy": schema.encode_array(f4(T, 2, 3) * np.nan)}, "affine.npy holds numbers"),
        ("crop", {"landmarks.npy": schema.encode_array(f4(T, 20, 2))}, "landmarks.npy is <f4"),
        ("mfcc", {"landmarks.npy": schema.encode_array(f4(T, 68, 2))}, "landmarks.npy does not belong to a mfcc"),
        ("crop", {"003.jpg": JPEG}, "003.jpg does not belong"),
        ("crop", {"0001.jpg": JPEG}, "0001.jpg does not belong"),
        ("crop", {"000.png": PNG}, "one of the formats"),
        ("crop", {"001.jpg": PNG}, "001.jpg is not a jpg image"),
        ("crop", {"001.jpg": b""}, "001.jpg is not a jpg image"),
        ("crop", {"mfcc.npy": b""}, "mfcc.npy does not belong to a crop sample"),
        ("mfcc", {"mfcc.npy": schema.encode_array(f4(T, 20, 12))}, "mfcc.npy is <f4"),
        ("mfcc", {"mfcc.npy": schema.encode_array(f4(T, 12, 20) - np.inf)}, "mfcc.npy holds numbers"),
        ("crop", {"points.npy": schema.encode_array(f4(T, 5, 2) - np.inf)}, "points.npy holds numbers"),
        ("mfcc", {"mfcc.npy": objects()}, "mfcc.npy: not a plain .npy array"),
        ("mfcc", {"mfcc.npy": pickle.dumps([1])}, "mfcc.npy: not a plain .npy array"),
        ("mfcc", {"valid.npy": schema.encode_array(np.ones(T, np.uint8))}, "valid.npy is |u1"),
        ("mfcc", {"valid.npy": schema.encode_array(np.ones((T, 1), bool))}, "valid.npy is |b1"),
        ("mfcc", {"extra.json": b"{}"}, "extra.json does not belong to a mfcc sample"),
        ("mfcc", {"audio.json": b"{"}, "audio.json: not JSON"),
        ("mfcc", {"audio.json": b"[]"}, "audio.json: not JSON (not a JSON object)"),
        ("mfcc", {"audio.json": b'{"key": "a"}'}, "audio.json says that its key is 'a'"),
        ("mfcc", {"audio.json": b'{"key": "a/b"}'}, "audio.json holds no positive n_frames"),
        ("mfcc", {"audio.json": b'{"key": "a/b", "n_frames": 0}'}, "audio.json holds no positive n_frames"),
        ("mfcc", {"audio.json": b'{"key": "a/b", "n_frames": 3.0}'}, "audio.json holds no positive n_frames"),
        ("mfcc", {"audio.json": b'{"key": "a/b", "n_frames": true}'}, "audio.json holds no positive n_frames"),
        ("mfcc", {"audio.json": b'{"key": "a/b", "n_frames": 4}'}, "mfcc.npy is <f4 (3, 12, 20), expected <f4 (4,"),
    ],
)
def test_each_breach_is_caught(column: str, change: Members, message: str) -> None:
    """Every violation of the contract is refused with one line that names sample and member."""
    with pytest.raises(ShardError) as caught:
        schema.check_sample(column, "a/b", GOOD[column]() | change)
    assert str(caught.value).startswith("a/b: ")
    assert message in str(caught.value)


def test_no_frames_at_all() -> None:
    """A crop sample without images is refused."""
    members = {name: data for name, data in crop().items() if not name.endswith("jpg")}
    with pytest.raises(ShardError, match="expected the frames"):
        schema.check_sample("crop", "a/b", members)


@pytest.mark.parametrize(("index", "name"), [(0, "000.jpg"), (999, "999.jpg"), (1000, "1000.jpg")])
def test_frame_names(index: int, name: str) -> None:
    """Frame names have three digits, or more from 1000 on."""
    assert schema.frame_member(index, "jpg") == name


@settings(deadline=None)
@given(arrays.arrays(st.sampled_from(["<f4", "|b1", "<i8"]), arrays.array_shapes(min_dims=0, min_side=0)))
def test_arrays_round_trip(array: np.ndarray[Any, Any]) -> None:
    """An encoded array is decoded unchanged."""
    again = schema.decode_array(schema.encode_array(array))
    assert again.dtype == array.dtype
    np.testing.assert_array_equal(again, array)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x93NUMPY",
        objects(),
        pickle.dumps({"a": 1}),
        schema.encode_array(f4(3))[:-1],
        schema.encode_array(f4(3)) + b"\x00",
        npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000,), }\n"),
        npy("{'descr': '<f4', 'fortran_order': False, 'shape': (-1,), }\n", b"1234"),
        npy("{'descr': '<f4', 'fortran_order': False, 'shape': (4294967296, 4294967296, 4294967296), }\n"),
        npy("{'descr': [('a', '|O')], 'fortran_order': False, 'shape': (1,), }\n", b"12345678"),
        npy("__import__('os').abort()\n"),
        npy("(" * 3000),
        npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1,), }\n", b"1234", version=b"\x09\x00"),
    ],
)
def test_hostile_arrays(data: bytes) -> None:
    """Bytes that are not a plain array are refused, without allocating the memory of their header."""
    with pytest.raises(ShardError, match=r"not a plain \.npy array") as caught:
        schema.decode_array(data)
    assert "\n" not in str(caught.value)


@settings(deadline=None, max_examples=300)
@given(st.data())
@pytest.mark.filterwarnings("ignore:Reading `.npy`")  # headers written by Python 2, which numpy still reads
def test_damaged_arrays(data: st.DataObject) -> None:
    """Whatever bytes of an array's file are changed, reading gives an array or raises ShardError."""
    content = bytearray(schema.encode_array(f4(2, 3)))
    for place in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=5)):
        content[place] = data.draw(st.integers(0, 255))
    with contextlib.suppress(ShardError):
        schema.decode_array(bytes(content))


@pytest.mark.parametrize("data", [b"", b"\xff", b"nul", b"[" * 100_000, b'"text"', b"1" * 5000])
def test_hostile_json(data: bytes) -> None:
    """Bytes that are not a JSON object are refused."""
    with pytest.raises(ShardError, match="not "):
        schema.decode_json(data)


def test_json_has_no_nan() -> None:
    """NaN, which JSON lacks, is never written."""
    with pytest.raises(ValueError, match="not JSON compliant"):
        schema.encode_json({"score": float("nan")})
    assert json.loads(schema.encode_json({"name": "ü"})) == {"name": "ü"}
