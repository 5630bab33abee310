from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from tfseg.models.boxes import NONE, anchors, argmax, clip, decode, encode, iou, nms, take_rows


def boxes(*rows) -> np.ndarray:
    return np.array(rows, np.float32)


def test_iou_by_hand():
    a = boxes([0, 0, 4, 4], [0, 0, 0, 0])
    b = boxes([0, 0, 4, 4], [2, 2, 6, 6], [4, 0, 8, 4], [1, 1, 3, 2], [0, 0, 0, 0])
    # 4 shared of 16 + 16 − 4; edges that touch share nothing; 2 px² inside 16
    assert_allclose(iou(a, b), [[1, 4 / 28, 0, 2 / 16, 0], [0, 0, 0, 0, 0]], rtol=1e-6)
    assert iou(a[None], np.stack([b, b, b])).shape == (3, 2, 5)


def test_offsets_by_hand():
    # centre (5, 10), 10 × 20; the box has its centre 1 lower and 4 to the left, twice the height and half the width
    reference, box = boxes([0, 0, 10, 20]), boxes([-4, 1, 16, 11])
    expected = [1 / 10 / 0.1, -4 / 20 / 0.1, np.log(2) / 0.2, -np.log(2) / 0.2]
    assert_allclose(encode(box, reference), [expected], rtol=1e-5)
    assert_allclose(decode(boxes(expected), reference), box, atol=1e-5)


side = st.floats(0.5, 100, width=32)
corner = st.floats(-50, 300, width=32)


@settings(max_examples=50)
@given(corner, corner, side, side, corner, corner, side, side)
def test_decode_undoes_encode(y, x, h, w, ry, rx, rh, rw):
    box, reference = boxes([y, x, y + h, x + w]), boxes([ry, rx, ry + 1 + rh, rx + 1 + rw])
    if max(h / (rh + 1), w / (rw + 1)) < 60:
        assert_allclose(decode(encode(box, reference), reference), box, atol=2e-2)


def test_no_box_grows_without_end():
    found = np.asarray(decode(boxes([0, 0, 1e6, 1e6]), boxes([0, 0, 16, 16])))
    assert_allclose(found, [[-492, -492, 508, 508]], rtol=1e-4)  # 1000 px: 62.5 times 16
    assert np.isfinite(encode(boxes([0, 0, 0, 0]), boxes([3, 3, 3, 3]))).all()


def test_clip():
    assert_array_equal(clip(boxes([-1, 2, 50, 90]), (40, 60)), [[0, 2, 40, 60]])


def test_rows_are_taken_of_each_image():
    values = np.arange(2 * 3 * 2).reshape(2, 3, 2)
    assert_array_equal(take_rows(values, np.array([[2, 0], [1, 1]])), [[[4, 5], [0, 1]], [[8, 9], [8, 9]]])
    assert_array_equal(take_rows(values[..., 0], np.array([[[2], [0]], [[1], [1]]])), [[[4], [0]], [[8], [8]]])


def test_first_of_the_highest():
    found = argmax(np.array([[1.0, 3, 3], [-1, -2, -3], [0, -0.0, 0]]))
    assert_array_equal(found, [1, 0, 0])
    assert found.dtype == "int32"


def test_suppression_by_hand():
    first = boxes([0, 0, 10, 10], [0, 2, 10, 12], [20, 20, 30, 30], [0, 5, 10, 15])
    second = boxes([0, 0, 9, 9], [20, 0, 29, 9], [40, 0, 49, 9], [60, 0, 69, 9])
    # IoU of the 1st and 2nd 80 / 120, of the 1st and 4th 50 / 150, of the 2nd and 4th 70 / 130
    scores = np.array([[0.9, 0.8, 0.3, 0.7], [0.1, 0.4, NONE, 0.4]], np.float32)
    indices, kept = nms(np.stack([first, second]), scores, 5, 0.5)
    assert_array_equal(kept, [[True, True, True, False, False]] * 2)
    assert_array_equal(np.asarray(indices)[:, :3], [[0, 3, 2], [1, 3, 0]])
    indices, kept = nms(np.stack([first, second]), scores, 2, 0.3)
    assert_array_equal(indices, [[0, 2], [1, 3]])
    assert_array_equal(kept, [[True, True]] * 2)


def plain_nms(found: np.ndarray, scores: np.ndarray, count: int, threshold: float) -> list[int]:
    """As the papers say it."""
    left, kept = list(np.argsort(-scores, kind="stable")), []
    overlap = np.asarray(iou(found, found))
    while left and len(kept) < count:
        kept.append(int(left[0]))
        left = [one for one in left[1:] if not overlap[kept[-1], one] > threshold]
    return kept


def test_suppression_is_the_plain_greedy_one():
    random = np.random.default_rng(0)
    corners = random.uniform(0, 40, (3, 30, 2)).astype(np.float32)
    found = np.concatenate([corners, corners + random.uniform(5, 25, (3, 30, 2)).astype(np.float32)], axis=-1)
    scores = random.integers(0, 12, (3, 30)).astype(np.float32)
    indices, kept = (np.asarray(one) for one in nms(found, scores, 20, 0.4))
    for n in range(3):
        assert indices[n][kept[n]].tolist() == plain_nms(found[n], scores[n], 20, 0.4)


def test_anchors_by_hand():
    found = anchors((8, 16), (8, 16, 32, 64, 128), (0.25, 1))
    # P2 has 2 × 4 cells of 4 px, P3 1 × 2, P4 1 × 1, P5 and P6 one each
    assert found.shape == (2 * (8 + 2 + 1 + 1 + 1), 4)
    # side 8, height over width 1 : 4, around (2, 2): 4 × 16; then the square one
    assert_array_equal(found[0], [0, -6, 4, 10])
    assert_array_equal(found[1], [-2, -2, 6, 6])
    assert_array_equal(found[3], [-2, 2, 6, 10])  # one cell to the right
    assert_array_equal(found[2 * 4 + 1], [2, -2, 10, 6])  # one down
    assert_array_equal(found[2 * 8 + 1], [-4, -4, 12, 12])  # P3: 16 px around (4, 4)
    assert_array_equal(found[-1], [-32, -32, 96, 96])  # P6: 128 px around (32, 32)
    assert_allclose(
        (found[:, 2] - found[:, 0]) * (found[:, 3] - found[:, 1]),
        [64] * 16 + [256] * 4 + [1024] * 2 + [4096] * 2 + [16384] * 2,
    )


@pytest.mark.parametrize("side_px", [32, 96])
def test_anchors_of_sides_that_do_not_halve_six_times(side_px):
    cells = {32: 64 + 16 + 4 + 1 + 1, 96: 576 + 144 + 36 + 9 + 4}
    assert len(anchors((side_px, side_px), (8, 16, 32, 64, 128), (1,))) == cells[side_px]
