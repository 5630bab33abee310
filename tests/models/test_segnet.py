from __future__ import annotations

import keras
import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tfseg.export.onnx import export_onnx
from tfseg.models import build, describe, save
from tfseg.models.segnet import max_pool_with_indices, max_unpool
from tfseg.types import ClassSpec, ModelError


def pool_and_unpool(x: np.ndarray, put: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Max-pooling with flat indices and unpooling by them, value by value; of equal maxima the first, row by row."""
    batch, height, width, channels = x.shape
    pooled = np.empty((batch, height // 2, width // 2, channels), x.dtype)
    unpooled = np.zeros_like(x)
    for b, i, j, c in np.ndindex(pooled.shape):
        cell = x[b, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2, c]
        row, column = np.unravel_index(np.argmax(cell), (2, 2))
        pooled[b, i, j, c] = cell[row, column]
        unpooled[b, 2 * i + row, 2 * j + column, c] = put[b, i, j, c]
    return pooled, unpooled


def check(x: np.ndarray, put: np.ndarray) -> None:
    pooled, indices = max_pool_with_indices(keras.ops.convert_to_tensor(x))
    unpooled = max_unpool(keras.ops.convert_to_tensor(put), indices)
    expected = pool_and_unpool(x, put)
    np.testing.assert_array_equal(pooled, expected[0])
    np.testing.assert_array_equal(unpooled, expected[1])


def test_unpooling_of_random_maps():
    random = np.random.default_rng(0)
    check(random.normal(size=(2, 6, 10, 3)).astype("float32"), random.normal(size=(2, 3, 5, 3)).astype("float32"))


@given(x=arrays("float32", (1, 4, 6, 2), elements=st.sampled_from([0.0, 1.0, -1.0])))
@settings(max_examples=50, deadline=None)
def test_of_equal_maxima_the_first_takes_the_value(x):
    check(x, np.arange(1, 13, dtype="float32").reshape(1, 2, 3, 2))


def test_all_zero_cells_keep_one_place():
    """After a ReLU whole cells are zero: the value goes to one place, not to four."""
    _, indices = max_pool_with_indices(keras.ops.zeros((1, 2, 2, 1)))
    np.testing.assert_array_equal(max_unpool(keras.ops.ones((1, 1, 1, 1)), indices)[0, ..., 0], [[1, 0], [0, 0]])


def test_gradient_goes_where_the_value_came_from():
    import tensorflow as tf

    x = tf.constant(np.random.default_rng(0).normal(size=(1, 4, 4, 2)).astype("float32"))
    with tf.GradientTape() as tape:
        tape.watch(x)
        pooled, indices = max_pool_with_indices(x)
        loss = tf.reduce_sum(max_unpool(pooled, indices) * x)
    mask = pool_and_unpool(x.numpy(), np.ones((1, 2, 2, 2), "float32"))[1]
    np.testing.assert_allclose(tape.gradient(loss, x), 2 * x.numpy() * mask, rtol=1e-6)


def test_fast_gets_a_network_that_openvino_knows(tmp_path):
    arguments = {"size_px": (16, 24), "widths": (4, 6), "num_classes": 2}
    model = build("segnet", **arguments)
    classes = tuple(ClassSpec(name, (0, 0, 0)) for name in "ab")
    save(model, describe(model, "segnet", arguments, 0.5, classes), tmp_path)
    nodes = {node.op_type for node in onnx.load(export_onnx(tmp_path, "fast")).graph.node}  # through check_fast
    assert not nodes & {"MaxUnpool", "ScatterND", "ScatterElements", "GatherND"}


def test_networks_load_with_keras_alone(tmp_path):
    model = build("segnet", size_px=16, widths=(4, 6))
    model.save(tmp_path / "model.keras")
    assert "tfseg" not in model.to_json()
    loaded = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
    image = np.random.default_rng(0).random((1, 16, 16, 3), "float32") * 255
    np.testing.assert_array_equal(loaded({"image": image})["segmentation"], model({"image": image})["segmentation"])


def test_too_few_levels_are_refused():
    with pytest.raises(ModelError, match="segnet: widths must have at least two levels"):
        build("segnet", widths=(8,))
