"""COCO: run lengths by hand and against pycocotools, polygons, crowds, and what is wrong in a file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from nuclei_files import BOXES, LABELS, image, ring, write
from numpy.testing import assert_array_equal

from tfseg.data.coco import decode_rle
from tfseg.data.nuclei import NucleiItem, NucleiOptions, read_nuclei
from tfseg.types import AnnotationError, CohortError


def polygon(box: tuple[float, ...]) -> list[list[float]]:
    return [[value for point in ring(box) for value in point]]


def rle(mask: np.ndarray) -> dict:
    """Uncompressed: lengths of runs down the columns, first of 0."""
    flat = np.concatenate([[0], mask.T.ravel(), [2]]).astype(int)
    ends = np.flatnonzero(np.diff(flat))
    counts = np.diff(np.concatenate([[0], ends]))
    return {"size": list(mask.shape), "counts": counts.tolist()}


def coco(folder: Path, *segmentations, images: list[dict] | None = None, **fields) -> Path:
    write(folder / "a.png", image())
    annotations = [
        {"id": 10 + i, "image_id": 1, "category_id": 1, "iscrowd": 0, "segmentation": s, **fields}
        for i, s in enumerate(segmentations)
    ]
    images = images or [{"id": 1, "file_name": "a.png", "width": 20, "height": 12}]
    path = folder / "coco.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": []}))
    return path


def only(path: Path) -> NucleiItem:
    (item,) = read_nuclei(path)
    return item


def test_polygons_and_run_lengths_give_the_same_labels(tmp_path):
    path = coco(tmp_path, polygon(BOXES[0]), rle(LABELS == 2), polygon(BOXES[2]))
    pixels, labels, notes = only(path).load_noted()
    assert_array_equal(labels, LABELS)
    assert_array_equal(pixels, image())
    assert notes == []


def test_run_lengths_go_down_the_columns_and_begin_with_zeros():
    assert_array_equal(decode_rle({"size": [2, 3], "counts": [1, 2, 3]}), [[0, 1, 0], [1, 0, 0]])
    assert_array_equal(decode_rle({"size": [2, 2], "counts": [0, 4]}), np.ones((2, 2), bool))


def test_compressed_run_lengths_by_hand():
    # 5 → '5'; 40 = 8 + 32·1 → (8 | 32) + 48 = 'X', 1 → '1'; then differences to the number before the last.
    assert_array_equal(decode_rle({"size": [45, 1], "counts": "5X1"})[:, 0], np.arange(45) >= 5)
    # 2, 3, 2, then 3 + 1: '1'; then 2 − 1: −1 is 31 → 'O'
    mask = decode_rle({"size": [12, 1], "counts": b"2321O"})[:, 0]
    assert_array_equal(np.flatnonzero(mask), [2, 3, 4, 7, 8, 9, 10])


@pytest.mark.parametrize("seed", range(5))
def test_run_lengths_as_pycocotools_writes_them(seed):
    tool = pytest.importorskip("pycocotools.mask", reason="pycocotools is not installed")
    random = np.random.default_rng(seed)
    shape = tuple(random.integers(1, 300, 2))
    mask = random.random(shape) < random.choice([0.001, 0.5, 0.999])
    encoded = tool.encode(np.asfortranarray(mask.astype(np.uint8)))
    assert_array_equal(decode_rle(encoded), mask)
    assert_array_equal(decode_rle({**encoded, "counts": encoded["counts"].decode()}), mask)
    assert_array_equal(decode_rle(rle(mask)), mask)


def test_a_nucleus_of_several_polygons_is_their_union(tmp_path):
    path = coco(tmp_path, [*polygon((2, 2, 8, 6)), *polygon((6, 4, 12, 8)), [0, 0, 1, 1]])
    expected = np.zeros(LABELS.shape, int)
    expected[2:6, 2:8], expected[4:8, 6:12] = 1, 1
    assert_array_equal(only(path).load()[1], expected)


def test_the_earlier_keeps_overlapping_pixels(tmp_path):
    path = coco(tmp_path, polygon((2, 2, 8, 6)), rle(np.ones(LABELS.shape, bool)))
    _, labels, notes = only(path).load_noted()
    assert (labels[2:6, 2:8] == 1).all() and (labels == 2).sum() == 240 - 24
    assert notes == ["1 overlap earlier ones in 24 px, which the earlier keep"]


def test_crowds_are_left_out_and_said(tmp_path):
    path = coco(tmp_path, polygon(BOXES[0]), rle(LABELS == 3))
    content = json.loads(path.read_text())
    content["annotations"][1]["iscrowd"] = 1
    path.write_text(json.dumps(content))
    _, labels, notes = only(path).load_noted()
    assert_array_equal(labels, LABELS == 1)
    assert notes == ["crowds (annotation 11; 15 px) left out: they are no single nuclei"]


def test_images_organs_and_splits(tmp_path):
    write(tmp_path / "pictures" / "Colon_b.png", image())
    write(tmp_path / "images" / "c.png", image())
    images = [
        {"id": 1, "file_name": "a.png", "organ": "liver", "split": "test", "stain": "H&E"},
        {"id": 2, "file_name": "Colon_b.png"},
        {"id": "three", "file_name": "c.png"},
    ]
    path = coco(tmp_path, polygon(BOXES[0]), images=images)
    items = read_nuclei(path)
    assert [(item.name, item.organ, item.split) for item in items] == [
        ("a", "liver", "test"),
        ("Colon_b", "Colon", "unknown"),
        ("c", "unknown", "unknown"),
    ]
    assert items[0].values == {"stain": "H&E"}
    assert items[2].image == tmp_path / "images" / "c.png"  # beside the JSON or in images/
    with pytest.raises(AnnotationError, match=r"no nucleus in the labels of c.png"):
        items[2].load()
    items = read_nuclei(path, NucleiOptions(images=tmp_path / "pictures", allow_empty=True))
    assert not items[1].load()[1].any()
    with pytest.raises(CohortError, match="none: no such folder of images"):
        read_nuclei(path, NucleiOptions(images=tmp_path / "none"))


SEGMENTATIONS = {
    "sum": ({"size": [12, 20], "counts": [3, 4]}, r"RLE counts sum to 7, expected 12 × 20 = 240"),
    "negative": ({"size": [12, 20], "counts": [-3, 243]}, "RLE counts"),
    "other size": ({"size": [20, 12], "counts": [0, 240]}, r"12×20 px, its image has 20×12"),
    "garbled": ({"size": [12, 20], "counts": "5é"}, "the character"),
    "broken off": ({"size": [12, 20], "counts": "X"}, "ends within a number"),
    "no counts": ({"size": [12, 20]}, "'counts'"),
    "none": ([], "it has no segmentation"),
    "odd": ([[1, 2, 3]], "reshape"),
    "no numbers": ([["a", "b"]], "could not convert"),
    "not finite": ([[1, 2, 3, float("nan"), 5, 6]], "finite"),
}


@pytest.mark.parametrize("name", SEGMENTATIONS)
def test_wrong_segmentations_are_named(tmp_path, name):
    segmentation, message = SEGMENTATIONS[name]
    path = coco(tmp_path, polygon(BOXES[0]), segmentation)
    with pytest.raises(AnnotationError, match=f"coco.json, image a.png, annotation 11: .*{message}"):
        only(path).load()


FILES = {
    "no JSON": ("nothing", "not readable as JSON"),
    "no COCO": ('{"images": []}', "KeyError 'annotations'.*Expected COCO"),
    "a list": ("[1]", "TypeError"),
    "no images": ('{"images": [], "annotations": []}', "'images' is empty"),
    "unknown image": (
        '{"images": [{"id": 1, "file_name": "a.png"}], "annotations": [{"id": 4, "image_id": 2}]}',
        "1 annotations are of images that are not in 'images' .first: annotation 4 of image 2",
    ),
    "ids twice": (
        '{"images": [{"id": 1, "file_name": "a.png"}, {"id": 1, "file_name": "b.png"}], "annotations": []}',
        "2 images have 1 different ids",
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_wrong_files_are_refused(tmp_path, name):
    content, message = FILES[name]
    path = tmp_path / "coco.json"
    path.write_text(content)
    with pytest.raises(AnnotationError, match=message):
        read_nuclei(path)
    with pytest.raises(AnnotationError, match="no such file"):
        read_nuclei(tmp_path / "other.json")
