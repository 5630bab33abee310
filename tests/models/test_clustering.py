from __future__ import annotations

import keras
import numpy as np
import pytest
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from tfseg.losses import ClusterWeightedCrossentropy
from tfseg.models.clustering import (
    clustering_head,
    clustering_model,
    feature_model,
    fit_clustering,
)
from tfseg.types import ModelError

IMAGE = {"size_px": 32, "alpha": 0.1}


def like_features(count: int, length: int, seed: int = 0) -> np.ndarray:
    """Correlated, rectified, of very different scales, with a feature that never varies: as pooled ReLU maps are."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(count, 12)) @ random.normal(size=(12, length)) + random.normal(size=length)
    x = np.maximum(x, 0) * np.exp(2 * random.normal(size=length))
    x[:, 3] = 0
    return x.astype("float32")


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (24, 32, 32, 3)).astype("float32")


@pytest.fixture(scope="module")
def encoder():
    keras.utils.set_random_seed(0)
    return feature_model("mobilenetv2", size_px=32)


@pytest.fixture(scope="module")
def clustering(encoder, images):
    return clustering_model(fit_clustering(encoder.predict(images, verbose=0), k=4), encoder)


@pytest.mark.parametrize(
    "features", [like_features(6000, 40), like_features(5000, 512), np.random.default_rng(1).random((6000, 20))]
)
def test_frozen_layers_label_every_sample_as_scikit_learn(features, tmp_path):
    pipeline = fit_clustering(features[:2000], seed=3)
    expected = pipeline.predict(features.astype("float64"))
    head = clustering_head(pipeline)
    onehot = head.predict(features, verbose=0, batch_size=1000)
    assert onehot.dtype == "float32" and (onehot.sum(1) == 1).all() and len(set(expected)) == 10
    np.testing.assert_array_equal(onehot.argmax(1), expected)
    head.save(tmp_path / "head.keras")
    again = keras.saving.load_model(tmp_path / "head.keras").predict(features, verbose=0, batch_size=777)
    np.testing.assert_array_equal(again, onehot)


def test_pipelines_fitted_elsewhere_whitened_and_in_float32():
    features = like_features(4000, 30, seed=5)
    pipeline = make_pipeline(StandardScaler(), PCA(8, whiten=True), KMeans(6, random_state=0, n_init=2)).fit(features)
    labels = clustering_head(pipeline).predict(features, verbose=0).argmax(1)
    np.testing.assert_array_equal(labels, pipeline.predict(features))


def test_scaler_without_mean_or_scale():
    features = like_features(500, 30, seed=6)
    for scaler in (StandardScaler(with_mean=False), StandardScaler(with_std=False)):
        pipeline = make_pipeline(scaler, PCA(4), KMeans(3, random_state=0, n_init=1)).fit(features.astype("float64"))
        labels = clustering_head(pipeline).predict(features, verbose=0).argmax(1)
        np.testing.assert_array_equal(labels, pipeline.predict(features.astype("float64")))


def test_fit_keeps_the_asked_variance_and_repeats():
    features = like_features(400, 30)
    first, second = fit_clustering(features, k=5, seed=1), fit_clustering(features, k=5, seed=1)
    assert first["project"].explained_variance_ratio_.sum() >= 0.95
    np.testing.assert_array_equal(first["nearest"].cluster_centers_, second["nearest"].cluster_centers_)


def test_image_to_cluster_is_frozen_and_reloads(clustering, encoder, images, tmp_path):
    onehot = clustering.predict(images, verbose=0)
    assert onehot.shape == (24, 4) and set(onehot.sum(1)) == {1.0}
    assert clustering.trainable_weights == []
    before = [w.copy() for w in clustering.get_weights()]
    np.testing.assert_array_equal(clustering(images, training=True), onehot)
    for then, now in zip(before, clustering.get_weights(), strict=True):
        np.testing.assert_array_equal(then, now)
    clustering.save(tmp_path / "clustering.keras")
    np.testing.assert_array_equal(
        keras.saving.load_model(tmp_path / "clustering.keras").predict(images, verbose=0), onehot
    )


def test_vgg16_sees_bgr_less_the_imagenet_mean(images):
    model = feature_model("vgg16", size_px=32)
    assert model.output_shape == (None, 512)
    reference = keras.applications.VGG16(include_top=False, weights=None, input_shape=(32, 32, 3), pooling="avg")
    reference.set_weights(model.get_weights())
    expected = reference(keras.applications.vgg16.preprocess_input(images[:2].copy()))
    np.testing.assert_allclose(model(images[:2]), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("input_px", [32, 48])
def test_patches_are_resized_inside(input_px):
    model = feature_model("mobilenetv2", size_px=64, input_px=input_px)
    image = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3)).astype("float32")
    small = np.asarray(model.get_layer("image_resized")(image))
    assert small.shape == (1, input_px, input_px, 3)
    if input_px == 32:
        np.testing.assert_allclose(small, image.reshape(1, 32, 2, 32, 2, 3).mean((2, 4)), rtol=1e-5)
    assert model(image).shape == (1, 1280)


def test_features_do_not_depend_on_the_precision_policy(clustering, images):
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = feature_model("mobilenetv2", size_px=32)
    finally:
        keras.config.set_dtype_policy("float32")
    assert model(images).dtype == "float32"


def test_errors_say_what_is_wrong(encoder):
    with pytest.raises(ModelError, match="N at least 10"):
        fit_clustering(np.zeros((4, 8)))
    with pytest.raises(ModelError, match="NaN or infinite"):
        fit_clustering(np.full((40, 8), np.nan))
    with pytest.raises(ModelError, match=r"Received: \['PCA'\]"):
        clustering_head(make_pipeline(PCA()))
    with pytest.raises(ModelError, match="not fitted"):
        clustering_head(make_pipeline(StandardScaler(), PCA(), KMeans()))
    with pytest.raises(ModelError, match="fitted on 30 features, mobilenetv2_features gives 1280"):
        clustering_model(fit_clustering(like_features(100, 30)), encoder)
    with pytest.raises(ModelError, match="at least 32 px"):
        feature_model("vgg16", size_px=16)
    with pytest.raises(ModelError, match="unknown 'resnet'"):
        feature_model("resnet")


def test_guided_loss_is_the_weighted_crossentropy(clustering, images):
    guided = ClusterWeightedCrossentropy(clustering)
    labels = np.arange(24) % 2
    p = np.random.default_rng(0).dirichlet([1, 1], 24).astype("float32")
    cluster = clustering.predict(images, verbose=0).argmax(1)
    ce = -np.log(p[np.arange(24), labels])
    expected = np.mean([ce[cluster == k].mean() for k in set(cluster)])
    targets = {"probabilities": np.eye(2, dtype="float32")[labels]}
    got = guided({"image": images}, targets, {"probabilities": p})
    assert float(got) == pytest.approx(expected, rel=1e-4)
