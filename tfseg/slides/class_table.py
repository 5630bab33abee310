"""From the names and values found in annotation files to class indices."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from tfseg.types import H2G_CLASSES, IGNORE, AnnotationError, ClassSpec

SKIP = -1
"""Stands for "do not draw this object": what lies under it keeps its label."""

_WORDS = {"ignore": IGNORE, "skip": SKIP}

_TUMOUR = (
    "tumor", "tumours", "tumors", "tumour tissue", "tumor tissue", "invasive", "invasive tumour", "invasive tumor",
    "invasive carcinoma", "carcinoma", "cancer", "malignant", "metastasis", "metastases",
)  # fmt: skip
_NON_TUMOUR = (
    "non tumor", "nontumour", "nontumor", "no tumour", "no tumor", "normal", "benign", "healthy", "stroma", "adipose",
    "fat", "benign epithelium", "normal epithelium", "immune cells", "other", "background",
)  # fmt: skip


@dataclass(frozen=True)
class ClassTable:
    """Which class an annotated object or a raster value stands for.

    Attributes:
        classes: index i is label i.
        aliases: further spellings → class index, IGNORE (drawn as "not annotated") or SKIP (not drawn). Upper and
            lower case, spaces, "-" and "_" make no difference. "" is the name of objects without a class.
        values: pixel value of a label raster → class index or IGNORE.
        rest: label of what nobody annotated: IGNORE, or a class where unannotated means that class.
    """

    classes: tuple[ClassSpec, ...]
    aliases: dict[str, int] = field(default_factory=dict)
    values: dict[int, int] = field(default_factory=dict)
    rest: int = IGNORE

    @classmethod
    def h2g(cls) -> ClassTable:
        """Tumour against everything else; unannotated tissue is non-tumour, as in H2G-Net.

        Of QuPath's own classes, "Ignore*" is not annotated and "Region*" is not drawn. Raster value 1 is tumour,
        0 non-tumour, 255 not annotated.
        """
        aliases = {**dict.fromkeys(_NON_TUMOUR, 0), **dict.fromkeys(_TUMOUR, 1)}
        aliases.update({"ignore*": IGNORE, "ignore": IGNORE, "region*": SKIP})
        return cls(H2G_CLASSES, aliases, {0: 0, 1: 1, IGNORE: IGNORE}, rest=0)

    @classmethod
    def plain(cls, classes: Iterable[ClassSpec], rest: int = IGNORE) -> ClassTable:
        """Every class by its own name; raster values are the class indices, and 255 not annotated."""
        classes = tuple(classes)
        return cls(classes, {}, {**{i: i for i in range(len(classes))}, IGNORE: IGNORE}, rest)

    def index(self, name: str) -> int | None:
        """Class index, IGNORE or SKIP of a name; None if unknown.

        A derived class of QuPath ("Tumor: Positive") that is not known itself counts as the class it derives from.
        """
        known = {_plain(spec.name): i for i, spec in enumerate(self.classes)}
        known.update((_plain(alias), index) for alias, index in self.aliases.items())
        parts = name.split(":")
        for length in range(len(parts), 0, -1):
            found = known.get(_plain(":".join(parts[:length])))
            if found is not None:
                return found
        return None

    def with_aliases(self, pairs: Iterable[str]) -> ClassTable:
        """A table that also knows ``NAME=CLASS`` of every pair; CLASS is a class's name, "ignore" or "skip".

        A NAME that is a whole number is taken as a raster value as well.

        Raises:
            AnnotationError: a pair without "=", or with an unknown CLASS.
        """
        aliases, values = dict(self.aliases), dict(self.values)
        for pair in pairs:
            name, equals, target = pair.rpartition("=")
            index = self.index(target) if target else None
            if index is None:
                index = _WORDS.get(target.strip().lower())
            if not equals or index is None:
                raise AnnotationError(
                    f"class mapping {pair!r}: expected NAME=CLASS, where CLASS is one of {self.known()}, ignore, skip."
                )
            aliases[_plain(name)] = index
            if name.strip().isdecimal():
                values[int(name)] = IGNORE if index == SKIP else index
        return replace(self, aliases=aliases, values=values)

    def known(self) -> str:
        """The classes' names, for messages."""
        return ", ".join(repr(spec.name) for spec in self.classes)


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", " ", name).strip().casefold()
