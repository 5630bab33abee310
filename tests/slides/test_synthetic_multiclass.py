"""Six classes on synthetic slides: complete truth, partial annotation, and that both say what is drawn."""

from __future__ import annotations

import csv
import hashlib
from types import SimpleNamespace

import numpy as np
import pytest
import shapely
import tifffile

from tfseg.slides import synthetic_nuclei
from tfseg.slides.annotations import load_annotation
from tfseg.slides.class_table import DMMN_CLASSES, ClassTable
from tfseg.slides.geojson import read_geojson
from tfseg.slides.rasterise import PixelGrid
from tfseg.slides.synthetic import IHC_STAINS, LABEL_STEP, STAINS, Recipe, synthetic_slide
from tfseg.slides.synthetic_cohort import _jobs, make_cohort
from tfseg.slides.synthetic_regions import GAP_UM, Labels, partial_annotation, regions_of
from tfseg.slides.synthetic_structures import ADIPOSE, BENIGN, NECROSIS, NEST
from tfseg.slides.synthetic_tissue import grow, raster
from tfseg.types import IGNORE, CohortError

NAMES = [spec.name for spec in DMMN_CLASSES]
SIDE, MPP = 1024, 1.0
SLIDE = SimpleNamespace(size=(SIDE, SIDE), mpp=MPP)
GRID = PixelGrid(0.0, 0.0, LABEL_STEP, LABEL_STEP, SIDE // LABEL_STEP, SIDE // LABEL_STEP)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """Nine slides in six stains, but with empty pictures, to save time; (folder, rows of cohort.csv)."""
    folder = tmp_path_factory.mktemp("cohort")
    stains = STAINS + IHC_STAINS
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tfseg.slides.synthetic_render.Picture", lambda *_: np.zeros((SIDE, SIDE, 3), np.uint8))
        path = make_cohort(folder, {"train": 3}, SIDE, MPP, seed=2, workers=1, annotation="multiclass", stains=stains)
    return folder, list(csv.DictReader(path.open(encoding="utf-8")))


def grown(grade, seed, every_class=True):
    """A slide before it is stained."""
    rng = np.random.default_rng(seed)
    nuclei = (*synthetic_nuclei.templates(grade, 1.0, rng), synthetic_nuclei.debris(1.0, rng))
    return grow((1800, 1500), grade, nuclei, rng, every_class)


@pytest.fixture(scope="module")
def tissue():
    return grown(3, 10)


def labels_of(folder, row):
    """(annotated, truth) labels of a slide, pixel by pixel of its label TIFF."""
    truth = tifffile.imread(folder / row["annotation"].replace("annotations/", "labels/").replace(".geojson", ".tif"))
    return load_annotation(folder / row["annotation"], SLIDE, ClassTable.dmmn()).labels_on(GRID), truth


def test_annotation_says_what_the_truth_says(cohort):
    folder, rows = cohort
    for row in rows:
        annotated, truth = labels_of(folder, row)
        drawn = annotated != IGNORE
        assert np.array_equal(annotated[drawn], truth[drawn])
        assert 0.35 < drawn.mean() < 0.9
        assert truth.min() >= 1 and truth.max() <= 6


def test_every_class_is_there_and_annotated(cohort):
    folder, rows = cohort
    pairs = [labels_of(folder, row) for row in rows]
    for value in range(1, 7):
        annotated, truth = (
            sum(np.count_nonzero(labels == value) for labels in kind) for kind in zip(*pairs, strict=True)
        )
        assert truth > 0.002 * 9 * GRID.width_px**2, NAMES[value]
        assert 0.25 * truth < annotated < 0.95 * truth, NAMES[value]


def test_nine_slides_show_every_stain_and_scanner(cohort):
    _, rows = cohort
    assert {row["stain"] for row in rows} == {*STAINS, *IHC_STAINS}
    assert {row["scanner"] for row in rows} == {"P", "Q", "R"}


def test_objects_have_the_names_and_colours_of_the_paper(cohort):
    folder, rows = cohort
    colors = {spec.name.capitalize(): spec.color for spec in DMMN_CLASSES[1:]}
    found = {(item.class_name, item.color) for row in rows for item in read_geojson(folder / row["annotation"])}
    assert found == set(colors.items())


def test_second_manifest_has_the_complete_truth(cohort):
    folder, rows = cohort
    truths = list(csv.DictReader((folder / "truth.csv").open(encoding="utf-8")))
    assert [{**row, "annotation": ""} for row in truths] == [{**row, "annotation": ""} for row in rows]
    table = ClassTable.cd_unet().of_raster(NAMES)
    labels = load_annotation(folder / truths[0]["annotation"], SLIDE, table).labels_on(GRID)
    expected = np.array([IGNORE, 1, 2, 0, 2, 3, 2])[labels_of(folder, rows[0])[1]]
    assert np.array_equal(labels, expected)


def test_a_cohort_of_outlines_takes_the_place_of_one_of_classes(tmp_path, monkeypatch):
    monkeypatch.setattr("tfseg.slides.synthetic_cohort._make", lambda *_: None)
    make_cohort(tmp_path, {"train": 1}, workers=1, annotation="multiclass")
    assert (tmp_path / "truth.csv").is_file()
    make_cohort(tmp_path, {"train": 1}, workers=1)
    assert not (tmp_path / "truth.csv").exists()


def test_again_the_same_bytes_and_in_another_stain_the_same_tissue(tmp_path):
    truths, made = [], []
    for name, stain, scanner in (("one", "HER2", "R"), ("two", "HER2", "R"), ("other", "A", "P")):
        folder = tmp_path / name
        recipe = Recipe(600, 0.5, 3, stain, scanner, 8, "multiclass")
        truth = synthetic_slide(folder / "s.tif", recipe, annotation=folder / "s.geojson", labels=folder / "l.tif")
        truths.append(truth)
        made.append({path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()})
    assert made[0] == made[1] and len(made[0]) == 3
    assert {name for name in made[0] if made[0][name] == made[2][name]} == {"s.geojson", "l.tif"}
    assert np.array_equal(truths[0].nuclei, truths[2].nuclei)
    assert truths[0].regions == truths[2].regions


def test_regions_fill_the_slide_without_overlap(tissue):
    regions = regions_of(tissue)
    assert list(regions) == NAMES[1:]
    assert sum(region.area for region in regions.values()) == pytest.approx(1800 * 1500, rel=1e-6)
    assert shapely.union_all(list(regions.values())).area == pytest.approx(1800 * 1500, rel=1e-6)


@pytest.mark.parametrize(
    ("code", "name"), [(NEST, "carcinoma"), (BENIGN, "benign epithelial"), (ADIPOSE, "adipose"), (NECROSIS, "necrotic")]
)
def test_truth_is_what_is_drawn(tissue, code, name):
    drawn = raster(tissue.shapes, (1800, 1500)) == code
    region = regions_of(tissue)[name]
    truth, around = (
        Labels([(shape, 1)], (1800, 1500), 2, 0).tile(0, 0, 750, 900) for shape in (region, region.buffer(2.5))
    )
    assert drawn.sum() > 500
    assert truth[drawn].mean() > 0.9  # OpenCV fills the pixels of the edge too
    assert around[drawn].mean() > 0.985


def test_gaps_between_classes_are_thin(tissue):
    regions = regions_of(tissue)
    drawn = partial_annotation(regions, 0.0, np.random.default_rng(0))
    for name in regions:
        own = shapely.MultiPolygon([part for other, part in drawn if other == name])
        others = shapely.MultiPolygon([part for other, part in drawn if other != name])
        assert own.is_valid
        assert 2 * (GAP_UM[0] - 0.5) - 0.1 < own.distance(others) < 2 * GAP_UM[1]
    assert 0.85 < sum(part.area for _, part in drawn) / (1800 * 1500) < 0.98


@pytest.mark.parametrize("share", [0.3, 0.8])
def test_a_share_is_left_out_and_no_class_vanishes(tissue, share):
    regions = regions_of(tissue)
    areas = []
    for left_out in (0.0, share):
        rngs = [np.random.default_rng(seed) for seed in range(4)]
        drawn = [item for rng in rngs for item in partial_annotation(regions, left_out, rng)]
        areas.append(sum(part.area for _, part in drawn))
        assert {name for name, _ in drawn} == set(regions)
    assert areas[1] / areas[0] == pytest.approx(1 - share, abs=0.12)


def test_necrosis_comes_with_the_grade_and_with_the_classes():
    area = {}
    for grade in (1, 2, 3):
        slide = grown(grade, 4)
        necrotic = regions_of(slide)["necrotic"]
        inside = shapely.contains_xy(necrotic.buffer(-3), slide.nuclei["x"], slide.nuclei["y"])
        assert grade == 1 or (
            inside.sum() > 30 and (slide.nuclei["kind"][inside] == synthetic_nuclei.DEBRIS).mean() > 0.95
        )
        area[grade] = necrotic.area
    assert area[1] == 0 < area[2] < area[3]
    plain = grown(3, 4, every_class=False)
    assert NECROSIS not in {shape.code for shape in plain.shapes}
    assert synthetic_nuclei.DEBRIS not in plain.nuclei["kind"]


def test_few_slides_of_each_grade_still_show_many_stains():
    jobs = _jobs({"train": 2, "val": 1, "test": 1}, Recipe(), 0, STAINS + IHC_STAINS)
    seen = {split: {recipe.stain for _, recipe, where in jobs if where == split} for split in ("train", "val", "test")}
    assert {split: len(stains) for split, stains in seen.items()} == {"train": 6, "val": 3, "test": 3}


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"annotation": "all"}, "annotation must be one of"),
        ({"annotation": "multiclass", "unannotated": 1.0}, "unannotated must be 0 to less than 1"),
        ({"stains": ("A", "D")}, "stain must be one of .*'HER2'"),
        ({"stains": ()}, "at least one of"),
    ],
)
def test_nonsense_settings(tmp_path, settings, says):
    with pytest.raises(CohortError, match=says):
        make_cohort(tmp_path / "cohort", {"train": 1}, **settings)
    assert not (tmp_path / "cohort").exists()
