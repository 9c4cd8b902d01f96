"""Figures of an evaluation, as PNG: confusion of words, ranks of the correct clips, accuracy by word.

The same input gives the same bytes: see `avprep.pages.drawing`.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from avprep.pages.drawing import COLOURS, drawing
from avprep.schema import FPS
from avprep.shards.image import write_png
from davs_model.evaluation.embeddings import EmbeddingsFile

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 120
STYLES = ("-", "--", ":")
"""Line styles, one for each cycle of colours."""
NAMED_WORDS = 60
"""Maximum number of words in a confusion matrix whose rows are labelled."""
EXTREMES = 20
"""Number of best words, and of worst words, in the figure of single words."""
LONGEST = 18
"""Maximum number of letters of a word that are shown; LRW's longest word has 14."""
RANKED = {
    "video_to_audio": "video → audio",
    "audio_to_video": "audio → video",
    "audio": "drawn from audio → original",
    "video": "drawn from video → original",
}
"""Names of the curves in the figure of ranks."""


def draw(
    found: EmbeddingsFile, vocabulary: Sequence[str], places: Mapping[str, Tensor], results: Path
) -> dict[str, str]:
    """Draw the figures of the page; return the file of each figure, by name."""
    shown: dict[str, str] = {}
    words, n = found["words"], len(vocabulary)
    if n and "video_logits" in found and found["video_logits"].shape[1] == n and bool((words >= 0).any()):
        counts = {kind: confusion_matrix(found[f"{kind}_logits"], words, n) for kind in ("video", "audio")}
        for name, kind, title in (
            ("confusion_visual", "video", "Words read from lips"),
            ("confusion_audio", "audio", "Words heard"),
        ):
            shown[name] = f"{name}.png"
            confusion(results / shown[name], counts[kind], vocabulary, title)
        shown["by_word"] = "by_word.png"
        visual, audio = (accuracy_by_word(counts[kind]) for kind in ("video", "audio"))
        by_word(results / shown["by_word"], vocabulary, visual, audio)
    shown["ranks"] = "ranks.png"
    curves = {title: places[name].numpy() for name, title in RANKED.items() if name in places}
    ranks(results / shown["ranks"], curves, len(words))
    return shown


def confusion_matrix(logits: Tensor | NDArray[Any], labels: Tensor | ArrayLike, n: int) -> NDArray[np.int64]:
    """Count the clips of each word (row) that were predicted as each word (column), `[n, n]`.

    logits: `[N, n]`; the largest, or the first of equals, is the prediction. labels: integers `[N]`; -1 (unknown) is
    left out. Raises ValueError for shapes that do not fit and for labels of n or more.
    """
    from sklearn.metrics import confusion_matrix as count

    scores = logits.detach().cpu().float().numpy() if isinstance(logits, Tensor) else np.asarray(logits)
    truth = labels.detach().cpu().numpy() if isinstance(labels, Tensor) else np.asarray(labels, dtype=np.int64)
    if scores.shape != (*truth.shape, n) or truth.ndim != 1:
        raise ValueError(f"logits {list(scores.shape)} and labels {list(truth.shape)} should be [N, {n}] and [N]")
    if (truth >= n).any():
        raise ValueError(f"label {truth.max()} is not one of {n} words")
    known = truth >= 0
    if not known.any():  # which scikit-learn refuses
        return np.zeros((n, n), dtype=np.int64)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "A single label")  # a single word is of little interest, but valid
        return np.asarray(count(truth[known], scores[known].argmax(1), labels=range(n)), dtype=np.int64)


def accuracy_by_word(matrix: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the fraction of each word's clips that were recognised, `[K]`; NaN for words without clips."""
    return np.asarray(_shares(matrix).diagonal())


def confusion(path: Path, matrix: NDArray[np.int64], words: Sequence[str], title: str) -> None:
    """Draw a confusion matrix `[K, K]` (row: true word, column: predicted word) as fractions of each row.

    RunError if the file cannot be written, as for all figures here.
    """
    n = len(words)
    if matrix.shape != (n, n) or not n:
        raise ValueError(f"a confusion matrix {list(matrix.shape)} of {n} words should be [{n}, {n}], of one at least")
    named = n <= NAMED_WORDS
    side = max(3.0, 0.17 * n) if named else 8.0  # inches
    with _drawn(path, side + 3.0, side + 1.6) as figure:
        from matplotlib.colors import PowerNorm

        axes = figure.add_subplot()
        axes.set_facecolor("0.85")  # where a row is NaN
        # On a cube-root scale: errors among hundreds of words, each of them rare, would be invisible on a linear one.
        image = axes.imshow(_shares(matrix), cmap="Blues", norm=PowerNorm(1 / 3, 0, 1), interpolation="nearest")
        bar = figure.colorbar(image, ax=axes, shrink=0.7, label="clips of the word spoken, %")
        percents = (0, 1, 5, 10, 25, 50, 100)
        bar.set_ticks([percent / 100 for percent in percents], labels=[str(percent) for percent in percents])
        axes.set_title(title)
        number = "" if named else f" (its number, 0 to {n - 1:,})"
        silent = "; grey: no clips" if (matrix.sum(1) == 0).any() else ""
        axes.set_xlabel(f"word recognised{number}")
        axes.set_ylabel(f"word spoken{number}{silent}")
        if named:
            names = [_short(word, LONGEST) for word in words]
            axes.set_xticks(range(n), names, rotation=90, fontsize=8)
            axes.set_yticks(range(n), names, fontsize=8)


def ranks(path: Path, found: Mapping[str, NDArray[np.integer[Any]]], n: int) -> None:
    """Draw the fraction of queries whose correct clip is among the first k of n, for every k.

    found: for each name, the rank of the correct clip of each query, from 0.
    """
    if n < 1:
        raise ValueError(f"a gallery of {n} clips has no ranks")
    k = np.arange(1, n + 2)  # one more, at which the last step ends
    with _drawn(path, 7.0, 4.6 + 0.2 * len(found)) as figure:
        axes = figure.add_subplot()
        for number, (name, places) in enumerate(found.items()):
            shares = np.bincount(places, minlength=n + 1)[: n + 1].cumsum() / max(len(places), 1)
            colour, style = COLOURS[number % len(COLOURS)], STYLES[number // len(COLOURS) % len(STYLES)]
            axes.step(k, 100 * shares, color=colour, linestyle=style, where="post", label=_short(name, 70))
        axes.step(k, np.minimum(100, 100 * k / n), "-.", color="0.4", linewidth=1, where="post", label="chance")
        axes.set_xscale("log")
        axes.set_xlim(1, n + 1)
        axes.set_ylim(0, 101)
        ticks = [tick for power in range(7) for tick in (10**power, 2 * 10**power, 5 * 10**power) if tick <= n]
        axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
        axes.minorticks_off()
        axes.set_xlabel(f"k, of {n:,} clip{'s' * (n > 1)}")
        axes.set_ylabel("match among the first k, % of queries")
        axes.grid(color="0.9")
        figure.legend(loc="outside upper left", frameon=False)


def by_word(
    path: Path,
    words: Sequence[str],
    visual_accuracy: NDArray[np.floating[Any]],
    audio_accuracy: NDArray[np.floating[Any]],
) -> None:
    """Draw the accuracy of single words, in order of visual accuracy, best first; of many, the best and worst.

    visual_accuracy, audio_accuracy: `[K]`, fractions from 0 to 1; NaN for a word without clips, which is left out.
    """
    if not visual_accuracy.shape == audio_accuracy.shape == (len(words),):
        shapes = f"{list(visual_accuracy.shape)} and {list(audio_accuracy.shape)}"
        raise ValueError(f"accuracies {shapes} of {len(words)} words should be [{len(words)}] both")
    scores = 100 * np.stack((visual_accuracy, audio_accuracy))
    order = np.lexsort((-scores[1], -scores[0]))
    order = order[np.isfinite(scores[:, order]).all(0)]
    between = max(0, len(order) - 2 * EXTREMES)
    if between:
        order = np.concatenate((order[:EXTREMES], order[-EXTREMES:]))
    rows = np.arange(len(order)) + 1.5 * (np.arange(len(order)) >= EXTREMES) * bool(between)
    with _drawn(path, 6.0, 0.19 * max(len(order), 8) + 1.5) as figure:
        axes = figure.add_subplot()
        axes.hlines(rows, *scores[:, order], color="0.75", zorder=1)
        for score, name, marker, size, colour in zip(scores, ("seen", "heard"), "os", (7, 4), COLOURS, strict=False):
            axes.plot(score[order], rows, marker, color=colour, markersize=size, label=name, clip_on=False)
        axes.set_yticks(rows, [_short(words[word], LONGEST) for word in order], fontsize=8)
        if between:
            axes.text(50, EXTREMES + 0.25, f"{between:,} words between", ha="center", va="center", color="0.4")
        axes.set_xlim(0, 100)
        axes.set_ylim(max(rows, default=0) + 1, -1)
        axes.set_xlabel("clips of the word recognised, %")
        axes.set_ylabel("word spoken")
        axes.grid(axis="x", color="0.9")
        figure.legend(loc="outside upper right", ncols=2, frameon=False)


@contextmanager
def _drawn(path: Path, width: float, height: float) -> Iterator[Figure]:
    """Yield a figure of a size in inches, then write only its pixels, because matplotlib's PNG names matplotlib."""
    with drawing(width, height, DPI) as drawn:
        yield drawn.figure
    write_png(path, drawn.pixels)


def _shares(matrix: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return each row divided by its sum, NaN if that is 0."""
    totals = matrix.sum(1, keepdims=True)
    return np.divide(matrix, totals, out=np.full(matrix.shape, np.nan), where=totals > 0)


def _short(name: str, longest: int) -> str:
    return name if len(name) <= longest else f"{name[: longest - 1]}…"


def weights(path: Path, found: NDArray[np.floating[Any]], names: Sequence[str]) -> None:
    """Draw the weight of each modality in each frame, (T, M), with a mean of 1 over the M `names`."""
    with _drawn(path, 7.0, 3.6) as figure:
        axes = figure.add_subplot()
        seconds = np.arange(len(found)) / FPS
        for number, name in enumerate(names):
            axes.plot(seconds, found[:, number], color=COLOURS[number % len(COLOURS)], label=name)
        axes.axhline(1, color="0.4", linestyle="-.", linewidth=1)
        axes.set_ylim(0, max(2.0, 1.05 * float(found.max(initial=0))))
        axes.set_xlabel("s")
        axes.set_ylabel("weight, 1 on average")
        figure.legend(loc="outside upper right", ncols=len(names), frameon=False)
