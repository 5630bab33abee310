"""The ensemble is the mean of its members, stage one of a GB U-Net gives their maps; only what may learn does."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
import tiny_encoder
from skimage.data import immunohistochemistry

from tfseg.models import build, describe, load, save, take_members
from tfseg.models.encoders import ENCODERS
from tfseg.models.gb_unet import WIDTHS, gb_unet, members, unet_ensemble
from tfseg.types import ClassSpec, ModelError

SIZE, NARROW = (32, 64), (8, 6, 4, 4, 4)
TINY = {"size_px": SIZE, "widths": NARROW}
OTHER = "other"
MEMBERS = (OTHER, tiny_encoder.NAME)
MIXED = {**TINY, "encoders": MEMBERS}
NUCLEI = (ClassSpec("background", (0, 0, 0)), ClassSpec("nucleus", (0, 255, 0)))
THREE = (*NUCLEI, ClassSpec("border", (255, 0, 0)))


@pytest.fixture(scope="module", autouse=True)
def other_encoder():
    """The same tiny network under another name."""
    ENCODERS[OTHER] = ENCODERS[tiny_encoder.NAME]
    yield
    del ENCODERS[OTHER]


def picture() -> dict[str, np.ndarray]:
    return {"image": immunohistochemistry()[None, 100:132, 200:264].astype("float32")}


def trained(folder, encoder=tiny_encoder.NAME, classes=NUCLEI, mpp=0.25, seed=0, **changes):
    """A model folder of a small U-Net, every weight of which was moved; no map of it is nearly all 0 and 1."""
    arguments = {**TINY, "num_classes": len(classes), "encoder": encoder, **changes}
    model = build("encoder_unet", **arguments)
    random = np.random.default_rng(seed)
    for weight in model.weights:  # kernels both ways; of one dimension are variances, too, which stay positive
        change = random.normal(0, 0.05, weight.shape) if len(weight.shape) > 1 else random.uniform(0, 0.1, weight.shape)
        weight.assign_add(change.astype("float32"))
    return save(model, describe(model, "encoder_unet", arguments, mpp, classes), folder)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("members")
    return [trained(root / str(seed), encoder, seed=seed) for seed, encoder in enumerate(MEMBERS)]


@pytest.fixture(scope="module")
def member_models(folders):
    return [load(folder)[0] for folder in folders]


@pytest.fixture(scope="module")
def ensemble():
    return build("unet_ensemble", **MIXED)


class TestTakenMembers:
    def test_ensemble_is_the_mean_of_the_members(self, ensemble, folders, member_models):
        specs = take_members(ensemble, folders)
        assert [spec.arguments["encoder"] for spec in specs] == list(MEMBERS)
        maps = [np.asarray(member(picture())["segmentation"]) for member in member_models]
        assert np.abs(maps[0] - maps[1]).max() > 0.01
        found = np.asarray(ensemble(picture())["segmentation"])
        np.testing.assert_allclose(found, np.mean(maps, axis=0), rtol=1e-6)

    @pytest.mark.parametrize("joint", [False, True])
    def test_what_enters_stage_two_are_their_maps_before_softmax_and_the_image(self, joint, folders, member_models):
        model = build("gb_unet", **MIXED, joint=joint)
        take_members(model, folders)
        seen = np.asarray(keras.Model(model.input, model.get_layer("stage2_cat").output)(picture()))
        assert seen.shape == (1, *SIZE, 2 * 2 + 3)
        np.testing.assert_allclose(seen[..., 4:], picture()["image"] / 255, rtol=1e-6)
        for number, member in enumerate(member_models):
            before = keras.Model(member.input, member.get_layer("segmentation_logits").output)
            logits = seen[..., 2 * number : 2 * number + 2]
            np.testing.assert_array_equal(logits, before(picture()))
            np.testing.assert_allclose(tf.nn.softmax(logits), member(picture())["segmentation"], atol=1e-6)

    def test_they_stay_members_when_saved(self, folders, tmp_path):
        for name in ("unet_ensemble", "gb_unet"):
            model = build(name, **MIXED)
            specs = take_members(model, folders)
            spec = describe(model, name, MIXED, specs[0].inputs[0].mpp, specs[0].classes)
            loaded, _ = load(save(model, spec, tmp_path / name))
            np.testing.assert_array_equal(loaded(picture())["segmentation"], model(picture())["segmentation"])
            assert [encoder for encoder, _ in members(loaded)] == list(MEMBERS)
            take_members(loaded, folders)


WRONG = {
    "encoder": ({"encoder": OTHER}, r"encoder is other, this member \(tiny\) has tiny"),
    "size": ({"size_px": (64, 32)}, r"size in px .* is \(64, 32\), this member \(tiny\) has \(32, 64\)"),
    "widths": ({"widths": (8, 6, 4, 4, 2)}, r"shape of .*dec_d0_1_conv/kernel .* is \(3, 3, 4, 2\), .* \(3, 3, 4, 4\)"),
    "mpp": ({"mpp": 0.5}, r"µm/px is 0\.5, the member of .*0 has 0\.25"),
    "number of classes": ({"classes": THREE}, r"number of classes is 3, this member \(tiny\) has 2"),
    "classes": ({"classes": NUCLEI[::-1]}, r"classes is \['nucleus', 'background'\], the member of"),
}


@pytest.mark.parametrize("case", WRONG)
def test_another_network_is_named_and_nothing_is_set(case, ensemble, folders, tmp_path):
    changes, message = WRONG[case]
    wrong = trained(tmp_path / "wrong", **changes)
    before = ensemble.get_weights()
    with pytest.raises(ModelError, match=rf"wrong: cannot be a member, its {message}"):
        take_members(ensemble, [folders[0], wrong])
    assert all(np.array_equal(now, then) for now, then in zip(ensemble.get_weights(), before, strict=True))


def test_members_are_u_nets_and_as_many_as_encoders(folders, tmp_path):
    model = unet_ensemble(SIZE, encoders=(tiny_encoder.NAME,), widths=NARROW)
    with pytest.raises(ModelError, match=r"unet_ensemble: expected a folder for each member \(tiny\)\. Received: 2"):
        take_members(model, folders)
    with pytest.raises(ModelError, match=r"encoder_unet: expected a folder .*\(none; build unet_ensemble"):
        take_members(load(folders[1])[0], folders)
    other = build("half_unet", size_px=16, num_classes=2, widths=(4, 6))
    save(
        other, describe(other, "half_unet", {"size_px": 16, "num_classes": 2, "widths": (4, 6)}, 0.25, NUCLEI), tmp_path
    )
    with pytest.raises(ModelError, match="architecture is half_unet, a member is an encoder_unet"):
        take_members(model, [tmp_path])


@pytest.mark.parametrize("joint", [False, True])
def test_stage_one_learns_only_jointly_also_when_loaded(joint, tmp_path):
    """Its batch norms too: frozen, they neither move nor use the batch's statistics."""
    gb_unet(**MIXED, joint=joint).save(tmp_path / "model.keras")
    model = keras.saving.load_model(tmp_path / "model.keras")
    stage_one = [member for _, member in members(model)]
    assert all(bool(member.trainable_weights) == joint for member in stage_one)
    trainable = {id(weight) for weight in model.trainable_weights}
    assert all(id(w) in trainable for w in model.get_layer("stage2_e0_1_conv").weights)
    before = [member.get_weights() for member in stage_one]
    model.compile("sgd", {"segmentation": "sparse_categorical_crossentropy"}, run_eagerly=True)
    model.train_on_batch(picture(), {"segmentation": np.ones((1, *SIZE), "uint8")})
    for member, then in zip(stage_one, before, strict=True):
        moved = [not np.array_equal(a, b) for a, b in zip(member.get_weights(), then, strict=True)]
        assert any(moved) == joint
        same = np.array_equal(member(picture(), training=True), member(picture(), training=False))
        assert same == (not joint)


def test_first_weights_are_one_an_encoder():
    given = {"size_px": 32, "encoders": (tiny_encoder.NAME,) * 2, "widths": NARROW}
    with pytest.raises(ModelError, match=r"weights must be one for each of 2 encoders\. Received: 3"):
        unet_ensemble(**given, weights=(None, None, None))
    with pytest.raises(ModelError, match=r"b\.weights\.h5: no such file of weights"):
        unet_ensemble(**given, weights=(None, "b.weights.h5"))


@pytest.mark.parametrize("builder", [unet_ensemble, gb_unet])
@pytest.mark.parametrize("encoders", [(), "vgg19"])
def test_encoders_are_a_sequence(builder, encoders):
    with pytest.raises(ModelError, match="encoders must be at least one in a sequence"):
        builder(32, encoders=encoders)


def test_stage_two_by_hand():
    """At the paper's settings: convolutions with bias, 4 or 2 a batch-norm channel, head; 9 channels come in."""
    down = (*WIDTHS[::-1], 2 * WIDTHS[0])
    convolutions = list(zip((9, *down), down, strict=False)) + [(width, width) for width in down]
    for below, width in zip((down[-1], *WIDTHS), WIDTHS, strict=False):
        convolutions += [(below + width, width), (width, width)]
    channels = sum(out for _, out in convolutions)
    weights = sum(9 * into * out + out for into, out in convolutions) + 16 * 2 + 2
    model = gb_unet(256, 2, (tiny_encoder.NAME,) * 3)
    assert sum(int(np.prod(w.shape)) for w in model.trainable_weights) == weights + 2 * channels == 7_869_298
    one = sum(member.count_params() for _, member in members(model))
    assert model.count_params() == one + weights + 4 * channels


def test_dropout_is_of_single_numbers_in_the_encoder_alone():
    model = gb_unet(32, encoders=(tiny_encoder.NAME,), widths=NARROW, dropout=0.3)
    drops = {layer.name: layer for layer in model.layers if isinstance(layer, keras.layers.Dropout)}
    assert set(drops) == {f"stage2_e{depth}_{number}_drop" for depth in range(6) for number in (1, 2)}
    assert {layer.rate for layer in drops.values()} == {0.3}
    assert not any(isinstance(layer, keras.layers.SpatialDropout2D) for layer in model.layers)
