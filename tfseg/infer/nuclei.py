"""From a picture to its nuclei by a dense network: overlapping tiles, blended, then instances.

A network of nuclei is a dense network (``ModelSpec.dense``) of the classes background and nucleus, or background,
nucleus (its inside) and border, whose ``ModelSpec.instances`` says how its output becomes instances. Pictures are taken
at the network's µm/px: whoever calls scales them.
"""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tfseg.infer.blend import Blend
from tfseg.infer.dense import predicted_rows
from tfseg.infer.instances import InstanceOptions, label_instances
from tfseg.infer.predictors import Predictor
from tfseg.infer.tiles import Streaming
from tfseg.infer.windows import check_dense, dense_grid
from tfseg.slides.base import open_slide
from tfseg.types import NUCLEI_BORDER_CLASSES, NUCLEI_CLASSES, ModelError, ModelSpec, SlideError

OVERLAP = 0.5
"""Part of a tile that the next one sees, too."""


def predict_image(
    predict: Predictor, spec: ModelSpec, image: NDArray[np.uint8], overlap: float = OVERLAP, batch_size: int = 4
) -> NDArray[np.float32]:
    """Class probabilities of every pixel of a picture.

    The network's tiles overlap and are blended: p = Σ w·p / Σ w with the weights of :func:`tfseg.infer.blend.taper`.
    Beyond its edges the picture is mirrored, as often as it takes to fill a tile where it is smaller than one. The
    result does not depend on ``batch_size``, beyond rounding inside the network.

    Args:
        predict: the network: float32 RGB (B, h, w, 3), 0..255 → probabilities (B, h, w, C).
        spec: its spec; ``instances`` may be None.
        image: uint8 RGB (H, W, 3) in pixels of ``spec.output_mpp`` µm.
        overlap: part of a tile that the next one sees, too, 0 to less than 1.
        batch_size: tiles a call of the network.

    Returns:
        float32 (H, W, C), C as in ``spec.classes``.

    Raises:
        ModelError: not a dense network, an overlap or batch that cannot be, or the network returns something else than
            it says.
        SlideError: a picture that is not uint8 RGB.
    """
    check_dense(spec)
    assert spec.output_mpp is not None
    image = np.asarray(image)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise SlideError(
            f"a picture of nuclei: expected uint8 RGB (H, W, 3), 0..255. Received: {image.dtype} {image.shape}. Of "
            "grey pictures repeat the channel three times."
        )
    streaming = Streaming(batch_size)
    slide = open_slide([image], spec.output_mpp)
    grid = dense_grid(slide, spec, stride_of(spec, overlap))
    out = np.empty((*image.shape[:2], len(spec.classes)), np.float32)
    blend, wanted = Blend(grid, len(spec.classes)), np.ones(grid.shape, bool)
    done = 0
    rows = predicted_rows(slide, predict, spec, grid, wanted, 0, "reflect", streaming)
    with contextlib.closing(rows):
        for row, tiles in rows:
            for column, values in tiles:
                blend.add(row, column, values)
            end, top = grid.rows_done_after(row), grid.corner(row, 0)[0]
            if end > done:
                out[done:end] = blend.sums[done - top : end - top] / blend.total[done - top : end - top, :, None]
                done = end
            blend.advance()
    return out


def label_image(
    predict: Predictor, spec: ModelSpec, image: NDArray[np.uint8], overlap: float = OVERLAP, batch_size: int = 4
) -> NDArray[np.int32]:
    """The nuclei of a picture, by :func:`predict_image` and :func:`tfseg.infer.instances.label_instances`.

    Args:
        predict, spec, image, overlap, batch_size: as of :func:`predict_image`; ``spec.instances`` says how.

    Returns:
        int32 (H, W), 0 background, then 1, 2 … in order of the first pixel.

    Raises:
        ModelError: as :func:`predict_image`, or not a network of nuclei with ``instances``.
        SlideError: a picture that is not uint8 RGB.
    """
    options, planes = nuclei_options(spec), nuclei_classes(spec)
    found = predict_image(predict, spec, image, overlap, batch_size)
    return label_instances(found[..., planes], options)


def stride_of(spec: ModelSpec, overlap: float = OVERLAP) -> int:
    """Pixels from a tile to the next, so that neighbours share ``overlap`` of a tile's shorter side; at least 1.

    Raises:
        ModelError: not a dense network, or an overlap that is not from 0 to less than 1.
    """
    check_dense(spec)
    assert spec.output_px is not None
    if not 0 <= overlap < 1:
        raise ModelError(f"overlap: expected a part of a tile from 0 to less than 1. Received: {overlap}.")
    return max(1, round(min(spec.output_px) * (1 - overlap)))


def nuclei_options(spec: ModelSpec, where: str = "") -> InstanceOptions:
    """How the network's output becomes instances, checked.

    Args:
        spec: of the network.
        where: its folder, for the message.

    Raises:
        ModelError: the spec says nothing of it, or what cannot be.
    """
    where = where or spec.name
    if spec.instances is None:
        raise ModelError(
            f"{where}: its config.json does not say how its output becomes nuclei (`instances`). Take a network that "
            "was trained on nuclei; or choose a threshold (tfseg.infer.instances.choose_threshold) and add the fields "
            'of InstanceOptions, for example "instances": {"threshold": 0.5, "split": "distance"}.'
        )
    nuclei_classes(spec)
    content: dict[str, Any] = spec.instances
    try:
        options = InstanceOptions(**content)
        options.check()
    except TypeError as error:
        known = ", ".join(InstanceOptions.__dataclass_fields__)
        raise ModelError(f"{where}: `instances` of its config.json: {error}. Known: {known}.") from error
    except ModelError as error:
        raise ModelError(f"{where}: `instances` of its config.json: {error}") from error
    if options.split == "border" and len(spec.classes) != len(NUCLEI_BORDER_CLASSES):
        raise ModelError(f'{where}: split "border" needs a network with a class border. Split by "distance".')
    return options


def nuclei_classes(spec: ModelSpec) -> list[int]:
    """The classes whose probabilities :func:`tfseg.infer.instances.label_instances` takes: nucleus, or all three.

    Raises:
        ModelError: the classes are not background and nucleus, with or without border, in that order.
    """
    names = [one.name for one in spec.classes]
    if names == [one.name for one in NUCLEI_CLASSES]:
        return [1]
    if names == [one.name for one in NUCLEI_BORDER_CLASSES]:
        return [0, 1, 2]
    raise ModelError(
        f"{spec.name}: not a network of nuclei. Expected the classes background and nucleus, or background, nucleus "
        f"and border. Its classes are: {', '.join(names)}."
    )
