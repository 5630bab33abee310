from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from skimage.io import imread

from tfseg.export.onnx import export_onnx, he_picture
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
    x = random.integers(-9, 10, (2, 6, 10, 3))  # no two within the margin: 5 % of 9 at most
    check(x.astype("float32"), random.normal(size=(2, 3, 5, 3)).astype("float32"))


@given(x=arrays("float32", (1, 4, 6, 2), elements=st.sampled_from([0.0, 1.0, -1.0])))
@settings(max_examples=50, deadline=None)
def test_of_equal_maxima_the_first_takes_the_value(x):
    check(x, np.arange(1, 13, dtype="float32").reshape(1, 2, 3, 2))


def test_all_zero_cells_keep_one_place():
    """After a ReLU whole cells are zero: the value goes to one place, not to four."""
    _, indices = max_pool_with_indices(keras.ops.zeros((1, 2, 2, 1)))
    np.testing.assert_array_equal(max_unpool(keras.ops.ones((1, 1, 1, 1)), indices)[0, ..., 0], [[1, 0], [0, 0]])


@pytest.mark.parametrize(
    ("behind", "share"), [(-0.5, 1.0), (-0.05, 1.0), (0.0, 1.0), (0.025, 0.75), (0.05, 0.5), (0.1, 0.0), (0.5, 0.0)]
)
def test_nearly_equal_maxima_share_the_value(behind, share):
    """The larger is 1 here and 3 in the other channel: their mean is 2, 5 % of it 0.1."""
    first, second = 1 - max(behind, 0), 1 + min(behind, 0)
    pair = np.array([[first, 3.0], [second, 3.0]], "float32")
    beside, above = np.zeros((2, 1, 2, 2, 2), "float32")
    beside[0, 0], above[0, :, 0] = pair, pair
    put = keras.ops.convert_to_tensor(np.array([8.0, 5.0], "float32").reshape(1, 1, 1, 2))
    for x, wanted in ((beside, [[share, 1 - share], [0, 0]]), (above, [[share, 0], [1 - share, 0]])):
        pooled, indices = max_pool_with_indices(keras.ops.convert_to_tensor(x))
        np.testing.assert_array_equal(np.ravel(pooled), [1, 3])
        unpooled = np.asarray(max_unpool(put, indices))
        np.testing.assert_allclose(unpooled[0, ..., 0], 8 * np.array(wanted), atol=1e-3)
        np.testing.assert_allclose(unpooled[0, ..., 1], [[5, 0], [0, 0]], atol=1e-3)


@pytest.mark.parametrize("scale", [1e-2, 1.0, 1e3])
def test_rounding_errors_move_nothing(scale):
    """On glass all values of a channel are equal but for rounding, in each engine another."""
    random = np.random.default_rng(0)
    flat = np.broadcast_to(scale * random.random(8), (1, 32, 32, 8))
    put = keras.ops.ones((1, 16, 16, 8))
    engines = []
    for _ in range(2):
        x = (flat * (1 + random.uniform(-2e-6, 2e-6, flat.shape))).astype("float32")
        engines.append(np.asarray(max_unpool(put, max_pool_with_indices(keras.ops.convert_to_tensor(x))[1])))
    # Two values of twice the mean: at most 4e-6 · 2 / 0.05, for columns and again for rows.
    np.testing.assert_allclose(*engines, atol=4e-4)
    np.testing.assert_allclose(engines[0][:, ::2, ::2], 1, atol=4e-4)


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


def check_export(model: keras.Model, arguments: dict, pictures: list[np.ndarray], folder: Path) -> None:
    """export_onnx compares ONNX Runtime with Keras on the pictures."""
    count = model.output["segmentation"].shape[-1]
    classes = tuple(ClassSpec(f"class {n}", (0, 0, 0)) for n in range(count))
    save(model, describe(model, "segnet", arguments, 0.5, classes), folder)
    assert export_onnx(folder, pictures=pictures).is_file()


def test_export_agrees_with_keras_on_flat_glass(tmp_path):
    half = he_picture(64, 64)
    half[:, :32] = 243
    arguments = {"size_px": 64, "widths": (8, 16, 32)}
    keras.utils.set_random_seed(0)
    check_export(build("segnet", **arguments), arguments, [half, np.full_like(half, 243)], tmp_path)


@pytest.mark.slow
def test_export_agrees_with_keras_at_the_papers_width(tmp_path):
    """With hard indices they differ by 0.002 to 0.006."""
    half = he_picture(256, 256, seed=1)
    half[:, :128] = 243
    keras.utils.set_random_seed(0)
    check_export(build("segnet"), {}, [he_picture(512, 512), he_picture(256, 256, seed=2), half], tmp_path)


@pytest.mark.slow
@pytest.mark.realdata
def test_export_agrees_with_keras_after_training_on_nuclei(shared_data, tmp_path):
    """Trained networks are surer of themselves: with hard indices a sixth of the pictures differ, by up to 0.01."""
    names = sorted(path.name for path in (shared_data / "nuclei" / "dsb2018_he" / "images").iterdir())[:40]
    read = [[imread(shared_data / "nuclei" / "dsb2018_he" / kind / name)[:128, :128] for name in names]
            for kind in ("images", "labels")]  # fmt: skip
    images, nuclei = np.stack(read[0])[..., :3], np.stack(read[1]) > 0
    arguments = {"size_px": 128, "num_classes": 2, "widths": (16, 24, 32, 48)}
    keras.utils.set_random_seed(0)
    model = build("segnet", **arguments)
    model.compile(keras.optimizers.Adam(5e-4), loss={"segmentation": "sparse_categorical_crossentropy"})
    random = np.random.default_rng(0)
    for _ in range(100):
        some = random.choice(32, 4, replace=False)
        model.train_on_batch({"image": images[some].astype("float32")}, {"segmentation": nuclei[some].astype("int32")})
    probability = model.predict({"image": images[32:].astype("float32")}, verbose=0)["segmentation"][..., 1]
    assert probability[nuclei[32:]].mean() > probability[~nuclei[32:]].mean() + 0.2, "it has learnt what nuclei are"
    check_export(model, arguments, list(images[32:]), tmp_path)


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
