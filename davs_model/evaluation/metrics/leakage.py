"""Information that features should not contain: words in identity features, people in speech features.

The paper reads words from identity features by a linear SVM: 27.8 % accuracy before, 9.7 % after disentangling.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

PENALTIES = (0.025, 0.25, 2.5)
"""Candidates for C of the SVM times the length of the features, chosen by cross-validation; the paper gives none.

The squared norm of a standardised feature is its length, and C is relative to that. With ten times more, features are
separated as hard as possible, in many times the time."""
FEW_CLIPS_PENALTY = 0.25
"""C times the length if there are too few clips for cross-validation."""
ITERATIONS = 1000
"""Maximum number of passes over the clips, after which the SVM is used as it is."""
FOLDS = 3
"""Number of folds in cross-validation, and thus the minimum number of clips of a label in it."""


@dataclass(frozen=True)
class Leakage:
    """The fraction of test clips whose label a linear SVM reads from features, from 0 to 1; lower is less leakage."""

    accuracy: float
    chance: float
    """The accuracy of always predicting the most frequent label of the test clips."""
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
    """Train a linear SVM to read labels from features of the training clips, and test it on the test clips.

    train_features, test_features: float `[N, D]`. train_labels, test_labels: integers `[N]`; clips with label -1
    (unknown) are left out and not counted. A label that only test clips have is never read correctly.
    seed: divides the clips into folds, and orders them if the SVM is solved one clip at a time.
    The half million clips of LRW and its 500 words may take days.
    Raises ValueError for shapes that do not fit, features that are not finite, fewer than two training labels and no
    test labels.
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
    """Read labels from features by the SVM of `leakage`, trained and tested on the same clips, by cross-validation.

    This is for labels that no other split has, such as unseen people. The clips of each label are divided evenly into
    folds, and each fold is tested with an SVM trained on all others. In the result, `n_test` counts the clips of all
    folds, each tested once, and `n_train` the training clips of an SVM, in the fold that left the fewest.
    features: float `[N, D]`. labels: integers `[N]`; clips with label -1 (unknown), and with labels that have fewer
    clips than there are folds, are left out and not counted.
    folds: at least 2. seed: as in `leakage`; it also draws the training clips.
    most: maximum number of training clips of each SVM, drawn at random; by default all.
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

    choose: choose C by cross-validation; otherwise it is `FEW_CLIPS_PENALTY` over the length, in a tenth of the time.
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
        # A solution that has not converged is still a linear classifier, and its value is measured on unseen clips.
        warnings.simplefilter("ignore", ConvergenceWarning)
        # Few clips with many labels, as in a small corpus, are valid.
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
    """Return which clips have a label with at least `least` clips."""
    values, counts = np.unique(labels, return_counts=True)
    frequent: NDArray[np.bool_] = np.isin(labels, values[counts >= least])
    return frequent


def _drawn(n_clips: int, most: int | None, *, seed: int) -> NDArray[np.int64]:
    """Return the training clips, in their order: all, or a random choice of `most`."""
    if most is not None and most < 1:
        raise ValueError(f"most is {most}; it counts clips to train on, at least 1")
    if most is None or most >= n_clips:
        return np.arange(n_clips)
    return np.sort(np.random.default_rng(seed).choice(n_clips, most, replace=False))


def _chance(labels: NDArray[np.int64]) -> float:
    """Return the fraction of clips with the most frequent label."""
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
