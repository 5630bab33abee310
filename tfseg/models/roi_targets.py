"""What a Mask R-CNN learns from at a step: which anchors and which boxes, and what is true of each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import layers, ops

from tfseg.models.blocks import Tensor
from tfseg.models.boxes import area, encode, iou, take_rows
from tfseg.models.proposals import AnchorLayer
from tfseg.models.roi_align import neighbours, spread

NOT_COUNTED = -1
"""Class of what counts in no loss."""


@keras.saving.register_keras_serializable("tfseg")
class AnchorTargets(AnchorLayer):
    """Which anchors the region proposal network learns from; Faster R-CNN, sections 3.1.2 and 3.1.3.

    Positive: an IoU of at least 0.7 with an instance, or the highest that any anchor has with that instance. Negative:
    below 0.3 with all. Of them ``count`` an image are drawn, at most half of them positive; the rest count nowhere.

    Called with [boxes (B, G, 4) px of the instances, classes int (B, G), 0 where there is none], it returns
    {"classes": (B, A), 1 object, 0 background, −1 not counted, "deltas": (B, A, 4), offsets from each anchor to its
    instance}, float32. Under ``training`` each call draws anew, from a generator whose state is a variable, so that a
    run can go on exactly; else it draws the same each time.

    Args:
        count: anchors an image.
        seed: of the draw.
        anchor: ``size_px``, ``sides_px`` and ``ratios`` of :class:`tfseg.models.proposals.AnchorLayer`.

    Differs from the paper in: anchors that reach beyond the image take part, as in Feature Pyramid Networks.
    """

    def __init__(self, count: int, seed: int, **anchor: Any) -> None:
        super().__init__(**anchor)
        self.count, self.seed = count, seed
        self.generator = keras.random.SeedGenerator(seed)

    def call(self, inputs: Sequence[Tensor], training: bool = False) -> dict[str, Tensor]:
        boxes, classes = inputs
        references = ops.convert_to_tensor(self.anchors)
        overlap = iou(references[None], boxes) * ops.cast(classes > 0, "float32")[:, None]
        highest, closest = ops.max(overlap, axis=2), ops.max(overlap, axis=1, keepdims=True)
        is_closest = ops.any(ops.logical_and(overlap == closest, closest > 0), axis=2)
        positive = ops.logical_or(highest >= 0.7, is_closest)
        negative = ops.logical_and(highest < 0.3, ops.logical_not(positive))
        order = draw(ops.shape(highest), self.generator if training else self.seed)
        positive = first(positive, order, self.count // 2)
        left = self.count - ops.sum(ops.cast(positive, "int32"), axis=1)
        negative = first(negative, order, self.count, left)
        counted = ops.where(negative, 0.0, float(NOT_COUNTED))
        instance = take_rows(boxes, ops.cast(ops.argmax(overlap, axis=2), "int32"))
        return {
            "classes": ops.where(positive, 1.0, counted),
            "deltas": encode(instance, ops.broadcast_to(references[None], ops.shape(instance))),
        }

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "count": self.count, "seed": self.seed}


@keras.saving.register_keras_serializable("tfseg")
class RoiTargets(layers.Layer):
    """Which boxes the heads learn from, and what is true of each; Mask R-CNN, section 3.1.

    Candidates are the proposals and the instances' own boxes. Positive: an IoU of at least 0.5 with an instance;
    negative: all others. R of them an image are drawn, at most P = round(share · R) of them positive and at most R − P
    negative: the positive ones take the first P places. Drawn as in :class:`AnchorTargets`.

    A mask's target is the part of the instance's mask inside the box, at size² bins: bilinear between the pixels around
    the bin's centre, 1 from one half.

    Called with [proposals (B, K, 4) px, boxes (B, G, 4) px, classes int (B, G), labels int (B, H, W): g + 1 on the
    pixels of instance g], it returns, float32,
    {"boxes": (B, R, 4), "classes": (B, R), 0 background, −1 an empty place, "deltas": (B, R, 4) offsets from each box
    to its instance's, "masks": (B, P, size, size), 0 or 1}.

    Args:
        count: R.
        share: most positive boxes, as a share of R.
        size: bins to a side of a mask.
        seed: of the draw.
    """

    def __init__(self, count: int, share: float, size: int, seed: int, **arguments: Any) -> None:
        super().__init__(dtype="float32", **{k: v for k, v in arguments.items() if k != "dtype"})
        self.count, self.share, self.size, self.seed = count, share, size, seed
        self.generator = keras.random.SeedGenerator(seed)

    @property
    def most_positive(self) -> int:
        """P."""
        return max(1, round(self.share * self.count))

    def call(self, inputs: Sequence[Tensor], training: bool = False) -> dict[str, Tensor]:
        proposals, boxes, classes, labels = inputs
        candidates = ops.concatenate([ops.stop_gradient(proposals), boxes], axis=1)
        overlap = iou(candidates, boxes) * ops.cast(classes > 0, "float32")[:, None]
        positive = ops.max(overlap, axis=2) >= 0.5
        negative = ops.logical_and(area(candidates) > 0, ops.logical_not(positive))
        order = draw(ops.shape(positive), self.generator if training else self.seed)
        positives = min(self.most_positive, candidates.shape[1])
        parts = [drawn(positive, order, positives), drawn(negative, order, self.count - positives)]
        which, there = (ops.concatenate(both, axis=1) for both in zip(*parts, strict=True))
        rois = ops.where(there[..., None], take_rows(candidates, which), 0.0)
        instance = take_rows(ops.cast(ops.argmax(overlap, axis=2), "int32"), which)
        is_positive = ops.logical_and(there, take_rows(positive, which))
        of_class = ops.where(is_positive, ops.cast(take_rows(classes, instance), "float32"), 0.0)
        ids = instance[:, :positives] + 1
        return {
            "boxes": rois,
            "classes": ops.where(there, of_class, float(NOT_COUNTED)),
            "deltas": encode(take_rows(boxes, instance), rois),
            "masks": mask_targets(rois[:, :positives], ids, labels, self.size),
        }

    def get_config(self) -> dict[str, Any]:
        own = {name: getattr(self, name) for name in ("count", "share", "size", "seed")}
        return {**super().get_config(), **own}


def draw(shape: Sequence[Any], seed: Any) -> Tensor:
    """Uniform numbers in [0, 1), by which candidates are put in order."""
    return keras.random.uniform(shape, dtype="float32", seed=seed)


def first(candidates: Tensor, order: Tensor, most: int, count: Tensor | None = None) -> Tensor:
    """The candidates of highest ``order``.

    Args:
        candidates: bool (B, N).
        order: (B, N) in [0, 1).
        most: how many an image at most.
        count: int32 (B,), how many an image, up to ``most``; None is ``most``.

    Returns:
        bool (B, N).
    """
    most = min(most, candidates.shape[1])
    values = ops.where(candidates, order, -1.0)
    best = ops.top_k(values, most)[0]
    if count is None:
        least = best[:, -1:]
    else:
        place = ops.clip(count[:, None] - 1, 0, most - 1)
        least = ops.where(count[:, None] > 0, take_rows(best, ops.cast(place, "int32")), 2.0)
    return ops.logical_and(candidates, values >= least)


def drawn(candidates: Tensor, order: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The ``count`` candidates of highest ``order``: int32 (B, count) indices, and bool (B, count), whether it is one.

    Where there are fewer than ``count`` places in all, index 0 fills the rest and counts as none.
    """
    found = min(count, candidates.shape[1])
    values, which = ops.top_k(ops.where(candidates, order, -1.0), found)
    more = [(0, 0), (0, count - found)]
    return ops.pad(ops.cast(which, "int32"), more), ops.pad(values >= 0, more)


def mask_targets(boxes: Tensor, ids: Tensor, labels: Tensor, size: int) -> Tensor:
    """The masks of labelled instances inside boxes.

    Args:
        boxes: (B, P, 4) px.
        ids: int32 (B, P), label of each.
        labels: int (B, H, W).
        size: M, bins to a side.

    Returns:
        (B, P, M, M) float32, 1 where at least half of the bilinear weights around a bin's centre lie on the instance.
    """
    height, width = labels.shape[1:3]
    pixels = ops.cast(ops.reshape(labels, (-1, height * width)), "int32")
    share = 0.0
    for row, y_weight in neighbours(spread(boxes, 0, size), height):
        for column, x_weight in neighbours(spread(boxes, 1, size), width):
            found = take_rows(pixels, row[..., None] * width + column[..., None, :]) == ids[..., None, None]
            share = share + ops.cast(found, "float32") * y_weight[..., None] * x_weight[..., None, :]
    return ops.cast(share >= 0.5, "float32")
