"""Pixel size: which source wins, and what is said when there is none."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile
from PIL import Image
from position_slide import position_image, write_tiff

from tfseg.slides import open_slide
from tfseg.slides.mpp import find_mpp, find_objective_power
from tfseg.types import MppError

OME = (
    '<?xml version="1.0" encoding="UTF-8"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">'
    '<Instrument ID="Instrument:0"><Objective ID="Objective:0" NominalMagnification="40.0"/></Instrument>'
    '<Image ID="Image:0"><Pixels ID="Pixels:0" PhysicalSizeX="{x}" PhysicalSizeY="{y}" {unit} SizeX="9"/></Image></OME>'
)
NM = 'PhysicalSizeXUnit="nm" PhysicalSizeYUnit="nm"'
IMAGE = position_image(100, 80)


def resolution(value: float, unit: str) -> dict[str, str]:
    return {"tiff.XResolution": str(value), "tiff.YResolution": str(value), "tiff.ResolutionUnit": unit}


@pytest.mark.parametrize(
    ("properties", "mpp", "source"),
    [
        ({"openslide.mpp-x": "0.25", "openslide.mpp-y": "0.25", "aperio.MPP": "0.5"}, 0.25, "openslide.mpp-x"),
        ({"openslide.mpp-x": "0.2500", "openslide.mpp-y": "0.2510"}, 0.2505, "openslide.mpp-x"),
        ({"openslide.mpp-x": "0,2523"}, 0.2523, "openslide.mpp-x"),
        ({"openslide.mpp-y": "0.3"}, 0.3, "openslide.mpp-y"),
        ({"aperio.MPP": "0.4990", **resolution(40000, "centimeter")}, 0.499, "aperio.MPP"),
        ({"openslide.mpp-x": "352.7", "openslide.mpp-y": "352.7", "aperio.MPP": "0.5"}, 0.5, "aperio.MPP"),
        ({"tiff.ImageDescription": OME.format(x=0.23, y=0.23, unit="")}, 0.23, "OME PhysicalSizeX"),
        ({"openslide.comment": OME.format(x=230, y=230, unit=NM)}, 0.23, "OME PhysicalSizeX"),
        (resolution(40000, "centimeter"), 0.25, "TIFF resolution"),
        ({"tiff.XResolution": "50800", "tiff.ResolutionUnit": "inch"}, 0.5, "TIFF resolution"),
    ],
)
def test_sources_in_their_order(properties, mpp, source):
    value, where = find_mpp(properties, "slide.svs")
    assert value == pytest.approx(mpp) and where == source
    assert find_mpp(properties, "slide.svs", given=0.1) == (0.1, "given (--mpp)")


@pytest.mark.parametrize(
    "properties",
    [
        {},
        {"openslide.mpp-x": "unknown"},
        {"openslide.mpp-x": "0"},
        {"openslide.mpp-x": "nan"},
        {"aperio.MPP": "1e9"},
        {"tiff.XResolution": "72", "tiff.YResolution": "72", "tiff.ResolutionUnit": "inch"},
        {"tiff.XResolution": "40000", "tiff.ResolutionUnit": "none"},
        {"tiff.XResolution": "0", "tiff.ResolutionUnit": "inch"},
        {"tiff.ImageDescription": OME.format(x=1, y=1, unit='PhysicalSizeXUnit="pixel" PhysicalSizeYUnit="pixel"')},
        {"tiff.ImageDescription": "<OME <<< broken"},
    ],
)
def test_no_or_senseless_pixel_size_says_how_to_give_it(properties):
    with pytest.raises(MppError, match=r"slide\.svs.*--mpp.*mpp=.*`mpp` of the manifest"):
        find_mpp(properties, "slide.svs")


def test_rejected_values_are_shown():
    with pytest.raises(MppError, match=r"TIFF resolution says 352\.778 µm/px"):
        find_mpp({"tiff.XResolution": "72", "tiff.ResolutionUnit": "inch"}, "slide.svs")


def test_pixels_that_are_not_square_are_refused_unless_given():
    properties = {"openslide.mpp-x": "0.25", "openslide.mpp-y": "0.30"}
    with pytest.raises(MppError, match=r"not square: 0\.25 × 0\.3"):
        find_mpp(properties, "slide.svs")
    assert find_mpp(properties, "slide.svs", given=0.25)[0] == 0.25


@pytest.mark.parametrize("given", [250, 0.00025, 5e-7])
def test_a_slip_of_the_unit_is_refused_before_a_picture_of_gigapixels_is_made(given):
    with pytest.raises(MppError, match=r"is no slide's, 0\.02 to 50 are plausible .*nanometres"):
        open_slide([IMAGE], mpp=given)


@pytest.mark.parametrize("given", [0, -1, float("nan"), float("inf"), "0.25"])
def test_given_mpp_must_be_a_positive_number(given):
    with pytest.raises(MppError, match="above 0"):
        open_slide([IMAGE], mpp=given)


def test_objective_power():
    assert find_objective_power({"openslide.objective-power": "40"}) == 40
    assert find_objective_power({"aperio.AppMag": "20"}) == 20
    assert find_objective_power({"tiff.ImageDescription": OME.format(x=1, y=1, unit="")}) == 40
    assert find_objective_power({}) is None


@pytest.mark.parametrize("tiled", [True, False])
@pytest.mark.parametrize(("resolution", "unit"), [((20000, 20000), "CENTIMETER"), ((50800, 50800), "INCH")])
def test_tiff_resolution_of_tiled_and_plain_files(tmp_path, tiled, resolution, unit):
    options = {"tile": (64, 64)} if tiled else {"rowsperstrip": 16}
    tifffile.imwrite(
        tmp_path / "a.tif",
        IMAGE,
        photometric="rgb",
        resolution=resolution,
        resolutionunit=unit,
        metadata=None,
        **options,
    )
    slide = open_slide(tmp_path / "a.tif")
    assert slide.mpp == pytest.approx(0.5)
    assert slide.mpp_source in ("openslide.mpp-x", "TIFF resolution")


@pytest.mark.parametrize("tiled", [True, False])
def test_ome_tiff(tmp_path, tiled):
    options = {"tile": (64, 64)} if tiled else {}
    metadata = {"axes": "YXS", "PhysicalSizeX": 0.4, "PhysicalSizeY": 0.4}
    tifffile.imwrite(tmp_path / "a.ome.tif", IMAGE, photometric="rgb", ome=True, metadata=metadata, **options)
    slide = open_slide(tmp_path / "a.ome.tif")
    assert (slide.mpp, slide.mpp_source) == (0.4, "OME PhysicalSizeX")
    np.testing.assert_array_equal(slide.whole(0.4), IMAGE)


def test_files_without_pixel_size(tmp_path):
    Image.fromarray(IMAGE).save(tmp_path / "print.png", dpi=(72, 72))
    Image.fromarray(IMAGE).save(tmp_path / "print.jpg", dpi=(300, 300))
    write_tiff(tmp_path / "tiled.tif", [IMAGE], mpp=None)
    tifffile.imwrite(tmp_path / "screen.tif", IMAGE, photometric="rgb", resolution=(72, 72), resolutionunit="INCH")
    for name in ("print.png", "print.jpg", "tiled.tif", "screen.tif"):
        with pytest.raises(MppError, match=f"{name}.*--mpp"):
            open_slide(tmp_path / name)
        slide = open_slide(tmp_path / name, mpp=0.5)
        assert (slide.mpp, slide.mpp_source) == (0.5, "given (--mpp)")


def test_what_is_assumed_comes_last_and_is_recorded():
    assert find_mpp({}, "a.png", assumed=0.25) == (0.25, "assumed")
    assert find_mpp(resolution(72, "inch"), "a.png", assumed=0.25) == (0.25, "assumed")
    assert find_mpp({"aperio.MPP": "0.5"}, "a.png", assumed=0.25) == (0.5, "aperio.MPP")
    assert find_mpp({}, "a.png", given=0.4, assumed=0.25)[0] == 0.4
    with pytest.raises(MppError, match="not square"):
        find_mpp({"openslide.mpp-x": "0.25", "openslide.mpp-y": "0.5"}, "a.svs", assumed=0.25)


def test_of_a_slide_nothing_is_assumed(tmp_path):
    """A plain picture is taken at the assumed size, a tiled TIFF, which OpenSlide reads, is an error."""
    Image.fromarray(IMAGE).save(tmp_path / "a.png")
    assert open_slide(tmp_path / "a.png", assumed=0.25).mpp_source == "assumed"
    assert open_slide(tmp_path / "a.png", mpp=0.3, assumed=0.25).mpp == 0.3
    tifffile.imwrite(tmp_path / "a.tif", IMAGE, tile=(16, 16), photometric="rgb")
    with pytest.raises(MppError, match="does not say its pixel size"):
        open_slide(tmp_path / "a.tif", assumed=0.25)
