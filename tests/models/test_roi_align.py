from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf
from numpy.testing import assert_allclose, assert_array_equal

from tfseg.models.roi_align import RoIAlign, levels, neighbours, spread


def maps(side: int = 64) -> list[np.ndarray]:
    """P2 … P5 of two images: in channel 0 the y, in channel 1 the x of each cell's centre, in channel 2 the level."""
    found = []
    for level, stride in enumerate((4, 8, 16, 32), 2):
        y, x = (np.mgrid[: side // stride, : side // stride] + 0.5) * stride
        found.append(np.stack([np.stack([y, x, np.full_like(y, level)], -1)] * 2).astype(np.float32))
    return found


def test_level_of_a_box():
    sides = [5, 111.9, 112, 223.9, 224, 447.9, 448, 5000, 0]
    found = levels(np.array([[0, 0, side, side] for side in sides], np.float32))
    assert_array_equal(np.asarray(found) + 2, [2, 2, 3, 3, 4, 4, 5, 5, 2])
    assert int(levels(np.array([0.0, 0, 56, 224], np.float32))) + 2 == 3  # √(h · w) = 112


def test_points_are_the_centres_of_bins():
    box = np.array([[10.0, 20, 18, 40]], np.float32)
    assert_allclose(spread(box, 0, 4), [[11, 13, 15, 17]])
    assert_allclose(spread(box, 1, 2), [[25, 35]])


def test_neighbours_by_hand():
    (low, low_weight), (high, high_weight) = neighbours(np.array([0.1, 0.5, 1.25, 3.5, 9.0], np.float32), 4)
    assert_array_equal(low, [0, 0, 0, 3, 3])
    assert_array_equal(high, [1, 1, 1, 3, 3])
    assert_allclose(low_weight, [1, 1, 0.25, 1, 1])
    assert_allclose(high_weight, [0, 0, 0.75, 0, 0])


def test_a_linear_map_gives_the_coordinates_of_the_bins():
    """Bilinear interpolation is exact there; nothing is rounded."""
    boxes = np.array([[[10.3, 20.1, 18.3, 40.1]], [[30, 8, 44, 15]]], np.float32)
    for samples in (1, 2):
        found = np.asarray(RoIAlign(2, (64, 64), samples)([boxes, *maps()]))
        assert found.shape == (2, 2, 2, 3)
        assert_allclose(found[0, :, 0, 0], [12.3, 16.3], rtol=1e-5)
        assert_allclose(found[0, 0, :, 1], [25.1, 35.1], rtol=1e-5)
        assert_allclose(found[1, :, 1, 0], [33.5, 40.5], rtol=1e-5)
        assert_allclose(found[1, 1, :, 1], [9.75, 13.25], rtol=1e-5)


def test_mean_of_samples_by_hand():
    """A map that is 16 in one cell: of the bin's points one is at its centre, two at its edges, one at its corner."""
    level = np.zeros((1, 16, 16, 1), np.float32)
    level[0, 2, 3] = 16  # centre at y 10, x 14
    others = [np.zeros((1, side, side, 1), np.float32) for side in (8, 4, 2)]
    box = np.array([[[9, 13, 13, 17]]], np.float32)  # points at y 10 and 12, x 14 and 16
    found = RoIAlign(1, (64, 64), 2)([box, level, *others])
    assert_allclose(found, [[[[(16 + 8 + 8 + 4) / 4]]]])
    # one sample: the centre (11, 15), a quarter of a cell off each way
    assert_allclose(RoIAlign(1, (64, 64), 1)([box, level, *others]), [[[[16 * 0.75**2]]]])


def test_each_box_from_its_level_and_its_image():
    pyramid = maps(256)
    pyramid = [np.concatenate([one[:1], one[1:] + 1000], axis=0) for one in pyramid]
    boxes = np.array([[[0, 0, 20, 20], [0, 0, 130, 130]], [[0, 0, 250, 250], [40, 40, 50, 60]]], np.float32)
    found = np.asarray(RoIAlign(3, (256, 256))([boxes, *pyramid]))
    assert_allclose(found[:, 1, 1, 2], [2, 3, 1004, 1002], rtol=1e-6)
    assert_allclose(found[:, 1, 1, 0], [10, 65, 1125, 1045], rtol=1e-5)


def test_points_beyond_the_outermost_centres_have_their_value():
    found = np.asarray(RoIAlign(2, (64, 64))([np.array([[[0, 60, 2, 64]]] * 2, np.float32), *maps()]))
    assert_allclose(found[0, :, :, 0], 2)
    assert_allclose(found[0, 0, :, 1], [61, 62])


def test_gradient_goes_to_the_cells_and_not_to_the_box():
    pyramid = [tf.constant(one) for one in maps()]
    boxes = tf.constant([[[9.0, 13, 13, 17]]] * 2)
    with tf.GradientTape() as tape:
        tape.watch([boxes, *pyramid])
        total = tf.reduce_sum(RoIAlign(1, (64, 64))([boxes, *pyramid])[0, ..., 0])
    to_box, to_p2, *_ = tape.gradient(total, [boxes, *pyramid])
    assert to_box is None
    expected = np.zeros((16, 16))
    expected[2:4, 3:5] = [[0.75**2, 0.75 * 0.25], [0.75 * 0.25, 0.25**2]]
    assert_allclose(to_p2[0, ..., 0], expected, atol=1e-6)
    assert_array_equal(to_p2[1], 0)


def test_config():
    layer = RoIAlign.from_config(RoIAlign(7, (64, 96), 2, name="align").get_config())
    assert (layer.size, layer.size_px, layer.samples, layer.name) == (7, (64, 96), 2, "align")
    symbolic = layer([keras.Input((5, 4)), *(keras.Input((64 // s, 96 // s, 8)) for s in (4, 8, 16, 32))])
    assert symbolic.shape == (None, 7, 7, 8)
