"""The colours of training for slides: what the network sees, without seams, and what stays the slide's own."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from skimage.data import immunohistochemistry

from tfseg.data.colour_normalisation import fit, save_normaliser
from tfseg.data.slide_colours import SlideColours, read_colours
from tfseg.slides.base import open_slide
from tfseg.types import COLOURS, ModelError, Window


@pytest.fixture(scope="module")
def picture():
    return immunohistochemistry()[:256, :320]


@pytest.fixture(scope="module")
def colours(picture):
    target = np.clip(np.add(picture, (20, -10, 15)), 0, 255).astype(np.uint8)
    return SlideColours(fit(target, "vahadane"))


def test_windows_are_normalised_with_the_slides_own_stains_and_have_no_seams(picture, colours):
    slide = open_slide([picture], mpp=0.5)
    seen = colours(slide)
    expected = colours.normaliser.apply(picture, fit(picture, "vahadane"))
    whole = seen.read(Window(160, 128, 320, 256, 0.5))
    assert_array_equal(whole, expected)
    assert not np.array_equal(whole, picture)
    assert_array_equal(seen.read(Window(100, 60, 64, 40, 0.5)), whole[40:80, 68:132])
    assert (seen.size, seen.mpp, seen.name) == (slide.size, slide.mpp, slide.name)


def test_overviews_keep_the_slides_own_colours(picture, colours):
    assert_array_equal(colours(open_slide([picture], mpp=0.5)).whole(0.5), picture)


def test_a_slide_without_stains_stays_as_it_is_and_that_is_said(colours, caplog):
    white = np.full((64, 64, 3), 250, np.uint8)
    slide = open_slide([white], mpp=0.5)
    assert colours(slide) is slide
    assert "colours stay as they are" in caplog.text


def test_they_come_from_the_model_folder(tmp_path, colours):
    assert read_colours(tmp_path) is None
    save_normaliser(tmp_path / COLOURS, colours.normaliser)
    assert read_colours(tmp_path) == colours
    (tmp_path / COLOURS).write_text("{}")
    with pytest.raises(ModelError, match="not the parameters of a colour normalisation"):
        read_colours(tmp_path)
