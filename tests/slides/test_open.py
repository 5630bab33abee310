"""Opening files of every kind, and what is said of those that cannot be opened."""

from __future__ import annotations

import subprocess
import sys
import threading

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image
from position_slide import position_image, pyramid, write_tiff

from tfseg.slides import array_backend, open_slide, openslide_backend
from tfseg.types import MppError, SlideError, Window

IMAGE = position_image(150, 110)
EVERYTHING = Window(75, 55, 150, 110, 0.5)


def test_importing_slides_loads_no_image_library():
    code = "import sys, tfseg.slides; print([m for m in ('openslide', 'cv2', 'tensorflow') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def png(path, image):
    Image.fromarray(image).save(path)


def jpeg(path, image):
    Image.fromarray(image).save(path, quality=100, subsampling=0)


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("plain.png", png),
        ("plain.jpg", jpeg),
        ("strips.tif", lambda path, image: tifffile.imwrite(path, image, photometric="rgb", rowsperstrip=8)),
        ("deflate.tif", lambda path, image: tifffile.imwrite(path, image, photometric="rgb", compression="deflate")),
        (
            "jpeg.tif",
            lambda path, image: tifffile.imwrite(
                path, image, photometric="rgb", subsampling=(1, 1), compression="jpeg", compressionargs={"level": 100}
            ),
        ),
        ("big.tif", lambda path, image: tifffile.imwrite(path, image, photometric="rgb", bigtiff=True)),
        (
            "planar.tif",
            lambda path, image: tifffile.imwrite(
                path, np.moveaxis(image, -1, 0).copy(), photometric="rgb", planarconfig="separate"
            ),
        ),
        ("suffix_lies.png", jpeg),
    ],
)
def test_plain_pictures_are_slides_of_one_level(tmp_path, name, write):
    if name == "suffix_lies.png":
        jpeg(tmp_path / "really.jpg", IMAGE)
        (tmp_path / "really.jpg").rename(tmp_path / name)
    else:
        write(tmp_path / name, IMAGE)
    slide = open_slide(tmp_path / name, mpp=0.5)
    assert slide.size == (150, 110) and slide.level_downsamples == (1,) and slide.name == name.rpartition(".")[0]
    lossy = "jp" in name or "lies" in name
    tolerance = 40 if lossy else 0
    difference = np.abs(slide.read(EVERYTHING).astype(int) - IMAGE)
    assert difference.max() <= tolerance and difference.mean() < 2


def test_grey_and_transparent_pictures(tmp_path):
    png(tmp_path / "grey.png", IMAGE[..., 0])
    np.testing.assert_array_equal(open_slide(tmp_path / "grey.png", 0.5).read(EVERYTHING), IMAGE[..., :1].repeat(3, 2))
    tifffile.imwrite(tmp_path / "grey.tif", IMAGE[..., 0], photometric="minisblack")
    np.testing.assert_array_equal(open_slide(tmp_path / "grey.tif", 0.5).read(EVERYTHING), IMAGE[..., :1].repeat(3, 2))
    rgba = np.concatenate([IMAGE, np.full((110, 150, 1), 255, np.uint8)], axis=2)
    rgba[:50, :, 3] = 0
    rgba[50:60, :, 3] = 51
    for name, write in (
        ("rgba.png", png),
        ("rgba.tif", lambda path, image: tifffile.imwrite(path, image, photometric="rgb", extrasamples=["unassalpha"])),
    ):
        write(tmp_path / name, rgba)
        out = open_slide(tmp_path / name, 0.5).read(EVERYTHING)
        assert (out[:50] == 255).all()
        np.testing.assert_allclose(out[50:60], IMAGE[50:60] * 0.2 + 255 * 0.8, atol=1)
        np.testing.assert_array_equal(out[60:], IMAGE[60:])


def test_one_bit_and_palette_png(tmp_path):
    Image.fromarray(IMAGE[..., 0] > 99).save(tmp_path / "bits.png")
    expected = ((IMAGE[..., :1] > 99) * 255).repeat(3, 2)
    np.testing.assert_array_equal(open_slide(tmp_path / "bits.png", 0.5).read(EVERYTHING), expected)
    palette = Image.fromarray(IMAGE[..., 2]).convert("P")
    palette.putpalette([255, 0, 0] + [0, 0, 0] * 254 + [0, 0, 255])
    palette.save(tmp_path / "palette.png")
    assert set(map(tuple, open_slide(tmp_path / "palette.png", 0.5).read(EVERYTHING).reshape(-1, 3))) == {
        (255, 0, 0),
        (0, 0, 255),
    }


def test_uncompressed_tiff_is_mapped_not_loaded(tmp_path, monkeypatch):
    monkeypatch.setattr(array_backend, "MAX_IMAGE_BYTES", 1000)
    tifffile.imwrite(tmp_path / "raw.tif", IMAGE, photometric="rgb", rowsperstrip=8)
    np.testing.assert_array_equal(open_slide(tmp_path / "raw.tif", 0.5).read(EVERYTHING), IMAGE)
    png(tmp_path / "large.png", IMAGE)
    with pytest.raises(SlideError, match=r"large\.png: 150×110 px without tiles.*limit.*vips tiffsave"):
        open_slide(tmp_path / "large.png", 0.5)


def test_decoded_pictures_are_bounded_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(array_backend, "CACHE_BYTES", 2 * IMAGE.nbytes)
    slides = []
    for i in range(6):
        png(tmp_path / f"{i}.png", np.roll(IMAGE, i, axis=0))
        slides.append(open_slide(tmp_path / f"{i}.png", 0.5))
    for _ in range(2):
        for i, slide in enumerate(slides):
            np.testing.assert_array_equal(slide.read(EVERYTHING), np.roll(IMAGE, i, axis=0))
            assert array_backend._pictures.memory() <= 2 * IMAGE.nbytes


def test_handles_are_bounded_and_per_thread(tmp_path):
    slides = [open_slide(write_tiff(tmp_path / f"{i}.tif", [np.roll(IMAGE, i, 0)])) for i in range(12)]
    seen: list[int] = []

    def read_all() -> None:
        for i, slide in enumerate(slides):
            np.testing.assert_array_equal(slide.read(Window(75, 55, 150, 110, 0.25)), np.roll(IMAGE, i, 0))
            seen.append(len(openslide_backend.handles))

    read_all()
    thread = threading.Thread(target=read_all)
    thread.start()
    thread.join()
    assert len(seen) == 24 and max(seen) == openslide_backend.MAX_HANDLES
    assert seen[12] == 1  # the other thread began with none
    slides[-1].close()
    assert len(openslide_backend.handles) == openslide_backend.MAX_HANDLES - 1


def test_scanned_parts_only_are_coloured():
    rgba = np.zeros((3, 4, 4), np.uint8)
    rgba[1, :, :] = (10, 20, 30, 255)
    rgba[2, :, :] = (10, 20, 30, 51)
    out = openslide_backend._over_white(rgba)
    assert out[0, 0].tolist() == [255] * 3
    assert out[1, 0].tolist() == [10, 20, 30]
    assert out[2, 0].tolist() == [206, 208, 210]
    opaque = np.full((2, 2, 4), 255, np.uint8)
    opaque[..., 0] = 7
    assert openslide_backend._over_white(opaque)[0, 0].tolist() == [7, 255, 255]


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda path: None, "no such file"),
        (lambda path: path.mkdir(), "a folder, expected a slide file"),
        (lambda path: path.write_bytes(b""), "empty"),
        (lambda path: path.write_bytes(b"not a picture" * 100), "not a slide OpenSlide, TIFF, PNG or JPEG can read"),
        (lambda path: path.write_bytes(b"II*\0" + b"\xff" * 50), "cannot be decoded"),
        (lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"\0" * 50), "cannot be decoded"),
        (lambda path: tifffile.imwrite(path, IMAGE.astype(np.uint16)), "expected 8 bits"),
        (lambda path: tifffile.imwrite(path, np.zeros((5, 20, 20), np.uint8)), "expected a grey or RGB picture"),
        (lambda path: cv2.imwrite(str(path.with_suffix(".png")), IMAGE[..., 0].astype(np.uint16)), "expected 8 bits"),
    ],
)
def test_unreadable_files_are_named(tmp_path, prepare, message):
    path = tmp_path / "slide.tif"
    prepare(path)
    if path.with_suffix(".png").exists():
        path = path.with_suffix(".png")
    with pytest.raises(SlideError, match=message) as error:
        open_slide(path, mpp=0.5)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("kind", ["tiled", "strips", "png", "jpg"])
@pytest.mark.parametrize("kept", [0.3, 0.8])
def test_files_cut_short_are_errors_not_pictures(tmp_path, kind, kept):
    whole = tmp_path / ("whole.png" if kind == "png" else "whole.jpg" if kind == "jpg" else "whole.tif")
    image = np.random.default_rng(0).integers(0, 256, (300, 300, 3), np.uint8)
    if kind == "tiled":
        write_tiff(whole, pyramid(image, (1, 2)))
    elif kind == "strips":
        tifffile.imwrite(whole, image, photometric="rgb", compression="deflate")
    else:
        {"png": png, "jpg": jpeg}[kind](whole, image)
    content = whole.read_bytes()
    cut = tmp_path / f"cut{whole.suffix}"
    cut.write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(SlideError, match="cut"):
        open_slide(cut, mpp=0.25).read(Window(150, 150, 300, 300, 0.25))


def test_other_slides_are_read_after_a_failure(tmp_path):
    good = open_slide(write_tiff(tmp_path / "good.tif", [IMAGE]))
    content = (tmp_path / "good.tif").read_bytes()
    damaged = bytearray(content)
    damaged[600:-600] = b"\xaa" * (len(content) - 1200)
    (tmp_path / "damaged.tif").write_bytes(damaged)
    for _ in range(2):
        with pytest.raises(SlideError, match=r"damaged\.tif"):
            open_slide(tmp_path / "damaged.tif", 0.25).read(Window(75, 55, 150, 110, 0.25))
        np.testing.assert_array_equal(good.read(Window(75, 55, 150, 110, 0.25)), IMAGE)


@pytest.mark.parametrize(
    "arrays",
    [[], [IMAGE.astype(float)], [IMAGE[..., 0]], [IMAGE[::2, ::2], IMAGE], [np.zeros((0, 5, 3), np.uint8)]],
)
def test_arrays_that_are_no_pyramid(arrays):
    with pytest.raises(SlideError):
        open_slide(arrays, mpp=0.5)


def test_slide_is_passed_on():
    slide = open_slide([IMAGE], mpp=0.5)
    assert open_slide(slide) is slide
    other = open_slide(slide, mpp=1.0)
    assert (slide.mpp, other.mpp, other.mpp_source) == (0.5, 1.0, "given (--mpp)")
    with pytest.raises(MppError):
        open_slide([IMAGE])


@pytest.mark.realdata
def test_real_slides(shared_data):
    slide = open_slide(shared_data / "slides" / "CMU-1-Small-Region.svs")
    assert (slide.mpp, slide.mpp_source, slide.objective_power) == (0.499, "openslide.mpp-x", 20)
    native = slide.read(Window(1100, 1500, 256, 256, slide.mpp))
    coarse = slide.read(Window(1100, 1500, 128, 128, 2 * slide.mpp))
    np.testing.assert_allclose(coarse, native.reshape(128, 2, 128, 2, 3).mean((1, 3)), atol=0.51)
    assert slide.fit((64, 64)).shape == (64, 64, 3)


@pytest.mark.realdata
def test_real_slide_without_pixel_size(shared_data):
    path = shared_data / "slides" / "tcga-cr-7395-01a-01-ts1.svs"
    with pytest.raises(MppError, match=r"tcga-cr-7395.*--mpp.*manifest"):
        open_slide(path)
    slide = open_slide(path, mpp=0.25)
    assert slide.level_downsamples == (1, 2)
    fine, coarse = (slide.read(Window(2300, 1700, 1024 // k, 1024 // k, 0.25 * k)).astype(float) for k in (1, 2))
    assert np.abs(fine.reshape(512, 2, 512, 2, 3).mean((1, 3)) - coarse).mean() < 7  # 9 when one pixel aside


@pytest.mark.realdata
def test_real_file_that_is_no_slide(shared_data):
    with pytest.raises(SlideError, match=r"broken\.svs: not a slide OpenSlide, TIFF, PNG or JPEG can read"):
        open_slide(shared_data / "slides" / "broken.svs")
