"""Deep Multi-Magnification Networks: one target, seen through concentric fields at several magnifications."""

from __future__ import annotations

from collections.abc import Sequence

import keras
from keras import layers

from tfseg.geometry import check_fields, field_name, join_depth, magnification_of
from tfseg.models.blocks import Tensor, size_pair
from tfseg.models.encode_decode import Features, crop_field, decode, encode, image_input, join, plain_head, plain_up

MPPS = (0.5, 1.0, 2.0)
FULL_WIDTHS = (64, 128, 256, 512, 1024)
HALF_WIDTHS = (32, 64, 128, 256, 512)

Size = int | tuple[int, int]


def dmmn_s2(
    size_px: Size = 256, num_classes: int = 7, mpps: Sequence[float] = MPPS, widths: Sequence[int] = FULL_WIDTHS
) -> keras.Model:
    """DMMN-S2, single encoder and single decoder (Ho et al. 2021, section 2.4, figure 4b).

    :func:`tfseg.models.plain_unet.plain_unet` on the fields stacked as channels, pixel on pixel: nothing tells the
    network that they are of different sizes. At the defaults 34 554 119 parameters.

    Args:
        size_px: side, or (height, width), of every field; multiples of 2^(len(widths) − 1).
        num_classes: C; the paper's six and "not annotated" as class 0.
        mpps: µm/px of the fields, the target's first, each coarser one 2^n times the target's.
        widths: channels from the finest level to the middle.

    Returns:
        Model from {"image_20x": (B, H, W, 3), "image_10x": …, "image_5x": …} float32 RGB in 0..255 to
        {"segmentation": (B, H, W, C)} float32 probabilities of the pixels of the first field.

    Raises:
        ModelError: the size does not divide, naming the nearest sizes that do; or the fields do not fit together.

    Differs from the paper in: He's initial weights; the paper names none.
    """
    pools, _ = _checked(mpps, widths)
    inputs, images = _fields(size_px, mpps, 2**pools)
    x = layers.Concatenate(name="fields_cat")(images)
    x = decode(encode(x, widths, "enc"), "dec")[0]
    return _model(inputs, x, widths, num_classes, "dmmn_s2")


def dmmn_ms(
    size_px: Size = 256, num_classes: int = 7, mpps: Sequence[float] = MPPS, widths: Sequence[int] = HALF_WIDTHS
) -> keras.Model:
    """DMMN-MS, an encoder a field and a single decoder (Ho et al. 2021, section 2.4, figure 4c).

    At every depth the maps of a field 2^n times coarser are cropped to the target's field, 1/2^n of their side, and go
    through n transposed convolutions (3×3, stride 2, ReLU) of their width, after which their pixels are the target's.
    The decoder's map of each depth is concatenated with them before it goes up; at the finest they enter the last
    block beside the skip. At the defaults 30 647 207 parameters.

    Args, Returns, Raises: as :func:`dmmn_s2`, but the size must divide by 2^(len(widths) + n), n that of the coarsest
    field: else the deepest map's crop would fall between pixels.

    Differs from the paper in: He's initial weights; the paper names none.
    """
    pools, ratio = _checked(mpps, widths)
    inputs, images = _fields(size_px, mpps, 2 ** (pools + 1) * ratio)
    target, *context = (encode(x, widths, f"enc_{_tag(mpp)}") for x, mpp in zip(images, mpps, strict=True))
    fitted: dict[int, list[Tensor]] = {
        depth: [
            _fit(features[depth], depth, mpp, mpps[0], x, f"fit_{_tag(mpp)}_d{depth}")
            for features, mpp in zip(context, mpps[1:], strict=True)
        ]
        for depth, x in target.items()
    }
    x = decode(target, "dec", hooks={depth: fitted[depth] for depth in fitted if depth}, beside={0: fitted[0]})[0]
    return _model(inputs, x, widths, num_classes, "dmmn_ms")


def dmmn_m2s(
    size_px: Size = 256, num_classes: int = 7, mpps: Sequence[float] = MPPS, widths: Sequence[int] = HALF_WIDTHS
) -> keras.Model:
    """DMMN-M2S, an encoder and decoder a field, a single concatenation (Ho et al. 2021, section 2.4, figure 4d).

    The last map of a field 2^n times coarser is cropped to the target's field and goes through n transposed
    convolutions (3×3, stride 2, ReLU) of its width; the maps of all fields are concatenated before the head. At the
    defaults 25 947 047 parameters.

    Args, Returns, Raises: as :func:`dmmn_s2`, but the size must divide by 2^(n + 1) too, n that of the coarsest field.

    Differs from the paper in: He's initial weights; the paper names none.
    """
    pools, ratio = _checked(mpps, widths)
    inputs, images = _fields(size_px, mpps, max(2**pools, 2 * ratio))
    target, *context = (_unet(x, widths, mpp) for x, mpp in zip(images, mpps, strict=True))
    others = [
        _fit(maps[0], 0, mpp, mpps[0], target[0], f"fit_{_tag(mpp)}_d0")
        for maps, mpp in zip(context, mpps[1:], strict=True)
    ]
    return _model(inputs, join(target[0], others, "fields"), widths, num_classes, "dmmn_m2s")


def dmmn_m3(
    size_px: Size = 256, num_classes: int = 7, mpps: Sequence[float] = MPPS, widths: Sequence[int] = HALF_WIDTHS
) -> keras.Model:
    """DMMN-M3, an encoder and decoder a field, many concatenations (Ho et al. 2021, section 2.4, figure 4e).

    Before each transposed convolution of the target's decoder, the decoder maps of the other fields whose pixels are
    of the same size (``tfseg.geometry.join_depth``) are cropped at their centre and concatenated: the whole of the
    wider fields has been encoded and decoded before anything is cut off. At the defaults 27 071 303 parameters.

    Args, Returns, Raises: as :func:`dmmn_s2`, but the size must divide by 2^len(widths), else the deepest crop would
    fall between pixels.

    Differs from the paper in: He's initial weights; the paper names none.
    """
    pools, _ = _checked(mpps, widths)
    inputs, images = _fields(size_px, mpps, 2 ** (pools + 1))
    context = [_unet(x, widths, mpp) for x, mpp in zip(images[1:], mpps[1:], strict=True)]
    hooks: dict[int, list[Tensor]] = {}
    for maps, mpp in zip(context, mpps[1:], strict=True):
        for depth in range(1, len(widths)):
            other = join_depth(depth, mpps[0], mpp)
            if other is not None:
                hooks.setdefault(depth, []).append(maps[other])
    x = _unet(images[0], widths, mpps[0], hooks)[0]
    return _model(inputs, x, widths, num_classes, "dmmn_m3")


def _tag(mpp: float) -> str:
    """What marks a field's layers: "20x"."""
    return f"{magnification_of(mpp):g}x"


def _checked(mpps: Sequence[float], widths: Sequence[int]) -> tuple[int, int]:
    """(number of poolings, how many times coarser than the target the coarsest field is)."""
    pools = len(widths) - 1
    check_fields(mpps, pools)
    return pools, round(mpps[-1] / mpps[0])


def _fields(size_px: Size, mpps: Sequence[float], divisor: int) -> tuple[dict[str, Tensor], list[Tensor]]:
    """Inputs by name and images in [0, 1], the target's first; sizes are multiples of ``divisor``."""
    size = size_pair(size_px, divisor, "poolings, and crops between whole pixels")
    inputs, images = {}, []
    for mpp in mpps:
        inputs[field_name(mpp)], image = image_input(field_name(mpp), size)
        images.append(image)
    return inputs, images


def _unet(x: Tensor, widths: Sequence[int], mpp: float, hooks: dict[int, list[Tensor]] | None = None) -> Features:
    """A U-Net without head: its decoder's maps."""
    return decode(encode(x, widths, f"enc_{_tag(mpp)}"), f"dec_{_tag(mpp)}", hooks=hooks)


def _fit(x: Tensor, depth: int, mpp: float, target_mpp: float, like: Tensor, name: str) -> Tensor:
    """The part of a coarser field's map that covers the target, brought to the pixels of ``like``."""
    width = x.shape[-1]
    x = crop_field(x, mpp * 2**depth, like, target_mpp * 2**depth, name)
    for step in range(1, (join_depth(0, mpp, target_mpp) or 0) + 1):
        x = plain_up(x, width, f"{name}_{step}")
    return x


def _model(inputs: dict[str, Tensor], x: Tensor, widths: Sequence[int], num_classes: int, name: str) -> keras.Model:
    return keras.Model(inputs, {"segmentation": plain_head(x, widths[0], num_classes)}, name=name)
