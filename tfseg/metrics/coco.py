"""COCO's average precision of scored instances, by pycocotools."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tfseg.metrics.instances import PERCENT, THRESHOLDS, check_labels
from tfseg.types import TfsegError

_CATEGORY = {"id": 1, "name": "instance"}


def coco_ap(
    truths: Sequence[ArrayLike], predictions: Sequence[ArrayLike], scores: Sequence[Mapping[int, float]]
) -> dict[str, float]:
    """Average precision over the ranking of all images' instances, as COCO defines it for masks.

    At each IoU threshold the predictions of all images together are ranked by score; in that order each takes the true
    instance of its image that is still free and has the highest IoU, if that is at least the threshold, and is TP, else
    FP. Precision is made non-increasing in recall and averaged over the recalls 0, 0.01 … 1, 0 where the ranking does
    not get there. Unlike COCO's own default the 100 best predictions an image are not all that count: an image of
    tissue has a thousand nuclei. There is one class, and instances of every size.

    Predictions without scores have no ranking and no COCO AP: see ``map_precision`` and ``map_dsb`` of
    :func:`tfseg.metrics.instances.instance_scores`, which are other statistics.

    Time grows with true times predicted instances of an image: some seconds for a thousand of each.

    Args:
        truths, predictions: label images (H, W), integers, 0 where there is no instance; an image each.
        scores: of each image, label of the prediction → its score, higher is surer; labels that are not in the image do
            no harm.

    Returns:
        "coco_ap 0.50", "coco_ap 0.55" … "coco_ap 0.95" and their mean "coco_ap". NaN without a true instance in any
        image, 0 without a predicted one.

    Raises:
        ValueError: numbers of images or shapes differ, labels are no labels, scores are no mapping, or one is missing
            or not finite; says in which image, counted from 0.
        TfsegError: pycocotools is not installed.
    """
    if not len(truths) == len(predictions) == len(scores):
        found = f"{len(truths)}, {len(predictions)}, {len(scores)}"
        raise ValueError(f"truths, predictions and scores need one entry an image each. Received: {found}.")
    coco, evaluation, masks = _pycocotools()
    images: list[dict[str, int]] = []
    true: list[dict[str, Any]] = []
    predicted: list[dict[str, Any]] = []
    for k, (truth, prediction, score) in enumerate(zip(truths, predictions, scores, strict=True)):
        t, p = check_labels(f"truth of image {k}", truth), check_labels(f"prediction of image {k}", prediction)
        if t.shape != p.shape or t.ndim != 2:
            raise ValueError(f"image {k}: truth and prediction must be (H, W). Received: {t.shape} and {p.shape}.")
        if not isinstance(score, Mapping):
            raise ValueError(f"image {k}: scores must be {{label: score}}. Received: {type(score).__name__}.")
        images.append({"id": k, "height": t.shape[0], "width": t.shape[1]})
        true += [_annotation(k, runs, masks) for _, runs in _runs(t)]
        predicted += [{**_annotation(k, runs, masks), "score": _score(k, n, score)} for n, runs in _runs(p)]
    if not true:
        return dict.fromkeys([*(f"coco_ap {t}" for t in THRESHOLDS), "coco_ap"], float("nan"))
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools reports its progress there
        judge = evaluation.COCOeval(_dataset(coco, images, true), _dataset(coco, images, predicted), "segm")
        judge.params.iouThrs = np.array(PERCENT) / 100
        judge.params.maxDets = [max(len(predicted), 1)]
        judge.params.areaRng, judge.params.areaRngLbl = [[0, 1e10]], ["all"]
        judge.evaluate()
        judge.accumulate()
    by_threshold = judge.eval["precision"][:, :, 0, 0, 0].mean(axis=1)
    values = {f"coco_ap {t}": float(value) for t, value in zip(THRESHOLDS, by_threshold, strict=True)}
    return {**values, "coco_ap": float(by_threshold.mean())}


def _pycocotools() -> tuple[ModuleType, ModuleType, ModuleType]:
    """Its modules coco, cocoeval and mask."""
    try:
        from pycocotools import coco, cocoeval, mask
    except ImportError as error:
        raise TfsegError(
            f"coco_ap needs pycocotools ({error}). Install it with `pip install pycocotools` (or `make install`)."
        ) from error
    return coco, cocoeval, mask


def _dataset(coco: ModuleType, images: list[dict[str, int]], annotations: list[dict[str, Any]]) -> Any:
    dataset = coco.COCO()
    numbered = [{"id": n, **annotation} for n, annotation in enumerate(annotations, 1)]  # an id of 0 is no match there
    dataset.dataset = {"images": images, "categories": [_CATEGORY], "annotations": numbered}
    dataset.createIndex()
    return dataset


def _runs(labels: NDArray[np.integer]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Each label and its run lengths down the columns, background first, as COCO stores masks."""
    pixels = labels.ravel(order="F")
    if not pixels.size:
        return
    starts = np.flatnonzero(np.r_[True, pixels[1:] != pixels[:-1]])
    order = np.argsort(pixels[starts], kind="stable")
    edges = np.stack([starts, np.append(starts[1:], pixels.size)], axis=1)[order]
    values, first = np.unique(pixels[starts][order], return_index=True)
    for value, part in zip(values, np.split(edges, first[1:]), strict=True):
        if value:
            lengths = np.diff(part.ravel(), prepend=0, append=pixels.size)
            yield int(value), {"counts": lengths.tolist(), "size": list(labels.shape)}


def _annotation(image: int, runs: dict[str, Any], masks: ModuleType) -> dict[str, Any]:
    return {
        "image_id": image,
        "category_id": _CATEGORY["id"],
        "segmentation": masks.frPyObjects(runs, *runs["size"]),
        "area": sum(runs["counts"][1::2]),
        "iscrowd": 0,
    }


def _score(image: int, label: int, scores: Mapping[int, float]) -> float:
    if label not in scores:
        raise ValueError(f"image {image}: no score for label {label} of the prediction. Give one for each label.")
    score = float(scores[label])
    if not np.isfinite(score):
        raise ValueError(f"image {image}: the score of label {label} must be finite. Received: {score}.")
    return score
