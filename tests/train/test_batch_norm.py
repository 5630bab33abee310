"""Measured batch-normalisation statistics."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import toy

from tfseg.train.batch_norm import reestimate_batch_norm
from tfseg.types import TfsegError


def test_statistics_are_those_of_all_pictures_together():
    """Equal batches: the total variance is that of the pool, also between unlike batches."""
    image = keras.Input((5,), name="image")
    model = keras.Model(image, keras.layers.BatchNormalization(momentum=0.999)(image))
    rng = np.random.default_rng(0)
    batches = [rng.normal(loc=10 * k, scale=k + 1, size=(64, 5)).astype(np.float32) for k in range(4)]
    assert reestimate_batch_norm(model, batches) == 4
    pool = np.concatenate(batches)
    layer = model.layers[-1]
    np.testing.assert_allclose(layer.moving_mean, pool.mean(0), rtol=1e-5)
    np.testing.assert_allclose(layer.moving_variance, pool.var(0), rtol=1e-4)
    assert layer.momentum == 0.999
    np.testing.assert_allclose(np.asarray(model(pool)).std(0), 1, atol=1e-2)


def test_nested_layers_are_found_frozen_ones_kept_and_seeds_put_back():
    inner = toy.network()
    image = keras.Input((8, 8, 3), name="image")
    frozen = keras.layers.BatchNormalization(name="frozen")
    frozen.trainable = False
    model = keras.Model(image, inner(frozen(image)))
    held = {id(w) for w in model.weights}
    seeds = [v for v in model.variables if id(v) not in held]
    assert len(seeds) == 1
    before = [np.array(v) for v in seeds]
    reestimate_batch_norm(model, [inputs["image"] for inputs, _ in toy.stream(0).take(3)])
    normal = next(layer for layer in inner.layers if isinstance(layer, keras.layers.BatchNormalization))
    assert np.abs(np.asarray(normal.moving_mean)).max() > 0
    np.testing.assert_array_equal(frozen.moving_mean, np.zeros(3))
    for variable, value in zip(seeds, before, strict=True):
        np.testing.assert_array_equal(variable, value)


def test_no_batch_is_an_error():
    with pytest.raises(TfsegError, match="no batch"):
        reestimate_batch_norm(toy.network(), [])


def test_a_short_training_does_not_collapse_in_inference(tmp_path):
    """Ten steps with momentum 0.99 leave the moving averages near their start; measured ones work at once."""
    _, moving = toy.train(tmp_path / "moving", epochs=2, learning_rate=0.05)
    _, measured = toy.train(tmp_path / "measured", epochs=2, learning_rate=0.05, reestimate_batches=4)
    assert measured.best_score < moving.best_score
