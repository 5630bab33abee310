"""Evaluation of a slide: streamed, at any pixel size, against scores of whole arrays."""

from __future__ import annotations

import math

import numpy as np
import pytest
import shapely
from sklearn.metrics import f1_score, jaccard_score, precision_score, recall_score

from tfseg.infer.evaluate import count_classes, evaluate_slide
from tfseg.slides.annotations import ClassTable, LabelledPolygon, PolygonAnnotation
from tfseg.slides.base import open_slide
from tfseg.slides.geojson import PolygonFeature, write_geojson
from tfseg.slides.rasterise import PixelGrid
from tfseg.slides.tiff_writer import write_pyramid
from tfseg.types import IGNORE, AnnotationError, SlideError

SIZE = (3000, 2400)
RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def slide():
    pixels = np.full((SIZE[1], SIZE[0], 3), 245, np.uint8)
    pixels[600:1800, 600:2400] = (200, 60, 140)
    return open_slide([pixels], mpp=0.5)


@pytest.fixture(scope="module")
def annotation():
    shapes = [
        # Off the pixel grid: resolution tags are rationals, so a pixel centre right on an edge may fall either way.
        LabelledPolygon(shapely.Point(1000.37, 1000.73).buffer(600), 1),
        LabelledPolygon(shapely.box(0, 0, 300, 99), IGNORE),
    ]
    return PolygonAnnotation(shapes, SIZE, rest=0)


def noisy(labels):
    flipped = RNG.random(labels.shape) < 0.1
    return np.where(flipped, 1 - np.minimum(labels, 1), np.minimum(labels, 1)).astype(np.uint8)


@pytest.mark.parametrize(
    "grid", [PixelGrid(0, 0, 1.5, 1.5, 2000, 1600), PixelGrid(0, 0, 3000 / 128, 2400 / 128, 128, 128)]
)
def test_against_scikit_learn(tmp_path, slide, annotation, grid):
    truth = annotation.labels_on(grid)
    mask = noisy(truth)
    write_pyramid(tmp_path / "mask.tif", mask, mpp=(grid.step_x * 0.5, grid.step_y * 0.5), kind="label")
    scores = evaluate_slide(tmp_path / "mask.tif", slide, annotation)
    t, p = truth[truth != IGNORE], mask[truth != IGNORE]
    assert scores["recall"] == pytest.approx(recall_score(t, p))
    assert scores["precision"] == pytest.approx(precision_score(t, p))
    assert scores["dice"] == scores["dice tumour"] == pytest.approx(f1_score(t, p))
    assert scores["iou"] == pytest.approx(jaccard_score(t, p))
    assert scores["dice non-tumour"] == pytest.approx(f1_score(t, p, pos_label=0))
    assert scores["pixels tumour as tumour"] == np.sum((t == 1) & (p == 1))
    pixel_mm2 = grid.step_x * grid.step_y * 0.25e-6
    assert scores["truth_mm2"] == pytest.approx(np.sum(t == 1) * pixel_mm2)
    assert scores["predicted_mm2"] == pytest.approx(np.sum(p == 1) * pixel_mm2)
    assert scores["evaluated_mm2"] == pytest.approx(len(t) * pixel_mm2)
    assert (scores["mpp_x"], scores["mpp_y"]) == pytest.approx((grid.step_x * 0.5, grid.step_y * 0.5))


def test_other_pixel_size_and_tissue_only(tmp_path, slide, annotation):
    own = PixelGrid(0, 0, 4, 4, 750, 600)
    write_pyramid(tmp_path / "mask.tif", noisy(annotation.labels_on(own)), mpp=2.0, kind="label")
    at_4 = evaluate_slide(tmp_path / "mask.tif", slide, annotation, mpp=4.0)
    assert at_4["mpp_x"] == 4.0
    assert at_4["dice"] == pytest.approx(evaluate_slide(tmp_path / "mask.tif", slide, annotation)["dice"], abs=0.01)
    tissue = evaluate_slide(tmp_path / "mask.tif", slide, annotation, within_tissue=True)
    assert tissue["evaluated_mm2"] == pytest.approx(1200 * 1800 * 0.25e-6, rel=0.03)
    assert tissue["precision"] > at_4["precision"]


def test_from_files_and_other_foreground(tmp_path, slide):
    write_geojson(tmp_path / "a.geojson", [PolygonFeature(shapely.box(0, 0, 1500, 2400), "Tumor")], 0.5)
    mask = np.zeros((60, 75), np.uint8)
    mask[:, :25] = 1
    write_pyramid(tmp_path / "mask.tif", mask, mpp=20.0, kind="label")
    scores = evaluate_slide(tmp_path / "mask.tif", slide, tmp_path / "a.geojson")
    assert scores["precision"] == 1.0 and scores["recall"] == pytest.approx(25 / 37)
    scores = evaluate_slide(tmp_path / "mask.tif", slide, tmp_path / "a.geojson", foreground=0)
    assert scores["recall"] == 1.0 and scores["dice"] == scores["dice non-tumour"]
    only_tumour = ClassTable(ClassTable.h2g().classes, ClassTable.h2g().aliases)  # the rest is not annotated
    scores = evaluate_slide(tmp_path / "mask.tif", slide, tmp_path / "a.geojson", only_tumour)
    assert scores["recall"] == pytest.approx(25 / 37) and math.isnan(scores["recall non-tumour"])


def test_nothing_annotated_is_nan(tmp_path, slide):
    write_pyramid(tmp_path / "mask.tif", np.zeros((60, 75), np.uint8), mpp=20.0, kind="label")
    scores = evaluate_slide(tmp_path / "mask.tif", slide, PolygonAnnotation([], SIZE))
    assert all(math.isnan(scores[name]) for name in ("recall", "precision", "dice", "iou", "accuracy"))
    no_tumour = evaluate_slide(tmp_path / "mask.tif", slide, PolygonAnnotation([], SIZE, rest=0))
    assert math.isnan(no_tumour["dice"]) and no_tumour["accuracy"] == 1.0


def test_mask_of_another_slide(tmp_path, slide, annotation):
    write_pyramid(tmp_path / "mask.tif", np.zeros((60, 75), np.uint8), mpp=25.0, kind="label")
    with pytest.raises(AnnotationError, match=r"mask\.tif: covers 1875×1500 µm.*1500×1200 µm.*another slide.*mpp"):
        evaluate_slide(tmp_path / "mask.tif", slide, annotation)


def test_heatmap_in_place_of_a_mask(tmp_path, slide, annotation):
    write_pyramid(tmp_path / "heatmap.tif", np.full((60, 75), 128, np.uint8), mpp=20.0, kind="label")
    with pytest.raises(AnnotationError, match=r"heatmap\.tif: value 128 is no class.*give the mask"):
        evaluate_slide(tmp_path / "heatmap.tif", slide, annotation)


def test_missing_files(tmp_path, slide, annotation):
    with pytest.raises(AnnotationError, match=r"mask\.tif: no such"):
        evaluate_slide(tmp_path / "mask.tif", slide, annotation)
    with pytest.raises(SlideError, match=r"slide\.svs: no such"):
        evaluate_slide(tmp_path / "mask.tif", tmp_path / "slide.svs", annotation)


def test_counts_of_classes_agree_with_the_scores_and_know_pixels_without_a_class(tmp_path, slide, annotation):
    grid, classes = PixelGrid(0, 0, 4, 4, 750, 600), ClassTable.h2g()
    truth = annotation.labels_on(grid)
    mask = noisy(truth)
    write_pyramid(tmp_path / "mask.tif", mask, mpp=2.0, kind="label")
    scores = evaluate_slide(tmp_path / "mask.tif", slide, annotation, within_tissue=True)
    counts = count_classes(tmp_path / "mask.tif", slide, annotation, classes, within_tissue=True)
    assert counts.confusion[1, 0] == scores["pixels tumour as non-tumour"] and counts.missed.sum() == 0
    assert counts.histograms == {}

    mask[:, :300] = 255
    write_pyramid(tmp_path / "none.tif", mask, mpp=2.0, kind="label")
    write_pyramid(tmp_path / "p.tif", np.where(mask == 1, 200, 10).astype(np.uint8), mpp=2.0, kind="heatmap")
    counts = count_classes(tmp_path / "none.tif", slide, annotation, classes, {1: tmp_path / "p.tif"})
    assert counts.missed.tolist() == [np.sum(truth[:, :300] == c) for c in (0, 1)]
    assert counts.confusion.sum() == np.sum(truth[:, 300:] != IGNORE)
    assert counts.histograms[1][1, 200] == counts.confusion[1, 1] == np.sum((truth == 1) & (mask == 1))
    assert counts.histograms[1].sum() == np.sum(truth != IGNORE)
    scores = evaluate_slide(tmp_path / "none.tif", slide, annotation)
    assert scores["recall"] == counts.confusion[1, 1] / np.sum(truth == 1)
    assert scores["pixels tumour as no class"] == counts.missed[1]


def test_probabilities_of_another_slide(tmp_path, slide, annotation):
    write_pyramid(tmp_path / "mask.tif", np.zeros((60, 75), np.uint8), mpp=20.0, kind="label")
    write_pyramid(tmp_path / "p.tif", np.zeros((60, 75), np.uint8), mpp=25.0, kind="heatmap")
    with pytest.raises(AnnotationError, match=r"p\.tif: covers 1875×1500 µm"):
        count_classes(tmp_path / "mask.tif", slide, annotation, ClassTable.h2g(), {1: tmp_path / "p.tif"})
