"""Recognition, retrieval and leakage: each equals its definition, and a collapsed model scores nothing."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import asdict

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score
from sklearn.metrics.pairwise import euclidean_distances
from sklearn.model_selection import GridSearchCV, StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler, normalize
from sklearn.svm import LinearSVC
from torch import Tensor

from davs_model.evaluation.metrics.leakage import FEW_CLIPS_PENALTY, PENALTIES, cross_leakage, leakage
from davs_model.evaluation.metrics.recognition import accuracy, recognise
from davs_model.evaluation.metrics.retrieval import ranks, retrieve, summarise

seeds = st.integers(0, 2**16)


def numbers(seed: int, *shape: int) -> Tensor:
    """Draw a tensor of a shape."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def softmax(logits: list[float]) -> list[float]:
    """Return e^x_j / Σ_k e^x_k."""
    return [math.exp(x) / sum(math.exp(other) for other in logits) for x in logits]


# Recognition


@settings(deadline=None)
@given(seeds, st.integers(1, 30), st.integers(1, 6))
def test_accuracy_is_the_share_of_right_rows(seed: int, n_clips: int, n_words: int) -> None:
    """Accuracy equals scikit-learn's for the words with the largest logits."""
    logits = numbers(seed, n_clips, n_words)
    labels = [seed * (row + 1) % n_words for row in range(n_clips)]
    said = [max(range(n_words), key=row.__getitem__) for row in logits.tolist()]
    assert accuracy(logits, torch.tensor(labels)) == pytest.approx(accuracy_score(labels, said))


def test_unknown_words_are_never_right() -> None:
    """A clip of label -1 counts among the clips and not among the correct ones."""
    assert accuracy(torch.eye(4), torch.tensor([0, 1, -1, -1])) == 0.5
    assert accuracy(torch.eye(4), torch.full((4,), -1)) == 0


def test_of_equal_logits_the_first_counts() -> None:
    """Constant logits predict word 0, in half precision too."""
    assert accuracy(torch.zeros(4, 3, dtype=torch.bfloat16), torch.tensor([0, 1, 2, 0])) == 0.5


@pytest.mark.parametrize(
    ("logits", "labels", "complaint"),
    [
        (torch.zeros(0, 3), torch.zeros(0), "no clips"),
        (torch.zeros(2, 3), torch.zeros(2, 1), "should be"),
        (torch.zeros(2, 3), torch.zeros(3), "should be"),
        (torch.zeros(2, 3, 1), torch.zeros(2), "should be"),
        (torch.tensor([[math.nan, 1.0]]), torch.zeros(1), "not finite"),
    ],
)
def test_what_cannot_be_recognised_is_refused(logits: Tensor, labels: Tensor, complaint: str) -> None:
    """No clips, shapes that do not fit and logits that are not numbers raise ValueError."""
    with pytest.raises(ValueError, match=complaint):
        accuracy(logits, labels.long())
    with pytest.raises(ValueError, match=complaint):
        recognise(logits, logits, labels.long())


def test_modalities_of_different_words_are_refused() -> None:
    """Logits of the two modalities that differ in shape raise ValueError."""
    with pytest.raises(ValueError, match="differ in shape"):
        recognise(torch.zeros(2, 3), torch.zeros(2, 4), torch.zeros(2, dtype=torch.int64))


@settings(deadline=None)
@given(seeds, st.integers(1, 20), st.integers(1, 5))
def test_recognition_is_its_definition(seed: int, n_clips: int, n_words: int) -> None:
    """Visual and audio are accuracies, both adds the probabilities, chance is the most frequent known word."""
    video, audio = numbers(seed, n_clips, n_words), 3 * numbers(seed + 1, n_clips, n_words)
    labels = [seed * (row + 3) % (n_words + 1) - 1 for row in range(n_clips)]
    right = 0
    for seen, heard, label in zip(video.tolist(), audio.tolist(), labels, strict=True):
        scores = [p + q for p, q in zip(softmax(seen), softmax(heard), strict=True)]
        right += scores.index(max(scores)) == label
    known = Counter(label for label in labels if label >= 0)
    assert asdict(recognise(video, audio, torch.tensor(labels))) == {
        "visual": accuracy(video, torch.tensor(labels)),
        "audio": accuracy(audio, torch.tensor(labels)),
        "both": right / n_clips,
        "chance": max(known.values(), default=0) / n_clips,
        "n_clips": n_clips,
    }


def test_larger_logits_weigh_no_more() -> None:
    """Both modalities have equal votes: an unsure one yields to a sure one, whatever the size of its logits."""
    seen, heard = torch.tensor([[100.0, 100.1, 0.0]]), torch.tensor([[9.0, 0.0, 0.0]])
    assert recognise(seen, heard, torch.tensor([0])).both == 1
    assert recognise(heard, seen, torch.tensor([0])).both == 1


def test_the_surer_of_two_sure_modalities_wins() -> None:
    """Probabilities that float32 rounds to 1 are still distinguished."""
    seen, heard = torch.tensor([[20.0, 0.0]]), torch.tensor([[0.0, 25.0]])
    assert recognise(seen, heard, torch.tensor([1])).both == 1


# Retrieval


def unit(row: list[float]) -> list[float]:
    """Return a row of length 1, or of zeros if it is one."""
    return [x / (math.hypot(*row) or 1) for x in row]


def slow_retrieval(queries: Tensor, gallery: Tensor) -> dict[str, float]:
    """Return the fields of Retrieval, by sorting nothing and multiplying nothing."""
    asked, shelves = ([unit(row) for row in side.flatten(1).tolist()] for side in (queries, gallery))
    ranks = []
    for n, query in enumerate(asked):
        distances = [math.dist(query, row) for row in shelves]
        ranks.append(sum(distance <= distances[n] for m, distance in enumerate(distances) if m != n))
    return {
        **{f"r{k}": sum(rank < k for rank in ranks) / len(ranks) for k in (1, 5, 10)},
        "median_rank": int(np.floor(np.median(ranks))) + 1,
        "chance_r1": 1 / len(ranks),
        "n_clips": len(ranks),
    }


@settings(deadline=None)
@given(seeds, st.lists(st.integers(-1, 30), min_size=1, max_size=30), st.integers(1, 40), st.floats(0, 3))
def test_retrieval_is_its_definition(seed: int, rows: list[int], chunk: int, noise: float) -> None:
    """Chunks of any size give the result of plain loops, also if clips share their features or have none (-1)."""
    pool = torch.cat((numbers(seed, 31, 3, 4), torch.zeros(1, 3, 4)))
    gallery = pool[rows]
    queries = gallery + noise * numbers(seed + 1, len(rows), 3, 4)
    assert asdict(retrieve(queries, gallery, chunk=chunk)) == pytest.approx(slow_retrieval(queries, gallery))


@pytest.mark.parametrize(("n_clips", "noise"), [(1, 1.0), (2, 1.0), (400, 0.0), (400, 8.0), (400, 30.0)], ids=str)
def test_ranks_are_those_of_scikit_learn(n_clips: int, noise: float) -> None:
    """Whole galleries of the paper's features are ranked as by scikit-learn's distances in float64."""
    gallery = numbers(0, n_clips, 12, 256)
    queries = gallery + noise * numbers(1, n_clips, 12, 256)
    asked, shelves = (normalize(side.flatten(1).double().numpy()) for side in (queries, gallery))
    places = euclidean_distances(asked, shelves).argsort(axis=1)
    expected = (places == np.arange(n_clips)[:, None]).argmax(axis=1)
    np.testing.assert_array_equal(ranks(queries, gallery, chunk=64), expected)
    found = retrieve(queries, gallery)
    assert [found.r1, found.r5, found.r10] == pytest.approx([np.mean(expected < k) for k in (1, 5, 10)])
    assert found.median_rank == np.floor(np.median(expected)) + 1
    assert found == summarise(torch.from_numpy(expected))


@pytest.mark.parametrize("chunk", [1, 7, 1000])
def test_galleries_of_few_voices_tie_within_each(chunk: int) -> None:
    """If many clips share each of a few features, a query with its own feature ties with exactly those clips."""
    pool, rows = numbers(0, 5, 3072), torch.arange(203) % 5
    assert ranks(pool[rows], pool[rows], chunk=chunk).tolist() == [(rows == row).sum() - 1 for row in rows]


def test_a_gallery_may_be_its_own_queries() -> None:
    """Distinct features are retrieved by themselves, in both directions."""
    features = numbers(0, 64, 3, 4)
    assert ranks(features, features).tolist() == [0] * 64


def test_clips_that_are_found_at_once_are_all_found() -> None:
    """Features equal to their pair's, of any length, give a perfect score."""
    features = numbers(0, 50, 12, 8)
    found = retrieve(features, 1000 * features, chunk=7)
    assert (found.r1, found.r5, found.r10, found.median_rank, found.n_clips) == (1, 1, 1, 1, 50)
    assert found.chance_r1 == 1 / 50


def test_one_clip_is_always_found() -> None:
    """A gallery of one clip has R@1 of 1, as has chance."""
    found = retrieve(numbers(0, 1, 5), numbers(1, 1, 5))
    assert (found.r1, found.median_rank, found.chance_r1) == (1, 1, 1)


@pytest.mark.parametrize("chunk", [1, 100, 5000])
@pytest.mark.parametrize("value", [0.0, 0.1])
def test_a_collapsed_encoder_finds_nothing(chunk: int, value: float) -> None:
    """Features that are the same for every clip tie, and ties count against the query, however products round."""
    row = value * numbers(0, 1, 3072)
    collapsed = row.expand(1003, -1).contiguous()
    for queries in (collapsed, numbers(1, 1003, 3072)):
        found = retrieve(queries, collapsed, chunk=chunk)
        assert (found.r1, found.r5, found.r10, found.median_rank) == (0, 0, 0, 1003)


def test_two_clips_that_tie_are_both_missed() -> None:
    """A duplicate in the gallery costs a clip its first rank, but not the top five."""
    features = numbers(0, 9, 6)
    features[8] = features[2]
    found = retrieve(features, features)
    assert (found.r1, found.r5, found.median_rank) == (7 / 9, 1, 1)


def test_the_median_between_two_ranks_is_rounded_down() -> None:
    """Ranks 0 and 1 have the median .5, and MedR is ⌊.5⌋ + 1."""
    found = retrieve(torch.tensor([[1.0, 0.0], [1.0, 0.1]]), torch.eye(2))
    assert (found.r1, found.median_rank) == (0.5, 1)


def test_mixed_precision_around_it_changes_nothing() -> None:
    """Products are computed in float32 under autocast too."""
    gallery = numbers(0, 1000, 4)
    queries = gallery + 0.3 * numbers(1, 1000, 4)
    with torch.autocast("cpu", torch.bfloat16):
        found = retrieve(queries, gallery)
    assert found == retrieve(queries, gallery)


def test_features_in_half_precision_are_compared_in_float32() -> None:
    """Half-precision features score as the same numbers in float32."""
    queries, gallery = numbers(0, 40, 16).bfloat16(), numbers(1, 40, 16).bfloat16()
    assert retrieve(queries, gallery) == retrieve(queries.float(), gallery.float())


@pytest.mark.parametrize(
    ("queries", "gallery", "chunk", "complaint"),
    [
        (torch.zeros(0, 3), torch.zeros(0, 3), 1, "no clips"),
        (torch.zeros(2, 3), torch.zeros(3, 3), 1, "row by row"),
        (torch.zeros(2, 3), torch.zeros(2, 3), 0, "chunk is 0"),
        (torch.full((2, 3), math.nan), torch.zeros(2, 3), 1, "not finite"),
        (torch.zeros(2, 3), torch.full((2, 3), math.inf), 1, "not finite"),
    ],
)
def test_what_cannot_be_retrieved_is_refused(queries: Tensor, gallery: Tensor, chunk: int, complaint: str) -> None:
    """No clips, no pairs, empty chunks and features that are not numbers raise ValueError."""
    with pytest.raises(ValueError, match=complaint):
        retrieve(queries, gallery, chunk=chunk)


# Leakage


def clusters(seed: int, n_clips: int, *, n_labels: int, spread: float) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Draw features `[N, 8]` around one centre per label, the same centres for every seed, and their labels."""
    labels = np.arange(n_clips) % n_labels
    centres = np.random.default_rng(0).normal(size=(n_labels, 8))
    return centres[labels] + spread * np.random.default_rng(seed).normal(size=(n_clips, 8)), labels


def slow_leakage(
    train: NDArray[np.float64], labels: NDArray[np.int64], test: NDArray[np.float64], *, penalty: float
) -> NDArray[np.int64]:
    """Return the accuracy of a linear SVM on test features, standardised by hand; penalty: C times their length."""
    mean, deviation = train.mean(0), train.std(0)
    svm = LinearSVC(C=penalty / train.shape[1], dual=True, random_state=0).fit((train - mean) / deviation, labels)
    return svm.predict((test - mean) / deviation)


def best_penalty(train: NDArray[np.float64], labels: NDArray[np.int64]) -> float:
    """Return the first C with the best accuracy over three folds, each trained on the other two."""
    folds = list(StratifiedKFold(3, shuffle=True, random_state=0).split(train, labels))
    worth = [
        np.mean([np.mean(slow_leakage(train[a], labels[a], train[b], penalty=c) == labels[b]) for a, b in folds])
        for c in PENALTIES
    ]
    assert len(set(worth)) > 1
    return PENALTIES[int(np.argmax(worth))]


def test_leakage_reads_few_clips_of_many_labels() -> None:
    """Labels for more than half of the clips, as in small corpora, are read without a warning."""
    labels = np.array([*range(20), 0, 1])
    assert leakage(np.eye(20)[labels], labels, np.eye(20), np.arange(20)).accuracy == 1


def test_leakage_reads_what_a_cross_validated_svm_reads() -> None:
    """Accuracy is that of the SVM whose C is best on three folds."""
    train, labels = clusters(1, 120, n_labels=5, spread=1.0)
    test, judged = clusters(2, 101, n_labels=5, spread=1.0)
    best = best_penalty(train, labels)
    assert best != PENALTIES[0]
    found = leakage(train, labels, test, judged)
    assert found.accuracy == pytest.approx(np.mean(slow_leakage(train, labels, test, penalty=best) == judged))
    assert (found.chance, found.n_train, found.n_test) == (21 / 101, 120, 101)


@pytest.mark.parametrize("seed", [0, 1])
def test_what_is_apart_leaks_and_what_is_noise_does_not(seed: int) -> None:
    """Separate clusters are read without error, and noise about at chance level."""
    train, labels = clusters(1, 90, n_labels=3, spread=0.1)
    test, judged = clusters(2, 300, n_labels=3, spread=0.1)
    assert leakage(train, labels, test, judged, seed=seed).accuracy == 1
    noise = np.random.default_rng(3).normal(size=(390, 8))
    assert leakage(noise[:90], labels, noise[90:], judged, seed=seed).accuracy == pytest.approx(1 / 3, abs=0.1)


def test_too_few_clips_to_choose_by_are_read_with_a_fixed_c() -> None:
    """Two clips per label cannot be divided into three folds, and are read all the same."""
    train, labels = clusters(1, 14, n_labels=7, spread=1.0)
    test, judged = clusters(2, 50, n_labels=7, spread=1.0)
    expected = np.mean(slow_leakage(train, labels, test, penalty=FEW_CLIPS_PENALTY) == judged)
    assert leakage(train, labels, test, judged).accuracy == pytest.approx(expected)


def test_a_rare_label_is_trained_on() -> None:
    """A label with two clips is not used for choosing C, and is read with the C of the others."""
    train, labels = clusters(1, 122, n_labels=5, spread=1.5)
    often, kept = labels < 4, (labels < 4) | (np.arange(122) < 10)
    test, judged = clusters(2, 100, n_labels=5, spread=1.5)
    train[labels == 4, 0] += 20
    test[judged == 4, 0] += 20
    read = slow_leakage(train[kept], labels[kept], test, penalty=best_penalty(train[often], labels[often]))
    found = leakage(train[kept], labels[kept], test, judged)
    assert np.any(read == 4)
    assert (found.accuracy, found.n_train) == (pytest.approx(np.mean(read == judged)), often.sum() + 2)


def test_unknown_labels_are_left_out() -> None:
    """Clips of label -1 change nothing, even if their features are not numbers."""
    train, labels = clusters(1, 60, n_labels=3, spread=2.0)
    test, judged = clusters(2, 30, n_labels=3, spread=2.0)
    unknown = np.full((5, 8), np.nan), np.full(5, -1)
    found = leakage(
        np.concatenate((train, unknown[0])),
        np.concatenate((labels, unknown[1])),
        np.concatenate((unknown[0], test)),
        np.concatenate((unknown[1], judged)),
    )
    assert found == leakage(train, labels, test, judged)


def test_tensors_are_read_as_arrays_are() -> None:
    """Tensors with gradients, in half precision too, give the same leakage as their numbers."""
    train, labels = clusters(1, 60, n_labels=3, spread=2.0)
    test, judged = clusters(2, 30, n_labels=3, spread=2.0)
    halves = [torch.tensor(side).bfloat16().requires_grad_() for side in (train, test)]
    arrays = [side.detach().double().numpy() for side in halves]
    expected = leakage(arrays[0], labels, arrays[1], judged)
    assert leakage(halves[0], torch.tensor(labels), halves[1], torch.tensor(judged)) == expected


def test_a_label_that_training_never_saw_is_not_read() -> None:
    """Test clips of another label are wrong, and count."""
    train, labels = clusters(1, 30, n_labels=2, spread=0.05)
    found = leakage(train, labels, train, labels + (np.arange(30) < 15) * 10)
    assert (found.accuracy, found.n_test) == (0.5, 30)


def test_a_constant_encoder_leaks_nothing() -> None:
    """Features that are the same for every clip are read as one label."""
    labels = np.arange(30) % 3
    found = leakage(np.full((30, 4), 0.1), labels, np.full((30, 4), 0.1), labels)
    assert found.accuracy == found.chance == pytest.approx(1 / 3)


def test_an_svm_that_does_not_converge_is_no_error() -> None:
    """Features with identical columns that are independent of the labels give chance level without a warning."""
    features = np.repeat(np.random.default_rng(0).normal(size=(30, 1)), 2, axis=0) * np.ones(2000)
    labels = np.arange(60) % 2
    assert leakage(features, labels, features, labels).accuracy == 0.5


def test_one_test_clip_is_enough() -> None:
    """A single test clip is read correctly or incorrectly."""
    train, labels = clusters(1, 30, n_labels=3, spread=0.05)
    found = leakage(train, labels, train[:1], labels[:1])
    assert (found.accuracy, found.chance, found.n_test) == (1, 1, 1)


def test_training_on_fewer_clips_draws_them_by_seed() -> None:
    """The given number of clips is drawn with their labels, the same for the same seed, or all if there are no more."""
    clips = clusters(1, 600, n_labels=3, spread=1.0)
    found = cross_leakage(*clips, most=30)
    assert (found.n_train, found.n_test) == (30, 600)
    assert found.accuracy > 0.6
    assert found == cross_leakage(*clips, most=30)
    assert len({cross_leakage(*clips, most=30, seed=seed).accuracy for seed in range(5)}) > 1
    assert cross_leakage(*clips, most=480) == cross_leakage(*clips)


def test_unknown_labels_are_not_drawn() -> None:
    """Clips of label -1 are not among the few training clips."""
    train, labels = clusters(1, 60, n_labels=3, spread=0.05)
    many = np.concatenate((np.full((2000, 8), np.nan), train)), np.concatenate((np.full(2000, -1), labels))
    found = cross_leakage(*many, most=40)
    assert (found.accuracy, found.n_train) == (1, 40)


@pytest.mark.parametrize("folds", [2, 5])
def test_cross_leakage_is_the_mean_over_folds(folds: int) -> None:
    """Each fold is read by the SVM of the others, whose C is best on three folds of these, as by scikit-learn."""
    features, labels = clusters(1, 121, n_labels=4, spread=1.5)
    dealt = StratifiedKFold(folds, shuffle=True, random_state=0)
    svm = make_pipeline(StandardScaler(), LinearSVC(dual=True, max_iter=1000, random_state=0))
    inner = StratifiedKFold(3, shuffle=True, random_state=0)
    search = GridSearchCV(svm, {"linearsvc__C": [penalty / 8 for penalty in PENALTIES]}, cv=inner)
    read = cross_val_predict(search, features, labels, cv=dealt)
    by_hand = np.zeros(121, dtype=np.int64)
    for rest, fold in dealt.split(features, labels):
        best = best_penalty(features[rest], labels[rest])
        by_hand[fold] = slow_leakage(features[rest], labels[rest], features[fold], penalty=best)
    np.testing.assert_array_equal(read, by_hand)
    found = cross_leakage(features, labels, folds=folds)
    assert found.accuracy == pytest.approx(np.mean(read == labels))
    assert 0.5 < found.accuracy < 1
    assert (found.chance, found.n_test) == (31 / 121, 121)
    assert found.n_train == min(len(rest) for rest, _ in dealt.split(features, labels))


def test_cross_leakage_leaves_rare_and_unknown_labels_out() -> None:
    """Clips whose label is unknown, or has fewer clips than there are folds, change nothing and are not counted."""
    features, labels = clusters(1, 60, n_labels=3, spread=1.5)
    more = np.concatenate((np.full((9, 8), np.nan), 5 + np.zeros((4, 8)), features))
    named = np.concatenate((np.full(9, -1), np.full(4, 7), labels))
    assert cross_leakage(more, named) == cross_leakage(features, labels)
    assert cross_leakage(torch.from_numpy(more), torch.from_numpy(named), folds=4).n_test == 64


def test_cross_leakage_of_what_is_apart_and_of_noise() -> None:
    """Separate clusters are read without error, noise about at chance level, and one seed gives one result."""
    features, labels = clusters(1, 90, n_labels=3, spread=0.1)
    assert cross_leakage(features, labels, seed=3).accuracy == 1
    assert cross_leakage(features, labels, most=20).n_train == 20
    noise = np.random.default_rng(3).normal(size=(300, 8)), np.arange(300) % 3
    found = cross_leakage(*noise)
    assert found.accuracy == pytest.approx(1 / 3, abs=0.1)
    assert cross_leakage(*noise) == found


@pytest.mark.parametrize(
    ("features", "labels", "options", "complaint"),
    [
        (np.zeros((9, 2)), [0] * 5 + [1] * 4, {}, "two different labels with 5 clips"),
        (np.zeros((9, 2)), [0] * 5 + [-1] * 4, {"folds": 2}, "two different labels with 2 clips"),
        (np.zeros((0, 2)), [], {}, "two different labels"),
        (np.zeros((2, 2)), [0, 1], {"folds": 1}, "folds is 1"),
        (np.zeros((2, 2)), [0, 1, 1], {}, "should be"),
        (np.full((10, 2), np.nan), [0] * 5 + [1] * 5, {}, "not finite"),
        (np.zeros((10, 2)), [0] * 5 + [1] * 5, {"most": 0}, "most is 0"),
        (np.zeros((10, 2)), [0] * 5 + [1] * 5, {"most": 1}, "two different labels"),
    ],
)
def test_what_cannot_be_read_within_one_part_is_refused(
    features: NDArray[np.float64], labels: list[int], options: dict[str, int], complaint: str
) -> None:
    """Too few labels or folds, shapes that do not fit and features that are not numbers raise ValueError."""
    with pytest.raises(ValueError, match=complaint):
        cross_leakage(features, labels, **options)


@pytest.mark.parametrize(
    ("train", "labels", "test", "judged", "complaint"),
    [
        (np.zeros((4, 2)), [0, 0, 0, -1], np.zeros((1, 2)), [0], "two different labels"),
        (np.zeros((0, 2)), [], np.zeros((1, 2)), [0], "two different labels"),
        (np.zeros((2, 2)), [0, 1], np.zeros((1, 2)), [-1], "no test clip"),
        (np.zeros((2, 2)), [0, 1], np.zeros((1, 3)), [0], "2 long, test features 3"),
        (np.zeros((2, 2)), [0, 1, 1], np.zeros((1, 2)), [0], "training features .* should be"),
        (np.zeros((2, 2)), [0, 1], np.zeros((1, 2, 2)), [0], "test features .* should be"),
        (np.array([[0.0], [math.nan]]), [0, 1], np.zeros((1, 1)), [0], "not finite"),
    ],
)
def test_what_cannot_be_read_is_refused(
    train: NDArray[np.float64], labels: list[int], test: NDArray[np.float64], judged: list[int], complaint: str
) -> None:
    """Too few labels, no test clips, shapes that do not fit and features that are not numbers raise ValueError."""
    with pytest.raises(ValueError, match=complaint):
        leakage(train, labels, test, judged)
