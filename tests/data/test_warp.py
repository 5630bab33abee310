"""One map for all fields and the labels: identity to the bit, exact turns, impulses that stay together, no fill."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import shapely

from tfseg.data.elastic import ElasticGrid
from tfseg.data.geometric import Geometry
from tfseg.data.warp import Warp, affine, read_field, read_labels
from tfseg.slides.annotations import LabelledPolygon, PolygonAnnotation
from tfseg.slides.base import Slide, open_slide
from tfseg.types import Window

SIZE, MPP, CENTRE = 1024, 0.5, (520.0, 500.0)
FIELDS = ((128, 0.5), (128, 1.0), (128, 2.0))
STRONG = Geometry(
    p=0.8,
    flips=True,
    turns=True,
    rotate_deg=180.0,
    scale=0.2,
    crop=0.1,
    shift=0.1,
    shear_deg=10.0,
    elastic=ElasticGrid(points=9, sigma_px=4.0, window_px=512),
    grid_distortion=0.3,
    optical_distortion=0.2,
)


def pyramid(image: np.ndarray) -> Slide:
    smaller = [cv2.resize(image, None, fx=f, fy=f, interpolation=cv2.INTER_AREA) for f in (0.5, 0.25)]
    return open_slide([image, *smaller], mpp=MPP)


def textured(seed: int = 0) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 256, (64, 64, 3), np.uint8)
    return cv2.resize(coarse, (SIZE, SIZE), interpolation=cv2.INTER_CUBIC)


@pytest.fixture(scope="module")
def slide() -> Slide:
    return pyramid(textured())


def window(size: int, mpp: float, centre: tuple[float, float] = CENTRE) -> Window:
    return Window(*centre, size, size, mpp)


@pytest.mark.parametrize(("size", "mpp"), [*FIELDS, (129, 0.7)])
@pytest.mark.parametrize("warp", [None, Warp(), Warp((affine(np.eye(2)),)), Geometry(p=0.0).draw(None, 1.0, 1.0)])
def test_identity_is_the_window_to_the_bit(slide, size, mpp, warp):
    expected = slide.read(window(size, mpp), fill=0)
    np.testing.assert_array_equal(read_field(slide, window(size, mpp), warp), expected)


def test_beyond_the_edge(slide):
    corner = window(64, 0.5, (0.0, 0.0))
    assert (read_field(slide, corner)[:32] == 0).all() and (read_field(slide, corner, border="white")[:32] == 255).all()
    annotation = PolygonAnnotation([], slide.size, rest=1)
    labels = read_labels(annotation, MPP, corner, Warp((affine(np.eye(2)),)))
    assert (labels[:32] == 255).all() and (labels[:, :32] == 255).all() and (labels[32:, 32:] == 1).all()


@pytest.mark.parametrize("quarters", range(4))
@pytest.mark.parametrize("flip", [False, True])
def test_turns_and_flips_move_whole_pixels(slide, quarters, flip):
    plain = read_field(slide, window(128, 1.0))
    expected = np.rot90(plain, quarters)[:, ::-1] if flip else np.rot90(plain, quarters)
    np.testing.assert_array_equal(read_field(slide, window(128, 1.0), Warp((), quarters, flip)), expected)


def test_a_quarter_turn_as_a_rotation_is_the_quarter_turn(slide):
    turned = read_field(slide, window(128, 0.5), Warp((affine(np.array([[0.0, -1.0], [1.0, 0.0]])),)))
    np.testing.assert_array_equal(turned, read_field(slide, window(128, 0.5), Warp((), 1)))


def test_shift_and_magnification_by_hand(slide):
    """A shift of 8 µm shows what lies 16 px of 0.5 µm to the right; a factor of ½ shows half the width."""
    shifted = read_field(slide, window(64, 0.5), Warp((affine(np.eye(2), (8.0, -4.0)),)))
    np.testing.assert_array_equal(shifted, slide.read(window(64, 0.5, (CENTRE[0] + 16, CENTRE[1] - 8)), fill=0))
    larger = read_field(slide, window(64, 0.5), Warp((affine(np.eye(2) / 2),)))
    smooth = cv2.resize(slide.read(window(32, 0.5)), (64, 64), interpolation=cv2.INTER_CUBIC)
    assert np.abs(larger[4:-4, 4:-4].astype(int) - smooth[4:-4, 4:-4]).max() <= 2


def centroid_um(image: np.ndarray, mpp: float) -> np.ndarray:
    """(x, y) of the brightness about the centre, in µm."""
    weight = image.astype(float)
    y, x = np.mgrid[: image.shape[0], : image.shape[1]] + 0.5
    middle = np.array([image.shape[1], image.shape[0]]) / 2
    return (np.array([(x * weight).sum(), (y * weight).sum()]) / weight.sum() - middle) * mpp


@pytest.mark.parametrize("seed", range(25))
def test_an_impulse_lands_on_the_same_place_of_all_fields_and_the_labels(seed):
    """A bright disk 5 µm from the centre, annotated."""
    image = np.zeros((SIZE, SIZE, 3), np.uint8)
    place = CENTRE[0] + 8, CENTRE[1] - 5
    disk = shapely.Point(*place).buffer(7)
    x, y = np.meshgrid(np.arange(SIZE) + 0.5, np.arange(SIZE) + 0.5)
    image[(x - place[0]) ** 2 + (y - place[1]) ** 2 < 49] = 255
    slide, annotation = pyramid(image), PolygonAnnotation([LabelledPolygon(disk, 3)], (SIZE, SIZE))
    warp = STRONG.draw(np.random.default_rng(seed), 256.0, 64.0)
    target = centroid_um(read_labels(annotation, MPP, window(128, 0.5), warp) == 3, 0.5)
    assert np.abs(target).max() < 28, "the disk must not leave the target"
    for size, mpp in FIELDS:
        field = read_field(slide, window(size, mpp), warp)[..., 0]
        np.testing.assert_allclose(centroid_um(field, mpp), target, atol=0.35)


def test_corners_hold_tissue():
    """Where the slide is large enough no map brings in fill: everything stays 90."""
    slide = open_slide([np.full((SIZE, SIZE, 3), 90, np.uint8)], mpp=MPP)
    for seed in range(10):
        warp = STRONG.draw(np.random.default_rng(seed), 64.0, 64.0)
        assert (read_field(slide, window(128, 0.5), warp) == 90).all()
    eighth = Warp((affine(np.array([[1, -1], [1, 1]]) / np.sqrt(2)),))
    corner = (64.0, 500.0)  # its own window ends at the slide's edge, and the turned one lies across it
    assert (read_field(slide, window(128, 0.5, corner)) == 90).all()
    turned = read_field(slide, window(128, 0.5, corner), eighth)
    assert (turned == 0).any() and (turned[32:96, 32:96] == 90).all()


def test_elastic_copies_equal_the_papers_order(slide):
    """Moving the whole window at 20x and averaging it down gives what moving each field by itself does, up to
    interpolation."""
    warp = Warp((ElasticGrid(points=9, sigma_px=4.0, window_px=512).draw(np.random.default_rng(4)),))
    whole = read_field(slide, window(512, 0.5), warp)
    plain = slide.read(window(512, 0.5))
    assert np.abs(whole.astype(int) - plain).mean() > 10
    for size, mpp in ((128, 0.5), (128, 1.0), (128, 2.0)):
        reach = int(size * mpp / 0.5)
        part = whole[256 - reach // 2 : 256 + reach // 2, 256 - reach // 2 : 256 + reach // 2]
        expected = cv2.resize(part, (size, size), interpolation=cv2.INTER_AREA)
        difference = np.abs(read_field(slide, window(size, mpp), warp).astype(int) - expected)
        assert difference.mean() < 1.5 and difference.max() <= 16


def test_labels_are_never_mixed():
    boxes = [LabelledPolygon(shapely.box(480, 460, 520, 540), 1), LabelledPolygon(shapely.box(520, 460, 560, 540), 6)]
    annotation = PolygonAnnotation(boxes, (SIZE, SIZE))
    for seed in range(8):
        labels = read_labels(annotation, MPP, window(128, 0.5), STRONG.draw(np.random.default_rng(seed), 64.0, 64.0))
        assert set(np.unique(labels)) == {1, 6, 255}
