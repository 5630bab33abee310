"""The five losses of Mask R-CNN."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import keras
from keras import ops

Term = Callable[[Mapping[str, Any], Mapping[str, Any], Mapping[str, Any]], Any]
"""(inputs, targets, outputs), each keyed by Keras names, → scalar."""


def mask_rcnn_losses() -> dict[str, Term]:
    """The loss terms of ``tfseg.models.mask_rcnn.training_network``; He et al. 2017, section 3: their plain sum.

    "anchor_class", "anchor_box": :func:`class_loss` and :func:`box_loss` of the region proposal network;
    "roi_class", "roi_box", "mask": the same of the box head, and :func:`mask_loss`.

    The truths come with the network's outputs, for it draws which anchors and boxes count.

    Differs from the paper in: means are over all that counts in the batch, as in matterport's, not by image; Faster
    R-CNN divides the offsets' loss by the number of all drawn anchors or boxes.
    """

    def anchor_class(inputs: Any, targets: Any, outputs: Any) -> Any:
        return class_loss(outputs["anchor_classes"], outputs["anchor_logits"])

    def anchor_box(inputs: Any, targets: Any, outputs: Any) -> Any:
        return box_loss(outputs["anchor_classes"], outputs["anchor_truth"], outputs["anchor_deltas"])

    def roi_class(inputs: Any, targets: Any, outputs: Any) -> Any:
        return class_loss(outputs["roi_classes"], outputs["roi_logits"])

    def roi_box(inputs: Any, targets: Any, outputs: Any) -> Any:
        num_classes = outputs["roi_logits"].shape[-1]
        deltas = of_class(outputs["roi_deltas"], outputs["roi_classes"], num_classes)
        return box_loss(outputs["roi_classes"], outputs["roi_truth"], deltas)

    def mask(inputs: Any, targets: Any, outputs: Any) -> Any:
        truth = outputs["roi_masks"]
        return mask_loss(outputs["roi_classes"][:, : truth.shape[1]], truth, outputs["mask_logits"])

    terms = (anchor_class, anchor_box, roi_class, roi_box, mask)
    return {term.__name__: term for term in terms}


def class_loss(classes: Any, logits: Any) -> Any:
    """Mean cross-entropy over what counts; 0 where nothing does.

    Args:
        classes: (B, N), true class; below 0 does not count.
        logits: (B, N, C).
    """
    counted = classes >= 0
    truth = ops.cast(ops.maximum(classes, 0.0), "int32")
    losses = keras.losses.sparse_categorical_crossentropy(truth, logits, from_logits=True)
    return _mean(losses, counted)


def box_loss(classes: Any, truth: Any, deltas: Any) -> Any:
    """Mean smooth L1 over the offsets of what holds an instance; Fast R-CNN, equation 3.

    x²/2 for |x| < 1, |x| − 1/2 beyond, x the difference of an offset; 0 where nothing holds an instance.

    Args:
        classes: (B, N), above 0 for an instance.
        truth, deltas: (B, N, 4).
    """
    distance = ops.abs(truth - deltas)
    losses = ops.where(distance < 1, ops.square(distance) / 2, distance - 0.5)
    return _mean(ops.mean(losses, axis=-1), classes > 0)


def mask_loss(classes: Any, truth: Any, logits: Any) -> Any:
    """Mean binary cross-entropy over the pixels of the true class' masks; 0 where no box holds an instance.

    Other classes' masks count nothing, so that classes do not compete in a pixel.

    Args:
        classes: (B, P), above 0 for an instance.
        truth: (B, P, M, M), 0 or 1.
        logits: (B, P, M, M, C).
    """
    chosen = ops.one_hot(ops.cast(ops.maximum(classes, 0.0), "int32"), logits.shape[-1], dtype="float32")
    logits = ops.sum(logits * chosen[:, :, None, None], axis=-1)
    # ln(1 + e^x) − t·x, written so that no exponential overflows
    losses = ops.maximum(logits, 0.0) - logits * truth + ops.log1p(ops.exp(-ops.abs(logits)))
    return _mean(ops.mean(losses, axis=(2, 3)), classes > 0)


def of_class(deltas: Any, classes: Any, num_classes: int) -> Any:
    """The offsets of each box's own class: (B, N, C · 4) and (B, N) → (B, N, 4)."""
    chosen = ops.one_hot(ops.cast(ops.maximum(classes, 0.0), "int32"), num_classes, dtype="float32")
    return ops.sum(ops.reshape(deltas, (-1, *deltas.shape[1:2], num_classes, 4)) * chosen[..., None], axis=2)


def _mean(values: Any, counted: Any) -> Any:
    counted = ops.cast(counted, "float32")
    return ops.sum(values * counted) / ops.maximum(ops.sum(counted), 1.0)
