"""One set of names of regions, and the classes of each paper."""

from __future__ import annotations

import pytest

from tfseg.slides.class_table import DMMN_CLASSES, SKIP, ClassTable
from tfseg.types import IGNORE, AnnotationError

REGIONS = ("carcinoma", "benign epithelial", "background", "stroma", "necrotic", "adipose")
TABLES = {
    "dmmn": (ClassTable.dmmn(), (1, 2, 3, 4, 5, 6), 7),
    "multi_level": (ClassTable.multi_level(), (1, 2, 0, 0, 2, 0), 3),
    "cd_unet": (ClassTable.cd_unet(), (1, 2, 0, 2, 3, 2), 4),
}


@pytest.mark.parametrize(("table", "indices", "number"), TABLES.values(), ids=TABLES)
class TestPapers:
    def test_regions(self, table, indices, number):
        assert tuple(map(table.index, REGIONS)) == indices
        assert len(table.classes) == number
        assert table.rest == IGNORE

    def test_truth_of_a_cohort(self, table, indices, number):
        read = table.of_raster([spec.name for spec in DMMN_CLASSES])
        assert read.values == {IGNORE: IGNORE, 0: IGNORE, **dict(enumerate(indices, start=1))}

    def test_its_own_rasters_hold_class_indices(self, table, indices, number):
        unused = {0: IGNORE} if number == 7 else {}
        assert table.values == {**{i: i for i in range(number)}, IGNORE: IGNORE, **unused}

    def test_usual_spellings(self, table, indices, number):
        carcinoma, benign, _, _, necrotic, adipose = indices
        for name, index in {
            "Tumor: Positive": carcinoma,
            "Invasive_Carcinoma": carcinoma,
            "Benign Epithelium": benign,
            "NECROSIS": necrotic,
            "Fat": adipose,
            "Ignore*": IGNORE,
            "exclude": IGNORE,
            "Not annotated": IGNORE,
            "Region*": SKIP,
            "lymphocyte nest": None,
        }.items():
            assert table.index(name) == index


def test_what_the_papers_club_together():
    assert {ClassTable.multi_level().index(name) for name in ("DCIS", "Ducts", "blood vessels", "Folds")} == {2}
    assert ClassTable.cd_unet(rest=0).rest == 0


def test_raster_of_an_unknown_class():
    with pytest.raises(AnnotationError, match=r"raster value 1: unknown class 'ghost'.*'carcinoma'"):
        ClassTable.dmmn().of_raster(["stroma", "ghost"])
