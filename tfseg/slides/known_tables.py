"""Class tables by name, and from a JSON file of one's own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tfseg.slides.class_table import QUPATH_NAMES, SKIP, ClassTable, plain_name
from tfseg.types import IGNORE, AnnotationError, ClassSpec

TISSUE_TYPES, TUMOUR_NORMAL_OTHERS, TISSUE_AND_NECROSIS = (
    ClassTable.dmmn(),
    ClassTable.multi_level(),
    ClassTable.cd_unet(),
)

TABLES: dict[str, ClassTable] = {
    "h2g": ClassTable.h2g(),
    "tissue_types": TISSUE_TYPES,
    "tumour_normal_others": TUMOUR_NORMAL_OTHERS,
    "tissue_and_necrosis": TISSUE_AND_NECROSIS,
}

_KEYS, _CLASS_KEYS = ("classes", "ignore", "skip", "rest"), ("name", "color", "aliases", "value")
_FORMAT = (
    'A class table is a JSON file {"classes": [{"name": …, "color": [r, g, b], "aliases": [other spellings], '
    '"value": of a label raster}], "ignore": [names], "skip": [names], "rest": class of what nobody drew, or leave '
    "it out}; only classes, name and color are needed."
)


def find_table(name: str) -> ClassTable:
    """A table of :data:`TABLES` by its name, or read from a JSON file.

    Raises:
        AnnotationError: neither a known name nor a readable file.
    """
    if name in TABLES:
        return TABLES[name]
    path = Path(name)
    if not path.is_file():
        raise AnnotationError(f"class table {name!r}: neither a file nor one of {', '.join(TABLES)}. {_FORMAT}")
    try:
        return _table(json.loads(path.read_text(encoding="utf-8")))
    except (AnnotationError, ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        raise AnnotationError(f"{path}: not a class table ({type(error).__name__}: {error}). {_FORMAT}") from error


def _table(content: dict[str, Any]) -> ClassTable:
    _check_keys(content, _KEYS, "the table")
    entries = content["classes"]
    for number, one in enumerate(entries):
        _check_keys(one, _CLASS_KEYS, f"class {number}")
    classes = tuple(ClassSpec(str(one["name"]), _color(one["color"])) for one in entries)
    names = [spec.name for spec in classes]
    if not classes:
        raise ValueError("classes: expected one or more")
    aliases = _aliases(content, names)
    rest = content.get("rest")
    if rest is not None and rest not in names:
        raise ValueError(f"rest is {rest!r}, classes are {names}")
    return ClassTable(classes, aliases, _values(entries, names), IGNORE if rest is None else names.index(rest))


def _aliases(content: dict[str, Any], names: list[str]) -> dict[str, int]:
    """Every further spelling → label; what the table does not say of QuPath's own classes is as in built-in tables.

    Raises ValueError where a spelling, in the way in which tables compare them, stands for two things.
    """
    places = [(name, index, f"the name of class {name!r}") for index, name in enumerate(names)]
    for index, one in enumerate(content["classes"]):
        places += [(alias, index, f"an alias of class {names[index]!r}") for alias in _strings(one, "aliases")]
    for key, label in (("ignore", IGNORE), ("skip", SKIP)):
        places += [(name, label, f'in "{key}"') for name in _strings(content, key)]
    seen: dict[str, str] = {}
    for name, _, where in places:
        if plain_name(name) in seen:
            raise ValueError(f"classes need different names: {name!r} is {where} and {seen[plain_name(name)]}")
        seen[plain_name(name)] = where
    usual = {name: label for name, label in QUPATH_NAMES.items() if name not in seen}
    return usual | {name: label for name, label, _ in places[len(names) :]}


def _values(entries: list[dict[str, Any]], names: list[str]) -> dict[int, int]:
    values: dict[int, int] = {}
    for index, one in enumerate(entries):
        value = one.get("value", index)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < IGNORE:
            raise ValueError(f"value of class {names[index]!r} is {value!r}, expected a whole number in 0..254")
        if value in values:
            raise ValueError(f"value {value} stands for the classes {names[values[value]]!r} and {names[index]!r}")
        values[value] = index
    return values | {IGNORE: IGNORE}


def _strings(content: dict[str, Any], key: str) -> list[str]:
    found = content.get(key, [])
    if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
        raise ValueError(f'"{key}" is {found!r}, expected a list of names')
    return found


def _check_keys(content: dict[str, Any], known: tuple[str, ...], what: str) -> None:
    if not isinstance(content, dict):
        raise ValueError(f"{what} is {content!r}, expected an object")
    unknown = [key for key in content if key not in known]
    if unknown:
        raise ValueError(f"unknown key {unknown[0]!r} in {what}, expected {', '.join(known)}")


def _color(value: list[int]) -> tuple[int, int, int]:
    red, green, blue = (int(part) for part in value)
    if not all(0 <= part <= 255 for part in (red, green, blue)):
        raise ValueError(f"color {value}, expected red, green, blue in 0..255")
    return red, green, blue
