"""Polygons in the GeoJSON dialect of QuPath: streamed out, and read back from what QuPath and others write.

Source of the format: QuPath's ``GsonTools``, ``QuPathTypeAdapters`` and ``ROITypeAdapters``. Coordinates are level-0
pixels of the slide as QuPath shows it, x to the right, y down.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import logging
import math
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
import shapely

from tfseg.files import atomic_path
from tfseg.types import AnnotationError

AREA = "Area µm^2"
"""Name under which QuPath itself stores the area of an object."""

_NAMESPACE = uuid.UUID("6f6b1b0e-5d0f-5c0c-9a55-3f0c9f3b1d2a")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PolygonFeature:
    """One object of a GeoJSON file.

    Attributes:
        polygon: Polygon or MultiPolygon, with or without holes, in level-0 pixels. As read: unchecked, may be invalid;
            empty where the file has a ring of fewer than three points.
        class_name: name of the class; "" where the object has none. Derived classes read "Tumor: Positive".
        color: red, green, blue in 0..255.
        name: what the user called this object.
        measurements: name → number.
        id: UUID; None lets :func:`write_geojson` derive one from the content.
        object_type: "annotation", "detection", "cell", "tile" or "tmaCore".
    """

    polygon: shapely.Polygon | shapely.MultiPolygon
    class_name: str
    color: tuple[int, int, int] = (128, 128, 128)
    name: str | None = None
    measurements: dict[str, float] = field(default_factory=dict)
    id: str | None = None
    object_type: str = "annotation"


def write_geojson(
    path: str | Path, features: Iterable[PolygonFeature], mpp: float, about: Mapping[str, str] | None = None
) -> int:
    """Writes ``features`` as a FeatureCollection that QuPath imports, one at a time, whole or not at all.

    Every feature carries a class with its colour (QuPath refuses a class without), a UUID, ``isLocked`` false and its
    finite measurements, to which "Area µm^2" is added. Coordinates have two decimals, as in QuPath. UUIDs come from
    position and content, and gzip carries no time, so the same features give the same bytes.

    Args:
        path: ``….geojson`` or ``….geojson.gz``.
        features: consumed once; never held together in memory.
        mpp: µm per level-0 pixel, for the area.
        about: written as the member "tfseg" of the collection, which other programs leave alone.

    Returns:
        The number of features written.

    Raises:
        OutputError: the target cannot be written.
    """
    number = 0
    with atomic_path(path) as temporary, _open_to_write(temporary) as out:
        member = f'"tfseg":{json.dumps(dict(about))},' if about else ""
        out.write(f'{{"type":"FeatureCollection",{member}"features":['.encode())
        for feature in features:
            out.write(b",\n" if number else b"\n")
            out.write(_encode(feature, number, mpp).encode("utf-8"))
            number += 1
        out.write(b"\n]}\n")
    return number


@contextlib.contextmanager
def _open_to_write(path: Path) -> Iterator[IO[bytes]]:
    """A plain file, or gzip without name and time in its header: the same content gives the same bytes."""
    with path.open("wb") as file:
        if path.suffix.lower() == ".gz":
            with gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0) as packed:
                yield packed  # type: ignore[misc]
        else:
            yield file


def _encode(feature: PolygonFeature, number: int, mpp: float) -> str:
    measurements = {k: float(v) for k, v in feature.measurements.items() if math.isfinite(v)}
    measurements[AREA] = round(feature.polygon.area * mpp * mpp, 2)
    properties: dict[str, Any] = {"objectType": feature.object_type}
    if feature.name:
        properties["name"] = feature.name
    if feature.class_name:
        properties["classification"] = {"name": feature.class_name, "color": [int(c) for c in feature.color]}
    properties["isLocked"] = False
    properties["measurements"] = measurements
    geometry = json.dumps(_geometry(feature.polygon), separators=(",", ":"))
    text = json.dumps(properties, separators=(",", ":"), ensure_ascii=False)
    identity = feature.id or str(uuid.uuid5(_NAMESPACE, f"{number}:{geometry}:{text}"))
    return f'{{"type":"Feature","id":"{identity}","geometry":{geometry},"properties":{text}}}'


def _geometry(shape: shapely.Polygon | shapely.MultiPolygon) -> dict[str, Any]:
    if isinstance(shape, shapely.MultiPolygon):
        return {"type": "MultiPolygon", "coordinates": [_rings(part) for part in shape.geoms]}
    return {"type": "Polygon", "coordinates": _rings(shape)}


def _rings(polygon: shapely.Polygon) -> list[list[list[float]]]:
    rings = [polygon.exterior, *polygon.interiors]
    return [(np.round(shapely.get_coordinates(ring), 2) + 0.0).tolist() for ring in rings]  # + 0.0: no -0.0


def read_geojson(path: str | Path) -> list[PolygonFeature]:
    """Reads every object with an area from a QuPath GeoJSON file.

    Taken: ``.geojson``, ``.json`` and either with ``.gz``; a FeatureCollection, a bare array of features or a single
    Feature; Polygon, MultiPolygon, and the polygons of a GeometryCollection; nested ``childObjects``. The class may be
    a string or an object with ``name`` or ``names``. Points and lines have no area: they are left out and their number
    is logged. Geometry is returned as it stands in the file (:func:`tfseg.slides.annotations.load_annotation` checks).

    Raises:
        AnnotationError: no such file, not (complete) JSON, or not GeoJSON; says where.
    """
    path = Path(path)
    content = _load(path)
    features: list[PolygonFeature] = []
    left_out = 0
    for number, item in enumerate(_objects(content, path), start=1):
        feature = _decode(item, f"{path}, feature {number}")
        if feature is None:
            left_out += 1
        else:
            features.append(feature)
    if left_out:
        _log.warning("%s: %d objects without area (points, lines) left out.", path, left_out)
    return features


def _load(path: Path) -> Any:
    try:
        raw = path.read_bytes()
        if path.suffix.lower() == ".gz":
            raw = gzip.decompress(raw)
        return json.loads(raw.decode("utf-8-sig"))
    except FileNotFoundError as error:
        raise AnnotationError(f"{path}: no such annotation file. Check the path in the manifest.") from error
    except (OSError, EOFError, ValueError) as error:
        raise AnnotationError(
            f"{path}: not readable as GeoJSON ({error}). Expected what QuPath's File > Export objects as GeoJSON "
            "writes, plain or .gz; if the copy was cut short, export it again."
        ) from error


def _objects(content: Any, path: Path) -> Iterator[dict[str, Any]]:
    """Every feature of a FeatureCollection, an array or a single Feature, children after their parent."""
    if isinstance(content, dict) and content.get("type") == "FeatureCollection":
        content = content.get("features")
    elif isinstance(content, dict) and content.get("type") == "Feature":
        content = [content]
    if not isinstance(content, list) or not all(isinstance(item, dict) for item in content):
        raise AnnotationError(
            f"{path}: not GeoJSON. Expected a FeatureCollection, an array of features or one Feature, "
            "as QuPath's File > Export objects as GeoJSON writes."
        )
    for item in content:
        yield item
        properties = item.get("properties")
        children = item.get("childObjects") or (isinstance(properties, dict) and properties.get("childObjects"))
        if children:
            yield from _objects(children, path)


def _decode(item: dict[str, Any], where: str) -> PolygonFeature | None:
    """The feature, or None where it has no area by its kind (point, line, the hierarchy's root)."""
    properties = item.get("properties") or {}
    try:
        kind = str(properties.get("objectType", "annotation"))
        polygons = _polygons(item["geometry"]) if item.get("geometry") and kind != "root" else None
        if polygons is None:
            return None
        class_name, color = _classification(properties.get("classification"))
        return PolygonFeature(
            polygon=polygons[0] if len(polygons) == 1 else shapely.MultiPolygon(polygons),
            class_name=class_name,
            color=color,
            name=properties.get("name"),
            measurements=_measurements(properties.get("measurements")),
            id=str(item["id"]) if item.get("id") else None,
            object_type=kind,
        )
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise AnnotationError(
            f"{where}: not a GeoJSON feature ({type(error).__name__}: {error}). Expected geometry with type and "
            "coordinates, and properties with classification. Mend or delete it in QuPath and export again."
        ) from error


def _polygons(geometry: dict[str, Any]) -> list[shapely.Polygon] | None:
    kind = geometry["type"]
    if kind == "Polygon":
        return [_polygon(geometry["coordinates"])]
    if kind == "MultiPolygon":
        return [_polygon(rings) for rings in geometry["coordinates"]] or [shapely.Polygon()]
    if kind == "GeometryCollection":
        parts = [_polygons(part) for part in geometry["geometries"]]
        return [polygon for part in parts if part for polygon in part] or None
    if kind in ("Point", "MultiPoint", "LineString", "MultiLineString"):
        return None
    raise ValueError(f"unknown geometry type {kind!r}")


def _polygon(rings: list[Any]) -> shapely.Polygon:
    """Empty where the outer ring has fewer than three points; holes of fewer than three points enclose nothing."""
    arrays = [np.asarray(ring, dtype=np.float64)[:, :2] if len(ring) else np.empty((0, 2)) for ring in rings]
    if not all(np.isfinite(ring).all() for ring in arrays):
        raise ValueError("coordinates that are no finite numbers")
    if not arrays or len(arrays[0]) < 3:
        return shapely.Polygon()
    return shapely.Polygon(arrays[0], [ring for ring in arrays[1:] if len(ring) >= 3])


def _classification(value: Any) -> tuple[str, tuple[int, int, int]]:
    grey = (128, 128, 128)
    if value is None or isinstance(value, str):
        return value or "", grey
    names = value.get("names")
    name = ": ".join(names) if names else value.get("name") or ""
    color = value.get("color")
    if color is None and "colorRGB" in value:  # QuPath before 0.4: a signed 32-bit ARGB number
        packed = int(value["colorRGB"])
        color = [(packed >> shift) & 255 for shift in (16, 8, 0)]
    return name, (int(color[0]), int(color[1]), int(color[2])) if color else grey


def _measurements(value: Any) -> dict[str, float]:
    """From an object {name: number} or, as older QuPath wrote, a list of {name, value}; text ("NaN") is dropped."""
    pairs = value.items() if isinstance(value, dict) else [(m["name"], m["value"]) for m in value or []]
    return {str(name): float(number) for name, number in pairs if isinstance(number, (int, float))}
