"""Probability maps to instances: hand-made nuclei that touch, have holes, are specks, and the choice of a threshold."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from tfseg.infer.instances import (
    InstanceOptions,
    choose_threshold,
    fill_small_holes,
    label_instances,
    number,
)
from tfseg.metrics import instance_scores
from tfseg.types import ModelError


def discs(*circles: tuple[int, int, int], shape: tuple[int, int] = (80, 100)) -> np.ndarray:
    """Labels 1, 2 … of circles (y, x, radius); a pixel of two belongs to the nearer centre."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    away = np.stack([np.hypot(y - cy, x - cx) - r for cy, cx, r in circles])
    return np.where(away.min(axis=0) <= 0, away.argmin(axis=0) + 1, 0)


TOUCHING = discs((30, 25, 12), (30, 45, 12), (60, 80, 10))


def same_partition(one: np.ndarray, other: np.ndarray) -> bool:
    return np.array_equal(number(one), number(other))


def test_without_split_touching_nuclei_are_one():
    labels = label_instances(TOUCHING > 0, InstanceOptions(split="none"))
    assert labels.dtype == np.int32
    assert same_partition(labels, np.where(TOUCHING == 2, 1, TOUCHING))


def test_distance_splits_at_the_waist():
    labels = label_instances(TOUCHING > 0, InstanceOptions(split="distance"))
    assert labels.max() == 3
    assert instance_scores(TOUCHING, labels)["aji"] > 0.97
    np.testing.assert_array_equal(labels > 0, TOUCHING > 0)


def test_a_round_nucleus_is_not_split_and_a_ragged_one_neither():
    rng = np.random.default_rng(0)
    ragged = discs((40, 50, 18)) > 0
    rim = ragged & ~ndimage.binary_erosion(ragged)
    ragged &= ~(rim & (rng.random(ragged.shape) < 0.4))
    assert label_instances(ragged).max() == 1


@pytest.mark.parametrize(("depth", "count"), [(0.5, 2), (4.0, 1)])
def test_depth_says_how_narrow_a_waist_must_be(depth, count):
    pair = discs((30, 25, 12), (30, 42, 12)) > 0
    assert label_instances(pair, InstanceOptions(min_depth_px=depth)).max() == count


def three_classes(labels: np.ndarray, border_px: int = 2) -> np.ndarray:
    """What a perfect three-class network would say: a rim of each nucleus is border."""
    inside = np.zeros(labels.shape, bool)
    for label in range(1, labels.max() + 1):
        inside |= ndimage.binary_erosion(labels == label, iterations=border_px)
    classes = np.where(labels == 0, 0, np.where(inside, 1, 2))
    return np.eye(3, dtype=np.float32)[classes] * 0.94 + 0.02


def test_border_class_splits_what_distance_cannot():
    oblong = np.zeros((60, 100), int)
    oblong[20:40, 10:50], oblong[20:40, 50:90] = 1, 2  # two halves of one bar: no waist
    assert label_instances(oblong > 0).max() != 2
    labels = label_instances(three_classes(oblong), InstanceOptions(split="border"))
    assert instance_scores(oblong, labels)["aji"] > 0.95
    np.testing.assert_array_equal(labels > 0, oblong > 0)


def test_border_option_keeps_pieces_without_inside_and_ignores_specks_of_it():
    labels = discs((30, 25, 12), (60, 80, 6))
    values = three_classes(labels)
    values[labels == 2] = (0.02, 0.02, 0.96)  # a small nucleus of border alone
    values[30, 36] = (0.02, 0.96, 0.02)  # one pixel of inside in the rim
    assert same_partition(label_instances(values, InstanceOptions(split="border")), labels)


def test_three_classes_without_border_split_use_all_but_background():
    labels = label_instances(three_classes(TOUCHING), InstanceOptions(split="distance"))
    np.testing.assert_array_equal(labels > 0, TOUCHING > 0)


def test_small_holes_are_filled_lumina_and_notches_stay():
    mask = discs((40, 50, 30)) > 0
    hole, lumen = discs((30, 40, 3)) > 0, discs((50, 60, 8)) > 0
    notched = mask & ~hole & ~lumen
    notched[38:41, :55] = False  # open to the left
    filled = fill_small_holes(notched, 100)
    assert filled[hole].all() and not filled[lumen].any()
    np.testing.assert_array_equal(filled[38:41, :50], notched[38:41, :50])
    edge = np.ones((10, 10), bool)
    edge[0, 4] = False
    np.testing.assert_array_equal(fill_small_holes(edge, 100), edge)


def test_small_instances_go_those_of_the_limit_stay():
    mask = np.zeros((20, 40), bool)
    mask[2:7, 2:8], mask[10:15, 20:26] = True, True  # 30 px each
    mask[2, 2] = False
    labels = label_instances(mask, InstanceOptions(split="none", min_area_px=30))
    assert labels.max() == 1 and labels[12, 22] == 1


def test_threshold_is_reached_by_equal():
    values = np.zeros((20, 20), np.float32)
    values[5:15, 5:15] = 0.7
    assert label_instances(values, InstanceOptions(threshold=float(np.float32(0.7)))).any()
    assert not label_instances(values, InstanceOptions(threshold=0.71)).any()


@pytest.mark.parametrize("split", ["none", "distance", "border"])
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_all_background_and_all_foreground(split, value):
    values = np.full((30, 40, 3), [1 - value, value, 0], np.float32)
    labels = label_instances(values, InstanceOptions(split=split))
    np.testing.assert_array_equal(labels > 0, np.full((30, 40), value > 0))


def test_two_nuclei_that_meet_at_a_corner_are_two():
    labels = label_instances(np.array([[False, True], [True, False]]), InstanceOptions(min_area_px=0))
    np.testing.assert_array_equal(labels, [[0, 1], [2, 0]])


@given(
    hnp.arrays(bool, st.tuples(st.integers(1, 24), st.integers(1, 24))),
    st.sampled_from(["none", "distance"]),
    st.integers(0, 12),
)
def test_instances_are_connected_numbered_in_order_and_large_enough(mask, split, least):
    mask = ndimage.binary_opening(mask) | mask
    options = InstanceOptions(split=split, min_area_px=least, max_hole_px=0)
    labels = label_instances(mask, options)
    areas = np.bincount(labels.ravel())[1:]
    assert (areas >= max(least, 1)).all()
    np.testing.assert_array_equal(labels, number(labels))
    assert not labels[~mask].any()
    for label in range(1, labels.max() + 1):
        assert ndimage.label(labels == label)[1] == 1
    if least <= 1:
        np.testing.assert_array_equal(labels > 0, mask)
    np.testing.assert_array_equal(label_instances(mask.copy(), options), labels)


def test_maps_that_are_none_are_refused_with_what_helps():
    for bad, says in [
        (np.zeros((4, 4, 2)), r"foreground's alone"),
        (np.zeros((4, 4), np.uint8), r"Divide maps that were kept as bytes by 255"),
        (np.full((4, 4), 7.0), r"softmax or sigmoid"),
        (np.full((4, 4), np.nan), r"floats from 0 to 1"),
    ]:
        with pytest.raises(ModelError, match=says):
            label_instances(bad)
    with pytest.raises(ModelError, match=r"border.*three|background, inside and border"):
        label_instances(np.zeros((4, 4)), InstanceOptions(split="border"))


@pytest.mark.parametrize(
    "bad",
    [{"split": "bord"}, {"threshold": 0.0}, {"threshold": 1.5}, {"min_area_px": -1}, {"smoothing_px": float("nan")}],
)
def test_options_that_cannot_be_are_refused(bad):
    with pytest.raises(ModelError, match=next(iter(bad))):
        label_instances(np.zeros((4, 4)), InstanceOptions(**bad))


def blurred(labels: np.ndarray, sigma: float = 4.0) -> np.ndarray:
    """A soft map whose outlines are the truth's at about 0.5."""
    return ndimage.gaussian_filter((labels > 0).astype(np.float64), sigma)


def test_threshold_of_highest_precision_by_hand():
    # One image: at 0.3 both squares are found and a third is invented; at 0.5 one is right, one is gone.
    truth = np.zeros((40, 60), int)
    truth[5:15, 5:15], truth[5:15, 25:35] = 1, 2
    values = np.where(truth == 1, 0.9, np.where(truth == 2, 0.4, 0.0))
    values[25:35, 40:50] = 0.35
    found = choose_threshold([values], [truth], InstanceOptions(split="none"), candidates=(0.3, 0.38, 0.5, 0.95))
    assert [row["precision"] for row in found.table[:3]] == [2 / 3, 1.0, 1.0]
    assert [row["recall"] for row in found.table] == [1.0, 1.0, 0.5, 0.0]
    assert np.isnan(found.table[3]["precision"])
    assert (found.threshold, found.score) == (0.38, 1.0)  # as precise as 0.5, and finds more


def test_aji_chooses_where_outlines_fit():
    truths = [discs((30, 25, 12), (60, 80, 10)), discs((40, 50, 14))]
    maps = [blurred(truth) for truth in truths]
    found = choose_threshold(iter(maps), iter(truths), maximise="aji", candidates=(0.1, 0.5, 0.9))
    assert found.threshold == 0.5 and found.score > 0.85
    expected = [instance_scores(t, label_instances(m))["aji"] for t, m in zip(truths, maps, strict=True)]
    assert found.score == pytest.approx(np.mean(expected))


def test_counts_are_pooled_over_images():
    square = np.zeros((20, 20), int)
    square[5:15, 5:15] = 1
    empty = np.zeros((20, 20), int)
    found = choose_threshold([square * 0.9, square * 0.9, square * 0.9], [square, square, empty], candidates=(0.5,))
    assert found.score == pytest.approx(2 / 3)


def test_recall_that_is_asked_for_is_kept():
    truth = np.zeros((40, 60), int)
    truth[5:15, 5:15], truth[5:15, 25:35] = 1, 2
    values = np.where(truth == 1, 0.9, np.where(truth == 2, 0.4, 0.0))
    values[25:35, 40:50] = 0.6
    options = InstanceOptions(split="none")
    assert choose_threshold([values], [truth], options, candidates=(0.3, 0.7)).threshold == 0.7
    assert choose_threshold([values], [truth], options, candidates=(0.3, 0.7), min_recall=0.9).threshold == 0.3
    with pytest.raises(ModelError, match=r"recall of at least 0\.9 .*0\.500"):
        choose_threshold([values], [truth], options, candidates=(0.7,), min_recall=0.9)


def test_threshold_needs_images_that_match():
    square = np.zeros((20, 20), int)
    square[5:15, 5:15] = 1
    with pytest.raises(ModelError, match="at least one"):
        choose_threshold([], [])
    with pytest.raises(ModelError, match="zip"):
        choose_threshold([square * 1.0], [square, square])
    with pytest.raises(ModelError, match="one shape"):
        choose_threshold([square[:10] * 1.0], [square])
    with pytest.raises(ModelError, match=r"0\.50, 0\.55"):
        choose_threshold([square * 1.0], [square], iou=0.42)
    with pytest.raises(ModelError, match="no candidate"):
        choose_threshold([square * 0.05], [square])


@pytest.mark.realdata
def test_outlines_of_real_nuclei_are_split_better_than_not(shared_data):
    path = shared_data / "nuclei" / "monuseg24" / "labels" / "Stomach_TCGA-KB-A93J-01A-01-TS1.png"
    truth = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)[:400, :400]
    ajis = {
        s: instance_scores(truth, label_instances(truth > 0, InstanceOptions(split=s)))["aji"]
        for s in ("none", "distance")
    }
    assert ajis["distance"] > 0.8 > 0.7 > ajis["none"]
