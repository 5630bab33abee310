from __future__ import annotations

import numpy as np
import pytest

from tfseg.losses import cluster_weights


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
