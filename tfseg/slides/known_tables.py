"""Class tables by name, and from a JSON file of one's own."""

from __future__ import annotations

import json
from pathlib import Path

from tfseg.slides.class_table import SKIP, ClassTable
from tfseg.types import IGNORE, AnnotationError, ClassSpec

_QUPATH = {"ignore*": IGNORE, "ignore": IGNORE, "exclude": IGNORE, "region*": SKIP}

_CARCINOMA = ("tumour", "tumor", "invasive carcinoma", "invasive tumour", "invasive tumor", "cancer")
_NECROTIC = ("necrosis", "necrotic tissue")
_ADIPOSE = ("fat", "adipose tissue")
_BENIGN = ("benign", "benign epithelium", "normal epithelium")
_BACKGROUND = ("glass",)

TISSUE_TYPES = ClassTable(
    (
        ClassSpec("not annotated", (255, 255, 255)),
        ClassSpec("carcinoma", (220, 0, 0)),
        ClassSpec("benign epithelial", (0, 0, 220)),
        ClassSpec("background", (230, 210, 0)),
        ClassSpec("stroma", (0, 150, 0)),
        ClassSpec("necrotic", (128, 128, 128)),
        ClassSpec("adipose", (255, 140, 0)),
    ),
    {
        **_QUPATH,
        "not annotated": IGNORE,
        **dict.fromkeys(_CARCINOMA, 1),
        **dict.fromkeys(_BENIGN, 2),
        **dict.fromkeys(_BACKGROUND, 3),
        **dict.fromkeys(_NECROTIC, 5),
        **dict.fromkeys(_ADIPOSE, 6),
    },
    {0: IGNORE, **{i: i for i in range(1, 7)}, IGNORE: IGNORE},
)
"""Deep multi-magnification networks, section 3: six classes in the order of r_1 … r_6, in the colours of figure 1.
Class 0 is an output channel that is never a target: what nobody annotated is 255."""

TUMOUR_NORMAL_OTHERS = ClassTable(
    (
        ClassSpec("normal", (160, 160, 160)),
        ClassSpec("tumour", (200, 0, 0)),
        ClassSpec("others", (40, 110, 220)),
    ),
    {
        **_QUPATH,
        **dict.fromkeys((*_BACKGROUND, "background", "normal tissue", "stroma", *_ADIPOSE, "adipose"), 0),
        **dict.fromkeys((*_CARCINOMA, "carcinoma"), 1),
        **dict.fromkeys((*_BENIGN, "benign epithelial", *_NECROTIC, "necrotic", "dcis", "acini", "acinus", "duct"), 2),
        **dict.fromkeys(("ducts", "tubules", "blood vessel", "blood vessels", "fold", "folds", "skin", "lymph"), 2),
        **dict.fromkeys(("lymphocytes", "artifact", "artefact", "bad region", "squamous epithelium", "other"), 2),
    },
    {0: 0, 1: 1, 2: 2, IGNORE: IGNORE},
)
"""Multi-stain multi-level network, "Class Imbalance": background and normal tissue, tumour, everything else."""

TISSUE_AND_NECROSIS = ClassTable(
    (
        ClassSpec("background", (230, 210, 0)),
        ClassSpec("tumour", (200, 0, 0)),
        ClassSpec("tissue", (0, 150, 0)),
        ClassSpec("necrosis", (128, 128, 128)),
    ),
    {
        **_QUPATH,
        **dict.fromkeys(_BACKGROUND, 0),
        **dict.fromkeys((*_CARCINOMA, "carcinoma"), 1),
        **dict.fromkeys(("stroma", "normal", "normal tissue", *_ADIPOSE, "adipose", *_BENIGN, "benign epithelial"), 2),
        **dict.fromkeys((*_NECROTIC, "necrotic"), 3),
    },
    {0: 0, 1: 1, 2: 2, 3: 3, IGNORE: IGNORE},
)
"""Colour-deconvolution U-Net, figure 2: background, tumour, tissue, necrosis; "exclude" is not annotated."""

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
