"""Which boxes a Mask R-CNN looks into, which it reports, and with which masks: layers without weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import layers, ops

from tfseg.models.blocks import Tensor
from tfseg.models.boxes import NONE, anchors, argmax, clip, decode, nms, take_rows

_LEAST_SIDE_PX = 1.0


class AnchorLayer(layers.Layer):
    """A layer that knows the anchors, (A, 4); computes in float32 under every policy.

    Args:
        size_px: (height, width) of the image.
        sides_px, ratios: as :func:`tfseg.models.boxes.anchors` takes them.
    """

    def __init__(
        self, size_px: Sequence[int], sides_px: Sequence[float], ratios: Sequence[float], **arguments: Any
    ) -> None:
        super().__init__(dtype="float32", **{k: v for k, v in arguments.items() if k != "dtype"})
        self.size_px, self.sides_px, self.ratios = tuple(size_px), tuple(sides_px), tuple(ratios)
        self.anchors = anchors(size_px, sides_px, ratios)

    def get_config(self) -> dict[str, Any]:
        own = {name: list(getattr(self, name)) for name in ("size_px", "sides_px", "ratios")}
        return {**super().get_config(), **own}


@keras.saving.register_keras_serializable("tfseg")
class Proposals(AnchorLayer):
    """The best boxes of the region proposal network; Faster R-CNN, section 3.3.

    The anchors of highest objectness, moved by their offsets, cut to the image, without those below 1 px; then
    non-maximum suppression. All levels compete.

    Called with [logits (B, A, 2) of background and object, offsets (B, A, 4)], it returns boxes (B, K, 4) in pixels by
    falling score, zeros where there are fewer than K. No gradient passes.

    Args:
        before_nms: anchors an image that are looked at.
        count: K.
        threshold: IoU of the suppression.
        anchor: ``size_px``, ``sides_px`` and ``ratios`` of :class:`AnchorLayer`.
    """

    def __init__(self, before_nms: int, count: int, threshold: float, **anchor: Any) -> None:
        super().__init__(**anchor)
        self.before_nms, self.count, self.threshold = before_nms, count, threshold

    def call(self, inputs: Sequence[Tensor]) -> Tensor:
        logits, deltas = (ops.stop_gradient(one) for one in inputs)
        objectness = logits[..., 1] - logits[..., 0]  # rises with the softmax, and is not 1 where that rounds to it
        scores, which = ops.top_k(objectness, min(self.before_nms, len(self.anchors)))
        which = ops.cast(which, "int32")
        references = ops.take(ops.convert_to_tensor(self.anchors), which, axis=0)
        boxes = clip(decode(take_rows(deltas, which), references), self.size_px)
        indices, kept = nms(boxes, ops.where(has_area(boxes), scores, NONE), self.count, self.threshold)
        return ops.where(kept[..., None], take_rows(boxes, indices), 0.0)

    def compute_output_shape(self, input_shape: Sequence[Sequence[int | None]]) -> tuple[int | None, ...]:
        return input_shape[0][0], self.count, 4

    def get_config(self) -> dict[str, Any]:
        own = {name: getattr(self, name) for name in ("before_nms", "count", "threshold")}
        return {**super().get_config(), **own}


@keras.saving.register_keras_serializable("tfseg")
class Detections(layers.Layer):
    """Proposals that hold an object, moved onto it, each object once.

    A proposal's class is its most probable one but background; its box is moved by that class' offsets and cut to the
    image. Those below ``min_score`` go, then within each class what non-maximum suppression takes.

    Called with [proposals (B, K, 4), logits (B, K, C), offsets (B, K, C · 4)], it returns
    {"classes": (B, N, C) probabilities by falling score, "boxes": (B, N, 4) px}. An empty place is background for
    certain and has a box of zeros. The offsets get a gradient, which no one uses; which box is chosen has none.

    Args:
        size_px: (height, width) of the image.
        count: N.
        threshold: IoU of the suppression.
        min_score: least probability of a class.
    """

    def __init__(
        self, size_px: Sequence[int], count: int, threshold: float, min_score: float, **arguments: Any
    ) -> None:
        super().__init__(dtype="float32", **{k: v for k, v in arguments.items() if k != "dtype"})
        self.size_px, self.count, self.threshold, self.min_score = tuple(size_px), count, threshold, min_score

    def call(self, inputs: Sequence[Tensor]) -> dict[str, Tensor]:
        proposals, logits, deltas = inputs
        classes = logits.shape[-1]
        probabilities = ops.softmax(logits, axis=-1)
        score, best = best_class(probabilities)
        deltas = ops.reshape(deltas, (-1, *proposals.shape[1:2], classes, 4))
        deltas = ops.sum(deltas * ops.one_hot(best, classes, dtype="float32")[..., None], axis=2)
        boxes = clip(decode(deltas, proposals), self.size_px)
        good = ops.logical_and(has_area(boxes), score >= self.min_score)
        # Boxes of different classes are moved apart, so that none suppresses another.
        apart = ops.cast(best, "float32")[..., None] * (max(self.size_px) + 1.0)
        indices, kept = nms(boxes + apart, ops.where(good, score, NONE), self.count, self.threshold)
        nothing = ops.one_hot(ops.zeros_like(indices), classes, dtype="float32")
        return {
            "classes": ops.where(kept[..., None], take_rows(probabilities, indices), nothing),
            "boxes": ops.where(kept[..., None], take_rows(boxes, indices), 0.0),
        }

    def compute_output_shape(self, input_shape: Sequence[Sequence[int | None]]) -> dict[str, tuple[int | None, ...]]:
        batch, _, classes = input_shape[1]
        return {"classes": (batch, self.count, classes), "boxes": (batch, self.count, 4)}

    def get_config(self) -> dict[str, Any]:
        own = {name: getattr(self, name) for name in ("count", "threshold", "min_score")}
        return {**super().get_config(), "size_px": list(self.size_px), **own}


@keras.saving.register_keras_serializable("tfseg")
class ClassMasks(layers.Layer):
    """Each detection's mask of its own class, as probabilities.

    Called with [logits (B, N, M, M, C), class probabilities (B, N, C)], it returns (B, N, M, M) in 0..1; zeros in empty
    places.
    """

    def call(self, inputs: Sequence[Tensor]) -> Tensor:
        logits, classes = inputs
        score, best = best_class(classes)
        of_class = ops.one_hot(best, classes.shape[-1], dtype="float32")[:, :, None, None]
        masks = ops.sigmoid(ops.sum(logits * of_class, axis=-1))
        return ops.where(score[..., None, None] > 0, masks, 0.0)


@keras.saving.register_keras_serializable("tfseg")
class PerImage(layers.Layer):
    """(B · N, …) → (B, N, …), float32.

    Args:
        count: N.
    """

    def __init__(self, count: int, **arguments: Any) -> None:
        super().__init__(dtype="float32", **{k: v for k, v in arguments.items() if k != "dtype"})
        self.count = count

    def call(self, inputs: Tensor) -> Tensor:
        return ops.reshape(inputs, (-1, self.count, *inputs.shape[1:]))

    def compute_output_shape(self, input_shape: Sequence[int | None]) -> tuple[int | None, ...]:
        return None, self.count, *input_shape[1:]

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "count": self.count}


def best_class(probabilities: Tensor) -> tuple[Tensor, Tensor]:
    """The most probable class but background: its probability (…) and its index, int32 (…), of (…, C)."""
    return ops.max(probabilities[..., 1:], axis=-1), argmax(probabilities[..., 1:]) + 1


def has_area(boxes: Tensor) -> Tensor:
    """Whether boxes (…, 4) are at least 1 px high and wide; bool (…)."""
    height, width = boxes[..., 2] - boxes[..., 0], boxes[..., 3] - boxes[..., 1]
    return ops.logical_and(height >= _LEAST_SIDE_PX, width >= _LEAST_SIDE_PX)
