"""Class tables by name, and from a JSON file of one's own."""

from __future__ import annotations

import json
from pathlib import Path

from tfseg.slides.class_table import SKIP, ClassTable
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
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        raise AnnotationError(f"{path}: not a class table ({type(error).__name__}: {error}). {_FORMAT}") from error


def _table(content: dict) -> ClassTable:
    entries = content["classes"]
    classes = tuple(ClassSpec(str(one["name"]), _color(one["color"])) for one in entries)
    names = [spec.name for spec in classes]
    if not classes or len(set(names)) < len(names):
        raise ValueError(f"classes need different names, got {names}")
    aliases = dict.fromkeys(content.get("ignore", ()), IGNORE) | dict.fromkeys(content.get("skip", ()), SKIP)
    aliases |= {alias: i for i, one in enumerate(entries) for alias in one.get("aliases", ())}
    values = {int(one.get("value", i)): i for i, one in enumerate(entries)} | {IGNORE: IGNORE}
    rest = content.get("rest")
    if rest is not None and rest not in names:
        raise ValueError(f"rest is {rest!r}, classes are {names}")
    return ClassTable(classes, aliases, values, IGNORE if rest is None else names.index(rest))


def _color(value: list[int]) -> tuple[int, int, int]:
    red, green, blue = (int(part) for part in value)
    if not all(0 <= part <= 255 for part in (red, green, blue)):
        raise ValueError(f"color {value}, expected red, green, blue in 0..255")
    return red, green, blue
