"""The right fields and labels in the right order, exact resuming, copies, smaller targets, errors that name them."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
import tensorflow as tf
from dense_cohort import BOXES, CONFIG, write_cohort
from small_cohort import slide_image

from tfseg.data.balance import expand, version_seed
from tfseg.data.cohort import Cohort
from tfseg.data.dense_augment import DenseAugment, multi_level_augment
from tfseg.data.elastic import ElasticGrid
from tfseg.data.geometric import Geometry
from tfseg.data.index import PatchIndex, build_index
from tfseg.data.sampling import EpochSampler, HierarchicalSampler, RatioSampler
from tfseg.data.segmentation import segmentation_dataset, segmentation_validation_dataset
from tfseg.data.warp import Warp, read_field
from tfseg.data.windows import WindowPlan, WindowReader
from tfseg.slides.base import open_slide
from tfseg.slides.known_tables import TISSUE_TYPES
from tfseg.types import CohortError, InputSpec, ModelError, Window

FIELDS = (InputSpec("image_20x", (64, 64), mpp=0.5), InputSpec("image_10x", (64, 64), mpp=1.0))
TARGET = (64, 0.5)

Batch = tuple[dict[str, np.ndarray], dict[str, np.ndarray]]


@pytest.fixture(scope="module")
def index(tmp_path_factory) -> PatchIndex:
    folder = tmp_path_factory.mktemp("windows")
    cohort = Cohort.read(write_cohort(folder, [("train", BOXES), ("train", BOXES[-1:]), ("val", BOXES[:2])]))
    return build_index(cohort, CONFIG, folder / "index", classes=TISSUE_TYPES, workers=1, progress=False)


@pytest.fixture
def train(index) -> PatchIndex:
    return index.split("train")


def batches(dataset: tf.data.Dataset, count: int = 100) -> list[Batch]:
    return [
        ({k: v.numpy() for k, v in x.items()}, {k: v.numpy() for k, v in y.items()})
        for x, y in itertools.islice(dataset, count)
    ]


def same(left: list[Batch], right: list[Batch]) -> bool:
    return len(left) == len(right) and all(
        all(np.array_equal(a[part][key], b[part][key]) for part in (0, 1) for key in a[part])
        for a, b in zip(left, right, strict=True)
    )


def test_fields_and_labels_are_those_of_the_draws(train):
    sampler = EpochSampler(len(train.table), seed=2)
    found = batches(segmentation_dataset(train, sampler, 3, FIELDS, TARGET, outputs=("segmentation", "extra")), 2)
    rows = train.table.iloc[sampler.draw(tf.range(6)).numpy()]
    for k, (_, row) in enumerate(rows.iterrows()):
        inputs, outputs = found[k // 3]
        source = slide_image(int(row["slide_name"][1:]))
        left, top = int(row["x"]) - 32, int(row["y"]) - 32
        np.testing.assert_array_equal(inputs["image_20x"][k % 3], source[top : top + 64, left : left + 64])
        wide = source[top - 32 : top + 96, left - 32 : left + 96].reshape(64, 2, 64, 2, 3).mean(axis=(1, 3))
        assert np.abs(inputs["image_10x"][k % 3] - wide).max() <= 1
        labels = outputs["segmentation"][k % 3]
        for name in ("carcinoma", "benign epithelial", "necrotic", "adipose"):
            value = [spec.name for spec in train.classes].index(name)
            assert (labels == value).sum() == row[f"pixels {name}"]
        assert (labels == 255).sum() == 64 * 64 * (1 - row["annotated"])
        assert np.array_equal(labels, outputs["extra"][k % 3])
    assert found[0][0]["image_10x"].dtype == np.float32 and found[0][1]["segmentation"].dtype == np.uint8


@pytest.mark.parametrize("augment", [None, multi_level_augment(5)])
def test_resumes_exactly_whatever_the_threads(train, augment):
    expanded = expand(train, {"necrotic": 2, "carcinoma": 1})
    sampler = HierarchicalSampler(expanded.table, ("class",), seed=3)
    options = {"augment": augment, "elastic": ElasticGrid(window_px=128)}
    whole = batches(segmentation_dataset(expanded, sampler, 2, FIELDS, TARGET, threads=1, **options), 6)
    resumed = segmentation_dataset(expanded, sampler, 2, FIELDS, TARGET, threads=5, start_step=3, **options)
    assert same(batches(resumed, 3), whole[3:])
    share = segmentation_dataset(expanded, sampler.share(1, 2), 2, FIELDS, TARGET, **options)
    images = np.concatenate([x["image_10x"] for x, _ in whole])
    assert np.array_equal(np.concatenate([x["image_10x"] for x, _ in batches(share, 3)]), images[1::2])
    other = HierarchicalSampler(expanded.table, ("class",), seed=4)
    assert not same(batches(segmentation_dataset(expanded, other, 2, FIELDS, TARGET, **options), 1), whole[:1])


def test_copies_are_deformed_as_they_are_read(train):
    grid = ElasticGrid(points=9, sigma_px=3.0, window_px=128)
    expanded = expand(train, {"necrotic": 2}, ("necrotic",))
    rows = batches(segmentation_validation_dataset(expanded, 1, FIELDS, TARGET, elastic=grid))
    assert len(rows) == len(expanded.table)
    for (inputs, outputs), (_, row) in zip(rows, expanded.table.iterrows(), strict=True):
        slide = open_slide([slide_image(int(row["slide_name"][1:]))], mpp=0.5)
        seed = version_seed(row["slide_name"], row["x"], row["y"], row["elastic_copy"])
        warp = Warp((grid.draw(np.random.default_rng(seed & (2**64 - 1))),)) if row["elastic_copy"] else None
        for field in FIELDS:
            window = Window(row["x"], row["y"], 64, 64, float(field.mpp or 0))
            np.testing.assert_array_equal(inputs[field.name][0], read_field(slide, window, warp))
        annotated = (outputs["segmentation"] != 255).mean()
        assert annotated == row["annotated"] if row["elastic_copy"] == 0 else abs(annotated - row["annotated"]) < 0.15


def test_a_manifests_column_deforms_nothing(tmp_path):
    path = write_cohort(tmp_path, [("train", BOXES[:1])])
    path.write_text(path.read_text().replace("stain", "version").replace("HE", "3"))
    index = build_index(Cohort.read(path), CONFIG, tmp_path / "index", classes=TISSUE_TYPES, workers=1, progress=False)
    assert set(index.table["version"]) == {"3"}
    fields, _ = WindowReader(index, WindowPlan(FIELDS[:1], (64, 64), 0.5), 1).read(0)
    x, y = index.table[["x", "y"]].iloc[0].astype(int)
    assert np.array_equal(fields[0], slide_image(0)[y - 32 : y + 32, x - 32 : x + 32])


def test_target_smaller_than_the_fields_stays_in_their_middle(train):
    """As networks with valid padding have: 28 px at 1 µm/px inside fields of 64 px at 0.5 and 1 µm/px."""
    small = batches(segmentation_validation_dataset(train, 4, FIELDS, (28, 1.0)), 1)[0][1]["segmentation"]
    large = batches(segmentation_validation_dataset(train, 4, FIELDS, (56, 0.5)), 1)[0][1]["segmentation"]
    assert small.shape == (4, 28, 28)
    np.testing.assert_array_equal(small, large[:, 1::2, 1::2])
    oblong = batches(segmentation_validation_dataset(train, 4, FIELDS, ((20, 40), 0.5)), 1)[0][1]["segmentation"]
    np.testing.assert_array_equal(oblong, large[:, 18:38, 8:48])


def test_beyond_the_slides_edge(index, tmp_path):
    path = write_cohort(tmp_path, [("train", [("background", (0, 0, 64, 64))])])
    corner = build_index(Cohort.read(path), CONFIG, tmp_path / "x", classes=TISSUE_TYPES, workers=1, progress=False)
    wide = (InputSpec("image", (64, 64), mpp=2.0),)
    for border, value in (("zero", 0), ("white", 255)):
        inputs, outputs = batches(segmentation_validation_dataset(corner, 1, wide, (64, 2.0), border=border))[0]
        assert (inputs["image"][0, :24] == value).all() and (outputs["segmentation"][0, :24] == 255).all()
        assert inputs["image"][0, 24:40, 24:40].mean() > 200


def test_validation_reads_every_window_once_or_the_samplers(train):
    whole = batches(segmentation_validation_dataset(train, 3, FIELDS, TARGET))
    assert [len(x["image_20x"]) for x, _ in whole] == [3, 3, 1]
    assert same(whole, batches(segmentation_validation_dataset(train, 3, FIELDS, TARGET, threads=1)))
    sampler = HierarchicalSampler(train.table, ("class",), seed=7)
    drawn = segmentation_validation_dataset(train, 2, FIELDS, TARGET, sampler=sampler, steps=3)
    assert len(batches(drawn)) == 3 and same(batches(drawn), batches(drawn))
    with pytest.raises(ValueError, match="together"):
        segmentation_validation_dataset(train, 2, FIELDS, TARGET, steps=3)


def test_batches_in_a_ratio(train):
    sampler = RatioSampler(train.table, {"necrotic": 2, "carcinoma": 1, "adipose": 1})
    carcinoma, necrotic, adipose = 1, 5, 6
    for _, outputs in batches(segmentation_dataset(train, sampler, 4, FIELDS, TARGET), 4):
        winners = [np.bincount(labels[labels < 255]).argmax() for labels in outputs["segmentation"]]
        assert sorted(winners) == [carcinoma, necrotic, necrotic, adipose]


def test_augmented_labels_move_with_the_fields(train):
    """Labels and image turned together: the brightness under each label stays."""
    augment = DenseAugment(Geometry(p=1.0, turns=True, flips=True), multi_level_augment(0).colour)
    sampler = EpochSampler(len(train.table), seed=2)
    plain = batches(segmentation_dataset(train, sampler, 7, FIELDS, TARGET), 1)[0]
    moved = batches(segmentation_dataset(train, sampler, 7, FIELDS, TARGET, augment=augment), 1)[0]
    assert not np.array_equal(plain[0]["image_20x"], moved[0]["image_20x"])
    for k in range(7):
        for label in np.unique(plain[1]["segmentation"][k]):
            sums = [x["image_20x"][k][y["segmentation"][k] == label].sum() for x, y in (plain, moved)]
            assert sums[0] == sums[1]


def test_errors_name_slide_window_and_row(train, tmp_path):
    table = train.table.copy()
    table["slide"] = str(tmp_path / "gone.tiff")
    broken = dataclasses.replace(train, table=table)
    row = table.iloc[0]
    message = rf"gone\.tiff: cannot read the window at \({row['x']:g}, {row['y']:g}\) px, target 64×64 px of 0\.5 µm"
    with pytest.raises(tf.errors.OpError, match=message):
        batches(segmentation_validation_dataset(broken, 2, FIELDS, TARGET))


def test_a_damaged_annotation_is_named(train, tmp_path):
    (tmp_path / "bad.geojson").write_text("{")
    slides = {name: {**info, "annotation": str(tmp_path / "bad.geojson")} for name, info in train.slides.items()}
    with pytest.raises(tf.errors.OpError, match=r"row 0 of the index\): .*bad\.geojson"):
        batches(segmentation_validation_dataset(dataclasses.replace(train, slides=slides), 2, FIELDS, TARGET))


def test_what_cannot_be_read_is_refused_at_once(train):
    slides = {name: {**info, "annotation": None} for name, info in train.slides.items()}
    with pytest.raises(CohortError, match=r"7 of 7 windows are of slides without annotation \(s0, s1\)"):
        segmentation_validation_dataset(dataclasses.replace(train, slides=slides), 2, FIELDS, TARGET)
    whole = (InputSpec("image", (64, 64)),)
    with pytest.raises(ModelError, match=r"'image': expected an RGB field of a known mpp.*mpp None"):
        segmentation_validation_dataset(train, 2, whole, TARGET)
    with pytest.raises(ModelError, match="at least one field"):
        segmentation_validation_dataset(train, 2, (), TARGET)


def test_pictures_are_read_from_the_level_that_fits(train, tmp_path):
    """A pyramid whose levels differ in colour tells which one a field came from."""
    import tifffile

    path = tmp_path / "levels.tif"
    with tifffile.TiffWriter(path) as file:
        for factor, colour in ((1, (10, 10, 10)), (2, (20, 20, 20)), (4, (40, 40, 40))):
            level = np.full((640 // factor, 640 // factor, 3), colour, np.uint8)
            file.write(level, tile=(64, 64), photometric="rgb", subfiletype=int(factor > 1), metadata=None)
    table = train.table[train.table["slide_name"] == "s0"].assign(slide=str(path)).reset_index(drop=True)
    fields = tuple(InputSpec(f"image_{m}", (64, 64), mpp=m) for m in (0.5, 1.0, 2.0))
    inputs, _ = batches(segmentation_validation_dataset(dataclasses.replace(train, table=table), 1, fields, TARGET), 1)[
        0
    ]
    assert [inputs[f.name][0, 32, 32, 0] for f in fields] == [10, 20, 40]
