"""What every stage that trains on an index shares: which data it was, and the finished model folder."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import tensorflow as tf

from tfseg import models
from tfseg.files import atomic_path, write_json
from tfseg.metrics.pixel import confusion
from tfseg.metrics.plots import confusion_plot
from tfseg.metrics.tables import confusion_table
from tfseg.train.fit import TrainResult
from tfseg.train.run_config import plain
from tfseg.types import ModelSpec

VALIDATION_SEED = 104_729
"""Added to the seed for the validation draws, so that they are others than the training draws."""


def fingerprint(table: pd.DataFrame) -> str:
    """Hash of a patch index; tells whether it is the same data, wherever the slides lie."""
    table = table.drop(columns="slide")
    hashes = pd.util.hash_pandas_object(table.astype(str), index=False).to_numpy()
    return hashlib.sha256(",".join(table.columns).encode() + hashes.tobytes()).hexdigest()[:16]


def finish(
    model: keras.Model,
    spec: ModelSpec,
    out: Path,
    result: TrainResult,
    validation: tf.data.Dataset,
    seed: int,
    units: str,
) -> tuple[ModelSpec, np.ndarray]:
    """Writes the model folder of a run that is over, its confusion matrix beside the run; a whole folder is left alone.

    Args:
        model: with the weights of the best epoch.
        spec: of it; its provenance is made from ``result``.
        out: the model folder.
        result: of the run.
        validation: batches on which the confusion is counted.
        seed: of the run.
        units: what the confusion counts: "patches" or "pixels".

    Returns:
        the spec as written; int (C, C), truth in rows.
    """
    spec = dataclasses.replace(spec, provenance=plain(result.provenance(seed)))
    file = result.run_folder / "confusion.json"
    if (out / "config.json").is_file() and ModelSpec.load(out) == spec:
        return spec, np.array(json.loads(file.read_text(encoding="utf-8"))[units])
    names = [one.name for one in spec.classes]
    counts = _confusion(model, validation, spec.outputs[0], len(names))
    confusion_plot(counts, names, file.with_suffix(".png"), units)
    with atomic_path(file.with_suffix(".csv")) as temporary:
        confusion_table(counts, names).rename(columns={"pixels": units}).to_csv(temporary, index=False)
    write_json(file, {"rows": "annotated", units: counts.tolist()})
    models.save(model, spec, out)
    return spec, counts


def _confusion(model: keras.Model, batches: tf.data.Dataset, output: str, num_classes: int) -> np.ndarray:
    """Counts (C, C) of annotated (rows) and predicted (columns) classes; targets are indices or one-hot."""
    counts = np.zeros((num_classes, num_classes), np.int64)
    for inputs, targets in batches:
        found = np.asarray(model.predict_on_batch(inputs)[output]).argmax(-1)
        truth = targets[output].numpy()
        counts += confusion(truth.argmax(-1) if truth.ndim > found.ndim else truth, found, num_classes)
    return counts
