"""Curves from histograms: against scikit-learn and by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, jaccard_score, precision_score, recall_score, roc_auc_score

from tfseg.metrics.curves import auc, average_precision, class_curves, curve, score_histogram, score_histograms

NAMES = ["stroma", "tumour", "fat"]


def cohort(seed=0, pixels=4000):
    """Labels, a fifth of them not annotated, and softmax-like probabilities that know something."""
    random = np.random.default_rng(seed)
    truth = random.choice(3, pixels, p=[0.6, 0.3, 0.1])
    scores = random.gamma(1.0, size=(pixels, 3)) + 1.5 * np.eye(3)[truth] * random.random((pixels, 1))
    return np.where(random.random(pixels) < 0.2, 255, truth), scores / scores.sum(-1, keepdims=True)


@pytest.mark.parametrize("seed", range(3))
def test_against_scikit_learn(seed):
    truth, probabilities = cohort(seed)
    stored = np.rint(probabilities * 255).astype(np.uint8)
    histograms = score_histograms(truth, probabilities)
    np.testing.assert_array_equal(histograms, score_histograms(truth, stored))
    for c, histogram in enumerate(histograms):
        is_class, scores = truth[truth != 255] == c, stored[truth != 255, c]
        assert auc(histogram) == pytest.approx(roc_auc_score(is_class, scores), rel=1e-12)
        assert average_precision(histogram) == pytest.approx(average_precision_score(is_class, scores), rel=1e-12)
        exact = probabilities[truth != 255, c]
        assert auc(histogram) == pytest.approx(roc_auc_score(is_class, exact), abs=1e-3)
        assert average_precision(histogram) == pytest.approx(average_precision_score(is_class, exact), abs=5e-3)
        table = curve(histogram)
        for k in (0, 40, 128, 200):
            called, row = scores >= k, table.iloc[k]
            assert row.threshold == k / 255
            assert row.iou == pytest.approx(jaccard_score(is_class, called))
            assert row.precision == pytest.approx(precision_score(is_class, called))
            assert row.recall == pytest.approx(recall_score(is_class, called))
            assert row.specificity == pytest.approx(recall_score(~is_class, ~called))
            assert row.tp + row.fp + row.fn + row.tn == len(scores)


def test_histograms_of_tiles_add_up():
    truth, probabilities = cohort()
    parts = [score_histograms(truth[k::7], probabilities[k::7]) for k in range(7)]
    np.testing.assert_array_equal(np.sum(parts, axis=0), score_histograms(truth, probabilities))
    pictures = score_histograms(truth.reshape(40, 100), probabilities.reshape(40, 100, 3))
    np.testing.assert_array_equal(pictures, score_histograms(truth, probabilities))


def test_by_hand():
    """Class at 0.2, 0.8, 0.8; others at 0, 0.2, 1."""
    histogram = score_histogram([True, True, True, False, False, False], [0.2, 0.8, 0.8, 0.0, 0.2, 1.0])
    assert histogram[1, 51] == 1 and histogram[1, 204] == 2 and histogram[0, 255] == 1
    assert auc(histogram) == pytest.approx((1.5 + 2 + 2) / 9)
    assert average_precision(histogram) == pytest.approx(2 / 3 * 2 / 3 + 1 / 3 * 3 / 5)
    table = curve(histogram)
    assert table.iou[0] == 3 / 6 and table.iou[100] == 2 / 4 and table.iou[255] == 0
    assert table.precision[205] == 0 and table.specificity[52] == pytest.approx(2 / 3)


def test_undefined_is_nan():
    only_others = score_histogram([False, False], [0.1, 0.4])
    only_class = score_histogram([True, True], [0.1, 0.4])
    nothing = score_histogram([], np.empty(0, np.uint8))
    assert math.isnan(auc(only_others)) and math.isnan(auc(only_class)) and math.isnan(auc(nothing))
    assert math.isnan(average_precision(only_others)) and average_precision(only_class) == 1
    assert curve(only_others).recall.isna().all() and curve(only_class).specificity.isna().all()
    assert curve(only_others).iou[0] == 0 and math.isnan(curve(only_others).iou[255])
    assert math.isnan(curve(only_class).precision[200])
    assert curve(nothing).drop(columns=["threshold", "tp", "fp", "fn", "tn"]).isna().all(axis=None)


def test_tables_of_classes():
    truth, probabilities = cohort()
    truth[truth == 2] = 255
    curves, areas = class_curves(score_histograms(truth, probabilities), NAMES)
    assert len(curves) == 3 * 256 and curves["class"].unique().tolist() == NAMES
    assert areas["class"].tolist() == NAMES
    tumour = curves[curves["class"] == "tumour"]
    assert areas.best_iou[1] == tumour.iou.max() and areas.pixels[1] == (truth == 1).sum()
    assert tumour.iou[tumour.threshold == areas.best_threshold[1]].item() == areas.best_iou[1]
    assert areas.loc[2, ["auc", "average_precision", "best_iou", "best_threshold"]].isna().all()


@pytest.mark.parametrize(
    ("truth", "scores", "message"),
    [
        ([True], [0.1, 0.2], r"one shape. Received: \(1,\), \(2,\)"),
        ([True], [1.5], r"in \[0, 1\] or uint8. Received: 1.5"),
        ([True, False], [0.5, np.nan], r"in \[0, 1\]"),
    ],
)
def test_what_is_no_probability(truth, scores, message):
    with pytest.raises(ValueError, match=message):
        score_histogram(truth, scores)
