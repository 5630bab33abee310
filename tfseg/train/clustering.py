"""Fits the k-means that balances tissue types in H2G-Net's loss (section 2.3), and shows what its clusters hold."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import keras
import numpy as np
import tensorflow as tf

from tfseg.files import atomic_path, write_json
from tfseg.models.clustering import clustering_model, feature_model, fit_clustering
from tfseg.train.figures import write_montage
from tfseg.train.fit import precision
from tfseg.train.run_config import plain

_THUMBNAIL_PX = 96


@dataclass(frozen=True)
class ClusterSettings:
    """Settings of the clustering; the defaults are the paper's.

    Attributes:
        clusters: k of k-means.
        variance: fraction of the variance that the principal components keep.
        batches, batch_size: training draws that it is fitted on, not augmented.
        encoder: network that makes the features, "vgg16" or "mobilenetv2".
        weights: of the encoder: "imagenet", the path of a weights file, or None for random ones.
        input_px: side to which patches are resized for the encoder; None leaves them as they are.
        per_class: weigh by cluster within each class, as the authors' released code does, instead of by cluster.
    """

    clusters: int = 10
    variance: float = 0.95
    batches: int = 100
    batch_size: int = 32
    encoder: str = "vgg16"
    weights: str | None = "imagenet"
    input_px: int | None = None
    per_class: bool = False


def fitted_clustering(
    batches: tf.data.Dataset, settings: ClusterSettings, folder: Path, class_names: Sequence[str], key: dict[str, Any]
) -> keras.Model:
    """Fits the clustering on the first batches of a training stream, or takes the one fitted before.

    Writes ``clustering.keras`` (frozen: patches (B, S, S, 3) → one-hot cluster (B, K), feature encoder included),
    ``clustering.json`` and the picture ``clusters.png``.

    Args:
        batches: training stream of ``settings.batch_size``, as of :func:`tfseg.data.pipeline.patch_dataset`.
        settings: how to cluster.
        folder: of the files.
        class_names: for the picture's titles.
        key: what else the result depends on, with at least "seed"; a clustering fitted with another key is fitted anew.

    Raises:
        ModelError: fewer patches than clusters, or weights that do not fit.
    """
    path, record = folder / "clustering.keras", plain({"settings": asdict(settings), **key})
    known = folder / "clustering.json"
    if path.is_file() and known.is_file() and json.loads(known.read_text(encoding="utf-8"))["key"] == record:
        return keras.saving.load_model(path, compile=False)
    size_px = batches.element_spec[0]["image"].shape[1:3]
    encoder = feature_model(settings.encoder, settings.weights, tuple(size_px), settings.input_px)
    features, thumbnails, labels = _features(encoder, batches.take(settings.batches))
    pipeline = fit_clustering(features, settings.clusters, settings.variance, key["seed"])
    with precision("float32"):
        model = clustering_model(pipeline, encoder)
    clusters = pipeline.predict(features)
    table = np.zeros((settings.clusters, len(class_names)), int)
    np.add.at(table, (clusters, labels), 1)
    titles = [_title(k, counts, class_names) for k, counts in enumerate(table)]
    write_montage(folder / "clusters.png", thumbnails, clusters, titles)
    with atomic_path(path) as temporary:
        model.save(temporary)
    write_json(known, {"key": record, "classes": list(class_names), "patches": table.tolist()})
    return model


def _features(encoder: keras.Model, batches: tf.data.Dataset) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features float32 (N, D), thumbnails uint8 (N, t, t, 3), class indices (N,) of all patches."""
    features, thumbnails, labels = [], [], []
    encode = tf.function(lambda image: encoder(image, training=False), autograph=False)
    for inputs, targets in batches:
        features.append(encode(inputs["image"]).numpy())
        pictures = inputs["image"].numpy().astype(np.uint8)
        size = (_THUMBNAIL_PX, _THUMBNAIL_PX)
        thumbnails.append(np.stack([cv2.resize(p, size, interpolation=cv2.INTER_AREA) for p in pictures]))
        labels.append(targets["probabilities"].numpy().argmax(-1))
    return np.concatenate(features), np.concatenate(thumbnails), np.concatenate(labels)


def _title(cluster: int, counts: np.ndarray, class_names: Sequence[str]) -> str:
    total = counts.sum()
    shares = "\n".join(f"{100 * n / max(total, 1):.0f} % {name}" for name, n in zip(class_names, counts, strict=True))
    return f"cluster {cluster}: {total}\n{shares}"
