from __future__ import annotations

import numpy as np
import pytest

from tfseg.losses import class_weights, cluster_weights, dynamic_class_weights
from tfseg.losses.weights import loss_class_weights
from tfseg.types import CohortError, ModelError


def onehot(indices, length):
    return np.eye(length, dtype="float32")[np.asarray(indices)]


@pytest.mark.parametrize(
    ("clusters", "expected"),
    [
        ([0, 0, 0, 2], [1 / 6, 1 / 6, 1 / 6, 1 / 2]),
        ([1, 1, 1, 1], [1 / 4] * 4),
        ([0, 1, 2, 3], [1 / 4] * 4),
        ([3, 3, 1, 0], [1 / 6, 1 / 6, 1 / 3, 1 / 3]),
    ],
)
def test_every_present_cluster_counts_the_same(clusters, expected):
    np.testing.assert_allclose(cluster_weights(onehot(clusters, 5)), expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("clusters", "labels", "expected"),
    [
        # class 0: clusters 0 (two samples) and 1 (one); class 1: cluster 1 alone (one)
        ([0, 0, 1, 1], [0, 0, 0, 1], [1 / 8, 1 / 8, 1 / 4, 1 / 2]),
        # class 1 is not in the batch: C is the number of classes that are
        ([0, 0, 1, 2], [0, 0, 0, 0], [1 / 6, 1 / 6, 1 / 3, 1 / 3]),
        ([0, 0, 0, 0], [0, 1, 1, 1], [1 / 2, 1 / 6, 1 / 6, 1 / 6]),
    ],
)
def test_per_class_form(clusters, labels, expected):
    weights = cluster_weights(onehot(clusters, 4), onehot(labels, 2), per_class=True)
    np.testing.assert_allclose(weights, expected, rtol=1e-6)


def test_samples_nobody_annotated_weigh_nothing():
    labels = onehot([0, 0, 1, 1], 2)
    labels[0] = 0
    clusters = onehot([0, 0, 0, 1], 3)
    np.testing.assert_allclose(cluster_weights(clusters, labels), [0, 1 / 4, 1 / 4, 1 / 2], rtol=1e-6)
    np.testing.assert_allclose(cluster_weights(clusters, labels, True), [0, 1 / 2, 1 / 4, 1 / 4], rtol=1e-6)
    np.testing.assert_array_equal(cluster_weights(clusters, labels * 0), [0, 0, 0, 0])
    np.testing.assert_array_equal(cluster_weights(clusters, labels * 0, True), [0, 0, 0, 0])


@pytest.mark.parametrize("per_class", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_weights_follow_their_formula_and_sum_to_one(per_class, seed):
    random = np.random.default_rng(seed)
    size, k, c = 64, 10, 3
    clusters, labels = random.integers(0, k, size), random.integers(0, c, size)
    weights = np.asarray(cluster_weights(onehot(clusters, k), onehot(labels, c), per_class))
    assert weights.sum() == pytest.approx(1, abs=1e-6)
    groups = labels if per_class else np.zeros(size, int)
    for i in range(size):
        same_group = groups == groups[i]
        present = len(set(clusters[same_group]))
        n = np.sum(same_group & (clusters == clusters[i]))
        assert weights[i] == pytest.approx(1 / (len(set(groups)) * present * n), rel=1e-5)


def test_per_class_needs_labels():
    with pytest.raises(ValueError, match="per_class=True needs labels"):
        cluster_weights(onehot([0, 1], 2), per_class=True)


COUNTS = [600, 300, 100, 0]
BY_IMAGE = [[600, 0, 0, 0], [0, 200, 0, 0], [0, 100, 100, 0]]


@pytest.mark.parametrize(
    ("rule", "counts", "expected"),
    [
        ("uniform", COUNTS, [1, 1, 1, 0]),
        ("inverse", COUNTS, [0.4, 0.7, 0.9, 0]),
        ("inverse", BY_IMAGE, [0.4, 0.7, 0.9, 0]),
        # every class in every image: frequencies 0.6, 0.3, 0.1; median 0.3
        ("median_frequency", COUNTS, [0.5, 1, 3, 0]),
        # where they occur: 600/600, 300/400, 100/200; median 0.75
        ("median_frequency", BY_IMAGE, [0.75, 1, 1.5, 0]),
        # an even number of classes: the median is between 0.8 and 0.2
        ("median_frequency", [0, 80, 20], [0, 0.625, 2.5]),
    ],
)
def test_static_weights_by_hand(rule, counts, expected):
    assert class_weights(counts, rule) == pytest.approx(expected)


def test_counted_images_and_their_sums_give_the_same():
    sums, where_present = np.sum(BY_IMAGE, axis=0), [600, 400, 200, 0]
    assert class_weights(sums, "median_frequency", where_present) == class_weights(BY_IMAGE, "median_frequency")


def test_counts_that_say_nothing():
    with pytest.raises(CohortError, match=r"at least 2 classes. Received counts \[0.0, 70.0, 0.0\]"):
        class_weights([0, 70, 0], "inverse")
    with pytest.raises(ModelError, match=r"unknown 'median'. Known: inverse, median_frequency, uniform"):
        class_weights(COUNTS, "median")


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([[0, 0, 0, 1], [1, 1, 1, 1]], [5 / 4, 3 / 4, 0]),  # 1/3 : 1/5, mean 1
        ([[0, 1, 2, 2], [9, 9, 9, 9]], [6 / 5, 6 / 5, 3 / 5]),  # 1 : 1 : 1/2
        ([[2, 2, 2, 2], [2, 2, 9, 2]], [0, 0, 1]),
        ([[9, 9, 9, 9], [9, 9, 9, 9]], [0, 0, 0]),
    ],
)
def test_dynamic_weights_by_hand(labels, expected):
    """9 is not annotated."""
    truth = np.eye(10, dtype="float32")[np.asarray(labels)][..., :3]
    np.testing.assert_allclose(dynamic_class_weights(truth), expected, rtol=1e-6)


def test_dynamic_weights_give_every_class_in_the_batch_the_same_say():
    truth = onehot(np.repeat([0, 1, 3], [90_000, 9, 901]), 4)
    weights = np.asarray(dynamic_class_weights(truth))
    says = weights * truth.sum(0)
    assert says[[0, 1, 3]] == pytest.approx([says[0]] * 3, rel=1e-5)
    assert weights.sum() / 3 == pytest.approx(1, rel=1e-6)


def test_weights_compose_by_multiplication():
    truth = onehot([0, 0, 0, 1], 3)
    np.testing.assert_allclose(loss_class_weights(truth), [1, 1, 1])
    np.testing.assert_allclose(loss_class_weights(truth, [2, 4, 8]), [2, 4, 8])
    np.testing.assert_allclose(loss_class_weights(truth, [2, 4, 8], dynamic=True), [2 * 0.5, 4 * 1.5, 0], rtol=1e-6)
    with pytest.raises(ValueError, match=r"class_weights must be 3, one a class of the output. Received: 2"):
        loss_class_weights(truth, [1, 2])
