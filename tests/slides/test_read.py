"""Every window at every pixel size, against explicit overlaps with level 0."""

from __future__ import annotations

import multiprocessing
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from position_slide import position_image, pyramid, reference, write_tiff

from tfseg.slides import open_slide
from tfseg.slides.array_backend import ArraySlide
from tfseg.slides.base import Slide
from tfseg.types import SlideError, Window

MPP = 0.25
WIDTH, HEIGHT = 1000, 760
LEVEL0 = position_image(WIDTH, HEIGHT)
LEVELS = pyramid(LEVEL0, (1, 2, 4))
SIZES = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 0.37, 0.499, 1.3, 3.1)
CENTRES = ((500, 380), (333.25, 410.5), (3, 755), (996, 12), (-10.7, 300), (500, 770.2), (2000, 2000))


@pytest.fixture(scope="module", params=["arrays", "tiff"])
def slide(request, tmp_path_factory):
    if request.param == "arrays":
        return open_slide(LEVELS, mpp=MPP)
    return open_slide(write_tiff(tmp_path_factory.mktemp("slides") / "positions.tif", LEVELS))


def check(slide: Slide, window: Window, fill: int = 255) -> None:
    """Against the level that should be read (all channels), and against level 0 (where the position is encoded)."""
    out = slide.read(window, fill)
    assert out.shape == (window.height_px, window.width_px, 3) and out.dtype == np.uint8 and out.flags.c_contiguous
    scale = window.mpp / MPP
    left, top, _, _ = window.bounds(MPP)
    size = (window.width_px, window.height_px)
    k = max(k for k in (1, 2, 4) if k <= scale or k == 1)
    of_level = reference(LEVELS[(1, 2, 4).index(k)], (left / k, top / k), (scale / k, scale / k), size, fill)
    np.testing.assert_allclose(out, of_level, atol=0.51)
    of_level0 = reference(LEVEL0, (left, top), (scale, scale), size, fill)
    # A level's pixel is one mean: what a window cuts off it differs by up to slope × k / 8 at either end.
    np.testing.assert_allclose(
        out[..., :2], of_level0[..., :2], atol=1.01 if scale % k == 0 == left % k == top % k else k + 1
    )
    assert np.abs(out[..., :2] - of_level0[..., :2]).mean() < 1


def test_tiff_is_read_by_openslide_with_its_levels(slide):
    assert slide.size == (WIDTH, HEIGHT)
    assert slide.mpp == pytest.approx(MPP)
    assert slide.level_downsamples == (1, 2, 4)


@pytest.mark.parametrize("mpp", SIZES)
def test_read_at_any_mpp_and_place(slide, mpp):
    for x, y in CENTRES:
        check(slide, Window(x, y, 40, 30, mpp))
    check(slide, Window(500, 380, 33, 27, mpp), fill=0)


@settings(max_examples=40, deadline=None)
@given(st.floats(-50, 1050), st.floats(-50, 800), st.integers(1, 50), st.integers(1, 50), st.floats(0.1, 9))
def test_read_anything(x, y, width, height, mpp):
    if any(1 < k * MPP / mpp <= 1.001 for k in (2, 4)):
        return  # a level that is hardly too coarse is taken: the reference would take the finer one
    check(open_slide(LEVELS, mpp=MPP), Window(x, y, width, height, mpp))


@pytest.mark.parametrize("mpp", [0.125, 0.25, 0.37, 0.5, 1.3, 4.0])
def test_small_windows_are_parts_of_the_large_one(slide, mpp):
    scale = mpp / MPP
    whole = slide.read(Window(480, 360, 96, 64, mpp))
    left, top, _, _ = Window(480, 360, 96, 64, mpp).bounds(MPP)
    for row in range(0, 64, 16):
        for column in range(0, 96, 32):
            window = Window(left + (column + 16) * scale, top + (row + 8) * scale, 32, 16, mpp)
            part = whole[row : row + 16, column : column + 32].astype(int)
            assert np.abs(slide.read(window) - part).max() <= (0 if scale in (1, 2, 16) else 1)


@pytest.mark.parametrize("mpp", [0.2, 0.25, 0.9, 2.0, 7.7])
def test_whole_is_one_window_whatever_the_bands(slide, mpp, monkeypatch):
    scale = mpp / MPP
    at_once = slide.whole(mpp)
    assert at_once.shape == (int(np.ceil(HEIGHT / scale)), int(np.ceil(WIDTH / scale)), 3)
    monkeypatch.setattr("tfseg.slides.base.CHUNK_PX", 3000)
    read = []
    original = type(slide)._read_level

    def watched(self, level, x, y, width, height):
        read.append(width * height)
        return original(self, level, x, y, width, height)

    monkeypatch.setattr(type(slide), "_read_level", watched)
    assert np.abs(slide.whole(mpp).astype(int) - at_once).max() <= 1
    assert max(read) <= 3000 * 1.2


@pytest.mark.parametrize("size_px", [(64, 64), (100, 333), (760, 1000), (1024, 1024)])
def test_fit_averages_each_axis_by_its_own_ratio(size_px):
    slide = open_slide([LEVEL0], mpp=MPP)
    height, width = size_px
    expected = reference(LEVEL0, (0, 0), (WIDTH / width, HEIGHT / height), (width, height))
    out = slide.fit(size_px)
    assert out.shape == (height, width, 3)
    np.testing.assert_allclose(out, expected, atol=0.51)


def test_fit_takes_a_level_that_is_fine_enough_on_both_axes(slide):
    expected = reference(LEVELS[1], (0, 0), (500 / 300, 380 / 40), (300, 40))
    np.testing.assert_allclose(slide.fit((40, 300)), expected, atol=0.51)


@pytest.mark.parametrize("round_up", [False, True])
def test_odd_sizes_do_not_stretch_the_pyramid(round_up):
    image = position_image(1003, 757)
    slide = ArraySlide(pyramid(image, (1, 2, 4, 16), round_up), MPP)
    assert slide.level_downsamples == (1, 2, 4, 16)
    for mpp in (0.5, 1.0, 1.3, 4.0):
        scale = mpp / MPP
        for x, y in ((960, 720), (1003, 757), (900, 300)):
            window = Window(x, y, 24, 24, mpp)
            left, top, _, _ = window.bounds(MPP)
            expected = reference(image, (left, top), (scale, scale), (24, 24))[..., :2]
            inside = slide.read(window)[..., :2]
            assert np.abs(inside - expected).mean() < (4 if mpp == 4.0 else 1)
            beyond = reference(np.zeros_like(image), (left, top), (scale, scale), (24, 24), 1)[..., 0]
            np.testing.assert_array_equal(inside[beyond > 0.9999], 255)


def test_odd_pyramid_in_openslide_is_right_to_half_a_level0_pixel(tmp_path):
    # OpenSlide takes 2.0013 and 2.0026 as downsample of these levels and interpolates between their pixels.
    image = position_image(1601, 1003)
    image[..., 2] = image[..., 0]
    slide = open_slide(write_tiff(tmp_path / "odd.tif", pyramid(image, (1, 2))))
    assert slide.level_downsamples == (1, 2)
    for x, y in ((1400, 900), (1500, 612), (801, 503)):
        for mpp in (0.5, 0.57):
            window = Window(x, y, 32, 32, mpp)
            left, top, _, _ = window.bounds(MPP)
            expected = reference(image, (left, top), (mpp / MPP, mpp / MPP), (32, 32))
            error = slide.read(window) - expected
            assert np.abs(error).max() <= 4 and np.abs(error).mean() < 2


def test_levels_that_are_no_whole_downsample_are_measured():
    slide = ArraySlide([LEVEL0, np.zeros((304, 400, 3), np.uint8)], MPP)
    assert slide.level_downsamples == (1, 2.5)


def test_a_level_hardly_too_coarse_is_used(slide):
    window = Window(500, 380, 64, 64, 0.9995)
    expected = reference(LEVEL0, *_box(window))[..., :2]
    assert np.abs(slide.read(window)[..., :2] - expected).max() < 5


def _box(window: Window) -> tuple[tuple[float, float], tuple[float, float], tuple[int, int]]:
    left, top, _, _ = window.bounds(MPP)
    return (left, top), (window.mpp / MPP, window.mpp / MPP), (window.width_px, window.height_px)


@pytest.mark.parametrize(
    "window",
    [Window(0, 0, 0, 5, 1.0), Window(0, 0, 5, 5, 0.0), Window(0, 0, 5, 5, -1), Window(float("nan"), 0, 5, 5, 1)],
)
def test_senseless_windows_are_refused(slide, window):
    with pytest.raises(SlideError, match="above 0"):
        slide.read(window)


def test_threads_read_the_same_pixels(slide):
    windows = [Window(37 * i % 1000, 53 * i % 760, 50, 50, SIZES[i % len(SIZES)]) for i in range(60)]
    alone = [slide.read(window) for window in windows]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(slide.read, windows))
    for a, b in zip(alone, together, strict=True):
        np.testing.assert_array_equal(a, b)


def test_pickled_slide_reads_the_same(slide):
    other = pickle.loads(pickle.dumps(slide))
    window = Window(400, 300, 60, 60, 0.37)
    np.testing.assert_array_equal(other.read(window), slide.read(window))
    assert (other.mpp, other.mpp_source, other.size) == (slide.mpp, slide.mpp_source, slide.size)


def _mean_in_child(slide: Slide, results) -> None:
    results.put(float(slide.read(Window(500, 380, 100, 100, 0.5)).mean()))


def test_forked_process_opens_its_own_handle(slide):
    expected = float(slide.read(Window(500, 380, 100, 100, 0.5)).mean())
    context = multiprocessing.get_context("fork")
    results = context.SimpleQueue()
    child = context.Process(target=_mean_in_child, args=(slide, results))
    child.start()
    child.join(30)
    assert child.exitcode == 0
    assert results.get() == expected
    assert float(slide.read(Window(500, 380, 100, 100, 0.5)).mean()) == expected


def test_closed_slide_opens_again(slide):
    window = Window(500, 380, 10, 10, 0.5)
    with slide as same:
        before = same.read(window)
    np.testing.assert_array_equal(slide.read(window), before)
