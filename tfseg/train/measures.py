"""Keras metrics that training logs. Undefined values are NaN, never 0."""

from __future__ import annotations

import keras
import tensorflow as tf

from tfseg.types import IGNORE


class ClassRecall(keras.metrics.Metric):
    """Fraction of the samples of one class whose most probable class it is; NaN without such samples.

    Args:
        class_index: the class.
        name: column in the log.

    Updated with one-hot targets (B, C) and probabilities (B, C).
    """

    def __init__(self, class_index: int, name: str):
        super().__init__(name=name)
        self.class_index = class_index
        self.hits = self.add_weight(name="hits", initializer="zeros")
        self.there = self.add_weight(name="there", initializer="zeros")

    def update_state(self, y_true: tf.Tensor, y_pred: tf.Tensor, sample_weight: None = None) -> None:
        there = tf.argmax(y_true, -1) == self.class_index
        found = tf.argmax(y_pred, -1) == self.class_index
        self.there.assign_add(tf.reduce_sum(tf.cast(there, tf.float32)))
        self.hits.assign_add(tf.reduce_sum(tf.cast(there & found, tf.float32)))

    def result(self) -> tf.Tensor:
        return self.hits / self.there


class SlideDice(keras.metrics.Metric):
    """Mean over slides and foreground classes of Dice = 2·TP / (2·TP + FP + FN), as H2G-Net reports it.

    A class counts where its probability is at least ``threshold``; class 0 is background. Pixels labelled 255 do not
    count. A slide without a class in labels and prediction says nothing of that class and is left out; NaN when
    nothing is left.

    Updated with labels uint8 (B, H, W) and probabilities (B, H, W, C).
    """

    def __init__(self, threshold: float = 0.5, name: str = "dice"):
        super().__init__(name=name)
        self.threshold = threshold
        self.total = self.add_weight(name="total", initializer="zeros")
        self.count = self.add_weight(name="count", initializer="zeros")

    def update_state(self, y_true: tf.Tensor, y_pred: tf.Tensor, sample_weight: None = None) -> None:
        known = tf.cast(y_true != IGNORE, tf.float32)[..., None]
        # One-hot of 255 is all zero, so ignored pixels are in no class.
        truth = tf.one_hot(tf.cast(y_true, tf.int32), y_pred.shape[-1])[..., 1:]
        found = tf.cast(y_pred[..., 1:] >= self.threshold, tf.float32) * known
        both = tf.reduce_sum(truth * found, axis=(1, 2))
        sizes = tf.reduce_sum(truth, axis=(1, 2)) + tf.reduce_sum(found, axis=(1, 2))
        self.total.assign_add(tf.reduce_sum(tf.math.divide_no_nan(2.0 * both, sizes)))
        self.count.assign_add(tf.reduce_sum(tf.cast(sizes > 0, tf.float32)))

    def result(self) -> tf.Tensor:
        return self.total / self.count


class MeanIoU(keras.metrics.Metric):
    """Mean over classes of IoU = TP / (TP + FP + FN), of the most probable class, over all pixels since the reset.

    Pixels labelled 255 do not count. A class that nobody annotated in these pixels (such as the class that stands for
    "not annotated") is left out of the mean; what is wrongly called so still counts against the true class. NaN when
    nothing is annotated.

    Args:
        num_classes: C.
        name: column in the log.

    Updated with labels (B, H, W), integers in 0..C-1 or 255, and probabilities (B, H, W, C).
    """

    def __init__(self, num_classes: int, name: str = "mean_iou"):
        super().__init__(name=name)
        self.num_classes = num_classes
        # Whole numbers: a float32 sum of pixels stops to grow at 2^24.
        self.counts = self.add_weight((num_classes, num_classes), "zeros", "int64", name="counts")

    def update_state(self, y_true: tf.Tensor, y_pred: tf.Tensor, sample_weight: None = None) -> None:
        known = tf.where(y_true != IGNORE)
        truth = tf.gather_nd(tf.cast(y_true, tf.int64), known)
        found = tf.gather_nd(tf.argmax(y_pred, -1), known)
        self.counts.assign_add(tf.math.confusion_matrix(truth, found, self.num_classes, dtype=tf.int64))

    def result(self) -> tf.Tensor:
        counts = tf.cast(self.counts, tf.float64)
        right, true, found = tf.linalg.diag_part(counts), tf.reduce_sum(counts, 1), tf.reduce_sum(counts, 0)
        ious = tf.boolean_mask(right / (true + found - right), true > 0)
        return tf.cast(tf.reduce_sum(ious) / tf.cast(tf.size(ious), tf.float64), tf.float32)
