"""Augmentation in the graph: the same seed gives the same picture, and picture, heatmap and label move together."""

from __future__ import annotations

from dataclasses import dataclass

import tensorflow as tf

from tfseg.data import counter_random
from tfseg.data.stain import vary_stains
from tfseg.types import IGNORE


@dataclass(frozen=True)
class PatchAugment:
    """Augmentation of classifier patches; each kind is applied with probability ``p``.

    H2G-Net, section 3.4: horizontal flip, vertical flip, a turn by 90°, 180° or 270°, a shift of hue and saturation,
    and a factor on brightness. The paper gives the shift without units; OpenCV's 8-bit scale is taken (hue 0..180 for
    the full circle, saturation 0..255), hue and saturation drawn apart.

    Attributes:
        p: probability of each kind.
        hsv_shift: hue and saturation move by up to this much either way.
        brightness: the factor lies in 1 ± this.
    """

    p: float = 0.5
    hsv_shift: float = 20.0
    brightness: float = 0.2

    def __call__(self, image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """Augments one patch.

        Args:
            image: uint8 RGB (H, W, 3). Turns by 90° and 270° need H = W; otherwise a turn is by 180°.
            seed: int64 scalar.

        Returns:
            uint8 (H, W, 3), rounded.
        """
        draws = counter_random.uniform(seed, tf.zeros_like(seed), 9)
        chosen = draws[:5] < self.p
        image = turn(image, chosen[0], chosen[1], _quarters(chosen[2], draws[5]))
        shift = (2.0 * draws[6:8] - 1.0) * self.hsv_shift
        factor = tf.where(chosen[4], 1.0 + (2.0 * draws[8] - 1.0) * self.brightness, 1.0)

        def recolour() -> tf.Tensor:
            picture = tf.cast(image, tf.float32)
            picture = tf.cond(chosen[3], lambda: shift_hsv(picture, shift[0], shift[1]), lambda: picture)
            return tf.cast(tf.clip_by_value(picture * factor + 0.5, 0.0, 255.0), tf.uint8)

        return tf.cond(chosen[3] | chosen[4], recolour, lambda: image)


@dataclass(frozen=True)
class SlideAugment:
    """Augmentation of the refinement stage's slides; each kind is applied with probability ``p``.

    H2G-Net, section 3.4: flips, turns by 90°, zoom about the centre, Macenko stain augmentation. Where zooming out
    leaves no slide, the picture is white, the heatmap 0 and the label ``label_fill``.

    Attributes:
        p: probability of each kind.
        zoom: the factor lies in 1 ± this.
        stain_scale, stain_shift: σ₁ and σ₂ of the stain augmentation: amounts times U(1 − σ₁, 1 + σ₁) plus U(−σ₂, σ₂).
        label_fill: label outside the slide; nobody annotated it, so it counts in no loss.
    """

    p: float = 0.5
    zoom: float = 0.2
    stain_scale: float = 0.1
    stain_shift: float = 0.1
    label_fill: int = IGNORE

    def __call__(
        self, image: tf.Tensor, heatmap: tf.Tensor, label: tf.Tensor, seed: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Augments one slide.

        Args:
            image: RGB in 0..255, (H, W, 3), uint8 or float32. Turns by 90° and 270° need H = W.
            heatmap: float, (H, W, 1), 0..1.
            label: uint8 (H, W).
            seed: int64 scalar.

        Returns:
            float32 (H, W, 3), float32 (H, W, 1), uint8 (H, W).
        """
        draws = counter_random.uniform(seed, tf.zeros_like(seed), 11)
        chosen = draws[:5] < self.p
        quarters = _quarters(chosen[2], draws[5])
        factor = tf.where(chosen[3], 1.0 + (2.0 * draws[6] - 1.0) * self.zoom, 1.0)

        def move(picture: tf.Tensor, interpolation: str, fill: float) -> tf.Tensor:
            picture = turn(picture, chosen[0], chosen[1], quarters)
            return tf.cond(chosen[3], lambda: zoom(picture, factor, interpolation, fill), lambda: picture)

        image = move(tf.cast(image, tf.float32), "BILINEAR", 255.0)
        heatmap = move(tf.cast(heatmap, tf.float32), "BILINEAR", 0.0)
        label = move(label[..., None], "NEAREST", float(self.label_fill))[..., 0]
        scale = 1.0 + (2.0 * draws[7:9] - 1.0) * self.stain_scale
        shift = (2.0 * draws[9:11] - 1.0) * self.stain_shift
        image = tf.cond(chosen[4], lambda: vary_stains(image, scale, shift), lambda: image)
        return image, heatmap, label


def turn(image: tf.Tensor, horizontal: tf.Tensor, vertical: tf.Tensor, quarters: tf.Tensor) -> tf.Tensor:
    """Turns by ``quarters`` · 90° anticlockwise, then flips left-right and up-down.

    Args:
        image: (H, W, C), any type.
        horizontal, vertical: bool scalars: flip left-right, up-down.
        quarters: int32 scalar, 0..3. When H ≠ W, any turn is by 180°.

    Returns:
        (H, W, C).
    """
    if image.shape[0] == image.shape[1]:
        upright = image
        image = tf.cond(quarters % 2 == 1, lambda: tf.transpose(upright, (1, 0, 2)), lambda: upright)
    else:
        quarters = tf.where(quarters > 0, 2, 0)
    # A quarter turn is a transposition and a flip; its flip and the drawn one cancel or add up to one.
    return tf.reverse(
        image,
        tf.boolean_mask(
            [0, 1],
            [
                tf.not_equal(vertical, (quarters == 1) | (quarters == 2)),
                tf.not_equal(horizontal, (quarters == 2) | (quarters == 3)),
            ],
        ),
    )


def shift_hsv(image: tf.Tensor, hue: tf.Tensor, saturation: tf.Tensor) -> tf.Tensor:
    """Adds to hue (around the circle of 180) and saturation (0..255, clipped); value stays.

    Args:
        image: float32 RGB in 0..255, (H, W, 3).
        hue, saturation: float32 scalars in OpenCV's 8-bit units.

    Returns:
        float32 (H, W, 3).
    """
    # Several times as fast as tf.image.rgb_to_hsv and back. Hue h in sixths of the circle; a channel is
    # v − v·s·(1 − t(h)), where t is 1 over two sixths around the channel's own hue and falls to 0 in one sixth.
    red, green, blue = tf.unstack(image, axis=-1)
    value = tf.maximum(tf.maximum(red, green), blue)
    chroma = value - tf.minimum(tf.minimum(red, green), blue)
    scale = tf.math.reciprocal_no_nan(chroma)
    h = tf.where(value > red, (blue - red) * scale + 2.0, (green - blue) * scale)
    h = tf.where((value > red) & (value > green), (red - green) * scale + 4.0, h)
    h += hue / 30.0
    h -= 6.0 * tf.floor(h / 6.0)
    strength = value * tf.clip_by_value(chroma * tf.math.reciprocal_no_nan(value) + saturation / 255.0, 0.0, 1.0)
    rest = [2.0 - tf.abs(h - 3.0), tf.abs(h - 2.0) - 1.0, tf.abs(h - 4.0) - 1.0]
    return tf.stack([value - strength * tf.clip_by_value(part, 0.0, 1.0) for part in rest], axis=-1)


def zoom(image: tf.Tensor, factor: tf.Tensor, interpolation: str, fill: float) -> tf.Tensor:
    """Scales about the centre, keeping the size.

    Args:
        image: (H, W, C), float32 or uint8.
        factor: float32 scalar; above 1 enlarges.
        interpolation: "BILINEAR" or "NEAREST".
        fill: value outside the image.
    """
    size = tf.shape(image)[:2]
    inverse = 1.0 / factor
    # Pixel centres: the middle of the image is at (size - 1) / 2 and stays where it is.
    offset = (tf.cast(size, tf.float32) - 1.0) / 2.0 * (1.0 - inverse)
    row = tf.stack([inverse, 0.0, offset[1], 0.0, inverse, offset[0], 0.0, 0.0])
    moved = tf.raw_ops.ImageProjectiveTransformV3(
        images=image[None],
        transforms=row[None],
        output_shape=size,
        interpolation=interpolation,
        fill_mode="CONSTANT",
        fill_value=fill,
    )
    return tf.ensure_shape(moved[0], image.shape)


def _quarters(chosen: tf.Tensor, draw: tf.Tensor) -> tf.Tensor:
    """1, 2 or 3 quarter turns with equal probability where chosen, else 0; int32."""
    return tf.where(chosen, 1 + tf.cast(draw * 3.0, tf.int32), 0)
