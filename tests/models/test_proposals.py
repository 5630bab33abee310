from __future__ import annotations

import numpy as np
from numpy.testing import assert_allclose, assert_array_equal

from tfseg.models.boxes import anchors, encode
from tfseg.models.proposals import ClassMasks, Detections, PerImage, Proposals

ANCHOR = {"size_px": (64, 64), "sides_px": (8, 16, 32, 64, 128), "ratios": (1,)}
ANCHORS = anchors(**ANCHOR)


def rpn(objects: dict[int, tuple[float, list[float]]]) -> list[np.ndarray]:
    """Logits and offsets of one image: anchor → (object's logit, box); all others are background."""
    logits = np.zeros((1, len(ANCHORS), 2), np.float32)
    logits[..., 0] = 20
    deltas = np.zeros((1, len(ANCHORS), 4), np.float32)
    for anchor, (logit, box) in objects.items():
        logits[0, anchor] = 0, logit
        deltas[0, anchor] = np.asarray(encode(np.array(box, np.float32), ANCHORS[anchor]))
    return [logits, deltas]


def test_proposals_by_hand():
    objects = {
        100: (50.0, [10, 10, 20, 20]),
        30: (90.0, [10, 11, 20, 21]),  # surer, and 90 / 110 of IoU with the first
        7: (40.0, [-5, 30, 8, 80]),  # cut to the image
        200: (95.0, [30, 30, 30.5, 60]),  # lower than a pixel
        201: (30.0, [40, 40, 50, 50]),
    }
    found = np.asarray(Proposals(5, 4, 0.7, **ANCHOR)(rpn(objects)))
    assert_allclose(found[0], [[10, 11, 20, 21], [0, 30, 8, 64], [40, 40, 50, 50], [0, 0, 0, 0]], atol=1e-4)
    assert_allclose(np.asarray(Proposals(5, 2, 0.85, **ANCHOR)(rpn(objects)))[0, 1], [10, 10, 20, 20], atol=1e-4)


def test_only_the_first_before_suppression_take_part():
    objects = {100: (50.0, [10, 10, 20, 20]), 30: (90.0, [10, 11, 20, 21]), 7: (40.0, [30, 30, 40, 40])}
    assert_allclose(np.asarray(Proposals(2, 2, 0.7, **ANCHOR)(rpn(objects)))[0, 1], 0)


def test_proposals_where_probabilities_would_all_be_1():
    objects = {10: (300.0, [0, 0, 8, 8]), 20: (400.0, [20, 20, 30, 30]), 5: (500.0, [40, 40, 50, 50])}
    found = np.asarray(Proposals(10, 3, 0.7, **ANCHOR)(rpn(objects)))[0]
    assert_allclose(found[:, 0], [40, 20, 0], atol=1e-4)


def test_detections_by_hand():
    proposals = np.array(
        [
            [10, 10, 20, 20],
            [10, 11, 20, 21],
            [10, 10, 20, 20],
            [40, 40, 60, 60],
            [0, 0, 8, 8],
            [0, 0, 0, 0],
            [30, 0, 40, 9],
        ],
        np.float32,
    )[None]
    probabilities = np.array(
        [
            [0.1, 0.8, 0.1],
            [0.3, 0.6, 0.1],
            [0.1, 0.3, 0.6],
            [0.6, 0.1, 0.3],
            [0.97, 0.02, 0.01],
            [0.0, 1.0, 0.0],
            [0.5, 0.25, 0.25],
        ],
        np.float32,
    )[None]
    deltas = np.zeros((1, 7, 3, 4), np.float32)
    deltas[0, 0, 1] = [1, 0, 0, 0]  # 0.1 of the height down, of class 1 alone
    deltas[0, 2, 1] = [9, 9, 9, 9]  # not of its class
    deltas[0, 3, 2] = [0, 5, 0, 0]  # half a width to the right, beyond the image
    detect = Detections((64, 64), 5, 0.3, 0.05)
    found = detect([proposals, np.log(probabilities + 1e-30), deltas.reshape(1, 7, 12)])
    # the 2nd goes for the 1st, the 3rd of another class stays; the 5th is too unsure, the 6th is empty
    expected = [[11, 10, 21, 20], [10, 10, 20, 20], [40, 50, 60, 64], [30, 0, 40, 9], [0, 0, 0, 0]]
    assert_allclose(found["boxes"][0], expected, atol=1e-4)
    assert_allclose(found["classes"][0], [*probabilities[0, [0, 2, 3, 6]], [1, 0, 0]], atol=1e-6)


def test_mask_of_the_class():
    logits = np.zeros((1, 3, 2, 2, 3), np.float32)
    logits[0, 0, ..., 1], logits[0, 0, ..., 2], logits[0, 1, ..., 2] = 1, 2, 3
    classes = np.array([[[0.5, 0.3, 0.2], [0.1, 0.2, 0.7], [1, 0, 0]]], np.float32)
    found = ClassMasks()([logits, classes])
    assert_allclose(found[0, :, 0, 0], [1 / (1 + np.exp(-1)), 1 / (1 + np.exp(-3)), 0], rtol=1e-6)


def test_regrouping():
    assert_array_equal(PerImage(2)(np.arange(8.0).reshape(4, 2)), [[[0, 1], [2, 3]], [[4, 5], [6, 7]]])
