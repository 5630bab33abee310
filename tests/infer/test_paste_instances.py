from __future__ import annotations

import numpy as np
import pytest
from finding_network import SPEC, finder, picture, two_classes, write_finder
from numpy.testing import assert_array_equal

from tfseg.infer.mask_rcnn import PasteOptions, paste_instances, predict_instances
from tfseg.infer.predictors import onnx_predictor
from tfseg.metrics import instance_scores
from tfseg.metrics.coco import coco_ap
from tfseg.types import ModelError, ModelSpec

ANY = PasteOptions(min_area_px=1)
FULL = np.ones((28, 28))


def test_pixels_whose_centres_are_inside():
    labels, scores, classes = paste_instances(two_classes(0.9), [[1.4, 2.6, 3.6, 5.5]], [FULL], (6, 8), ANY)
    expected = np.zeros((6, 8), int)
    expected[1:4, 3:5] = 1
    assert_array_equal(labels, expected)
    assert labels.dtype == np.int32 and scores == {1: 0.9} and classes == {1: 1}


def test_a_mask_is_resized_bilinearly():
    mask = np.array([[1.0, 0.0], [1.0, 1.0]])
    # bins' centres at 2 and 6 px; probabilities of pixels at 0.5, 1.5 … along the upper row fall from 1 (2) to 0 (6)
    labels = paste_instances(two_classes(0.9), [[0, 0, 8, 8]], [mask], (8, 8), ANY).labels
    assert_array_equal(labels[0], [1, 1, 1, 1, 0, 0, 0, 0])
    assert_array_equal(labels[7], 1)
    # at x = 5.5 the upper bin has 1/8, the lower 1: 1/2 is where the lower weighs 3/7, from y = 2 + 12/7
    assert_array_equal(labels[:, 5], [0, 0, 0, 0, 1, 1, 1, 1])


def test_the_surest_wins_pixels():
    boxes = [[0, 0, 4, 4], [0, 2, 4, 8], [0, 0, 4, 5], [5, 0, 8, 3]]
    labels, scores, _ = paste_instances(two_classes(0.9, 0.95, 0.8, 0.4), boxes, [FULL] * 4, (8, 8), ANY)
    # the third has 3/5 of its pixels taken by the others: it goes. The fourth is not sure enough
    assert_array_equal(labels[0], [2, 2, 1, 1, 1, 1, 1, 1])
    assert scores == {1: 0.95, 2: 0.9} and not labels[5:].any()


def test_small_and_empty_ones_go():
    boxes = [[0, 0, 2, 2], [0, 4, 3, 7], [0, 0, 0, 0], [-9, -9, -1, -1]]
    labels, scores, _ = paste_instances(
        two_classes(0.9, 0.8, 0.7, 0.7), boxes, [FULL] * 4, (8, 8), PasteOptions(min_area_px=5)
    )
    assert scores == {1: 0.8} and np.count_nonzero(labels) == 9
    assert paste_instances(np.zeros((0, 2)), np.zeros((0, 4)), np.zeros((0, 28, 28)), (8, 8)).scores == {}


def test_class_is_the_most_probable_but_background():
    probabilities = [[0.1, 0.3, 0.6], [0.45, 0.55, 0.0]]
    found = paste_instances(probabilities, [[0, 0, 4, 4], [4, 4, 8, 8]], [FULL] * 2, (8, 8), ANY)
    assert found.classes == {1: 2, 2: 1} and found.scores == {1: 0.6, 2: 0.55}


@pytest.mark.parametrize(
    ("probabilities", "boxes", "masks", "message"),
    [
        ([[1.0]], [[0, 0, 1, 1]], [FULL], r"\(1, 1\), \(1, 4\) and \(1, 28, 28\)"),
        ([[0.5, 0.5]], [[0, 0, 1]], [FULL], r"boxes \(N, 4\)"),
        ([[0.5, 0.5]], [[0, 0, 1, 1]], [FULL] * 2, r"and \(2, 28, 28\)"),
        ([[0.5, np.nan]], [[0, 0, 1, 1]], [FULL], "NaN"),
    ],
)
def test_what_does_not_belong_together(probabilities, boxes, masks, message):
    with pytest.raises(ModelError, match=message):
        paste_instances(probabilities, boxes, masks, (8, 8))


def test_outputs_of_another_number_of_fields():
    with pytest.raises(ModelError, match=r"outputs of 1 fields. Received: \(2, 1, 2\)"):
        predict_instances(
            lambda images: finder(np.repeat(images * 0, 2, axis=0)), np.zeros((64, 64, 3), np.uint8), SPEC
        )


@pytest.mark.parametrize("options", [{"threshold": 0}, {"mask_threshold": 1.5}, {"min_area_px": -1}])
def test_options_out_of_range(options):
    with pytest.raises(ModelError, match=next(iter(options))):
        paste_instances(two_classes(0.9), [[0, 0, 1, 1]], [FULL], (8, 8), PasteOptions(**options))


def test_an_onnx_network_finds_in_an_image(tmp_path):
    predict = onnx_predictor(write_finder(tmp_path), threads=1)
    image = np.full((64, 64, 3), 204, np.uint8)
    assert predict(image[None]).shape == (1, 2, 2), "alone, it gives the classes' probabilities"
    labels, scores, _ = predict_instances(predict.every_output, image, SPEC)
    assert scores == pytest.approx({1: 0.8, 2: 0.7})
    assert np.count_nonzero(labels == 1) == 16 * 16 and labels[40, 40] == 2


@pytest.mark.parametrize("size", [(150, 170), (64, 64), (40, 90), (30, 20)])
def test_a_large_image_comes_back_whole(size):
    image, truth = picture(*size)
    labels, scores, classes = predict_instances(finder, image, SPEC, ANY)
    pairs = {(int(found), int(true)) for found, true in zip(labels.ravel(), truth.ravel(), strict=True)}
    assert len(pairs) == truth.max() + 1, "each instance is one of the truth's"
    assert set(scores) == set(classes) == set(range(1, truth.max() + 1))
    assert {found: 0.5 + true / 512 for found, true in pairs if true} == pytest.approx(scores)
    assert instance_scores(truth, labels)["aji"] == 1
    assert coco_ap([truth], [labels], [scores])["coco_ap"] == 1


def test_the_threshold_travels_with_the_spec():
    image, truth = picture(64, 64)
    found = predict_instances(finder, image, ModelSpec(**{**vars(SPEC), "threshold": 0.5 + truth.max() / 512}))
    assert len(found.scores) == 1


def test_what_cannot_be_run():
    image = np.zeros((70, 70, 3), np.uint8)
    with pytest.raises(ModelError, match=r"finder: expected a network with the task instances.*task segmentation"):
        predict_instances(finder, image, ModelSpec(**{**vars(SPEC), "task": "segmentation"}))
    with pytest.raises(ModelError, match=r"context_px: expected 0 to 15 px.*Received: 16"):
        predict_instances(finder, image, SPEC, context_px=16)
    with pytest.raises(ModelError, match=r"RGB image .*\(70, 70\)"):
        predict_instances(finder, image[..., 0], SPEC)
