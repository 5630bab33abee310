"""Windows by annotated pixels: which are kept, what is counted, whose class they are, what is written."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pandas as pd
import pytest
import shapely
from dense_cohort import BOXES, CONFIG, PIXELS, WINDOWS, cell, write_boxes, write_cohort

from tfseg.data import index_slide
from tfseg.data.class_counts import class_counts, read_class_counts, window_counts
from tfseg.data.cohort import Cohort
from tfseg.data.index import DenseIndexConfig, PatchIndex, build_index
from tfseg.data.index_labels import label_windows, window_classes
from tfseg.data.overview import DROPPED
from tfseg.losses.weights import class_weights
from tfseg.slides.annotations import LabelledPolygon, PolygonAnnotation
from tfseg.slides.base import open_slide
from tfseg.slides.class_table import ClassTable
from tfseg.slides.known_tables import TISSUE_TYPES
from tfseg.types import ClassSpec, CohortError

ORDER = ("benign epithelial", "carcinoma", "necrotic", "background")


def build(path, out, config=CONFIG, **options) -> PatchIndex:
    settings = {"workers": 1, "progress": False, "classes": TISSUE_TYPES, **options}
    return build_index(Cohort.read(path), config, out, **settings)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dense")
    write_cohort(folder, [("train", BOXES), ("val", BOXES[:1]), ("train", None)])
    return folder


@pytest.fixture(scope="module")
def index(folder) -> PatchIndex:
    return build(folder / "cohort.csv", folder / "index")


def test_windows_and_pixels_counted_by_hand(index):
    table = index.table[index.table["slide_name"] == "s0"]
    assert {cell(x, y) for x, y in zip(table["x"], table["y"], strict=True)} == WINDOWS
    assert (table["x"] % 64 == 32).all() and (table["y"] % 64 == 32).all()
    assert {name: int(table[f"pixels {name}"].sum()) for name in PIXELS} == PIXELS
    row = table[(table["x"] == 352) & (table["y"] == 160)].iloc[0]
    assert (row["pixels adipose"], row["pixels carcinoma"], row["annotated"]) == (3996, 100, 1.0)
    assert row["class"] == "adipose" and row["class_index"] == 6
    small = table[table["pixels benign epithelial"] > 0].iloc[0]
    assert small["annotated"] == pytest.approx(64 / 4096)


@pytest.mark.parametrize("column", ["class", "x", "annotated", "pixels stroma", "elastic_copy"])
def test_manifest_columns_named_as_the_indexs_are_refused(folder, tmp_path, column):
    text = (folder / "cohort.csv").read_text().replace("stain", column, 1)
    (folder / f"{column}.csv").write_text(text)
    with pytest.raises(CohortError, match=f"column '{column}'.*Rename yours in the manifest.*'slide {column}'"):
        build(folder / f"{column}.csv", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_class_order_beats_majority(folder):
    index = build(folder / "cohort.csv", folder / "ordered", dataclasses.replace(CONFIG, class_rule=ORDER))
    mixed = index.table[index.table["pixels adipose"] > 0].iloc[0]
    assert (mixed["class"], mixed["class_index"]) == ("carcinoma", 1)
    assert PatchIndex.load(folder / "ordered").config == index.config


@pytest.mark.parametrize(
    ("counts", "order", "expected"),
    [
        ([0, 5, 9, 0], (), 2),
        ([0, 5, 9, 0], (3, 1), 1),
        ([0, 5, 9, 1], (3, 1), 3),
        ([0, 0, 9, 8], (0, 1), 2),
        ([0, 7, 7, 0], (), 1),
    ],
)
def test_window_class(counts, order, expected):
    assert window_classes([counts], order).tolist() == [expected]


@pytest.mark.parametrize(("width", "kept"), [(9, False), (10, False), (11, True)])
def test_more_than_a_percent_must_be_annotated(width, kept):
    """Of 100² px: 10 × 10 are exactly 1 %, which is not more."""
    slide = open_slide([np.zeros((100, 100, 3), np.uint8)], mpp=0.5)
    annotation = PolygonAnnotation([LabelledPolygon(shapely.box(20, 20, 20 + width, 30), 1)], slide.size)
    windows = pd.DataFrame({"x": [50.0], "y": [50.0]})
    label_windows(windows, annotation, slide, DenseIndexConfig(100, 100), TISSUE_TYPES)
    assert windows["pixels carcinoma"].tolist() == [10 * width]
    assert (windows["class_index"].iloc[0] != DROPPED) == kept


def test_what_lies_beyond_the_edge_is_not_annotated():
    slide = open_slide([np.zeros((100, 100, 3), np.uint8)], mpp=0.5)
    windows = pd.DataFrame({"x": [96.0], "y": [32.0]})
    everything = ClassTable.plain([ClassSpec("a", (0, 0, 0)), ClassSpec("b", (0, 0, 0))], rest=0)
    label_windows(windows, PolygonAnnotation([], slide.size, rest=0), slide, CONFIG, everything)
    assert windows["pixels a"].tolist() == [64 * 36] and windows["annotated"].iloc[0] == pytest.approx(36 / 64)


def test_index_knows_annotation_and_class_table(index, folder):
    again = PatchIndex.load(folder / "index")
    assert again.slides["s0"]["annotation"] == str(folder / "s0.geojson") and again.slides["s2"]["annotation"] is None
    assert again.labels == TISSUE_TYPES and again.config == CONFIG
    pd.testing.assert_frame_equal(again.table, index.table)
    assert again.table["pixels carcinoma"].dtype == np.int32


def test_slides_without_annotation_have_no_windows(index):
    assert set(index.table["slide_name"]) == {"s0", "s1"}
    row = index.summary.set_index("slide_name").loc["s2"]
    assert row["dropped"] == 100 and row["pixels carcinoma"] == 0 and row["no_tissue"] == 0


def test_summary_counts_windows_and_pixels(index):
    row = index.summary.set_index("slide_name").loc["s0"]
    assert (row["carcinoma"], row["necrotic"], row["adipose"], row["dropped"]) == (1, 2, 1, 95)
    assert {name: row[f"pixels {name}"] for name in PIXELS} == PIXELS


def test_class_counts_are_kept_beside_the_index(index, folder):
    train, val = (read_class_counts(folder / "index", split) for split in ("train", "val"))
    assert train["pixels"] == PIXELS and train["windows"] == 5
    assert val["pixels"]["carcinoma"] == 4096
    # Carcinoma occurs in the windows (2, 2) and (5, 2), which hold 2 · 4096 annotated pixels.
    assert train["pixels_where_present"]["carcinoma"] == 8192
    assert class_counts(index.split("train").table, index.classes) == train
    total = sum(PIXELS.values())
    weights = class_weights(list(train["pixels"].values()), "inverse")
    assert weights[1] == pytest.approx(1 - 4196 / total) and weights[0] == 0
    by_window = window_counts(index.split("train").table, index.classes)
    assert class_weights(by_window, "median_frequency")[2] == pytest.approx(np.median([4196 / 8192, 1, 1, 3996 / 4096]))
    with pytest.raises(CohortError, match=r"no windows in split 'test'.*train, val"):
        read_class_counts(folder / "index", "test")
    with pytest.raises(CohortError, match="tfseg index --kind dense"):
        read_class_counts(folder)


def test_files_of_an_earlier_index_do_not_stay(index, small_index, tmp_path):
    index.save(tmp_path)
    for name in ("class_balance.csv", "class_balance.png"):
        (tmp_path / name).write_text("old")
    counts = (tmp_path / "class_counts.json").read_bytes()
    small_index.save(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {"patches.parquet", "summary.csv", "index.json"}
    (tmp_path / "class_counts.json").write_bytes(counts)
    with pytest.raises(CohortError, match=r"class_counts\.json: counts 6 windows.*patches of a classifier"):
        read_class_counts(tmp_path)


def test_patches_of_a_classifier_have_no_counts(small_index):
    with pytest.raises(CohortError, match=r"no column 'pixels non-tumour'.*--kind dense"):
        window_counts(small_index.table, small_index.classes)


def test_finished_slides_are_not_done_again(tmp_path, monkeypatch):
    path = write_cohort(tmp_path, [("train", BOXES), ("val", BOXES[:1])])
    build(path, tmp_path / "out")
    done: list[str] = []
    original = index_slide.draw_overview
    monkeypatch.setattr(index_slide, "draw_overview", lambda slide, *a: done.append(slide.name) or original(slide, *a))
    build(path, tmp_path / "out")
    assert done == []
    write_boxes(tmp_path / "s1.geojson", BOXES[3:4])
    assert set(build(path, tmp_path / "out").split("val").table["class"]) == {"adipose"} and done == ["s1"]
    build(path, tmp_path / "out", dataclasses.replace(CONFIG, class_rule=ORDER))
    assert sorted(done[1:]) == ["s0", "s1"]


def test_tissue_can_be_asked_for(tmp_path):
    """Tissue begins at 64 px: a window on the glass is kept only when tissue is not asked for."""
    path = write_cohort(tmp_path, [("train", [("background", (0, 0, 64, 64)), ("stroma", (128, 128, 192, 192))])])
    assert set(build(path, tmp_path / "a").table["class"]) == {"background", "stroma"}
    asked = build(path, tmp_path / "b", dataclasses.replace(CONFIG, min_tissue=0.25))
    assert set(asked.table["class"]) == {"stroma"} and asked.summary["no_tissue"].iloc[0] > 0


def test_nothing_annotated_in_train(tmp_path):
    path = write_cohort(tmp_path, [("train", BOXES[2:3]), ("val", BOXES)])
    with pytest.raises(CohortError, match=r"split 'train' \(1 slides\) no window has more than 1%"):
        build(path, tmp_path / "out")


@pytest.mark.parametrize(
    "bad", [{"target_px": 0}, {"min_annotated": 1.0}, {"mpp": -1.0}, {"class_rule": "largest"}, {"class_rule": ()}]
)
def test_senseless_settings(bad):
    with pytest.raises(CohortError, match=next(iter(bad))):
        DenseIndexConfig(**bad)


def test_class_rule_names_must_be_classes(folder):
    with pytest.raises(CohortError, match=r"carcinoma > tumor: no class 'tumor'. Classes: 'not annotated'"):
        build(folder / "cohort.csv", folder / "x", dataclasses.replace(CONFIG, class_rule=("carcinoma", "tumor")))


def test_an_index_of_before_still_loads(small_index, tmp_path):
    small_index.save(tmp_path)
    content = json.loads((tmp_path / "index.json").read_text())
    del content["kind"]
    (tmp_path / "index.json").write_text(json.dumps(content))
    assert PatchIndex.load(tmp_path).config == small_index.config
