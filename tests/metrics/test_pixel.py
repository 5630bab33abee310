"""Every pixel metric against scikit-learn."""

from __future__ import annotations

import math

import numpy as np
import pytest
import sklearn.metrics as reference

from tfseg.metrics.pixel import confusion, scores_from_confusion
from tfseg.types import IGNORE, ClassSpec


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("num_classes", [2, 4])
def test_against_scikit_learn(seed, num_classes):
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, num_classes, (37, 53)).astype(np.uint8)
    prediction = np.where(rng.random(truth.shape) < 0.6, truth, rng.integers(0, num_classes, truth.shape))
    truth[rng.random(truth.shape) < 0.2] = IGNORE
    matrix = confusion(truth, prediction, num_classes)
    t, p = truth[truth != IGNORE], prediction[truth != IGNORE]
    assert np.array_equal(matrix, reference.confusion_matrix(t, p, labels=range(num_classes)))
    scores = scores_from_confusion(matrix)
    for name, function in (
        ("recall", reference.recall_score),
        ("precision", reference.precision_score),
        ("dice", reference.f1_score),
        ("iou", reference.jaccard_score),
    ):
        per_class = function(t, p, average=None, labels=range(num_classes))
        assert [scores[f"{name} {c}"] for c in range(num_classes)] == pytest.approx(per_class.tolist())
        assert scores[f"{name} mean"] == pytest.approx(per_class.mean())
    assert scores["accuracy"] == pytest.approx(reference.accuracy_score(t, p))
    assert all(type(value) is float for value in scores.values())


def test_parts_add_up():
    rng = np.random.default_rng(0)
    truth, prediction = rng.integers(0, 3, (2, 40, 40))
    parts = sum(confusion(truth[k : k + 7], prediction[k : k + 7], 3) for k in range(0, 40, 7))
    assert np.array_equal(parts, confusion(truth, prediction, 3))


def test_by_hand_and_by_name():
    scores = scores_from_confusion([[50, 10], [5, 35]], [ClassSpec("rest", (0, 0, 0)), "tumour"])
    assert scores["recall tumour"] == 35 / 40
    assert scores["precision tumour"] == 35 / 45
    assert scores["dice tumour"] == pytest.approx(70 / 85)
    assert scores["iou tumour"] == 35 / 50
    assert scores["accuracy"] == 0.85
    assert scores["recall mean"] == pytest.approx((50 / 60 + 35 / 40) / 2)


def test_undefined_is_nan_and_left_out_of_means():
    # Class 1 is never true, class 2 neither true nor predicted.
    scores = scores_from_confusion([[8, 2, 0], [0, 0, 0], [0, 0, 0]])
    assert math.isnan(scores["recall 1"]) and scores["precision 1"] == 0.0 and scores["dice 1"] == 0.0
    assert all(math.isnan(scores[f"{name} 2"]) for name in ("recall", "precision", "dice", "iou"))
    assert scores["recall mean"] == 0.8 and scores["dice mean"] == pytest.approx(0.5 * 16 / 18)
    assert all(math.isnan(value) for value in scores_from_confusion(np.zeros((2, 2))).values())


def test_only_annotated_classes_and_pixels_without_a_class():
    # Class 0 is never true; two pixels of class 2 got no class.
    matrix, missed = [[0, 0, 0], [2, 6, 0], [0, 1, 5]], [0, 0, 2]
    scores = scores_from_confusion(matrix, missed=missed, annotated_only=True)
    assert all(math.isnan(scores[f"{name} 0"]) for name in ("recall", "precision", "dice", "iou"))
    assert scores["recall 1"] == 6 / 8 and scores["precision 1"] == 6 / 7 and scores["iou 1"] == 6 / 9
    assert scores["recall 2"] == 5 / 8 and scores["precision 2"] == 1 and scores["iou 2"] == 5 / 8
    assert scores["dice 2"] == pytest.approx(10 / 13) and scores["accuracy"] == 11 / 16
    assert scores["iou mean"] == pytest.approx((6 / 9 + 5 / 8) / 2)
    assert scores_from_confusion(matrix, missed=missed)["iou 0"] == 0


def test_what_is_predicted_where_nobody_annotated_does_not_matter():
    assert confusion([IGNORE, 1], [77, 1], 2).tolist() == [[0, 0], [0, 1]]
    assert confusion([0, 1], [0, 1], 2, ignore=0).tolist() == [[0, 0], [0, 1]]


@pytest.mark.parametrize(
    ("truth", "prediction", "says"),
    [([0, 2], [0, 1], "truth must hold 0..1"), ([0, 1], [0, 255], "prediction must hold 0..1"), ([0], [0, 1], "shape")],
)
def test_labels_that_are_no_class(truth, prediction, says):
    with pytest.raises(ValueError, match=says):
        confusion(truth, prediction, 2)


def test_matrix_and_names_must_fit():
    with pytest.raises(ValueError, match="square"):
        scores_from_confusion(np.zeros((2, 3)))
    with pytest.raises(ValueError, match=r"2 classes.*Received: 1"):
        scores_from_confusion(np.zeros((2, 2)), ["a"])
