"""Colour normalisation: known stains found again, and what must not change does not."""

from __future__ import annotations

import json
import subprocess
import sys

import cv2
import numpy as np
import pytest
from two_stains import EOSIN, HAEMATOXYLIN, ORANGE, PURPLE, two_stains

from tfseg.data.colour_normalisation import (
    METHODS,
    fit,
    load_normaliser,
    normalise_cached,
    save_normaliser,
)
from tfseg.data.stain_separation import optical_density
from tfseg.types import ModelError, OutputError, SlideError

FITTED = [pytest.param(name, id=name) for name in METHODS]


@pytest.mark.parametrize("method", ["vahadane", "macenko"])
@pytest.mark.parametrize("stains", [(HAEMATOXYLIN, EOSIN), (PURPLE, ORANGE)], ids=["usual", "purple and orange"])
def test_known_stains_are_found(method, stains):
    found = np.array(fit(two_stains(stains), method).stains)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    for stain, truth in zip(found, stains, strict=True):
        assert np.degrees(np.arccos(stain @ truth)) < 6


@pytest.mark.parametrize("method", FITTED)
def test_target_on_itself_stays(method):
    target = two_stains()
    got = fit(target, method).apply(target)
    assert got.dtype == np.uint8 and got.shape == target.shape
    assert np.abs(got.astype(int) - target).mean() < 2


@pytest.mark.parametrize(("method", "factor"), [("vahadane", 3), ("macenko", 3), ("reinhard", 1.8)])
def test_colours_move_to_the_targets(method, factor):
    # Reinhard's is one linear map for all colours, which no two stains follow.
    target, image = two_stains((PURPLE, ORANGE), 1.3, seed=1), two_stains(seed=2)
    wanted = two_stains((PURPLE, ORANGE), 1.3, seed=2)  # the same tissue, stained as the target
    got = fit(target, method).apply(image)
    before, after = (np.abs(one.astype(int) - wanted).mean() for one in (image, got))
    assert after < before / factor


def test_fitted_again_the_result_has_the_targets_stains():
    target = fit(two_stains((PURPLE, ORANGE), 1.3, seed=1))
    again = fit(target.apply(two_stains(seed=2)))
    np.testing.assert_allclose(again.stains, target.stains, atol=0.03)
    np.testing.assert_allclose(again.amounts, target.amounts, rtol=0.06)


@pytest.mark.parametrize("method", FITTED)
def test_glass_stays_white_and_input_untouched(method):
    image = two_stains(seed=2)
    kept = image.copy()
    got = fit(two_stains((PURPLE, ORANGE), 1.3, seed=1), method).apply(image)
    assert (got[:, :16] == 255).all()
    np.testing.assert_array_equal(image, kept)


@pytest.mark.parametrize("method", FITTED)
def test_same_image_same_result(method):
    target, image = two_stains((PURPLE, ORANGE), seed=1), two_stains(seed=2)
    first, second = fit(target, method), fit(target.copy(), method)
    assert first == second
    np.testing.assert_array_equal(first.apply(image), second.apply(image))


@pytest.mark.parametrize("method", FITTED)
def test_a_tile_with_its_slides_colours_equals_the_tile_of_the_slide(method):
    normaliser, slide = fit(two_stains((PURPLE, ORANGE), seed=1), method), two_stains(seed=2)
    whole = normaliser.apply(slide)
    tile = normaliser.apply(slide[20:50, 30:70], source=fit(slide, method))
    np.testing.assert_array_equal(tile, whole[20:50, 30:70])


@pytest.mark.parametrize("method", FITTED)
@pytest.mark.parametrize("value", [255, 243])
def test_no_tissue_passes_unchanged_and_is_no_target(method, value):
    glass = np.full((40, 50, 3), value, np.uint8)
    np.testing.assert_array_equal(fit(two_stains(), method).apply(glass), glass)
    if method != "reinhard":
        with pytest.raises(SlideError, match=r"no stains.*2000 pixels|50 × 40 pixels 0 are tissue"):
            fit(glass, method)
    else:
        with pytest.raises(SlideError, match="0 are tissue"):
            fit(glass, method)
        assert fit(glass, method, tissue_only=False).mean[0] > 90


def test_one_stain_is_no_target():
    rng = np.random.default_rng(0)
    image = 255 * np.exp(-rng.gamma(3, 0.25, (64, 64, 1)) * EOSIN)
    with pytest.raises(SlideError, match="two stains"):
        fit(image.round().astype(np.uint8), "vahadane")


def test_noise_of_a_missing_stain_is_not_blown_up():
    rng = np.random.default_rng(0)
    image = (255 * np.exp(-rng.gamma(3, 0.25, (64, 64, 1)) * EOSIN)).round().astype(np.uint8)
    got = fit(two_stains()).apply(image)
    assert np.degrees(np.arccos(np.clip(_hue(got) @ EOSIN, -1, 1))) < 8


def _hue(image: np.ndarray) -> np.ndarray:
    density = optical_density(image).reshape(-1, 3).mean(axis=0)
    return density / np.linalg.norm(density)


def test_reinhard_gives_mean_and_spread_of_the_target():
    target, image = two_stains((PURPLE, ORANGE), seed=1), two_stains(strength=0.8, seed=2)
    got = fit(fit(target, "reinhard", tissue_only=False).apply(image), "reinhard", tissue_only=False)
    wanted = fit(target, "reinhard", tissue_only=False)
    np.testing.assert_allclose(got.mean, wanted.mean, atol=2.5)  # colours beyond 0..255 are cut off


@pytest.mark.parametrize("method", FITTED)
def test_parameters_survive_a_file(method, tmp_path):
    normaliser = fit(two_stains(), method)
    path = tmp_path / "target.json"
    save_normaliser(path, normaliser)
    assert load_normaliser(path) == normaliser
    assert json.loads(path.read_text())["method"] == method


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"format": "tfseg-colour-normalisation", "version": 1, "method": "x"}']
)
def test_other_files_are_refused_by_name(text, tmp_path):
    path = tmp_path / "other.json"
    path.write_text(text)
    with pytest.raises(ModelError, match=r"other\.json.*fit the target again"):
        load_normaliser(path)
    with pytest.raises(ModelError, match="missing"):
        load_normaliser(tmp_path / "missing.json")


def test_cache_answers_for_the_same_image_and_target_alone(tmp_path):
    image, normaliser = two_stains(seed=2), fit(two_stains((PURPLE, ORANGE), seed=1))
    expected = normaliser.apply(image)
    np.testing.assert_array_equal(normalise_cached(image, normaliser, tmp_path / "new"), expected)
    (file,) = (tmp_path / "new").iterdir()
    cv2.imwrite(str(file), np.full_like(image, 7))
    assert (normalise_cached(image, normaliser, tmp_path / "new") == 7).all()  # it is read
    other = image.copy()
    other[0, 0] = 1
    np.testing.assert_array_equal(normalise_cached(other, normaliser, tmp_path / "new"), normaliser.apply(other))
    other_target = fit(two_stains(seed=1))
    np.testing.assert_array_equal(normalise_cached(image, other_target, tmp_path / "new"), other_target.apply(image))
    assert len(list((tmp_path / "new").iterdir())) == 3


def test_spoilt_cache_file_is_computed_again(tmp_path):
    image, normaliser = two_stains(seed=2), fit(two_stains((PURPLE, ORANGE), seed=1))
    expected = normalise_cached(image, normaliser, tmp_path)
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:100])
    np.testing.assert_array_equal(normalise_cached(image, normaliser, tmp_path), expected)
    np.testing.assert_array_equal(cv2.imread(str(file))[..., ::-1], expected)
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="file"):
        normalise_cached(image, normaliser, tmp_path / "file" / "below")


@pytest.mark.parametrize("bad", [np.zeros((5, 5), np.uint8), np.zeros((5, 5, 3)), np.zeros((5, 5, 4), np.uint8), None])
def test_other_than_uint8_rgb_is_refused(bad):
    for call in (fit, fit(two_stains()).apply, fit(two_stains(), "reinhard").apply):
        with pytest.raises(ValueError, match="uint8 RGB"):
            call(bad)


def test_unknown_method_names_the_known():
    with pytest.raises(ModelError, match="macenko, reinhard, vahadane"):
        fit(two_stains(), "vahadan")


def test_without_macenko_tensorflow_is_not_loaded():
    code = (
        "import sys, numpy as np; from tfseg.data.colour_normalisation import fit;"
        "image = np.random.default_rng(0).integers(60, 250, (40, 40, 3), dtype=np.uint8);"
        "fit(image, 'vahadane').apply(image); fit(image, 'reinhard').apply(image);"
        "print('tensorflow' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
