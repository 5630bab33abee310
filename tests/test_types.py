from __future__ import annotations

import json
from dataclasses import replace

import pytest

from tfseg.files import write_json
from tfseg.types import CascadeSpec, InputSpec, ModelError, ModelSpec, Window

SPEC = ModelSpec(
    "m",
    "unet",
    {"size_px": [64, 64]},
    "segmentation",
    (InputSpec("image", (64, 64)), InputSpec("heatmap", (64, 64), 1, None, "heatmap")),
    ("segmentation",),
)


def test_window_bounds_at_another_mpp():
    assert Window(100, 50, 10, 20, 1.0).bounds(0.5) == (90, 30, 110, 70)


def test_model_spec_round_trip(tmp_path):
    write_json(tmp_path / "config.json", SPEC.to_dict())
    assert ModelSpec.load(tmp_path) == ModelSpec.from_dict(json.loads(json.dumps(SPEC.to_dict())))
    assert ModelSpec.load(tmp_path).inputs == SPEC.inputs


def test_dict_of_a_network_without_windows_is_that_of_version_1():
    """Its hash is the network's identity, by which finished segmentations and checkpoints are found."""
    heat = {"name": "heatmap", "size_px": (64, 64), "channels": 1, "mpp": None, "kind": "heatmap"}
    image = {"name": "image", "size_px": (64, 64), "channels": 3, "mpp": None, "kind": "image"}
    assert SPEC.to_dict() == {
        "format": "tfseg-model",
        "version": 1,
        "name": "m",
        "architecture": "unet",
        "arguments": {"size_px": [64, 64]},
        "task": "segmentation",
        "inputs": (image, heat),
        "outputs": ("segmentation",),
        "classes": ({"name": "non-tumour", "color": (160, 160, 160)}, {"name": "tumour", "color": (200, 0, 0)}),
        "stride_px": None,
        "threshold": 0.5,
        "provenance": {},
    }


def test_dict_of_a_dense_network_holds_its_output():
    dense = replace(SPEC, output_px=(32, 16), output_mpp=0.5).to_dict()
    assert (dense["output_px"], dense["output_mpp"]) == ((32, 16), 0.5)
    assert ModelSpec.from_dict(json.loads(json.dumps(dense))).output_px == (32, 16)


def test_folder_of_one_network_is_a_cascade_of_one(tmp_path):
    write_json(tmp_path / "config.json", SPEC.to_dict())
    cascade = CascadeSpec.load(tmp_path)
    assert (cascade.classifier, cascade.refinement) == (None, ".")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "no such file"),
        ("{", "not JSON"),
        ("[1]", "expected a JSON object"),
        ('{"name": "x"}', "not a tfseg model spec"),
        ('{"format": "tfseg-model", "version": 2}', "version 2, this tfseg reads version 1"),
    ],
)
def test_a_folder_without_a_spec_says_what_a_model_folder_holds(tmp_path, content, says):
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(ModelError, match=says) as caught:
        ModelSpec.load(tmp_path)
    assert "config.json" in str(caught.value)


def test_dense_networks_keep_their_output_and_older_specs_load():
    dense = replace(SPEC, inputs=(InputSpec("image", (64, 64), 3, 0.5),), output_px=(32, 32), output_mpp=0.5)
    assert dense.dense and not SPEC.dense and not replace(dense, task="classification").dense
    assert ModelSpec.from_dict(json.loads(json.dumps(dense.to_dict()))) == dense
    older = {key: value for key, value in SPEC.to_dict().items() if not key.startswith("output_")}
    assert ModelSpec.from_dict(older) == SPEC
