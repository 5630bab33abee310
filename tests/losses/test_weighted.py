"""Weighted cross-entropy and soft Dice of partly annotated maps, by hand; both combined over several outputs."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from numpy import log

from tfseg.losses import Crossentropy, SoftDice, WeightedCrossentropy, WeightedSoftDice
from tfseg.train.step import output_loss

LABELS = np.array([[[0, 0], [0, 1]], [[255, 255], [1, 255]]], "uint8")
"""Three pixels of class 0, two of class 1, none of class 2; three that nobody annotated."""
TRUE = np.array([[[0.5, 0.8], [0.9, 0.4]], [[0.3, 0.3], [0.6, 0.3]]])
"""Probability of the true class; the other two classes share the rest."""
STATIC = (2.0, 3.0, 7.0)
IGNORED = np.full_like(LABELS, 255)


def probabilities(true=TRUE, labels=LABELS, dtype="float32"):
    classes = np.where(labels == 255, 2, labels)[..., None]
    others = np.repeat((1 - true[..., None]) / 2, 3, axis=-1)
    np.put_along_axis(others, classes, true[..., None], axis=-1)
    return others.astype(dtype)


CE_0, CE_1 = -log(0.5) - log(0.8) - log(0.9), -log(0.4) - log(0.6)
# Dynamic weights: 1/3 : 1/2 scaled to mean 1.
CROSSENTROPY = {
    "plain": ({}, (CE_0 + CE_1) / 5),
    "static": ({"class_weights": STATIC}, (2 * CE_0 + 3 * CE_1) / 5),
    "static, over every pixel": ({"class_weights": STATIC, "over_all": True}, (2 * CE_0 + 3 * CE_1) / 8),
    "dynamic": ({"dynamic": True}, (0.8 * CE_0 + 1.2 * CE_1) / 5),
    "both": ({"class_weights": STATIC, "dynamic": True}, (2 * 0.8 * CE_0 + 3 * 1.2 * CE_1) / 5),
    "a class left out": ({"class_weights": (0, 1, 1)}, CE_1 / 5),
}


@pytest.mark.parametrize("case", CROSSENTROPY)
def test_crossentropy_by_hand(case):
    arguments, expected = CROSSENTROPY[case]
    assert float(WeightedCrossentropy(**arguments)(LABELS, probabilities())) == pytest.approx(expected, rel=1e-5)


# Over the five annotated pixels. Class 0: p on its own 0.5 0.8 0.9, elsewhere 0.3 and 0.2. Class 1: 0.4 0.6 | 0.25 0.1
# 0.05. Class 2: 0.25 0.1 0.05 0.3 0.2.
DICE_0 = (2 * 2.2 + 1) / (0.25 + 0.64 + 0.81 + 0.09 + 0.04 + 3 + 1)
DICE_1 = (2 * 1.0 + 1) / (0.16 + 0.36 + 0.0625 + 0.01 + 0.0025 + 2 + 1)
DICE_2 = 1 / (0.0625 + 0.01 + 0.0025 + 0.09 + 0.04 + 1)
PLAIN_1 = (2 * 1.0 + 1) / (1.4 + 2 + 1)
DICE = {
    "plain": ({}, (3 - DICE_0 - DICE_1 - DICE_2) / 3),
    "static": ({"class_weights": STATIC}, (2 * (1 - DICE_0) + 3 * (1 - DICE_1) + 7 * (1 - DICE_2)) / 3),
    "dynamic": ({"dynamic": True}, (0.8 * (1 - DICE_0) + 1.2 * (1 - DICE_1)) / 2),
    "both": ({"class_weights": STATIC, "dynamic": True}, (1.6 * (1 - DICE_0) + 3.6 * (1 - DICE_1)) / 2),
    "a class left out": ({"class_weights": (0, 1, 1)}, (2 - DICE_1 - DICE_2) / 2),
    "not squared": ({"class_weights": (0, 1, 0), "squared": False}, 1 - PLAIN_1),
}


@pytest.mark.parametrize("case", DICE)
def test_dice_by_hand(case):
    arguments, expected = DICE[case]
    assert float(WeightedSoftDice(**arguments)(LABELS, probabilities())) == pytest.approx(expected, rel=1e-5)


def test_dice_of_each_image_on_its_own():
    first = (2 * 0.4 + 1) / (0.16 + 0.0625 + 0.01 + 0.0025 + 1 + 1)
    second = (2 * 0.6 + 1) / (0.36 + 1 + 1)
    loss = WeightedSoftDice(class_weights=(0, 1, 0), over_batch=False)
    assert float(loss(LABELS, probabilities())) == pytest.approx(1 - (first + second) / 2, rel=1e-5)


def test_without_weights_they_are_the_plain_losses():
    p = probabilities()
    assert float(WeightedCrossentropy()(LABELS, p)) == float(Crossentropy()(LABELS, p))
    foreground = WeightedSoftDice(class_weights=(0, 1, 1), over_batch=False)
    assert float(foreground(LABELS, p)) == pytest.approx(float(SoftDice()(LABELS, p)), rel=1e-6)


LOSSES = [
    kind(**arguments)
    for kind in (WeightedCrossentropy, WeightedSoftDice)
    for arguments in ({}, {"class_weights": STATIC}, {"dynamic": True}, {"class_weights": STATIC, "dynamic": True})
]


@pytest.mark.parametrize("loss", LOSSES)
class TestEvery:
    def gradient(self, loss, labels, p):
        p = tf.constant(p)
        with tf.GradientTape() as tape:
            tape.watch(p)
            value = loss(labels, p)
        return float(value), np.asarray(tape.gradient(value, p))

    def test_nothing_annotated_is_zero_and_moves_nothing(self, loss):
        value, gradient = self.gradient(loss, IGNORED, probabilities())
        assert value == pytest.approx(0, abs=1e-6)
        np.testing.assert_array_equal(gradient, np.zeros_like(gradient))

    def test_no_gradient_where_nobody_annotated(self, loss):
        value, gradient = self.gradient(loss, LABELS, probabilities())
        assert value > 0 and np.isfinite(gradient).all()
        assert (gradient[LABELS == 255] == 0).all()
        assert (np.abs(gradient[LABELS != 255]).sum(-1) > 0).all()

    def test_what_stands_where_nobody_annotated_makes_no_difference(self, loss):
        other = probabilities(np.where(LABELS == 255, 0.99, TRUE))
        assert float(loss(LABELS, other)) == pytest.approx(float(loss(LABELS, probabilities())), rel=1e-6)

    def test_float16_predictions_are_computed_in_float32(self, loss):
        p = probabilities(dtype="float16")
        assert float(loss(LABELS, p)) == pytest.approx(float(loss(LABELS, p.astype("float32"))), rel=1e-6)
        sure = probabilities((TRUE > 0.45).astype(float), dtype="float16")  # zeros where the truth is
        assert np.isfinite(float(loss(LABELS, sure)))
        large = np.ones((1, 512, 512), "uint8"), np.full((1, 512, 512, 3), 1 / 3, "float16")
        assert np.isfinite(float(loss(*large)))

    def test_one_hot_labels_and_another_ignore_label_give_the_same(self, loss):
        value = float(loss(LABELS, probabilities()))
        onehot = np.eye(256, dtype="float32")[LABELS][..., :3]
        assert float(loss(onehot, probabilities())) == pytest.approx(value, rel=1e-6)
        nine = type(loss).from_config({**loss.get_config(), "ignore": 9})
        assert float(nine(np.where(LABELS == 255, 9, LABELS), probabilities())) == pytest.approx(value, rel=1e-6)

    def test_settings_survive_reloading(self, loss):
        again = keras.losses.deserialize(keras.losses.serialize(loss))
        assert again.get_config() == loss.get_config()
        assert float(again(LABELS, probabilities())) == float(loss(LABELS, probabilities()))


def test_a_wrong_number_of_weights_is_said():
    with pytest.raises(ValueError, match="class_weights must be 3"):
        WeightedCrossentropy((1, 2))(LABELS, probabilities())


def test_several_outputs_with_static_weights_in_a_graph():
    """Cross-entropy plus Dice of three outputs; the context's labels are another field's."""
    weights = {"segmentation": 1.0, "segmentation_high": 0.5, "segmentation_context": 0.25}
    context = np.array([[[2, 2], [255, 1]], [[0, 0], [0, 0]]], "uint8")
    targets = {name: context if name.endswith("context") else LABELS for name in weights}
    outputs = {name: probabilities(TRUE**k) for k, name in enumerate(weights, 1)}
    losses = {"crossentropy": WeightedCrossentropy(STATIC), "dice": WeightedSoftDice(STATIC, dynamic=True)}
    terms = [output_loss(name, loss, weights[name]) for name in weights for loss in losses.values()]

    @tf.function
    def total(targets, outputs):
        return tf.add_n([term({}, targets, outputs) for term in terms])

    expected = sum(w * float(loss(targets[n], outputs[n])) for n, w in weights.items() for loss in losses.values())
    by_hand = CROSSENTROPY["static"][1] + DICE["both"][1]
    assert float(losses["crossentropy"](LABELS, outputs["segmentation"])) + float(
        losses["dice"](LABELS, outputs["segmentation"])
    ) == pytest.approx(by_hand, rel=1e-5)
    assert float(total(targets, outputs)) == pytest.approx(expected, rel=1e-5)
