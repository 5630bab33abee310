"""Scores of instances: by hand, against a slow implementation of the definitions, and whatever the labels are."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.optimize import linear_sum_assignment

from tfseg.metrics import instance_scores
from tfseg.metrics.instances import (
    PERCENT,
    THRESHOLDS,
    aji_plus,
    best_assignment,
    overlaps,
    scores_from_counts,
    threshold_scores,
)

# --- an independent implementation: one mask an instance, exact fractions, loops ---


def masks(labels):
    """Pixels of each instance as a set, in the order of the first pixel."""
    pixels: dict[int, set] = {}
    for place, label in enumerate(np.ravel(labels).tolist()):
        if label:
            pixels.setdefault(label, set()).add(place)
    return list(pixels.values())


def slow_iou(first, second):
    return Fraction(len(first & second), len(first | second))


def slow_aji(truth, prediction):
    true, predicted = masks(truth), masks(prediction)
    shared, union, used = 0, 0, set()
    for g in true:
        best, which = Fraction(0), None
        for j, s in enumerate(predicted):
            if slow_iou(g, s) > best:
                best, which = slow_iou(g, s), j
        if which is None:
            union += len(g)
        else:
            shared, union = shared + len(g & predicted[which]), union + len(g | predicted[which])
            used.add(which)
    union += sum(len(s) for j, s in enumerate(predicted) if j not in used)
    return float(Fraction(shared, union)) if union else math.nan


def slow_matchings(table, row=0, taken=()):
    """Every one-to-one matching of the pairs that share pixels, as tuples of (row, column)."""
    if row == len(table):
        yield ()
        return
    yield from slow_matchings(table, row + 1, taken)
    for column, iou in enumerate(table[row]):
        if iou and column not in taken:
            for rest in slow_matchings(table, row + 1, (*taken, column)):
                yield ((row, column), *rest)


def slow_aji_plus(truth, prediction):
    """The values of AJI+ of all matchings whose IoU adds up to the most."""
    true, predicted = masks(truth), masks(prediction)
    table = [[slow_iou(g, s) for s in predicted] for g in true]
    found = [(sum((table[i][j] for i, j in m), Fraction(0)), m) for m in slow_matchings(table)]
    most, values = max(total for total, _ in found), set()
    for total, matching in found:
        if total == most:
            shared = sum(len(true[i] & predicted[j]) for i, j in matching)
            union = sum(len(true[i] | predicted[j]) for i, j in matching)
            union += sum(len(g) for i, g in enumerate(true) if i not in {i for i, _ in matching})
            union += sum(len(s) for j, s in enumerate(predicted) if j not in {j for _, j in matching})
            values.add(float(Fraction(shared, union)) if union else math.nan)
    return values


def slow_counts(truth, prediction):
    """TP, FP, FN at each threshold by maximum matching; and PQ, DQ, SQ."""
    true, predicted = masks(truth), masks(prediction)
    table = [[slow_iou(g, s) for s in predicted] for g in true]
    tp = []
    for percent in PERCENT:
        hit = np.array([[iou >= Fraction(percent, 100) for iou in row] for row in table], float)
        hit = hit.reshape(len(true), len(predicted))
        tp.append(int(hit[linear_sum_assignment(hit, maximize=True)].sum()))
    ious = [iou for row in table for iou in row if iou > Fraction(1, 2)]
    size = Fraction(len(true) + len(predicted), 2)
    quality = {
        "pq": float(sum(ious, Fraction(0)) / size) if size else math.nan,
        "dq": float(len(ious) / size) if size else math.nan,
        "sq": float(sum(ious, Fraction(0)) / len(ious)) if ious else math.nan,
    }
    return tp, [len(predicted) - n for n in tp], [len(true) - n for n in tp], quality


def same(first, second):
    """Dictionaries with equal values, NaN equal to NaN."""
    return first.keys() == second.keys() and all(
        np.array_equal(first[key], second[key], equal_nan=True) for key in first
    )


def check_against_slow(truth, prediction):
    scores = instance_scores(truth, prediction)
    tp, fp, fn, quality = slow_counts(truth, prediction)
    for k, threshold in enumerate(THRESHOLDS):
        assert [scores[f"{what} {threshold}"] for what in ("tp", "fp", "fn")] == [tp[k], fp[k], fn[k]]
        for name, numerator, denominator in (
            ("precision", tp[k], tp[k] + fp[k]),
            ("recall", tp[k], tp[k] + fn[k]),
            ("f1", 2 * tp[k], 2 * tp[k] + fp[k] + fn[k]),
            ("jaccard", tp[k], tp[k] + fp[k] + fn[k]),
        ):
            expected = numerator / denominator if denominator else math.nan
            assert scores[f"{name} {threshold}"] == pytest.approx(expected, nan_ok=True)
    for mean, of in (
        ("map_precision", "precision"),
        ("mean_recall", "recall"),
        ("mean_f1", "f1"),
        ("map_dsb", "jaccard"),
    ):
        assert scores[mean] == pytest.approx(np.mean([scores[f"{of} {t}"] for t in THRESHOLDS]), nan_ok=True)
    assert {name: scores[name] for name in quality} == pytest.approx(quality, nan_ok=True)
    assert scores["aji"] == pytest.approx(slow_aji(truth, prediction), nan_ok=True)
    assert all(type(value) is float for value in scores.values())
    return scores


small = arrays(np.uint8, (4, 5), elements=st.integers(0, 4))


@given(small, small)
def test_small_images_against_the_slow_implementation(truth, prediction):
    scores = check_against_slow(truth, prediction)
    assert any(scores["aji_plus"] == pytest.approx(v, nan_ok=True) for v in slow_aji_plus(truth, prediction))


def blobs(seed, size_px=72, count=40):
    """Discs that overlap, the later on top; and the same moved, with labels that lie anywhere."""
    random = np.random.default_rng(seed)
    truth, prediction = np.zeros((2, size_px, size_px), np.int64)
    y, x = np.mgrid[:size_px, :size_px]
    for k in range(count):
        row, column, radius = *random.uniform(0, size_px, 2), random.uniform(2, 8)
        truth[(y - row) ** 2 + (x - column) ** 2 < radius**2] = 7 * k + 3
        row, column = random.normal((row, column), 1.5)
        if random.random() < 0.9:
            prediction[(y - row) ** 2 + (x - column) ** 2 < radius**2] = random.choice([k + 1, k + 2])
    return truth, prediction


@pytest.mark.parametrize("block_pairs", [1, 10, 500])
@pytest.mark.parametrize("seed", range(4))
def test_blobs_against_the_slow_implementation(seed, block_pairs, monkeypatch):
    monkeypatch.setattr("tfseg.metrics.instances._BLOCK_PAIRS", block_pairs)
    truth, prediction = blobs(seed)
    scores = check_against_slow(truth, prediction)
    true, predicted = masks(truth), masks(prediction)
    table = np.array([[float(slow_iou(g, s)) for s in predicted] for g in true])
    i, j = linear_sum_assignment(table, maximize=True)
    pairs = overlaps(truth, prediction)
    assert pairs.iou[best_assignment(pairs)].sum() == pytest.approx(table[i, j].sum())
    i, j = i[table[i, j] > 0], j[table[i, j] > 0]
    shared = sum(len(true[a] & predicted[b]) for a, b in zip(i, j, strict=True))
    assert scores["aji_plus"] == pytest.approx(shared / (np.sum(truth > 0) + np.sum(prediction > 0) - shared))


# --- by hand ---


def row(*lengths):
    """One row of pixels from (label, length) pairs."""
    return np.concatenate([np.full(length, label) for label, length in lengths])[None]


def test_identical_and_touching():
    labels = row((1, 5), (2, 5), (0, 3), (3, 1))
    scores = instance_scores(labels, labels)
    assert scores["true"] == scores["predicted"] == 3
    for name in ("aji", "aji_plus", "pq", "dq", "sq", "map_precision", "mean_recall", "mean_f1", "map_dsb"):
        assert scores[name] == 1
    assert scores["tp 0.95"] == 3 and scores["fp 0.95"] == scores["fn 0.95"] == 0


def test_merged():
    """One prediction over two touching nuclei of 6 and 4: both take it in AJI, the larger one alone in AJI+."""
    scores = instance_scores(row((1, 6), (2, 4)), row((1, 10)))
    assert scores["aji"] == (6 + 4) / (10 + 10)
    assert scores["aji_plus"] == 6 / (10 + 4)
    assert [scores[f"tp {t}"] for t in THRESHOLDS] == [1, 1, 1, 0, 0, 0, 0, 0, 0, 0]
    assert scores["fn 0.50"] == 1 and scores["fp 0.50"] == 0 and scores["fn 0.65"] == 2 and scores["fp 0.65"] == 1
    assert scores["precision 0.60"] == 1 and scores["recall 0.60"] == 0.5 and scores["f1 0.60"] == pytest.approx(2 / 3)
    assert scores["map_precision"] == pytest.approx(0.3) and scores["map_dsb"] == pytest.approx(0.15)
    assert scores["dq"] == pytest.approx(2 / 3) and scores["sq"] == 0.6 and scores["pq"] == pytest.approx(0.4)


def test_split():
    """One nucleus predicted as two of 6 and 4."""
    scores = instance_scores(row((1, 10)), row((1, 6), (2, 4)))
    assert scores["aji"] == scores["aji_plus"] == 6 / (10 + 4)
    assert scores["tp 0.60"] == 1 and scores["fp 0.60"] == 1 and scores["fn 0.60"] == 0 and scores["tp 0.65"] == 0
    assert scores["map_precision"] == pytest.approx(0.15) and scores["mean_recall"] == pytest.approx(0.3)


@pytest.mark.parametrize("swapped", [False, True])
def test_halves_are_one_hit(swapped):
    """Both halves have an IoU of exactly 0.5: one of them is a hit at 0.50, none is for panoptic quality."""
    whole, halves = row((1, 10)), row((1, 5), (2, 5))
    scores = instance_scores(halves, whole) if swapped else instance_scores(whole, halves)
    wrong, missed = (0, 1) if swapped else (1, 0)
    assert (scores["tp 0.50"], scores["fp 0.50"], scores["fn 0.50"]) == (1, wrong, missed)
    assert scores["tp 0.55"] == 0 and scores["pq"] == scores["dq"] == 0 and math.isnan(scores["sq"])
    assert scores["aji_plus"] == pytest.approx(5 / 15)
    assert scores["aji"] == pytest.approx(10 / 20 if swapped else 5 / 15)


def test_missed_and_invented():
    scores = instance_scores(row((1, 4), (2, 6), (0, 5)), row((5, 4), (0, 6), (9, 5)))
    assert scores["aji"] == scores["aji_plus"] == 4 / (4 + 6 + 5)
    assert scores["tp 0.95"] == scores["fp 0.95"] == scores["fn 0.95"] == 1
    assert (
        scores["f1 0.95"] == 0.5 and scores["jaccard 0.95"] == pytest.approx(1 / 3) and scores["map_precision"] == 0.5
    )
    assert scores["pq"] == 0.5 and scores["sq"] == 1


def test_a_nucleus_that_meets_no_prediction_takes_none():
    """The challenge's earlier script gave it the prediction of lowest label."""
    scores = instance_scores(row((1, 4), (2, 4), (0, 8)), row((0, 4), (1, 4), (2, 8)))
    assert scores["aji"] == 4 / (4 + 4 + 8)


def test_the_best_matching_is_not_the_best_pair():
    """IoU 7/13 and twice 3/10: AJI+ takes the two, which add up to more; AJI the first twice; F1 counts the first."""
    truth = row((1, 10), (2, 3), (0, 2))
    prediction = row((2, 3), (1, 10), (0, 2))
    scores = instance_scores(truth, prediction)
    assert scores["aji_plus"] == 6 / 20
    assert scores["aji"] == (7 + 3) / (13 + 10 + 3)
    assert scores["tp 0.50"] == 1 and scores["tp 0.55"] == 0 and scores["sq"] == pytest.approx(7 / 13)


def test_an_instance_need_not_be_connected():
    scores = instance_scores(row((1, 3), (0, 2), (1, 3)), row((4, 3), (0, 2), (4, 3)))
    assert scores["true"] == scores["predicted"] == scores["aji"] == 1


@pytest.mark.parametrize("shared", range(1, 21))
def test_iou_of_exactly_a_threshold_reaches_it(shared):
    """Of 20 pixels: 10 reach 0.50, 11 reach 0.55 … 19 reach 0.95, whatever 0.5 + 0.05 k is in floats."""
    scores = instance_scores(row((1, 20)), row((1, shared), (0, 20 - shared)))
    assert [scores[f"tp {t}"] for t in THRESHOLDS] == [float(shared >= k) for k in range(10, 20)]
    assert scores["dq"] == (shared > 10) and scores["aji"] == scores["aji_plus"] == shared / 20


def test_thresholds_are_compared_in_integers_also_where_fractions_nearly_tie():
    """3/5 of six million pixels, one pixel more and one less."""
    for change, hit in ((-1, 0), (0, 1), (1, 1)):
        shared = 3_600_000 + change
        scores = instance_scores(row((1, 6_000_000)), row((1, shared), (0, 6_000_000 - shared)))
        assert scores["tp 0.60"] == hit


# --- nothing there ---


def test_empty_prediction():
    scores = instance_scores(row((1, 4), (2, 2), (0, 1)), np.zeros((1, 7), np.uint8))
    undefined = {"map_precision", "sq", *(f"precision {t}" for t in THRESHOLDS)}
    assert {name for name, value in scores.items() if math.isnan(value)} == undefined
    assert scores["fn 0.50"] == scores["true"] == 2
    rest = set(scores) - undefined - {"true", *(f"fn {t}" for t in THRESHOLDS)}
    assert all(scores[name] == 0 for name in rest)


def test_empty_truth():
    scores = instance_scores(np.zeros((1, 7), np.uint8), row((1, 4), (2, 2), (0, 1)))
    undefined = {"mean_recall", "sq", *(f"recall {t}" for t in THRESHOLDS)}
    assert {name for name, value in scores.items() if math.isnan(value)} == undefined
    rest = set(scores) - undefined - {"predicted", *(f"fp {t}" for t in THRESHOLDS)}
    assert all(scores[name] == 0 for name in rest) and scores["fp 0.50"] == 2


@pytest.mark.parametrize("shape", [(3, 4), (0, 4), (0,)])
def test_both_empty(shape):
    scores = instance_scores(np.zeros(shape, int), np.zeros(shape, int))
    for name, value in scores.items():
        if name.split()[0] in ("true", "predicted", "tp", "fp", "fn"):
            assert value == 0
        else:
            assert math.isnan(value)


def test_no_background_and_no_overlap():
    assert instance_scores(row((3, 2), (1, 2)), row((3, 2), (1, 2)))["aji"] == 1
    scores = instance_scores(row((1, 2), (0, 2)), row((0, 2), (1, 2)))
    assert scores["aji"] == scores["aji_plus"] == scores["pq"] == scores["mean_f1"] == 0


# --- labels ---

DTYPES = [np.uint8, np.int8, np.uint16, np.int32, np.uint32, np.int64, np.uint64]


@given(small, small, st.data())
def test_labels_do_not_matter(truth, prediction, data):
    """Other numbers, another order, other dtypes and memory layouts give the same scores to the last bit."""
    expected = instance_scores(truth, prediction)

    def renamed(labels):
        dtype = data.draw(st.sampled_from(DTYPES))
        numbers = st.integers(1, np.iinfo(dtype).max)
        names = data.draw(st.lists(numbers, min_size=4, max_size=4, unique=True))
        new = np.array([0, *names], dtype)[labels]
        return data.draw(st.sampled_from([new, np.asfortranarray(new), np.flip(np.flip(new).copy())]))

    assert same(expected, instance_scores(renamed(truth), renamed(prediction)))


@pytest.mark.parametrize("seed", range(4))
def test_labels_do_not_matter_on_blobs(seed):
    truth, prediction = blobs(seed)
    names = np.random.default_rng(seed).permutation(10**6)[: truth.max() + 2]
    names[0] = 0
    assert same(instance_scores(truth, prediction), instance_scores(names[truth], names[prediction].tolist()))


def test_ties_go_to_the_first_pixel():
    """Two predictions of equal IoU: the first is taken, which another nucleus takes too, so nobody takes the second."""
    truth = np.array([[1, 1, 1, 1], [2, 0, 0, 0], [2, 0, 0, 0]])
    prediction = np.array([[5, 0, 0, 3], [5, 0, 0, 3], [0, 0, 0, 0]])
    for labels in (prediction, np.where(prediction, 8 - prediction, 0)):
        assert instance_scores(truth, labels)["aji"] == (1 + 1) / (5 + 3 + 2)


@given(small, small)
def test_swapping_truth_and_prediction(truth, prediction):
    there, back = instance_scores(truth, prediction), instance_scores(prediction, truth)
    for name in ("pq", "dq", "sq", "mean_f1", "map_dsb", "tp 0.50"):
        assert there[name] == pytest.approx(back[name], nan_ok=True)
    assert there["map_precision"] == pytest.approx(back["mean_recall"], nan_ok=True)


# --- errors and parts ---


@pytest.mark.parametrize(
    ("truth", "prediction", "says"),
    [
        (np.ones((2, 3), int), np.ones((3, 2), int), r"one shape. Received: \(2, 3\) and \(3, 2\). Crop"),
        (
            np.ones((2, 2), bool),
            np.ones((2, 2), int),
            "^truth must hold a number an instance.*bool.*scipy.ndimage.label",
        ),
        (np.ones((2, 2), int), np.ones((2, 2)), r"^prediction must hold integers.*float64.*astype\(np.int64\)"),
        (np.ones((2, 2), int), [[0, -1], [1, 2]], "^prediction must hold labels from 0 on. Received: -1.*watershed"),
        (np.array([["a"]]), np.ones((1, 1), int), "^truth must hold integers.*<U1"),
    ],
)
def test_what_is_no_label_image(truth, prediction, says):
    with pytest.raises(ValueError, match=says):
        instance_scores(truth, prediction)


def test_counts_of_images_add_up():
    images = [blobs(seed) for seed in range(3)]
    counts = {what: np.zeros(10) for what in ("tp", "fp", "fn")}
    for truth, prediction in images:
        scores = threshold_scores(overlaps(truth, prediction))
        for what in counts:
            counts[what] += [scores[f"{what} {t}"] for t in THRESHOLDS]
    side_by_side = [
        np.concatenate([image[k] + 1000 * n * (image[k] > 0) for n, image in enumerate(images)]) for k in (0, 1)
    ]
    assert same(scores_from_counts(**counts), threshold_scores(overlaps(*side_by_side)))


def test_thousands_of_instances_in_one_cluster():
    """A mosaic without background, moved by a pixel: every nucleus meets several others, AJI+ is one large matching."""
    side = 60
    truth = np.kron(np.arange(1, side**2 + 1).reshape(side, side), np.ones((4, 4), int))
    prediction = np.roll(truth, (1, 1), (0, 1))
    scores = instance_scores(truth, prediction)
    assert scores["true"] == scores["predicted"] == side**2
    # 9 of 16 pixels stay: IoU 9/23.
    assert scores["aji"] == pytest.approx(9 / 23) and scores["tp 0.50"] == 0
    assert aji_plus(overlaps(truth, truth[::-1, ::-1].copy())) == 1
