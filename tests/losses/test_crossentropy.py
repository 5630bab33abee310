from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfseg.losses import ClusterWeightedCrossentropy, Crossentropy, crossentropy

P = np.array([[0.5, 0.5], [0.9, 0.1], [0.2, 0.8], [0.25, 0.75]], "float32")


def test_per_sample_by_hand():
    got = crossentropy(np.array([0, 1, 1, 255], "uint8"), P)
    np.testing.assert_allclose(got, [-np.log(0.5), -np.log(0.1), -np.log(0.8), 0], rtol=1e-6)


def test_one_hot_labels_with_a_row_of_zeros():
    got = crossentropy(np.array([[1, 0], [0, 1], [0, 0], [0, 1]]), P)
    np.testing.assert_allclose(got, [-np.log(0.5), -np.log(0.1), 0, -np.log(0.75)], rtol=1e-6)


def test_per_pixel_has_the_shape_of_the_labels():
    labels = np.array([[[0, 1], [1, 255]]], "uint8")
    got = crossentropy(labels, P.reshape(1, 2, 2, 2))
    np.testing.assert_allclose(got, [[[-np.log(0.5), -np.log(0.1)], [-np.log(0.8), 0]]], rtol=1e-6)


def test_certainty_of_the_wrong_class_is_finite():
    assert float(crossentropy(np.array([1]), np.array([[1.0, 0.0]]))[0]) == pytest.approx(-np.log(1e-7), rel=1e-5)


def test_float16_is_computed_in_float32():
    got = crossentropy(np.array([0]), np.array([[1e-5, 1]], "float16"))
    assert got.dtype == "float32"
    assert float(got[0]) == pytest.approx(-np.log(np.float16(1e-5).astype(float)), rel=1e-5)


def test_loss_is_the_mean_over_annotated_pixels():
    # three annotated pixels in the first image, one in the second
    labels = np.array([[[0, 1], [1, 255]], [[255, 255], [255, 0]]], "uint8")
    loss = Crossentropy()(labels, np.stack([P, P]).reshape(2, 2, 2, 2))
    expected = -np.log([0.5, 0.1, 0.8, 0.25]).sum() / 4
    assert float(loss) == pytest.approx(expected, rel=1e-6)
    assert float(Crossentropy()(np.full_like(labels, 255), np.stack([P, P]).reshape(2, 2, 2, 2))) == 0


def test_loss_keeps_its_ignore_label_when_reloaded():
    loss = keras.losses.deserialize(keras.losses.serialize(Crossentropy(ignore=7)))
    assert loss.ignore == 7
    assert float(loss(np.array([7, 0, 1, 1]), P)) == pytest.approx(-np.log([0.9, 0.8, 0.75]).mean())


@pytest.mark.parametrize("gap", [10.0, 40.0, 65.0])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_pixel_that_is_wrong_by_far_still_moves_the_logits(gap, dtype):
    """By p − t; the probability of the true class is e^-gap."""
    logits = tf.constant([[[[0.0, gap, 0.0]]]], dtype)
    with tf.GradientTape() as tape:
        tape.watch(logits)
        loss = Crossentropy()(np.zeros((1, 1, 1), "uint8"), tf.nn.softmax(tf.cast(logits, "float32")))
    assert float(loss) == pytest.approx(gap, rel=1e-4)
    np.testing.assert_allclose(tape.gradient(loss, logits)[0, 0, 0], [-1, 1, 0], atol=1e-3)


class TestClusterWeighted:
    clusters = np.eye(3, dtype="float32")[[0, 0, 0, 2]]
    targets = np.eye(2, dtype="float32")[[0, 1, 1, 1]]
    ce = -np.log([0.5, 0.1, 0.8, 0.75])

    def loss(self, targets, per_class=False):
        term = ClusterWeightedCrossentropy(lambda image: image, per_class)
        return float(term({"image": self.clusters}, {"probabilities": targets}, {"probabilities": P}))

    def test_is_the_mean_over_clusters_of_their_means(self):
        expected = (self.ce[:3].mean() + self.ce[3]) / 2
        assert self.loss(self.targets) == pytest.approx(expected, rel=1e-6)

    def test_per_class_by_hand(self):
        # class 0: one sample. Class 1: cluster 0 (two samples) and cluster 2 (one)
        expected = (self.ce[0] + (self.ce[1:3].mean() + self.ce[3]) / 2) / 2
        assert self.loss(self.targets, per_class=True) == pytest.approx(expected, rel=1e-6)

    def test_ignored_samples_leave_their_cluster(self):
        expected = (self.ce[1:3].mean() + self.ce[3]) / 2
        assert self.loss(np.array([255, 1, 1, 1], "uint8")) == pytest.approx(expected, rel=1e-6)

    def test_probabilities_are_clipped_where_keras_does(self):
        sure = np.array([[1, 0]], "float32")
        term = ClusterWeightedCrossentropy(lambda image: image)
        loss = float(term({"image": self.clusters[:1]}, {"probabilities": np.array([1])}, {"probabilities": sure}))
        assert loss == pytest.approx(float(keras.losses.CategoricalCrossentropy()(np.eye(2)[[1]], sure)), rel=1e-5)
