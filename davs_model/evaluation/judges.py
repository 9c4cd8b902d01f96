"""Other runs that judge what a model generates: a sync model, and an encoder of who is seen."""

from __future__ import annotations

from pathlib import Path

from davs_model.evaluation.expression.readers import IdentityReader
from davs_model.sync.load import load as load_sync


def require(sync: str, identity: str, windows: str) -> None:
    """Prove that these runs can judge, before hours of measuring or training; CheckpointError or RunError if not.

    sync, identity: as of `EvaluationSettings`. windows: the preset of those that are judged, "" where it is unknown.
    """
    if sync:
        load_sync(sync, windows=windows)
    if identity:
        IdentityReader.load(Path(identity), "cpu")
