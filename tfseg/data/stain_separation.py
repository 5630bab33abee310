"""How much of which stain every pixel holds: Vahadane's separation, in NumPy.

The light that passes is I = 255 · exp(−S · C), with a matrix S of two stains, its columns of length 1 in optical
density space, and amounts C ≥ 0 a pixel.

Vahadane et al., "Structure-preserving color normalization and sparse stain separation for histological images", IEEE
TMI 35 (2016). Macenko's separation, in TensorFlow, is in ``tfseg.data.stain``.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

LIGHT = 255.0
"""Light that empty glass lets through."""

_SPARSITY = 0.1
"""λ while S is learnt, as in the paper."""

_START = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11]]).T
"""Haematoxylin and eosin of Ruifrok and Johnston (2001): where the learning of S begins."""

_ROUNDS, _STILL = 200, 1e-5


def optical_density(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """−ln(max(I, 1) / 255), float32, of uint8 of any shape."""
    return _DENSITY[image]


_DENSITY = -np.log(np.maximum(np.arange(256), 1) / LIGHT).astype(np.float32)


def stain_amounts(density: NDArray[np.float32], matrix: NDArray[np.floating], sparsity: float) -> NDArray[np.float32]:
    """Amounts C ≥ 0 of two stains that minimise ½ ‖density − S · C‖² + λ · (C₁ + C₂), exactly.

    The quadratic has its lowest point where both amounts are positive, or else on an edge, where one of them is 0.

    Args:
        density: (…, 3).
        matrix: S, (3, 2), columns of length 1.
        sparsity: λ.

    Returns:
        float32 (…, 2).
    """
    matrix = matrix.astype(np.float32)
    cosine = matrix[:, 0] @ matrix[:, 1]
    alone = density @ matrix - np.float32(sparsity)  # the amounts of each stain if the other is 0
    both = (alone - cosine * alone[..., ::-1]) / np.maximum(1 - cosine**2, np.float32(1e-6))
    first = alone[..., 0] >= alone[..., 1]
    edge = np.maximum(alone, 0) * np.stack([first, ~first], axis=-1)
    return np.where((both > 0).all(axis=-1, keepdims=True), both, edge)


def vahadane_stains(density: NDArray[np.float32]) -> NDArray[np.float64]:
    """Two stains by sparse non-negative matrix factorisation: minimises ½ ‖V − S · C‖² + λ Σ C, S and C ≥ 0, λ = 0.1.

    The amounts C for given stains are exact (:func:`stain_amounts`); then each stain moves to the best non-negative one
    for given amounts and is brought to length 1 (block coordinate descent of Mairal et al., "Online learning for matrix
    factorization and sparse coding", JMLR 2010, the paper's solver, on all pixels at once). It begins with Ruifrok's
    haematoxylin and eosin and ends when no stain moves by more than 1e-5, or after 200 rounds.
    ``sklearn.decomposition.MiniBatchDictionaryLearning`` finds the same stains, but takes seconds.

    Args:
        density: (N, 3) optical densities of tissue.

    Returns:
        float64 (3, 2), columns of length 1; the one that absorbs more red (haematoxylin) first.
    """
    stains = _START / np.linalg.norm(_START, axis=0)
    for _ in range(_ROUNDS):
        amounts = stain_amounts(density, stains, _SPARSITY).astype(np.float64)
        before = stains.copy()
        gram, projected = amounts.T @ amounts, density.T.astype(np.float64) @ amounts
        for k in np.flatnonzero(np.diag(gram) > 0):  # a stain that no pixel has stays where it is
            moved = np.maximum(stains[:, k] + (projected[:, k] - stains @ gram[:, k]) / gram[k, k], 0)
            stains[:, k] = moved / max(np.linalg.norm(moved), 1e-12)
        if np.abs(stains - before).max() < _STILL:
            break
    return stains if stains[0, 0] >= stains[0, 1] else stains[:, ::-1]
