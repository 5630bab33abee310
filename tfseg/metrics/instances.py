"""Scores of instances (nuclei) from one table of overlaps: AJI, AJI+, panoptic quality, counts over IoU thresholds.

:func:`overlaps` counts, once, how many pixels each true and each predicted instance share; every score is read off that
table. With |G|, |S| the pixels of a true and a predicted instance, IoU = |G ∩ S| / |G ∪ S|.

Integers are compared, never rounded fractions: an IoU of exactly 0.6 reaches the threshold 0.60. Instances are numbered
by their first pixel in row order, so no score depends on what the labels are; between equals the first one is taken.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components, min_weight_full_bipartite_matching

PERCENT = tuple(range(50, 100, 5))
"""IoU thresholds in percent: 50, 55 … 95."""
THRESHOLDS = tuple(f"{percent / 100:.2f}" for percent in PERCENT)
"""The same as they stand in the names of scores: "0.50", "0.55" … "0.95"."""
COUNTED = ("tp", "fp", "fn")
RATES = ("precision", "recall", "f1", "jaccard")
_BLOCK_PAIRS = 500
"""About how many pairs are matched at once."""


@dataclass(frozen=True)
class Overlaps:
    """Which true and predicted instances share pixels, and how many. Index i, j: in order of the first pixel.

    Attributes:
        true_px: (T,) int64, pixels of each true instance.
        predicted_px: (P,) int64, of each predicted one.
        true: (K,) index of the true instance of each pair that shares a pixel; rising, then by ``predicted``.
        predicted: (K,) index of the predicted one.
        shared_px: (K,) int64, pixels of the intersection.
    """

    true_px: NDArray[np.int64]
    predicted_px: NDArray[np.int64]
    true: NDArray[np.intp]
    predicted: NDArray[np.intp]
    shared_px: NDArray[np.int64]

    @property
    def union_px(self) -> NDArray[np.int64]:
        """(K,), pixels of the union of each pair."""
        return self.true_px[self.true] + self.predicted_px[self.predicted] - self.shared_px

    @property
    def iou(self) -> NDArray[np.float64]:
        """(K,), in (0, 1]."""
        return self.shared_px / self.union_px


def instance_scores(truth: ArrayLike, prediction: ArrayLike) -> dict[str, float]:
    """Every score of one image.

    A score whose denominator is 0 is NaN, never 0 or 1, as in :func:`tfseg.metrics.pixel.scores_from_confusion`:

    =================  =======================================  ======================================
    empty              NaN                                      0
    =================  =======================================  ======================================
    prediction         precision, map_precision, sq             all others
    truth              recall, mean_recall, sq                  all others
    both               all scores
    =================  =======================================  ======================================

    Args:
        truth, prediction: integers of one shape, 0 where there is no instance; any label but 0 is one instance,
            connected or not.

    Returns:
        "true", "predicted": numbers of instances.
        "aji": see :func:`aji`; "aji_plus": :func:`aji_plus`; "pq", "dq", "sq": :func:`panoptic_quality`.
        "tp 0.50", "fp 0.50", "fn 0.50", "precision 0.50", "recall 0.50", "f1 0.50", "jaccard 0.50", and so for each
        threshold to 0.95: see :func:`threshold_scores`.
        "map_precision", "mean_recall", "mean_f1", "map_dsb": means of precision, recall, F1 and Jaccard over the ten
        thresholds. ``map_precision`` is what the GB U-Net paper calls mAP, ``map_dsb`` the score of the 2018 Data
        Science Bowl; for COCO's see :func:`tfseg.metrics.coco.coco_ap`.

    Raises:
        ValueError: the shapes differ, or labels are not integers or are negative.
    """
    pairs = overlaps(truth, prediction)
    return {
        "true": float(len(pairs.true_px)),
        "predicted": float(len(pairs.predicted_px)),
        "aji": aji(pairs),
        "aji_plus": aji_plus(pairs),
        **panoptic_quality(pairs),
        **threshold_scores(pairs),
    }


def overlaps(truth: ArrayLike, prediction: ArrayLike) -> Overlaps:
    """Counts shared pixels.

    Runs of equal pixels are sorted instead of pixels, of which there are many times more.

    Args, Raises: see :func:`instance_scores`.
    """
    true, predicted = check_labels("truth", truth), check_labels("prediction", prediction)
    if true.shape != predicted.shape:
        raise ValueError(
            f"truth and prediction must have one shape. Received: {true.shape} and {predicted.shape}. "
            "Crop or resize one of them (labels with nearest neighbour)."
        )
    t, p = true.ravel(), predicted.ravel()
    starts = np.flatnonzero(np.r_[t.size > 0, (t[1:] != t[:-1]) | (p[1:] != p[:-1])])
    length = np.diff(starts, append=t.size)
    t_number, true_px = _numbered(t[starts], length)
    p_number, predicted_px = _numbered(p[starts], length)
    both = (t_number > 0) & (p_number > 0)
    pair, which = np.unique((t_number[both] - 1) * len(predicted_px) + p_number[both] - 1, return_inverse=True)
    true_index, predicted_index = np.divmod(pair, max(len(predicted_px), 1))
    return Overlaps(true_px, predicted_px, true_index, predicted_index, _summed(which, length[both], len(pair)))


def check_labels(what: str, labels: ArrayLike) -> NDArray[np.integer]:
    """Labels as an array.

    Raises:
        ValueError: not integers, or negative; names ``what``.
    """
    array = np.asarray(labels)
    if array.dtype == bool:
        raise ValueError(
            f"{what} must hold a number an instance, 0 for none. Received: bool, which cannot tell instances apart. "
            "Number the connected ones first, for example with scipy.ndimage.label."
        )
    if not np.issubdtype(array.dtype, np.integer):
        raise ValueError(
            f"{what} must hold integers, one an instance, 0 for none. Received: {array.dtype}. Probabilities need a "
            "threshold and numbering first (scipy.ndimage.label); whole numbers stored as floats .astype(np.int64)."
        )
    if array.size and array.min() < 0:
        raise ValueError(
            f"{what} must hold labels from 0 on. Received: {array.min()}. Set what is no instance to 0, such as the "
            "-1 along watershed lines."
        )
    return array


def _numbered(labels: NDArray[np.integer], length: NDArray[np.intp]) -> tuple[NDArray[np.intp], NDArray[np.int64]]:
    """Numbers the labels of runs 1, 2 … in order of appearance, 0 staying 0; and the pixels of each from 1 on."""
    labels = labels.astype(np.min_scalar_type(labels.max(initial=0)))  # 8 and 16 bits sort several times faster
    values, first, which = np.unique(labels, return_index=True, return_inverse=True)
    number = np.empty(len(values), np.intp)
    number[np.argsort(np.where(values == 0, -1, first))] = np.arange(len(values)) + (0 not in values[:1])
    numbers = number[which]
    return numbers, _summed(numbers, length, 1)[1:]


def _summed(index: NDArray[np.intp], length: NDArray[np.intp], size: int) -> NDArray[np.int64]:
    """Sum of the lengths of each index; float64 holds them exactly up to 2^53 pixels."""
    return np.bincount(index, length, size).astype(np.int64)


def aji(pairs: Overlaps) -> float:
    """Aggregated Jaccard index (Kumar et al., IEEE TMI 2017, algorithm 1).

    Every true instance G_i takes the predicted S_j(i) of highest IoU, which others may take too; one that meets none
    adds its own pixels below. Predictions that nobody took, N, add theirs:

        AJI = Σ_i |G_i ∩ S_j(i)| / (Σ_i |G_i ∪ S_j(i)| + Σ_{k ∈ N} |S_k|)

    This is the text's algorithm and the organisers' final script of the MoNuSeg challenge (17 July 2018), and what
    HoVer-Net calls AJI; Cellpose's function of that name is another statistic. An earlier script of the challenge
    took each prediction once, and is not this. Of several predictions with equal IoU the script takes the lowest label,
    here it is the one whose first pixel comes first.

    Returns:
        0 … 1; NaN without any instance.
    """
    order = np.lexsort((pairs.predicted, -pairs.iou, pairs.true))  # the last key sorts first
    _, best = np.unique(pairs.true[order], return_index=True)
    return _aggregated(pairs, order[best])


def aji_plus(pairs: Overlaps) -> float:
    """AJI+ (HoVer-Net, Graham et al., Medical Image Analysis 2019): AJI with each prediction taken once.

    True and predicted instances are matched one to one so that the sum of their IoU is highest; who has no partner adds
    its pixels below.

    Returns:
        0 … 1; NaN without any instance.
    """
    return _aggregated(pairs, best_assignment(pairs))


def best_assignment(pairs: Overlaps) -> NDArray[np.intp]:
    """Indices of the pairs of the one-to-one matching with the highest sum of IoU; rising.

    Clusters of instances that no pair links do not bear on each other, so blocks of whole clusters are solved one by
    one: a matching of all at once takes time with the square of their number.
    """
    rows, columns = len(pairs.true_px), len(pairs.predicted_px)
    links = coo_array((np.ones(len(pairs.true)), (pairs.true, rows + pairs.predicted)), (rows + columns,) * 2)
    cluster = connected_components(links, directed=False)[1][pairs.true]
    block = (np.cumsum(np.bincount(cluster)) // _BLOCK_PAIRS)[cluster]
    order = np.argsort(block, kind="stable")
    parts = np.split(order, np.flatnonzero(np.diff(block[order])) + 1)
    iou = pairs.iou
    best = [part[_best_of(pairs.true[part], pairs.predicted[part], iou[part])] for part in parts]
    return np.sort(np.concatenate(best))


def _best_of(true: NDArray[np.intp], predicted: NDArray[np.intp], iou: NDArray[np.float64]) -> NDArray[np.intp]:
    """Which of the pairs are in their one-to-one matching with the highest sum of IoU."""
    (trues, t), (others, p) = (np.unique(index, return_inverse=True) for index in (true, predicted))
    rows, columns = len(trues), len(others)
    if not rows:
        return t
    # A full matching always exists when every true instance may also take a partner of its own that is worth nothing.
    # Every weight is 1 more than its worth, because an edge of weight 0 is none.
    alone = np.arange(rows)
    weight = np.r_[1 + iou, np.ones(rows)]
    graph = coo_array((weight, (np.r_[t, alone], np.r_[p, columns + alone])), (rows, columns + rows)).tocsr()
    matched, partner = min_weight_full_bipartite_matching(graph, maximize=True)
    return np.flatnonzero(partner[np.argsort(matched)][t] == p)


def _aggregated(pairs: Overlaps, chosen: NDArray[np.intp]) -> float:
    """Σ intersections of the chosen pairs / (Σ their unions + pixels of all instances that are in none of them)."""
    lost = np.delete(pairs.true_px, pairs.true[chosen]).sum()
    invented = np.delete(pairs.predicted_px, pairs.predicted[chosen]).sum()
    return _ratio(pairs.shared_px[chosen].sum(), pairs.union_px[chosen].sum() + lost + invented)


def panoptic_quality(pairs: Overlaps) -> dict[str, float]:
    """Panoptic quality of one class (Kirillov et al., CVPR 2019).

    Pairs with IoU **above** 0.5 are TP, which makes them unique. DQ = TP / (TP + FP / 2 + FN / 2) is their F1, SQ their
    mean IoU, PQ = DQ · SQ. Here SQ is NaN without a TP, where PQ is 0.

    Returns:
        "pq", "dq", "sq"; NaN where not defined.
    """
    hit = 2 * pairs.shared_px > pairs.union_px
    total = (len(pairs.true_px) + len(pairs.predicted_px)) / 2
    ious = pairs.iou[hit]
    return {"pq": _ratio(ious.sum(), total), "dq": _ratio(len(ious), total), "sq": _ratio(ious.sum(), len(ious))}


def threshold_scores(pairs: Overlaps) -> dict[str, float]:
    """Hits and misses when a pair counts from an IoU on, for 0.50, 0.55 … 0.95.

    TP are pairs with IoU **at least** the threshold, matched one to one (as StarDist, Cellpose and COCO compare; for
    the Data Science Bowl and panoptic quality an IoU of exactly the threshold is none); FP = predicted − TP,
    FN = true − TP. Precision = TP / (TP + FP), recall = TP / (TP + FN), F1 = 2 TP / (2 TP + FP + FN), Jaccard =
    TP / (TP + FP + FN).

    Returns:
        "tp 0.50" … "jaccard 0.95", and the means over thresholds "map_precision", "mean_recall", "mean_f1", "map_dsb".
    """
    chosen = _halves_once(pairs, np.flatnonzero(2 * pairs.shared_px >= pairs.union_px))
    shared, union = 100 * pairs.shared_px[chosen], pairs.union_px[chosen]
    tp = np.array([np.count_nonzero(shared >= percent * union) for percent in PERCENT])
    return scores_from_counts(tp, len(pairs.predicted_px) - tp, len(pairs.true_px) - tp)


def _halves_once(pairs: Overlaps, hits: NDArray[np.intp]) -> NDArray[np.intp]:
    """Pairs of IoU at least 0.5, one to one.

    Two of them share an instance only when both are exactly 0.5: the instance is two halves. The first half is the hit.
    """
    hits = hits[np.unique(pairs.true[hits], return_index=True)[1]]
    return hits[np.unique(pairs.predicted[hits], return_index=True)[1]]


def scores_from_counts(tp: ArrayLike, fp: ArrayLike, fn: ArrayLike) -> dict[str, float]:
    """The scores of :func:`threshold_scores` from their counts, of one image or summed over many.

    Args:
        tp, fp, fn: (10,), in the order of :data:`PERCENT`.
    """
    hits, wrong, missed = (np.asarray(counts, np.float64) for counts in (tp, fp, fn))
    values = {"tp": hits, "fp": wrong, "fn": missed}
    with np.errstate(invalid="ignore"):  # 0 / 0 is NaN; all denominators are 0 at every threshold or at none
        values["precision"] = hits / (hits + wrong)
        values["recall"] = hits / (hits + missed)
        values["f1"] = 2 * hits / (2 * hits + wrong + missed)
        values["jaccard"] = hits / (hits + wrong + missed)
    scores = {f"{n} {t}": float(v) for n in values for t, v in zip(THRESHOLDS, values[n], strict=True)}
    means = {"map_precision": "precision", "mean_recall": "recall", "mean_f1": "f1", "map_dsb": "jaccard"}
    return {**scores, **{name: float(values[of].mean()) for name, of in means.items()}}


def _ratio(numerator: float, denominator: float) -> float:
    """NaN where the denominator is 0."""
    return float(numerator / denominator) if denominator else float("nan")
