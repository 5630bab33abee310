"""Seeds, probabilities, ranges, presets; what is common to the fields of a window and what is not."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import shapely
from skimage import data

from tfseg.data.colour import Colour
from tfseg.data.dense_augment import CD_UNET_AUGMENT, DMMN_AUGMENT, LEVELS, DenseAugment, multi_level_augment
from tfseg.data.geometric import Geometry
from tfseg.data.windows import WindowPlan, read_window
from tfseg.slides.annotations import LabelledPolygon, PolygonAnnotation
from tfseg.slides.base import Slide, open_slide
from tfseg.types import InputSpec, ModelError, Window

FIELDS = tuple(InputSpec(f"image_{m}", (64, 64), mpp=m) for m in (0.5, 1.0, 2.0))
PRESETS = {"dmmn": DMMN_AUGMENT, "cd_unet": CD_UNET_AUGMENT, **{f"level {k}": multi_level_augment(k) for k in range(6)}}
MPPS = (0.5, 1.0, 2.0)


@pytest.fixture(scope="module")
def slide() -> Slide:
    image = np.ascontiguousarray(data.immunohistochemistry())
    smaller = [cv2.resize(image, None, fx=f, fy=f, interpolation=cv2.INTER_AREA) for f in (0.5, 0.25)]
    return open_slide([image, *smaller], mpp=0.5)


@pytest.fixture(scope="module")
def annotation(slide) -> PolygonAnnotation:
    return PolygonAnnotation([LabelledPolygon(shapely.box(256, 256, 400, 400), 1)], slide.size)


def windows(slide, annotation, augment, seeds) -> list[tuple[list[np.ndarray], np.ndarray]]:
    plan = WindowPlan(FIELDS, (64, 64), 0.5, augment)
    return [read_window(slide, annotation, (256.0, 256.0), plan, seed) for seed in seeds]


def same(one, other) -> bool:
    return all(np.array_equal(a, b) for a, b in zip((*one[0], one[1]), (*other[0], other[1]), strict=True))


@pytest.mark.parametrize("name", PRESETS)
def test_a_seed_is_a_window(slide, annotation, name):
    first = windows(slide, annotation, PRESETS[name], range(6))
    again = windows(slide, annotation, PRESETS[name], reversed(range(6)))[::-1]
    assert all(same(a, b) for a, b in zip(first, again, strict=True))
    assert len({images[2].tobytes() for images, _ in first}) >= 4
    for images, labels in first:
        assert [image.shape for image in images] == [(64, 64, 3)] * 3 and labels.shape == (64, 64)
        assert all(array.dtype == np.uint8 for array in (*images, labels)) and set(np.unique(labels)) <= {1, 255}


def test_no_augmentation_is_the_window_to_the_bit(slide, annotation):
    plain = windows(slide, annotation, None, [0])[0]
    assert same(windows(slide, annotation, DenseAugment(Geometry(), Colour()), [5])[0], plain)
    everything = multi_level_augment(5)
    never = DenseAugment(
        Geometry(**{**vars(everything.geometry), "p": 0.0}), Colour(**{**vars(everything.colour), "p": 0.0})
    )
    assert same(windows(slide, annotation, never, [5])[0], plain)
    for k, field in enumerate(FIELDS):
        assert np.array_equal(plain[0][k], slide.read(Window(256.0, 256.0, 64, 64, float(field.mpp or 0)), fill=0))


def test_flips_and_turns_give_the_eight_forms_equally_often():
    """Two flips of p = ½: each upright form ¼ of the windows that are not turned, which are ½."""
    geometry = Geometry(flips=True, turns=True)
    picture = np.arange(9).reshape(3, 3)
    forms = {tuple(np.rot90(m, k).ravel()): 0 for m in (picture, picture.T) for k in range(4)}
    for seed in range(2000):
        forms[tuple(geometry.draw(np.random.default_rng(seed), 1.0, 1.0).orient(picture).ravel())] += 1
    upright = [picture, picture[::-1], picture[:, ::-1], picture[::-1, ::-1]]
    # Half of the windows stay unturned, a sixth are turned by 180°, which is upright too; the rest by ± 90°.
    shares = {form: count / 2000 for form, count in forms.items()}
    assert all(abs(shares[tuple(m.ravel())] - 1 / 6) < 0.03 for m in upright)
    assert all(abs(share - 1 / 12) < 0.03 for form, share in shares.items() if form not in map(_flat, upright))


def _flat(picture: np.ndarray) -> tuple[int, ...]:
    return tuple(picture.ravel())


def corners(geometry: Geometry, seed: int) -> np.ndarray:
    """Where the corners of a field of 100 µm come from, (4, 2)."""
    x, y = np.float32([[-50, 50, -50, 50]]), np.float32([[-50, -50, 50, 50]])
    return np.stack(geometry.draw(np.random.default_rng(seed), 400.0, 100.0)(x, y), axis=-1)[0]


@pytest.mark.parametrize(
    ("geometry", "measure", "low", "high"),
    [
        (Geometry(p=1, rotate_deg=30), lambda c: np.degrees(np.arctan2(*(c[1] - c[0])[::-1])), -30, 30),
        (Geometry(p=1, scale=0.25), lambda c: 100 / np.linalg.norm(c[1] - c[0]), 0.75, 1.25),
        (Geometry(p=1, crop=0.2), lambda c: np.linalg.norm(c[1] - c[0]), 80, 100),
        (Geometry(p=1, shift=0.1), lambda c: c.mean(axis=0)[0], -10, 10),
        (Geometry(p=1, shear_deg=10), lambda c: np.degrees(np.arctan((c[2] - c[0])[0] / 100)), -10, 10),
        (Geometry(p=1, optical_distortion=0.2), lambda c: c[3][0] / 50, 1 - 0.025, 1 + 0.025),  # r / R = 1 / √8
    ],
)
def test_geometry_fills_its_range_and_no_more(geometry, measure, low, high):
    values = [measure(corners(geometry, seed)) for seed in range(200)]
    width = high - low
    assert low - 1e-3 <= min(values) < low + 0.1 * width and high - 0.1 * width < max(values) <= high + 1e-3


def test_a_crop_stays_inside_the_target():
    reach = [np.abs(corners(Geometry(p=1, crop=0.4), seed)).max() for seed in range(100)]
    assert max(reach) <= 50 + 1e-3 and min(reach) < 45


def test_grid_distortion_keeps_the_windows_edges():
    step = Geometry(p=1, grid_distortion=0.3).draw(np.random.default_rng(0), 400.0, 100.0)
    edges = np.float32([[-200, 200, 300, 0]])
    x, y = step(edges, edges)
    np.testing.assert_allclose(x[0, :3], edges[0, :3], atol=1e-3)
    assert abs(x[0, 3]) > 1 and x[0, 3] != y[0, 3]
    places = np.linspace(-200, 200, 101, dtype=np.float32)[None]
    assert (np.diff(step(places, places)[0]) > 0).all(), "nothing folds"


def test_colours_are_common_to_the_fields_and_noise_is_not():
    flat = [np.full((32, 32, 3), (150, 100, 60), np.uint8)] * 3
    colour = Colour(
        p=1, targeted_hsv=True, brightness=0.2, contrast=0.2, gamma=0.3, hue_deg=20, saturation=0.2, clahe=1
    )
    for seed in range(10):
        images = DenseAugment(Geometry(), colour).draw(seed, 1.0, 1.0).recolour(flat, MPPS)
        assert np.array_equal(images[0], images[1]) and np.array_equal(images[1], images[2])
        assert not np.array_equal(images[0], flat[0])
    noisy = DenseAugment(Geometry(), Colour(p=1, gaussian_noise=10)).draw(3, 1.0, 1.0).recolour(flat, MPPS)
    assert not np.array_equal(noisy[0], noisy[1])


def test_blur_is_meant_on_the_slide():
    """An edge blurred in the field of 0.5 µm is blurred a quarter as far, in pixels, in the field of 2 µm."""
    edge = np.zeros((64, 64, 3), np.uint8)
    edge[:, 32:] = 200
    augment = DenseAugment(Geometry(), Colour(p=1, blur_px=8.0))
    seed = next(s for s in range(50) if _spread(augment.draw(s, 1.0, 1.0).recolour([edge], [0.5])[0]) > 5)
    fine, _, coarse = augment.draw(seed, 1.0, 1.0).recolour([edge] * 3, MPPS)
    assert _spread(fine) == pytest.approx(4 * _spread(coarse), rel=0.15)


def _spread(edge: np.ndarray) -> float:
    """σ of the step's derivative, in pixels."""
    slope = np.diff(edge[32, :, 0].astype(float)).clip(0)
    places = np.arange(len(slope))
    middle = (places * slope).sum() / slope.sum()
    return float(np.sqrt(((places - middle) ** 2 * slope).sum() / slope.sum()))


def test_occlusion_covers_the_same_tissue_in_every_field():
    white = [np.full((256, 256, 3), 255, np.uint8)] * 3
    augment = DenseAugment(Geometry(), Colour(p=1, occlusion=0.5))
    seen = 0
    for seed in range(20):
        images = augment.draw(seed, 1.0, 1.0).recolour(white, MPPS)
        areas = [(image < 255).any(axis=2).sum() * mpp**2 for image, mpp in zip(images[1:], MPPS[1:], strict=True)]
        if areas[0] > 200:
            seen += 1
            assert areas[1] == pytest.approx(areas[0], rel=0.2)
    assert seen > 5


def test_levels_grow():
    """Each level has all kinds of the one before, no weaker."""
    for level in range(1, LEVELS):
        for part in ("geometry", "colour"):
            weaker, stronger = (vars(getattr(multi_level_augment(k), part)) for k in (level - 1, level))
            for name, value in weaker.items():
                if name not in ("p", "elastic"):
                    assert stronger[name] >= value, name
    base = vars(multi_level_augment(0).colour)
    assert not any(value for name, value in base.items() if name != "p") and multi_level_augment(5).colour.heavy
    assert [multi_level_augment(k).geometry.elastic is not None for k in range(6)] == [False] * 3 + [True] * 3
    with pytest.raises(ValueError, match=r"0 \(base model\) to 5. Received: 6"):
        multi_level_augment(6)


def test_turns_want_squares():
    oblong = (InputSpec("image", (64, 32), mpp=0.5),)
    with pytest.raises(ModelError, match="square"):
        WindowPlan(oblong, (64, 32), 0.5, DMMN_AUGMENT)
    WindowPlan(oblong, (64, 32), 0.5, CD_UNET_AUGMENT)


def test_the_widest_field_bends_to_its_edges():
    elastic = multi_level_augment(5).geometry.elastic
    x = np.float32([[300, 400, 500]])
    moved, _ = elastic.draw(np.random.default_rng(0))(x, np.zeros_like(x))
    assert len(set((moved - x).round(3).ravel().tolist())) == 3  # of 512 px at 2 µm/px, 1024 µm
