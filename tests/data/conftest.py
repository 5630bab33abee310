"""A tiny cohort of PNG slides."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from small_cohort import BOXES, CONFIG, MPP, slide_image, write_annotation

from tfseg.data.cohort import Cohort
from tfseg.data.index import PatchIndex, build_index

MakeCohort = Callable[..., Path]


@pytest.fixture(scope="session")
def make_small_cohort() -> MakeCohort:
    """Function (folder, slides: list of (split, grade, boxes or None)) → manifest."""
    import cv2

    def make(folder: Path, slides: list[tuple[str, str, list[tuple[int, int, int, int]] | None]]) -> Path:
        lines = ["slide,annotation,split,grade,mpp"]
        for k, (split, grade, boxes) in enumerate(slides):
            cv2.imwrite(str(folder / f"s{k}.png"), slide_image(k)[..., ::-1])
            name = "" if boxes is None else write_annotation(folder / f"s{k}.geojson", boxes).name
            lines.append(f"s{k}.png,{name},{split},{grade},{MPP}")
        path = folder / "cohort.csv"
        path.write_text("\n".join(lines) + "\n")
        return path

    return make


@pytest.fixture(scope="session")
def small_index(tmp_path_factory, make_small_cohort) -> PatchIndex:
    """Three annotated slides: two of train, one of val, the last without tumour."""
    folder = tmp_path_factory.mktemp("small")
    path = make_small_cohort(folder, [("train", "1", BOXES), ("train", "2", BOXES), ("val", "1", [(0, 0, 8, 8)])])
    return build_index(Cohort.read(path), CONFIG, folder / "index", workers=1, progress=False)
