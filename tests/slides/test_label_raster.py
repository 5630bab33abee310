"""Label rasters: exact values at pixel centres, whatever the file's layout."""

from __future__ import annotations

import pickle
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image

from tfseg.slides import label_raster
from tfseg.slides.label_raster import LabelRaster
from tfseg.slides.rasterise import PixelGrid
from tfseg.slides.tiff_writer import write_pyramid
from tfseg.types import AnnotationError

RNG = np.random.default_rng(0)
VALUES = RNG.integers(0, 200, (301, 523)).astype(np.uint8)


def write_png(path, values):
    Image.fromarray(values).save(path)


def write_tiled(path, values, **options):
    tifffile.imwrite(path, values, tile=(64, 48), **options)


WRITERS = {
    "a.png": write_png,
    "tiled.tif": write_tiled,
    "lzw.tif": lambda path, values: write_tiled(path, values, compression="lzw"),
    "deflate.tif": lambda path, values: write_tiled(path, values, compression="zlib", predictor=True),
    "strips.tif": lambda path, values: tifffile.imwrite(path, values, rowsperstrip=7, compression="zlib"),
    "one_strip.tif": tifffile.imwrite,
    "16bit.tif": lambda path, values: write_tiled(path, values.astype(np.uint16) * 300),
    "16bit.png": lambda path, values: write_png(path, values.astype(np.uint16) * 300),
    "pyramid.tif": lambda path, values: write_pyramid(path, values, mpp=1.0, kind="label"),
    "palette.tif": lambda path, values: write_pyramid(path, values, mpp=1.0, kind="label", colors={1: (200, 0, 0)}),
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_pixel_of_every_layout(tmp_path, name):
    WRITERS[name](tmp_path / name, VALUES)
    expected = VALUES.astype(np.uint16) * 300 if "16bit" in name else VALUES
    raster = LabelRaster(tmp_path / name, (523, 301), 1.0)
    assert raster.size == (523, 301) and raster.scale == pytest.approx((1, 1))
    assert np.array_equal(raster.read(raster.grid), expected)
    part = PixelGrid(37, 101, 1, 1, 200, 150)
    assert np.array_equal(raster.read(part), expected[101:251, 37:237])
    again = pickle.loads(pickle.dumps(raster))
    assert np.array_equal(again.read(part), expected[101:251, 37:237])
    raster.close()
    again.close()


@pytest.mark.parametrize("name", ["bits.png", "bits.tif"])
def test_one_bit(tmp_path, name):
    Image.fromarray(VALUES > 99).save(tmp_path / name)
    raster = LabelRaster(tmp_path / name, (523, 301))
    assert np.array_equal(raster.read(raster.grid), VALUES > 99)


def test_palette_picture_gives_its_indices(tmp_path):
    image = Image.fromarray(VALUES).convert("P")
    image.putdata(VALUES.ravel().tolist())
    image.putpalette(RNG.integers(0, 255, 768).tolist())
    image.save(tmp_path / "a.png")
    raster = LabelRaster(tmp_path / "a.png", (523, 301))
    assert np.array_equal(raster.read(raster.grid), VALUES)


def test_tiles_left_out_of_a_sparse_file(tmp_path):
    tiles = [b"", zlib.compress(b"\3" * 64 * 48), b"", zlib.compress(b"\5" * 64 * 48)]
    tifffile.imwrite(
        tmp_path / "a.tif", iter(tiles), shape=(128, 96), dtype=np.uint8, tile=(64, 48), compression="zlib"
    )
    values = LabelRaster(tmp_path / "a.tif", (96, 128)).read(PixelGrid(0, 0, 1, 1, 96, 128))
    assert [int(v) for v in (values[0, 0], values[0, 95], values[127, 0], values[127, 95])] == [0, 3, 0, 5]


@pytest.mark.parametrize(
    ("slide", "raster", "scale"),
    [
        ((1000, 803), (250, 201), (4, 4)),  # rounded up
        ((1000, 803), (250, 200), (4, 4)),  # rounded down
        ((1001, 800), (100, 80), (10, 10)),
        ((1000, 500), (400, 200), (2.5, 2.5)),
        ((1000, 500), (400, 203), (2.5, 500 / 203)),  # 1.5 % off
    ],
)
def test_downsample_from_the_sizes(tmp_path, slide, raster, scale):
    Image.fromarray(np.zeros(raster[::-1], np.uint8)).save(tmp_path / "a.png")
    assert LabelRaster(tmp_path / "a.png", slide).scale == pytest.approx(scale)


def test_scale_from_the_tags(tmp_path):
    write_pyramid(tmp_path / "a.tif", np.zeros((64, 64), np.uint8), mpp=(8.0, 4.0), kind="label")
    raster = LabelRaster(tmp_path / "a.tif", (1024, 512), 0.5)
    assert raster.mpp == pytest.approx((8, 4)) and raster.scale == pytest.approx((16, 8))
    # The slide's mpp was corrected by hand: the tags still say how the axes relate.
    assert LabelRaster(tmp_path / "a.tif", (1024, 512), 0.6).scale == pytest.approx((16, 8))


def test_nearest_at_the_centres(tmp_path):
    values = np.arange(12, dtype=np.uint8).reshape(3, 4)
    Image.fromarray(values).save(tmp_path / "a.png")
    raster = LabelRaster(tmp_path / "a.png", (16, 12))
    assert np.array_equal(raster.read(PixelGrid(0, 0, 1, 1, 16, 12)), np.repeat(np.repeat(values, 4, 0), 4, 1))
    assert np.array_equal(raster.read(PixelGrid(0, 0, 8, 4, 2, 3)), values[:, 1::2])
    assert np.array_equal(raster.read(PixelGrid(-8, -4, 4, 4, 8, 5)), np.pad(values, ((1, 1), (2, 2)), mode="edge"))


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_several_channels(tmp_path, name):
    Image.fromarray(np.zeros((10, 10, 3), np.uint8)).save(tmp_path / name)
    with pytest.raises(AnnotationError, match=f"{name}: a label raster has one channel.*10×10×3"):
        LabelRaster(tmp_path / name, (10, 10))


def test_of_another_slide(tmp_path):
    Image.fromarray(np.zeros((10, 20), np.uint8)).save(tmp_path / "a.png")
    with pytest.raises(AnnotationError, match=r"a\.png: 20×10 px does not cover a slide of 300×300 px"):
        LabelRaster(tmp_path / "a.png", (300, 300))


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_no_picture(tmp_path, name):
    (tmp_path / name).write_bytes(b"not a picture")
    with pytest.raises(AnnotationError, match=f"{name}: not readable as a label raster"):
        LabelRaster(tmp_path / name, (10, 10))


def test_damaged_tile(tmp_path):
    write_tiled(tmp_path / "a.tif", VALUES, compression="zlib")
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        offset = file.pages[0].dataoffsets[3]
    content = bytearray((tmp_path / "a.tif").read_bytes())
    content[offset : offset + 40] = b"x" * 40
    (tmp_path / "a.tif").write_bytes(content)
    raster = LabelRaster(tmp_path / "a.tif", (523, 301))
    with pytest.raises(AnnotationError, match=r"a\.tif: tile 3 cannot be decoded"):
        raster.read(raster.grid)


def test_rasters_share_one_bounded_cache(tmp_path, monkeypatch):
    """Three rasters of four tiles each in a cache of five tiles: every value is right, and no more is kept."""
    monkeypatch.setattr(label_raster, "CACHE_BYTES", 5 * 64 * 64)
    rasters = []
    for k in range(3):
        values = np.arange(4, dtype=np.uint8).reshape(2, 2).repeat(64, 0).repeat(64, 1) + 10 * k
        tifffile.imwrite(tmp_path / f"{k}.tif", values, tile=(64, 64))
        rasters.append((LabelRaster(tmp_path / f"{k}.tif", (128, 128)), values))
    before = label_raster._tiles.bytes
    for _ in range(2):
        for raster, values in rasters:
            np.testing.assert_array_equal(raster.read(raster.grid), values)
            assert label_raster._tiles.bytes <= 5 * 64 * 64
    for raster, _ in rasters:
        raster.close()
    assert label_raster._tiles.bytes <= before
