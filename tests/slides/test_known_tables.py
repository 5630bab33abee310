"""Published class tables, and tables of one's own."""

from __future__ import annotations

import json

import pytest

from tfseg.slides.class_table import SKIP, ClassTable
from tfseg.slides.known_tables import TABLES, find_table
from tfseg.types import IGNORE, AnnotationError


@pytest.mark.parametrize(
    ("table", "name", "index"),
    [
        ("tissue_types", "Carcinoma", 1),
        ("tissue_types", "benign_epithelial", 2),
        ("tissue_types", "Necrosis", 5),
        ("tissue_types", "not annotated", IGNORE),
        ("tissue_types", "Ignore*", IGNORE),
        ("tissue_types", "Region*", SKIP),
        ("tissue_types", "lymph node", None),
        ("tumour_normal_others", "carcinoma", 1),
        ("tumour_normal_others", "stroma", 0),
        ("tumour_normal_others", "DCIS", 2),
        ("tissue_and_necrosis", "exclude", IGNORE),
        ("tissue_and_necrosis", "adipose", 2),
        ("tissue_and_necrosis", "necrotic", 3),
        ("h2g", "stroma", 0),
    ],
)
def test_names(table, name, index):
    assert find_table(table).index(name) == index


def test_all_tables_know_the_tissue_types():
    """A cohort annotated with the six tissue types trains all systems."""
    names = [spec.name for spec in TABLES["tissue_types"].classes if spec.name != "not annotated"]
    for key in ("tissue_types", "tumour_normal_others", "tissue_and_necrosis"):
        assert all(TABLES[key].index(name) is not None for name in names), key


@pytest.mark.parametrize("key", [key for key in TABLES if key != "h2g"])
def test_what_nobody_drew_is_not_annotated(key):
    table = TABLES[key]
    assert table.rest == IGNORE and table.values[IGNORE] == IGNORE
    assert all(0 <= label < len(table.classes) or label in (IGNORE, SKIP) for label in table.aliases.values())


def test_class_0_of_the_tissue_types_is_never_a_label():
    table = TABLES["tissue_types"]
    assert table.values[0] == IGNORE and 0 not in table.aliases.values() and len(table.classes) == 7


def two(**changes) -> dict:
    """A table of the class "b" and another, which is called so but for what is changed."""
    second = {"name": "B", "color": [1, 1, 1], **changes}
    return {"classes": [{"name": "b", "color": [0, 0, 0]}, second]}


def write(path, content) -> str:
    path.write_text(json.dumps(content))
    return str(path)


def test_own_table(tmp_path):
    content = {
        "classes": [
            {"name": "gland", "color": [1, 2, 3], "aliases": ["crypt"], "value": 7},
            {"name": "other", "color": [4, 5, 6]},
        ],
        "ignore": ["fold"],
        "skip": ["outline"],
        "rest": "other",
    }
    table = find_table(write(tmp_path / "a.json", content))
    assert [table.index(name) for name in ("Gland", "crypt", "other", "fold", "outline", "x")] == [
        0,
        0,
        1,
        IGNORE,
        SKIP,
        None,
    ]
    assert table.values == {7: 0, 1: 1, IGNORE: IGNORE} and table.rest == 1 and table.classes[0].color == (1, 2, 3)
    assert find_table(write(tmp_path / "b.json", {"classes": content["classes"]})).rest == IGNORE
    assert isinstance(table, ClassTable)


def test_own_table_knows_what_qupath_calls_its_own_classes(tmp_path):
    table = find_table(write(tmp_path / "a.json", two(name="a")))
    assert [table.index(name) for name in ("Ignore*", "ignore", "Region*")] == [IGNORE, IGNORE, SKIP]
    own = find_table(write(tmp_path / "b.json", two(name="a", aliases=["Region*"]) | {"skip": ["Ignore*"]}))
    assert [own.index(name) for name in ("Ignore*", "ignore", "Region*")] == [SKIP, IGNORE, 1]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], r"a\.json: not a class table"),
        ({"classes": []}, "one or more"),
        (["classes"], "the table is .*expected an object"),
        ({"classes": ["a"]}, "class 0 is 'a', expected an object"),
        (two(), "'B' is the name of class 'B' and the name of class 'b'"),
        (two(name="a b", aliases=["x", "A_B"]), "'A_B' is an alias of class 'a b' and the name of class 'a b'"),
        (two(name="a", aliases=["B"]), "'B' is an alias of class 'a' and the name of class 'b'"),
        (two(name="a") | {"ignore": ["f"], "skip": ["F"]}, '\'F\' is in "skip" and in "ignore"'),
        (two(name="a") | {"ignore": ["b"]}, "'b' is in \"ignore\" and the name of class 'b'"),
        (two(name="a", value=0), "value 0 stands for the classes 'b' and 'a'"),
        (two(name="a", value=255), "value of class 'a' is 255, expected a whole number in 0..254"),
        (two(name="a", value=-1), r"is -1, expected"),
        (two(name="a", value="2"), r"is '2', expected"),
        (two(name="a", value=True), r"is True, expected"),
        (two(name="a", aliases="crypt"), "\"aliases\" is 'crypt', expected a list of names"),
        (two(name="a") | {"ignore": "fold"}, "\"ignore\" is 'fold', expected a list"),
        (two(name="a") | {"skip": [1]}, r"\"skip\" is \[1\], expected a list"),
        (two(name="a") | {"skips": ["x"]}, "unknown key 'skips' in the table"),
        (two(name="a", alias=["x"]), "unknown key 'alias' in class 1"),
        (two(name="mean"), r"a\.json: .*called 'mean': tables of scores"),
        (two(name="no class"), "called 'no class'"),
        ({"classes": [{"name": "a"}]}, "'color'"),
        ({"classes": [{"name": "a", "color": [0, 0, 300]}]}, r"0\.\.255"),
        ({"classes": [{"name": "a", "color": [0, 0, 0]}], "rest": "b"}, "rest is 'b'"),
    ],
)
def test_damaged_table(tmp_path, content, message):
    with pytest.raises(AnnotationError, match=message):
        find_table(write(tmp_path / "a.json", content))


def test_unknown_table():
    with pytest.raises(AnnotationError, match=r"'dmnn': neither a file nor one of h2g, tissue_types"):
        find_table("dmnn")
