"""Detections of two engines: order and rounding do not count, wrong boxes, classes and masks do."""

from __future__ import annotations

import numpy as np
import pytest

from tfseg.export.parity import INSTANCE_PARITY, detection_differences

OUTPUTS = CLASSES, BOXES, MASKS = ("instances", "instances_boxes", "instances_masks")


def detections(count: int = 60, rows: int = 70) -> dict[str, np.ndarray]:
    """``count`` boxes side by side that score 0.9 to 0.6, then empty rows: batches of one picture."""
    random = np.random.default_rng(0)
    score = np.linspace(0.9, 0.6, count)
    top, left = (20 * place for place in np.divmod(np.arange(count), 10))
    found = {
        CLASSES: np.stack([1 - score, score], -1),
        BOXES: np.stack([top, left, top + random.uniform(8, 18, count), left + random.uniform(8, 18, count)], -1),
        MASKS: random.random((count, 28, 28)),
    }
    empty = rows - count
    return {k: np.concatenate([v, np.zeros((empty, *v.shape[1:]))])[None].astype("float32") for k, v in found.items()}


def changed(name: str, change, rows: slice) -> dict[str, np.ndarray]:
    found = detections()
    found[name][:, rows] = change(found[name][:, rows])
    return found


def test_the_same_differ_in_nothing():
    assert detection_differences(detections(), detections()) == dict.fromkeys(OUTPUTS, 0.0)


def test_order_does_not_count():
    shuffled = {name: values[:, ::-1] for name, values in detections().items()}
    assert detection_differences(detections(), shuffled) == dict.fromkeys(OUTPUTS, 0.0)


@pytest.mark.parametrize(
    ("name", "change", "expected"),
    [
        (CLASSES, lambda p: p + np.array([0.1, -0.1]), 0.1),
        (BOXES, lambda b: b + np.where(np.arange(4) < 2, 0, (b - np.roll(b, 2, -1)) / 4), 1 - 16 / 25),
        (MASKS, lambda m: m + 0.2, 0.2),
    ],
)
def test_how_much_three_of_sixty_differ(name, change, expected):
    differences = detection_differences(detections(), changed(name, change, slice(5, 8)))
    assert differences[name] == pytest.approx(expected, abs=1e-5) and expected > INSTANCE_PARITY
    assert all(value == 0 for key, value in differences.items() if key != name)


def test_one_of_fifty_may_be_another_three_of_sixty_may_not():
    def moved(rows):
        return changed(BOXES, lambda b: b + 500, rows)

    assert detection_differences(detections(), moved(slice(5, 6)))[BOXES] == 0
    assert detection_differences(detections(), moved(slice(5, 8)))[BOXES] == 1


def test_detections_that_only_the_other_engine_has_count():
    for pair in ((detections(), detections(20)), (detections(20), detections())):
        assert detection_differences(*pair)[BOXES] == 1


def test_what_scores_little_is_compared_by_its_score_alone():
    """Untrained networks give hundreds of boxes a score of 0: which of them are kept is chance."""
    low = {**detections(), CLASSES: detections()[CLASSES] * [0, 1e-9]}
    other = {**low, BOXES: low[BOXES] + 500}
    assert detection_differences(low, other) == dict.fromkeys(OUTPUTS, 0.0)
    assert detection_differences(low, detections())[CLASSES] == pytest.approx(0.9)


def test_nothing_found_is_no_difference_and_nan_is_none_that_passes():
    nothing = detections(0)
    assert detection_differences(nothing, nothing) == dict.fromkeys(OUTPUTS, 0.0)
    broken = changed(MASKS, lambda m: m * np.nan, slice(0, 1))
    assert not detection_differences(broken, broken)[MASKS] <= INSTANCE_PARITY
