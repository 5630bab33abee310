from __future__ import annotations

import keras
import numpy as np
import pytest

from tfseg.losses import SoftDice

LABELS = np.array([[[1, 1], [0, 0]]], "uint8")
TUMOUR = np.array([[[0.8, 0.6], [0.2, 0.0]]], "float32")


def softmax_of(tumour):
    return np.stack([1 - tumour, tumour], -1)


def test_squared_by_hand():
    # 2·1.4 + 1 over 0.64 + 0.36 + 0.04 + 2 + 1
    assert float(SoftDice()(LABELS, softmax_of(TUMOUR))) == pytest.approx(1 - 3.8 / 4.04, rel=1e-5)


def test_plain_denominator_by_hand():
    assert float(SoftDice(squared=False)(LABELS, softmax_of(TUMOUR))) == pytest.approx(1 - 3.8 / 4.6, rel=1e-5)


def test_ignored_pixels_count_neither_as_truth_nor_as_prediction():
    labels = np.array([[[1, 255], [255, 0]]], "uint8")
    assert float(SoftDice()(labels, softmax_of(TUMOUR))) == pytest.approx(1 - 2.6 / 2.64, rel=1e-5)
    assert float(SoftDice()(np.full_like(labels, 255), softmax_of(TUMOUR))) == pytest.approx(0, abs=1e-6)


def test_other_ignore_label():
    labels = np.where(LABELS == 0, 9, LABELS)
    assert float(SoftDice(ignore=9)(labels, softmax_of(TUMOUR))) == pytest.approx(1 - 3.8 / 4.0, rel=1e-5)


def test_background_does_not_count_and_classes_count_the_same():
    labels = np.array([[[1, 2], [0, 0]]], "uint8")
    p = np.array([[[[0, 1, 0], [0, 0.5, 0.5]], [[1, 0, 0], [0, 0, 1]]]], "float32")
    first = (2 * 1 + 1) / (1 + 0.25 + 1 + 1)
    second = (2 * 0.5 + 1) / (0.25 + 1 + 1 + 1)
    assert float(SoftDice()(labels, p)) == pytest.approx(1 - (first + second) / 2, rel=1e-5)


def test_by_image_or_over_the_batch():
    labels = np.concatenate([LABELS, LABELS * 0])
    p = softmax_of(np.concatenate([TUMOUR, TUMOUR * 0 + 0.5]))
    by_image = (1 - 3.8 / 4.04 + 1 - 1 / 2) / 2
    assert float(SoftDice()(labels, p)) == pytest.approx(by_image, rel=1e-5)
    over = 1 - 3.8 / 5.04
    assert float(SoftDice(over_batch=True)(labels, p)) == pytest.approx(over, rel=1e-5)


def test_perfect_and_absent_are_zero():
    assert float(SoftDice()(LABELS, softmax_of((LABELS == 1).astype("float32")))) == pytest.approx(0, abs=1e-6)
    assert float(SoftDice()(LABELS * 0, softmax_of(TUMOUR * 0))) == pytest.approx(0, abs=1e-6)


def test_one_hot_labels_give_the_same():
    onehot = np.eye(2, dtype="float32")[LABELS]
    p = softmax_of(TUMOUR)
    assert float(SoftDice()(onehot, p)) == pytest.approx(float(SoftDice()(LABELS, p)), rel=1e-6)


def test_large_float16_maps_do_not_overflow():
    labels = np.ones((1, 512, 512), "uint8")
    p = softmax_of(np.ones((1, 512, 512), "float16"))
    assert float(SoftDice()(labels, p)) == pytest.approx(0, abs=1e-6)


def test_settings_survive_reloading():
    loss = SoftDice(ignore=3, squared=False, smooth=0.5, over_batch=True)
    again = keras.losses.deserialize(keras.losses.serialize(loss))
    assert again.get_config() == loss.get_config()
    assert (again.ignore, again.squared, again.smooth, again.over_batch) == (3, False, 0.5, True)
