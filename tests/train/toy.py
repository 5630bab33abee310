"""A toy network and data set with dropout and batch normalisation, shared by the training tests."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import keras
import numpy as np
import tensorflow as tf

from tfseg.data.cohort import Cohort
from tfseg.data.index import IndexConfig, PatchIndex, build_index
from tfseg.train.fit import TrainConfig, TrainResult, fit, reproducible
from tfseg.train.step import Objective, output_loss

BATCH = 8


def network(size: int = 8) -> keras.Model:
    image = keras.Input((size, size, 3), name="image")
    x = keras.layers.Rescaling(1 / 255)(image)
    x = keras.layers.Conv2D(4, 3, use_bias=False)(x)
    x = keras.layers.BatchNormalization()(x)
    x = keras.layers.Activation("relu")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    x = keras.layers.Dropout(0.5)(x)
    x = keras.layers.Dense(2)(x)
    return keras.Model(image, keras.layers.Softmax(dtype="float32", name="probabilities")(x), name="toy")


def _batch(k: tf.Tensor) -> tuple[dict[str, tf.Tensor], dict[str, tf.Tensor]]:
    """Batch k: dark and bright pictures, told apart by class."""
    image = tf.random.stateless_uniform((BATCH, 8, 8, 3), (7, k), 0.0, 180.0)
    label = tf.range(BATCH) % 2
    image += 70.0 * tf.cast(label, tf.float32)[:, None, None, None]
    return {"image": image}, {"probabilities": tf.one_hot(label, 2)}


def stream(start: int) -> tf.data.Dataset:
    return tf.data.Dataset.counter(start, dtype=tf.int64).map(lambda k: _batch(tf.cast(k, tf.int32)))


def validation() -> tf.data.Dataset:
    return stream(1_000_000).take(2)


def objective(optimizer: keras.optimizers.Optimizer | None = None) -> Objective:
    return Objective(
        {"crossentropy": output_loss("probabilities", keras.losses.CategoricalCrossentropy())},
        lambda: {"probabilities": [keras.metrics.CategoricalAccuracy(name="accuracy")]},
        optimizer,
    )


def config(**changes) -> TrainConfig:
    settings = {"epochs": 3, "steps_per_epoch": 5, "validation_steps": None, "learning_rate": 0.01}
    return TrainConfig(**{**settings, **changes})


def train(folder, data=stream, seed: int = 0, **changes) -> tuple[keras.Model, TrainResult]:
    reproducible(seed)
    model = network()
    return model, fit(model, data, validation(), config(seed=seed, **changes), folder, objective())


def state(folder) -> dict[str, np.ndarray]:
    with np.load(folder / "last.npz") as file:
        return {name: file[name] for name in file.files}


def cohort(folder: Path) -> Cohort:
    """Two PNG slides, train and val, 512 × 384 px of 1 µm: pale tissue, a dark square tumour, GeoJSON beside them."""
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    tumour = {"train": (192, 64), "val": (64, 128)}
    for name, (x, y) in tumour.items():
        slide = np.empty((384, 512, 3), np.float32)
        slide[:] = (220, 170, 205)
        slide[y : y + 192, x : x + 256] = (120, 70, 150)
        slide += rng.normal(0, 12, slide.shape)
        cv2.imwrite(str(folder / f"{name}.png"), slide.clip(0, 255).astype(np.uint8)[..., ::-1])
        ring = [[x, y], [x + 256, y], [x + 256, y + 192], [x, y + 192], [x, y]]
        feature = {
            "type": "Feature",
            "geometry": {"type": "Polygon", "coordinates": [ring]},
            "properties": {"objectType": "annotation", "classification": {"name": "Tumor"}},
        }
        content = {"type": "FeatureCollection", "features": [feature]}
        (folder / f"{name}.geojson").write_text(json.dumps(content))
    rows = [f"{name}.png,{name}.geojson,{name},2,1.0" for name in tumour]
    (folder / "cohort.csv").write_text("\n".join(["slide,annotation,split,grade,mpp", *rows]) + "\n")
    return Cohort.read(folder / "cohort.csv")


def patch_index(folder: Path) -> PatchIndex:
    config = IndexConfig(patch_px=64, stride_px=64)
    return build_index(cohort(folder), config, folder / "index", workers=1, progress=False)
