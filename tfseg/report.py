"""One HTML page that shows what a run did: pictures side by side, scores, and where every output lies."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import shapely

from tfseg.data.cohort import CohortRow
from tfseg.files import write_text
from tfseg.infer.instance_outputs import DETECTIONS
from tfseg.infer.outputs import MASK
from tfseg.infer.segmentation import HEATMAP
from tfseg.slides.annotations import load_annotation
from tfseg.slides.base import Slide, open_slide
from tfseg.slides.class_table import ClassTable
from tfseg.slides.geojson import read_geojson
from tfseg.slides.label_raster import LabelRaster
from tfseg.slides.rasterise import PixelGrid

PICTURE_PX = 560
"""Longer side of the pictures of :func:`slide_pictures`."""

OUTLINE = (0, 230, 0)
"""Of nuclei: green, which haematoxylin, eosin and DAB are not."""

STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 1280px; padding: 0 1rem; color: #222; }
h1 { margin-bottom: 0; } h2 { margin-top: 2.2rem; border-bottom: 1px solid #ddd; padding-bottom: .2rem; }
table { border-collapse: collapse; margin: .8rem 0; } th, td { padding: .3rem .8rem; text-align: right; }
th:first-child, td:first-child { text-align: left; } tr:nth-child(even) { background: #f6f6f6; }
.pictures { display: grid; grid-template-columns: repeat(auto-fit, minmax(260px, 1fr)); gap: .6rem; }
figure { margin: 0; } figure img { width: 100%; border: 1px solid #ccc; } figcaption { font-size: 13px; color: #555; }
code { background: #f2f2f2; padding: .1rem .3rem; } ul { padding-left: 1.2rem; } .note { color: #555; }
.key { display: inline-block; width: .8em; height: .8em; margin: 0 .3em 0 1em; border: 1px solid #999; }
"""


@dataclass(frozen=True)
class SlidePictures:
    """One slide of the report: its name, a line under it and pictures by caption (uint8 RGB (H, W, 3))."""

    name: str
    line: str
    pictures: Mapping[str, np.ndarray]


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """An HTML table; floats with three decimals."""

    def cell(value: object) -> str:
        return html.escape(f"{value:.3f}" if isinstance(value, float) else str(value))

    head = "".join(f"<th>{html.escape(name)}</th>" for name in header)
    body = "".join("<tr>" + "".join(f"<td>{cell(value)}</td>" for value in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def picture(image: np.ndarray, caption: str) -> str:
    """A figure with the picture inside the page, so that the page can be sent as one file."""
    import cv2

    ok, data = cv2.imencode(".png", np.ascontiguousarray(image[..., ::-1]))
    if not ok:
        raise ValueError(f"cannot encode the picture {caption!r} of shape {image.shape}")
    text = base64.b64encode(data.tobytes()).decode("ascii")
    caption = html.escape(caption)
    return (
        f'<figure><img alt="{caption}" src="data:image/png;base64,{text}"><figcaption>{caption}</figcaption></figure>'
    )


def write_report(
    path: str | Path,
    title: str,
    lines: Sequence[str],
    tables: Mapping[str, str],
    pictures: Mapping[str, Sequence[SlidePictures]],
    files: Mapping[str, Path],
) -> Path:
    """Writes the page.

    Args:
        path: the HTML file.
        title: headline.
        lines: sentences under it, plain text.
        tables: heading → HTML table (see :func:`table`).
        pictures: heading → slides, a row of pictures each.
        files: what it is → where it lies; shown relative to the page.
    """
    path = Path(path)
    parts = [f"<h1>{html.escape(title)}</h1>"]
    parts += [f'<p class="note">{html.escape(line)}</p>' for line in lines]
    for heading, body in tables.items():
        parts.append(f"<h2>{html.escape(heading)}</h2>{body}")
    for heading, slides in pictures.items():
        parts.append(f"<h2>{html.escape(heading)}</h2>")
        for slide in slides:
            figures = "".join(picture(image, caption) for caption, image in slide.pictures.items())
            parts.append(f"<h3>{html.escape(slide.name)}</h3><p>{html.escape(slide.line)}</p>")
            parts.append(f'<div class="pictures">{figures}</div>')
    if files:
        parts.append("<h2>Files</h2><ul>")
        for what, where in files.items():
            shown = _relative(where, path.parent)
            parts.append(
                f'<li>{html.escape(what)}: <a href="{html.escape(shown)}"><code>{html.escape(shown)}</code></a></li>'
            )
        parts.append("</ul>")
    body = "\n".join(parts)
    page = f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
    write_text(path, f"{page}<style>{STYLE}</style></head><body>\n{body}\n</body></html>\n")
    return path


def _relative(path: Path, folder: Path) -> str:
    try:
        return path.resolve().relative_to(folder.resolve()).as_posix()
    except ValueError:
        return str(path)


def slide_pictures(row: CohortRow, folder: Path, classes: ClassTable | None = None) -> dict[str, np.ndarray]:
    """Slide, heatmap (where there is one), segmentation and ground truth, each at most ``PICTURE_PX`` a side.

    Args:
        row: the slide and its annotation.
        folder: what ``tfseg segment`` wrote for it.
        classes: of the annotation; None takes :meth:`ClassTable.h2g`.
    """
    import cv2

    with open_slide(row.slide, mpp=row.mpp) as slide:
        width, height = slide.size
        step = max(slide.size) / PICTURE_PX
        shape = (round(height / step), round(width / step))
        image = slide.fit(shape)
        grid = PixelGrid(0.0, 0.0, width / shape[1], height / shape[0], shape[1], shape[0])
        truth = load_annotation(row.annotation or "", slide, classes).labels_on(grid)
        found = _raster(folder / MASK, slide, grid)
        heat = _raster(folder / HEATMAP, slide, grid) if (folder / HEATMAP).is_file() else None
    pictures = {"slide": image}
    if heat is not None:
        colours = cv2.applyColorMap(heat, cv2.COLORMAP_JET)[..., ::-1]
        pictures["heatmap"] = cv2.addWeighted(image, 0.5, np.ascontiguousarray(colours), 0.5, 0)
    pictures["segmentation"] = tint(image, found == 1, (200, 0, 0))
    pictures["ground truth"] = tint(image, truth == 1, (0, 130, 0))
    return pictures


def nuclei_pictures(image: np.ndarray, folder: Path) -> dict[str, np.ndarray]:
    """A picture, and the outlines of its nuclei on it, twice as large.

    Args:
        image: uint8 RGB (H, W, 3), level-0 pixels.
        folder: what ``tfseg segment --nuclei`` wrote for it.
    """
    import cv2

    large = cv2.resize(image, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC)
    shown = large.copy()
    for nucleus in read_geojson(folder / DETECTIONS):
        for ring in shapely.get_rings(shapely.get_parts(nucleus.polygon)):
            # OpenCV counts from the centre of the first pixel.
            points = np.rint(2 * shapely.get_coordinates(ring) - 0.5).astype(np.int32)
            cv2.polylines(shown, [points], True, OUTLINE)
    return {"picture": large, "nuclei": shown}


def _raster(path: Path, slide: Slide, grid: PixelGrid) -> np.ndarray:
    raster = LabelRaster(path, slide.size, slide.mpp)
    try:
        return raster.read(grid)
    finally:
        raster.close()


def tint(image: np.ndarray, region: np.ndarray, color: tuple[int, int, int]) -> np.ndarray:
    """The picture with a region in half-transparent colour and its outline."""
    import cv2

    shown = image.copy()
    shown[region] = (0.6 * image[region] + 0.4 * np.asarray(color)).astype(np.uint8)
    outlines, _ = cv2.findContours(region.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    return cv2.drawContours(shown, outlines, -1, color, 2)
