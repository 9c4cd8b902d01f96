"""The embeddings of each clip, in an HDF5 file that grows batch by batch."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from torch import Tensor

from avprep.errors import RunError, explained

FORMAT = "avprep embeddings"
VERSION = 1
_ROWS = 64  # of a chunk


class Writer:
    """Adds clips to a file; all batches have the same names and shapes."""

    def __init__(self, file: h5py.File) -> None:
        self._file = file

    def add(self, keys: tuple[str, ...], tensors: dict[str, Tensor]) -> None:
        """Add B clips: tensors `[B, …]`, floats as float32."""
        columns: dict[str, Any] = {"key": np.array(keys, dtype=object)}
        for name, tensor in tensors.items():
            columns[name] = (tensor.float() if tensor.is_floating_point() else tensor).cpu().numpy()
        for name, rows in columns.items():
            if name not in self._file:
                dtype = h5py.string_dtype() if name == "key" else rows.dtype
                shape = (0, *rows.shape[1:])
                chunks, most = (_ROWS, *rows.shape[1:]), (None, *rows.shape[1:])
                self._file.create_dataset(name, shape, dtype, chunks=chunks, maxshape=most)
            kept = self._file[name]
            kept.resize(len(kept) + len(rows), axis=0)
            kept[-len(rows) :] = rows


@contextmanager
def writing(path: Path, facts: dict[str, Any]) -> Iterator[Writer]:
    """Open a new file, which appears only when it is complete; RunError if it cannot be written.

    facts: what the embeddings depend on; JSON.
    """
    part = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with h5py.File(part, "w") as file:
            file.attrs.update({"format": FORMAT, "version": VERSION, "facts": json.dumps(facts, sort_keys=True)})
            yield Writer(file)
        os.replace(part, path)
    except OSError as error:
        raise RunError(f"{path}: cannot be written ({explained(error)})") from error
    finally:
        part.unlink(missing_ok=True)


class EmbeddingsFile:
    """A file of embeddings of N clips, from which arrays are read on demand.

    It has `key` (text); int64 `words` and `speakers` `[N]`, −1 where unknown; and those of the following float32 arrays
    that the model has: `identity` f_p^v `[N, 256]` of a random frame, `identity_sequence` `[N, 20, 256]`, `video` F_w^v
    and `audio` F_w^a `[N, 12, 256]`, their `video_logits` and `audio_logits` `[N, N_w]`, `generated_audio`,
    `generated_video` and `generated_repeated` `[N, 12, 256]`: F_w^v of frames generated from these.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def __contains__(self, name: str) -> bool:
        with h5py.File(self.path) as file:
            return name in file

    def __getitem__(self, name: str) -> Tensor:
        """Read a whole array."""
        with h5py.File(self.path) as file:
            return torch.from_numpy(file[name][()])

    def keys(self) -> list[str]:
        """Return the keys of the clips."""
        with h5py.File(self.path) as file:
            return [key.decode() for key in file["key"][()]]
