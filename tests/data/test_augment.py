"""Same seed, same picture; picture, heatmap and label move together; colours against OpenCV."""

from __future__ import annotations

import albumentations
import cv2
import numpy as np
import pytest
import tensorflow as tf

from tfseg.data.augment import PatchAugment, SlideAugment, shift_hsv, turn, zoom

SEEDS = range(60)


def coordinates(size: int = 24) -> np.ndarray:
    """An asymmetric picture; red holds the row, green the column, blue both."""
    row, column = np.mgrid[:size, :size]
    return np.stack([row * 5, column * 5, row * 3 + column], axis=-1).astype(np.uint8)


def textured(size: int = 32) -> np.ndarray:
    return cv2.resize(np.random.default_rng(1).integers(0, 256, (6, 6, 3), np.uint8), (size, size))


@pytest.mark.parametrize("quarters", range(4))
@pytest.mark.parametrize("flips", [(False, False), (True, False), (False, True), (True, True)])
def test_turn_equals_numpy(quarters, flips):
    image = coordinates()
    expected = np.rot90(image, quarters)
    expected = expected[:, ::-1] if flips[0] else expected
    expected = expected[::-1] if flips[1] else expected
    got = turn(tf.constant(image), tf.constant(flips[0]), tf.constant(flips[1]), tf.constant(quarters))
    np.testing.assert_array_equal(got.numpy(), expected)


def test_turns_of_oblong_images_keep_their_shape():
    image = coordinates()[:, :16]
    got = turn(tf.constant(image), tf.constant(False), tf.constant(False), tf.constant(1)).numpy()
    np.testing.assert_array_equal(got, image[::-1, ::-1])


@pytest.mark.parametrize(("hue", "saturation"), [(0, 0), (12, -7), (-20, 20), (20, 20), (-3, -20), (90, 0)])
def test_shift_hsv_equals_opencv(hue, saturation):
    image = textured(96).astype(np.float32)
    image[:8], image[8:16], image[16:24] = 255, 0, image[16:24, :, :1]  # white, black, grey
    hsv = cv2.cvtColor(image / 255, cv2.COLOR_RGB2HSV)
    hsv[..., 0] = (hsv[..., 0] + 2 * hue) % 360
    hsv[..., 1] = (hsv[..., 1] + saturation / 255).clip(0, 1)
    expected = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB) * 255
    got = shift_hsv(tf.constant(image), tf.constant(float(hue)), tf.constant(float(saturation))).numpy()
    np.testing.assert_allclose(got, expected, atol=0.02)


def test_shift_hsv_agrees_with_albumentations_units():
    image = textured(96)
    shift = albumentations.HueSaturationValue((15, 15), (-18, -18), (0, 0), p=1.0)
    expected = shift(image=image)["image"].astype(int)
    got = shift_hsv(tf.constant(image, tf.float32), tf.constant(15.0), tf.constant(-18.0)).numpy()
    # It works in 8-bit hue (2° steps), so a few grey levels apart.
    assert np.abs(got - expected).mean() < 1.5 and np.abs(got - expected).max() < 12


def test_patch_augment_repeats_and_varies():
    augment = tf.function(PatchAugment())
    image = tf.constant(textured())
    first = [augment(image, tf.constant(seed, tf.int64)).numpy() for seed in SEEDS]
    again = [PatchAugment()(image, tf.constant(seed, tf.int64)).numpy() for seed in SEEDS]
    assert all((a == b).all() for a, b in zip(first, again, strict=True))
    assert len({picture.tobytes() for picture in first}) > 50
    assert first[0].dtype == np.uint8


def test_patch_augment_applies_each_kind_half_of_the_time():
    image = tf.constant(coordinates())
    geometry = tf.function(PatchAugment(hsv_shift=0.0, brightness=0.0))
    group = {np.rot90(m, k).tobytes(): 0 for m in (image.numpy(), image.numpy()[:, ::-1]) for k in range(4)}
    seeds = range(600)
    for seed in seeds:
        group[geometry(image, tf.constant(seed, tf.int64)).numpy().tobytes()] += 1
    assert sum(group.values()) == len(seeds)  # nothing but turns and flips
    # Two flips of p = ½ make the four upright forms equally likely; turns move ½ · ⅔ of all to the four others.
    upright = [group[m.tobytes()] for m in (image.numpy(), image.numpy()[:, ::-1], image.numpy()[::-1])]
    assert all(abs(count / len(seeds) - 1 / 6) < 0.06 for count in upright)
    never = PatchAugment(p=0.0)
    assert all((never(image, tf.constant(seed, tf.int64)) == image).numpy().all() for seed in range(5))


def test_brightness_stays_in_its_range():
    image = tf.fill((4, 4, 3), tf.constant(100, tf.uint8))
    augment = tf.function(PatchAugment(p=1.0, hsv_shift=0.0))
    values = [int(augment(image, tf.constant(seed, tf.int64))[0, 0, 0]) for seed in range(300)]
    assert min(values) >= 80 and max(values) <= 120 and min(values) < 85 and max(values) > 115


@pytest.mark.parametrize("factor", [0.8, 1.0, 1.2])
def test_zoom_equals_opencv(factor):
    image = textured(33).astype(np.float32)
    middle = 16.0
    matrix = np.array([[factor, 0, middle * (1 - factor)], [0, factor, middle * (1 - factor)]])
    expected = cv2.warpAffine(image, matrix, (33, 33), borderValue=(255, 255, 255))
    got = zoom(tf.constant(image), tf.constant(factor, tf.float32), "BILINEAR", 255.0).numpy()
    assert np.abs(got - expected).mean() < 1.0  # OpenCV rounds positions to 1/32 px


def test_slide_augment_moves_all_three_together():
    image = coordinates(48)
    heatmap = (image[..., :1] / 255.0).astype(np.float32)
    label = image[..., 1].copy()
    augment = tf.function(SlideAugment(zoom=0.0, stain_scale=0.0, stain_shift=0.0))
    for seed in SEEDS:
        moved, warm, truth = augment(image, heatmap, label, tf.constant(seed, tf.int64))
        np.testing.assert_allclose(moved[..., 0], warm[..., 0].numpy() * 255, atol=0.01)
        np.testing.assert_allclose(moved[..., 1], truth, atol=0.01)
        assert truth.dtype == tf.uint8 and moved.dtype == tf.float32


def test_zooming_out_fills_with_glass_and_keeps_labels_whole():
    size = 60
    image, heatmap = np.full((size, size, 3), 90, np.uint8), np.ones((size, size, 1), np.float32)
    label = np.ones((size, size), np.uint8)
    augment = tf.function(SlideAugment(p=1.0))
    shrunk = enlarged = 0
    for seed in SEEDS:
        moved, warm, truth = (t.numpy() for t in augment(image, heatmap, label, tf.constant(seed, tf.int64)))
        assert set(np.unique(truth)) <= {1, 255}
        outside = truth == 255
        shrunk, enlarged = shrunk + outside.any(), enlarged + (not outside.any())
        assert outside.mean() < 1 - 0.8**2 + 0.05
        inner = warm[..., 0] == 1
        assert (moved[inner] == 90).all() and (truth[inner] == 1).all()
        if outside.any():
            assert moved[0, 0, 0] > 90 and warm[0, 0, 0] < 1
    assert shrunk > 15 and enlarged > 15


def test_zoomed_label_and_heatmap_stay_on_each_other():
    label = np.zeros((80, 80), np.uint8)
    label[20:50, 30:70] = 1
    heatmap = label[..., None].astype(np.float32)
    augment = tf.function(SlideAugment(p=1.0, label_fill=0))
    for seed in range(20):
        _, warm, truth = augment(np.full((80, 80, 3), 255, np.uint8), heatmap, label, tf.constant(seed, tf.int64))
        differ = (warm.numpy()[..., 0] > 0.5) != (truth.numpy() == 1)
        assert differ.sum() <= 4  # at the corners bilinear and nearest may part


def test_slide_augment_repeats():
    image = textured(64)
    augment = tf.function(SlideAugment())
    arguments = image, np.zeros((64, 64, 1), np.float32), np.zeros((64, 64), np.uint8)
    once = [augment(*arguments, tf.constant(seed, tf.int64))[0].numpy() for seed in range(12)]
    again = [augment(*arguments, tf.constant(seed, tf.int64))[0].numpy() for seed in range(12)]
    assert all((a == b).all() for a, b in zip(once, again, strict=True))
