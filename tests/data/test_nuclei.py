"""Images with labelled nuclei, from every layout: right ones by hand-made labels, wrong ones by their messages."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import tifffile
from nuclei_files import BOXES, LABELS, image, imagescope, pair, ring, write
from numpy.testing import assert_array_equal
from PIL import Image

from tfseg.data.nuclei import NucleiItem, NucleiOptions, read_nuclei
from tfseg.data.nuclei_labels import LabelPicture
from tfseg.types import AnnotationError, CohortError, SlideError


def labels_of(item: NucleiItem) -> np.ndarray:
    pixels, labels = item.load()
    assert pixels.dtype == np.uint8 and pixels.shape == (*labels.shape, 3)
    assert labels.dtype == np.int32
    return labels


def only(folder: Path, **options) -> NucleiItem:
    (item,) = read_nuclei(folder, NucleiOptions(**options))
    return item


@pytest.mark.parametrize(
    ("suffix", "dtype"),
    [
        *((".png", dtype) for dtype in (np.uint8, np.uint16)),
        *((".tif", dtype) for dtype in (np.int8, np.uint16, np.int32, np.uint32)),
        *((".npy", dtype) for dtype in (np.uint8, np.int64, np.uint64)),
    ],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_pairs_of_a_folder_in_every_dtype(tmp_path, suffix, dtype):
    pair(tmp_path, "Kidney_b", LABELS.astype(dtype), suffix)
    pair(tmp_path, "a", LABELS.astype(dtype), suffix)
    items = read_nuclei(tmp_path)
    assert [(item.name, item.organ, item.split) for item in items] == [
        ("Kidney_b", "Kidney", "unknown"),
        ("a", "unknown", "unknown"),
    ]
    for item in items:
        assert_array_equal(labels_of(item), LABELS)
        assert_array_equal(item.load()[0], image())
        assert item.size() == LABELS.shape


def test_items_can_be_sent_to_other_processes(tmp_path):
    pair(tmp_path, "a")
    item = pickle.loads(pickle.dumps(only(tmp_path)))
    assert_array_equal(labels_of(item), LABELS)


def test_ids_are_renumbered_in_their_order_and_it_is_said(tmp_path):
    ids = np.array([0, 40, 7, 65000], np.uint16)
    pair(tmp_path, "a", ids[LABELS])
    _, labels, notes = only(tmp_path).load_noted()
    assert_array_equal(labels, np.array([0, 2, 1, 3])[LABELS])
    assert notes == ["ids are not contiguous (3 nuclei, largest id 65000): renumbered"]


def test_labels_without_background(tmp_path):
    pair(tmp_path, "a", np.repeat(np.array([[3, 5]], np.uint8), 4, axis=0))
    assert_array_equal(labels_of(only(tmp_path)), [[1, 2]] * 4)


def test_organ_by_a_pattern(tmp_path):
    pair(tmp_path, "slide7-colon-2")
    assert only(tmp_path, organ_pattern="[^-]+-([a-z]+)-").organ == "colon"
    with pytest.raises(CohortError, match="'colon': it has no group"):
        read_nuclei(tmp_path, NucleiOptions(organ_pattern="colon"))
    with pytest.raises(CohortError, match="regular expression"):
        read_nuclei(tmp_path, NucleiOptions(organ_pattern="(("))


def test_manifest_with_columns_of_its_own(tmp_path):
    write(tmp_path / "x" / "a.png", image())
    write(tmp_path / "y" / "a.png", image(1))
    write(tmp_path / "l" / "1.npy", LABELS)
    imagescope(tmp_path / "l" / "2.xml", [ring(box) for box in BOXES])
    path = tmp_path / "nuclei.csv"
    path.write_text("image,label,organ,split,site\nx/a.png,l/1.npy,colon,train,7\n\ny/a.png,l/2.xml,,,\n")
    first, second = read_nuclei(path)
    assert (first.name, first.organ, first.split, first.values) == ("x_a", "colon", "train", {"site": "7"})
    # The manifest does not say the second one's organ: it comes from the name.
    assert (second.name, second.organ, second.split) == ("y_a", "y", "unknown")
    assert second.values == {"site": "unknown"}
    for item in (first, second):
        assert_array_equal(labels_of(item), LABELS)
    assert [item.organ for item in read_nuclei(path, NucleiOptions(organ_column="site"))] == ["7", "y"]


MANIFESTS = {
    "missing column": ("image,split\na.png,train\n", "missing column 'label'. Found: image, split"),
    "empty": ("image,label\n", "has a header but no images"),
    "twice": ("image,label\na.png,a.npy\na.png,a.npy\n", "line 3, column 'image': .*already on line 2"),
    "no file": ("image,label\nb.png,a.npy\n", "line 2, column 'image': file not found: .*b.png.*relative"),
    "no label": ("image,label\na.png,\n", "line 2, column 'label': empty"),
    "unknown label": ("image,label\na.png,a.txt\n", "line 2, column 'label': .*a.txt: no label by its suffix"),
}


@pytest.mark.parametrize("name", MANIFESTS)
def test_wrong_manifests_are_refused(tmp_path, name):
    content, message = MANIFESTS[name]
    write(tmp_path / "a.png", image())
    write(tmp_path / "a.npy", LABELS)
    (tmp_path / "a.txt").touch()
    path = tmp_path / "nuclei.csv"
    path.write_text(content)
    with pytest.raises(CohortError, match=message):
        read_nuclei(path)


def test_organ_column_must_be_there(tmp_path):
    path = tmp_path / "nuclei.csv"
    path.write_text("image,label\n")
    with pytest.raises(CohortError, match="missing column 'tissue'"):
        read_nuclei(path, NucleiOptions(organ_column="tissue"))


@pytest.mark.parametrize("layout", ["challenge", "side by side"])
def test_monuseg_folders(tmp_path, layout):
    images, labels = ("Tissue Images", "Annotations") if layout == "challenge" else (".", ".")
    write(tmp_path / images / "TCGA-A7-A13E-01Z-00-DX1.tif", image())
    imagescope(tmp_path / labels / "TCGA-A7-A13E-01Z-00-DX1.xml", [ring(box) for box in BOXES])
    item = only(tmp_path)
    assert item.name == "TCGA-A7-A13E-01Z-00-DX1" and item.organ == "unknown"
    assert_array_equal(labels_of(item), LABELS)


def outlines(tmp_path: Path, rings: list, **kwargs) -> NucleiItem:
    write(tmp_path / "a.png", image())
    imagescope(tmp_path / "a.xml", rings, **kwargs)
    return only(tmp_path)


def test_a_pixel_is_inside_an_outline_when_its_centre_is(tmp_path):
    item = outlines(tmp_path, [[(2.4, 2.4), (5.6, 2.4), (5.6, 4.6), (2.4, 4.6)], [(10, 2), (14, 2), (10, 6)]])
    expected = np.zeros(LABELS.shape, int)
    expected[2:5, 2:6] = 1
    # Below the diagonal x + y = 16: pixel centres on it lie on a right edge, outside.
    for row, columns in ((2, 3), (3, 2), (4, 1)):
        expected[row, 10 : 10 + columns] = 2
    assert_array_equal(labels_of(item), expected)


def test_of_overlapping_outlines_the_earlier_keeps_the_pixels(tmp_path):
    item = outlines(tmp_path, [ring((2, 2, 8, 8)), ring((5, 5, 12, 10)), ring((3, 3, 5, 5))])
    expected = np.zeros(LABELS.shape, int)
    expected[5:10, 5:12] = 2
    expected[2:8, 2:8] = 1
    _, labels, notes = item.load_noted()
    assert_array_equal(labels, expected)
    assert notes == [
        "2 overlap earlier ones in 13 px, which the earlier keep",
        "layer 1, Region 3 left out: wholly under earlier ones",
    ]


def test_outlines_that_reach_beyond_the_image_are_cut_and_degenerate_ones_left_out(tmp_path):
    item = outlines(tmp_path, [[(1, 1), (3, 1)], ring((-3, -2, 2, 2)), ring((18, 10, 25, 20)), ring((6, 6, 6.3, 6.3))])
    _, labels, notes = item.load_noted()
    expected = np.zeros(LABELS.shape, int)
    expected[:2, :2], expected[10:, 18:] = 1, 2
    assert_array_equal(labels, expected)
    assert notes[0] == "layer 1, Region 1, layer 1, Region 4 left out: no pixel's centre lies inside"
    assert notes[1] == "ids are not contiguous (2 nuclei, largest id 3): renumbered"


def test_an_outline_outside_the_image_is_an_error(tmp_path):
    with pytest.raises(AnnotationError, match=r"a.xml: layer 1, Region 2 outside the image of 20×12 px"):
        outlines(tmp_path, [ring(BOXES[0]), ring((30, 2, 35, 6))]).load()


def test_negative_regions_and_crossing_outlines(tmp_path):
    bow_tie = [(10, 2), (18, 8), (18, 2), (10, 8)]
    item = outlines(tmp_path, [ring((1, 1, 8, 8)), ring((3, 3, 5, 5)), bow_tie], negative=(1,))
    labels = labels_of(item)
    assert not labels[3:5, 3:5].any() and (labels[1:8, 1:8] == 1).sum() == 49 - 4
    assert labels[3, 11] == 2 and labels[4, 17] == 2  # the even-odd rule fills both wings
    assert labels[2, 14] == 0 and labels[7, 14] == 0


def test_data_science_bowl_folders(tmp_path):
    rgba = np.dstack([image(), np.full(LABELS.shape, 255, np.uint8)])
    write(tmp_path / "id1" / "images" / "id1.png", rgba)
    for number in (1, 2, 3):
        write(tmp_path / "id1" / "masks" / f"m{number}.png", ((number == LABELS) * 255).astype(np.uint8))
    item = only(tmp_path)
    assert item.name == "id1"
    assert_array_equal(labels_of(item), LABELS)
    assert_array_equal(item.load()[0], image())


def bowl(tmp_path: Path, *masks: np.ndarray) -> NucleiItem:
    write(tmp_path / "id1" / "images" / "id1.png", image())
    (tmp_path / "id1" / "masks").mkdir()
    for number, mask in enumerate(masks, start=1):
        write(tmp_path / "id1" / "masks" / f"m{number}.png", np.asarray(mask, np.uint8))
    return only(tmp_path)


def test_wrong_masks_are_named(tmp_path):
    one, two = LABELS == 1, np.roll(LABELS == 1, 3, axis=1)
    for number, (masks, message) in enumerate(
        [
            ((one, two), r"m2.png: overlaps m1.png in 8 px"),
            ((one, one & ~one), r"m2.png: the mask is empty"),
            ((one, two[:, 1:]), r"m2.png: 19×12 px, its image has 20×12 \(width × height\)"),
            ((np.dstack([one] * 3),), r"m1.png: a mask has one channel, this one has shape 12×20×3"),
            ((), r"masks: no masks"),
        ]
    ):
        with pytest.raises(AnnotationError, match=message):
            bowl(tmp_path / str(number), *masks).load()


def test_a_bowl_folder_has_one_image(tmp_path):
    bowl(tmp_path, LABELS == 1)
    write(tmp_path / "id1" / "images" / "other.png", image())
    with pytest.raises(CohortError, match=r"images: 2 images. Expected one"):
        read_nuclei(tmp_path)


LABELS_REFUSED = {
    "size": (LABELS.astype(np.uint8)[:, :-1], ".png", "19×12 px, its image has 20×12"),
    "no nucleus": (np.zeros((12, 20), np.uint8), ".png", "no nucleus in the labels of a.png.*--allow-empty"),
    "negative": (LABELS - 1, ".npy", "an id is -1. Ids are 1 and more"),
    "float": (LABELS.astype(np.float32), ".npy", "channel of integers.*Found float32 of shape 12×20"),
    "black and white": (LABELS > 0, ".png", "Found bool.*connected parts"),
    "colour": (np.dstack([LABELS] * 3).astype(np.uint8), ".png", "Found uint8 of shape 12×20×3"),
    "several pages": (np.stack([LABELS] * 5).astype(np.uint16), ".tif", "it has 5 pages"),
}


@pytest.mark.parametrize("name", LABELS_REFUSED)
def test_wrong_labels_are_refused(tmp_path, name):
    labels, suffix, message = LABELS_REFUSED[name]
    write(tmp_path / "images" / "a.png", image())
    write(tmp_path / "labels" / f"a{suffix}", labels)
    with pytest.raises(AnnotationError, match=f"(?s)a{suffix}: .*{message}"):
        only(tmp_path).load()


def test_an_image_without_nuclei_by_option(tmp_path):
    pair(tmp_path, "a", np.zeros((12, 20), np.uint8))
    assert not labels_of(only(tmp_path, allow_empty=True)).any()


def png16(path: Path) -> None:
    """An RGB PNG of 16 bit a channel, which Pillow cannot write."""
    import cv2

    cv2.imwrite(str(path), image().astype(np.uint16) * 257)


IMAGES_REFUSED = {
    "grey": (lambda path: write(path, image()[..., 0]), "found grey. Save it as 8-bit RGB"),
    "palette": (lambda path: Image.fromarray(image()).convert("P").save(path), "found palette"),
    "16-bit grey": (lambda path: write(path, image()[..., 0].astype(np.uint16)), "found 16 bit a channel"),
    "16-bit RGB": (png16, "found 16 bit a channel"),
    "transparent": (
        lambda path: write(path, np.dstack([image(), LABELS.astype(np.uint8)])),
        "240 of 240 .*transparent",
    ),
    "no picture": (lambda path: path.write_bytes(b"nothing"), "not readable as a picture"),
}


@pytest.mark.parametrize("name", IMAGES_REFUSED)
def test_wrong_images_are_refused(tmp_path, name):
    make, message = IMAGES_REFUSED[name]
    pair(tmp_path, "a")
    make(tmp_path / "images" / "a.png")
    with pytest.raises(SlideError, match=f"a.png: .*{message}"):
        only(tmp_path).load()


@pytest.mark.parametrize(
    ("pixels", "options", "message"),
    [
        (image().astype(np.uint16), {"photometric": "rgb"}, "uint16 of shape 12×20×3"),
        (image()[..., 0], {"photometric": "minisblack"}, "found MINISBLACK"),
    ],
    ids=["16 bit", "grey"],
)
def test_wrong_tiff_images_are_refused(tmp_path, pixels, options, message):
    write(tmp_path / "labels" / "a.png", LABELS.astype(np.uint8))
    (tmp_path / "images").mkdir()
    tifffile.imwrite(tmp_path / "images" / "a.tif", pixels, **options)
    with pytest.raises(SlideError, match=message):
        only(tmp_path).load()


def test_tiff_images_of_separate_planes(tmp_path):
    write(tmp_path / "labels" / "a.png", LABELS.astype(np.uint8))
    (tmp_path / "images").mkdir()
    planes = np.moveaxis(image(), -1, 0)
    tifffile.imwrite(tmp_path / "images" / "a.tif", planes, photometric="rgb", planarconfig="separate")
    assert_array_equal(only(tmp_path).load()[0], image())


def test_one_of_a_pair_without_the_other_is_said_when_it_is_loaded(tmp_path):
    pair(tmp_path, "a")
    pair(tmp_path, "b")
    (tmp_path / "labels" / "a.png").unlink()
    (tmp_path / "images" / "b.png").unlink()
    first, second = read_nuclei(tmp_path)
    with pytest.raises(AnnotationError, match=r"labels/a.png: no such label. Each image needs one"):
        first.load()
    with pytest.raises(SlideError, match=r"images/b.png: no such image. Each label needs its image"):
        second.load()


def test_two_files_of_one_name_are_an_error(tmp_path):
    pair(tmp_path, "a")
    write(tmp_path / "labels" / "a.npy", LABELS)
    with pytest.raises(CohortError, match=r"a.npy and a.png have the same name"):
        read_nuclei(tmp_path)


def test_what_is_no_collection_is_said(tmp_path):
    with pytest.raises(CohortError, match=r"nowhere: no such folder, manifest or COCO file. Expected a manifest"):
        read_nuclei(tmp_path / "nowhere")
    (tmp_path / "sub").mkdir()
    with pytest.raises(CohortError, match="no images with labels of nuclei found"):
        read_nuclei(tmp_path)


def test_a_label_that_is_no_file_of_labels(tmp_path):
    (tmp_path / "a.png").write_bytes(b"nothing")
    with pytest.raises(AnnotationError, match=r"a.png: not readable as a label"):
        LabelPicture(tmp_path / "a.png").read((3, 3))


@pytest.mark.realdata
def test_real_monuseg_tiles(shared_data: Path):
    items = read_nuclei(shared_data / "nuclei" / "monuseg24")
    organs = [item.organ for item in items]
    found = {organ: organs.count(organ) for organ in set(organs)}
    assert found == {"Kidney": 6, "Liver": 6, "Prostate": 6, "Bladder": 2, "Colon": 2, "Stomach": 2}
    pixels, labels = items[0].load()
    raw = np.asarray(Image.open(shared_data / "nuclei/monuseg24/labels" / f"{items[0].name}.png"))
    assert pixels.shape == (1000, 1000, 3) and labels.max() == len(np.unique(raw)) - 1
    assert_array_equal(labels > 0, raw > 0)


@pytest.mark.realdata
def test_real_nuclei_of_the_data_science_bowl(shared_data: Path):
    items = read_nuclei(shared_data / "nuclei" / "dsb2018_he")
    assert len(items) == 107
    assert sum(int(item.load()[1].max()) for item in items) == 4550
