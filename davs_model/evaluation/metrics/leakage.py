"""What features give away that they should not: words in identity features, people in speech features.

The paper reads words from identity features by a linear SVM: 27.8 % right before, 9.7 % after disentangling.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

PENALTIES = (0.025, 0.25, 2.5)
"""C of the SVM times the length of the features, the one that does best in cross-validation; the paper gives none.

The square of a standardised feature's norm is its length, and C is measured against that. With ten times more,
features are separated as hard as they can be, at many times the time."""
FEW_CLIPS_PENALTY = 0.25
"""C times the length where there are too few clips to choose it by."""
ITERATIONS = 1000
"""Passes over the clips after which the SVM is taken as it is."""
FOLDS = 3
"""Parts of the training clips in cross-validation, and so the clips that a label needs to take part in it."""


@dataclass(frozen=True)
class Leakage:
    """The share of test clips whose label a linear SVM reads from features, from 0 to 1: the lower, the less leaks."""

    accuracy: float
    chance: float
    """The share that always saying the most frequent label of the test clips would get."""
    n_train: int
    n_test: int


def leakage(
    train_features: Tensor | NDArray[Any],
    train_labels: Tensor | ArrayLike,
    test_features: Tensor | NDArray[Any],
    test_labels: Tensor | ArrayLike,
    *,
    seed: int = 0,
) -> Leakage:
    """Train a linear SVM to read labels from features of one part, and judge it on the other.

    train_features, test_features: float `[N, D]`. train_labels, test_labels: integers `[N]`; clips of label -1
    (unknown) are left out and not counted. A label that only the test part has is never read right.
    seed: deals the clips into folds, and orders them where the SVM is solved one clip at a time.
    The half million clips of LRW and its 500 words may take days.

    Raises ValueError for shapes that do not fit, features that are not finite, fewer than two labels to train on and
    none to judge on.
    """
    features, labels = _known(train_features, train_labels, part="training")
    judged_features, judged_labels = _known(test_features, test_labels, part="test")
    if features.shape[1] != judged_features.shape[1]:
        raise ValueError(f"training features are {features.shape[1]} long, test features {judged_features.shape[1]}")
    if len(judged_labels) == 0:
        raise ValueError("no test clip has a label")
    svm = linear_svm(features, labels, seed=seed)
    return Leakage(
        accuracy=float(np.mean(svm.predict(judged_features) == judged_labels)),
        chance=_chance(judged_labels),
        n_train=len(labels),
        n_test=len(judged_labels),
    )


def cross_leakage(
    features: Tensor | NDArray[Any],
    labels: Tensor | ArrayLike,
    *,
    folds: int = 5,
    seed: int = 0,
    most: int | None = None,
) -> Leakage:
    """Read labels from features by the SVM of `leakage`, trained and judged within one part, by cross-validation.

    For labels that no other part has, such as people whom training never saw. The clips of each label are dealt evenly
    into folds, and each fold is judged by an SVM trained on all others: of the result, `n_test` counts the clips of all
    folds, each judged once, and `n_train` those that an SVM was trained on, in the fold that left it fewest.

    features: float `[N, D]`. labels: integers `[N]`; clips of label -1 (unknown), and of labels with fewer clips than
    there are folds, are left out and not counted.
    folds: at least 2. seed: as of `leakage`; it also draws the clips to train on.
    most: train each SVM on so many clips at most, drawn at random; by default on all.

    Raises ValueError as `leakage` does, for a `most` below 1, and for fewer than two labels with a clip in every fold.
    """
    # Here, since scikit-learn takes a second to import that training does not need.
    from sklearn.model_selection import StratifiedKFold

    if folds < 2:
        raise ValueError(f"folds is {folds}; at least 2 are needed, to train on one and judge on the other")
    rows, values = _known(features, labels, part="test")
    often = _frequent(values, folds)
    rows, values = rows[often], values[often]
    if len(np.unique(values)) < 2:
        raise ValueError(f"at least two different labels with {folds} clips or more are needed for {folds} folds")
    right, n_train = 0, []
    for rest, fold in StratifiedKFold(folds, shuffle=True, random_state=seed).split(rows, values):
        trained = rest[_drawn(len(rest), most, seed=seed)]
        svm = linear_svm(rows[trained], values[trained], seed=seed)
        right += int(np.count_nonzero(svm.predict(rows[fold]) == values[fold]))
        n_train.append(len(trained))
    return Leakage(accuracy=right / len(values), chance=_chance(values), n_train=min(n_train), n_test=len(values))


def linear_svm(features: NDArray[np.float64], labels: NDArray[np.int64], *, seed: int, choose: bool = True) -> Any:
    """Return a linear SVM trained on features `[N, D]` and labels `[N]`.

    choose: its C by cross-validation; else it is `FEW_CLIPS_PENALTY` over the length, at a tenth of the time.
    """
    # Here, since scikit-learn takes a second to import that training does not need.
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.model_selection import GridSearchCV, StratifiedKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import LinearSVC

    if len(np.unique(labels)) < 2:
        raise ValueError("training clips with at least two different labels are needed to tell labels apart")
    svm = make_pipeline(
        StandardScaler(),
        LinearSVC(C=FEW_CLIPS_PENALTY / features.shape[1], dual=True, max_iter=ITERATIONS, random_state=seed),
    )
    often = _frequent(labels, FOLDS)
    with warnings.catch_warnings():
        # A solution that stops short is a linear reading like any other: what it is worth is measured on clips that
        # it has not seen.
        warnings.simplefilter("ignore", ConvergenceWarning)
        # Few clips of many labels, as in a small corpus, are labels all the same.
        warnings.filterwarnings("ignore", "The number of unique classes", UserWarning)
        if choose and len(np.unique(labels[often])) >= 2:
            search = GridSearchCV(
                svm,
                {"linearsvc__C": [penalty / features.shape[1] for penalty in PENALTIES]},
                cv=StratifiedKFold(FOLDS, shuffle=True, random_state=seed),
                refit=False,
                error_score="raise",
            )
            svm.set_params(**search.fit(features[often], labels[often]).best_params_)
        svm.fit(features, labels)
    return svm


def _frequent(labels: NDArray[np.int64], least: int) -> NDArray[np.bool_]:
    """Return which clips are of a label that has at least so many of them."""
    values, counts = np.unique(labels, return_counts=True)
    frequent: NDArray[np.bool_] = np.isin(labels, values[counts >= least])
    return frequent


def _drawn(n_clips: int, most: int | None, *, seed: int) -> NDArray[np.int64]:
    """Return the clips to train on, in their order: all, or as many of them as there may be at most."""
    if most is not None and most < 1:
        raise ValueError(f"most is {most}; it counts clips to train on, at least 1")
    if most is None or most >= n_clips:
        return np.arange(n_clips)
    return np.sort(np.random.default_rng(seed).choice(n_clips, most, replace=False))


def _chance(labels: NDArray[np.int64]) -> float:
    """Return the share of clips that are of the most frequent label."""
    return float(np.unique(labels, return_counts=True)[1].max() / len(labels))


def _known(
    features: Tensor | NDArray[Any], labels: Tensor | ArrayLike, *, part: str
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return the features `[N, D]` and labels `[N]` of the clips whose label is known."""
    if isinstance(features, Tensor):
        features = features.detach().cpu().double().numpy()
    if isinstance(labels, Tensor):
        labels = labels.detach().cpu().numpy()
    rows, values = np.asarray(features, dtype=np.float64), np.asarray(labels, dtype=np.int64)
    if rows.ndim != 2 or values.shape != rows.shape[:1]:
        raise ValueError(f"{part} features {list(rows.shape)} and labels {list(values.shape)} should be [N, D] and [N]")
    known = values >= 0
    if not np.isfinite(rows[known]).all():
        raise ValueError(f"{part} features are not finite: has training diverged?")
    return rows[known], values[known]
