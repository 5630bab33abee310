"""Nuclei of pictures and slides on disk: what is found, what is said of the pixel size, and going on after a stop."""

from __future__ import annotations

import dataclasses
import json
import logging

import numpy as np
import pytest
import tifffile
from dense_networks import write_dense
from fake_networks import slide_file
from nuclei_network import DISCS, MPP, disc_labels, disc_picture, nuclei_spec, write_network
from PIL import Image
from scipy import ndimage

import tfseg
from tfseg.infer.cascade import SegmentOptions, segment_nuclei
from tfseg.infer.dense import DenseOptions
from tfseg.infer.instances import number
from tfseg.infer.networks import Network
from tfseg.infer.nuclei import label_image
from tfseg.infer.nuclei_job import Seen
from tfseg.infer.nuclei_model import DEFAULT_MODEL, FindingOptions, NucleiModel, default_model, load_nuclei_model
from tfseg.infer.outputs import OutputOptions
from tfseg.infer.predictors import load_predictor
from tfseg.slides.geojson import read_geojson
from tfseg.types import ModelError, OutputError

FILES = ["nuclei.geojson", "nuclei.tiff", "overlay.png", "summary.json"]
AREAS = np.bincount(disc_labels().ravel())[1:]


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    return write_network(tmp_path_factory.mktemp("nuclei") / "model")


@pytest.fixture
def picture(tmp_path):
    """A plain PNG, which does not say its pixel size."""
    Image.fromarray(disc_picture()).save(tmp_path / "picture.png")
    return tmp_path / "picture.png"


def summary(folder) -> dict:
    return json.loads((folder / "summary.json").read_text())


def test_a_plain_picture_is_taken_at_the_networks_pixel_size(network, picture, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        report = segment_nuclei([picture], network, tmp_path / "out")
    folder = tmp_path / "out/picture"
    assert sorted(path.name for path in folder.iterdir()) == FILES
    assert not report.failures
    found = tifffile.imread(folder / "nuclei.tiff")
    assert found.dtype == np.uint32
    np.testing.assert_array_equal(number(found), disc_labels())
    assert "picture.png" in caplog.text and "assumed is the network's, 0.5 µm/px" in caplog.text
    assert "--mpp" in caplog.text
    told = summary(folder)
    assert told == report.summaries["picture"]
    assert told["nuclei"] == len(DISCS) and told["nuclei_cut"] == 0
    assert told["slide"]["mpp"] == MPP and told["slide"]["mpp_source"] == "assumed"
    assert told["nuclei_per_mm2"] is None
    assert told["median_area_px"] == np.median(AREAS)
    assert told["median_area_um2"] == pytest.approx(np.median(AREAS) * MPP**2)
    assert told["model"]["name"] == "tiny nuclei" and told["grid"]["stride_px"] == 32
    assert told["settings"]["dense"]["border"] == "reflect"
    assert told["settings"]["instances"]["split"] == "distance"
    assert {"tfseg", "numpy"} <= set(told["versions"]) and told["seconds"]["total"] > 0
    with tifffile.TiffFile(folder / "nuclei.tiff") as file:
        assert "0.5 um/px from assumed" in file.pages[0].description
    assert "from assumed" in json.loads((folder / "nuclei.geojson").read_text())["tfseg"]["mpp"]


def test_a_given_pixel_size_is_none_that_is_assumed(network, picture, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        told = segment_nuclei([picture], network, tmp_path, SegmentOptions(mpp=MPP)).summaries["picture"]
    assert caplog.text == ""
    assert told["slide"]["mpp_source"] == "given (--mpp)"
    assert told["nuclei_per_mm2"] == pytest.approx(len(DISCS) / (130 * 150 * MPP**2 / 1e6), abs=0.01)


def test_a_slide_is_read_at_the_networks_pixel_size(network, tmp_path):
    """At 0.25 µm/px every disc is twice as wide; detections lie in the slide's own pixels."""
    large = np.asarray(disc_picture().repeat(2, axis=0).repeat(2, axis=1))
    slide = slide_file(tmp_path / "s.tif", large, mpp=MPP / 2)
    told = segment_nuclei([slide], network, tmp_path / "out").summaries["s"]
    np.testing.assert_array_equal(number(tifffile.imread(tmp_path / "out/s/nuclei.tiff")), disc_labels())
    assert told["nuclei_mpp"] == MPP and told["slide"]["mpp"] == MPP / 2
    assert told["nuclei_per_mm2"] == pytest.approx(len(DISCS) / told["areas_mm2"]["slide"], abs=0.01)
    features = read_geojson(tmp_path / "out/s/nuclei.geojson")
    for feature, (row, column, _), area in zip(features, DISCS, AREAS, strict=True):
        assert feature.object_type == "detection"
        centre = feature.polygon.centroid
        assert (centre.x, centre.y) == pytest.approx((2 * column + 1, 2 * row + 1), abs=0.01)
        assert feature.measurements["Area µm^2"] == pytest.approx(area * MPP**2)
        assert {"Hematoxylin: Mean", "Eosin: Mean", "Perimeter µm", "Eccentricity"} <= set(feature.measurements)


def test_it_finds_what_label_image_finds(network, picture, tmp_path):
    segment_nuclei([picture], network, tmp_path)
    predict, spec = load_predictor(network)
    np.testing.assert_array_equal(
        number(tifffile.imread(tmp_path / "picture/nuclei.tiff")), label_image(predict, spec, disc_picture())
    )


def test_outlines_are_drawn_on_the_nuclei(network, picture, tmp_path):
    """On the full picture: the discs' pixels that have one of the four neighbours outside."""
    segment_nuclei([picture], network, tmp_path)
    labels = disc_labels()
    edge = (labels > 0) & ~ndimage.binary_erosion(labels > 0)
    seen = np.asarray(Image.open(tmp_path / "picture/overlay.png"))[: labels.shape[0], : labels.shape[1]]
    np.testing.assert_array_equal((seen == (40, 160, 60)).all(axis=-1), edge)


def test_stains_are_those_asked_for(network, picture, tmp_path):
    how = FindingOptions(stains="dab")
    told = segment_nuclei([picture], network, tmp_path, SegmentOptions(mpp=MPP), how).summaries["picture"]
    measurements = read_geojson(tmp_path / "picture/nuclei.geojson")[0].measurements
    assert "DAB: Mean" in measurements and "Eosin: Mean" not in measurements
    assert told["settings"]["nuclei"]["stains"] == "dab"


def test_finished_ones_are_left_as_they_are(network, picture, tmp_path):
    options = SegmentOptions(mpp=MPP)
    assert not segment_nuclei([picture], network, tmp_path, options).skipped
    assert segment_nuclei([picture], network, tmp_path, options).skipped == ["picture"]
    assert not segment_nuclei([picture], network, tmp_path, options, FindingOptions(stains="dab")).skipped
    threshold = dataclasses.replace(options, dense=DenseOptions(threshold=0.4))
    assert not segment_nuclei([picture], network, tmp_path, threshold).skipped
    packed = dataclasses.replace(options, outputs=OutputOptions(compress_polygons=True))
    assert not segment_nuclei([picture], network, tmp_path, packed).skipped
    assert sorted(path.name for path in (tmp_path / "picture").iterdir()) == ["nuclei.geojson.gz", *FILES[1:]]


def test_broken_ones_are_named_and_the_rest_is_done(network, picture, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no picture")
    tiled = tmp_path / "tiled.tif"  # a slide to OpenSlide, which does not say its pixel size
    tifffile.imwrite(tiled, disc_picture(), tile=(64, 64), photometric="rgb")
    report = segment_nuclei([tmp_path / "broken.png", tiled, picture], network, tmp_path / "out")
    assert list(report.summaries) == ["picture"]
    assert "broken.png: not a slide" in report.failures["broken"]
    assert "does not say its pixel size" in report.failures["tiled"]


class StopAfter:
    """The network, which is interrupted after so many tiles."""

    def __init__(self, predict, tiles: int) -> None:
        self.predict, self.left, self.seen = predict, tiles, 0

    def __call__(self, batch):
        self.left -= len(batch)
        self.seen += len(batch)
        if self.left < 0:
            raise KeyboardInterrupt
        return self.predict(batch)


def test_goes_on_where_it_was_stopped(network, picture, tmp_path):
    predict, spec = load_predictor(network)
    stopped = StopAfter(predict, 16)
    with pytest.raises(KeyboardInterrupt):
        segment_nuclei([picture], NucleiModel(Network(stopped, spec, "one")), tmp_path / "out")
    rest = StopAfter(predict, 1000)
    model = NucleiModel(Network(rest, spec, "one"))
    report = segment_nuclei([picture], model, tmp_path / "out")
    assert report.summaries["picture"]["grid"]["resumed_windows"] > 0
    assert rest.seen < report.summaries["picture"]["grid"]["windows"]
    segment_nuclei([picture], model, tmp_path / "whole")
    for name in FILES[:3]:
        assert (tmp_path / "out/picture" / name).read_bytes() == (tmp_path / "whole/picture" / name).read_bytes()


def test_glass_is_skipped_where_tissue_is_asked_for(network, tmp_path):
    """Windows of glass alone are not predicted, and the density is that of the tissue."""
    image = np.full((256, 512, 3), (255, 240, 240), np.uint8)  # background to the network
    image[:130, :150] = disc_picture()
    Image.fromarray(image).save(tmp_path / "p.png")
    options = SegmentOptions(mpp=MPP, dense=DenseOptions(tissue="saturation"))
    told = segment_nuclei([tmp_path / "p.png"], network, tmp_path / "out", options).summaries["p"]
    assert told["nuclei"] == len(DISCS)
    assert told["grid"]["windows"] < told["grid"]["rows"] * told["grid"]["columns"]
    assert told["areas_mm2"]["tissue"] < told["areas_mm2"]["slide"]
    assert told["nuclei_per_mm2"] == pytest.approx(len(DISCS) / told["areas_mm2"]["tissue"], rel=1e-3)


def test_a_picture_without_nuclei(network, tmp_path):
    Image.fromarray(np.full((40, 50, 3), (230, 0, 0), np.uint8)).save(tmp_path / "p.png")
    told = segment_nuclei([tmp_path / "p.png"], network, tmp_path / "out", SegmentOptions(mpp=MPP)).summaries["p"]
    assert told["nuclei"] == 0 and told["nuclei_per_mm2"] == 0 and told["median_area_um2"] is None


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (SegmentOptions(outputs=OutputOptions(mask_mpp=4, probability=True)), "--mask-mpp, --probability"),
        (SegmentOptions(dense=DenseOptions(below="ignore")), "--nuclei has no --below"),
        (SegmentOptions(dense=DenseOptions(threshold=2)), "--threshold 2: expected a probability"),
        (SegmentOptions(dense=DenseOptions(stride_px=100)), "leaves gaps"),
        (SegmentOptions(dense=DenseOptions(stride_px=0)), "--stride-px 0: expected 1"),
    ],
)
def test_options_that_would_be_passed_over_are_an_error(network, picture, tmp_path, options, words):
    try:
        report = segment_nuclei([picture], network, tmp_path / "out", options)
    except ModelError as error:
        assert words in str(error)
    else:
        assert words in report.failures["picture"]


def test_networks_that_are_not_of_nuclei(tmp_path, picture):
    spec = dataclasses.replace(nuclei_spec(), instances=None)
    with pytest.raises(ModelError, match="does not say how its output becomes nuclei"):
        load_nuclei_model(write_dense(tmp_path / "a", spec))
    with pytest.raises(ModelError, match="not a network of nuclei"):
        load_nuclei_model(write_dense(tmp_path / "b", dataclasses.replace(nuclei_spec(), classes=spec.classes[::-1])))
    with pytest.raises(ModelError, match="stains: unknown 'pas'"):
        load_nuclei_model(write_network(tmp_path / "c"), FindingOptions(stains="pas"))
    with pytest.raises(ModelError, match="--overlap-px 0"):
        load_nuclei_model(tmp_path / "c", FindingOptions(overlap_px=0))
    with pytest.raises(OutputError, match="would both be written"):
        segment_nuclei([picture, picture], tmp_path / "c", tmp_path / "out")


def test_the_network_that_comes_with_tfseg_is_found_in_package_and_checkout(tmp_path, monkeypatch):
    (tmp_path / "tfseg").mkdir()
    monkeypatch.setattr(tfseg, "__file__", str(tmp_path / "tfseg/__init__.py"))
    with pytest.raises(ModelError, match=f"{DEFAULT_MODEL}, is missing: neither .* Install tfseg again.*--model"):
        default_model()
    for parent in (tmp_path, tmp_path / "tfseg"):
        folder = write_network(parent / "saved_models" / DEFAULT_MODEL)
        assert default_model() == folder


def test_outlines_run_through_the_outermost_pixels_at_any_size():
    from tfseg.infer.instance_stitch import Instance
    from tfseg.slides.rasterise import PixelGrid

    image = np.zeros((20, 20, 3), np.uint8)
    nucleus = Instance(1, 8, 4, np.ones((8, 16), bool))  # rows 8..15, columns 4..19
    seen = Seen(image, PixelGrid(0, 0, 4.0, 4.0, 20, 20), PixelGrid(0, 0, 2.0, 2.0, 40, 40))
    seen.add(nucleus)
    drawn = np.argwhere(seen._image.any(axis=-1))
    assert drawn.min(axis=0).tolist() == [4, 2] and drawn.max(axis=0).tolist() == [7, 9]
    assert not seen._image[5:7, 3:9].any()
    assert seen.areas_px.tolist() == [128] and not image.any()
