"""Readers of annotation files: QuPath GeoJSON, ASAP XML, Aperio ImageScope XML. They read; they judge nothing."""

from __future__ import annotations

import logging
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import shapely
from numpy.typing import NDArray

from tfseg.slides.geojson import read_geojson
from tfseg.types import AnnotationError

_ELLIPSE_POINTS = 256
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DrawnObject:
    """An object as it stands in a file.

    Attributes:
        polygon: Polygon or MultiPolygon; unchecked; empty where there are fewer than three points.
        class_name: "" where the file names none.
        place: where in the file, for messages: "feature 3 (id 12ab…)".
        is_hole: to be cut out of the objects of the same ``layer``.
        layer: number of the layer that holds it.
    """

    polygon: shapely.Polygon | shapely.MultiPolygon
    class_name: str
    place: str
    is_hole: bool = False
    layer: int = 0


def read_objects(path: Path) -> list[DrawnObject]:
    """Every annotated area of a ``.geojson``, ``.json``, ``.gz`` or ``.xml`` file, in the order of the file.

    Raises:
        AnnotationError: missing or unreadable, or none of the known formats.
    """
    if path.suffix.lower() == ".xml":
        return _read_xml(path)
    objects = [
        DrawnObject(feature.polygon, feature.class_name, f"feature {number}" + _named(feature.id, feature.name))
        for number, feature in enumerate(read_geojson(path), start=1)
        if feature.object_type == "annotation"
    ]
    return objects


def _named(identity: str | None, name: str | None) -> str:
    parts = [f"id {identity}" if identity else "", f"name {name!r}" if name else ""]
    text = ", ".join(part for part in parts if part)
    return f" ({text})" if text else ""


def _read_xml(path: Path) -> list[DrawnObject]:
    try:
        root = ElementTree.parse(path).getroot()
    except FileNotFoundError as error:
        raise AnnotationError(f"{path}: no such annotation file. Check the path in the manifest.") from error
    except (OSError, ElementTree.ParseError) as error:
        raise AnnotationError(
            f"{path}: not readable as XML ({error}). Expected a file of ASAP or Aperio ImageScope; save it again there."
        ) from error
    try:
        if root.tag == "ASAP_Annotations":
            return _asap(root, path)
        if root.tag == "Annotations":
            return _aperio(root, path)
    except (KeyError, TypeError, ValueError) as error:
        raise AnnotationError(
            f"{path}: an object lacks or garbles {error}. Mend it in the program that drew it."
        ) from error
    raise AnnotationError(
        f"{path}: the XML's root is <{root.tag}>. Expected <ASAP_Annotations> (ASAP) or <Annotations> (ImageScope)."
    )


def _asap(root: ElementTree.Element, path: Path) -> list[DrawnObject]:
    """Polygon, Rectangle and Spline (its points joined by straight lines); the class is the group it is part of."""
    objects = []
    left_out = 0
    for number, item in enumerate(root.iter("Annotation"), start=1):
        if item.get("Type") not in ("Polygon", "Rectangle", "Spline"):
            left_out += 1
            continue
        corners = sorted(item.iter("Coordinate"), key=lambda corner: int(corner.attrib["Order"]))
        points = _points(corners)
        if item.get("Type") == "Rectangle" and len(points):
            points = _rectangle(points)
        group = item.get("PartOfGroup") or ""
        place = f"Annotation {number}" + _named(None, item.get("Name"))
        objects.append(DrawnObject(_polygon(points), "" if group == "None" else group, place))
    _note(path, left_out)
    return objects


def _aperio(root: ElementTree.Element, path: Path) -> list[DrawnObject]:
    """Regions of type 0 (outline), 1 (rectangle), 2 (ellipse); the class is the layer's name or the region's text."""
    objects = []
    left_out = 0
    for layer, annotation in enumerate(root.iter("Annotation"), start=1):
        for number, region in enumerate(annotation.iter("Region"), start=1):
            kind = region.get("Type", "0")
            if kind not in ("0", "1", "2"):
                left_out += 1
                continue
            points = _points(list(region.iter("Vertex")))
            if kind == "1" and len(points):
                points = _rectangle(points)
            elif kind == "2" and len(points):
                points = _ellipse(points)
            name = annotation.get("Name") or region.get("Text") or ""
            place = f"layer {layer}, Region {region.get('Id', number)}"
            objects.append(DrawnObject(_polygon(points), name, place, region.get("NegativeROA") == "1", layer))
    _note(path, left_out)
    return objects


def _note(path: Path, left_out: int) -> None:
    if left_out:
        _log.warning("%s: %d objects without area (points, lines, arrows) left out.", path, left_out)


def _points(corners: list[ElementTree.Element]) -> NDArray[np.float64]:
    """(N, 2) float64; a decimal comma, as some locales write, is read as a point."""
    rows = [[float(corner.attrib[axis].replace(",", ".")) for axis in "XY"] for corner in corners]
    points = np.asarray(rows, dtype=np.float64).reshape(-1, 2)
    if not np.isfinite(points).all():
        raise ValueError("coordinates that are no finite numbers")
    return points


def _rectangle(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Two opposite corners become four; four stay as they are, because a rectangle may be turned."""
    if len(points) != 2:
        return points
    (left, top), (right, bottom) = points
    return np.array([[left, top], [right, top], [right, bottom], [left, bottom]])


def _ellipse(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """The ellipse inscribed in the points' bounding box."""
    low, high = points.min(axis=0), points.max(axis=0)
    angle = np.linspace(0, 2 * np.pi, _ELLIPSE_POINTS, endpoint=False)
    return (low + high) / 2 + (high - low) / 2 * np.stack([np.cos(angle), np.sin(angle)], axis=1)


def _polygon(points: NDArray[np.float64]) -> shapely.Polygon:
    return shapely.Polygon(points) if len(points) >= 3 else shapely.Polygon()
