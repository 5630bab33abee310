from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from tfseg.data.nuclei_boxes import InstanceTargets, as_inputs, instance_boxes


def test_boxes_by_hand():
    labels = np.zeros((8, 10), np.uint16)
    labels[3:6, 2:4] = 900
    labels[0, 9] = 7
    labels[7, 0], labels[5, 9] = 12, 12  # in two pieces
    boxes, classes, numbered = instance_boxes(labels, 5)
    assert (boxes.dtype, classes.dtype, numbered.dtype) == (np.float32, np.int32, np.int32)
    assert_array_equal(boxes, [[0, 9, 1, 10], [5, 0, 8, 10], [3, 2, 6, 4], [0] * 4, [0] * 4])
    assert_array_equal(classes, [1, 1, 1, 0, 0])
    assert_array_equal(numbered, np.select([labels == 7, labels == 12, labels == 900], [1, 2, 3]))


def test_the_largest_are_kept():
    labels = np.array([[1, 1, 2, 3, 3, 3, 4, 4, 0]])
    boxes, classes, numbered = instance_boxes(labels, 2)
    assert_array_equal(boxes, [[0, 0, 1, 2], [0, 3, 1, 6]])
    assert_array_equal(classes, [1, 1])
    assert_array_equal(numbered, [[1, 1, 0, 2, 2, 2, 0, 0, 0]])
    assert_array_equal(instance_boxes(labels, 9, min_px=3)[2], [[0, 0, 0, 1, 1, 1, 0, 0, 0]])


def test_targets_of_a_tile():
    labels = np.zeros((6, 6), np.int32)
    labels[0:2, 0:2], labels[2, 2] = 4, 4  # one nucleus, by its corner
    labels[4:6, 0:2] = 4  # its mirror image
    labels[0, 5] = 9
    targets = InstanceTargets(4, min_px=2)
    found = targets(labels, np.zeros((6, 6), np.float32))
    assert_array_equal(found["boxes"], [[0, 0, 3, 3], [4, 0, 6, 2], [0] * 4, [0] * 4])
    assert_array_equal(found["classes"], [1, 1, 0, 0])
    assert_array_equal(np.unique(found["labels"]), [0, 1, 2])
    assert {name: (array.shape, array.dtype.type) for name, array in found.items()} == targets.shapes(6)
    assert as_inputs({"image": 0}, found) == ({"image": 0, **found}, {})


def test_a_tile_without_nuclei():
    boxes, classes, numbered = instance_boxes(np.zeros((4, 4), int), 3)
    assert not boxes.any() and not classes.any() and not numbered.any()
    assert boxes.shape == (3, 4)


@pytest.mark.parametrize(
    ("labels", "most", "message"),
    [
        (np.zeros((2, 2, 1), int), 3, r"shape \(H, W\).*int64 of shape \(2, 2, 1\)"),
        (np.zeros((2, 2)), 3, "Received: float64"),
        (np.full((2, 2), -1), 3, "at least 0"),
        (np.zeros((2, 2), int), 0, "max_instances must be at least 1. Received: 0"),
    ],
)
def test_what_is_no_labels(labels, most, message):
    with pytest.raises(ValueError, match=message):
        instance_boxes(labels, most)
