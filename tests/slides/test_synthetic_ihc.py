"""Brown where the antibody binds, blue where it does not."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest

from tfseg.slides import synthetic_nuclei, synthetic_render
from tfseg.slides.synthetic_ihc import MARKERS, Brown, cell_outlines
from tfseg.slides.synthetic_nuclei import EPITHELIUM, LYMPHOCYTE, SPINDLE, TUMOUR
from tfseg.slides.synthetic_tissue import grow

SIDE = 1200
QUIET = synthetic_render.Scanner((244, 244, 244), 1.0, 0.5, 0.0, 90)


@pytest.fixture(scope="module")
def sections():
    """stain → (tissue, picture source, (1200, 1200, 3) image at 0.5 µm/px), all of one tissue."""
    rng = np.random.default_rng(12)
    nuclei = synthetic_nuclei.templates(2, 0.5, rng)
    tissue = grow((SIDE / 2, SIDE / 2), 2, nuclei, rng)
    made = {}
    for stain in ("A", "ER", "HER2"):
        rng = np.random.default_rng(3)
        picture = synthetic_render.Picture(tissue, nuclei, 0.5, synthetic_render.STAINS[stain], QUIET, rng)
        made[stain] = tissue, picture, picture.tile(0, 0, SIDE, SIDE)
    return made


def brown(image):
    """Mask of DAB: hue 10° to 45°, clearly coloured and not pale."""
    hue, saturation, value = cv2.split(cv2.cvtColor(image, cv2.COLOR_RGB2HSV))
    return (hue >= 5) & (hue <= 22) & (saturation > 75) & (value < 200)


def blue(image):
    hue, saturation, _ = cv2.split(cv2.cvtColor(image, cv2.COLOR_RGB2HSV))
    return (hue >= 98) & (hue <= 130) & (saturation > 60)


def at_nuclei(mask, tissue, kind):
    table = tissue.nuclei[tissue.nuclei["kind"] == kind]
    return mask[np.rint(table["y"] / 0.5).astype(int), np.rint(table["x"] / 0.5).astype(int)]


def test_er_is_brown_in_nuclei_of_tumour_and_blue_elsewhere(sections):
    tissue, picture, image = sections["ER"]
    level = picture.brown.level
    kinds = tissue.nuclei["kind"]
    assert 0.2 < (level[kinds == TUMOUR] > 0).mean() < 1.0
    assert not level[(kinds == LYMPHOCYTE) | (kinds == SPINDLE)].any()
    positive = at_nuclei(brown(image), tissue, TUMOUR)
    assert positive[level[kinds == TUMOUR] == 3].mean() > 0.9
    assert positive[level[kinds == TUMOUR] == 0].mean() < 0.25  # those that overlap a positive one
    assert at_nuclei(blue(image), tissue, SPINDLE).mean() > 0.7


def test_share_of_positive_cells_differs_between_markers(sections):
    tissue = sections["ER"][0]
    kinds, share = tissue.nuclei["kind"], {}
    for name, marker in MARKERS.items():
        levels = [Brown(marker, tissue, 0.5, 1.0, np.random.default_rng(seed)).level > 0 for seed in range(8)]
        share[name] = {
            kind: np.mean([positive[kinds == kind].mean() for positive in levels])
            for kind in (TUMOUR, LYMPHOCYTE, SPINDLE)
        }
    assert 0.15 < share["Ki67"][TUMOUR] < share["ER"][TUMOUR] - 0.15 < share["HER2"][TUMOUR]
    assert share["ER"][LYMPHOCYTE] == share["HER2"][LYMPHOCYTE] == 0 < share["Ki67"][LYMPHOCYTE] < 0.1
    assert all(kinds_of[SPINDLE] == 0 for kinds_of in share.values())


def test_her2_is_brown_between_nuclei_and_not_in_them(sections):
    tissue, picture, image = sections["HER2"]
    strong = (picture.brown.level == 3) & (tissue.nuclei["kind"] == TUMOUR)
    cells = np.isin(tissue.nuclei["kind"], (TUMOUR, EPITHELIUM))
    centres = np.stack([tissue.nuclei["x"], tissue.nuclei["y"]], 1).astype(float)[cells]
    outlines = cell_outlines(centres, strong[cells])
    columns, rows = np.rint(outlines / 0.5 - 0.5).astype(int).reshape(-1, 2).T.clip(0, SIDE - 1)
    mask = brown(image)
    assert mask[rows, columns].mean() > 0.8
    assert at_nuclei(mask, tissue, TUMOUR).mean() < 0.3
    assert at_nuclei(mask, tissue, SPINDLE).mean() < 0.05


def test_stroma_is_pale_and_grey(sections):
    pink = cv2.cvtColor(sections["A"][2], cv2.COLOR_RGB2HSV)
    stroma = (pink[..., 0] > 150) & (pink[..., 1] > 70) & (pink[..., 2] > 150)  # eosin without a nucleus
    for stain in ("ER", "HER2"):
        saturation, value = cv2.split(cv2.cvtColor(sections[stain][2], cv2.COLOR_RGB2HSV))[1:]
        assert np.median(saturation[stroma]) < 40 and np.median(value[stroma]) > 150
    assert not brown(sections["A"][2]).any()


@pytest.mark.parametrize("stain", ["ER", "HER2"])
def test_tiles_fit_together(sections, stain):
    _, picture, whole = sections[stain]
    parts = np.block([[[picture.tile(r, c, 300, 600)] for c in (0, 600)] for r in range(0, SIDE, 300)]).astype(int)
    difference = abs(whole.astype(int) - parts)
    assert difference.mean() < 0.2
    assert difference[[299, 300, 599, 600]].mean() < 0.3


def test_a_cell_reaches_half_way_to_its_neighbour():
    centres = np.array([[0.0, 0.0], [10.0, 0.0], [100.0, 0.0]])
    first, lone = cell_outlines(centres, np.array([True, False, True]))
    reach = np.hypot(*first.T)
    assert first[0] == pytest.approx((5, 0))  # towards the neighbour
    assert first[8] == pytest.approx((-7.5, 0))  # away from it
    assert reach[2] == pytest.approx(5 / math.cos(math.pi / 4))  # on the line half-way, 45° up
    assert np.hypot(*(lone - centres[2]).T) == pytest.approx(np.full(16, 7.5))


def test_a_single_cell_has_a_membrane():
    assert cell_outlines(np.array([[3.0, 4.0]]), np.array([True])).shape == (1, 16, 2)
