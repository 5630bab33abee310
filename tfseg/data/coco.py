"""COCO JSON: images and the outlines or run-length masks of their nuclei. Decoded here, without pycocotools."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from tfseg.data.nuclei_labels import Part, check_size, lay, named, polygon_mask
from tfseg.types import AnnotationError

_WANTED = (
    "Expected COCO's instance format: lists 'images' (id, file_name) and 'annotations' (image_id, segmentation as "
    "polygons or RLE)."
)


@dataclass(frozen=True)
class CocoSource:
    """The annotations of one image.

    Polygons: lists [x1, y1, x2, y2, …] in pixels; a pixel belongs to the nucleus when its centre lies inside one of
    them, by the even-odd rule (pycocotools, which draws outlines five times finer and rounds, may differ by pixels on
    the outline). Pixel (i, j) covers [i, i + 1) × [j, j + 1). RLE: counts of 0 and 1 in turn, column by column, as a
    list or compressed. Where nuclei overlap, the earlier in the file keeps the pixel. A crowd (``iscrowd`` 1) is no
    single nucleus: its pixels become background, and it is said how many. Categories are not told apart.

    Attributes:
        path: the JSON.
        image_name: file_name of the image in it.
        annotations: COCO's annotations of that image.
    """

    path: Path
    image_name: str
    annotations: tuple[dict[str, Any], ...]

    def read(self, shape: tuple[int, int]) -> tuple[NDArray[np.integer], list[str]]:
        single = [a for a in self.annotations if not a.get("iscrowd")]
        crowds = [a for a in self.annotations if a.get("iscrowd")]
        labels, notes = lay(shape, (self._part(a, shape) for a in single))
        if crowds:
            pixels = sum(int(self._part(a, shape)[3].sum()) for a in crowds)
            places = named([self._place(a) for a in crowds])
            notes.append(f"crowds ({places}; {pixels} px) left out: they are no single nuclei")
        return labels, notes

    def files(self) -> list[Path]:
        return [self.path]

    @staticmethod
    def _place(annotation: dict[str, Any]) -> str:
        return f"annotation {annotation.get('id', '?')}"

    def _part(self, annotation: dict[str, Any], shape: tuple[int, int]) -> Part:
        place, content = self._place(annotation), annotation.get("segmentation")
        try:
            if isinstance(content, dict):
                mask = decode_rle(content)
                check_size(self.path, mask.shape, shape)
                return place, 0, 0, mask
            if not content:
                raise ValueError("it has no segmentation")
            rings = [np.asarray(ring, np.float64).reshape(-1, 2) for ring in content]
            if not all(np.isfinite(ring).all() for ring in rings):
                raise ValueError("coordinates that are no finite numbers")
        except AnnotationError as error:
            raise AnnotationError(f"{self.path}, image {self.image_name}, {place}: {error}") from error
        except (TypeError, ValueError, KeyError) as error:
            raise AnnotationError(
                f"{self.path}, image {self.image_name}, {place}: {error}. Expected polygons [[x1, y1, x2, y2, …], …] "
                "or RLE {'size': [height, width], 'counts': …}."
            ) from error
        return place, *_union([shapely.Polygon(ring) for ring in rings if len(ring) >= 3], shape)


def decode_rle(content: dict[str, Any]) -> NDArray[np.bool_]:
    """A mask from COCO's run-length encoding.

    ``counts`` are the lengths of runs of 0, 1, 0, … down the columns, from the left one on. Compressed they are text:
    each number stands in groups of 5 bits, least first, as character 48 + group, + 32 where another follows; the last
    group's bit 16 is the sign; from the fourth number on what is written is the difference to the one before the last.

    Args:
        content: ``size`` [height, width] and ``counts``, a list of integers, text or bytes.

    Returns:
        (height, width) bool.

    Raises:
        ValueError: counts are garbled, negative or do not sum to height · width.
        KeyError, TypeError: ``size`` or ``counts`` is missing or of another type.
    """
    height, width = (int(side) for side in content["size"])
    counts = content["counts"]
    if isinstance(counts, (str, bytes)):
        counts = _uncompress(counts.encode() if isinstance(counts, str) else counts)
    runs = np.asarray(counts, np.int64)
    if runs.ndim != 1 or (runs < 0).any() or runs.sum() != height * width:
        raise ValueError(f"RLE counts sum to {runs.sum()}, expected {height} × {width} = {height * width}")
    values = np.arange(len(runs)) % 2 == 1
    return np.repeat(values, runs).reshape(width, height).T


def _uncompress(text: bytes) -> list[int]:
    counts: list[int] = []
    number = shift = 0
    for character in text:
        group = character - 48
        if not 0 <= group < 64:
            raise ValueError(f"compressed RLE has the character {chr(character)!r}")
        number |= (group & 31) << shift
        shift += 5
        if group & 32:
            continue
        if group & 16:
            number -= 1 << shift
        counts.append(number + counts[-2] if len(counts) > 2 else number)
        number = shift = 0
    if shift:
        raise ValueError("compressed RLE ends within a number")
    return counts


def _union(polygons: list[shapely.Polygon], shape: tuple[int, int]) -> tuple[int, int, NDArray[np.bool_]]:
    """The pixels inside any of the polygons, as :func:`polygon_mask` gives those of one."""
    parts = [part for part in (polygon_mask(polygon, shape) for polygon in polygons) if part[2].size]
    if not parts:
        return 0, 0, np.zeros((0, 0), bool)
    top, left = min(part[0] for part in parts), min(part[1] for part in parts)
    bottom = max(row + mask.shape[0] for row, _, mask in parts)
    right = max(column + mask.shape[1] for _, column, mask in parts)
    union = np.zeros((bottom - top, right - left), bool)
    for row, column, mask in parts:
        union[row - top : row - top + mask.shape[0], column - left : column - left + mask.shape[1]] |= mask
    return top, left, union


def read_coco(path: Path) -> list[tuple[dict[str, Any], CocoSource]]:
    """The images of a COCO JSON, in its order, each with its annotations, which may be none.

    Raises:
        AnnotationError: missing, no JSON, not COCO's format, an image id twice, or an annotation of an unknown image.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        images = {image["id"]: image for image in content["images"]}
        by_image: dict[Any, list[dict[str, Any]]] = {identity: [] for identity in images}
        unknown = [a for a in content["annotations"] if a["image_id"] not in by_image]
        for annotation in content["annotations"]:
            if annotation["image_id"] in by_image:
                by_image[annotation["image_id"]].append(annotation)
        names = [str(image["file_name"]) for image in content["images"]]
    except FileNotFoundError as error:
        raise AnnotationError(f"{path}: no such file. {_WANTED}") from error
    except (OSError, ValueError) as error:
        raise AnnotationError(f"{path}: not readable as JSON ({error}). {_WANTED}") from error
    except (KeyError, TypeError, AttributeError) as error:
        raise AnnotationError(f"{path}: {type(error).__name__} {error}. {_WANTED}") from error
    if len(images) != len(names):
        raise AnnotationError(f"{path}: {len(names)} images have {len(images)} different ids. Each needs its own.")
    if unknown:
        raise AnnotationError(
            f"{path}: {len(unknown)} annotations are of images that are not in 'images' (first: annotation "
            f"{unknown[0].get('id', '?')} of image {unknown[0]['image_id']!r}). Were images taken out alone?"
        )
    return [
        (image, CocoSource(path, name, tuple(by_image[identity])))
        for (identity, image), name in zip(images.items(), names, strict=True)
    ]
