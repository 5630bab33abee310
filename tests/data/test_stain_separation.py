"""Stains and their amounts, against scikit-learn and pictures made of known ones."""

from __future__ import annotations

import numpy as np
from two_stains import EOSIN, HAEMATOXYLIN, ORANGE, PURPLE, two_stains

from tfseg.data.stain_separation import optical_density, stain_amounts, vahadane_stains


def test_vahadane_equals_scikit_learns_dictionary():
    from sklearn.decomposition import MiniBatchDictionaryLearning

    density = optical_density(two_stains()).reshape(-1, 3)
    density = density[density.mean(axis=1) > 0.15][:3000]
    start = np.stack([HAEMATOXYLIN, EOSIN])
    learner = MiniBatchDictionaryLearning(
        2, alpha=0.1, positive_code=True, positive_dict=True, fit_algorithm="cd", dict_init=start, max_iter=5,
        random_state=0,
    )  # fmt: skip
    expected = learner.fit(density.astype(np.float64)).components_
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(vahadane_stains(density).T, expected, atol=0.02)


def test_amounts_are_those_of_a_general_solver():
    from sklearn.decomposition import sparse_encode

    rng = np.random.default_rng(3)
    stains = np.stack([PURPLE, ORANGE])
    density = np.concatenate([rng.gamma(1, 0.5, (150, 3)), stains, [[0, 0, 0]], stains * 1e-3, [[5.5, 0, 0]]])
    for sparsity in (0.0, 0.1):
        got = stain_amounts(density.astype(np.float32), stains.T, sparsity)
        alpha = max(sparsity, 1e-9)
        expected = sparse_encode(density, stains, algorithm="lasso_cd", alpha=alpha, positive=True, max_iter=10_000)
        np.testing.assert_allclose(got, expected, atol=2e-4)


def test_amounts_explain_an_image_made_of_them():
    amounts = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 2.0], [0.3, 0.7]])
    density = (amounts @ np.stack([HAEMATOXYLIN, EOSIN])).astype(np.float32)
    np.testing.assert_allclose(stain_amounts(density, np.stack([HAEMATOXYLIN, EOSIN]).T, 0.0), amounts, atol=1e-5)
