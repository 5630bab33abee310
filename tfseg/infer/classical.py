"""Nuclei without a network: the three classical rows of the GB U-Net paper, with scikit-image.

Lagree et al., "A review and comparison of breast tumor cell nuclei segmentation performances using deep convolutional
neural networks", Sci. Rep. 2021, section "Classical segmentation techniques". It names the steps alone; what it leaves
open is chosen here and said so. All take nuclei to be what is dark in grey, fill small holes and remove specks as the
networks' maps do (:mod:`tfseg.infer.instances`), so that the rows differ in how they find nuclei.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from skimage.color import rgb2gray, rgb2hed
from skimage.filters import gaussian, threshold_isodata, threshold_otsu

from tfseg.infer.instances import InstanceOptions, label_instances
from tfseg.types import one_of

Image = NDArray[np.uint8]
_DEFAULT = InstanceOptions()
_FLAT = 1e-3
"""Images whose values differ by less are of one grey."""


def otsu(image: Image, options: InstanceOptions = _DEFAULT) -> NDArray[np.int32]:
    """Grey below Otsu's threshold; nuclei that touch are one.

    Args:
        image: uint8 RGB (H, W, 3).
        options: areas of holes and specks; how to split is not taken from it.

    Returns:
        int32 (H, W); all 0 where the image is of one grey.

    Raises:
        ValueError: not uint8 RGB.
    """
    return label_instances(_dark(_grey(image), threshold_otsu), replace(options, split="none"))


def watershed(image: Image, options: InstanceOptions = _DEFAULT) -> NDArray[np.int32]:
    """As :func:`otsu`, and what touches is split by a watershed on the distance to the background.

    Every maximum of the distances gets a marker, however low (``min_depth_px`` 0, no smoothing), as in the plain
    transform. Args, Returns, Raises: those of :func:`otsu`.
    """
    options = replace(options, split="distance", smoothing_px=0, min_depth_px=0)
    return label_instances(_dark(_grey(image), threshold_otsu), options)


def fiji(
    image: Image,
    options: InstanceOptions = _DEFAULT,
    *,
    channel: Literal["grey", "haematoxylin"] = "grey",
    sigma_px: float = 2.0,
    normalise: Callable[[Image], Image] | None = None,
) -> NDArray[np.int32]:
    """The steps that the paper takes in Fiji: colours normalised, grey, Gaussian, threshold, watershed.

    Each is what Fiji's menus offer first: grey is (R + G + B) / 3; the threshold IsoData (Ridler and Calvard 1978;
    Fiji's "Default" is a variant); the watershed has a marker for each maximum of the distances that is 0.5 px higher
    than the way to any higher one.

    Args:
        image: uint8 RGB (H, W, 3).
        options: areas of holes and specks; how to split is not taken from it.
        channel: "grey", as the paper says; or "haematoxylin" by colour deconvolution (Ruifrok and Johnston 2001,
            ``skimage.color.rgb2hed``), which does not take dark stroma for nuclei.
        sigma_px: of the Gaussian; Fiji's own default, 0.5 µm at 40x.
        normalise: changes the colours first, such as ``apply`` of what ``tfseg.data.colour_normalisation.fit`` gives.
            None for images that are normalised already.

    Returns, Raises: those of :func:`otsu`.
    """
    one_of("channel", channel, ("grey", "haematoxylin"))
    image = normalise(image) if normalise else image
    check_image(image)
    grey = gaussian(image.mean(axis=2) / 255 if channel == "grey" else -rgb2hed(image)[..., 0], sigma_px)
    options = replace(options, split="distance", smoothing_px=0, min_depth_px=0.5)
    return label_instances(_dark(grey, threshold_isodata), options)


CLASSICAL = {"otsu": otsu, "watershed": watershed, "fiji": fiji}


def _grey(image: Image) -> NDArray[np.float64]:
    """Luminance 0..1, 0.2125 R + 0.7154 G + 0.0721 B."""
    check_image(image)
    return np.asarray(rgb2gray(image))


def check_image(image: Image) -> None:
    """Raises ValueError unless ``image`` is uint8 RGB (H, W, 3)."""
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        got = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
        raise ValueError(
            f"expected a uint8 RGB image (H, W, 3). Received: {got}. Drop an alpha channel; scale to 0..255."
        )


def _dark(grey: NDArray[np.float64], threshold: Callable[[NDArray[np.float64]], float]) -> NDArray[np.bool_]:
    if grey.size == 0 or np.ptp(grey) < _FLAT:
        return np.zeros(grey.shape, bool)
    return grey < threshold(grey)
