"""COCO's average precision: by hand, and against its definition read off the table of overlaps."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest

from tfseg.metrics.coco import coco_ap
from tfseg.metrics.instances import PERCENT, THRESHOLDS, instance_scores, overlaps
from tfseg.types import TfsegError


def row(*lengths):
    """One row of pixels from (label, length) pairs."""
    return np.concatenate([np.full(length, label) for label, length in lengths])[None]


TWO = row((1, 4), (0, 2), (2, 4), (0, 6))


def test_wrong_one_in_the_middle():
    """TP, FP, TP: precision 1 up to recall 0.5 (51 of the 101 recalls), 2/3 after."""
    prediction = row((1, 4), (0, 2), (2, 4), (0, 2), (3, 4))
    values = coco_ap([TWO], [prediction], [{1: 0.9, 2: 0.7, 3: 0.8}])
    assert values["coco_ap"] == pytest.approx((51 + 50 * 2 / 3) / 101)
    assert list(values) == [*(f"coco_ap {t}" for t in THRESHOLDS), "coco_ap"]
    assert all(type(value) is float for value in values.values())


def test_order_of_scores_is_what_counts():
    prediction = row((1, 4), (0, 2), (0, 4), (0, 2), (3, 4))
    truth = row((1, 4), (0, 12))
    assert coco_ap([truth], [prediction], [{1: 0.9, 3: 0.8}])["coco_ap"] == pytest.approx(1)
    assert coco_ap([truth], [prediction], [{1: -5, 3: 12.5}])["coco_ap"] == pytest.approx(0.5)


def test_images_share_one_ranking():
    """FP of the second image before TP of the first before TP of the second."""
    values = coco_ap([TWO, TWO], [row((7, 4), (0, 12)), row((1, 4), (0, 8), (9, 4))], [{7: 0.8}, {1: 0.1, 9: 0.9}])
    # Recall 1/4 and 1/2 at precision 1/2 and 2/3: 2/3 up to recall 0.5, nothing after.
    assert values["coco_ap"] == pytest.approx(51 * 2 / 3 / 101)


@pytest.mark.parametrize("shared", range(9, 21))
def test_iou_of_exactly_a_threshold_reaches_it(shared):
    values = coco_ap([row((1, 20))], [row((1, shared), (0, 20 - shared))], [{1: 1}])
    reached = [float(100 * shared >= percent * 20) for percent in PERCENT]
    assert [values[f"coco_ap {t}"] for t in THRESHOLDS] == pytest.approx(reached)
    assert values["coco_ap"] == pytest.approx(sum(reached) / 10)


def test_more_than_a_hundred_in_an_image_count():
    truth = np.zeros((40, 40), int)
    truth[::2, ::2] = np.arange(1, 401).reshape(20, 20)
    assert coco_ap([truth], [truth], [{n: n / 400 for n in range(1, 401)}])["coco_ap"] == pytest.approx(1)


def test_nothing_there():
    empty = np.zeros_like(TWO)
    assert all(math.isnan(v) for v in coco_ap([empty], [TWO], [{1: 1, 2: 1}]).values())
    assert all(math.isnan(v) for v in coco_ap([], [], []).values())
    assert set(coco_ap([TWO], [empty], [{}]).values()) == {0.0}
    # What is found in an image without truth is wrong and ranks with the rest.
    assert coco_ap([TWO, empty], [TWO, TWO], [{1: 1, 2: 1}, {1: 2, 2: 2}])["coco_ap"] == pytest.approx(0.5)
    assert coco_ap([TWO, np.zeros((0, 3), int)], [TWO, np.zeros((0, 3), int)], [{1: 1, 2: 1}, {}])["coco_ap"] == (
        pytest.approx(1)
    )


def slow_ap(images, percent):
    """From the definition: instances of a label image do not overlap, so above 0.5 the pairs are what they are."""
    ranking, total = [], 0
    for truth, prediction, scores in images:
        pairs = overlaps(truth, prediction)
        hit = set(pairs.predicted[100 * pairs.shared_px >= percent * pairs.union_px].tolist())
        labels, first = np.unique(prediction, return_index=True)
        labels = labels[np.argsort(first)]
        ranking += [(scores[n], k in hit) for k, n in enumerate(labels[labels != 0].tolist())]
        total += len(pairs.true_px)
    hits = np.cumsum([hit for _, hit in sorted(ranking, reverse=True)])
    recall, precision = hits / total, hits / np.arange(1, len(hits) + 1)
    return np.mean([max(precision[recall >= r - 1e-12], default=0) for r in np.linspace(0, 1, 101)])


@pytest.mark.parametrize("seed", range(4))
def test_against_the_definition(seed):
    random = np.random.default_rng(seed)
    images = []
    for n in range(3):
        truth, prediction = np.zeros((2, 50, 60), np.int32)
        y, x = np.mgrid[:50, :60]
        for k in range(1, 30):
            centre, radius = random.uniform(0, 55, 2), random.uniform(3, 7)
            truth[np.hypot(y - centre[0], x - centre[1]) < radius] = k
            centre = centre + random.normal(0, 1, 2)
            prediction[np.hypot(y - centre[0], x - centre[1]) < radius] = 1000 - 3 * k
        scores = {1000 - 3 * k: s + n / 10 for k, s in enumerate(random.permutation(100)[:30])}  # none occurs twice
        images.append((truth, prediction, scores))
    values = coco_ap(*zip(*images, strict=True))
    for percent, threshold in list(zip(PERCENT, THRESHOLDS, strict=True))[1:]:
        assert values[f"coco_ap {threshold}"] == pytest.approx(slow_ap(images, percent), abs=1e-9)
    assert values["coco_ap"] == pytest.approx(np.mean([values[f"coco_ap {t}"] for t in THRESHOLDS]))
    assert instance_scores(*images[0][:2])["map_precision"] != pytest.approx(values["coco_ap"], abs=1e-3)


def test_nothing_is_printed(capsys):
    coco_ap([TWO], [TWO], [{1: 1, 2: 1}])
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (([TWO], [TWO, TWO], [{}]), "one entry an image each. Received: 1, 2, 1"),
        (([TWO, TWO], [TWO, TWO[:, 1:]], [{1: 1, 2: 1}, {}]), r"image 1: .*Received: \(1, 16\) and \(1, 15\)"),
        (([TWO[0]], [TWO[0]], [{}]), r"image 0: truth and prediction must be \(H, W\)"),
        (([TWO], [TWO > 0], [{}]), "prediction of image 0 must hold a number an instance"),
        (([TWO], [TWO], [{1: 0.5}]), "image 0: no score for label 2"),
        (([TWO], [TWO], [{1: 0.5, 2: math.nan}]), "image 0: the score of label 2 must be finite. Received: nan"),
    ],
)
def test_what_cannot_be_ranked(arguments, says):
    with pytest.raises(ValueError, match=says):
        coco_ap(*arguments)


def test_without_pycocotools(monkeypatch):
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    with pytest.raises(TfsegError, match="pip install pycocotools"):
        coco_ap([TWO], [TWO], [{1: 1, 2: 1}])
