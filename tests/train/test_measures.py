"""Metrics of training, by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tfseg.train.measures import ClassRecall, SlideDice


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
