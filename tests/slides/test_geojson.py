"""GeoJSON: what QuPath needs, the round trip, and what others write."""

from __future__ import annotations

import gzip
import json
import math
import uuid

import pytest
import shapely

from tfseg.slides.geojson import AREA, PolygonFeature, read_geojson, write_geojson
from tfseg.types import AnnotationError, OutputError

RING = [[0, 0], [10, 0], [10, 10], [0, 10], [0, 0]]
WITH_HOLE = shapely.Polygon([(0, 0), (20.126, 0), (20, 20), (0, 20)], [[(5, 5), (10, 5), (10, 10)]])
FEATURES = [
    PolygonFeature(WITH_HOLE, "tumour", (200, 0, 0), "tumour 1", {"Prob: tumour": 0.93, "lost": math.nan}),
    PolygonFeature(shapely.MultiPolygon([shapely.box(30, 0, 31, 1), WITH_HOLE]), "benign: duct", (0, 9, 255)),
    PolygonFeature(WITH_HOLE, "tumour", (200, 0, 0)),
]


@pytest.mark.parametrize("name", ["a.geojson", "a.geojson.gz"])
def test_round_trip(tmp_path, name):
    assert write_geojson(tmp_path / name, iter(FEATURES), mpp=0.5) == 3
    again = read_geojson(tmp_path / name)
    assert [f.class_name for f in again] == ["tumour", "benign: duct", "tumour"]
    assert [f.color for f in again] == [f.color for f in FEATURES]
    assert again[0].name == "tumour 1" and again[1].name is None
    assert again[0].measurements == {"Prob: tumour": 0.93, AREA: round(WITH_HOLE.area * 0.25, 2)}
    for before, after in zip(FEATURES, again, strict=True):
        assert type(before.polygon) is type(after.polygon)
        assert before.polygon.symmetric_difference(after.polygon).area < 0.2  # two decimals
    assert len({f.id for f in again}) == 3  # equal objects still have their own id


def test_what_qupath_asks_for(tmp_path):
    write_geojson(tmp_path / "a.geojson", FEATURES, mpp=0.5)
    content = json.loads((tmp_path / "a.geojson").read_text(encoding="utf-8"))
    assert content["type"] == "FeatureCollection"
    for feature in content["features"]:
        uuid.UUID(feature["id"])
        properties = feature["properties"]
        assert properties["objectType"] == "annotation" and properties["isLocked"] is False
        assert set(properties["classification"]) == {"name", "color"}
        assert all(isinstance(v, float) for v in properties["measurements"].values())
        rings = feature["geometry"]["coordinates"]
        rings = rings if feature["geometry"]["type"] == "Polygon" else [r for p in rings for r in p]
        assert all(ring[0] == ring[-1] for ring in rings)
        assert all(round(v, 2) == v for ring in rings for point in ring for v in point)


def test_same_features_same_bytes(tmp_path):
    for name in ("a.geojson.gz", "b.geojson.gz"):
        write_geojson(tmp_path / name, iter(FEATURES), mpp=0.5)
    assert (tmp_path / "a.geojson.gz").read_bytes() == (tmp_path / "b.geojson.gz").read_bytes()


def test_no_feature_is_still_a_collection(tmp_path):
    write_geojson(tmp_path / "a.geojson", [], mpp=0.5)
    assert read_geojson(tmp_path / "a.geojson") == []


@pytest.mark.parametrize("name", ["a.geojson", "a.geojson.gz"])
def test_features_that_fail_midway_leave_no_file(tmp_path, name):
    def broken():
        yield FEATURES[0]
        raise RuntimeError("network gone")

    with pytest.raises(RuntimeError, match="network gone"):
        write_geojson(tmp_path / name, broken(), mpp=0.5)
    assert list(tmp_path.iterdir()) == []


def test_target_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"a\.geojson"):
        write_geojson(tmp_path / "file" / "a.geojson", FEATURES, mpp=0.5)


def feature(geometry=None, **properties):
    geometry = geometry or {"type": "Polygon", "coordinates": [RING]}
    return {"type": "Feature", "geometry": geometry, "properties": properties}


def read(tmp_path, content):
    path = tmp_path / "in.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return read_geojson(path)


@pytest.mark.parametrize(
    "wrap",
    [lambda f: f, lambda f: [f], lambda f: {"type": "FeatureCollection", "features": [f]}],
    ids=["single", "array", "collection"],
)
def test_collection_array_or_single(tmp_path, wrap):
    (only,) = read(tmp_path, wrap(feature(classification="Tumor")))
    assert only.class_name == "Tumor" and only.polygon.area == 100


@pytest.mark.parametrize(
    ("classification", "name", "color"),
    [
        ("Tumor", "Tumor", (128, 128, 128)),
        ({"name": "Tumor", "color": [200, 1, 2]}, "Tumor", (200, 1, 2)),
        ({"names": ["Tumor", "Positive"], "color": [1, 2, 3]}, "Tumor: Positive", (1, 2, 3)),
        ({"name": "Tumor", "colorRGB": -3670016}, "Tumor", (200, 0, 0)),
        (None, "", (128, 128, 128)),
        ({}, "", (128, 128, 128)),
    ],
)
def test_spellings_of_a_class(tmp_path, classification, name, color):
    (only,) = read(tmp_path, feature(classification=classification))
    assert (only.class_name, only.color) == (name, color)


def test_geometries(tmp_path, caplog):
    square = {"type": "Polygon", "coordinates": [RING]}
    far = [[[x + 50, y] for x, y in RING]]
    hole = [[2, 2], [4, 2], [4, 4], [2, 4], [2, 2]]
    got = read(
        tmp_path,
        [
            feature({"type": "Polygon", "coordinates": [RING, hole]}),
            feature({"type": "MultiPolygon", "coordinates": [[RING], far]}),
            feature({"type": "GeometryCollection", "geometries": [square, {"type": "Point", "coordinates": [1, 1]}]}),
            feature({"type": "Point", "coordinates": [1, 1]}),
            feature({"type": "LineString", "coordinates": RING}),
            feature({"type": "Polygon", "coordinates": [[[0, 0], [1, 1]]]}),
            feature({"type": "Polygon", "coordinates": []}),
            {**feature(objectType="annotation"), "childObjects": [feature(objectType="tile")]},
            feature(measurements=[{"name": "a", "value": 2}, {"name": "b", "value": "NaN"}]),
        ],
    )
    assert [f.polygon.area for f in got] == [96, 200, 100, 0, 0, 100, 100, 100]
    assert [f.object_type for f in got][5:7] == ["annotation", "tile"]
    assert got[-1].measurements == {"a": 2.0}
    assert "2 objects without area" in caplog.text


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "not readable as GeoJSON"),
        ('{"type": "Topology"}', "Expected a FeatureCollection"),
        ("[1, 2]", "Expected a FeatureCollection"),
        ('[{"type": "Feature", "geometry": {"type": "Circle"}}]', "feature 1: .*Circle"),
        ('[{"type": "Feature", "geometry": {"type": "Polygon"}}]', "feature 1: .*coordinates"),
        ('[{"geometry": {"type": "Polygon", "coordinates": [[["x", 1], [2, 3], [4, 5]]]}}]', "feature 1"),
        ('[{"geometry": {"type": "Polygon", "coordinates": [[[NaN, 1], [2, 3], [4, 5]]]}}]', "finite"),
    ],
)
def test_what_is_no_geojson(tmp_path, content, says):
    with pytest.raises(AnnotationError, match=says) as error:
        read(tmp_path, content)
    assert str(tmp_path / "in.json") in str(error.value)


def test_missing_or_cut_short(tmp_path):
    with pytest.raises(AnnotationError, match="no such annotation file"):
        read_geojson(tmp_path / "none.geojson")
    path = tmp_path / "cut.geojson.gz"
    path.write_bytes(gzip.compress(b'{"type": "FeatureCollection", "features": []}')[:-12])
    with pytest.raises(AnnotationError, match="not readable"):
        read_geojson(path)
