"""Macenko against an independent NumPy version of the published method, and tiles on which it cannot work."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from tfseg.data.stain import concentrations, optical_density, stain_matrix, vary_stains

HAEMATOXYLIN = np.array([0.65, 0.70, 0.29]) / np.linalg.norm([0.65, 0.70, 0.29])
EOSIN = np.array([0.07, 0.99, 0.11]) / np.linalg.norm([0.07, 0.99, 0.11])


def two_stain_image(size: int = 64, seed: int = 0) -> np.ndarray:
    """Tissue of known stains with a white margin."""
    rng = np.random.default_rng(seed)
    amounts = rng.gamma((2.0, 3.0), (0.4, 0.25), (size, size, 2)) + 0.25
    amounts[:, : size // 4] = 0
    density = amounts @ np.stack([HAEMATOXYLIN, EOSIN])
    image = 240 * np.exp(-density) - 1 + rng.normal(0, 1, (size, size, 3))
    return image.clip(0, 255).round().astype(np.uint8)


def reference_matrix(image: np.ndarray) -> np.ndarray:
    """Macenko 2009, step by step: SVD of the densities' covariance, robust extreme angles."""
    density = -np.log((image.reshape(-1, 3).astype(float) + 1) / 240)
    tissue = density[(density >= 0.15).all(axis=1)]
    _, _, directions = np.linalg.svd(np.cov(tissue, rowvar=False))
    first = directions[0] * np.sign(directions[0].sum())
    second = directions[1]
    angle = np.arctan2(tissue @ second, tissue @ first)
    vectors = [np.cos(a) * first + np.sin(a) * second for a in np.percentile(angle, [1, 99])]
    return np.stack(sorted(vectors, key=lambda v: -v[0]), axis=1)


@pytest.mark.parametrize("seed", range(4))
def test_matrix_equals_reference(seed):
    image = two_stain_image(seed=seed)
    np.testing.assert_allclose(stain_matrix(tf.constant(image)).numpy(), reference_matrix(image), atol=2e-4)


def test_matrix_finds_the_stains_that_made_the_image():
    matrix = stain_matrix(tf.constant(two_stain_image(256))).numpy()
    assert matrix[:, 0] @ HAEMATOXYLIN > 0.98 and matrix[:, 1] @ EOSIN > 0.98
    np.testing.assert_allclose(np.linalg.norm(matrix, axis=0), 1, atol=1e-5)


def test_concentrations_are_least_squares():
    image = two_stain_image()
    matrix = reference_matrix(image)
    density = -np.log((image.astype(float) + 1) / 240)
    expected = np.linalg.lstsq(matrix, density.reshape(-1, 3).T, rcond=None)[0].T.reshape(64, 64, 2)
    got = concentrations(optical_density(tf.constant(image)), tf.constant(matrix, tf.float32))
    np.testing.assert_allclose(got.numpy(), expected, atol=1e-4)


def test_variation_equals_published_formula_on_tissue():
    image = two_stain_image()
    scale, shift = np.array([1.1, 0.9]), np.array([0.05, -0.08])
    matrix = reference_matrix(image)
    density = -np.log((image.astype(float) + 1) / 240)
    amounts = density @ np.linalg.pinv(matrix).T
    residual = density - amounts @ matrix.T
    expected = 240 * np.exp(-((amounts * scale + shift) @ matrix.T + residual)) - 1
    tissue = (density >= 0.15).all(axis=-1)
    got = vary_stains(tf.constant(image), tf.constant(scale, tf.float32), tf.constant(shift, tf.float32)).numpy()
    np.testing.assert_allclose(got[tissue], expected.clip(0, 255)[tissue], atol=0.1)
    np.testing.assert_array_equal(got[~tissue], image[~tissue])
    assert np.abs(got[tissue] - image[tissue]).mean() > 2


def test_scale_one_and_shift_zero_change_nothing():
    image = two_stain_image()
    got = vary_stains(tf.constant(image), tf.ones(2), tf.zeros(2)).numpy()
    np.testing.assert_allclose(got, image, atol=1e-3)


def plain(color: tuple[int, int, int], noise: int = 0) -> np.ndarray:
    image = np.full((40, 40, 3), color, np.int64)
    return (image + np.random.default_rng(0).integers(-noise, noise + 1, image.shape)).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize(
    "image",
    [
        plain((255, 255, 255)),
        plain((0, 0, 0)),
        plain((180, 90, 160)),
        plain((90, 90, 90)),
        plain((240, 238, 241), 3),
        two_stain_image()[:5, :8],
        np.repeat(np.arange(160, dtype=np.uint8)[:, None, None], 3, axis=2) + np.zeros((1, 9, 1), np.uint8),
    ],
    ids=["white", "black", "pink", "grey", "glass", "few pixels", "grey ramp"],
)
def test_tiles_without_two_stains_stay_as_they_are(image):
    got = vary_stains(tf.constant(image), tf.constant([1.1, 0.9]), tf.constant([0.1, -0.1])).numpy()
    np.testing.assert_array_equal(got, image)


def test_noise_in_one_colour_stays_finite_and_near():
    image = plain((180, 90, 160), 4)
    got = vary_stains(tf.constant(image), tf.constant([1.1, 0.9]), tf.constant([0.1, -0.1])).numpy()
    assert np.isfinite(got).all() and np.abs(got - image).max() < 90


@pytest.mark.realdata
def test_real_tile_keeps_its_stains_apart(shared_data):
    import cv2

    path = sorted((shared_data / "nuclei" / "monuseg24").rglob("*.png"))
    tile = next(p for p in path if cv2.imread(str(p), cv2.IMREAD_UNCHANGED).ndim == 3)
    image = cv2.imread(str(tile))[:512, :512, ::-1].copy()
    np.testing.assert_allclose(stain_matrix(tf.constant(image)).numpy(), reference_matrix(image), atol=1e-3)
