"""Networks of several fields: which maps come together, and that they lie on each other."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from tfseg.geometry import field_name, join_depth, magnification_of
from tfseg.models import build
from tfseg.slides.array_backend import ArraySlide
from tfseg.types import ModelError, Window

WIDTHS = (3, 4, 5, 6, 7)
DEEPEST = len(WIDTHS) - 1
MPPS = (0.5, 1.0, 2.0)
PLACES = ((0, 0), (11, 21), (31, 31))
"""(row, column) in the target field."""


def tag(mpp: float) -> str:
    return f"{magnification_of(mpp):g}x"


@pytest.mark.parametrize(
    ("depth", "channels", "crops"),
    # the paper's figure 4e at widths 2 … 32: [20x, 10x, 5x] before each transposed convolution of the 20x decoder
    [(4, (32, 16, 8), (8, 24)), (3, (16, 8, 4), (16, 48)), (2, (8, 4, 2), (32, 96)), (1, (4, 2), (64,))],
)
def test_joins_of_dmmn_m3(depth, channels, crops):
    model = build("dmmn_m3", widths=(2, 4, 8, 16, 32))
    joined = model.get_layer(f"dec_20x_d{depth}_hook_cat")
    assert [x.shape[1:] for x in joined.input] == [(256 >> depth, 256 >> depth, width) for width in channels]
    assert [model.get_layer(f"dec_20x_d{depth}_hook{n}_crop").cropping for n in range(1, len(channels))] == [
        ((crop, crop), (crop, crop)) for crop in crops
    ]


@pytest.mark.parametrize(("context", "size", "crop"), [(1.0, 14, 2), (2.0, 22, 6), (4.0, 38, 14), (8.0, 70, 30)])
def test_hook_of_hooknet(context, size, crop):
    model = build("hooknet", mpps=(0.5, context))
    cropped = model.get_layer("dec_target_d4_hook1_crop")
    assert (cropped.input.shape[1], cropped.cropping) == (size, ((crop, crop), (crop, crop)))
    target, hook = model.get_layer("dec_target_d4_hook_cat").input
    assert target.shape[1:3] == hook.shape[1:3] == (10, 10)
    assert model.output["segmentation"].shape[1:] == (70, 70, 3)


def fields(mpps: tuple[float, ...], size: int, places: tuple[tuple[int, int], ...]) -> dict[str, np.ndarray]:
    """A black slide with one white level-0 pixel, once for each place, read through every field."""
    centre = 2 * size
    read: dict[str, list[np.ndarray]] = {field_name(mpp): [] for mpp in mpps}
    for row, column in places:
        level = np.zeros((2 * centre, 2 * centre, 3), np.uint8)
        level[centre - size // 2 + row, centre - size // 2 + column] = 255
        half = np.rint(level.reshape(centre, 2, centre, 2, 3).mean((1, 3))).astype(np.uint8)
        slide = ArraySlide([level, half], 0.5)
        for mpp in mpps:
            read[field_name(mpp)].append(slide.read(Window(centre, centre, size, size, mpp)))
    return {name: np.stack(images).astype("float32") for name, images in read.items()}


def wired(model: keras.Model, path: list[tuple[str, int]]) -> keras.Model:
    """The network of which nothing but a path passes: each layer of it hands on one channel as it is.

    Args:
        model: changed in place.
        path: (layer, channel of its input); what it hands on is its first output channel. A transposed convolution
            copies a pixel to the four below it.
    """
    for layer in model.layers:
        if not isinstance(layer, keras.layers.BatchNormalization):
            layer.set_weights([np.zeros_like(weight) for weight in layer.get_weights()])
    for name, channel in path:
        layer = model.get_layer(name)
        kernel, bias = (np.zeros_like(weight) for weight in layer.get_weights())
        if isinstance(layer, keras.layers.Conv2DTranspose):
            kernel[:2, :2, 0, channel] = 1
        else:
            kernel[kernel.shape[0] // 2, kernel.shape[1] // 2, channel, 1 if name == "segmentation_logits" else 0] = 1
        layer.set_weights([kernel, bias])
    return model


def lit(model: keras.Model, images: dict[str, np.ndarray]) -> np.ndarray:
    """Where the second class is more probable than the first: (B, H, W) bool."""
    probabilities = np.asarray(model(images, training=False)["segmentation"])
    return probabilities[..., 1] > probabilities[..., 0]


def down(name: str, depth: int) -> list[tuple[str, int]]:
    return [(f"{name}_d{d}_{n}_conv", 0) for d in range(depth + 1) for n in (1, 2)]


def across(name: str, depth: int) -> list[tuple[str, int]]:
    """The decoder's block of a depth, from the skip; nothing at the deepest, where it is the encoder's map."""
    return [(f"{name}_d{depth}_{n}_conv", 0) for n in (1, 2)] if depth < DEEPEST else []


def up(name: str, depth: int, channel: int = 0, layer: str = "up") -> list[tuple[str, int]]:
    """From the input channel of the first upsampling at ``depth`` to the finest map."""
    path = []
    for d in range(depth - 1, -1, -1):
        path += [(f"{name}_d{d}_{layer}", channel), (f"{name}_d{d}_1_conv", WIDTHS[d]), (f"{name}_d{d}_2_conv", 0)]
        channel = 0
    return path


def head(channel: int = 0) -> list[tuple[str, int]]:
    return [("final_conv", channel), ("segmentation_logits", 0)]


def assert_blocks(found: np.ndarray, places: tuple[tuple[int, int], ...], side: int) -> None:
    """Each impulse has lit the pixels of the target that the coarse pixel over it covers, and no other."""
    for one, (row, column) in zip(found, places, strict=True):
        expected = np.zeros_like(one)
        top, left = row // side * side, column // side * side
        expected[top : top + side, left : left + side] = True
        np.testing.assert_array_equal(one, expected)


def test_m3_lays_every_field_on_the_target():
    model, images = build("dmmn_m3", size_px=32, num_classes=2, widths=WIDTHS), fields(MPPS, 32, PLACES)
    own = [*down("enc_20x", 0), *across("dec_20x", 0), *head()]
    assert_blocks(lit(wired(model, own), images), PLACES, 1)
    tried = 0
    for depth in range(1, DEEPEST + 1):
        channel = WIDTHS[depth]
        for mpp in MPPS[1:]:
            other = join_depth(depth, 0.5, mpp)
            if other is None:
                continue
            field = [*down(f"enc_{tag(mpp)}", other), *across(f"dec_{tag(mpp)}", other)]
            assert_blocks(
                lit(wired(model, [*field, *up("dec_20x", depth, channel), *head()]), images), PLACES, 2**depth
            )
            channel += WIDTHS[other]
            tried += 1
    assert tried == 7


def test_ms_lays_every_field_on_the_target():
    places = ((0, 0), (11, 21), (100, 127))
    model, images = build("dmmn_ms", size_px=128, num_classes=2, widths=WIDTHS), fields(MPPS, 128, places)
    for number, mpp in enumerate(MPPS[1:], 1):
        for depth in (0, DEEPEST):
            path = down(f"enc_{tag(mpp)}", depth)
            path += [(f"fit_{tag(mpp)}_d{depth}_{step}_up", 0) for step in range(1, number + 1)]
            if depth:
                path += up("dec", depth, WIDTHS[depth] * number)
            else:
                path += [("dec_d0_1_conv", WIDTHS[0] * (1 + number)), ("dec_d0_2_conv", 0)]
            assert_blocks(lit(wired(model, [*path, *head()]), images), places, 2**depth * round(mpp / 0.5))


def test_m2s_lays_every_field_on_the_target():
    model, images = build("dmmn_m2s", size_px=32, num_classes=2, widths=WIDTHS), fields(MPPS, 32, PLACES)
    for number, mpp in enumerate(MPPS):
        path = [*down(f"enc_{tag(mpp)}", 0), *across(f"dec_{tag(mpp)}", 0)]
        path += [(f"fit_{tag(mpp)}_d0_{step}_up", 0) for step in range(1, number + 1)]
        assert_blocks(lit(wired(model, [*path, *head(WIDTHS[0] * number)]), images), PLACES, 2**number)


@pytest.mark.parametrize("context", [1.0, 2.0])
def test_hooknet_lays_the_context_on_the_bottleneck(context):
    """Context and target through their maps of the same pixels light the same pixels, those over the impulse."""
    model = build("hooknet", size_px=252, num_classes=2, mpps=(0.5, context), widths=WIDTHS)
    (_, height, _, _), (_, size, _, _) = (model.input["image_20x"].shape, model.output["segmentation"].shape)
    places = ((size // 2, size // 2), (0, 5), (size - 1, 20))
    border = (height - size) // 2
    images = fields((0.5, context), height, tuple((row + border, column + border) for row, column in places))
    ascent = [*up("dec_target", DEEPEST, layer="up_conv"), ("segmentation_logits", 0)]
    own = lit(wired(model, [*down("enc_target", DEEPEST), *ascent]), images)
    other = join_depth(DEEPEST, 0.5, context)
    path = [*down("enc_context", other), *across("dec_context", other)]
    path += [*up("dec_target", DEEPEST, WIDTHS[DEEPEST], "up_conv"), ("segmentation_logits", 0)]
    hooked = lit(wired(model, path), images)
    np.testing.assert_array_equal(hooked, own)
    for one, (row, column) in zip(hooked, places, strict=True):
        assert one[row, column]
        rows, columns = np.nonzero(one)
        assert max(np.ptp(rows), np.ptp(columns)) < 2**DEEPEST


@pytest.mark.parametrize(
    ("name", "mpps", "message"),
    [
        ("dmmn_m3", (0.5,), "at least two fields, finest first"),
        ("dmmn_s2", (1.0, 0.5), "at least two fields, finest first"),
        ("dmmn_ms", (0.0, 0.5), "at least two fields, finest first"),
        ("dmmn_m2s", (0.5, 1.5), r"power of two.*Received: 0\.5 and 1\.5\. Nearest: 1 or 2\."),
        ("dmmn_m3", (0.5, 1.0, 16.0), r"at most 16 times as coarse.*at most 8 µm/px\. Received: 16\."),
        ("hooknet", (0.5, 1.0, 2.0), "those of two fields, target and context"),
    ],
)
def test_fields_that_do_not_fit(name, mpps, message):
    with pytest.raises(ModelError, match=message):
        build(name, mpps=mpps)
