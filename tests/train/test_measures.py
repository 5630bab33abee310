"""Metrics of training, by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tensorflow as tf
from sklearn.metrics import jaccard_score

from tfseg.train.measures import ClassRecall, MeanIoU, SlideDice


def test_recall_of_a_class():
    metric = ClassRecall(1, "recall")
    assert math.isnan(metric.result())
    truth = np.eye(3)[[1, 1, 1, 0, 2]]
    metric.update_state(truth, np.eye(3)[[1, 0, 1, 1, 1]])
    metric.update_state(truth[:1], np.array([[0.3, 0.4, 0.3]]))
    assert float(metric.result()) == pytest.approx(3 / 4)
    assert metric.name == "recall"


def test_dice_is_the_mean_over_slides_and_skips_ignored_pixels():
    labels = np.zeros((3, 2, 4), np.uint8)
    labels[0, 0] = 1
    labels[1, :, :2] = 1
    labels[1, 1] = 255
    tumour = np.zeros((3, 2, 4))
    tumour[0, :, 0] = 0.9
    tumour[0, 0, 1] = 0.5
    tumour[1, 0, :] = 0.8
    tumour[1, 1] = 0.99
    probabilities = np.stack([1 - tumour, tumour], -1).astype(np.float32)
    metric = SlideDice()
    metric.update_state(labels, probabilities)
    # Slide 0: 2 hits of 4 labelled and 3 found; slide 1: 2 hits of 2 labelled and 4 found; slide 2 has no tumour.
    assert float(metric.result()) == pytest.approx((2 * 2 / 7 + 2 * 2 / 6) / 2)


def test_dice_of_nothing_is_not_a_number():
    metric = SlideDice()
    metric.update_state(np.zeros((1, 4, 4), np.uint8), np.zeros((1, 4, 4, 2), np.float32))
    assert math.isnan(metric.result())


def test_dice_of_a_false_alarm_is_zero():
    metric = SlideDice()
    metric.update_state(np.zeros((1, 4, 4), np.uint8), np.ones((1, 4, 4, 2), np.float32))
    assert float(metric.result()) == 0


def batches(count=3, classes=5, seed=0):
    """Noisy labels, a third of them ignored, and probabilities that are often right."""
    random = np.random.default_rng(seed)
    for _ in range(count):
        labels = random.integers(0, classes, (2, 16, 16)).astype(np.uint8)
        scores = random.random((2, 16, 16, classes)) + 0.5 * np.eye(classes)[labels]
        yield np.where(random.random(labels.shape) < 1 / 3, 255, labels).astype(np.uint8), scores.astype(np.float32)


@pytest.mark.parametrize("in_graph", [False, True])
def test_mean_iou_is_scikit_learns_jaccard(in_graph):
    metric = MeanIoU(5)
    update = tf.function(metric.update_state) if in_graph else metric.update_state
    truth, found = [], []
    for labels, scores in batches():
        update(tf.constant(labels), tf.constant(scores))
        truth.append(labels[labels != 255])
        found.append(scores.argmax(-1)[labels != 255])
    expected = jaccard_score(np.concatenate(truth), np.concatenate(found), average="macro")
    assert float(metric.result()) == pytest.approx(expected, rel=1e-6)
    assert 0.2 < expected < 0.9
    metric.reset_state()
    assert math.isnan(metric.result())


def test_mean_iou_leaves_out_classes_that_nobody_annotated():
    """Class 0 is predicted, never true: its pixel counts against class 1 alone."""
    metric = MeanIoU(4)
    found = np.eye(4, dtype=np.float32)[[[[0, 1, 1, 2, 3]]]]
    metric.update_state(np.array([[[1, 1, 1, 2, 255]]], np.uint8), found)
    assert float(metric.result()) == pytest.approx((2 / 3 + 1) / 2)
    only_ignored = MeanIoU(4)
    only_ignored.update_state(np.full((1, 1, 5), 255, np.uint8), found)
    assert math.isnan(only_ignored.result())


def test_mean_iou_counts_more_pixels_than_float32_can():
    metric = MeanIoU(2)
    metric.counts.assign([[2**24, 0], [0, 1]])
    one = np.zeros((1, 1, 1), np.uint8)
    metric.update_state(one, np.eye(2, dtype=np.float32)[one])
    assert int(metric.counts[0, 0]) == 2**24 + 1
