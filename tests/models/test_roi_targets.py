from __future__ import annotations

import keras
import numpy as np
from numpy.testing import assert_allclose, assert_array_equal

from tfseg.models.boxes import anchors, encode
from tfseg.models.roi_targets import AnchorTargets, RoiTargets, drawn, first, mask_targets

ANCHOR = {"size_px": (64, 64), "sides_px": (8, 16, 32, 64, 128), "ratios": (1,)}
ANCHORS = anchors(**ANCHOR)
NOTHING = [0, 0, 0, 0]
BOXES = np.array([[[8, 8, 24, 24], [40, 40, 47, 47], NOTHING]], np.float32)
CLASSES = np.array([[1, 2, 0]], "int32")


def test_which_anchors_by_hand():
    """Of 16 px one fits the first instance by 11 / 21 along each side; of 8 px one has 6.5 / 7 of the second."""
    found = AnchorTargets(10_000, 0, **ANCHOR)([BOXES, CLASSES])
    classes = np.asarray(found["classes"])[0]
    side = ANCHORS[:, 2] - ANCHORS[:, 0]
    overlap = np.stack([_iou(ANCHORS, box) for box in BOXES[0, :2]])
    closest = overlap == overlap.max(axis=1, keepdims=True)
    expected = np.where((overlap >= 0.7).any(0) | closest.any(0), 1, np.where((overlap < 0.3).all(0), 0, -1))
    assert_array_equal(classes, expected)
    assert overlap[0].max() < 0.7 and {16.0, 8.0} == set(side[classes == 1]), "the closest counts though it is not 0.7"
    which = np.flatnonzero(classes == 1)
    truth = BOXES[0][overlap[:, which].argmax(0)]
    assert_allclose(np.asarray(found["deltas"])[0, which], encode(truth, ANCHORS[which]), rtol=1e-4, atol=1e-4)


def _iou(boxes: np.ndarray, box: np.ndarray) -> np.ndarray:
    sides = np.clip(np.minimum(boxes[:, 2:], box[2:]) - np.maximum(boxes[:, :2], box[:2]), 0, None).prod(axis=1)
    return sides / (np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) + np.prod(box[2:] - box[:2]) - sides)


def test_no_more_anchors_than_asked_for():
    """Sixteen instances with an anchor on each; at most half are positive, negatives fill the rest."""
    every = np.array([[[8 * y, 8 * x, 8 * y + 8, 8 * x + 8] for y in range(4) for x in range(4)]], np.float32) + 2
    for count, boxes, positive in ((8, every, 4), (20, every[:, :2], 2)):
        found = AnchorTargets(count, 0, **ANCHOR)([boxes, np.ones(boxes.shape[:2], "int32")])
        classes = np.asarray(found["classes"])[0]
        assert np.count_nonzero(classes == 1) == positive
        assert np.count_nonzero(classes == 0) == count - positive


def test_an_image_without_instances_is_all_background():
    found = AnchorTargets(16, 0, **ANCHOR)([np.zeros((1, 3, 4), "float32"), np.zeros((1, 3), "int32")])
    assert np.count_nonzero(np.asarray(found["classes"]) == 0) == 16
    assert np.count_nonzero(np.asarray(found["classes"]) == 1) == 0
    assert np.isfinite(found["deltas"]).all()


def labels() -> np.ndarray:
    found = np.zeros((1, 64, 64), "int32")
    found[0, 8:24, 8:24], found[0, 40:47, 40:47] = 1, 2
    return found


def test_which_boxes_by_hand():
    proposals = np.array([[[8, 8, 24, 20], [0, 0, 24, 24], [8, 8, 24, 15], [50, 50, 60, 60], NOTHING]], np.float32)
    # IoU with the first instance 12 / 16, 256 / 576, 7 / 16
    found = {k: np.asarray(v) for k, v in RoiTargets(12, 0.5, 4, 0)([proposals, BOXES, CLASSES, labels()]).items()}
    positive = {tuple(box): kind for box, kind in zip(found["boxes"][0, :6], found["classes"][0, :6], strict=True)}
    assert positive == {(8, 8, 24, 20): 1, (8, 8, 24, 24): 1, (40, 40, 47, 47): 2, (0, 0, 0, 0): -1}
    negative = {tuple(box): kind for box, kind in zip(found["boxes"][0, 6:], found["classes"][0, 6:], strict=True)}
    assert negative == {(0, 0, 24, 24): 0, (8, 8, 24, 15): 0, (50, 50, 60, 60): 0, (0, 0, 0, 0): -1}
    place = found["boxes"][0].tolist().index([8, 8, 24, 20])
    # centre 2 px further to the right, of a width of 12: 2 / 12 / 0.1; ln(16 / 12) / 0.2
    assert_allclose(found["deltas"][0, place], [0, 2 / 1.2, 0, np.log(16 / 12) / 0.2], rtol=1e-5, atol=1e-6)
    assert found["masks"].shape == (1, 6, 4, 4)
    assert_array_equal(found["masks"][0, place], 1)


def test_at_most_a_share_is_positive():
    proposals = np.repeat(BOXES[:, :1], 20, axis=1)
    found = np.asarray(RoiTargets(9, 0.33, 2, 0)([proposals, BOXES, CLASSES, labels()])["classes"])[0]
    assert np.count_nonzero(found > 0) == 3 and np.count_nonzero(found == 0) == 0


def test_masks_by_hand():
    picture = np.zeros((1, 8, 8), "int32")
    picture[0, 2:6, 3:5] = 7
    picture[0, 4:6, 4] = 8
    boxes = np.array([[[2, 3, 6, 5], [2, 3, 6, 5], [1, 3, 5, 5], [-4, -4, 0, 0]]], np.float32)
    found = np.asarray(mask_targets(boxes, np.array([[7, 8, 7, 7]]), picture, 2))[0]
    # bins' centres at y 3 and 5, between two rows of equal pixels each; x on the pixels' centres
    assert_array_equal(found[0], [[1, 1], [1, 0]])
    assert_array_equal(found[1], [[0, 0], [0, 1]])
    # centres at y 2, half on the first row of the nucleus, and 4, half on row 3 and half on row 4
    assert_array_equal(found[2], [[1, 1], [1, 1]])
    assert_array_equal(found[3], 0)


def test_first_and_drawn():
    candidates = np.array([[True, False, True, True], [False, False, False, True]])
    order = np.array([[0.1, 0.9, 0.5, 0.3], [0.9, 0.8, 0.7, 0.0]], np.float32)
    assert_array_equal(first(candidates, order, 2), [[False, False, True, True], [False, False, False, True]])
    counts = np.array([1, 0], "int32")
    assert_array_equal(first(candidates, order, 4, counts), [[False, False, True, False], [False] * 4])
    which, there = drawn(candidates, order, 5)
    assert_array_equal(there, [[True, True, True, False, False], [True, False, False, False, False]])
    assert_array_equal(np.asarray(which)[0, :3], [2, 3, 0])
    assert np.asarray(which)[1, 0] == 3


def test_draws_are_repeatable():
    """New ones at every step of training, the same again from the same state; always the same outside of it."""
    inputs = [BOXES, CLASSES]
    layer = AnchorTargets(16, 5, **ANCHOR)
    fixed = [np.asarray(layer(inputs)["classes"]) for _ in range(2)]
    assert_array_equal(fixed[0], fixed[1])
    state = np.asarray(layer.generator.state)
    once, twice = (np.asarray(layer(inputs, training=True)["classes"]) for _ in range(2))
    assert (once != twice).any()
    layer.generator.state.assign(state)
    assert_array_equal(layer(inputs, training=True)["classes"], once)
    assert any(variable is layer.generator.state for variable in layer.variables)


def test_config():
    anchor = AnchorTargets.from_config(AnchorTargets(16, 5, **ANCHOR).get_config())
    assert (anchor.count, anchor.seed, anchor.sides_px) == (16, 5, (8, 16, 32, 64, 128))
    rois = RoiTargets.from_config(RoiTargets(9, 0.33, 2, 4).get_config())
    assert (rois.count, rois.share, rois.size, rois.seed, rois.most_positive) == (9, 0.33, 2, 4, 3)
    assert keras.saving.get_registered_object("tfseg>RoiTargets") is RoiTargets
