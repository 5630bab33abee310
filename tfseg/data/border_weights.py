"""Weights of pixels for the cross-entropy of nuclei: class balance plus a border between near neighbours."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

_NEGLIGIBLE = 1e-7
"""Border weights below it are not computed."""


def border_weights(
    labels: NDArray[np.integer],
    class_weights: tuple[float, float] | None = None,
    *,
    w0: float = 10.0,
    sigma_px: float = 5.0,
) -> NDArray[np.float32]:
    """w(x) = w_c(x) + w0 · exp(−(d1(x) + d2(x))² / (2 · sigma_px²)); GB U-Net, equation 2, after U-Net's section 3.

    w_c is the weight of the pixel's class, the second term is :func:`border_term`, which says what d1 and d2 are.
    Make the map of a whole image and cut it like the image: a tile does not know the nuclei next to it.

    Args:
        labels: (H, W), any integer dtype, one id a nucleus, 0 background.
        class_weights: (background, nucleus); None takes :func:`class_balance` of these labels. Tiles that are trained
            on together should share one pair, computed of all of them.
        w0: the border's weight where two nuclei touch.
        sigma_px: its width in pixels.

    Returns:
        (H, W) float32, within 1e-6 of the formula for w0 up to 10 and class weights up to 6.

    Raises:
        ValueError: labels are not of two axes and integer, an id is negative, w0 < 0 or sigma_px ≤ 0.
    """
    term = border_term(labels, w0=w0, sigma_px=sigma_px)
    background, nucleus = class_weights if class_weights is not None else class_balance([labels])
    return (term + np.where(labels > 0, nucleus, background)).astype(np.float32)


def border_term(
    labels: NDArray[np.integer], *, w0: float = 10.0, sigma_px: float = 5.0, negligible: float = _NEGLIGIBLE
) -> NDArray[np.float64]:
    """w0 · exp(−(d1 + d2)² / (2 · sigma_px²)) at every pixel.

    d1 ≤ d2 are the distances of a pixel to its two nearest nuclei. The distance to a nucleus is the Euclidean one, in
    pixels, from the pixel's centre to the centre of the nucleus' nearest pixel: 1 beside the nucleus, √2 off its
    corner. A pixel of a nucleus has distance 0 to it, so there d1 = 0 and d2 is the distance to the nearest other
    nucleus: where two nuclei touch, the pixels on both sides weigh w0 · exp(−1 / (2 · sigma_px²)). With fewer than two
    nuclei there is no border between any, d2 is infinite and the term 0. Pixels of one id are one nucleus, in however
    many pieces.

    (Some programs set the term to 0 on nuclei. Labels of nuclei that touch would then have no border at all where it
    matters; U-Net's authors could leave them out because a gap of background was cut between the cells first.
    ``border_term(labels) * (labels == 0)`` gives that form.)

    A nucleus is looked at only in its surroundings, as far as d1 + d2 can be for a weight of ``negligible``:
    sigma_px · √(2 ln(w0 / negligible)), 30.3 px with the defaults.

    Args:
        labels, w0, sigma_px: as in :func:`border_weights`.
        negligible: weights below it become 0.

    Returns:
        (H, W) float64, at most ``negligible`` below the formula, never above.

    Raises:
        ValueError: as :func:`border_weights`.
    """
    labels = _checked(labels)
    if not w0 >= 0 or not sigma_px > 0:
        raise ValueError(f"border weights: expected w0 >= 0 and sigma_px > 0. Received: {w0} and {sigma_px}.")
    if w0 <= negligible:
        return np.zeros(labels.shape)
    reach = sigma_px * math.sqrt(2 * math.log(w0 / negligible))
    first, second = _two_nearest(labels, math.ceil(reach))
    total = first + second
    return np.where(total <= reach, w0 * np.exp(-(total**2) / (2 * sigma_px**2)), 0.0)


def class_balance(labels: Iterable[NDArray[np.integer]]) -> tuple[float, float]:
    """Weights (background, nucleus) under which both classes weigh the same in all, and a pixel 1 in the mean.

    w_c = N / (2 · N_c), N_c of N pixels being of class c. Where one class is missing both are 1.

    Args:
        labels: images' labels (H, W), 0 background; those of all images that are trained on.
    """
    nuclei = pixels = 0
    for image in labels:
        nuclei += int(np.count_nonzero(image))
        pixels += image.size
    if not 0 < nuclei < pixels:
        return 1.0, 1.0
    return pixels / (2 * (pixels - nuclei)), pixels / (2 * nuclei)


def _checked(labels: NDArray[np.integer]) -> NDArray[np.integer]:
    """Labels whose largest id is at most their number of pixels."""
    labels = np.asarray(labels)
    if labels.ndim != 2 or labels.dtype.kind not in "iu":
        raise ValueError(
            "labels must be integers of shape (H, W), one id a nucleus and 0 for background. "
            f"Received: {labels.dtype} of shape {labels.shape}."
        )
    if labels.size and labels.min() < 0:
        raise ValueError(f"labels must not be negative. Received: {labels.min()}.")
    if labels.size and labels.max() > labels.size:  # a list as long as the largest id is made of them
        values, inverse = np.unique(labels, return_inverse=True)
        labels = inverse.reshape(labels.shape) + int(values[0] > 0)
    return labels if labels.dtype.kind == "i" else labels.astype(np.int64)


def _two_nearest(labels: NDArray[np.integer], reach_px: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """d1 and d2 (H, W) as far as they are at most ``reach_px``; infinite or larger where they are more."""
    first = np.full(labels.shape, np.inf)
    second = np.full(labels.shape, np.inf)
    for index, box in enumerate(ndimage.find_objects(labels)):
        if box is None:
            continue
        around = tuple(slice(max(0, side.start - reach_px), side.stop + reach_px) for side in box)
        distance = ndimage.distance_transform_edt(labels[around] != index + 1)
        near, next_near = first[around], second[around]
        np.minimum(next_near, np.maximum(near, distance), out=next_near)
        np.minimum(near, distance, out=near)
    return first, second
