"""Tiny slides whose right labels are known by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from tfseg.data.index import IndexConfig

SIZE = 640
MPP = 0.5
BOXES = [(128, 128, 320, 320)]
CONFIG = IndexConfig(patch_px=32, stride_px=32, mpp=1.0, label_mpp=2.0)


def slide_image(seed: int) -> np.ndarray:
    """Pink tissue in x, y = 64 … 575 on glass; its colour varies with the position, so that patches differ."""
    image = np.full((SIZE, SIZE, 3), 250, np.uint8)
    row, column = np.mgrid[64:576, 64:576]
    image[64:576, 64:576] = np.stack([150 + (row * 7 + column * 3 + seed) % 100, column % 60 + 60, row % 80 + 100], -1)
    return image


def write_annotation(path: Path, boxes: list[tuple[int, int, int, int]], class_name: str = "Tumor") -> Path:
    """Rectangles (left, top, right, bottom) in level-0 pixels as QuPath GeoJSON."""
    features = []
    for left, top, right, bottom in boxes:
        ring = [[left, top], [right, top], [right, bottom], [left, bottom], [left, top]]
        geometry = {"type": "Polygon", "coordinates": [ring]}
        properties = {"objectType": "annotation", "classification": {"name": class_name, "color": [200, 0, 0]}}
        features.append({"type": "Feature", "geometry": geometry, "properties": properties})
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return path
