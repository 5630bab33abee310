"""Images with instance labels of nuclei: folders, manifests, MoNuSeg, COCO and the 2018 Data Science Bowl, as one type.

Nothing is decoded before an item is loaded, and what is wrong with one image is an error of that item alone, so that a
check of all (``tfseg index --nuclei``) can name every broken one.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tfseg.data.coco import read_coco
from tfseg.data.cohort import UNKNOWN, check_columns, line_numbers, read_csv, unique_names
from tfseg.data.nuclei_labels import LabelPicture, LabelSource, MaskFolder, OutlineFile, label_source
from tfseg.data.nuclei_pictures import LABEL_PICTURES, PICTURES, picture_size, read_rgb
from tfseg.types import AnnotationError, CohortError

_REQUIRED = ("image", "label")
_MANIFEST = (
    "A manifest of nuclei is a CSV file with the columns image, label and, where known, organ, split and any others; "
    "paths are relative to the file. A label is a picture of ids (PNG, TIFF, NPY), ImageScope XML or a folder of masks."
)
_LAYOUTS = (
    "Expected a manifest (.csv), COCO (.json), or a folder: images/ and labels/ with files of the same names; "
    "MoNuSeg's 'Tissue Images'/ and Annotations/, or its .tif and .xml side by side; or ID/images/ and ID/masks/ as of "
    "the 2018 Data Science Bowl."
)
_FOLDER_PAIRS = (("images", "labels"), ("Tissue Images", "Annotations"))


@dataclass(frozen=True)
class NucleiOptions:
    """How a collection of images is read.

    Attributes:
        organ_pattern: regular expression looked for at the start of an image's name; its first group is the organ. The
            default takes what is before the first underscore, as in "Kidney_TCGA-HE-7128". Names that do not match are
            of organ "unknown". Where a manifest or COCO image says the organ, that holds.
        organ_column: manifest column (COCO: field of the images) that says the organ.
        images: folder of the images of a COCO JSON; None takes the JSON's own folder, or images/ in it.
        allow_empty: images without a nucleus are no errors.
    """

    organ_pattern: str = r"([^_]+)_"
    organ_column: str = "organ"
    images: Path | None = None
    allow_empty: bool = False


@dataclass(frozen=True)
class NucleiItem:
    """An image and the labels of its nuclei.

    Attributes:
        name: unique in its collection.
        image: path of the image.
        labels: where its labels come from.
        organ, split: "unknown" where nobody says.
        values: other columns of the manifest, or fields of the COCO image, as text.
        allow_empty: an image without a nucleus is no error.
    """

    name: str
    image: Path
    labels: LabelSource
    organ: str = UNKNOWN
    split: str = UNKNOWN
    values: dict[str, str] = field(default_factory=dict)
    allow_empty: bool = False

    def load(self) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
        """The image, uint8 RGB (H, W, 3), and the labels, int32 (H, W): 0 background, nuclei 1 … N without gaps.

        Ids are renumbered in ascending order of those in the file.

        Raises:
            SlideError: the image is missing or not 8-bit RGB.
            AnnotationError: the label is missing, wrong, not of the image's size, or without a nucleus.
        """
        image, labels, _ = self.load_noted()
        return image, labels

    def load_noted(self) -> tuple[NDArray[np.uint8], NDArray[np.int32], list[str]]:
        """As :meth:`load`, and what a user should know of the labels."""
        image = read_rgb(self.image)
        found, notes = self.labels.read((image.shape[0], image.shape[1]))
        ids, inverse = np.unique(found, return_inverse=True)
        nuclei = ids[ids > 0]
        if not len(nuclei) and not self.allow_empty:
            raise AnnotationError(
                f"{self.labels.path}: no nucleus in the labels of {self.image.name} (0 everywhere). Is it the right "
                "file? Images without nuclei are taken with --allow-empty (from Python: allow_empty=True)."
            )
        if len(nuclei) and nuclei[-1] != len(nuclei):
            notes = [*notes, f"ids are not contiguous ({len(nuclei)} nuclei, largest id {nuclei[-1]}): renumbered"]
        first = 0 if len(ids) > len(nuclei) else 1
        return image, (inverse.reshape(found.shape) + first).astype(np.int32), notes

    def size(self) -> tuple[int, int]:
        """(H, W) of the image by its header."""
        return picture_size(self.image)


def read_nuclei(path: str | Path, options: NucleiOptions | None = None) -> list[NucleiItem]:
    """Finds the images and labels of a manifest, a COCO JSON or a folder; decodes none of them.

    Images and labels of a folder pair up by their names without suffix; one without the other becomes an item that
    cannot be loaded and says so.

    Args:
        path: .csv, .json or a folder; the module's error for an unknown layout lists what is known.
        options: how; None takes the defaults.

    Returns:
        items in the order of the file, or of the names.

    Raises:
        CohortError: nothing known is there; the manifest lacks a column, a file or has an image twice; two files
            of a folder have the same name but for the suffix; ``organ_pattern`` is no regular expression with a group.
        AnnotationError: the JSON is not COCO's.
    """
    path, options = Path(path), options or NucleiOptions()
    organ_of = _organ_rule(options)
    if path.suffix.lower() == ".csv":
        return _from_manifest(path, options, organ_of)
    if path.suffix.lower() == ".json":
        return _from_coco(path, options, organ_of)
    if not path.is_dir():
        raise CohortError(f"{path}: no such folder, manifest or COCO file. {_LAYOUTS}")
    found = _pairs(path) or _bowl(path)
    if not found:
        raise CohortError(f"{path}: no images with labels of nuclei found. {_LAYOUTS}")
    return [
        NucleiItem(name, image, source, organ_of(name), allow_empty=options.allow_empty)
        for name, image, source in found
    ]


def _organ_rule(options: NucleiOptions) -> Callable[[str], str]:
    try:
        pattern = re.compile(options.organ_pattern)
        if pattern.groups < 1:
            raise re.error("it has no group")
    except re.error as error:
        raise CohortError(
            f"organ pattern {options.organ_pattern!r}: {error}. Expected a regular expression whose first group, in "
            r"parentheses, is the organ, such as '([^_]+)_'."
        ) from error

    def organ(name: str) -> str:
        match = pattern.match(name)
        return (match.group(1) if match else None) or UNKNOWN

    return organ


def _from_manifest(path: Path, options: NucleiOptions, organ_of: Callable[[str], str]) -> list[NucleiItem]:
    table = read_csv(path, _MANIFEST)
    organ_column = options.organ_column
    default = NucleiOptions().organ_column
    needed = [*_REQUIRED, *([organ_column] if organ_column != default else [])]
    check_columns(path, table, needed, "images", _MANIFEST)
    rows = list(zip(line_numbers(table), table.to_dict("records"), strict=True))
    images = [_existing(path, line, "image", row["image"]) for line, row in rows]
    labels = [_existing(path, line, "label", row["label"]) for line, row in rows]
    seen: dict[Path, int] = {}
    for (line, _), image in zip(rows, images, strict=True):
        if image in seen:
            raise CohortError(
                f"{path}, line {line}, column 'image': {image} is already on line {seen[image]}. Each image has one "
                "row; an image in two splits would leak between them."
            )
        seen[image] = line
    items = []
    for name, image, label, (line, row) in zip(
        unique_names([str(i) for i in images]), images, labels, rows, strict=True
    ):
        try:
            source = label_source(label)
        except AnnotationError as error:
            raise CohortError(f"{path}, line {line}, column 'label': {error}") from error
        values = {str(k): v or UNKNOWN for k, v in row.items() if k not in (*_REQUIRED, organ_column, "split")}
        organ = row.get(organ_column) or organ_of(name)
        items.append(NucleiItem(name, image, source, organ, row.get("split") or UNKNOWN, values, options.allow_empty))
    return items


def _existing(path: Path, line: int, column: str, value: str) -> Path:
    if not value:
        raise CohortError(f"{path}, line {line}, column {column!r}: empty. Each image needs a label.")
    target = path.parent.resolve() / Path(value).expanduser()
    if not target.exists():
        raise CohortError(
            f"{path}, line {line}, column {column!r}: file not found: {target}. Paths are relative to the manifest."
        )
    return target.resolve()


def _from_coco(path: Path, options: NucleiOptions, organ_of: Callable[[str], str]) -> list[NucleiItem]:
    content = read_coco(path)
    if not content:
        raise AnnotationError(f"{path}: the list 'images' is empty.")
    if options.images is not None and not options.images.is_dir():
        raise CohortError(f"{options.images}: no such folder of images. Give the one that {path.name} belongs to.")
    folders = [options.images] if options.images else [path.parent, path.parent / "images"]
    images = []
    for _, source in content:
        candidates = [folder / source.image_name for folder in folders]
        images.append(next((c for c in candidates if c.is_file()), candidates[0]))
    items = []
    own = ("id", "file_name", "width", "height", "split", options.organ_column)
    for name, image, (record, source) in zip(unique_names([str(i) for i in images]), images, content, strict=True):
        values = {k: str(v) for k, v in record.items() if k not in own and isinstance(v, str | int | float)}
        organ = str(record.get(options.organ_column) or organ_of(name))
        split = str(record.get("split") or UNKNOWN)
        items.append(NucleiItem(name, image, source, organ, split, values, options.allow_empty))
    return items


def _pairs(folder: Path) -> list[tuple[str, Path, LabelSource]]:
    """images/ and labels/ (or MoNuSeg's names for them), or images and XML side by side; [] where neither is."""
    for images, labels in _FOLDER_PAIRS:
        if (folder / images).is_dir() and (folder / labels).is_dir():
            return _join(folder / images, folder / labels, {*LABEL_PICTURES, ".xml"})
    if any(path.suffix.lower() == ".xml" for path in folder.iterdir()):
        return _join(folder, folder, {".xml"})
    return []


def _join(images: Path, labels: Path, label_suffixes: set[str]) -> list[tuple[str, Path, LabelSource]]:
    by_image, by_label = _by_stem(images, PICTURES), _by_stem(labels, label_suffixes)
    found: list[tuple[str, Path, LabelSource]] = []
    for name in sorted({*by_image, *by_label}):
        # A file that is missing is looked for under the name it should have, and said when the item is loaded.
        image = by_image.get(name, images / f"{name}.png")
        label = by_label.get(name, labels / f"{name}{'.xml' if label_suffixes == {'.xml'} else '.png'}")
        found.append((name, image, OutlineFile(label) if label.suffix.lower() == ".xml" else LabelPicture(label)))
    return found


def _by_stem(folder: Path, suffixes: set[str]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in suffixes or path.name.startswith("."):
            continue
        if path.stem in found:
            raise CohortError(
                f"{folder}: {found[path.stem].name} and {path.name} have the same name. Images and labels pair up by "
                "names without suffix; take one away, or list them in a manifest (.csv)."
            )
        found[path.stem] = path
    return found


def _bowl(folder: Path) -> list[tuple[str, Path, LabelSource]]:
    """ID/images/*.png and ID/masks/*.png; [] where no folder has masks."""
    found: list[tuple[str, Path, LabelSource]] = []
    for entry in sorted(folder.iterdir()):
        if not (entry / "masks").is_dir():
            continue
        images = sorted(_by_stem(entry / "images", PICTURES).values()) if (entry / "images").is_dir() else []
        if len(images) > 1:
            raise CohortError(f"{entry / 'images'}: {len(images)} images. Expected one, whose masks are in masks/.")
        image = images[0] if images else entry / "images" / f"{entry.name}.png"
        found.append((entry.name, image, MaskFolder(entry / "masks")))
    return found
