"""Tissue-type clusters of patches: fitted with scikit-learn, then carried as frozen Keras layers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
from keras import layers, ops

from tfseg.models.blocks import float32_policy, load_trunk_weights, size_pair
from tfseg.types import ModelError, one_of

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline

ENCODERS: dict[str, Callable[..., keras.Model]] = {
    "vgg16": keras.applications.VGG16,
    "mobilenetv2": keras.applications.MobileNetV2,
}
"""Feature encoder → the ``keras.applications`` network."""

_VGG_SMALLEST = 32
_VGG_MEAN_RGB = [123.68, 116.779, 103.939]


def feature_model(
    encoder: str = "vgg16",
    weights: str | Path | None = None,
    size_px: int | tuple[int, int] = 256,
    input_px: int | None = None,
) -> keras.Model:
    """Frozen encoder of patches, without top, global average pooling; H2G-Net section 2.3.

    Args:
        encoder: "vgg16" (the paper's; D = 512) or "mobilenetv2" (D = 1280, a hundredth of the arithmetic).
        weights: None (random), "imagenet" (fetched by Keras; what the paper used), or the path of a ``.weights.h5`` of
            the same ``keras.applications`` network without top.
        size_px: side, or (height, width), of the patch.
        input_px: side to which patches are resized before the encoder; None leaves them as they are, as the paper does.
            By averaging where it divides the patch, else bilinear.

    Returns:
        Model from images (B, H, W, 3), float32 RGB in 0..255, to features (B, D), float32. It computes in float32
        whatever the precision policy, so that clusters do not depend on the policy.

    Raises:
        ModelError: unknown encoder, too small an image, or weights that are missing or of another network.
    """
    one_of("encoder", encoder, tuple(ENCODERS))
    size = size_pair(size_px, 1, encoder)
    seen = size if input_px is None else (input_px, input_px)
    if min(seen) < _VGG_SMALLEST:
        raise ModelError(f"{encoder} needs at least {_VGG_SMALLEST} px a side. Received: {min(seen)}.")
    network = ENCODERS[encoder]
    with float32_policy():
        image = layers.Input((*size, 3), name="image")
        x = image if seen == size else _resized(image, size, seen)
        if encoder == "vgg16":
            x = layers.Normalization(mean=_VGG_MEAN_RGB, variance=[1.0] * 3, name="minus_imagenet_mean")(x)
            x = ops.flip(x, axis=-1)
        else:
            x = layers.Rescaling(1 / 127.5, offset=-1.0, name="image_scaled")(x)
        trunk = network(include_top=False, weights=None, input_tensor=x)
        if weights is not None:
            load_trunk_weights(trunk, network, {"input_shape": (*seen, 3)}, weights)
        features = layers.GlobalAveragePooling2D(name="features")(trunk.layers[-1].output)
        model = keras.Model(image, features, name=f"{encoder}_features")
    model.trainable = False
    return model


def fit_clustering(features: np.ndarray, k: int = 10, variance: float = 0.95, seed: int = 0) -> Pipeline:
    """Fits z-score → PCA → k-means with scikit-learn; H2G-Net section 2.3.

    Args:
        features: (N, D), for example of 100 batches of 32 patches drawn as in training.
        k: number of clusters.
        variance: the fewest principal components that explain this share of the variance are kept.
        seed: of k-means' starts.

    Returns:
        Fitted Pipeline with steps "standardise", "project", "nearest". It is fitted in float64.

    Raises:
        ModelError: too few samples, or features that are not finite.
    """
    from sklearn.cluster import KMeans
    from sklearn.decomposition import PCA
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import StandardScaler

    features = np.asarray(features, np.float64)
    if features.ndim != 2 or len(features) < max(k, 2):
        raise ModelError(
            f"clustering: features must be (N, D) with N at least {max(k, 2)} (k = {k} clusters). "
            f"Received: {features.shape}. Draw more patches or ask for fewer clusters."
        )
    if not np.isfinite(features).all():
        raise ModelError("clustering: the features hold NaN or infinite values. Look at the encoder's weights.")
    steps = [
        ("standardise", StandardScaler()),
        ("project", PCA(n_components=variance, svd_solver="full")),
        ("nearest", KMeans(n_clusters=k, n_init=10, random_state=seed)),
    ]
    return Pipeline(steps).fit(features)


def clustering_head(pipeline: Pipeline) -> keras.Model:
    """A fitted pipeline (StandardScaler, PCA, KMeans) as a frozen network on features.

    Cluster of x = argmax_k 2·z·c_k − |c_k|², z = (x − μ)/σ·Vᵀ − m·Vᵀ: the nearest centroid, because |z|² is the same
    for all k. All in float64 as scikit-learn computes it: in float32 samples between two centroids change sides.

    Returns:
        Model from features (B, D) to the one-hot cluster (B, K), float32; no weight is trainable.

    Raises:
        ModelError: the pipeline is not these three steps, fitted.

    Note:
        JAX computes in float32 unless ``jax_enable_x64`` is set; then samples within rounding of a border may differ.
    """
    scaler, pca, kmeans = _steps(pipeline)
    features = layers.Input((scaler.n_features_in_,), name="features")
    x = _frozen(layers.BatchNormalization(epsilon=0.0, center=False, scale=False, dtype="float64", name="standardise"))(
        features
    )
    x = _frozen(layers.Dense(len(pca.components_), dtype="float64", name="project"))(x)
    x = _frozen(layers.Dense(kmeans.n_clusters, dtype="float64", name="nearest_centroid"))(x)
    cluster = ops.one_hot(ops.argmax(x, axis=-1), kmeans.n_clusters, dtype="float32")
    model = keras.Model(features, cluster, name="clustering_head")
    components = np.asarray(pca.components_, np.float64)
    if pca.whiten:
        components = components / np.sqrt(pca.explained_variance_)[:, None]
    centroids = np.asarray(kmeans.cluster_centers_, np.float64)
    model.get_layer("standardise").set_weights(_mean_and_variance(scaler))
    model.get_layer("project").set_weights([components.T, -(components @ pca.mean_)])
    model.get_layer("nearest_centroid").set_weights([2 * centroids.T, -np.sum(centroids**2, axis=1)])
    model.trainable = False
    return model


def clustering_model(pipeline: Pipeline, features: keras.Model) -> keras.Model:
    """A fitted pipeline behind its feature encoder: image → one-hot cluster, frozen.

    Args:
        pipeline: from :func:`fit_clustering` on this encoder's features.
        features: from :func:`feature_model`.

    Returns:
        Model from images (B, H, W, 3), float32 RGB in 0..255, to the one-hot cluster (B, K), float32. Stock layers:
        ``model.save("clustering.keras")`` and ``keras.saving.load_model`` suffice.

    Raises:
        ModelError: the pipeline was fitted on features of another length.
    """
    head = clustering_head(pipeline)
    if head.input_shape != features.output_shape:
        raise ModelError(
            f"clustering: the pipeline was fitted on {head.input_shape[-1]} features, {features.name} gives "
            f"{features.output_shape[-1]}. Fit it on this encoder's features."
        )
    image = layers.Input(features.input_shape[1:], name="image")
    model = keras.Model(image, head(features(image, training=False)), name="clustering")
    model.trainable = False
    return model


def _resized(image: Any, size: tuple[int, int], seen: tuple[int, int]) -> Any:
    if size[0] % seen[0] == 0 and size[1] % seen[1] == 0:
        return layers.AveragePooling2D((size[0] // seen[0], size[1] // seen[1]), name="image_resized")(image)
    return layers.Resizing(*seen, interpolation="bilinear", name="image_resized")(image)


def _frozen(layer: keras.Layer) -> keras.Layer:
    layer.trainable = False
    return layer


def _steps(pipeline: Pipeline) -> tuple[Any, Any, Any]:
    """The fitted StandardScaler, PCA and KMeans of a pipeline."""
    steps = [step for _, step in getattr(pipeline, "steps", [])]
    names = [type(step).__name__ for step in steps]
    if names != ["StandardScaler", "PCA", "KMeans"]:
        raise ModelError(f"clustering: expected a Pipeline of StandardScaler, PCA, KMeans. Received: {names}.")
    if not hasattr(steps[2], "cluster_centers_"):
        raise ModelError("clustering: the pipeline is not fitted. Use tfseg.models.clustering.fit_clustering.")
    return steps[0], steps[1], steps[2]


def _mean_and_variance(scaler: Any) -> list[np.ndarray]:
    """Mean and squared scale of a StandardScaler (whose scale is 1 where a feature never varies)."""
    length = scaler.n_features_in_
    mean = scaler.mean_ if scaler.with_mean else np.zeros(length)
    scale = scaler.scale_ if scaler.with_std else np.ones(length)
    return [np.asarray(mean, np.float64), np.asarray(scale, np.float64) ** 2]
