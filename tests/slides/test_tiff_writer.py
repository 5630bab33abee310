from __future__ import annotations

import hashlib

import numpy as np
import openslide
import pytest
import tifffile

from tfseg.slides.tiff_writer import halve, level_sizes, write_pyramid
from tfseg.types import OutputError


def picture(height=1301, width=2050):
    """Smooth RGB whose value tells its place."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 255 // width, y * 255 // height, (x + y) * 255 // (height + width)], axis=-1).astype(np.uint8)


class Source:
    """An array as tile source; remembers how much was asked for at once."""

    def __init__(self, pixels):
        self.pixels, self.shape, self.dtype, self.largest = pixels, pixels.shape, pixels.dtype, 0

    def tile(self, row0, col0, height, width):
        self.largest = max(self.largest, height * width)
        return self.pixels[row0 : row0 + height, col0 : col0 + width]


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("suffix", [".tif", ".svs"])
@pytest.mark.parametrize("power", [None, 20])
def test_openslide_sees_levels_pixel_size_power_and_pixels(tmp_path, suffix, power):
    pixels = picture()
    path = tmp_path / f"slide{suffix}"
    write_pyramid(path, pixels, mpp=0.5, objective_power=power)
    with openslide.OpenSlide(path) as slide:
        assert slide.level_dimensions == ((2050, 1301), (1025, 651), (513, 326))
        assert slide.level_downsamples == pytest.approx((1, 2, 4), abs=0.02)
        assert float(slide.properties["openslide.mpp-x"]) == float(slide.properties["openslide.mpp-y"]) == 0.5
        assert slide.properties.get("openslide.objective-power") == (None if power is None else "20")
        for level in range(3):
            step = 2**level
            read = np.asarray(slide.read_region((400, 600), level, (100, 100)).convert("RGB")).astype(int)
            expected = pixels[600 : 600 + 100 * step : step, 400 : 400 + 100 * step : step].astype(int)
            assert abs(read - expected).max() <= 4


def test_lossless_levels_are_means_of_two_by_two(tmp_path):
    pixels = picture()
    write_pyramid(tmp_path / "slide.tif", pixels, mpp=(0.5, 0.25), compression="deflate")
    with tifffile.TiffFile(tmp_path / "slide.tif") as tiff:
        expected = pixels
        for number, page in enumerate(tiff.pages):
            np.testing.assert_array_equal(page.asarray(), expected)
            x, y = (page.tags[name].value for name in ("XResolution", "YResolution"))
            assert (x[0] / x[1], y[0] / y[1]) == pytest.approx((20000 / 2**number, 40000 / 2**number))
            expected = halve(expected, "image")


@pytest.mark.parametrize("compression", ["deflate", "lzw"])
def test_labels_keep_their_values_on_every_level_and_in_openslide(tmp_path, compression):
    y, x = np.mgrid[:1300, :1500]
    labels = ((x // 90 + y // 70) % 3).astype(np.uint8)
    labels[:100] = 255
    write_pyramid(tmp_path / "labels.tif", labels, mpp=2.0, kind="label", compression=compression)
    with tifffile.TiffFile(tmp_path / "labels.tif") as tiff:
        for page in tiff.pages:
            assert set(np.unique(page.asarray())) == {0, 1, 2, 255}
    with openslide.OpenSlide(tmp_path / "labels.tif") as slide:
        assert float(slide.properties["openslide.mpp-x"]) == 2.0
        read = np.asarray(slide.read_region((50, 60), 0, (300, 200)))
        np.testing.assert_array_equal(read[..., :3], np.repeat(labels[60:260, 50:350, None], 3, axis=2))


def test_colors_show_in_openslide_and_leave_the_values(tmp_path):
    labels = np.zeros((300, 300), np.uint8)
    labels[:, 150:] = 1
    write_pyramid(tmp_path / "mask.tif", labels, mpp=2.0, kind="label", colors={0: (255, 255, 255), 1: (200, 0, 10)})
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "mask.tif", key=0), labels)
    with openslide.OpenSlide(tmp_path / "mask.tif") as slide:
        assert slide.read_region((200, 10), 0, (1, 1)).convert("RGB").getpixel((0, 0)) == (200, 0, 10)
        assert slide.read_region((10, 10), 0, (1, 1)).convert("RGB").getpixel((0, 0)) == (255, 255, 255)


def test_float_heatmap_keeps_means(tmp_path):
    heat = np.random.default_rng(0).random((1200, 1100)).astype(np.float32)
    write_pyramid(tmp_path / "heat.tif", heat, mpp=8.0, kind="heatmap")
    with tifffile.TiffFile(tmp_path / "heat.tif") as tiff:
        np.testing.assert_array_equal(tiff.pages[0].asarray(), heat)
        np.testing.assert_allclose(tiff.pages[1].asarray(), heat.reshape(600, 2, 550, 2).mean((1, 3)), rtol=1e-6)


def test_tile_source_gives_the_bytes_of_the_array_and_is_asked_for_bands(tmp_path):
    pixels = picture()
    source = Source(pixels)
    write_pyramid(tmp_path / "array.tif", pixels, mpp=0.5, objective_power=20)
    write_pyramid(tmp_path / "tiles.tif", source, mpp=0.5, objective_power=20)
    assert digest(tmp_path / "array.tif") == digest(tmp_path / "tiles.tif")
    assert source.largest == 256 * pixels.shape[1]


@pytest.mark.parametrize("size", [(1, 1), (16, 5000), (257, 1025), (1024, 1024), (1537, 1025)])
def test_odd_sizes(tmp_path, size):
    labels = (np.arange(size[0] * size[1]) % 251).astype(np.uint8).reshape(size)
    write_pyramid(tmp_path / "odd.tif", labels, mpp=1.0, kind="heatmap", tile_px=64)
    with tifffile.TiffFile(tmp_path / "odd.tif") as tiff:
        assert [page.shape for page in tiff.pages] == level_sizes(*size)
        expected = labels
        for page in tiff.pages:
            np.testing.assert_array_equal(page.asarray(), expected)
            expected = halve(expected, "heatmap")


def test_halve_by_hand():
    block = np.array([[1, 2, 7], [2, 9, 7], [5, 5, 8]], np.uint8)
    np.testing.assert_array_equal(halve(block, "label"), [[2, 7], [5, 8]])
    np.testing.assert_array_equal(halve(block, "image"), [[4, 7], [5, 8]])  # (1 + 2 + 2 + 9) / 4 = 3.5, half up


def test_a_failing_source_leaves_nothing_and_keeps_the_old_file(tmp_path):
    class Broken(Source):
        def tile(self, row0, col0, height, width):
            if row0 > 500:
                raise RuntimeError("lamp off")
            return super().tile(row0, col0, height, width)

    path = tmp_path / "slide.tif"
    path.write_bytes(b"old")
    with pytest.raises(RuntimeError, match="lamp off"):
        write_pyramid(path, Broken(picture()), mpp=0.5)
    assert path.read_bytes() == b"old"
    assert [found.name for found in tmp_path.iterdir()] == ["slide.tif"]


def test_a_source_that_breaks_its_word(tmp_path):
    class Short(Source):
        def tile(self, row0, col0, height, width):
            return super().tile(row0, col0, height, width - 1)

    with pytest.raises(OutputError, match=r"expected \(256, 2050, 3\) uint8"):
        write_pyramid(tmp_path / "slide.tif", Short(picture()), mpp=0.5)


@pytest.mark.parametrize(
    ("pixels", "settings", "says"),
    [
        (np.zeros((9, 9, 3), np.uint8), {"mpp": 0.0}, "mpp must be a positive"),
        (np.zeros((9, 9, 3), np.uint8), {"mpp": float("nan")}, "mpp must be a positive"),
        (np.zeros((9, 9, 4), np.uint8), {"mpp": 1.0}, r"\(H, W, 3\)"),
        (np.zeros((0, 9, 3), np.uint8), {"mpp": 1.0}, "at least one pixel"),
        (np.zeros((9, 9, 3), np.float32), {"mpp": 1.0}, "an image is uint8"),
        (np.zeros((9, 9), np.uint8), {"mpp": 1.0, "kind": "label", "compression": "jpeg"}, "Use 'deflate'"),
        (np.zeros((9, 9), np.uint8), {"mpp": 1.0, "kind": "mask"}, "kind is one of"),
        (np.zeros((9, 9), np.uint8), {"mpp": 1.0, "compression": "webp"}, "compression is one of"),
        (np.zeros((9, 9), np.uint8), {"mpp": 1.0, "tile_px": 100}, "multiple of 16"),
        (np.zeros((9, 9), np.uint8), {"mpp": 1.0, "objective_power": 20}, "needs an RGB image"),
        (np.zeros((9, 9, 3), np.uint8), {"mpp": 1.0, "colors": {1: (1, 2, 3)}}, "one-channel"),
    ],
)
def test_settings_that_no_reader_would_open(tmp_path, pixels, settings, says):
    with pytest.raises(OutputError, match=says):
        write_pyramid(tmp_path / "slide.tif", pixels, **settings)
    assert not list(tmp_path.iterdir())
