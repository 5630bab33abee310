"""Tiny slides with partial annotation of several classes, counted by hand."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
from small_cohort import MPP, SIZE, slide_image

from tfseg.data.index import DenseIndexConfig

CONFIG = DenseIndexConfig(target_px=64, stride_px=64)
"""At 0.5 µm/px, the slides' own: 10 × 10 cells of 64 level-0 px."""

Box = tuple[int, int, int, int]

BOXES: list[tuple[str, Box]] = [
    ("carcinoma", (128, 128, 192, 192)),  # cell (2, 2): 4096 px
    ("benign epithelial", (192, 128, 200, 136)),  # cell (3, 2): 64 px, 1.56 %
    ("stroma", (256, 128, 262, 134)),  # cell (4, 2): 36 px, 0.88 %: too few
    ("adipose", (320, 128, 384, 192)),  # cell (5, 2): 4096 px, less …
    ("carcinoma", (320, 128, 330, 138)),  # … 100 px of carcinoma on top of it
    ("necrotic", (320, 320, 448, 384)),  # cells (5, 5) and (6, 5): 4096 px each
]
WINDOWS = {(2, 2), (3, 2), (5, 2), (5, 5), (6, 5)}
PIXELS = {
    "not annotated": 0,
    "carcinoma": 4096 + 100,
    "benign epithelial": 64,
    "background": 0,
    "stroma": 0,
    "necrotic": 2 * 4096,
    "adipose": 4096 - 100,
}


def write_boxes(path: Path, boxes: list[tuple[str, Box]]) -> Path:
    """Rectangles with classes as QuPath GeoJSON."""
    features = []
    for name, (left, top, right, bottom) in boxes:
        ring = [[left, top], [right, top], [right, bottom], [left, bottom], [left, top]]
        properties = {"objectType": "annotation", "classification": {"name": name, "color": [0, 0, 0]}}
        geometry = {"type": "Polygon", "coordinates": [ring]}
        features.append({"type": "Feature", "geometry": geometry, "properties": properties})
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return path


def write_cohort(folder: Path, slides: list[tuple[str, list[tuple[str, Box]] | None]]) -> Path:
    """Slides (split, boxes or None for no annotation) → manifest."""
    lines = ["slide,annotation,split,stain,mpp"]
    for k, (split, boxes) in enumerate(slides):
        cv2.imwrite(str(folder / f"s{k}.png"), slide_image(k)[..., ::-1])
        name = "" if boxes is None else write_boxes(folder / f"s{k}.geojson", boxes).name
        lines.append(f"s{k}.png,{name},{split},HE,{MPP}")
    path = folder / "cohort.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def cell(x: float, y: float) -> tuple[int, int]:
    """(column, row) of the window with this centre."""
    assert 0 <= x < SIZE and 0 <= y < SIZE
    return int(x // 64), int(y // 64)
