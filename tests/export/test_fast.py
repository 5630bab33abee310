"""Text pipelines: what stands in them, and cascades that FAST cannot run. No pyFAST needed."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from tfseg.export.fast import write_fpl
from tfseg.files import write_json
from tfseg.types import CascadeSpec, ClassSpec, ExportError, InputSpec, ModelSpec

IMAGE = InputSpec("input_0_image", (256, 256), 3, 1.0)
CLASSIFIER = ModelSpec(
    "classifier",
    "mobilenetv2_classifier",
    {},
    "classification",
    (IMAGE,),
    ("output_0_probabilities",),
    stride_px=256,
    provenance={"tissue_gate": {"min_tissue": 0.25}},
)
REFINEMENT = ModelSpec(
    "refinement",
    "unet",
    {},
    "segmentation",
    (InputSpec("input_0_image", (1024, 1024)), InputSpec("input_1_heatmap", (1024, 1024), 1, None, "heatmap")),
    ("output_0_segmentation",),
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return fill(tmp_path, CascadeSpec("H2G-Net"), CLASSIFIER, REFINEMENT)


def fill(folder: Path, cascade: CascadeSpec, *specs: ModelSpec) -> Path:
    write_json(folder / "config.json", cascade.to_dict())
    for spec in specs:
        write_json(folder / spec.name / "model_fast.json", spec.to_dict())
        (folder / spec.name / "model_fast.onnx").write_bytes(b"network")
    return folder


def block(text: str, name: str) -> list[str]:
    found = re.search(rf"^(?:ProcessObject|Renderer|View) {name}\b.*(?:\n\S.*)*", text, re.MULTILINE)
    assert found, f"no block {name}"
    return found[0].split("\n")


def test_every_block_gives_attributes_before_inputs_and_names_known_objects(folder):
    for flavour, result in (("viewer", "segmentation"), ("headless", "segmentation"), ("headless", "heatmap")):
        text = write_fpl(folder, flavour, result=result).read_text()
        known = {"WSI"} if flavour == "viewer" else set()
        for part in text.split("\n\n")[1:]:
            lines = part.strip().split("\n")
            kinds = [line.split()[0] for line in lines[1:]]
            assert kinds == sorted(kinds), f"attributes must stand before inputs: {lines}"
            for line in lines[1:]:
                if line.startswith("Input"):
                    assert line.split()[2] in known, f"{line} comes before what it names"
            known.add(lines[0].split()[1])


def test_viewer_has_outputs_classes_and_colours(folder):
    path = write_fpl(folder)
    text = path.read_text()
    assert path.name == "fastpathology.fpl"
    assert "PipelineInputData WSI" in text and "@@wsi@@" not in text
    assert "PipelineOutputData segmentation refinement 0\nPipelineOutputData heatmap finish 0\n" in text
    assert 'Attribute classes "non-tumour;tumour"' in text
    assert 'Attribute label-colors "1" "200;0;0"' in block(text, "segmentationRenderer")
    assert block(text, "view") == ["View view imageRenderer heatmapRenderer segmentationRenderer"]


def test_headless_has_one_sink_and_no_declared_output(folder):
    for result in ("segmentation", "heatmap"):
        text = write_fpl(folder, "headless", result=result).read_text()
        assert text.count("Exporter") == 1 and "PipelineOutputData" not in text and "Renderer" not in text
        assert 'Attribute filename "@@wsi@@"' in text and 'Attribute filename "@@output@@"' in text
    assert "refinement" not in text


def test_patches_are_read_at_the_classifiers_magnification(folder):
    assert "Attribute patch-magnification 10" in block(write_fpl(folder).read_text(), "patch")
    lines = block(write_fpl(folder, patch_level=2).read_text(), "patch")
    assert "Attribute patch-level 2" in lines and not any("magnification" in line for line in lines)


def test_overlapping_patches_have_an_overlap_per_side(tmp_path):
    folder = fill(tmp_path, CascadeSpec("x"), replace(CLASSIFIER, stride_px=128), REFINEMENT)
    assert "Attribute patch-overlap 0.25" in block(write_fpl(folder).read_text(), "patch")


def test_border_patches_are_kept_by_the_gate_or_by_the_cascades_own_limit(tmp_path, folder):
    assert "Attribute mask-threshold 0.02" in block(write_fpl(folder).read_text(), "patch")
    plain = fill(tmp_path / "plain", CascadeSpec("x", min_tissue=0.3), replace(CLASSIFIER, provenance={}), REFINEMENT)
    assert "Attribute mask-threshold 0.3" in block(write_fpl(plain).read_text(), "patch")


def test_networks_are_named_relative_to_the_pipeline(folder, tmp_path):
    assert '"$CURRENT_PATH$/classifier/model_fast.onnx"' in write_fpl(folder).read_text()
    text = write_fpl(folder, out=tmp_path / "pipelines" / "h2g.fpl").read_text()
    assert '"$CURRENT_PATH$/../refinement/model_fast.onnx"' in text


def test_single_networks(tmp_path):
    alone = tmp_path / "classifier"
    fill(tmp_path, CascadeSpec("x"), CLASSIFIER)
    write_json(alone / "config.json", CLASSIFIER.to_dict())
    text = write_fpl(alone).read_text()
    assert '"$CURRENT_PATH$/model_fast.onnx"' in text and "SegmentationNetwork" not in text
    lowres = replace(REFINEMENT, name="lowres", inputs=REFINEMENT.inputs[:1])
    folder = fill(tmp_path / "b", CascadeSpec("x", classifier=None, refinement="lowres"), lowres)
    text = write_fpl(folder, "headless").read_text()
    assert "PatchGenerator" not in text and "align" not in text and "Exporter" in text
    with pytest.raises(ExportError, match="no heatmap"):
        write_fpl(folder, "headless", result="heatmap")


def test_quotes_and_semicolons_in_names_do_no_harm(tmp_path):
    classes = (ClassSpec("none", (0, 0, 0)), ClassSpec('a;"b"', (1, 2, 3)))
    folder = fill(tmp_path, CascadeSpec('my "net"'), CLASSIFIER, replace(REFINEMENT, classes=classes))
    text = write_fpl(folder).read_text()
    assert "PipelineName \"my 'net'\"" in text and "Attribute classes \"none;a,'b'\"" in text


@pytest.mark.parametrize(
    ("cascade", "specs", "reason"),
    [
        (CascadeSpec("x"), (CLASSIFIER,), "Export the cascade first"),
        (CascadeSpec("x", classifier=None, refinement=None), (), "without networks"),
        (CascadeSpec("x", threshold=0.3), (CLASSIFIER, REFINEMENT), "threshold 0.3"),
        (CascadeSpec("x", classifier=None), (REFINEMENT,), "no classifier"),
        (CascadeSpec("x"), (replace(CLASSIFIER, classes=CLASSIFIER.classes * 2), REFINEMENT), "two classes"),
    ],
)
def test_cascades_that_fast_cannot_run_are_refused(cascade, specs, reason, tmp_path):
    with pytest.raises(ExportError, match=reason):
        write_fpl(fill(tmp_path, cascade, *specs))
    assert not list(tmp_path.glob("*.fpl"))


@pytest.mark.parametrize("argument", [{"flavour": "x"}, {"engine": "x"}, {"result": "x"}])
def test_unknown_choices_are_named(folder, argument):
    with pytest.raises(ExportError, match=r"unknown 'x'\. Known"):
        write_fpl(folder, **argument)
