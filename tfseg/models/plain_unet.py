"""U-Net without batch norm on one field of a slide."""

from __future__ import annotations

from collections.abc import Sequence

import keras

from tfseg.models.blocks import size_pair
from tfseg.models.encode_decode import decode, encode, image_input, plain_head

WIDTHS = (64, 128, 256, 512, 1024)


def plain_unet(
    size_px: int | tuple[int, int] = 256, num_classes: int = 7, widths: Sequence[int] = WIDTHS
) -> keras.Model:
    """U-Net as the Deep Multi-Magnification paper compares with it (section 2.4, figure 4a).

    Encoder: two of (3×3 convolution with bias, same padding, ReLU) at each width, 2×2 max-pool between. Decoder stage:
    3×3 transposed convolution of stride 2 and ReLU to the width above, concatenate [skip, up], two convolutions. Head:
    3×3 convolution, ReLU, 1×1 convolution, softmax. At the defaults 34 550 663 parameters.

    Args:
        size_px: side, or (height, width), of the field; multiples of 2^(len(widths) − 1).
        num_classes: C; the paper's six and "not annotated" as class 0.
        widths: channels from the finest level to the middle.

    Returns:
        Model from {"image": (B, H, W, 3) float32 RGB in 0..255} to {"segmentation": (B, H, W, C) float32
        probabilities}.

    Raises:
        ModelError: the size does not divide; names the nearest sizes that do.

    Differs from the paper in: He's initial weights; the paper names none.
    """
    pools = len(widths) - 1
    image, x = image_input("image", size_pair(size_px, 2**pools, f"{pools} poolings"))
    x = decode(encode(x, widths, "enc"), "dec")[0]
    return keras.Model({"image": image}, {"segmentation": plain_head(x, widths[0], num_classes)}, name="plain_unet")
