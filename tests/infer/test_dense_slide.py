"""Files of a slide that a dense network labelled: the right pixels, sizes, areas, and what an interruption leaves."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import openslide
import pytest
import tifffile
from dense_cohort import write_boxes
from dense_networks import CLASSES, Identity, dense_spec, noise, write_dense
from fake_networks import cascade, slide_file

from tfseg.infer import outputs
from tfseg.infer.cascade import SegmentOptions, segment_slide, segment_slides
from tfseg.infer.dense import DenseOptions
from tfseg.infer.evaluate import evaluate_slide
from tfseg.infer.networks import DenseModel, Network, load_model
from tfseg.infer.outputs import OutputOptions
from tfseg.infer.tiles import Streaming
from tfseg.slides.class_table import ClassTable
from tfseg.slides.geojson import AREA, read_geojson
from tfseg.slides.tiff_writer import halve
from tfseg.types import ClassSpec, ModelError, OutputError, SlideError, TfsegError

HEIGHT, WIDTH = 75, 110


def picture() -> np.ndarray:
    """Red, with a green box of 20 × 30 and a blue one of 7 × 5 in the far corner."""
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    image[..., 0] = 200
    image[30:50, 40:70] = (0, 220, 0)
    image[-7:, -5:] = (0, 0, 240)
    return image


@pytest.fixture
def slide(tmp_path) -> Path:
    return slide_file(tmp_path / "s.tif", picture())


def model(spec=None, predict=None) -> DenseModel:
    spec = spec or dense_spec()
    return DenseModel(Network(predict or Identity(spec), spec, "network 1"))


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_files_of_a_slide(slide, tmp_path):
    summary = segment_slide(slide, model(), tmp_path / "out", SegmentOptions(outputs=OutputOptions(probability=True)))
    found = files(tmp_path / "out")
    assert found == [
        "s/mask.tiff",
        "s/overlay.png",
        "s/polygons.geojson",
        "s/probability_blue.tiff",
        "s/probability_green.tiff",
        "s/probability_red_one.tiff",
        "s/summary.json",
    ]
    assert {f"s/{name}" for name in summary["outputs"]} == set(found) - {"s/summary.json"}
    assert json.loads((tmp_path / "out/s/summary.json").read_text()) == json.loads(json.dumps(summary))
    for index, name in enumerate(("red_one", "green", "blue")):
        np.testing.assert_array_equal(
            tifffile.imread(tmp_path / f"out/s/probability_{name}.tiff"), picture()[..., index]
        )
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "out/s/mask.tiff"), picture().argmax(-1))
    assert summary["grid"]["windows"] == 5 * 7
    assert summary["model"]["network"]["name"] == "fake dense"


def test_areas_are_those_counted_by_hand(tmp_path):
    """Slide pixels of 5 µm, mask pixels of 10 µm: 75 × 110 of them are 38 × 55, the last row half outside."""
    path = slide_file(tmp_path / "s.tif", picture(), mpp=5.0)
    found = segment_slide(path, model(dense_spec(mpps=(10.0,))), tmp_path / "out")["areas_mm2"]
    areas = found["classes"]
    image = np.pad(picture(), [(0, 1), (0, 0), (0, 0)])  # zero border
    labels = image.reshape(38, 2, 55, 2, 3).mean((1, 3)).argmax(-1)
    rows = np.where(np.arange(38) == 37, 0.5, 1.0)[:, None]
    for index, one in enumerate(CLASSES):
        assert areas[one.name] == pytest.approx(((labels == index) * rows).sum() * 100 / 1e6, abs=1e-6)
    assert areas["green"] == pytest.approx(20 * 30 * 25 / 1e6, abs=1e-6)
    assert found["slide"] == pytest.approx(HEIGHT * WIDTH * 25 / 1e6, abs=1e-6)
    assert set(found) == {"slide", "classes"}


def test_classes_called_slide_or_tissue_hide_neither(tmp_path):
    """CD-UNET has a class "tissue": its area is not that of the coloured pixels. Here 40 × 40 are red, 24 × 96 blue."""
    image = np.full((96, 96, 3), 0, np.uint8)
    image[:40, :40], image[72:] = (200, 0, 0), (0, 0, 240)
    path = slide_file(tmp_path / "s.tif", image, mpp=8.0)
    classes = (ClassSpec("slide", (1, 1, 1)), ClassSpec("other", (2, 2, 2)), ClassSpec("tissue", (3, 3, 3)))
    options = SegmentOptions(outputs=OutputOptions(tissue_only=True))
    found = segment_slide(path, model(dense_spec(mpps=(8.0,), classes=classes)), tmp_path / "out", options)["areas_mm2"]
    blue, red = 24 * 96 * 64 / 1e6, 40 * 40 * 64 / 1e6
    assert found["slide"] == pytest.approx(96 * 96 * 64 / 1e6)
    assert found["tissue"] == pytest.approx(blue + red, abs=1e-6)
    assert found["classes"] == {
        "slide": pytest.approx(found["slide"] - blue),
        "other": 0,
        "tissue": pytest.approx(blue),
    }


@pytest.mark.parametrize(
    ("slide_mpp", "mask_mpp", "factor"), [(1.0, None, 1), (1.0, 0.1, 1), (1.0, 2.0, 2), (0.5, 4.0, 4), (0.9, 5.0, 4)]
)
def test_mask_at_another_pixel_size_is_a_level_of_the_finest(tmp_path, slide_mpp, mask_mpp, factor):
    path = slide_file(tmp_path / "s.tif", noise(HEIGHT, WIDTH, 3), mpp=slide_mpp)
    segment_slide(path, model(), tmp_path / "fine")
    options = SegmentOptions(outputs=OutputOptions(mask_mpp, probability=True))
    summary = segment_slide(path, model(), tmp_path / "coarse", options)
    expected = tifffile.imread(tmp_path / "fine/s/mask.tiff")
    for _ in range(factor.bit_length() - 1):
        expected = halve(expected, "label")
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "coarse/s/mask.tiff"), expected)
    assert summary["mask"]["mpp"] == pytest.approx(factor)
    for name in ("mask.tiff", "probability_blue.tiff"):
        with openslide.OpenSlide(tmp_path / "coarse/s" / name) as found:
            assert found.dimensions == expected.shape[::-1]
            assert float(found.properties["openslide.mpp-x"]) == pytest.approx(factor, rel=1e-3)


def test_polygons_are_the_mask(slide, tmp_path):
    summary = segment_slide(slide, model(), tmp_path)
    found = {feature.class_name: feature for feature in read_geojson(tmp_path / "s/polygons.geojson")}
    assert set(found) == {"green", "blue"}
    assert found["green"].polygon.bounds == (40, 30, 70, 50)
    assert found["blue"].polygon.bounds == (WIDTH - 5, HEIGHT - 7, WIDTH, HEIGHT)
    assert found["green"].color == CLASSES[1].color
    for name, feature in found.items():
        assert feature.measurements[AREA] / 1e6 == pytest.approx(summary["areas_mm2"]["classes"][name], abs=1e-6)


def test_a_mask_too_large_for_memory_gives_the_same_areas(slide, tmp_path, monkeypatch):
    whole = segment_slide(slide, model(), tmp_path / "a")
    monkeypatch.setattr(outputs, "MOST_POLYGON_PX", HEIGHT * WIDTH // 4)
    bands = segment_slide(slide, model(), tmp_path / "b")
    assert bands["areas_mm2"] == whole["areas_mm2"]
    assert (tmp_path / "a/s/mask.tiff").read_bytes() == (tmp_path / "b/s/mask.tiff").read_bytes()
    found = {feature.class_name: feature.polygon for feature in read_geojson(tmp_path / "b/s/polygons.geojson")}
    assert found["green"].bounds == (40, 32, 72, 52)  # whole pixels of 4; of equally frequent classes the first


def test_outlines_of_a_noisy_mask_are_of_larger_pixels(tmp_path, monkeypatch):
    """And so their memory is bounded whatever the network says; the mask itself is not touched."""
    image = noise(HEIGHT, WIDTH, seed=4)
    path = slide_file(tmp_path / "s.tif", image)
    monkeypatch.setattr(outputs, "MOST_CORNERS", 300)
    summary = segment_slide(path, model(), tmp_path)
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "s/mask.tiff"), image.argmax(-1))
    corners = [point for f in read_geojson(tmp_path / "s/polygons.geojson") for point in f.polygon.exterior.coords]
    assert 0 < summary["polygons"] < 300
    inside = [(x, y) for x, y in corners if x < WIDTH and y < HEIGHT]
    assert all(x % 4 == 0 and y % 4 == 0 for x, y in inside)


def test_evaluation_reads_what_is_written(slide, tmp_path):
    """Against boxes drawn by hand, where the picture has them and 5 px beside; what is not drawn is red."""
    segment_slide(slide, model(), tmp_path)
    blue = ("blue", (WIDTH - 5, HEIGHT - 7, WIDTH, HEIGHT))
    whole, drawn = HEIGHT * WIDTH, 20 * 30 + 7 * 5
    for left, expected in (
        (40, (1, 1, 1)),
        (45, ((whole - drawn - 20 * 5) / (whole - drawn), 25 / 30, 1)),
    ):
        annotation = write_boxes(tmp_path / "by_hand.geojson", [("green", (left, 30, left + 30, 50)), blue])
        scores = evaluate_slide(tmp_path / "s/mask.tiff", slide, annotation, ClassTable(CLASSES, rest=0))
        assert [scores[f"dice {one.name}"] for one in CLASSES] == pytest.approx(expected)


def test_tissue_decides_about_windows_and_mask(tmp_path):
    image = np.full((96, 96, 3), 250, np.uint8)
    image[:40, :40] = (200, 0, 40)
    slide = slide_file(tmp_path / "s.tif", image, mpp=4.0)
    spec = dense_spec(mpps=(4.0,), classes=(CLASSES[1], CLASSES[0], CLASSES[2]))
    network = lambda batch: np.tile(np.float32([0, 1, 0]), (len(batch), 16, 16, 1))  # noqa: E731
    for kind in ("saturation", "otsu"):
        options = SegmentOptions(dense=DenseOptions(tissue=kind))
        summary = segment_slide(slide, model(spec, network), tmp_path / kind, options)
        assert summary["grid"]["windows"] == 9
        assert summary["areas_mm2"]["classes"]["red one"] == pytest.approx(48 * 48 * 16 / 1e6)
    options = SegmentOptions(outputs=OutputOptions(tissue_only=True))
    summary = segment_slide(slide, model(spec, network), tmp_path / "only", options)
    assert summary["grid"]["windows"] == 36
    areas = summary["areas_mm2"]
    assert areas["classes"]["red one"] == pytest.approx(areas["tissue"], rel=0.05)


def test_pixels_that_nobody_labels_are_255(slide, tmp_path):
    options = SegmentOptions(dense=DenseOptions(threshold=0.9, below="ignore"))
    summary = segment_slide(slide, model(), tmp_path, options)
    mask = tifffile.imread(tmp_path / "s/mask.tiff")
    assert np.unique(mask).tolist() == [2, 255]
    assert summary["areas_mm2"]["classes"]["red one"] == 0
    assert [feature.class_name for feature in read_geojson(tmp_path / "s/polygons.geojson")] == ["blue"]


def test_results_do_not_depend_on_batches_or_readers(slide, tmp_path):
    options = SegmentOptions(dense=DenseOptions(stride_px=9), outputs=OutputOptions(probability=True))
    for folder, streaming in (("a", Streaming(3, 1)), ("b", Streaming(64, 4))):
        segment_slide(slide, model(), tmp_path / folder, dataclasses.replace(options, streaming=streaming))
    for name in files(tmp_path / "a"):
        if not name.endswith("summary.json"):
            assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name


def test_stopped_and_started_again(slide, tmp_path):
    spec = dense_spec()
    network = Identity(spec)

    def stops(batch):
        if network.windows >= 20:
            raise KeyboardInterrupt
        return network(batch)

    with pytest.raises(KeyboardInterrupt):
        segment_slides([slide], model(predict=stops), tmp_path / "out")
    assert files(tmp_path / "out") == [".state/s.dense"]
    report = segment_slides([slide], model(), tmp_path / "out")
    assert report.summaries["s"]["grid"]["resumed_windows"] == 21
    assert not (tmp_path / "out/.state").exists()
    segment_slide(slide, model(), tmp_path / "whole")
    for name in ("mask.tiff", "polygons.geojson", "overlay.png"):
        assert (tmp_path / "out/s" / name).read_bytes() == (tmp_path / "whole/s" / name).read_bytes(), name
    again = segment_slides([slide], model(predict=stops), tmp_path / "out")
    assert again.skipped == ["s"]
    changed = segment_slides([slide], model(), tmp_path / "out", SegmentOptions(dense=DenseOptions(stride_px=8)))
    assert changed.skipped == []


def test_stopped_while_writing(slide, tmp_path, monkeypatch):
    """The labels need not be made again, and files of other settings do not stay."""
    segment_slide(slide, model(), tmp_path / "out", SegmentOptions(outputs=OutputOptions(probability=True)))
    write = outputs.write_pyramid

    def fails(path, *args, **kwargs):
        if path.name == "mask.tiff":
            raise KeyboardInterrupt
        return write(path, *args, **kwargs)

    monkeypatch.setattr(outputs, "write_pyramid", fails)
    options = SegmentOptions(dense=DenseOptions(stride_px=8))
    with pytest.raises(KeyboardInterrupt):
        segment_slide(slide, model(), tmp_path / "out", options)
    monkeypatch.undo()
    network = Identity(dense_spec())
    summary = segment_slide(slide, model(predict=network), tmp_path / "out", options)
    assert network.windows == 0
    assert summary["grid"]["resumed_windows"] == summary["grid"]["windows"]
    assert files(tmp_path / "out/s") == ["mask.tiff", "overlay.png", "polygons.geojson", "summary.json"]


def test_a_slide_that_fails_does_not_stop_the_others(slide, tmp_path):
    white = slide_file(tmp_path / "white.tif", np.full((64, 64, 3), 255, np.uint8))
    report = segment_slides(
        [white, slide], model(), tmp_path / "out", SegmentOptions(dense=DenseOptions(tissue="saturation"))
    )
    assert "no tissue" in report.failures["white"]
    assert list(report.summaries) == ["s"]


def test_classes_that_would_share_a_file(slide, tmp_path):
    classes = (ClassSpec("a b", (1, 1, 1)), ClassSpec("a/b", (2, 2, 2)), ClassSpec("c", (3, 3, 3)))
    with pytest.raises(ModelError, match=r"same file.*probability_a_b\.tiff"):
        segment_slide(
            slide,
            model(dense_spec(classes=classes)),
            tmp_path / "out",
            SegmentOptions(outputs=OutputOptions(probability=True)),
        )


def test_a_model_folder_from_end_to_end(slide, tmp_path):
    folder = write_dense(tmp_path / "model")
    loaded = load_model(folder)
    assert isinstance(loaded, DenseModel)
    summary = segment_slide(slide, folder, tmp_path / "out", SegmentOptions(threads=1))
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "out/s/mask.tiff"), picture().argmax(-1))
    assert summary["model"]["folder"] == str(folder)


def test_networks_that_are_not_dense():
    spec = dataclasses.replace(dense_spec(), output_mpp=None)
    with pytest.raises(TfsegError, match="not a dense network"):
        DenseModel(Network(Identity(spec), spec, "x"))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"threshold": 0.7}, "--threshold:"),
        ({"stride_px": 8, "min_tissue": 0.1}, "--stride-px, --min-tissue:"),
        ({"saturation": 10}, "--saturation:"),
        ({"thresholds": {"tumour": 0.2}}, "--thresholds:"),
        ({"below": "ignore"}, "--below:"),
    ],
)
def test_cascades_refuse_what_is_for_dense_networks(slide, tmp_path, changes, named):
    options = SegmentOptions(dense=DenseOptions(**changes))
    with pytest.raises(ModelError, match=f"fake: {named} for dense networks alone"):
        segment_slides([slide], cascade(), tmp_path / "out", options)
    with pytest.raises(ModelError, match=named):
        segment_slide(slide, cascade(), tmp_path / "out", options)
    assert files(tmp_path) == ["s.tif"]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (SegmentOptions(dense=DenseOptions(stride_px=0)), ModelError, "--stride-px 0: expected 1"),
        (SegmentOptions(dense=DenseOptions(stride_px=-4)), ModelError, "--stride-px -4"),
        (SegmentOptions(dense=DenseOptions(min_tissue=1.0)), ModelError, "--min-tissue 1: expected"),
        (SegmentOptions(dense=DenseOptions(saturation=256)), ModelError, "--saturation 256: expected 0 to 255"),
        (SegmentOptions(outputs=OutputOptions(mask_mpp=0.0)), OutputError, "--mask-mpp 0: expected"),
        (SegmentOptions(outputs=OutputOptions(mask_mpp=-2.0)), OutputError, "--mask-mpp -2"),
        (SegmentOptions(outputs=OutputOptions(mask_mpp=float("nan"))), OutputError, "--mask-mpp nan"),
        (SegmentOptions(outputs=OutputOptions(min_area_um2=-1.0)), OutputError, "--min-area-um2 -1"),
    ],
)
def test_values_that_cannot_be_are_refused_before_anything_is_read(slide, tmp_path, options, error, message):
    with pytest.raises(error, match=message):
        segment_slides([slide], model(), tmp_path / "out", options)
    assert files(tmp_path) == ["s.tif"]


def test_saturation_decides_what_is_tissue(tmp_path):
    """A faint stain: saturation 255 · 14 / 250 = 14."""
    image = np.full((96, 96, 3), 250, np.uint8)
    image[:40, :40] = (250, 236, 236)
    slide = slide_file(tmp_path / "s.tif", image, mpp=8.0)
    faint = SegmentOptions(dense=DenseOptions(tissue="saturation", saturation=10))
    for usual in (DenseOptions(tissue="saturation"), DenseOptions()):
        only = OutputOptions(tissue_only=usual.tissue == "none")
        with pytest.raises(SlideError, match=r"lower --saturation \(now 20\)") as found:
            segment_slide(
                slide, model(dense_spec(mpps=(8.0,))), tmp_path / "out", SegmentOptions(dense=usual, outputs=only)
            )
        assert "config.json" not in str(found.value)
    done = segment_slide(slide, model(dense_spec(mpps=(8.0,))), tmp_path / "out", faint)
    assert done["areas_mm2"]["tissue"] == pytest.approx(40 * 40 * 64 / 1e6)
    assert done["grid"]["windows"] == 9
    again = SegmentOptions(dense=dataclasses.replace(faint.dense, saturation=11))
    report = segment_slides([slide], model(dense_spec(mpps=(8.0,))), tmp_path / "out", again)
    assert report.skipped == [] and report.failures == {}


@pytest.mark.parametrize("names", [("A", "a"), ("a b", "a_b")])
def test_classes_of_one_file_are_refused_before_the_slide_is_read(slide, tmp_path, names):
    classes = (*(ClassSpec(name, (1, 1, 1)) for name in names), ClassSpec("c", (2, 2, 2)))
    network = Identity(dense_spec(classes=classes))
    options = SegmentOptions(outputs=OutputOptions(probability=True))
    with pytest.raises(ModelError, match="would have the same file"):
        segment_slide(slide, model(network.spec, network), tmp_path / "out", options)
    assert network.windows == 0


def test_state_folder_that_another_slide_took_into_use_stays(slide, tmp_path):
    """The next slide's state may appear at any time while one is written."""
    other = tmp_path / "out/.state/other.dense"
    other.parent.mkdir(parents=True)
    other.write_bytes(b"")
    segment_slide(slide, model(), tmp_path / "out")
    assert files(tmp_path / "out/.state") == ["other.dense"]
