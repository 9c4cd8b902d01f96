"""Other runs that measure what a model generates: a sync model, and an identity encoder."""

from __future__ import annotations

from pathlib import Path

from davs_model import checkpoint
from davs_model.evaluation.expression.readers import IdentityReader
from davs_model.sync.load import load as load_sync


def require(sync: str, identity: str, windows: str) -> None:
    """Check that these runs are usable, before hours of measuring or training; CheckpointError or RunError if not.

    sync, identity: as in `EvaluationSettings`. windows: MFCC preset of the windows, "" if unknown.
    """
    if sync:
        load_sync(sync, windows=windows)
    if identity:
        IdentityReader.load(Path(identity), "cpu")


def digests(sync: str, identity: str) -> dict[str, str]:
    """Return the digests of the checkpoints of those of these runs that are given: one trained on has another."""
    return {name: checkpoint.load(Path(run)).digest() for name, run in (("sync", sync), ("identity", identity)) if run}
