"""From the boxes and masks of Mask R-CNN to a label picture with scores, of a tile and of a whole image."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tfseg.infer.instance_stitch import Tile, TileGrid, stitch
from tfseg.types import ModelError, ModelSpec

InstancePredictor = Callable[[NDArray[np.float32]], Mapping[str, NDArray[Any]]]
"""From images (B, H, W, 3), RGB in 0..255, to the outputs of a network whose task is "instances", by their names; such
as ``tfseg.infer.predictors.onnx_predictor(folder).every_output``."""


CONTEXT = 16
"""So many times as wide as what is not used along its edges is a field."""


@dataclass(frozen=True)
class PasteOptions:
    """How detections become a label picture.

    Attributes:
        threshold: detections of at least this score are kept.
        mask_threshold: pixels of at least this probability in a detection's mask are its own.
        min_area_px: smaller instances are removed.
    """

    threshold: float = 0.5
    mask_threshold: float = 0.5
    min_area_px: int = 30

    def check(self) -> None:
        """Raises ModelError for values that give no instances."""
        for name in ("threshold", "mask_threshold"):
            if not 0 < getattr(self, name) <= 1:
                raise ModelError(f"{name}: expected a probability above 0, at most 1. Received: {getattr(self, name)}.")
        if not self.min_area_px >= 0:
            raise ModelError(f"min_area_px: expected 0 or more pixels. Received: {self.min_area_px}.")


class ScoredInstances(NamedTuple):
    """A label picture and what is known of its instances.

    Attributes:
        labels: int32 (H, W), 0 background.
        scores: label → probability of its class, as :func:`tfseg.metrics.coco.coco_ap` takes them.
        classes: label → index of its class in the spec's ``classes``.
    """

    labels: NDArray[np.int32]
    scores: dict[int, float]
    classes: dict[int, int]


def paste_instances(
    probabilities: ArrayLike,
    boxes: ArrayLike,
    masks: ArrayLike,
    size_px: tuple[int, int],
    options: PasteOptions | None = None,
) -> ScoredInstances:
    """Draws one image's detections, the surest first; a pixel belongs to the first that covers it.

    A mask is resized to its box bilinearly, bins and pixels being taken at their centres. Of a detection that finds
    more than half of its pixels taken nothing is drawn: it is another's object, seen again.

    Args:
        probabilities: (N, C) of the classes, class 0 being none; rows that are certain of class 0 are empty.
        boxes: (N, 4) y1, x1, y2, x2 in pixels.
        masks: (N, M, M) probabilities over the box.
        size_px: (height, width) of the picture.
        options: how.

    Returns:
        Labels 1, 2 … by falling score.

    Raises:
        ModelError: shapes that do not belong together, values that are no numbers, or options out of range.
    """
    options = options or PasteOptions()
    options.check()
    probabilities, boxes, masks = (np.asarray(one, np.float64) for one in (probabilities, boxes, masks))
    _check_shapes(probabilities, boxes, masks)
    labels = np.zeros(size_px, np.int32)
    scores: dict[int, float] = {}
    classes: dict[int, int] = {}
    score = probabilities[:, 1:].max(axis=1)
    for one in np.argsort(-score, kind="stable"):
        if not score[one] >= options.threshold:
            break
        place, covered = _resized(masks[one], boxes[one], size_px, options.mask_threshold)
        free = covered & (labels[place] == 0)
        pixels = np.count_nonzero(free)
        if 2 * pixels < np.count_nonzero(covered) or pixels < max(1, options.min_area_px):
            continue
        label = len(scores) + 1
        labels[place][free] = label
        scores[label] = float(score[one])
        classes[label] = int(probabilities[one, 1:].argmax()) + 1
    return ScoredInstances(labels, scores, classes)


def predict_instances(
    predict: InstancePredictor,
    image: NDArray[np.uint8],
    spec: ModelSpec,
    options: PasteOptions | None = None,
    context_px: int | None = None,
) -> ScoredInstances:
    """The instances of an image of any size.

    The network's fields follow each other by half of their side, GB U-Net's overlap of 50 %. Of each the outermost
    ``context_px`` are looked at and not used, so that what ends there is known to go on; the rest are the tiles that
    :func:`tfseg.infer.instance_stitch.stitch` joins. An instance smaller than their overlap (96 px of fields of 256)
    comes back whole; larger ones may come in pieces; what one field finds at its edge and the next, which sees all of
    it, does not, is none. An image smaller than a field goes on mirrored.

    Args:
        predict: the network.
        image: uint8 RGB (H, W, 3) at the network's µm/px.
        spec: of the network; it has one square input. ``spec.threshold`` is the least score where ``options`` is None.
        options: how detections become labels.
        context_px: None is a sixteenth (1 / ``CONTEXT``) of the field.

    Raises:
        ModelError: a spec of another task or with another input, no RGB image, a context that leaves no overlap, or
            outputs that do not belong together.
    """
    options = options or PasteOptions(threshold=spec.threshold)
    side = field_px(spec)
    if image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        raise ModelError(f"expected an RGB image (H, W, 3). Received: {image.shape}.")
    context = side // CONTEXT if context_px is None else context_px
    tile = side - 2 * context
    if not 0 <= context < side // 4:
        raise ModelError(f"context_px: expected 0 to {side // 4 - 1} px of a field of {side} px. Received: {context}.")
    grid = TileGrid(image.shape[0], image.shape[1], tile, tile - side // 2, agree=False)
    labels = np.zeros(image.shape[:2], np.int32)
    scores: dict[int, float] = {}
    classes: dict[int, int] = {}
    corner, found = (0, 0), ScoredInstances(labels, {}, {})

    def tiles() -> Iterator[Tile]:
        nonlocal corner, found
        for row, column in grid.tiles():
            top, left, bottom, right = grid.box(row, column)
            # A field at the image's end is moved back to lie inside it.
            y, x = (
                max(0, min(first - context, length - side))
                for first, length in zip((top, left), image.shape[:2], strict=True)
            )
            field = find_in_field(predict, image[y : y + side, x : x + side], spec, options)
            corner, found = (top, left), field._replace(labels=field.labels[top - y : bottom - y, left - x : right - x])
            yield Tile(found.labels)

    # stitch yields what begins with a tile before it asks for the next, so ``found`` is what an instance comes from.
    for one in stitch(grid, tiles()):
        y, x = np.argwhere(one.mask)[0]
        number = int(found.labels[one.top - corner[0] + y, one.left - corner[1] + x])
        labels[one.top :, one.left :][: one.mask.shape[0], : one.mask.shape[1]][one.mask] = one.id
        scores[one.id], classes[one.id] = found.scores[number], found.classes[number]
    return ScoredInstances(labels, scores, classes)


def find_in_field(
    predict: InstancePredictor, pixels: NDArray[Any], spec: ModelSpec, options: PasteOptions
) -> ScoredInstances:
    """The instances of a field, RGB (H, W, 3) in 0..255; one smaller than the network's goes on mirrored."""
    size = spec.inputs[0].size_px
    height, width = pixels.shape[:2]
    field = np.pad(pixels, [(0, size[0] - height), (0, size[1] - width), (0, 0)], mode="symmetric")
    found = find_in_fields(predict, field[None].astype(np.float32), spec, options)[0]
    return found._replace(labels=found.labels[:height, :width])


def find_in_fields(
    predict: InstancePredictor, fields: NDArray[np.float32], spec: ModelSpec, options: PasteOptions
) -> list[ScoredInstances]:
    """The instances of each of a batch of whole fields, (B, H, W, 3), by one call of the network."""
    found = predict(fields)
    outputs = [np.asarray(found[name]) for name in spec.outputs]
    if any(len(output) != len(fields) for output in outputs):
        shapes = ", ".join(str(output.shape) for output in outputs)
        raise ModelError(f"{spec.name}: expected outputs of {len(fields)} fields. Received: {shapes}.")
    size = spec.inputs[0].size_px
    return [paste_instances(scores, boxes, masks, size, options) for scores, boxes, masks in zip(*outputs, strict=True)]


def field_px(spec: ModelSpec) -> int:
    """Side of the network's field. Raises ModelError for a spec of another task or with another input."""
    sizes = [one.size_px for one in spec.inputs]
    if spec.task != "instances" or len(spec.outputs) != 3 or len(sizes) != 1 or len(set(sizes[0])) != 1:
        raise ModelError(
            f"{spec.name}: expected a network with the task instances, one square input and three outputs (class "
            f"probabilities, boxes, masks). Received: task {spec.task}, inputs of {sizes} px, outputs {spec.outputs}."
        )
    return sizes[0][0]


def tile_px(spec: ModelSpec) -> int:
    """Side of what is used of a field: all but its outermost sixteenth (1 / ``CONTEXT``) on every side."""
    return field_px(spec) - 2 * (field_px(spec) // CONTEXT)


def _check_shapes(probabilities: NDArray, boxes: NDArray, masks: NDArray) -> None:
    count = len(probabilities)
    fits = probabilities.ndim == 2 and probabilities.shape[1] >= 2 and boxes.shape == (count, 4)
    if not fits or masks.ndim != 3 or len(masks) != count:
        raise ModelError(
            "expected class probabilities (N, C) with C of at least 2, boxes (N, 4) and masks (N, M, M). Received: "
            f"{probabilities.shape}, {boxes.shape} and {masks.shape}."
        )
    if not all(np.isfinite(one).all() for one in (probabilities, boxes, masks)):
        raise ModelError("detections hold values that are no numbers (NaN). Did the network's training diverge?")


def _resized(
    mask: NDArray[np.float64], box: NDArray[np.float64], size_px: tuple[int, int], threshold: float
) -> tuple[tuple[slice, slice], NDArray[np.bool_]]:
    """The pixels whose centres lie in a box, and which of them are the mask's."""
    starts = [max(0, int(np.ceil(edge - 0.5))) for edge in box[:2]]
    stops = [min(side, int(np.ceil(edge - 0.5))) for edge, side in zip(box[2:], size_px, strict=True)]
    place = (slice(starts[0], max(starts[0], stops[0])), slice(starts[1], max(starts[1], stops[1])))
    rows, columns = (
        _weights(np.arange(one.start, one.stop), box[axis], box[axis + 2], mask.shape[axis])
        for axis, one in enumerate(place)
    )
    return place, rows @ mask @ columns.T >= threshold


def _weights(pixels: NDArray[np.integer], first: float, last: float, bins: int) -> NDArray[np.float64]:
    """Of linear interpolation at pixels' centres between the centres of bins from ``first`` to ``last``: (n, bins)."""
    at = np.clip((pixels + 0.5 - first) / max(last - first, 1e-6) * bins - 0.5, 0, bins - 1)
    return np.maximum(0, 1 - np.abs(at[:, None] - np.arange(bins)))
