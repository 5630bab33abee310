"""A cascade small enough to export in seconds, that tells purple from pink, and slides to run it on."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import cv2
import keras
import numpy as np
import pytest
import tiny_encoder

from tfseg.files import write_json
from tfseg.geometry import Grid
from tfseg.models import build, describe, save
from tfseg.models.patch_classifier import BACKBONES
from tfseg.slides.base import open_slide
from tfseg.slides.tiff_writer import write_pyramid
from tfseg.types import CascadeSpec

PATCH_PX, WHOLE_PX = 64, 128
SLIDE_MPP = 0.5


@pytest.fixture(scope="session")
def needs_fast() -> None:
    """Skips where pyFAST cannot be imported; in CI that is a failure."""
    done = subprocess.run([sys.executable, "-c", "import fast"], capture_output=True, timeout=120, check=False)
    if done.returncode:
        why = f"pyFAST cannot be imported: {done.stderr.decode(errors='replace')[-500:]}"
        if os.environ.get("CI"):
            pytest.fail(why)
        pytest.skip(why)


def draw_slide(height: int, width: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Glass, pink tissue, and tumour crowded with purple nuclei: uint8 (height, width, 3), bool (height, width)."""
    random = np.random.default_rng(seed)

    def smooth(knots: int) -> np.ndarray:
        return cv2.resize(
            random.random((knots, knots)).astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC
        )

    y, x = np.mgrid[:height, :width]
    radius = np.hypot(2 * y / height - 1, 2 * x / width - 1)
    tissue = radius + 0.5 * smooth(6) < 1.1
    tumour = (smooth(5) > 0.55) & tissue
    image = np.full((height, width, 3), 244, np.float32)
    image[tissue] = (228, 170, 200)
    image += random.normal(0, 3, (height, width, 1))
    for row, column in random.integers((height, width), size=(height * width // 500, 2)):
        if tumour[row, column]:
            cv2.circle(image, (int(column), int(row)), int(random.integers(5, 9)), (100, 60, 140), -1)
        elif tissue[row, column] and random.random() < 0.15:
            cv2.circle(image, (int(column), int(row)), 4, (100, 60, 140), -1)
    return image.clip(0, 255).astype(np.uint8), tumour


@pytest.fixture(scope="session")
def slides(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """ "whole": a whole number of patches each way; "rest": the last row and column of patches reach past the edge."""
    folder = tmp_path_factory.mktemp("slides")
    for name, size, seed in (("whole", (1536, 2048), 1), ("rest", (1480, 1960), 2)):
        write_pyramid(folder / f"{name}.tif", draw_slide(*size, seed)[0], mpp=SLIDE_MPP, objective_power=20)
    return {path.stem: path for path in folder.glob("*.tif")}


@pytest.fixture(scope="session")
def cascade(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier on a small trunk with fitted last layer, and a U-Net trained for a few seconds.

    MobileNetV2 itself is compared in ``test_every_kind_of_network_is_computed_right``.
    """
    folder = tmp_path_factory.mktemp("cascade")
    keras.utils.set_random_seed(0)
    image, tumour = draw_slide(1536, 2048, 0)
    slide = open_slide([image], mpp=SLIDE_MPP)
    grid = Grid(slide.size, SLIDE_MPP, PATCH_PX, PATCH_PX, 1.0)
    patches = np.stack([slide.read(grid.window(*cell)) for cell in grid.cells()]).astype(np.float32)
    cell_px = int(PATCH_PX / SLIDE_MPP)
    truth = tumour.reshape(grid.shape[0], cell_px, grid.shape[1], cell_px).mean(axis=(1, 3)) > 0.25
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(BACKBONES, "mobilenetv2", tiny_encoder.trunk)
        classifier = _fitted_classifier(patches, truth.ravel())
        arguments = {"size_px": PATCH_PX, "alpha": 0.35}
        save(classifier, describe(classifier, "mobilenetv2_classifier", arguments, mpp=1.0), folder / "classifier")
    probability = classifier.predict({"image": patches}, verbose=0)["probabilities"][:, 1].reshape(grid.shape)
    size = (WHOLE_PX, WHOLE_PX)
    heatmap = cv2.resize(probability.astype(np.float32), size)
    label = cv2.resize(tumour.astype(np.float32), size, interpolation=cv2.INTER_AREA) > 0.5
    arguments = {"size_px": WHOLE_PX, "widths": [8, 16, 16]}
    refinement = _trained_unet(arguments, slide.fit(size), heatmap, label)
    save(refinement, describe(refinement, "unet", arguments), folder / "refinement")
    write_json(folder / "config.json", CascadeSpec("test cascade").to_dict())
    return folder


@pytest.fixture(scope="session")
def exported(cascade: Path) -> Path:
    """The cascade with everything that ``export_cascade`` writes."""
    from tfseg.export.fast import export_cascade

    export_cascade(cascade)
    return cascade


def _fitted_classifier(patches: np.ndarray, truth: np.ndarray) -> keras.Model:
    """Random features, batch norms set to the patches' statistics, ridge regression for the last layer."""
    model = build("mobilenetv2_classifier", size_px=PATCH_PX, alpha=0.35)
    _settle_batch_norm(model, {"image": patches})
    hidden = keras.Model(model.input, model.get_layer("hidden_bn").output)
    features = np.c_[hidden.predict({"image": patches}, verbose=0), np.ones(len(patches))]
    ridge = features.T @ features + 10 * np.eye(features.shape[1])
    weights = 3 * np.linalg.solve(ridge, features.T @ (2.0 * truth - 1))
    model.get_layer("logits").set_weights([np.outer(weights[:-1], (-0.5, 0.5)), weights[-1] * np.array([-0.5, 0.5])])
    return model


def _trained_unet(arguments: dict, image: np.ndarray, heatmap: np.ndarray, label: np.ndarray) -> keras.Model:
    model = build("unet", **arguments)
    flips = (lambda a: a, lambda a: a[::-1], lambda a: a[:, ::-1], lambda a: a[::-1, ::-1])
    inputs = {
        "image": np.stack([flip(image) for flip in flips]).astype(np.float32),
        "heatmap": np.stack([flip(heatmap) for flip in flips])[..., None],
    }
    truth = {"segmentation": np.stack([flip(label) for flip in flips]).astype(np.int32)}
    model.compile(keras.optimizers.Adam(0.01), loss={"segmentation": keras.losses.SparseCategoricalCrossentropy()})
    for _ in range(40):
        model.train_on_batch(inputs, truth)
    _settle_batch_norm(model, inputs)
    return model


def _settle_batch_norm(model: keras.Model, inputs: dict[str, np.ndarray]) -> None:
    """Sets the statistics of every batch norm to those of one batch."""
    norms = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    model(inputs, training=True)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
