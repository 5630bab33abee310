"""Weights of samples in a batch."""

from __future__ import annotations

from typing import Any

from keras import ops


def cluster_weights(cluster_onehot: Any, labels: Any = None, per_class: bool = False) -> Any:
    """Weights under which every cluster of a batch counts the same; H2G-Net section 2.4.

    w_i = 1 / (K_b · n_k(i)): K_b clusters in the batch, n_k samples in cluster k, k(i) the cluster of sample i. With
    ``per_class``, the form of the authors' released code, w_i = 1 / (C_b · K_c(i) · n_c(i)k(i)): C_b classes in the
    batch, K_c clusters present in class c, n_ck samples of class c in cluster k. C_b is the number of classes that
    occur, so that the weights sum to 1 for a batch without one of the classes too.

    Args:
        cluster_onehot: (B, K), one-hot.
        labels: one-hot (B, C); a row of zeros is a sample that nobody annotated: it counts nowhere and weighs 0. None
            where all are annotated.
        per_class: see above; needs ``labels``.

    Returns:
        (B,), float32; sums to 1, or to 0 when no sample is annotated.

    Raises:
        ValueError: ``per_class`` without ``labels``.
    """
    clusters = ops.cast(cluster_onehot, "float32")
    if labels is None:
        if per_class:
            raise ValueError("cluster_weights: per_class=True needs labels, one-hot of shape (batch, classes).")
        labels = ops.ones_like(clusters[:, :1])
    labels = ops.cast(labels, "float32")
    if not per_class:
        labels = ops.sum(labels, axis=-1, keepdims=True)
    counts = ops.matmul(ops.transpose(labels), clusters)
    present = ops.cast(counts > 0, "float32")
    clusters_of_class = ops.sum(present, axis=1)
    classes = ops.sum(ops.cast(clusters_of_class > 0, "float32"))
    share = present / ops.maximum(counts * clusters_of_class[:, None] * classes, 1.0)
    return ops.sum(ops.matmul(labels, share) * clusters, axis=-1)
