"""One picture per image that shows its labelled nuclei: their outlines, by what a check found."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray
from skimage.segmentation import find_boundaries

_ALONE, _TOUCHING, _IN_PIECES = (0, 170, 0), (255, 220, 0), (230, 0, 0)
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_MAX_SIDE_PX = 2000


def draw_nuclei(
    name: str,
    image: NDArray[np.uint8],
    labels: NDArray[np.int32],
    touching: NDArray[np.int64],
    in_pieces: NDArray[np.int64],
) -> NDArray[np.uint8]:
    """The image with the outermost pixels of every nucleus coloured: touching ones yellow, those in pieces red.

    Args:
        name: written below.
        image: uint8 RGB (H, W, 3).
        labels: int32 (H, W), 0 background.
        touching, in_pieces: ids of nuclei; who is both is drawn as in pieces.

    Returns:
        uint8 RGB: the image, every n-th pixel of it where it is larger than 2000 px, and a legend below.
    """
    colors = np.full((int(labels.max(initial=0)) + 1, 3), _ALONE, np.uint8)
    colors[touching] = _TOUCHING
    colors[in_pieces] = _IN_PIECES
    step = -(-max(labels.shape) // _MAX_SIDE_PX)
    drawn, ids = image[::step, ::step].copy(), labels[::step, ::step]
    outline = find_boundaries(ids, mode="inner")
    drawn[outline] = colors[ids[outline]]
    return np.concatenate([drawn, _legend(drawn.shape[1], name, len(colors) - 1, len(touching), len(in_pieces))])


def _legend(width: int, name: str, nuclei: int, touching: int, in_pieces: int) -> NDArray[np.uint8]:
    lines = [(f"{name}", (0, 0, 0)), (f"{nuclei} nuclei", _ALONE), (f"{touching} touching", _TOUCHING)]
    lines += [(f"{in_pieces} in pieces", _IN_PIECES)]
    strip = np.full((18 * len(lines) + 8, width, 3), 255, np.uint8)
    for row, (text, color) in enumerate(lines):
        base = 18 * (row + 1)
        if row:
            cv2.rectangle(strip, (8, base - 10), (19, base), color, -1)
        cv2.putText(strip, text, (26 if row else 8, base), _FONT, 0.45, (0, 0, 0), 1, cv2.LINE_AA)
    return strip
