"""Cross-entropy of softmax outputs, per sample or per pixel: plain, weighted by class, by pixel, or by cluster."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import ops

from tfseg.losses.weights import cluster_weights, loss_class_weights
from tfseg.types import IGNORE

_PIXEL_FLOOR = 1e-30
"""Its inverse, times a weight and a loss scale, is still a float32."""


def crossentropy(labels: Any, probabilities: Any, ignore: int = IGNORE, floor: float = 1e-7) -> Any:
    """−log of the probability of the true class, 0 where nobody annotated.

    Args:
        labels: class indices of shape (…), with ``ignore`` for "not annotated"; or one-hot (…, C), where a row of zeros
            means "not annotated". One-hot is taken when the rank is that of ``probabilities``.
        probabilities: (…, C), sums to 1 over C.
        ignore: the index that stands for "not annotated".
        floor: probabilities are clipped to [floor, 1] before the logarithm; where the true class has less, there is no
            gradient. 1e-7 is Keras' own, with which H2G-Net's classifier is trained.

    Returns:
        (…), float32.
    """
    probabilities = ops.cast(probabilities, "float32")
    truth = one_hot_labels(labels, probabilities, ignore)
    return -ops.sum(truth * ops.log(ops.clip(probabilities, floor, 1.0)), axis=-1)


def one_hot_labels(labels: Any, probabilities: Any, ignore: int = IGNORE) -> Any:
    """Labels as float32 one-hot (…, C), zeros where not annotated; ``labels`` as in :func:`crossentropy`."""
    if len(labels.shape) == len(probabilities.shape):
        return ops.cast(labels, "float32")
    labels = ops.cast(labels, "int32")
    known = ops.cast(labels != ignore, "float32")
    return (
        ops.one_hot(ops.where(labels == ignore, 0, labels), probabilities.shape[-1], dtype="float32") * known[..., None]
    )


@keras.saving.register_keras_serializable("tfseg")
class Crossentropy(keras.losses.Loss):
    """Cross-entropy averaged over the annotated samples or pixels of a batch; 0 where there are none.

    Labels and probabilities as in :func:`crossentropy`; per batch element i the loss returns its sum of cross-entropies
    times B over the batch's number of annotated elements, so that the mean over the batch is the mean over annotated
    elements, and ``sample_weight`` (B,) still weighs elements.

    Probabilities are clipped at 1e-30: the gradient at a softmax' logits is p − t also where a pixel is wrong by far,
    up to 69 between the logits.

    Args:
        ignore: label of pixels that nobody annotated.
    """

    def __init__(self, ignore: int = IGNORE, name: str = "crossentropy", **kwargs: Any):
        super().__init__(name=name, dtype=kwargs.pop("dtype", "float32"), **kwargs)
        self.ignore = ignore

    def call(self, y_true: Any, y_pred: Any) -> Any:
        truth = one_hot_labels(y_true, y_pred, self.ignore)
        values = crossentropy(truth, y_pred, floor=_PIXEL_FLOOR) * self.pixel_weights(truth)
        batch = ops.shape(values)[0]
        scale = ops.cast(batch, "float32") / ops.maximum(self.pixels(truth), 1.0)
        return ops.sum(ops.reshape(values, (batch, -1)), axis=-1) * scale

    def pixel_weights(self, truth: Any) -> Any:
        """What each pixel's cross-entropy is multiplied by, to broadcast with (…); ``truth`` is one-hot (…, C)."""
        return 1.0

    def pixels(self, truth: Any) -> Any:
        """How many pixels the mean is over, float32."""
        return ops.sum(truth)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "ignore": self.ignore}


@keras.saving.register_keras_serializable("tfseg")
class WeightedCrossentropy(Crossentropy):
    """−(1/N) Σ_p w_c(p) · log p_c(p), c the true class of pixel p; N the annotated pixels of the batch.

    Weights compose by multiplication: w_c is the static weight of class c (Deep multi-magnification networks, equations
    1 and 2; CD-UNET) times, with ``dynamic``, that of the batch (multi-stain multi-level network, "Loss Function").
    They are not divided by their sum.

    Args:
        class_weights: C static weights, as of :func:`tfseg.losses.weights.class_weights`; None is 1 each.
        dynamic: multiply by :func:`tfseg.losses.weights.dynamic_class_weights`.
        ignore: label of pixels that nobody annotated.
        over_all: N counts every pixel of the batch, annotated or not. That is what equation 1 of the Deep
            multi-magnification networks says: a batch with fewer annotated pixels then moves the network less.

    Differs from the paper in: without ``over_all``, N counts annotated pixels alone.
    """

    def __init__(
        self,
        class_weights: Sequence[float] | None = None,
        dynamic: bool = False,
        ignore: int = IGNORE,
        over_all: bool = False,
        name: str = "weighted_crossentropy",
        **kwargs: Any,
    ):
        super().__init__(ignore, name=name, **kwargs)
        self.class_weights = None if class_weights is None else [float(w) for w in class_weights]
        self.dynamic = dynamic
        self.over_all = over_all

    def pixel_weights(self, truth: Any) -> Any:
        return ops.sum(truth * loss_class_weights(truth, self.class_weights, self.dynamic), axis=-1)

    def pixels(self, truth: Any) -> Any:
        return ops.sum(ops.ones_like(truth[..., 0])) if self.over_all else super().pixels(truth)

    def get_config(self) -> dict[str, Any]:
        own = {key: getattr(self, key) for key in ("class_weights", "dynamic", "over_all")}
        return {**super().get_config(), **own}


def pixel_weighted_crossentropy(labels: Any, probabilities: Any, weights: Any, ignore: int = IGNORE) -> Any:
    """(1/N) Σ_p w(p) · −log p_c(p), c the true class of pixel p; GB U-Net, equation 2, after U-Net's equation 1.

    N counts the batch's annotated pixels; the weights are not divided by their sum. As in :class:`Crossentropy`,
    probabilities are clipped at 1e-30.

    Args:
        labels: (B, H, W) class indices, with ``ignore`` for "not annotated"; or one-hot (B, H, W, C), zeros there.
        probabilities: (B, H, W, C), sums to 1 over C.
        weights: (B, H, W), those of the pixels; ``tfseg.data.border_weights`` makes them of nuclei.
        ignore: label of pixels that nobody annotated.

    Returns:
        Scalar, float32 under every precision policy; 0 where nothing is annotated.

    Raises:
        ValueError: the weights are not of the probabilities' (B, H, W).

    Differs from the paper in: its sum over pixels is a mean, so that neither the size of the tile nor that of the batch
    moves the balance with soft Dice.
    """
    truth = one_hot_labels(labels, probabilities, ignore)
    if tuple(weights.shape) != tuple(truth.shape[:-1]):
        raise ValueError(
            f"weights must be one a pixel, of shape {tuple(truth.shape[:-1])}. Received: {tuple(weights.shape)}."
        )
    values = ops.cast(weights, "float32") * crossentropy(truth, probabilities, floor=_PIXEL_FLOOR)
    return ops.sum(values) / ops.maximum(ops.sum(truth), 1.0)


class PixelWeightedCrossentropy:
    """:func:`pixel_weighted_crossentropy` with weights that come with the batch, as a loss term of training.

    GB U-Net's loss (equation 1) is this plus ``tfseg.losses.SoftDice()``, as two terms:
    ``{"crossentropy": PixelWeightedCrossentropy(), "dice": output_loss("segmentation", SoftDice())}``.

    Args:
        output: name of the network's output and of its labels.
        weights: name under which the weights lie beside the labels.
        ignore: label of pixels that nobody annotated.
    """

    def __init__(self, output: str = "segmentation", weights: str = "weights", ignore: int = IGNORE):
        self.output = output
        self.weights = weights
        self.ignore = ignore

    def __call__(self, inputs: dict[str, Any], targets: dict[str, Any], outputs: dict[str, Any]) -> Any:
        """Loss of one batch, a float32 scalar.

        Args:
            inputs: are not looked at.
            targets: {"segmentation": (B, H, W) class indices, "weights": (B, H, W) float32}.
            outputs: {"segmentation": (B, H, W, C) probabilities}.
        """
        weights = targets[self.weights]
        return pixel_weighted_crossentropy(targets[self.output], outputs[self.output], weights, self.ignore)


class ClusterWeightedCrossentropy:
    """Cluster-weighted cross-entropy of a patch classifier; H2G-Net section 2.4, equation 1.

    Σ_i w_i · CE_i with w = :func:`tfseg.losses.weights.cluster_weights` of the patches' clusters: the mean over the
    clusters present in the batch of the mean cross-entropy inside each. The clusters come from a frozen network that
    sees the same images as the classifier; no gradient goes through it.

    Args:
        clustering: images (B, H, W, 3) → one-hot cluster (B, K); from ``tfseg.models.clustering.clustering_model``.
        per_class: the authors' released form, see :func:`tfseg.losses.weights.cluster_weights`.
        image: name of the input that it sees.
        output: name of the classifier's output.

    Differs from the paper in: equation 1 sums over a cluster's samples where its text says mean; the mean is taken.
    """

    def __init__(
        self,
        clustering: Callable[[Any], Any],
        per_class: bool = False,
        image: str = "image",
        output: str = "probabilities",
    ):
        self.clustering = clustering
        self.per_class = per_class
        self.image = image
        self.output = output

    def __call__(self, inputs: dict[str, Any], targets: dict[str, Any], outputs: dict[str, Any]) -> Any:
        """Loss of one batch, a float32 scalar.

        Args:
            inputs: {"image": (B, H, W, 3)}.
            targets: {"probabilities": one-hot (B, C), or indices (B,) with 255 for "not annotated"}.
            outputs: {"probabilities": (B, C)}.
        """
        clusters = ops.stop_gradient(self.clustering(inputs[self.image]))
        probabilities = outputs[self.output]
        labels = one_hot_labels(targets[self.output], probabilities)
        weights = cluster_weights(clusters, labels, self.per_class)
        return ops.sum(weights * crossentropy(labels, probabilities))
