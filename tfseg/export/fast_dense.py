"""FAST text pipelines (.fpl) of a dense network: patches of one large field, the network, the stitched segmentation.

What was measured with pyFAST 4.18 stands in docs/fast.md.
"""

from __future__ import annotations

from pathlib import Path

from tfseg.export.fpl import (
    ENGINES,
    FLAVOURS,
    GATED_MASK,
    Block,
    block_text,
    check_choice,
    label_colors,
    model_path,
    plain,
)
from tfseg.export.one_input import PADDING
from tfseg.export.onnx import FILES, export_onnx
from tfseg.files import write_text
from tfseg.geometry import magnification_of
from tfseg.types import ExportError, ModelSpec, read_config

PADDING_VALUES = {"zero": 0, "white": 255}
TILE_PX = 16
"""FAST stitches patches whose sides without overlap are multiples of this (tiles of a TIFF); it moves others."""


def export_dense(folder: str | Path, engine: str = "OpenVINO") -> list[Path]:
    """Exports all that a dense network needs outside of Keras.

    model.onnx (what ``tfseg segment`` runs), model_fast.onnx (one graph with a single large field), fastpathology.fpl
    and headless.fpl.

    Args:
        folder: of the network.
        engine: FAST's inference engine, "OpenVINO", "ONNXRuntime" or "TensorRT".

    Returns:
        The files written.

    Raises:
        ModelError: no network, or not a dense one.
        ExportError: it cannot be exported faithfully, or FAST cannot run it.
    """
    folder = Path(folder)
    written = [export_onnx(folder), export_onnx(folder, "fast")]
    return written + [write_dense_fpl(folder, flavour, engine) for flavour in FLAVOURS]


def write_dense_fpl(
    folder: str | Path,
    flavour: str = "viewer",
    engine: str = "OpenVINO",
    out: str | Path | None = None,
    border: str = "zero",
    tissue: bool = False,
    patch_level: int | None = None,
) -> Path:
    """Writes the text pipeline of a dense network that is exported with the "fast" profile.

    FAST labels by argmax, without blending: each patch speaks for the pixels at its centre. Cells at the right and
    lower edge with fewer pixels left than the patches' overlap get class 0, as FAST leaves such patches out.

    Args:
        folder: of the network.
        flavour: "viewer": for FastPathology: the slide is the input ``WSI``, the segmentation is an output with a
            renderer in the classes' colours. "headless": the slide is the variable ``wsi``, and one exporter writes
            the variable ``output``, a TIFF of class indices.
        engine: "OpenVINO", "ONNXRuntime" or "TensorRT".
        out: the file; in the network's folder by default, as in ``FLAVOURS``.
        border: what lies beyond the slide's edges, "zero" or "white"; FAST cannot reflect.
        tissue: leave out patches of clean glass by FAST's own test; they get class 0.
        patch_level: level of the slide's pyramid from which patches are read, for slides that do not tell their
            magnification; by default the network's magnification.

    Returns:
        The file.

    Raises:
        ExportError: the network is not exported for FAST or not dense, or FAST cannot stitch its output.
    """
    check_choice("flavour", flavour, FLAVOURS)
    check_choice("engine", engine, ENGINES)
    check_choice("border", border, PADDING_VALUES)
    folder = Path(folder)
    target = folder / FLAVOURS[flavour] if out is None else Path(out)
    network, spec = _exported(folder)
    source = "WSI" if flavour == "viewer" else "importer 0"
    blocks: list[Block] = []
    if flavour == "headless":
        blocks.append(("ProcessObject importer WholeSlideImageImporter", ['Attribute filename "@@wsi@@"']))
    if tissue:
        threshold = f"Attribute threshold {GATED_MASK['threshold']}"
        blocks.append(("ProcessObject tissue TissueSegmentation", [threshold, f"Input 0 {source}"]))
    blocks.append(("ProcessObject patch PatchGenerator", _patches(spec, source, border, tissue, patch_level)))
    blocks += [
        (
            "ProcessObject network SegmentationNetwork",
            [
                f"Attribute inference-engine {engine}",
                f"Attribute model {model_path(network, target)}",
                "Attribute scale-factor 1.0",
                "Attribute threshold 0.0",
                "Input 0 patch 0",
            ],
        ),
        ("ProcessObject stitcher PatchStitcher", ["Input 0 network 0"]),
        *(_viewer(spec) if flavour == "viewer" else _sink()),
    ]
    write_text(target, _header(spec, flavour) + "\n" + "\n".join(map(block_text, blocks)))
    return target


def fast_stride(spec: ModelSpec) -> int:
    """Pixels between the patches that FAST reads: the network's stride, or the next smaller multiple of 16.

    Args:
        spec: of the exported network, with one input.

    Raises:
        ExportError: the output is smaller than 16 px, or the patch's sides are odd.
    """
    assert spec.output_px is not None
    output, sides = min(spec.output_px), spec.inputs[0].size_px
    stride = min(spec.stride_px or output, output) // TILE_PX * TILE_PX
    if stride < TILE_PX or any(side % 2 for side in sides):
        raise ExportError(
            f"{spec.name}: patches of {sides[0]} × {sides[1]} px whose central {output} px are labelled; FAST stitches "
            f"patches of even sides that speak for at least {TILE_PX} px."
        )
    return stride


def _exported(folder: Path) -> tuple[Path, ModelSpec]:
    network, config = (folder / name for name in FILES["fast"])
    if not network.is_file() or not config.is_file():
        raise ExportError(f"{network}: no such file. Export the network first: `tfseg export {folder}`.")
    spec = ModelSpec.from_dict(read_config(config), str(config))
    if not spec.dense or len(spec.inputs) != 1 or PADDING not in spec.provenance:
        raise ExportError(
            f"{config}: not a dense network with a single field. Export it again: `tfseg export {folder}`."
        )
    return network, spec


def _patches(spec: ModelSpec, source: str, border: str, tissue: bool, patch_level: int | None) -> list[str]:
    """Attributes and inputs of the patch generator."""
    (height, width), stride = spec.inputs[0].size_px, fast_stride(spec)
    if height != width:
        raise ExportError(
            f"{spec.name}: a field of {height} × {width} px; FAST's overlap is one fraction of both sides, so the "
            "field must be square."
        )
    magnification = magnification_of(spec.inputs[0].mpp or 1.0)
    return [
        f"Attribute patch-size {width} {height}",
        f"Attribute patch-magnification {magnification:g}"
        if patch_level is None
        else f"Attribute patch-level {patch_level}",
        f"Attribute patch-overlap {(width - stride) / 2 / width:.9g}",
        *([f"Attribute mask-threshold {GATED_MASK['mask-threshold']:g}"] if tissue else []),
        f"Attribute padding-value {PADDING_VALUES[border]}",
        f"Input 0 {source}",
        *(["Input 1 tissue 0"] if tissue else []),
    ]


def _header(spec: ModelSpec, flavour: str) -> str:
    lines = [f'PipelineName "{plain(spec.name)}"', f'PipelineDescription "{plain(spec.name)}, exported by tfseg"']
    if flavour == "viewer":
        lines += ['PipelineInputData WSI "Whole-slide image"', "PipelineOutputData segmentation stitcher 0"]
    lines.append(f'Attribute classes "{";".join(plain(one.name) for one in spec.classes)}"')
    return "\n".join(lines) + "\n"


def _viewer(spec: ModelSpec) -> list[Block]:
    colors = f"Attribute label-colors {label_colors(spec.classes)}"
    return [
        ("Renderer imageRenderer ImagePyramidRenderer", ["Input 0 WSI"]),
        ("Renderer segmentationRenderer SegmentationRenderer", [colors, "Attribute opacity 0.4", "Input 0 stitcher 0"]),
        ("View view imageRenderer segmentationRenderer", []),
    ]


def _sink() -> list[Block]:
    return [
        ("ProcessObject finish RunUntilFinished", ["Input 0 stitcher 0"]),
        (
            "ProcessObject exporter TIFFImagePyramidExporter",
            ['Attribute filename "@@output@@"', "Input 0 finish 0"],
        ),
    ]
