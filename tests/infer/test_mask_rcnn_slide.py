"""Mask R-CNN on slides and pictures: each nucleus once with its score, going on after a stop, what is refused."""

from __future__ import annotations

import dataclasses
import json
import logging

import numpy as np
import pytest
import tifffile
from fake_networks import slide_file
from finding_network import SPEC, finder, picture, write_finder
from PIL import Image

from tfseg.infer.cascade import SegmentOptions, segment_nuclei, segment_slide
from tfseg.infer.dense import DenseOptions
from tfseg.infer.instances import number
from tfseg.infer.mask_rcnn import PasteOptions, predict_instances
from tfseg.infer.mask_rcnn_slide import find_instances, stored_tiles
from tfseg.infer.networks import Network
from tfseg.infer.nuclei_model import FindingOptions, MaskRCNNModel, load_nuclei_model
from tfseg.infer.tiles import Streaming
from tfseg.slides.base import open_slide
from tfseg.slides.geojson import read_geojson
from tfseg.slides.recoloured import RecolouredSlide
from tfseg.types import ClassSpec, ModelError, OutputError

MPP = SPEC.inputs[0].mpp


class Finder:
    """Finds every piece of one grey, and notes how many fields each call has; fails at the one numbered ``last``."""

    def __init__(self, last: int | None = None) -> None:
        self.calls, self._last = [], last

    @property
    def fields(self) -> int:
        return sum(self.calls)

    def every_output(self, images):
        self.calls.append(len(images))
        if self._last is not None and self.fields >= self._last:
            raise OutputError("stopped")
        return finder(images)

    def __call__(self, images):
        return self.every_output(images)["instances"]


def model(**changes) -> MaskRCNNModel:
    return MaskRCNNModel(Network(Finder(), SPEC, "one"), **changes)


def large(side: int = 150) -> tuple[np.ndarray, np.ndarray]:
    """Squares of 9 px, each of a grey of its own."""
    return picture(side, side + 20)


def features_of(folder):
    return read_geojson(folder / "nuclei.geojson")


@pytest.mark.parametrize("size", [(150, 170), (64, 64), (40, 90), (30, 20)])
def test_a_picture_of_any_size_comes_back_whole(tmp_path, caplog, size):
    image, truth = picture(*size)
    Image.fromarray(image).save(tmp_path / "p.png")
    with caplog.at_level(logging.WARNING):
        told = segment_nuclei([tmp_path / "p.png"], model(), tmp_path / "out").summaries["p"]
    assert "assumed is the network's, 0.25" in caplog.text
    np.testing.assert_array_equal(number(tifffile.imread(tmp_path / "out/p/nuclei.tiff")), number(truth))
    assert told["nuclei"] == truth.max() and told["nuclei_cut"] == 0
    assert told["settings"]["instances"] == dataclasses.asdict(PasteOptions())
    assert told["grid"]["stride_px"] == 32 and told["grid"]["output_px"] == [56, 56]
    assert told["settings"]["nuclei"]["overlap_px"] == 24
    labels = tifffile.imread(tmp_path / "out/p/nuclei.tiff")
    for one, feature in enumerate(features_of(tmp_path / "out/p"), start=1):
        grey = truth[labels == one][0]
        assert feature.measurements["Score"] == pytest.approx(0.5 + grey / 512, abs=0.003)


def test_it_finds_what_predict_instances_finds(tmp_path):
    image, _ = large()
    slide = open_slide([image], MPP)
    found = find_instances(slide, finder, SPEC, PasteOptions())
    tiles = list(stored_tiles(found.store, found.grid.tiles, lambda *box: None))
    assert len(tiles) == np.prod(found.grid.shape) == found.predicted.size
    middle = tiles[found.grid.shape[1] + 1]  # second row and column: nothing of its field is mirrored
    top, left, bottom, right = found.grid.tiles.box(1, 1)
    field = image[top - 4 : bottom + 4, left - 4 : right + 4]
    expected = predict_instances(finder, field, SPEC)
    labels = expected.labels[4:-4, 4:-4]
    np.testing.assert_array_equal(number(middle.labels), number(labels))
    for one in np.unique(middle.labels)[1:]:
        there = labels[middle.labels == one][0]
        assert middle.scores[one] == pytest.approx(expected.scores[there], abs=0.003)


def test_a_slide_is_read_at_the_networks_pixel_size(tmp_path):
    image, truth = large()
    slide = slide_file(tmp_path / "s.tif", np.asarray(image.repeat(2, axis=0).repeat(2, axis=1)), mpp=MPP / 2)
    told = segment_nuclei([slide], model(), tmp_path / "out").summaries["s"]
    np.testing.assert_array_equal(number(tifffile.imread(tmp_path / "out/s/nuclei.tiff")), number(truth))
    assert told["nuclei_mpp"] == MPP and told["slide"]["mpp"] == MPP / 2
    found = sorted(feature.polygon.centroid.coords[0] for feature in features_of(tmp_path / "out/s"))
    centres = [np.argwhere(truth == one).mean(0)[::-1] * 2 + 1 for one in range(1, truth.max() + 1)]
    np.testing.assert_allclose(found, sorted(map(tuple, centres)), atol=0.01)


@pytest.mark.parametrize("batch_size", [None, 4])
def test_a_stopped_slide_goes_on(tmp_path, batch_size):
    Image.fromarray(large()[0]).save(tmp_path / "p.png")
    source, out = [tmp_path / "p.png"], tmp_path / "out"
    whole = model()
    segment_nuclei(source, whole, tmp_path / "whole")
    rows, columns = 4, 5
    assert whole.network.predict.fields == rows * columns
    options = SegmentOptions(streaming=Streaming(batch_size))
    stopped = MaskRCNNModel(Network(Finder(last=2 * columns + 3), SPEC, "one"))
    assert "stopped" in segment_nuclei(source, stopped, out, options).failures["p"]
    assert not (out / "p/summary.json").exists()
    rest = model()
    told = segment_nuclei(source, rest, out, options).summaries["p"]
    assert told["grid"]["resumed_windows"] == 2 * columns
    assert rest.network.predict.calls == 2 * {None: [1] * columns, 4: [4, 1]}[batch_size], "batches end with their row"
    assert (out / "p/nuclei.geojson").read_bytes() == (tmp_path / "whole/p/nuclei.geojson").read_bytes()
    assert not (out / ".state").exists()
    again = segment_nuclei(source, rest, out)
    assert again.skipped == ["p"] and rest.network.predict.fields == 2 * columns


class Darker:
    """A view that gives other colours."""

    def __call__(self, slide):
        return RecolouredSlide(slide, lambda image: np.asarray(image // 2))

    def describe(self):
        return {"method": "half as light"}


@pytest.fixture
def stopped_picture(tmp_path):
    """A picture, of whose 20 fields a run before saw ten."""
    Image.fromarray(large()[0]).save(tmp_path / "p.png")
    stopped = MaskRCNNModel(Network(Finder(last=13), SPEC, "one"))
    assert segment_nuclei([tmp_path / "p.png"], stopped, tmp_path / "out").failures


def test_state_of_another_threshold_is_not_gone_on_with(tmp_path, stopped_picture):
    rest = model()
    options = SegmentOptions(dense=DenseOptions(threshold=0.6))
    told = segment_nuclei([tmp_path / "p.png"], rest, tmp_path / "out", options).summaries["p"]
    assert told["grid"]["resumed_windows"] == 0 and rest.network.predict.fields == 20
    assert min(feature.measurements["Score"] for feature in features_of(tmp_path / "out/p")) > 0.59


def test_state_of_other_colours_is_not_gone_on_with(tmp_path, stopped_picture):
    other = model(view=Darker())
    told = segment_nuclei([tmp_path / "p.png"], other, tmp_path / "out").summaries["p"]
    assert told["grid"]["resumed_windows"] == 0 and other.network.predict.fields == 20
    scores = [feature.measurements["Score"] for feature in features_of(tmp_path / "out/p")]
    assert max(scores) <= 0.5 + large()[1].max() / 1024 + 0.003


def test_the_threshold_is_the_networks_or_the_one_given(tmp_path):
    image, truth = large()
    Image.fromarray(image).save(tmp_path / "p.png")
    limit = 0.5 + 20.5 / 512
    options = SegmentOptions(mpp=MPP, dense=DenseOptions(threshold=limit))
    told = segment_nuclei([tmp_path / "p.png"], model(), tmp_path / "out", options).summaries["p"]
    assert told["nuclei"] == truth.max() - 20
    assert told["settings"]["instances"]["threshold"] == limit


def test_tiles_without_tissue_are_skipped(tmp_path):
    image = np.full((200, 400, 3), 255, np.uint8)
    image[:, 250:] = (200, 60, 120)
    finder = model()
    slide = slide_file(tmp_path / "s.tif", image, mpp=MPP)
    told = segment_nuclei(
        [slide], finder, tmp_path / "out", SegmentOptions(dense=DenseOptions(tissue="saturation"))
    ).summaries["s"]
    assert 0 < finder.network.predict.fields == told["grid"]["windows"] < told["grid"]["rows"] * told["grid"]["columns"]


@pytest.mark.parametrize(
    ("how", "options", "named"),
    [
        (FindingOptions(), DenseOptions(stride_px=16), "--stride-px"),
        (FindingOptions(), DenseOptions(border="white"), "--border"),
        (FindingOptions(overlap_px=64), DenseOptions(), "--overlap-px"),
    ],
)
def test_what_its_fields_leave_no_choice_of_is_refused(tmp_path, how, options, named):
    with pytest.raises(ModelError, match=f"{named}: Mask R-CNN's fields"):
        segment_nuclei([tmp_path / "p.png"], model(how=how), tmp_path, SegmentOptions(dense=options))
    Image.fromarray(large()[0]).save(tmp_path / "p.png")
    with pytest.raises(ModelError, match=f"{named}: Mask R-CNN's fields"):
        segment_slide(tmp_path / "p.png", model(how=how), tmp_path, SegmentOptions(mpp=MPP, dense=options))


def test_other_classes_and_pixels_of_unknown_size_are_refused():
    other = dataclasses.replace(SPEC, classes=(*SPEC.classes, ClassSpec("lymphocyte", (0, 0, 0))))
    with pytest.raises(ModelError, match=r"background and nucleus.*lymphocyte"):
        MaskRCNNModel(Network(Finder(), other, "one"))
    unknown = dataclasses.replace(SPEC, inputs=(dataclasses.replace(SPEC.inputs[0], mpp=None),))
    with pytest.raises(ModelError, match=r"an input with an mpp.*None µm/px"):
        MaskRCNNModel(Network(Finder(), unknown, "one"))


def test_a_folder_runs_in_onnx_runtime(tmp_path):
    """Two boxes in every field, of 64 px: of a picture of one field both come back."""
    folder = tmp_path / "model"
    folder.mkdir()
    loaded = load_nuclei_model(write_finder(folder))
    assert isinstance(loaded, MaskRCNNModel)
    Image.fromarray(np.full((40, 40, 3), 204, np.uint8)).save(tmp_path / "p.png")
    told = segment_nuclei([tmp_path / "p.png"], folder, tmp_path / "out", SegmentOptions(mpp=MPP)).summaries["p"]
    features = features_of(tmp_path / "out/p")
    assert told["nuclei"] == len(features) == 2
    assert features[0].measurements["Score"] == pytest.approx(0.8, abs=0.003)
    assert json.loads((tmp_path / "out/p/summary.json").read_text())["model"]["network"]["architecture"] == "mask_rcnn"
