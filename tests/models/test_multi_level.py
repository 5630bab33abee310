from __future__ import annotations

import keras
import numpy as np
import pytest
import tiny_encoder

from tfseg.models.multi_level import multi_level
from tfseg.types import ModelError

SIZE = 64
TINY = {"size_px": SIZE, "num_classes": 2, "encoder": tiny_encoder.NAME, "widths": (12, 8, 6, 4, 4)}


@pytest.fixture(scope="module")
def model():
    return multi_level(**TINY)


def part(model: keras.Model, start: str, end: str) -> keras.Model:
    """From the output of one layer to that of another."""
    return keras.Model(model.get_layer(start).output, model.get_layer(end).output)


@pytest.mark.parametrize(
    ("mpps", "names", "depth"),
    [
        ((0.5, 2.0), ("image_20x", "image_5x"), 2),
        ((0.25, 1.0), ("image_40x", "image_10x"), 2),
        ((0.25, 2.0), ("image_40x", "image_5x"), 1),
        ((0.5, 4.0), ("image_20x", "image_2.5x"), 1),
        ((0.5, 1.0), ("image_20x", "image_10x"), 3),
    ],
)
def test_context_joins_where_pixels_are_equal(mpps, names, depth):
    model = multi_level(**{**TINY, "mpps": mpps})
    assert set(model.input) == set(names)
    assert {tuple(out.shape[1:]) for out in model.output.values()} == {(SIZE, SIZE, 2)}
    halvings = [layer for layer in model.layers if layer.name.startswith("merge_half") and layer.name.endswith("conv")]
    assert len(halvings) == 4 - depth
    first = model.get_layer(f"merge_half{depth + 1}_conv")
    assert first.input.shape[1:3] == (SIZE >> depth, SIZE >> depth)
    assert first.input is model.get_layer(f"dec_context_d{depth}_2_relu").output
    assert model.get_layer("merge_half4_conv").output.shape[1:3] == (SIZE >> 4, SIZE >> 4)


def test_every_context_pixel_reaches_its_place_of_the_merge(model):
    halving = part(model, "dec_context_d2_2_relu", "merge_half4_relu")
    halving.set_weights([np.ones_like(w) for w in halving.get_weights()])
    side, channels = halving.input.shape[1:][1:]
    impulses = np.eye(side * side, dtype="float32").reshape(-1, side, side, 1).repeat(channels, -1)
    moved = np.abs(halving.predict(impulses, verbose=0) - halving(np.zeros_like(impulses[:1]))).max(-1) > 1e-3
    for number, cells in enumerate(moved):
        y, x = divmod(number, side)
        assert [tuple(cell) for cell in np.argwhere(cells)] == [(y // 4, x // 4)]


def test_a_halving_is_space_to_depth_and_a_1x1_convolution(model):
    halving = part(model, "dec_context_d2_2_relu", "merge_half3_conv")
    kernel, bias = halving.get_weights()
    bias = bias + np.arange(len(bias), dtype="float32")
    halving.set_weights([kernel, bias])
    x = np.random.default_rng(0).normal(size=(2, *halving.input.shape[1:])).astype("float32")
    batch, height, width, channels = x.shape
    deep = x.reshape(batch, height // 2, 2, width // 2, 2, channels).transpose(0, 1, 3, 2, 4, 5)
    deep = deep.reshape(batch, height // 2, width // 2, 4 * channels)
    np.testing.assert_allclose(halving(x), deep @ kernel.reshape(4 * channels, -1) + bias, atol=1e-5)


@pytest.mark.parametrize("mpps", [(0.5, 2.0), (0.25, 2.0)])
def test_context_output_lies_on_the_target_to_the_pixel(mpps):
    """A ramp that is, at every context pixel's centre, its distance in target pixels from the common centre."""
    ratio = int(mpps[1] / mpps[0])
    align = part(multi_level(**{**TINY, "mpps": mpps}), "context", "segmentation_context")

    def centres(step: int) -> np.ndarray:
        return (np.arange(SIZE) + 0.5 - SIZE / 2) * step

    ramp = np.stack(np.meshgrid(centres(ratio), centres(ratio), indexing="ij"), -1).astype("float32")
    found = align(ramp[None])[0]
    edge = ratio // 2  # beyond the last centre of the crop there is nothing to interpolate with
    inside = (slice(edge, -edge), slice(edge, -edge))
    np.testing.assert_allclose(
        np.asarray(found)[inside], np.stack(np.meshgrid(centres(1), centres(1), indexing="ij"), -1)[inside], atol=1e-4
    )


def test_outputs_come_from_their_branches(model):
    random = np.random.default_rng(0)
    fields = {name: random.uniform(0, 255, (1, SIZE, SIZE, 3)).astype("float32") for name in model.input}
    whole = model(fields, training=True)  # batch norm keeps signals from fading in a network that never learned
    changed = {name: model({**fields, name: 255 - fields[name]}, training=True) for name in fields}
    for output, moved_by in (
        ("segmentation", {"image_20x", "image_5x"}),
        ("segmentation_high", {"image_20x", "image_5x"}),
        ("segmentation_context", {"image_5x"}),
    ):
        moved = {name for name in fields if np.abs(np.subtract(changed[name][output], whole[output])).max() > 1e-4}
        assert moved == moved_by, output


def test_encoders_have_weights_of_their_own(model):
    first, second = (model.get_layer(name) for name in ("enc_target", "enc_context"))
    assert [w.shape for w in first.weights] == [w.shape for w in second.weights]
    assert not {id(w) for w in first.weights} & {id(w) for w in second.weights}
    assert not np.array_equal(first.get_weights()[0], second.get_weights()[0])


@pytest.mark.parametrize(
    ("mpps", "message"),
    [
        ((0.5,), r"at least two fields"),
        ((2.0, 0.5), "finest first"),
        ((0.5, 1.0, 2.0), r"two fields, target and context\. Received: \(0.5, 1.0, 2.0\)"),
        ((0.5, 1.5), r"power of two.*Nearest: 1 or 2"),
        ((0.25, 8.0), "at most 16 times as coarse"),
    ],
)
def test_fields_that_do_not_fit_are_named(mpps, message):
    with pytest.raises(ModelError, match=message):
        multi_level(**{**TINY, "mpps": mpps})
