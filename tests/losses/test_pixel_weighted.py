"""Cross-entropy with a weight map, by hand, and as a term of a training step."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from numpy import log

from tfseg.data.border_weights import border_weights
from tfseg.losses import (
    Crossentropy,
    PixelWeightedCrossentropy,
    SoftDice,
    WeightedCrossentropy,
    pixel_weighted_crossentropy,
)
from tfseg.train.step import output_loss

LABELS = np.array([[[0, 1, 1]], [[255, 0, 255]]], "uint8")
NUCLEUS = np.array([[[0.2, 0.7, 0.5]], [[0.9, 0.4, 0.1]]])
P = np.stack([1 - NUCLEUS, NUCLEUS], axis=-1).astype("float32")
WEIGHTS = np.array([[[0.5, 2.0, 10.5]], [[7.0, 0.25, 3.0]]], "float32")
BY_HAND = -(0.5 * log(0.8) + 2 * log(0.7) + 10.5 * log(0.5) + 0.25 * log(0.6)) / 4


def test_mean_over_annotated_pixels_by_hand():
    value = pixel_weighted_crossentropy(LABELS, P, WEIGHTS)
    assert value.dtype == "float32" and value.shape == ()
    assert float(value) == pytest.approx(BY_HAND, rel=1e-6)
    onehot = np.eye(256, dtype="float32")[LABELS][..., :2]
    assert float(pixel_weighted_crossentropy(onehot, P, WEIGHTS)) == pytest.approx(BY_HAND, rel=1e-6)
    nine = np.where(LABELS == 255, 9, LABELS)
    assert float(pixel_weighted_crossentropy(nine, P, WEIGHTS, ignore=9)) == pytest.approx(BY_HAND, rel=1e-6)


def test_weights_of_classes_drawn_as_a_map_are_class_weights():
    value = float(pixel_weighted_crossentropy(LABELS, P, np.ones_like(WEIGHTS)))
    assert value == pytest.approx(float(Crossentropy()(LABELS, P)), rel=1e-6)
    drawn = np.where(LABELS == 1, 3.0, 0.5).astype("float32")
    expected = float(WeightedCrossentropy((0.5, 3.0))(LABELS, P))
    assert float(pixel_weighted_crossentropy(LABELS, P, drawn)) == pytest.approx(expected, rel=1e-6)


def test_nothing_annotated_is_zero():
    assert float(pixel_weighted_crossentropy(np.full_like(LABELS, 255), P, WEIGHTS)) == 0


def test_gradient_at_the_logits_is_weight_times_difference():
    """Also where the true class has a probability of e^-40; 0 where nobody annotated."""
    logits = tf.Variable([[[[0.0, 1.0], [40.0, 0.0], [0.0, 0.0]]], [[[5.0, 0.0], [1.0, 0.0], [0.0, 0.0]]]])
    with tf.GradientTape() as tape:
        p = tf.nn.softmax(logits)
        loss = pixel_weighted_crossentropy(LABELS, p, WEIGHTS)
    truth = np.eye(256)[LABELS][..., :2]
    expected = (p.numpy() - truth) * WEIGHTS[..., None] * (LABELS != 255)[..., None] / 4
    np.testing.assert_allclose(tape.gradient(loss, logits), expected, atol=1e-5)


def test_float16_probabilities_are_computed_in_float32():
    tile = np.ones((1, 256, 256), "uint8"), np.full((1, 256, 256, 2), 0.5, "float16"), np.full((1, 256, 256), 12.0)
    assert float(pixel_weighted_crossentropy(*tile)) == pytest.approx(12 * log(2), rel=1e-5)


def test_weights_of_another_shape_are_refused():
    """(B, H, W, 1) would broadcast, silently, to another number of pixels."""
    with pytest.raises(ValueError, match=r"one a pixel, of shape \(2, 1, 3\)\. Received: \(2, 1, 3, 1\)"):
        pixel_weighted_crossentropy(LABELS, P, WEIGHTS[..., None])


def test_loss_of_gb_unet_of_two_nuclei_that_touch():
    """Equation 1 in a graph: nuclei of one pixel each; d1 + d2 are 3, 1, 1, 3 px."""
    nuclei = np.array([[0, 1, 2, 0]])
    weights = border_weights(nuclei, (0.5, 2.0))[None]
    p = np.array([0.1, 0.6, 0.7, 0.2])
    near, far = 10 * np.exp(-1 / 50), 10 * np.exp(-9 / 50)
    crossentropy = -((0.5 + far) * log(0.9 * 0.8) + (2 + near) * log(0.6 * 0.7)) / 4
    dice = (2 * 1.3 + 1) / (0.01 + 0.36 + 0.49 + 0.04 + 2 + 1)

    terms = {"crossentropy": PixelWeightedCrossentropy(), "dice": output_loss("segmentation", SoftDice())}

    @tf.function
    def total(targets, outputs):
        return tf.add_n([term({}, targets, outputs) for term in terms.values()])

    targets = {"segmentation": (nuclei > 0).astype("uint8")[None], "weights": weights}
    outputs = {"segmentation": np.stack([1 - p, p], -1)[None, None].astype("float32")}
    assert float(total(targets, outputs)) == pytest.approx(crossentropy + 1 - dice, rel=1e-5)


def test_names_of_labels_and_weights_can_be_others():
    term = PixelWeightedCrossentropy("nuclei", "border", ignore=9)
    labels = np.where(LABELS == 255, 9, LABELS)
    assert float(term({}, {"nuclei": labels, "border": WEIGHTS}, {"nuclei": P})) == pytest.approx(BY_HAND, rel=1e-6)
