"""Predictions as labels: sure ones alone, never over what was drawn, pixel by pixel; and what a kill leaves."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tifffile
from dense_cohort import write_boxes
from dense_networks import CLASSES, Identity, StopAfter, dense_spec
from fake_networks import slide_file

from tfseg.data.cohort import CohortRow
from tfseg.infer.networks import Network
from tfseg.slides.annotations import load_annotation
from tfseg.slides.base import open_slide
from tfseg.slides.class_table import ClassTable
from tfseg.slides.known_tables import TABLES
from tfseg.train import pseudo_labels
from tfseg.train.pseudo_labels import LabelCounts, label_slide, raster_codes
from tfseg.types import IGNORE, CohortError

HEIGHT, WIDTH = 75, 110
TABLE = ClassTable.plain(CLASSES)
BOXES = [("red one", (45, 35, 60, 45)), ("blue", (0, 0, 30, 10)), ("ignore me", (0, 0, 5, 5))]
"""Red and blue where the network says green, red or glass; the ignored corner is nobody's."""


def picture() -> np.ndarray:
    """White glass; red tissue of 0.78, green of 0.86 and blue of 0.94 by the network that says what it sees."""
    image = np.full((HEIGHT, WIDTH, 3), 255, np.uint8)
    image[8:72, 8:104] = (200, 0, 0)
    image[32:56, 40:72] = (0, 220, 0)
    image[60:70, 90:104] = (0, 0, 240)
    return image


def colours() -> np.ndarray:
    """What the network is sure of at 0.8: uint8 (H, W). Glass is all three alike, so the first class, at 1."""
    labels = np.full((HEIGHT, WIDTH), 0, np.uint8)
    labels[8:72, 8:104] = IGNORE
    labels[32:56, 40:72] = 1
    labels[60:70, 90:104] = 2
    return labels


def network(predict=None, identity: str = "1") -> Network:
    spec = dense_spec()
    return Network(predict or Identity(spec), spec, identity)


@pytest.fixture
def row(tmp_path) -> CohortRow:
    annotation = write_boxes(tmp_path / "s.geojson", BOXES)
    return CohortRow("s", slide_file(tmp_path / "s.tif", picture()), annotation, "train", {})


TABLE_WITH_IGNORE = ClassTable(TABLE.classes, {"ignore me": IGNORE}, TABLE.values)


def manual(row: CohortRow, table: ClassTable) -> np.ndarray:
    with open_slide(row.slide) as slide:
        return load_annotation(row.annotation, slide, table).labels_on(dense_pixels(slide))


def dense_pixels(slide):
    from tfseg.infer.windows import dense_grid

    return dense_grid(slide, dense_spec()).pixels


def test_manual_labels_win_at_every_pixel(row, tmp_path):
    path = tmp_path / "labels" / "s.tiff"
    counts = label_slide(row, network(), TABLE_WITH_IGNORE, path, 0.8, tissue="none")
    found, drawn = tifffile.imread(path), manual(row, TABLE_WITH_IGNORE)
    assert found.shape == (HEIGHT, WIDTH)
    known = drawn != IGNORE
    assert known.sum() == 15 * 10 + 30 * 10 - 25
    np.testing.assert_array_equal(found[known], drawn[known])
    expected = colours()
    expected[:5, :5] = IGNORE
    np.testing.assert_array_equal(found[~known], expected[~known])
    assert (drawn[known] != colours()[known]).any() and colours()[2, 2] == 0
    labelled = int((found != IGNORE).sum())
    assert (counts.pixels, counts.manual, counts.labelled) == (HEIGHT * WIDTH, int(known.sum()), labelled)


def test_glass_keeps_manual_labels_alone(tmp_path):
    """Slide pixels of 4 µm, so that the tissue mask of 8 µm/px is exact on even borders."""
    annotation = write_boxes(tmp_path / "s.geojson", BOXES[:2])
    row = CohortRow("s", slide_file(tmp_path / "s.tif", picture(), mpp=4.0), annotation, "train", {})
    spec = dense_spec(mpps=(4.0,))
    counts = label_slide(row, Network(Identity(spec), spec, "1"), TABLE, tmp_path / "s.tiff", 0.8)
    expected = colours()
    expected[expected == 0] = IGNORE
    expected[35:45, 45:60], expected[0:10, 0:30] = 0, 2
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "s.tiff"), expected)
    tissue = 64 * 96
    assert (counts.pixels, counts.tissue, counts.manual, counts.manual_tissue) == (8250, tissue, 450, 150 + 2 * 22)
    assert counts.labelled == (expected != IGNORE).sum() == 24 * 32 + 10 * 14 + 300
    assert counts.labelled_tissue == 24 * 32 + 10 * 14 + 2 * 22


def test_the_next_step_reads_them_as_any_annotation(row, tmp_path):
    path = tmp_path / "s.tiff"
    label_slide(row, network(), TABLE_WITH_IGNORE, path, 0.8, tissue="none")
    with open_slide(row.slide) as slide:
        labels = load_annotation(path, slide, TABLE_WITH_IGNORE).labels_on(dense_pixels(slide))
    np.testing.assert_array_equal(labels, tifffile.imread(path))


def test_lower_threshold_labels_more_and_an_unannotated_slide_is_labelled_too(row, tmp_path):
    bare = CohortRow("s", row.slide, None, "train", {})
    counts = [label_slide(bare, network(), TABLE, tmp_path / f"{t}.tiff", t, tissue="none") for t in (0.95, 0.8, 0.5)]
    assert [one.manual for one in counts] == [0, 0, 0]
    assert counts[0].labelled == HEIGHT * WIDTH - 64 * 96
    assert counts[1].labelled == counts[0].labelled + 24 * 32 + 10 * 14
    assert counts[2].labelled == HEIGHT * WIDTH


def test_finished_slides_are_taken_as_they_are_unless_something_changed(row, tmp_path):
    path, table = tmp_path / "s.tiff", TABLE_WITH_IGNORE
    predict = Identity(dense_spec())
    first = label_slide(row, network(predict), table, path, 0.8)
    windows = predict.windows
    assert label_slide(row, network(predict), table, path, 0.8) == first and predict.windows == windows
    label_slide(row, network(predict), table, path, 0.7)
    label_slide(row, network(predict, "2"), table, path, 0.7)
    assert predict.windows == 3 * windows
    label_slide(row, network(predict, "2"), table.with_aliases(["red one=blue"]), path, 0.7)
    assert predict.windows == 4 * windows, "the same drawing means another class"
    write_boxes(row.annotation, BOXES[1:])
    assert label_slide(row, network(predict, "2"), table, path, 0.7).manual < first.manual
    assert not list(tmp_path.rglob("*.dense")), "no state is left"


def test_killed_in_a_slide_it_goes_on(row, tmp_path):
    whole, path = tmp_path / "whole.tiff", tmp_path / "s.tiff"
    label_slide(row, network(), TABLE_WITH_IGNORE, whole, 0.8, tissue="none")
    with pytest.raises(KeyboardInterrupt):
        label_slide(row, network(StopAfter(dense_spec(), 20)), TABLE_WITH_IGNORE, path, 0.8, tissue="none")
    assert not path.exists() and list(tmp_path.rglob("*.dense"))
    rest = Identity(dense_spec())
    label_slide(row, network(rest), TABLE_WITH_IGNORE, path, 0.8, tissue="none")
    assert rest.windows < 5 * 7
    assert path.read_bytes() == whole.read_bytes()


def test_killed_between_note_and_clean_up_no_state_stays(row, tmp_path, monkeypatch):
    path = tmp_path / "s.tiff"

    def killed(state):
        raise KeyboardInterrupt

    monkeypatch.setattr(pseudo_labels, "_drop", killed)
    with pytest.raises(KeyboardInterrupt):
        label_slide(row, network(), TABLE_WITH_IGNORE, path, 0.8)
    assert list(tmp_path.rglob("*.dense"))
    monkeypatch.undo()
    predict = Identity(dense_spec())
    label_slide(row, network(predict), TABLE_WITH_IGNORE, path, 0.8)
    assert predict.windows == 0 and not list(tmp_path.rglob("*.dense"))


def test_nothing_to_label_where_undrawn_means_a_class(row, tmp_path):
    with pytest.raises(CohortError, match="what nobody drew means 'non-tumour'"):
        label_slide(row, network(), ClassTable.h2g(), tmp_path / "s.tiff", 0.9)


@pytest.mark.parametrize(
    "table",
    [
        *(table for table in TABLES.values() if table.rest == IGNORE),
        ClassTable.multi_level().of_raster(["background", "carcinoma", "stroma", "necrotic", "ignore"]),
        ClassTable(CLASSES),
        ClassTable(CLASSES, values={255: 0, 1: IGNORE, 7: 1}),
    ],
)
def test_codes_are_read_back(table):
    extended, codes = raster_codes(table)
    assert table.values.items() <= extended.values.items(), "old rasters mean what they meant"
    for label, spec in enumerate(table.classes):
        expected = IGNORE if table.index(spec.name) == IGNORE else label
        assert extended.values[codes[label]] == expected
    assert extended.values[codes[IGNORE]] == IGNORE
    if table.values.get(1) == 1:
        assert codes[1] == 1


def test_counts_add_up():
    total = LabelCounts(1, 2, 3, 4, 5, 6) + LabelCounts(10, 20, 30, 40, 50, 60)
    assert json.dumps(vars(total)) == json.dumps(
        {"pixels": 11, "tissue": 22, "manual": 33, "manual_tissue": 44, "labelled": 55, "labelled_tissue": 66}
    )
