"""Annotations of every format, and every way in which they can be wrong."""

from __future__ import annotations

import json
import pickle
from types import SimpleNamespace

import numpy as np
import pytest
import shapely
from PIL import Image

from tfseg.slides.annotations import SKIP, ClassTable, LabelledPolygon, PolygonAnnotation, load_annotation
from tfseg.slides.geojson import PolygonFeature, write_geojson
from tfseg.slides.rasterise import PixelGrid
from tfseg.types import IGNORE, AnnotationError, ClassSpec, Window

SLIDE = SimpleNamespace(size=(200, 100), mpp=0.5)
WHOLE = Window(100, 50, 200, 100, 0.5)
SQUARE = shapely.box(10, 20, 30, 40)
ISLAND = shapely.box(15, 25, 20, 30)


def geojson(tmp_path, *features):
    path = tmp_path / "slide.geojson"
    write_geojson(path, [PolygonFeature(polygon, name) for polygon, name in features], 0.5)
    return path


def raw(tmp_path, ring, **properties):
    path = tmp_path / "raw.geojson"
    geometry = {"type": "Polygon", "coordinates": [ring]}
    path.write_text(json.dumps([{"type": "Feature", "id": "ab", "geometry": geometry, "properties": properties}]))
    return path


def xml(tmp_path, text):
    path = tmp_path / "slide.xml"
    path.write_text(text, encoding="utf-8")
    return path


def expected(*boxes, rest=0):
    labels = np.full((100, 200), rest, np.uint8)
    for (left, top, right, bottom), label in boxes:
        labels[top:bottom, left:right] = label
    return labels


def same(annotation, *boxes, rest=0):
    return np.array_equal(annotation.labels(WHOLE, 0.5), expected(*boxes, rest=rest))


class TestLabels:
    def test_smaller_lies_on_top_whatever_the_order(self, tmp_path):
        boxes = ((10, 20, 30, 40), 1), ((15, 25, 20, 30), 0)
        shapes = [(SQUARE, "Tumor"), (ISLAND, "Stroma")]
        assert same(load_annotation(geojson(tmp_path, *shapes), SLIDE), *boxes)
        assert same(load_annotation(geojson(tmp_path, *shapes[::-1]), SLIDE), *boxes)

    def test_outside_the_slide_and_rest(self, tmp_path):
        annotation = load_annotation(geojson(tmp_path, (shapely.box(-50, -50, 20, 10), "tumour")), SLIDE)
        labels = annotation.labels(Window(0, 0, 40, 40, 0.5), 0.5)
        assert (labels[:20] == IGNORE).all() and (labels[:, :20] == IGNORE).all()
        assert (labels[20:30, 20:] == 1).all() and (labels[30:, 20:] == 0).all()
        labels = annotation.labels(Window(200, 100, 4, 4, 5.0), 0.5)
        assert np.array_equal(labels == IGNORE, ~(np.array([[1, 1, 0, 0]] * 2 + [[0] * 4] * 2, bool)))
        nothing = PolygonAnnotation([], SLIDE.size)
        assert (nothing.labels(WHOLE, 0.5) == IGNORE).all()
        assert nothing.bounds() is None and not nothing.has(0)

    def test_has_and_bounds(self, tmp_path):
        annotation = load_annotation(geojson(tmp_path, (SQUARE, "tumour")), SLIDE)
        assert annotation.has(1) and annotation.has(0) and not annotation.has(IGNORE)
        assert annotation.bounds() == (10, 20, 30, 40)
        assert not PolygonAnnotation([LabelledPolygon(SQUARE, 1)], SLIDE.size).has(0)

    def test_windows_tile_a_big_one_at_any_mpp(self):
        rng = np.random.default_rng(0)
        shapes = [shapely.Point(*rng.uniform(0, 2000, 2)).buffer(rng.uniform(20, 400)) for _ in range(30)]
        annotation = PolygonAnnotation([LabelledPolygon(s, i % 3) for i, s in enumerate(shapes)], (1990, 1995))
        mpp, slide_mpp = 0.997, 0.2427
        side = 64 * mpp / slide_mpp
        big = annotation.labels(Window(side * 4, side * 4, 512, 512, mpp), slide_mpp)
        rows = [
            [annotation.labels(Window(side * (j + 0.5), side * (i + 0.5), 64, 64, mpp), slide_mpp) for j in range(8)]
            for i in range(8)
        ]
        assert np.array_equal(np.block(rows), big)

    def test_pickled(self, tmp_path):
        annotation = load_annotation(geojson(tmp_path, (SQUARE, "tumour")), SLIDE)
        again = pickle.loads(pickle.dumps(annotation))
        assert np.array_equal(again.labels(WHOLE, 0.5), annotation.labels(WHOLE, 0.5))


class TestClasses:
    @pytest.mark.parametrize(
        "name", ["tumour", "TUMOR", " Invasive  Carcinoma", "invasive_carcinoma", "Tumor: Positive"]
    )
    def test_spellings_of_tumour(self, name):
        assert ClassTable.h2g().index(name) == 1

    def test_ignored_and_skipped(self, tmp_path):
        path = geojson(tmp_path, (shapely.box(0, 0, 100, 100), "Region*"), (SQUARE, "Tumor"), (ISLAND, "Ignore*"))
        assert ClassTable.h2g().index("Region*") == SKIP
        assert same(load_annotation(path, SLIDE), ((10, 20, 30, 40), 1), ((15, 25, 20, 30), IGNORE))

    def test_mapped(self, tmp_path):
        path = geojson(tmp_path, (SQUARE, "DCIS"), (ISLAND, "Pen mark"), (shapely.box(50, 50, 60, 60), "x=y"))
        table = ClassTable.h2g().with_aliases(["dcis=tumour", "pen mark=ignore", "x=y=skip", "7=tumour"])
        assert same(load_annotation(path, SLIDE, table), ((10, 20, 30, 40), 1), ((15, 25, 20, 30), IGNORE))
        assert table.values[7] == 1

    @pytest.mark.parametrize("pair", ["DCIS", "DCIS=", "DCIS=nonsense"])
    def test_mapping_that_says_nothing(self, pair):
        with pytest.raises(AnnotationError, match=r"NAME=CLASS.*'tumour', ignore, skip"):
            ClassTable.h2g().with_aliases([pair])

    def test_unknown(self, tmp_path):
        path = geojson(tmp_path, (SQUARE, "Tumor"), (ISLAND, "Gland"))
        with pytest.raises(AnnotationError) as error:
            load_annotation(path, SLIDE)
        for part in (str(path), "'Gland'", "feature 2", "'Tumor'", "'non-tumour', 'tumour'", "'Gland=CLASS'", "skip"):
            assert part in str(error.value)

    def test_no_class_set(self, tmp_path):
        with pytest.raises(AnnotationError, match="no class set"):
            load_annotation(raw(tmp_path, [[0, 0], [9, 0], [9, 9], [0, 0]]), SLIDE)

    def test_plain(self):
        table = ClassTable.plain([ClassSpec("a", (0, 0, 0)), ClassSpec("b", (0, 0, 0))])
        assert (table.index("B"), table.index("c"), table.values, table.rest) == (1, None, {0: 0, 1: 1, 255: 255}, 255)


class TestGeometry:
    @pytest.mark.parametrize(
        ("ring", "says"),
        [
            ([[0, 0], [10, 10], [10, 0], [0, 10], [0, 0]], r"crosses or touches itself near \(5, 5\)"),
            ([[0, 0], [10, 10]], "is empty"),
            ([], "is empty"),
            ([[0, 0], [10, 10], [5, 5], [0, 0]], "is empty"),
            ([[300, 0], [310, 0], [310, 10], [300, 0]], r"outside the slide: it spans x 300 to 310.*200×100 px"),
        ],
    )
    def test_refused(self, tmp_path, ring, says):
        path = raw(tmp_path, ring, classification="Tumor", name="left lobe")
        with pytest.raises(AnnotationError, match=says) as error:
            load_annotation(path, SLIDE)
        assert str(path) in str(error.value)
        assert "feature 1 (id ab, name 'left lobe'), class 'Tumor'" in str(error.value)
        assert "repair" in str(error.value)

    def test_all_problems_in_one_message(self, tmp_path):
        far = [(shapely.box(x, 500, x + 1, 501), "Tumor") for x in range(9)]
        with pytest.raises(AnnotationError, match=r"feature 1 .*feature 5 .*; and 4 more") as error:
            load_annotation(geojson(tmp_path, *far), SLIDE)
        assert "feature 6" not in str(error.value)

    def test_repaired(self, tmp_path, caplog):
        bow_tie = raw(tmp_path, [[0, 0], [10, 10], [10, 0], [0, 10], [0, 0]], classification="Tumor")
        annotation = load_annotation(bow_tie, SLIDE, repair=True)
        assert annotation.polygons[0].polygon.area == 50
        assert "raw.geojson: repaired: feature 1" in caplog.text and "crosses" in caplog.text
        for ring in ([[0, 0], [10, 10]], [[300, 0], [310, 0], [310, 10], [300, 0]], [[1, 1], [2, 2], [3, 3], [1, 1]]):
            path = raw(tmp_path, ring, classification="Tumor")
            assert load_annotation(path, SLIDE, repair=True).bounds() is None

    def test_no_object_is_an_annotation_too(self, tmp_path):
        assert same(load_annotation(geojson(tmp_path), SLIDE))

    def test_detections_are_no_annotation(self, tmp_path):
        ring = [[0, 0], [9, 0], [9, 9], [0, 0]]
        path = raw(tmp_path, ring, objectType="detection", classification="Tumor")
        assert load_annotation(path, SLIDE).bounds() is None


ASAP = """<?xml version="1.0"?><ASAP_Annotations><Annotations>
<Annotation Name="a 0" Type="Polygon" PartOfGroup="Tumor" Color="#F4FA58"><Coordinates>
 <Coordinate Order="1" X="30" Y="20"/><Coordinate Order="0" X="10" Y="20"/>
 <Coordinate Order="3" X="10" Y="40"/><Coordinate Order="2" X="30" Y="40"/></Coordinates></Annotation>
<Annotation Name="a 1" Type="Rectangle" PartOfGroup="normal"><Coordinates><Coordinate Order="0" X="15" Y="25"/>
 <Coordinate Order="1" X="20" Y="25"/><Coordinate Order="2" X="20" Y="30"/><Coordinate Order="3" X="15" Y="30"/>
 </Coordinates></Annotation>
<Annotation Name="a 2" Type="Spline" PartOfGroup="Tumor"><Coordinates><Coordinate Order="0" X="50,0" Y="50"/>
 <Coordinate Order="1" X="60" Y="50"/><Coordinate Order="2" X="60" Y="60"/><Coordinate Order="3" X="50" Y="60"/>
 </Coordinates></Annotation>
<Annotation Name="a 3" Type="Dot" PartOfGroup="None"><Coordinates><Coordinate Order="0" X="5" Y="5"/></Coordinates>
</Annotation></Annotations><AnnotationGroups><Group Name="Tumor" PartOfGroup="None" Color="#000000"/></AnnotationGroups>
</ASAP_Annotations>"""

APERIO = """<?xml version="1.0"?><Annotations MicronsPerPixel="0.5"><Annotation Id="1" Name="Tumor"><Regions>
<Region Id="1" Type="0" NegativeROA="0"><Vertices><Vertex X="10" Y="20" Z="0"/><Vertex X="30" Y="20"/>
 <Vertex X="30" Y="40"/><Vertex X="10" Y="40"/></Vertices></Region>
<Region Id="2" Type="1" NegativeROA="1"><Vertices><Vertex X="15" Y="25"/><Vertex X="20" Y="30"/></Vertices></Region>
<Region Id="3" Type="3" NegativeROA="0"><Vertices><Vertex X="1" Y="1"/><Vertex X="2" Y="2"/></Vertices></Region>
</Regions></Annotation><Annotation Id="2" Name=""><Regions>
<Region Id="4" Type="0" Text="Ignore"><Vertices><Vertex X="50" Y="50"/><Vertex X="60" Y="50"/>
 <Vertex X="60" Y="60"/><Vertex X="50" Y="60"/></Vertices></Region>
<Region Id="5" Type="2" Text="tumour"><Vertices><Vertex X="100" Y="50"/><Vertex X="120" Y="60"/></Vertices></Region>
</Regions></Annotation></Annotations>"""


class TestXml:
    def test_asap(self, tmp_path, caplog):
        annotation = load_annotation(xml(tmp_path, ASAP), SLIDE)
        assert same(annotation, ((10, 20, 30, 40), 1), ((15, 25, 20, 30), 0), ((50, 50, 60, 60), 1))
        assert "1 objects without area" in caplog.text

    def test_aperio(self, tmp_path):
        annotation = load_annotation(xml(tmp_path, APERIO), SLIDE)
        labels = annotation.labels(WHOLE, 0.5)
        boxes = ((10, 20, 30, 40), 1), ((15, 25, 20, 30), 0), ((50, 50, 60, 60), IGNORE)
        assert np.array_equal(labels[:, :100], expected(*boxes)[:, :100])
        assert labels[:, 100:].sum() == pytest.approx(np.pi * 10 * 5, rel=0.03)
        assert labels[55, 110] == 1 and labels[50, 100] == 0

    def test_negative_region_cuts_only_its_own_layer(self, tmp_path):
        text = APERIO.replace('Name=""', 'Name="tumour"').replace('X="50"', 'X="12"').replace('Y="50"', 'Y="22"')
        labels = load_annotation(xml(tmp_path, text), SLIDE).labels(WHOLE, 0.5)
        assert labels[27, 17] == 1

    def test_coordinates_of_the_uncropped_scan(self, tmp_path):
        cropped = SimpleNamespace(size=(200, 100), mpp=0.5, origin=(10, 20))
        annotation = load_annotation(xml(tmp_path, ASAP), cropped)
        assert same(annotation, ((0, 0, 20, 20), 1), ((5, 5, 10, 10), 0), ((40, 30, 50, 40), 1))

    @pytest.mark.parametrize(
        ("text", "says"),
        [
            ("<Annotations>", "not readable as XML"),
            ("<html/>", "root is <html>"),
            (ASAP.replace('X="30"', ""), "lacks or garbles 'X'"),
            (ASAP.replace('X="30"', 'X="nan"'), "finite"),
            (APERIO.replace('X="30"', 'X="abc"'), "abc"),
            (APERIO.replace('"Tumor"', '"Gland"'), r"unknown class 'Gland' \(first at layer 1, Region 1\)"),
            (ASAP.replace('X="60"', 'X="900"').replace('"50,0"', '"880"').replace('X="50"', 'X="880"'), "a 2.*outside"),
        ],
    )
    def test_broken(self, tmp_path, text, says):
        with pytest.raises(AnnotationError, match=says) as error:
            load_annotation(xml(tmp_path, text), SLIDE)
        assert "slide.xml" in str(error.value)


def test_missing_file_and_unknown_suffix(tmp_path):
    for name in ("none.geojson", "none.xml", "none.png", "none.tif"):
        with pytest.raises(AnnotationError, match=f"{name}: no such"):
            load_annotation(tmp_path / name, SLIDE)
    with pytest.raises(AnnotationError, match=r"'\.docx'.*\.geojson"):
        load_annotation(tmp_path / "a.docx", SLIDE)


class TestRaster:
    def test_values_and_unknown_value(self, tmp_path):
        values = np.zeros((50, 100), np.uint8)
        values[10:20, 5:15] = 1
        values[40:, 90:] = 255
        Image.fromarray(values).save(tmp_path / "a.png")
        annotation = load_annotation(tmp_path / "a.png", SLIDE)
        assert same(annotation, ((10, 20, 30, 40), 1), ((180, 80, 200, 100), IGNORE))
        assert annotation.has(1) and annotation.has(IGNORE) and annotation.bounds() == (0, 0, 200, 100)
        values[0, 0] = 9
        Image.fromarray(values).save(tmp_path / "a.png")
        annotation = load_annotation(tmp_path / "a.png", SLIDE)
        assert annotation.labels(Window(100, 60, 10, 10, 0.5), 0.5).shape == (10, 10)
        with pytest.raises(AnnotationError, match=r"a\.png: unknown value 9 at slide position \(0, 0\).*0=0, 1=1"):
            annotation.labels(WHOLE, 0.5)
        table = ClassTable.h2g().with_aliases(["9=ignore"])
        assert load_annotation(tmp_path / "a.png", SLIDE, table).labels(WHOLE, 0.5)[0, 0] == IGNORE

    def test_outside_is_ignored_though_the_raster_repeats_its_edge(self, tmp_path):
        Image.fromarray(np.ones((100, 200), bool)).save(tmp_path / "a.png")
        annotation = load_annotation(tmp_path / "a.png", SLIDE)
        labels = annotation.labels_on(PixelGrid(-1, 0, 1, 1, 3, 1))
        assert labels.tolist() == [[IGNORE, 1, 1]]
