from __future__ import annotations

import numpy as np
import pytest

from tfseg.losses import mask_rcnn_losses
from tfseg.losses.mask_rcnn import box_loss, class_loss, mask_loss, of_class

SIGMOID_1 = 1 / (1 + np.exp(-1))


def test_class_loss_by_hand():
    logits = np.log(np.array([[[0.5, 0.5], [0.9, 0.1], [0.2, 0.8]], [[0.25, 0.75], [0.5, 0.5], [0.5, 0.5]]], "float32"))
    classes = np.array([[0, 1, -1], [1, -1, -1]], "float32")
    expected = -np.log([0.5, 0.1, 0.75]).mean()
    assert float(class_loss(classes, logits)) == pytest.approx(expected, rel=1e-5)
    assert float(class_loss(classes * 0 - 1, logits)) == 0


def test_box_loss_by_hand():
    truth = np.zeros((1, 3, 4), "float32")
    deltas = np.array([[[0.5, -3, 0, 1], [9, 9, 9, 9], [2, 0, 0, 0]]], "float32")
    # smooth L1: 0.125, 2.5, 0, 0.5 and 1.5, 0, 0, 0; the second holds nothing
    loss = float(box_loss(np.array([[1, 0, 2]], "float32"), truth, deltas))
    assert loss == pytest.approx((3.125 / 4 + 1.5 / 4) / 2)
    assert float(box_loss(np.array([[0, 0, -1]], "float32"), truth, deltas)) == 0


def test_mask_loss_by_hand():
    truth = np.zeros((1, 3, 2, 2), "float32")
    truth[0, 0, 0, 0] = 1
    logits = np.zeros((1, 3, 2, 2, 3), "float32")
    logits[0, 0, ..., 1] = 1
    logits[0, 0, ..., 2] = 50  # another class' mask
    logits[0, 1] = 70  # holds nothing
    logits[0, 2, ..., 2] = -1
    loss = float(mask_loss(np.array([[1, 0, 2]], "float32"), truth, logits))
    first = (-np.log(SIGMOID_1) - 3 * np.log(1 - SIGMOID_1)) / 4
    assert loss == pytest.approx((first - np.log(SIGMOID_1)) / 2, rel=1e-5)
    assert float(mask_loss(np.array([[0, -1, 0]], "float32"), truth, logits)) == 0


def test_mask_loss_of_what_is_wrong_by_far_is_finite():
    logits = np.full((1, 1, 2, 2, 2), 1000, "float32")
    assert float(mask_loss(np.ones((1, 1), "float32"), np.zeros((1, 1, 2, 2), "float32"), logits)) == 1000


def test_offsets_of_the_class():
    deltas = np.arange(2 * 12, dtype="float32").reshape(1, 2, 12)
    found = of_class(deltas, np.array([[2, -1]], "float32"), 3)
    np.testing.assert_array_equal(found, [[[8, 9, 10, 11], [12, 13, 14, 15]]])


def test_terms_take_their_own_outputs():
    """Of a batch where one value decides each term."""
    outputs = {
        "anchor_logits": np.log(np.array([[[0.2, 0.8]]], "float32")),
        "anchor_classes": np.ones((1, 1), "float32"),
        "anchor_truth": np.zeros((1, 1, 4), "float32"),
        "anchor_deltas": np.full((1, 1, 4), 2, "float32"),
        "roi_logits": np.log(np.array([[[0.5, 0.5], [0.9, 0.1]]], "float32")),
        "roi_classes": np.array([[1, 0]], "float32"),
        "roi_truth": np.zeros((1, 2, 4), "float32"),
        "roi_deltas": np.array([[[7, 7, 7, 7, 3, 3, 3, 3], [5] * 8]], "float32"),
        "roi_masks": np.ones((1, 1, 2, 2), "float32"),
        "mask_logits": np.stack([np.full((1, 1, 2, 2), 9), np.ones((1, 1, 2, 2))], -1).astype("float32"),
    }
    found = {name: float(term({}, {}, outputs)) for name, term in mask_rcnn_losses().items()}
    assert found == pytest.approx(
        {
            "anchor_class": -np.log(0.8),
            "anchor_box": 1.5,
            "roi_class": -np.log([0.5, 0.9]).mean(),
            "roi_box": 2.5,
            "mask": -np.log(SIGMOID_1),
        },
        rel=1e-5,
    )
