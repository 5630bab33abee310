from __future__ import annotations

import csv
import hashlib

import numpy as np
import openslide
import pytest
import shapely
import tifffile

from tfseg.slides import synthetic_nuclei, synthetic_render
from tfseg.slides.geojson import read_geojson
from tfseg.slides.synthetic import GRADES, SCANNERS, STAINS, Recipe, synthetic_slide
from tfseg.slides.synthetic_cohort import _jobs, make_cohort
from tfseg.slides.synthetic_tissue import grow
from tfseg.types import CohortError

SIZE = 1280


def digests(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def slides(tmp_path_factory):
    """A slide of each grade with its truth: grade → (folder, Truth)."""
    made = {}
    for grade in (1, 2, 3):
        folder = tmp_path_factory.mktemp(f"grade{grade}")
        truth = synthetic_slide(
            folder / "slide.tif",
            Recipe(2048, grade=grade, seed=(4, grade)),
            annotation=folder / "slide.geojson",
            labels=folder / "labels.tif",
        )
        made[grade] = folder, truth
    return made


def test_same_seed_same_bytes_however_many_workers(tmp_path):
    counts = {"train": 1}
    make_cohort(tmp_path / "one", counts, size_px=640, seed=3, workers=1)
    make_cohort(tmp_path / "two", counts, size_px=640, seed=3, workers=2)
    one, two = digests(tmp_path / "one"), digests(tmp_path / "two")
    assert one == two
    assert len(one) == 3 * 3 + 1


def test_another_seed_is_another_slide(tmp_path):
    for seed in (0, 1):
        synthetic_slide(tmp_path / f"{seed}" / "slide.tif", Recipe(500, seed=seed))
    assert digests(tmp_path / "0") != digests(tmp_path / "1")


def test_manifest_and_progress(tmp_path):
    told = []
    path = make_cohort(
        tmp_path, {"train": 1, "val": 0}, size_px=600, workers=1, progress=lambda *news: told.append(news)
    )
    rows = list(csv.DictReader(path.open(encoding="utf-8")))
    assert list(rows[0]) == ["slide", "annotation", "split", "grade", "stain", "scanner"]
    assert [row["grade"] for row in rows] == ["1", "2", "3"]
    assert {row["split"] for row in rows} == {"train"}
    assert all((tmp_path / row["slide"]).is_file() and (tmp_path / row["annotation"]).is_file() for row in rows)
    assert told == [(n, 3, f"train-grade{n}-01") for n in (1, 2, 3)]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_stains_and_scanners_are_crossed_with_grades(seed):
    jobs = _jobs({"train": 3, "val": 1, "test": 1}, Recipe(), seed, STAINS)
    assert len({recipe.seed for _, recipe, _ in jobs}) == len(jobs)
    pairs = {}
    for _, recipe, split in jobs:
        pairs.setdefault((split, recipe.grade), set()).add((recipe.stain, recipe.scanner))
    assert len(set.union(*(pairs["train", grade] for grade in GRADES))) == 9
    for grade in GRADES:
        stains, scanners = zip(*pairs["train", grade], strict=True)
        assert set(stains) == set(STAINS) and set(scanners) == set(SCANNERS)
        assert not pairs["train", grade] & (pairs["val", grade] | pairs["test", grade])


def test_nine_slides_of_a_grade_show_every_pair():
    jobs = _jobs({"train": 9}, Recipe(), 0, STAINS)
    assert len({(recipe.stain, recipe.scanner) for _, recipe, _ in jobs if recipe.grade == 2}) == 9


def test_slide_opens_with_pixel_size_and_power(slides):
    with openslide.OpenSlide(slides[2][0] / "slide.tif") as slide:
        assert slide.level_dimensions == ((2048, 2048), (1024, 1024))
        assert float(slide.properties["openslide.mpp-x"]) == 0.5
        assert slide.properties["openslide.objective-power"] == "20"


@pytest.mark.parametrize("grade", [1, 2, 3])
def test_annotation_labels_and_truth_agree(slides, grade):
    folder, truth = slides[grade]
    features = read_geojson(folder / "slide.geojson")
    assert {feature.class_name for feature in features} == {"Tumour"}
    drawn = shapely.union_all([feature.polygon for feature in features])
    assert drawn.is_valid and drawn.symmetric_difference(truth.tumour).area < 1
    with tifffile.TiffFile(folder / "labels.tif") as tiff:
        labels = tiff.pages[0].asarray()
        x, per = tiff.pages[0].tags["XResolution"].value
        assert x / per == pytest.approx(1e4 / 2.0)
    assert labels.shape == (512, 512)
    x, y = np.meshgrid(np.arange(512) * 4 + 2.0, np.arange(512) * 4 + 2.0)
    inside = shapely.contains_xy(truth.tumour, x, y)
    assert np.count_nonzero(inside != (labels == 1)) <= 2
    assert set(np.unique(labels)) == {0, 1}


@pytest.mark.parametrize("grade", [1, 2, 3])
def test_tumour_is_inside_the_specimen_and_a_fair_share_of_it(slides, grade):
    truth = slides[grade][1]
    assert truth.tumour.difference(truth.tissue.buffer(0.1)).area < 1
    assert 0.12 < truth.tumour.area / truth.tissue.area < 0.55
    left, top, right, bottom = truth.tissue.bounds
    assert min(left, top, 2048 - right, 2048 - bottom) > 20


def test_nuclei_grow_and_vary_with_the_grade(slides):
    diameter, variation = [], []
    for grade in (1, 2, 3):
        truth = slides[grade][1]
        sizes = 2 * np.sqrt(truth.nuclei[truth.nuclei[:, 2] == 0, 3] / np.pi)
        diameter.append(sizes.mean())
        variation.append(sizes.std() / sizes.mean())
    assert diameter == sorted(diameter) and diameter[2] > 1.4 * diameter[0]
    assert variation == sorted(variation) and variation[2] > 1.8 * variation[0]


def test_nuclei_per_area_rise_with_the_grade():
    density = []
    for grade in (1, 2, 3):
        templates = synthetic_nuclei.templates(grade, 0.5, np.random.default_rng(0))
        grown = [grow((2500, 2500), grade, templates, np.random.default_rng(seed)) for seed in range(3)]
        nuclei = sum(np.count_nonzero(tissue.nuclei["kind"] == synthetic_nuclei.TUMOUR) for tissue in grown)
        density.append(nuclei / sum(tissue.layout.tumour.area for tissue in grown))
    assert density[0] < density[1] < density[2] and density[2] > 1.3 * density[0]


def test_nuclei_are_dark_where_the_table_says(slides):
    folder, truth = slides[2]
    image = tifffile.imread(folder / "slide.tif", key=0)
    for kind in (0, 1, 2, 3):
        nuclei = truth.nuclei[truth.nuclei[:, 2] == kind]
        columns, rows = np.rint(nuclei[:, :2]).astype(int).T.clip(0, 2047)
        if len(nuclei) > 20:
            assert np.median(image[rows, columns, 0]) < 150
    x, y = np.meshgrid(np.arange(0, 2048, 16), np.arange(0, 2048, 16))
    glass = ~shapely.contains_xy(truth.tissue.buffer(60), x, y)
    assert image[y[glass], x[glass]].min() > 215
    tissue = shapely.contains_xy(truth.tissue.buffer(-20), x, y)
    pink = image[y[tissue], x[tissue]].astype(int)
    assert np.median(pink[:, 1]) < np.median(pink[:, 2]) < np.median(pink[:, 0])


def test_a_slide_may_be_oblong_and_at_another_pixel_size(tmp_path):
    truth = synthetic_slide(tmp_path / "slide.svs", Recipe((1500, 1100), mpp=0.25, grade=3, stain="C", scanner="Q"))
    with openslide.OpenSlide(tmp_path / "slide.svs") as slide:
        assert slide.dimensions == (1500, 1100)
        assert slide.properties["openslide.objective-power"] == "40"
    assert truth.tissue.bounds[2] < 1500 and truth.tissue.bounds[3] < 1100


@pytest.mark.parametrize("seed", range(12))
def test_every_small_slide_can_be_made(tmp_path, seed):
    truth = synthetic_slide(tmp_path / "slide.tif", Recipe(500, grade=1 + seed % 3, seed=seed))
    assert truth.tumour.area > 0


def test_tiles_fit_together():
    rng = np.random.default_rng(0)
    templates = synthetic_nuclei.templates(3, 0.5, rng)
    tissue = grow((SIZE / 2, SIZE / 2), 3, templates, rng)
    quiet = synthetic_render.Scanner((243, 243, 243), 1.0, 0.5, 0.0, 90)
    picture = synthetic_render.Picture(tissue, templates, 0.5, synthetic_render.STAINS["A"], quiet, rng)
    whole = picture.tile(0, 0, SIZE, SIZE).astype(int)
    parts = np.block([[[picture.tile(r, c, 320, 640)] for c in (0, 640)] for r in range(0, SIZE, 320)]).astype(int)
    assert abs(whole - parts).mean() < 0.2  # interpolation is fixed-point, so not equal to the last bit
    seams = abs(whole - parts)[[319, 320, 639, 640]]
    assert seams.mean() < 0.3


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"slides_per_grade": {"train": 0}}, "at least one slide"),
        ({"slides_per_grade": {"train": 2, "val": -1}}, "no negative"),
        ({"size_px": 100}, "size_px must be at least 500"),
        ({"mpp": 0.0}, "mpp must be"),
        ({"mpp": float("nan")}, "mpp must be"),
        ({"workers": 0}, "workers must be"),
        ({"seed": -1}, "seed at least 0"),
    ],
)
def test_nonsense_settings(tmp_path, settings, says):
    with pytest.raises(CohortError, match=says):
        make_cohort(tmp_path / "cohort", **settings)
    assert not (tmp_path / "cohort").exists()


@pytest.mark.parametrize(("what", "value"), [("grade", 4), ("stain", "D"), ("scanner", "A")])
def test_unknown_names(tmp_path, what, value):
    with pytest.raises(CohortError, match=f"{what} must be one of"):
        synthetic_slide(tmp_path / "slide.tif", Recipe(600, **{what: value}))


def test_a_failure_leaves_no_manifest(tmp_path, monkeypatch):
    make_cohort(tmp_path, {"train": 1}, size_px=500, workers=1)

    def fail(*_, **__):
        raise OSError("disk full")

    monkeypatch.setattr("tfseg.slides.synthetic.write_pyramid", fail)
    with pytest.raises(OSError, match="disk full"):
        make_cohort(tmp_path, {"train": 1}, size_px=500, workers=1)
    assert not (tmp_path / "cohort.csv").exists()
