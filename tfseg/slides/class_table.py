"""From the names and values found in annotation files to class indices."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from tfseg.types import H2G_CLASSES, IGNORE, AnnotationError, ClassSpec

SKIP = -1
"""Stands for "do not draw this object": what lies under it keeps its label."""

TAKEN = ("mean", "no class")
"""Rows and columns that tables of scores have beside the classes."""

_WORDS = {"ignore": IGNORE, "skip": SKIP}

_TUMOUR = (
    "tumor", "tumours", "tumors", "tumour tissue", "tumor tissue", "invasive", "invasive tumour", "invasive tumor",
    "invasive carcinoma", "carcinoma", "cancer", "malignant", "metastasis", "metastases",
)  # fmt: skip
_NON_TUMOUR = (
    "non tumor", "nontumour", "nontumor", "no tumour", "no tumor", "normal", "benign", "healthy", "stroma", "adipose",
    "fat", "benign epithelium", "normal epithelium", "immune cells", "other", "background",
)  # fmt: skip

DMMN_CLASSES = (
    ClassSpec("not annotated", (255, 255, 255)),
    ClassSpec("carcinoma", (215, 30, 35)),
    ClassSpec("benign epithelial", (40, 85, 215)),
    ClassSpec("background", (245, 220, 50)),
    ClassSpec("stroma", (45, 160, 75)),
    ClassSpec("necrotic", (125, 125, 125)),
    ClassSpec("adipose", (245, 140, 30)),
)
"""The classes of DMMN in the order of its rates r_1 … r_6, in the colours of its figures; 0 is never a target."""

MULTI_LEVEL_CLASSES = (
    ClassSpec("background and normal", (160, 160, 160)),
    ClassSpec("tumour", (200, 0, 0)),
    ClassSpec("others", (40, 85, 215)),
)
CD_UNET_CLASSES = (
    ClassSpec("background", (0, 0, 0)),
    ClassSpec("tumour", (215, 30, 35)),
    ClassSpec("tissue", (45, 160, 75)),
    ClassSpec("necrosis", (245, 220, 50)),
)

_SPELLINGS = {
    "carcinoma": ("tumour", *_TUMOUR),
    "benign epithelial": ("benign epithelium", "normal epithelium", "benign", "duct", "ducts", "acinus", "acini"),
    "background": ("glass", "no tissue"),
    "stroma": ("connective tissue",),
    "necrotic": ("necrosis", "dead tissue"),
    "adipose": ("adipose tissue", "fat"),
}
"""What the six regions of breast tissue are called in annotations."""

_CLUBBED = (
    "dcis", "tubules", "blood vessel", "blood vessels", "lymph", "lymphocytes", "skin", "squamous epithelium", "fold",
    "folds", "artifact", "artifacts", "artefact", "artefacts", "bad region", "other",
)  # fmt: skip
"""What else the multi-level paper clubs into "others"."""

QUPATH_NAMES = {"ignore": IGNORE, "ignore*": IGNORE, "region*": SKIP}
"""What QuPath's own classes stand for in every table."""

_NOT_ANNOTATED = {"not annotated": IGNORE, "exclude": IGNORE, **QUPATH_NAMES}


@dataclass(frozen=True)
class ClassTable:
    """Which class an annotated object or a raster value stands for.

    Attributes:
        classes: index i is label i.
        aliases: further spellings → class index, IGNORE (drawn as "not annotated") or SKIP (not drawn). Upper and
            lower case, spaces, "-" and "_" make no difference. "" is the name of objects without a class.
        values: pixel value of a label raster → class index or IGNORE.
        rest: label of what nobody annotated: IGNORE, or a class where unannotated means that class.

    Raises:
        AnnotationError: a class is called like a row or column of the tables of scores.
    """

    classes: tuple[ClassSpec, ...]
    aliases: dict[str, int] = field(default_factory=dict)
    values: dict[int, int] = field(default_factory=dict)
    rest: int = IGNORE

    def __post_init__(self) -> None:
        taken = [spec.name for spec in self.classes if spec.name in TAKEN]
        if taken:
            raise AnnotationError(
                f"a class is called {taken[0]!r}: tables of scores have a row or column of that name. Call it "
                "something else; --map NAME=CLASS, or aliases in the class table, keep the name in annotations."
            )

    @classmethod
    def h2g(cls) -> ClassTable:
        """Tumour against everything else; unannotated tissue is non-tumour, as in H2G-Net.

        Of QuPath's own classes, "Ignore*" is not annotated and "Region*" is not drawn. Raster value 1 is tumour,
        0 non-tumour, 255 not annotated.
        """
        aliases = {**dict.fromkeys(_NON_TUMOUR, 0), **dict.fromkeys(_TUMOUR, 1)}
        aliases.update(QUPATH_NAMES)
        return cls(H2G_CLASSES, aliases, {0: 0, 1: 1, IGNORE: IGNORE}, rest=0)

    @classmethod
    def plain(cls, classes: Iterable[ClassSpec], rest: int = IGNORE) -> ClassTable:
        """Every class by its own name; raster values are the class indices, and 255 not annotated."""
        classes = tuple(classes)
        return cls(classes, {}, {**{i: i for i in range(len(classes))}, IGNORE: IGNORE}, rest)

    @classmethod
    def dmmn(cls) -> ClassTable:
        """The six classes of the deep multi-magnification networks after an unused class 0.

        What is not drawn, and the raster value 0, is not annotated.
        """
        return _of_regions(DMMN_CLASSES, {spec.name: i for i, spec in enumerate(DMMN_CLASSES) if i})

    @classmethod
    def multi_level(cls) -> ClassTable:
        """The three classes of the multi-stain multi-level network: background and normal, tumour, others.

        Stroma and fat are normal. Benign epithelium and necrosis are "others": the paper clubs ducts, acini, vessels,
        carcinoma in situ, folds and bad regions in it. What is not drawn is not annotated.
        """
        regions = {"background": 0, "stroma": 0, "adipose": 0, "carcinoma": 1, "benign epithelial": 2, "necrotic": 2}
        normal = dict.fromkeys(("normal", "normal tissue"), 0)
        return _of_regions(MULTI_LEVEL_CLASSES, regions, {**normal, **dict.fromkeys(_CLUBBED, 2)})

    @classmethod
    def cd_unet(cls, rest: int = IGNORE) -> ClassTable:
        """The four classes of CD-UNET: background, tumour, tissue (all that lives and is no tumour), necrosis.

        Args:
            rest: label of what is not drawn. The paper annotates all tissue and calls the rest background: 0.
        """
        regions = {"background": 0, "carcinoma": 1, "benign epithelial": 2, "stroma": 2, "adipose": 2, "necrotic": 3}
        table = _of_regions(CD_UNET_CLASSES, regions, {"normal": 2, "normal tissue": 2, "healthy": 2})
        return replace(table, rest=rest)

    def of_raster(self, names: Sequence[str]) -> ClassTable:
        """A table for label rasters whose value i stands for ``names[i]``, such as the truth of a synthetic cohort.

        Raises:
            AnnotationError: a name that the table does not know.
        """
        values = {IGNORE: IGNORE}
        for value, name in enumerate(names):
            index = self.index(name)
            if index is None:
                raise AnnotationError(f"raster value {value}: unknown class {name!r}. Known: {self.known()}.")
            values[value] = IGNORE if index == SKIP else index
        return replace(self, values=values)

    def index(self, name: str) -> int | None:
        """Class index, IGNORE or SKIP of a name; None if unknown.

        A derived class of QuPath ("Tumor: Positive") that is not known itself counts as the class it derives from.
        """
        known = {plain_name(spec.name): i for i, spec in enumerate(self.classes)}
        known.update((plain_name(alias), index) for alias, index in self.aliases.items())
        parts = name.split(":")
        for length in range(len(parts), 0, -1):
            found = known.get(plain_name(":".join(parts[:length])))
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
            aliases[plain_name(name)] = index
            if name.strip().isdecimal():
                values[int(name)] = IGNORE if index == SKIP else index
        return replace(self, aliases=aliases, values=values)

    def known(self) -> str:
        """The classes' names, for messages."""
        return ", ".join(repr(spec.name) for spec in self.classes)


def _of_regions(
    classes: tuple[ClassSpec, ...], regions: Mapping[str, int], more: Mapping[str, int] | None = None
) -> ClassTable:
    """A table of ``classes`` that knows each region of :data:`_SPELLINGS` by all its names."""
    aliases = {alias: index for region, index in regions.items() for alias in (region, *_SPELLINGS[region])}
    aliases.update({**(more or {}), **_NOT_ANNOTATED})
    table = ClassTable(classes, aliases)
    return table.of_raster([spec.name for spec in classes])


def plain_name(name: str) -> str:
    """A name as tables compare it: upper and lower case, spaces, "-" and "_" make no difference."""
    return re.sub(r"[\s_-]+", " ", name).strip().casefold()
