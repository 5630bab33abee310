"""Stains of an H&E image by Macenko's method, and the augmentation that varies their strength; in the TensorFlow graph.

Macenko et al., "A method for normalizing histology slides for quantitative analysis", ISBI 2009. Augmentation as in
StainTools and torchstain, which the H2G-Net paper uses (section 3.4).
"""

from __future__ import annotations

import tensorflow as tf

LIGHT = 240.0
"""Transmitted light I₀ of optical density; the value that Macenko's reference code uses."""

TISSUE_DENSITY = 0.15
"""Pixels with a channel of lower optical density than this are background."""

_MIN_TISSUE_PX = 100
_MIN_SINE = 0.05
_ESTIMATE_SIDE = 512


def optical_density(image: tf.Tensor) -> tf.Tensor:
    """−ln((I + 1) / I₀), float32, of an image in 0..255 of any shape."""
    return -tf.math.log((tf.cast(image, tf.float32) + 1.0) / LIGHT)


def stain_matrix(image: tf.Tensor, percentile: float = 1.0) -> tf.Tensor:
    """Directions of haematoxylin and eosin in optical density space.

    The tissue's optical densities are projected on the plane of their two principal axes; the stains are the
    directions at the given percentile of the angle and at its mirror. Of the two, haematoxylin is the one that
    absorbs more red. At most about 512² regularly spaced pixels are used.

    Args:
        image: RGB in 0..255, (H, W, 3).
        percentile: of the angles, 0..50.

    Returns:
        float32 (3, 2), columns of length 1; all zero where no two stains can be told apart (blank glass, one
        colour, black), so that callers change nothing there.
    """
    height, width = tf.unstack(tf.shape(image)[:2])
    side = tf.sqrt(tf.cast(height * width, tf.float32))
    step = tf.cast(tf.math.ceil(side / _ESTIMATE_SIDE), tf.int32)
    density = tf.reshape(optical_density(image[::step, ::step]), (-1, 3))
    tissue = tf.boolean_mask(density, tf.reduce_all(density >= TISSUE_DENSITY, axis=1))
    nothing = tf.zeros((3, 2))
    matrix = tf.cond(tf.shape(tissue)[0] >= _MIN_TISSUE_PX, lambda: _directions(tissue, percentile), lambda: nothing)
    sine = tf.norm(tf.linalg.cross(matrix[:, 0], matrix[:, 1]))
    return tf.where(sine >= _MIN_SINE, matrix, nothing)


def concentrations(density: tf.Tensor, matrix: tf.Tensor) -> tf.Tensor:
    """Least-squares amounts of the two stains, (…, 2), that explain optical densities (…, 3); 0 for a zero matrix."""
    gram = tf.matmul(matrix, matrix, transpose_a=True)
    determinant = gram[0, 0] * gram[1, 1] - gram[0, 1] * gram[1, 0]
    adjugate = tf.stack([tf.stack([gram[1, 1], -gram[0, 1]]), tf.stack([-gram[1, 0], gram[0, 0]])])
    inverse = tf.math.divide_no_nan(adjugate, determinant)
    return tf.einsum("...c,cs->...s", density, tf.matmul(matrix, inverse))


def vary_stains(image: tf.Tensor, scale: tf.Tensor, shift: tf.Tensor) -> tf.Tensor:
    """Multiplies each stain's amount by ``scale`` and adds ``shift`` on tissue pixels.

    I' = (I + 1) · exp(−S · ((scale − 1) · C + shift)) − 1 with stain matrix S and amounts C. That is the published
    C' = scale · C + shift, except that the part of a colour that the two stains do not explain is kept (the reference
    programs drop it and repaint the background), so scale 1 and shift 0 change nothing at all.

    Args:
        image: RGB in 0..255, (H, W, 3).
        scale, shift: float32 (2,): haematoxylin, eosin.

    Returns:
        float32 (H, W, 3) in 0..255; the image itself where no stains can be told apart.
    """
    matrix = stain_matrix(image)
    image = tf.cast(image, tf.float32)
    density = optical_density(image)
    change = concentrations(density, matrix) * (scale - 1.0) + shift
    varied = (image + 1.0) * tf.exp(-tf.einsum("...s,cs->...c", change, matrix)) - 1.0
    tissue = tf.reduce_all(density >= TISSUE_DENSITY, axis=-1, keepdims=True) & tf.reduce_any(matrix != 0)
    return tf.where(tissue, tf.clip_by_value(varied, 0.0, 255.0), image)


def _directions(tissue: tf.Tensor, percentile: float) -> tf.Tensor:
    """(3, 2) stain directions of optical densities (N, 3)."""
    centred = tissue - tf.reduce_mean(tissue, axis=0)
    covariance = tf.matmul(centred, centred, transpose_a=True) / tf.cast(tf.shape(tissue)[0] - 1, tf.float32)
    axes = tf.linalg.eigh(tf.cast(covariance, tf.float64))[1][:, 1:]
    # Eigenvectors have no sign; the main one must point the way light is absorbed, or the angles wrap around at ±π.
    axes = tf.cast(axes * tf.where(tf.reduce_sum(axes[:, 1]) < 0, tf.constant(-1.0, tf.float64), 1.0), tf.float32)
    plane = tf.matmul(tissue, axes)
    angles = tf.sort(tf.atan2(plane[:, 0], plane[:, 1]))
    ends = tf.stack([_percentile(angles, percentile), _percentile(angles, 100.0 - percentile)])
    pair = tf.matmul(axes, tf.stack([tf.sin(ends), tf.cos(ends)]))
    pair = tf.math.l2_normalize(pair, axis=0)
    return tf.where(pair[0, 0] >= pair[0, 1], pair, pair[:, ::-1])


def _percentile(ordered: tf.Tensor, percentile: float) -> tf.Tensor:
    """Linear interpolation between the sorted values, as NumPy does."""
    last = tf.shape(ordered)[0] - 1
    position = tf.cast(last, tf.float32) * (percentile / 100.0)
    below = tf.cast(tf.floor(position), tf.int32)
    weight = position - tf.floor(position)
    return ordered[below] * (1.0 - weight) + ordered[tf.minimum(below + 1, last)] * weight
