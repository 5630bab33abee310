"""Weights that multiply a loss: of classes over a training set or a batch, and of samples by their cluster."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from keras import ops
from numpy.typing import ArrayLike

from tfseg.types import CohortError, one_of

CLASS_RULES = ("inverse", "median_frequency", "uniform")


def class_weights(
    counts: ArrayLike, rule: str = "inverse", pixels_where_present: ArrayLike | None = None
) -> tuple[float, ...]:
    """Static weights of classes from the annotated pixels of a training set.

    - "inverse": w_c = 1 − N_c / ΣN (Deep multi-magnification networks, equation 2);
    - "median_frequency": w_c = median(f) / f_c, with f_c the pixels of class c over all annotated pixels of those
      images in which c occurs, and the median over the classes that occur (Eigen and Fergus; CD-UNET);
    - "uniform": w_c = 1.

    A class without a pixel has no target; it weighs 0, so that it counts in no mean over classes either.

    Args:
        counts: annotated pixels by image and class, (N, C), as of ``tfseg.data.class_counts.window_counts``; or their
            sum over images, (C,).
        rule: one of ``CLASS_RULES``.
        pixels_where_present: (C,), annotated pixels of all classes in those images in which each occurs, as
            ``class_counts.json`` of an index has them; for "median_frequency" with counts (C,). None counts them in
            (N, C), and takes every class to occur in every image with (C,).

    Returns:
        C weights.

    Raises:
        CohortError: no pixel is annotated, or only one class has any: there is nothing to tell apart.
        ModelError: unknown rule.
    """
    one_of("rule of class weights", rule, CLASS_RULES)
    by_image = np.atleast_2d(np.asarray(counts, np.float64))
    totals = by_image.sum(axis=0)
    there = totals > 0
    if there.sum() < 2:
        raise CohortError(
            f"class weights: expected annotated pixels of at least 2 classes. Received counts {totals.tolist()}. "
            "Annotate more classes, or check how names in the annotations map to classes (--map)."
        )
    if rule == "uniform":
        weights = np.ones_like(totals)
    elif rule == "inverse":
        weights = 1 - totals / totals.sum()
    else:
        pixels = (by_image.sum(axis=1, keepdims=True) * (by_image > 0)).sum(axis=0)
        pixels = pixels if pixels_where_present is None else np.asarray(pixels_where_present, np.float64)
        frequency = totals / np.maximum(pixels, 1)
        weights = np.median(frequency[there]) / np.where(there, frequency, 1)
    return tuple(np.where(there, weights, 0.0).tolist())


def dynamic_class_weights(truth: Any) -> Any:
    """Weights of classes from the pixels of one batch; multi-stain multi-level network, "Class Imbalance", equation 1.

    w_c ∝ 1 / n_c over the classes in the batch, n_c their annotated pixels, scaled to a mean of 1 over these classes:
    w_c = K · (1 / n_c) / Σ_k (1 / n_k) for K classes. A class that is not in the batch weighs 0.

    Args:
        truth: one-hot (…, C), zeros where not annotated.

    Returns:
        (C,), float32; zeros when nothing is annotated.

    Differs from the paper in: equation 1 is lost from its text; "inverse of their presence" and "normalized" are read
    as above.
    """
    counts = ops.sum(ops.reshape(ops.cast(truth, "float32"), (-1, truth.shape[-1])), axis=0)
    there = ops.cast(counts > 0, "float32")
    inverse = there / ops.maximum(counts, 1.0)
    return inverse * ops.sum(there) / ops.maximum(ops.sum(inverse), 1e-20)


def loss_class_weights(truth: Any, static: Sequence[float] | None = None, dynamic: bool = False) -> Any:
    """The weight of each class in a loss: the product of the weights asked for.

    Args:
        truth: one-hot (…, C), zeros where not annotated.
        static: C weights, from :func:`class_weights` for example; None is 1 each.
        dynamic: also multiply by :func:`dynamic_class_weights` of this batch.

    Returns:
        (C,), float32.

    Raises:
        ValueError: there are not as many static weights as classes.
    """
    classes = truth.shape[-1]
    if static is not None and len(static) != classes:
        raise ValueError(f"class_weights must be {classes}, one a class of the output. Received: {len(static)}.")
    weights = ops.ones((classes,), "float32") if static is None else ops.convert_to_tensor(static, "float32")
    return weights * dynamic_class_weights(truth) if dynamic else weights


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
