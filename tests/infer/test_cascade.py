"""Whole slides: files that open elsewhere with the right size and place, resuming, skipping, and what goes wrong."""

from __future__ import annotations

import ctypes
import dataclasses
import json
from pathlib import Path

import numpy as np
import openslide
import pytest
import tifffile
from fake_networks import TUMOUR, cascade, classifier_spec, darkness, picture, refinement_spec, slide_file
from PIL import Image

from tfseg.infer import cascade as cascade_module
from tfseg.infer import outputs
from tfseg.infer.cascade import SegmentOptions, segment_slide, segment_slides
from tfseg.infer.evaluate import evaluate_slide
from tfseg.infer.networks import Cascade, Network, load_cascade
from tfseg.infer.outputs import OutputOptions
from tfseg.infer.tiles import Streaming
from tfseg.slides.geojson import AREA, read_geojson
from tfseg.types import H2G_CLASSES, CascadeSpec, ModelError, MppError, OutputError, SlideError

FINE = SegmentOptions(outputs=OutputOptions(mask_mpp=1.0))


@pytest.fixture
def slide(tmp_path):
    return slide_file(tmp_path / "first.tif")


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_files_of_a_slide(slide, tmp_path):
    options = dataclasses.replace(FINE, outputs=OutputOptions(1.0, probability=True))
    summary = segment_slide(slide, cascade(), tmp_path / "out", options)
    assert names(tmp_path / "out") == [
        "first/heatmap.tiff",
        "first/mask.tiff",
        "first/overlay.png",
        "first/polygons.geojson",
        "first/probability.tiff",
        "first/summary.json",
    ]
    assert json.loads((tmp_path / "out/first/summary.json").read_text()) == json.loads(json.dumps(summary))
    assert set(summary["outputs"]) == {Path(name).name for name in names(tmp_path / "out")} - {"summary.json"}


def test_every_file_says_where_the_pixel_size_is_from(slide, tmp_path):
    options = SegmentOptions(mpp=0.5, outputs=OutputOptions(1.0, probability=True))
    segment_slide(slide, cascade(), tmp_path, options)
    folder = tmp_path / "first"
    for name in ("mask.tiff", "heatmap.tiff", "probability.tiff"):
        with tifffile.TiffFile(folder / name) as tiff:
            assert "slide first, 560 x 420 px; 0.5 um/px from given (--mpp)" in tiff.pages[0].description
    assert json.loads((folder / "polygons.geojson").read_text())["tfseg"]["mpp"] == "0.5 um/px from given (--mpp)"
    assert json.loads((folder / "summary.json").read_text())["slide"]["mpp_source"] == "given (--mpp)"


def test_mask_lies_where_the_tumour_is(slide, tmp_path):
    """Refinement at 64² px of a 560 × 420 slide: right up to one of its pixels, 9 × 7 of the slide's."""
    segment_slide(slide, cascade(), tmp_path / "out", FINE)
    mask = tifffile.imread(tmp_path / "out/first/mask.tiff", level=0)
    truth = (picture() == TUMOUR).all(-1)
    assert mask.shape == truth.shape
    assert mask.dtype == np.uint8
    assert set(np.unique(mask)) == {0, 1}
    rows, columns = np.nonzero(mask)
    assert abs(rows.min() - 70) <= 7
    assert abs(rows.max() - 349) <= 7
    assert abs(columns.min() - 280) <= 9
    assert abs(columns.max() - 489) <= 9
    assert 2 * (mask & truth).sum() / (mask.sum() + truth.sum()) > 0.95


@pytest.mark.parametrize(("mpp", "mask_mpp", "step"), [(1.0, 4.0, 4), (0.5, 4.0, 8), (0.3, 4.0, 16), (1.0, 0.5, 1)])
def test_tiffs_open_with_their_pixel_size(tmp_path, mpp, mask_mpp, step):
    path = slide_file(tmp_path / "s.tif", mpp=mpp)
    model = dataclasses.replace(cascade(), classifier=Network(darkness, classifier_spec(mpp=mpp), "x"))
    summary = segment_slide(path, model, tmp_path, SegmentOptions(outputs=OutputOptions(mask_mpp, probability=True)))
    for name, pixel, size in (
        ("mask.tiff", step * mpp, (-(-560 // step), -(-420 // step))),
        ("probability.tiff", step * mpp, (-(-560 // step), -(-420 // step))),
        ("heatmap.tiff", 32 * mpp, (18, 14)),
    ):
        with openslide.OpenSlide(tmp_path / "s" / name) as found:
            assert found.dimensions == size
            assert float(found.properties["openslide.mpp-x"]) == pytest.approx(pixel, rel=1e-3)
            assert float(found.properties["openslide.mpp-y"]) == pytest.approx(pixel, rel=1e-3)
    assert summary["mask"]["mpp"] == pytest.approx(step * mpp)
    assert summary["slide"]["mpp"] == pytest.approx(mpp, rel=1e-3)
    assert summary["slide"]["mpp_source"]


def test_heatmap_file_has_one_pixel_a_patch(slide, tmp_path):
    segment_slide(slide, cascade(), tmp_path / "out", FINE)
    heat = tifffile.imread(tmp_path / "out/first/heatmap.tiff")
    assert heat.shape == (14, 18)
    assert heat[0, 0] == 0
    # A patch wholly in the tumour: darkness says (226 - 116.67) / 147.
    assert heat[6, 12] == round((226 - sum(TUMOUR) / 3) / 147 * 255)


def test_classifier_alone_gives_whole_cells(slide, tmp_path):
    segment_slide(slide, cascade(refine=False), tmp_path / "out", FINE)
    mask = tifffile.imread(tmp_path / "out/first/mask.tiff", level=0)
    heat = tifffile.imread(tmp_path / "out/first/heatmap.tiff")
    expected = np.kron(heat >= 128, np.ones((32, 32), np.uint8))[:420, :560]
    np.testing.assert_array_equal(mask, expected)


def test_low_resolution_network_alone(slide, tmp_path):
    def dark(image):
        tumour = (np.asarray(image, np.float32).mean(-1) < 160).astype(np.float32)
        return np.stack([1 - tumour, tumour], -1)

    spec = CascadeSpec("unet_lr", None, "refinement")
    model = Cascade(spec, None, Network(dark, refinement_spec(heatmap=False), "x"))
    summary = segment_slide(slide, model, tmp_path / "out", FINE)
    assert summary["grid"] is None
    assert not (tmp_path / "out/first/heatmap.tiff").exists()
    assert summary["areas_mm2"]["tumour"] == pytest.approx(280 * 210 / 1e6, rel=0.05)


def test_otsu_takes_all_tissue(tmp_path):
    image = picture()
    image[(image != 250).all(-1)] = TUMOUR
    slide, model = slide_file(tmp_path / "first.tif", image), Cascade(CascadeSpec("otsu", None, None))
    summary = segment_slide(slide, model, tmp_path / "out", FINE)
    assert summary["areas_mm2"]["tumour"] == pytest.approx(420 * 280 / 1e6, rel=0.01)


def test_areas(slide, tmp_path):
    """Of the slide, not of mask pixels that reach past it; 560 × 420 µm in mask pixels of 16 µm is 35 × 26.25."""
    options = SegmentOptions(outputs=OutputOptions(16.0))
    summary = segment_slide(slide, Cascade(CascadeSpec("otsu", None, None)), tmp_path / "out", options)
    areas = summary["areas_mm2"]
    assert areas["slide"] == pytest.approx(560 * 420 / 1e6)
    assert areas["non-tumour"] + areas["tumour"] == pytest.approx(areas["slide"], abs=1e-5)
    # tissue_mask works at 8 µm/px and closes gaps, so its edges are right to a pixel of that.
    assert areas["tissue"] == pytest.approx(420 * 280 / 1e6, rel=0.06)


def test_tissue_only_takes_glass_out_of_the_mask(slide, tmp_path):
    def everything(image, heat):
        ones = np.ones(heat.shape, np.float32)
        return np.concatenate([0 * ones, ones], -1)

    model = dataclasses.replace(cascade(), refinement=Network(everything, refinement_spec(), "x"))
    whole = segment_slide(slide, model, tmp_path / "a", FINE)
    part = segment_slide(slide, model, tmp_path / "b", SegmentOptions(outputs=OutputOptions(1.0, tissue_only=True)))
    assert whole["areas_mm2"]["tumour"] == pytest.approx(whole["areas_mm2"]["slide"])
    assert part["areas_mm2"]["tumour"] == pytest.approx(part["areas_mm2"]["tissue"], rel=0.02)


@pytest.mark.parametrize("compress", [False, True])
def test_polygons_are_the_mask(slide, tmp_path, compress):
    options = SegmentOptions(outputs=OutputOptions(mask_mpp=8.0, compress_polygons=compress))
    summary = segment_slide(slide, cascade(), tmp_path / "out", options)
    path = tmp_path / "out/first" / ("polygons.geojson.gz" if compress else "polygons.geojson")
    found = read_geojson(path)
    assert len(found) == summary["polygons"] == 1
    polygon = found[0]
    assert (polygon.class_name, polygon.color) == ("tumour", H2G_CLASSES[1].color)
    assert polygon.polygon.is_valid
    assert polygon.measurements[AREA] / 1e6 == pytest.approx(summary["areas_mm2"]["tumour"], abs=1e-6)
    assert [p for p in (tmp_path / "out/first").iterdir() if "geojson" in p.name] == [path]


def test_polygons_end_at_the_slides_edge(tmp_path):
    image = picture(413, 555)
    image[:] = TUMOUR
    options = SegmentOptions(outputs=OutputOptions(mask_mpp=32.0))
    path = slide_file(tmp_path / "s.tif", image)
    model = cascade(refine=False, predict=lambda batch: np.tile(np.float32([0, 1]), (len(batch), 1)))
    segment_slide(path, model, tmp_path, options)
    assert read_geojson(tmp_path / "s/polygons.geojson")[0].polygon.bounds == (0, 0, 555, 413)


def test_a_mask_too_large_for_memory_gives_the_same_areas(slide, tmp_path, monkeypatch):
    """It is written in bands, and its outlines are taken from larger pixels."""
    whole = segment_slide(slide, cascade(), tmp_path / "a", FINE)
    monkeypatch.setattr(outputs, "MOST_POLYGON_PX", 560 * 420 // 4)
    bands = segment_slide(slide, cascade(), tmp_path / "b", FINE)
    assert bands["areas_mm2"] == whole["areas_mm2"]
    masks = [tifffile.imread(tmp_path / part / "first/mask.tiff", level=0) for part in "ab"]
    np.testing.assert_array_equal(*masks)
    corners = np.asarray(read_geojson(tmp_path / "b/first/polygons.geojson")[0].polygon.exterior.coords)
    assert (corners % 2 == 0).all()


def test_overlay_is_a_picture_of_bounded_size(slide, tmp_path):
    segment_slide(slide, cascade(), tmp_path / "out", FINE)
    with Image.open(tmp_path / "out/first/overlay.png") as image:
        assert max(image.size) <= 2048
        pixels = np.asarray(image.convert("RGB"))
    assert (pixels == H2G_CLASSES[1].color).all(-1).any()


def test_evaluation_reads_what_is_written(slide, tmp_path):
    """Against a label picture of where the slide has its tumour."""
    truth = (picture() == TUMOUR).all(-1)
    Image.fromarray(truth.astype(np.uint8)).save(tmp_path / "truth.png")
    segment_slide(slide, cascade(), tmp_path / "out", FINE)
    mask = tifffile.imread(tmp_path / "out/first/mask.tiff", level=0) == 1
    scores = evaluate_slide(tmp_path / "out/first/mask.tiff", slide, tmp_path / "truth.png")
    assert scores["dice"] == pytest.approx(2 * (mask & truth).sum() / (mask.sum() + truth.sum())) and scores["dice"] < 1
    assert scores["dice"] > 0.9


def test_results_do_not_depend_on_batches_or_readers(slide, tmp_path):
    for folder, streaming in (("a", Streaming(3, 1)), ("b", Streaming(64, 4))):
        segment_slide(slide, cascade(), tmp_path / folder, dataclasses.replace(FINE, streaming=streaming))
    for name in ("mask.tiff", "heatmap.tiff", "polygons.geojson", "overlay.png"):
        first, second = ((tmp_path / folder / "first" / name).read_bytes() for folder in "ab")
        assert first == second, name


def counting(calls):
    def predict(batch):
        calls.append(len(batch))
        return darkness(batch)

    return predict


def test_finished_slides_are_skipped_until_something_changes(slide, tmp_path):
    calls: list[int] = []
    model = cascade(predict=counting(calls))
    first = segment_slides([slide], model, tmp_path / "out", FINE)
    assert (list(first.summaries), first.skipped, first.failures) == (["first"], [], {})
    done = len(calls)
    again = segment_slides([slide], model, tmp_path / "out", FINE)
    assert again.skipped == ["first"]
    assert again.summaries == json.loads(json.dumps(first.summaries))
    assert len(calls) == done
    other = dataclasses.replace(model, spec=dataclasses.replace(model.spec, threshold=0.7))
    for model_, options in (
        (model, dataclasses.replace(FINE, force=True)),
        (other, FINE),
        (model, SegmentOptions(outputs=OutputOptions(2.0))),
        (model, dataclasses.replace(FINE, mpp=1.01)),
    ):
        assert segment_slides([slide], model_, tmp_path / "out", options).skipped == []
    (tmp_path / "out/first/mask.tiff").unlink()
    assert segment_slides([slide], model, tmp_path / "out", dataclasses.replace(FINE, mpp=1.01)).skipped == []


def test_files_of_earlier_settings_do_not_stay(slide, tmp_path):
    options = SegmentOptions(outputs=OutputOptions(probability=True, compress_polygons=True))
    segment_slide(slide, cascade(), tmp_path / "out", options)
    (tmp_path / "out/first/.partial-1234-mask.tiff").write_bytes(b"left by a killed run")
    (tmp_path / "out/first/notes.txt").write_text("the user's own")
    segment_slide(slide, Cascade(CascadeSpec("otsu", None, None)), tmp_path / "out")
    assert names(tmp_path / "out/first") == [
        "mask.tiff",
        "notes.txt",
        "overlay.png",
        "polygons.geojson",
        "summary.json",
    ]


def test_ctrl_c_while_classifying(slide, tmp_path):
    """No final name appears; what is known is kept; the next run gives what an uninterrupted one gives."""
    left = [4]

    def predict(batch):
        if left[0] == 0:
            raise KeyboardInterrupt
        left[0] -= 1
        return darkness(batch)

    with pytest.raises(KeyboardInterrupt):
        segment_slides([slide], cascade(predict=predict), tmp_path / "out", FINE)
    assert names(tmp_path / "out") == [".state/first.npz"]
    calls: list[int] = []
    report = segment_slides([slide], cascade(predict=counting(calls)), tmp_path / "out", FINE)
    grid = report.summaries["first"]["grid"]
    assert grid["resumed_patches"] == 16
    assert sum(calls) == grid["patches"] - 16
    assert not (tmp_path / "out/.state").exists()
    segment_slide(slide, cascade(), tmp_path / "whole", FINE)
    for name in ("mask.tiff", "heatmap.tiff", "polygons.geojson", "overlay.png"):
        assert (tmp_path / "out/first" / name).read_bytes() == (tmp_path / "whole/first" / name).read_bytes(), name


@pytest.mark.parametrize("stop", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_stopped_while_writing(slide, tmp_path, monkeypatch, stop):
    """No summary, so not finished; no half file; the heatmap need not be made again."""
    write = outputs.write_pyramid

    def fails(path, *args, **kwargs):
        if path.name == "mask.tiff":
            with outputs.atomic_path(path) as temporary:
                temporary.write_bytes(b"half a file")
                raise stop
        return write(path, *args, **kwargs)

    monkeypatch.setattr(outputs, "write_pyramid", fails)
    expected = KeyboardInterrupt if stop is KeyboardInterrupt else OutputError
    with pytest.raises(expected) as caught:
        segment_slide(slide, cascade(), tmp_path / "out", FINE)
    if expected is OutputError:
        assert "mask.tiff" in str(caught.value)
        assert "No space left" in str(caught.value)
    found = names(tmp_path / "out")
    assert not [name for name in found if "partial" in name or name.endswith(("mask.tiff", "summary.json"))]
    monkeypatch.undo()
    calls: list[int] = []
    summary = segment_slide(slide, cascade(predict=counting(calls)), tmp_path / "out", FINE)
    assert (tmp_path / "out/first/summary.json").is_file()
    assert calls == []
    assert summary["grid"]["resumed_patches"] == summary["grid"]["patches"]


def test_a_broken_slide_is_named_and_the_others_are_done(slide, tmp_path):
    broken = tmp_path / "broken.svs"
    broken.write_bytes(b"not a slide at all")
    white = slide_file(tmp_path / "white.tif", np.full((300, 300, 3), 255, np.uint8))
    small = slide_file(tmp_path / "small.tif", picture(30, 30))
    bare = tmp_path / "bare.png"
    Image.fromarray(picture()).save(bare)
    second = slide_file(tmp_path / "second.tif")
    paths = [broken, slide, tmp_path / "missing.svs", white, small, bare, second]
    report = segment_slides(paths, cascade(), tmp_path / "out", FINE)
    assert list(report.summaries) == ["first", "second"]
    assert list(report.failures) == ["broken", "missing", "white", "small", "bare"]
    for name, words in {
        "broken": "broken.svs",
        "missing": "no such file",
        "white": "no tissue",
        "small": "smaller than a patch",
        "bare": "--mpp",
    }.items():
        assert words in report.failures[name]
        assert not (tmp_path / "out" / name).exists()


def test_errors_of_a_single_slide(tmp_path):
    bare = tmp_path / "bare.png"
    Image.fromarray(picture()).save(bare)
    with pytest.raises(MppError, match="--mpp"):
        segment_slide(bare, cascade(), tmp_path / "out")
    with pytest.raises(SlideError, match="no such file"):
        segment_slide(tmp_path / "missing.svs", cascade(), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    summary = segment_slide(bare, cascade(), tmp_path / "out", SegmentOptions(mpp=1.0))
    assert summary["slide"]["mpp_source"] == "given (--mpp)"


def test_a_bug_in_one_slide_does_not_stop_the_others(slide, tmp_path, caplog):
    second = slide_file(tmp_path / "second.tif")
    left = [1]

    def predict(batch):
        if left:
            left.pop()
            raise ZeroDivisionError("oops")
        return darkness(batch)

    report = segment_slides([slide, second], cascade(predict=predict), tmp_path / "out", FINE)
    assert "ZeroDivisionError: oops" in report.failures["first"]
    assert list(report.summaries) == ["second"]
    assert "Traceback" in caplog.text


def test_names_decide_about_folders(slide, tmp_path):
    (tmp_path / "other").mkdir()
    twin = slide_file(tmp_path / "other/first.tif", picture(400, 400))
    with pytest.raises(OutputError, match="'first'"):
        segment_slides([slide, twin], cascade(), tmp_path / "out", FINE)
    assert not (tmp_path / "out").exists()
    report = segment_slides([slide, twin], cascade(), tmp_path / "out", FINE, names=["a", "b"])
    assert list(report.summaries) == ["a", "b"]
    assert (tmp_path / "out/b/mask.tiff").is_file()
    with pytest.raises(OutputError, match=r"another slide.*--force"):
        segment_slide(twin, cascade(), tmp_path / "out", FINE, name="a")
    assert segment_slide(twin, cascade(), tmp_path / "out", dataclasses.replace(FINE, force=True), name="a")


def test_target_that_is_a_file(slide, tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(OutputError, match=r"out.*folder you may write to"):
        segment_slides([slide], cascade(), tmp_path / "out", FINE)


def test_networks_that_make_no_cascade():
    classifier = Network(darkness, classifier_spec(), "x")
    refinement = Network(darkness, refinement_spec(), "x")
    with pytest.raises(ModelError, match="no classifier to make it"):
        Cascade(CascadeSpec("x", None, "refinement"), None, refinement)
    with pytest.raises(ModelError, match="not a patch classifier"):
        Cascade(CascadeSpec("x", "classifier", None), refinement)
    with pytest.raises(ModelError, match="not a network on whole slides"):
        Cascade(CascadeSpec("x"), classifier, classifier)


@pytest.mark.parametrize("result", [np.zeros((1, 64, 64, 3)), np.full((1, 64, 64, 2), np.nan), np.zeros((64, 64, 2))])
def test_refinement_that_returns_something_else(slide, tmp_path, result):
    model = dataclasses.replace(
        cascade(), refinement=Network(lambda image, heat: result.astype(np.float32), refinement_spec(), "x")
    )
    with pytest.raises(ModelError, match="expected finite"):
        segment_slide(slide, model, tmp_path / "out", FINE)
    assert not (tmp_path / "out/first").exists()


def test_folder_without_config(tmp_path):
    with pytest.raises(ModelError, match=r"config\.json: no such file"):
        load_cascade(tmp_path)


def test_ctrl_c_within_ctypes_stops_too(tmp_path, monkeypatch):
    def interrupted(*_):
        raise ctypes.ArgumentError("argument 1: KeyboardInterrupt: ")

    monkeypatch.setattr(cascade_module, "_loaded", lambda *_: None)
    monkeypatch.setattr(cascade_module, "_job", interrupted)
    with pytest.raises(KeyboardInterrupt):
        cascade_module.segment_slides(["a.tif", "b.tif"], tmp_path, tmp_path / "out", names=["a", "b"])
