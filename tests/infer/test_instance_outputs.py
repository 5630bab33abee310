"""Nuclei on disk: outlines and measurements that QuPath reads, and a pyramid of their numbers."""

from __future__ import annotations

import dataclasses
import json
import logging

import numpy as np
import pytest
import shapely
import tifffile
from dense_networks import Identity, dense_spec
from skimage.measure import regionprops

from tfseg.infer.band_store import KEY_BYTES, BandStore
from tfseg.infer.dense import segment_dense
from tfseg.infer.instance_outputs import (
    DAB_STAINS,
    EOSIN,
    HAEMATOXYLIN,
    HE_STAINS,
    DetectionOptions,
    LabelBands,
    StoredProbabilities,
    eccentricity,
    outlines,
    slide_image,
    write_nuclei,
)
from tfseg.infer.instance_stitch import Tile, TileGrid, label_tiles
from tfseg.infer.instances import InstanceOptions, label_instances, number
from tfseg.slides.base import open_slide
from tfseg.slides.geojson import read_geojson
from tfseg.slides.rasterise import PixelGrid
from tfseg.types import ModelError, OutputError

GRID = TileGrid(70, 90, tile_px=40, overlap_px=16)


def nuclei() -> np.ndarray:
    """Labels (70, 90): ellipses, some touching, one with a hole, one at the edge; seams at 24, 40, 48, 64, 72."""
    y, x = np.mgrid[:70, :90]
    labels = np.zeros((70, 90), int)
    for number_, (cy, cx, ry, rx) in enumerate(
        [(20, 20, 6, 6), (20, 32, 6, 6), (45, 45, 7, 5), (45, 55, 5, 5), (66, 86, 6, 6), (8, 70, 3, 7)], start=1
    ):
        labels[((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 < 1] = number_
    labels[45, 45] = 0
    return labels


def picture(labels: np.ndarray, amounts: dict[int, tuple[float, float]]) -> np.ndarray:
    """Each label with its own amounts of haematoxylin and eosin, as optical density (base 10)."""
    stains = np.stack([np.array(one) / np.linalg.norm(one) for one in (HAEMATOXYLIN, EOSIN)])
    density = np.zeros((*labels.shape, 3))
    for label, amount in amounts.items():
        density[labels == label] = amount @ stains
    return np.rint(255 * 10**-density).astype(np.uint8)


def tiles(labels: np.ndarray, image: np.ndarray | None = None, grid: TileGrid = GRID) -> list[Tile]:
    boxes = [grid.box(*cell) for cell in grid.tiles()]
    return [Tile(labels[t:b, le:r], None if image is None else image[t:b, le:r]) for t, le, b, r in boxes]


def written(tmp_path, labels, image=None, step=2.0, mpp=0.25, options=None, grid=GRID):
    """(features, labels read back, summary) of a slide of which a label pixel is ``step``² level-0 pixels."""
    slide = open_slide([np.full((int(70 * step), int(90 * step), 3), 255, np.uint8)], mpp=mpp)
    pixels = PixelGrid(0.0, 0.0, step, step, 90, 70)
    summary = write_nuclei(tmp_path, slide, pixels, grid, tiles(labels, image, grid), options)
    features = read_geojson(tmp_path / summary["outputs"][0])
    return features, tifffile.imread(tmp_path / summary["outputs"][1]), summary


def test_detections_lie_where_the_nuclei_are(tmp_path):
    labels = nuclei()
    features, picture_, summary = written(tmp_path, labels)
    assert summary == {"outputs": ["nuclei.geojson", "nuclei.tiff"], "nuclei": 6, "nuclei_cut": 0, "nuclei_mpp": 0.5}
    assert picture_.dtype == np.uint32
    np.testing.assert_array_equal(number(picture_), number(labels))
    y, x = np.mgrid[:70, :90]
    for place, feature in enumerate(features, start=1):
        assert feature.object_type == "detection" and feature.class_name == "Nucleus"
        inside = shapely.contains_xy(feature.polygon, 2 * (x + 0.5), 2 * (y + 0.5))
        np.testing.assert_array_equal(inside, picture_ == place)
        assert feature.measurements["Area µm^2"] == pytest.approx(inside.sum() * 0.25, abs=0.01)


def test_measurements_are_those_of_the_nucleus(tmp_path):
    labels = nuclei()
    features, picture_, _ = written(tmp_path, labels)
    for region, feature in zip(regionprops(picture_.astype(np.int32)), features, strict=True):
        assert feature.measurements["Perimeter µm"] == pytest.approx(region.perimeter * 0.5, abs=1e-3)
        assert feature.measurements["Eccentricity"] == pytest.approx(region.eccentricity, abs=1e-4)
        assert not any("Mean" in name for name in feature.measurements)


def test_stains_are_measured_over_the_nucleus_alone(tmp_path):
    labels = nuclei()
    amounts = {label: (0.1 + 0.15 * label, 0.7 - 0.1 * label) for label in range(1, 7)}
    features, picture_, _ = written(tmp_path, labels, picture(labels, amounts))
    for place, feature in enumerate(features, start=1):
        haematoxylin, eosin = amounts[int(labels[picture_ == place][0])]
        assert feature.measurements["Hematoxylin: Mean"] == pytest.approx(haematoxylin, abs=0.02)
        assert feature.measurements["Eosin: Mean"] == pytest.approx(eosin, abs=0.02)


def test_other_stains_by_option(tmp_path):
    features, _, _ = written(
        tmp_path, nuclei(), np.full((70, 90, 3), 120, np.uint8), options=DetectionOptions(stains=DAB_STAINS)
    )
    assert {"Hematoxylin: Mean", "DAB: Mean"} <= set(features[0].measurements)
    features, _, _ = written(
        tmp_path, nuclei(), np.full((70, 90, 3), 120, np.uint8), options=DetectionOptions(stains={})
    )
    assert set(features[0].measurements) == {"Area µm^2", "Perimeter µm", "Eccentricity"}


@pytest.mark.parametrize(
    "stains", [{"one": (1, 0, 0)}, {"a": (0.6, 0.7, 0.3), "b": (1.2, 1.4, 0.6)}, {"a": (0, 0, 0), "b": (1, 0, 0)}]
)
def test_stains_that_cannot_be_told_apart_are_refused(tmp_path, stains):
    with pytest.raises(ModelError, match="stains"):
        written(tmp_path, nuclei(), options=DetectionOptions(stains=stains))
    assert not list(tmp_path.iterdir())


def test_outlines_end_at_the_slides_edge(tmp_path):
    slide = open_slide([np.full((139, 179, 3), 255, np.uint8)], mpp=0.25)  # the last pixels reach past it
    write_nuclei(tmp_path, slide, PixelGrid(0.0, 0.0, 2.0, 2.0, 90, 70), GRID, tiles(nuclei()))
    bounds = np.array([feature.polygon.bounds for feature in read_geojson(tmp_path / "nuclei.geojson")])
    assert bounds[:, 2].max() == 179 and bounds[:, 3].max() == 139


def test_packed_and_the_same_bytes_again(tmp_path):
    for folder in ("a", "b"):
        summary = written(tmp_path / folder, nuclei(), options=DetectionOptions(compress=True))[2]
        assert summary["outputs"] == ["nuclei.geojson.gz", "nuclei.tiff"]
    for name in summary["outputs"]:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_pieces_are_counted_and_warned_of(tmp_path, caplog):
    labels = nuclei()
    labels[30:34, 5:85] = 9
    with caplog.at_level(logging.WARNING):
        _, picture_, summary = written(tmp_path, labels)
    assert summary["nuclei_cut"] == 4 and summary["nuclei"] == 10
    assert "4 of 10 nuclei" in caplog.text and "16 px" in caplog.text
    np.testing.assert_array_equal(picture_ > 0, labels > 0)


def test_a_slide_without_nuclei_gives_empty_files(tmp_path):
    features, picture_, summary = written(tmp_path, np.zeros((70, 90), int))
    assert (features, summary["nuclei"]) == ([], 0) and not picture_.any()
    assert json.loads((tmp_path / "nuclei.geojson").read_text())["features"] == []


def test_nothing_is_left_behind_by_a_run_that_fails(tmp_path):
    given = tiles(nuclei())
    slide = open_slide([np.full((140, 180, 3), 255, np.uint8)], mpp=0.25)
    pixels = PixelGrid(0.0, 0.0, 2.0, 2.0, 90, 70)
    with pytest.raises(ModelError, match="got none for row"):
        write_nuclei(tmp_path, slide, pixels, GRID, given[:3])
    assert not list(tmp_path.iterdir())
    with pytest.raises(ModelError, match=r"\(70, 90\).*\(71, 90\)"):
        write_nuclei(tmp_path, slide, PixelGrid(0.0, 0.0, 2.0, 2.0, 90, 71), GRID, given)
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="file"):
        write_nuclei(tmp_path / "file" / "below", slide, pixels, GRID, given)


def test_pyramid_levels_hold_ids_that_exist(tmp_path):
    rng = np.random.default_rng(0)
    grid = TileGrid(1500, 1300, tile_px=512, overlap_px=32)
    labels = np.zeros((1500, 1300), np.int64)
    for label, (y, x) in enumerate(rng.integers(0, (1480, 1280), (500, 2)), start=1):
        labels[y : y + 12, x : x + 12] = label
    slide = open_slide([np.full((1500, 1300, 3), 255, np.uint8)], mpp=0.25)
    pixels = PixelGrid(0.0, 0.0, 1.0, 1.0, 1300, 1500)
    summary = write_nuclei(tmp_path, slide, pixels, grid, tiles(labels, None, grid))
    assert summary["nuclei"] == len(np.unique(labels)) - 1
    with tifffile.TiffFile(tmp_path / "nuclei.tiff") as tiff:
        assert [page.shape for page in tiff.pages] == [(1500, 1300), (750, 650)]
        full, half = (page.asarray() for page in tiff.pages)
        assert tiff.pages[0].tags["XResolution"].value == (40_000, 1)
    np.testing.assert_array_equal(number(full), number(labels))
    assert full.max() == summary["nuclei"] > 255
    corners = np.stack([full[i::2, j::2] for i in (0, 1) for j in (0, 1)])
    assert (half == corners).any(axis=0).all()


def test_outlines_of_many_masks_are_those_of_each():
    rng = np.random.default_rng(1)
    masks = [rng.random(rng.integers(1, 12, 2)) < 0.7 for _ in range(60)]
    masks = [mask for mask in masks if mask.any()]
    for mask, shape in zip(masks, outlines(masks), strict=True):
        y, x = np.mgrid[: mask.shape[0], : mask.shape[1]]
        assert shape.is_valid and shape.area == mask.sum()
        np.testing.assert_array_equal(shapely.contains_xy(shape, x + 0.5, y + 0.5), mask)


def test_eccentricity_is_that_of_scikit_image():
    rng = np.random.default_rng(2)
    shapes = [np.ones((1, 1), bool), np.ones((1, 9), bool), np.ones((5, 5), bool), np.eye(4, dtype=bool)]
    shapes += [rng.random(rng.integers(2, 20, 2)) < 0.8 for _ in range(30)]
    for mask in shapes:
        assert eccentricity(mask) == pytest.approx(regionprops(mask.astype(np.uint8))[0].eccentricity, abs=1e-6)


def test_label_bands_keep_numbers_of_32_bits():
    rng = np.random.default_rng(0)
    rows = rng.integers(0, 2**32, (23, 17), dtype=np.uint32)
    with LabelBands(17) as bands:
        for first in (0, 5, 6, 20):
            last = {0: 5, 5: 6, 6: 20, 20: 23}[first]
            bands.append(rows[first:last])
        assert bands.shape == (23, 17)
        np.testing.assert_array_equal(bands.tile(3, 2, 18, 11), rows[3:21, 2:13])


def test_probabilities_of_a_dense_run_are_read_where_asked():
    planes = np.random.default_rng(0).integers(0, 256, (3, 40, 30), dtype=np.uint8)
    store = BandStore(None, bytes(KEY_BYTES), 30, 3)
    for first in range(0, 40, 8):
        store.append(list(planes[:, first : first + 8]))
    one, three = StoredProbabilities(store, [1]), StoredProbabilities(store, [0, 1, 2])
    for place in [(3, 2, 20, 11), (3, 10, 20, 20), (4, 0, 20, 5), (3, 2, 20, 11)]:
        top, left, height, width = place
        expected = planes[:, top : top + height, left : left + width].astype(np.float32) / 255
        np.testing.assert_array_equal(one(*place), expected[1])
        np.testing.assert_array_equal(three(*place), np.moveaxis(expected, 0, -1))
    assert one(0, 0, 40, 30).dtype == np.float32
    store.close()


def test_images_of_tiles_are_the_slides_pixels(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (140, 180, 3), dtype=np.uint8)
    slide = open_slide([image], mpp=0.25)
    read = slide_image(slide, PixelGrid(0.0, 0.0, 1.0, 1.0, 180, 140))
    np.testing.assert_array_equal(read(7, 11, 20, 31), image[7:27, 11:42])
    values = np.zeros((140, 180), np.float32)
    grid = TileGrid(140, 180, 64, 16)
    found = list(
        label_tiles(grid, lambda t, le, h, w: values[t : t + h, le : le + w], lambda v: v.astype(int), image=read)
    )
    for cell, tile in zip(grid.tiles(), found, strict=True):
        top, left, bottom, right = grid.box(*cell)
        np.testing.assert_array_equal(tile.image, image[top:bottom, left:right])


def test_from_a_dense_run_to_detections(tmp_path):
    labels = nuclei()
    image = np.zeros((70, 90, 3), np.uint8)
    image[labels > 0, 1] = 255  # the network calls green what is green
    slide, spec = open_slide([image], mpp=0.5), dense_spec(mpps=(0.5,), stride_px=8)
    result = segment_dense(slide, Identity(spec), spec, probabilities=True)
    pixels = result.grid.pixels
    grid = TileGrid(pixels.height_px, pixels.width_px, tile_px=40, overlap_px=16)
    found = StoredProbabilities(result.store, [1 + 1])
    options = InstanceOptions(split="none", max_hole_px=0)
    given = label_tiles(grid, found, lambda part: label_instances(part, options), image=slide_image(slide, pixels))
    summary = write_nuclei(tmp_path, slide, pixels, grid, given)
    result.store.close()
    expected = label_instances(labels > 0, options)
    assert summary["nuclei"] == expected.max() and summary["nuclei_cut"] == 0
    np.testing.assert_array_equal(number(tifffile.imread(tmp_path / "nuclei.tiff")), expected)
    assert all("Eosin: Mean" in feature.measurements for feature in read_geojson(tmp_path / "nuclei.geojson"))


def test_default_stains_are_haematoxylin_and_eosin():
    assert list(DetectionOptions().stains) == list(HE_STAINS) == ["Hematoxylin", "Eosin"]


def test_scores_are_measurements(tmp_path):
    labels = nuclei()
    slide, pixels = open_slide([np.full((70, 90, 3), 255, np.uint8)], mpp=0.25), PixelGrid(0.0, 0.0, 1.0, 1.0, 90, 70)
    scored = [dataclasses.replace(tile, scores={2: 0.875}) for tile in tiles(labels)]
    seen = []
    write_nuclei(tmp_path, slide, pixels, GRID, scored, seen=seen.append)
    features = read_geojson(tmp_path / "nuclei.geojson")
    assert sorted(feature.measurements.get("Score", 0) for feature in features) == [0] * 5 + [0.875]
    assert [one.id for one in seen] == [1, 2, 3, 4, 5, 6]
