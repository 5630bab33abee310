from __future__ import annotations

import shutil

import keras
import numpy as np
import pytest

from tfseg.models import MODELS, build, count, describe, load, save, table
from tfseg.models.registry import ABOUT, VARIANTS
from tfseg.types import ClassSpec, ModelError, OutputError

TINY = {"size_px": 16, "widths": (4, 8)}


@pytest.fixture
def folder(tmp_path):
    model = build("unet", **TINY)
    save(model, describe(model, "unet", TINY), tmp_path / "unet")
    return tmp_path / "unet"


@pytest.mark.parametrize(
    ("name", "total", "trainable"),
    [
        ("mobilenetv2_classifier", 2_386_686, 2_352_374),
        ("inceptionv3_classifier", 22_008_286, 21_973_654),
        # 11 554 258 in convolutions, and 2 of 4 for each of 4576 batch-norm channels
        ("unet", 11_572_562, 11_563_410),
        ("unet_lr", 11_572_562 - 8 * 9, 11_563_410 - 8 * 9),
        ("agunet", 7_668_537, 7_659_915),
        ("dagunet", 10_074_600, 9_982_536 + 81_920),
        ("doubleunet", 16_025_076, 16_010_100),
        # table 2 of the Deep Multi-Magnification paper
        ("segnet", 18_881_543, 18_881_543),
        ("plain_unet", 34_550_663, 34_550_663),
        ("dmmn_s2", 34_554_119, 34_554_119),
        ("dmmn_ms", 30_647_207, 30_647_207),
        ("dmmn_m2s", 25_947_047, 25_947_047),
        ("dmmn_m3", 27_071_303, 27_071_303),
        # no paper gives these: the docstrings do
        ("encoder_unet", 10_116_399, 10_072_399),
        ("multi_level", 50_840_121, 50_582_905),
        ("deeplabv3", 39_126_915, 39_070_723),
        ("cd_unet", 7_773_973, 7_767_107),
        ("half_unet", 7_773_892, 7_767_044),
        ("unet_ensemble", 88_169_350, 87_974_406),
        ("gb_unet", 96_044_664, 7_869_298),
        # what matterport's Mask R-CNN on ResNet101 has for two classes
        ("mask_rcnn", 63_733_406, 63_621_918),
    ],
)
def test_parameters_are_those_of_the_paper(name, total, trainable):
    assert count(name) == (total, trainable)


def test_table_has_a_row_for_every_model():
    assert set(ABOUT) == set(MODELS)
    rows = table()
    assert [row["name"] for row in rows] == list(MODELS)
    assert set(rows[0]) == {"name", "total", "trainable", "structure", "paper"}


@pytest.mark.slow
def test_variants_stand_below_the_models_by_their_own_arguments():
    rows = {row["name"]: (row["total"], row["trainable"]) for row in table(variants=True)}
    assert list(rows) == [*MODELS, *VARIANTS]
    assert {name: rows[name] for name in VARIANTS} == {
        "encoder_unet, vgg16": (19_039_682, 19_037_698),
        "encoder_unet, vgg19": (24_349_378, 24_347_394),
        "encoder_unet, resnet50": (32_603_650, 32_548_546),
        "encoder_unet, resnet101": (51_674_114, 51_566_786),
        "encoder_unet, resnet152": (67_386_882, 67_233_474),
        "encoder_unet, densenet121": (12_145_858, 12_060_226),
        "encoder_unet, densenet201": (26_379_458, 26_148_418),
        "encoder_unet, inceptionv3": (29_933_986, 29_897_570),
        "gb_unet, joint": (96_044_664, 95_843_704),
    }


def test_build_says_what_is_wrong():
    with pytest.raises(ModelError, match=r"architecture: unknown 'vnet'\. Known: agunet"):
        build("vnet")
    with pytest.raises(ModelError, match=r"unet: .*'depth'"):
        build("unet", depth=3)
    with pytest.raises(ModelError, match="at least two levels"):
        build("unet", widths=(8,))
    with pytest.raises(ModelError, match="one number or"):
        build("unet", size_px=(16, 16, 3))


def test_describe_says_where_the_patch_comes_from():
    arguments = {"size_px": 64, "alpha": 0.1, "weights": None}
    spec = describe(build("mobilenetv2_classifier", **arguments), "mobilenetv2_classifier", arguments, mpp=1.0)
    assert spec.arguments == {"size_px": 64, "alpha": 0.1}
    assert (spec.task, spec.stride_px, spec.inputs[0].mpp, spec.inputs[0].size_px) == (
        "classification",
        64,
        1.0,
        (64, 64),
    )


def test_describe_refuses_another_class_table():
    with pytest.raises(ModelError, match="2 classes, the class table 1"):
        describe(build("unet", **TINY), "unet", TINY, classes=(ClassSpec("all", (0, 0, 0)),))


def test_heads_are_in_order_in_the_spec():
    widths = (1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2)
    arguments = {"size_px": 4096, "widths": widths}
    spec = describe(build("agunet", **arguments), "agunet", arguments)
    assert spec.outputs == ("segmentation", *(f"segmentation_{i}" for i in range(1, 12)))


def test_missing_files_are_named(folder):
    (folder / "model.keras").unlink()
    with pytest.raises(ModelError, match=r"unet/model.keras: no such file"):
        load(folder)
    (folder / "model_fast.onnx").touch()
    with pytest.raises(ModelError, match=r"unet holds model_fast.onnx, which is exported already"):
        load(folder)
    (folder / "config.json").unlink()
    with pytest.raises(ModelError, match=r"unet/config.json: no such file"):
        load(folder)


def test_truncated_network_is_named(folder):
    content = (folder / "model.keras").read_bytes()
    (folder / "model.keras").write_bytes(content[: len(content) // 2])
    with pytest.raises(ModelError, match=r"unet/model.keras: not a Keras network"):
        load(folder)


def test_network_of_another_spec_is_refused(folder, tmp_path):
    other = {**TINY, "size_px": 32}
    model = build("unet", **other)
    save(model, describe(model, "unet", other), tmp_path / "other")
    shutil.copy(tmp_path / "other" / "model.keras", folder)
    with pytest.raises(ModelError, match=r"inputs .*32, 32, 3.* are not those of config.json .*16, 16, 3"):
        load(folder)


def test_weights_that_do_not_fit_the_spec_are_not_saved(tmp_path):
    model = build("unet", **TINY)
    spec = describe(model, "unet", {**TINY, "widths": (4, 16)})
    with pytest.raises(ModelError, match="weights do not fit its spec"):
        save(model, spec, tmp_path / "unet")
    assert not (tmp_path / "unet").exists()


def test_input_size_that_is_not_the_spec_is_not_saved(tmp_path):
    model = build("unet", **TINY)
    spec = describe(model, "unet", {**TINY, "size_px": 32})
    with pytest.raises(ModelError, match="inputs"):
        save(model, spec, tmp_path / "unet")


def test_network_of_mixed_precision_is_saved_in_float32(tmp_path):
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = build("agunet", **TINY)
        model.compile("sgd")
        save(model, describe(model, "agunet", TINY), tmp_path)
    finally:
        keras.config.set_dtype_policy("float32")
    loaded, _ = load(tmp_path)
    assert {layer.compute_dtype for layer in loaded.layers} == {"float32"}
    assert not loaded.compiled
    np.testing.assert_array_equal(loaded.get_weights()[0], model.get_weights()[0])


def test_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("in the way")
    model = build("unet", **TINY)
    with pytest.raises(OutputError, match="cannot write"):
        save(model, describe(model, "unet", TINY), tmp_path / "file" / "unet")


def test_networks_load_with_keras_alone(folder):
    model = keras.saving.load_model(folder / "model.keras", safe_mode=True)
    assert "tfseg" not in model.to_json()
    inputs = {"image": np.zeros((1, 16, 16, 3)), "heatmap": np.zeros((1, 16, 16, 1))}
    assert model(inputs)["segmentation"].shape == (1, 16, 16, 2)
