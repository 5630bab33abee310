"""FAST text pipelines (.fpl) of a cascade: one for FastPathology, one that runs without a screen.

The syntax and what each attribute does were measured with pyFAST 4.18; see docs/fast.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tfseg.export.align import write_align
from tfseg.export.fpl import (
    ENGINES,
    FLAVOURS,
    GATED_MASK,
    PLAIN_THRESHOLD,
    Block,
    block_text,
    check_choice,
    label_colors,
    model_path,
    plain,
)
from tfseg.export.gate import TissueGate
from tfseg.export.onnx import FILES, export_onnx
from tfseg.files import write_text
from tfseg.geometry import magnification_of
from tfseg.types import CascadeSpec, ClassSpec, ExportError, InputSpec, ModelSpec, read_config

RESULTS = ("segmentation", "heatmap")
HEATMAP_FPL = "headless_heatmap.fpl"
ALIGN_FILE = "align_fast.onnx"
"""Network beside the refinement network that lays the heatmap over the slide."""


def export_cascade(folder: str | Path, engine: str = "OpenVINO") -> list[Path]:
    """Exports all that a cascade needs outside of Keras.

    Each network as model.onnx (what ``tfseg segment`` runs) and model_fast.onnx; the classifier for FAST with the
    cascade's tissue test inside. Then the pipelines: fastpathology.fpl, headless.fpl, and, where there are two
    networks, headless_heatmap.fpl.

    Args:
        folder: a cascade, or a single network.
        engine: FAST's inference engine, "OpenVINO", "ONNXRuntime" or "TensorRT".

    Returns:
        The files written.

    Raises:
        ModelError: no cascade, or a network is missing.
        ExportError: a network cannot be exported faithfully, or FAST cannot run such a cascade.
    """
    folder = Path(folder)
    cascade = CascadeSpec.load(folder)
    written = []
    for part in (cascade.classifier, cascade.refinement):
        if part is None:
            continue
        written.append(export_onnx(folder / part))
        gate = TissueGate(cascade.min_tissue, **cascade.tissue) if part == cascade.classifier else None
        written.append(export_onnx(folder / part, "fast", gate=gate))
    written += [write_fpl(folder, flavour, engine) for flavour in FLAVOURS]
    if cascade.classifier is not None and cascade.refinement is not None:
        written.append(write_fpl(folder, "headless", engine, result="heatmap"))
    return written


def write_fpl(
    cascade_folder: str | Path,
    flavour: str = "viewer",
    engine: str = "OpenVINO",
    out: str | Path | None = None,
    result: str = "segmentation",
    level: int = -1,
    patch_level: int | None = None,
) -> Path:
    """Writes the text pipeline of a cascade whose networks are exported with the "fast" profile.

    The networks are named relative to the pipeline's file (``$CURRENT_PATH$``), so that the folder can be moved as a
    whole. FAST must be given the absolute path of the .fpl, or it looks for the networks from the root.

    Args:
        cascade_folder: a cascade or a single network.
        flavour: "viewer": for FastPathology: the slide is the input ``WSI``, heatmap and segmentation are outputs with
            renderers in the classes' colours. "headless": the slide is the variable ``wsi``, and one exporter writes
            the variable ``output``; FAST hangs on two exporters, and on outputs behind RunUntilFinished.
        engine: "OpenVINO", "ONNXRuntime" or "TensorRT".
        out: the file; in the cascade's folder by default, as in ``FLAVOURS``.
        result: what a headless pipeline writes: "segmentation" (an image of class indices) or "heatmap" (HDF5).
        level: level of the slide's pyramid that is resized to the refinement network's input, unless the variable
            ``level`` says otherwise; −1 is the smallest. FAST cannot look for one that is just large enough;
            :func:`tfseg.export.run_fast.run_headless` does, and sets the variable.
        patch_level: level from which patches are read, for slides that do not tell their magnification; by default
            the classifier's magnification.

    Returns:
        The file.

    Raises:
        ModelError: no cascade.
        ExportError: a network is not exported for FAST, or FAST cannot run such a cascade.
    """
    for what, value, known in (
        ("flavour", flavour, FLAVOURS),
        ("engine", engine, ENGINES),
        ("result", result, RESULTS),
    ):
        check_choice(what, value, known)
    folder = Path(cascade_folder)
    cascade = CascadeSpec.load(folder)
    name = HEATMAP_FPL if (flavour, result) == ("headless", "heatmap") else FLAVOURS[flavour]
    target = folder / name if out is None else Path(out)
    parts = _Parts(folder, target, cascade, engine)
    if result == "heatmap" and parts.classifier is None:
        raise ExportError(f"{folder}: has no classifier, so there is no heatmap to write.")
    classes = (parts.refinement or parts.classifier).classes  # type: ignore[union-attr]
    with_refinement = parts.refinement is not None and not (flavour == "headless" and result == "heatmap")
    source = "WSI" if flavour == "viewer" else "importer 0"
    blocks: list[Block] = []
    if flavour == "headless":
        blocks.append(("ProcessObject importer WholeSlideImageImporter", ['Attribute filename "@@wsi@@"']))
    if parts.classifier is not None:
        blocks += parts.heatmap_blocks(source, patch_level)
    if with_refinement:
        blocks += parts.refinement_blocks(source, level)
    blocks += _viewer_blocks(parts, classes) if flavour == "viewer" else [_sink(with_refinement)]
    write_text(target, _header(flavour, parts, classes, with_refinement) + "\n" + "\n".join(map(block_text, blocks)))
    return target


class _Parts:
    """The networks of a cascade and the blocks that run them."""

    def __init__(self, folder: Path, target: Path, cascade: CascadeSpec, engine: str) -> None:
        self.folder, self.target, self.cascade, self.engine = folder, target, cascade, engine
        self.classifier = self._spec(cascade.classifier)
        self.refinement = self._spec(cascade.refinement)
        if self.classifier is None and self.refinement is None:
            raise ExportError(f"{folder}: a cascade without networks; FAST has nothing to run.")
        if self.refinement is not None and self.classifier is not None and len(self.classifier.classes) != 2:
            raise ExportError(
                f"{folder}: FAST hands one channel of the heatmap to the refinement network, so the classifier must "
                f"have two classes; it has {len(self.classifier.classes)}."
            )
        last = self.refinement or self.classifier
        if self.refinement is not None and cascade.threshold < 1 / len(last.classes):  # type: ignore[union-attr]
            raise ExportError(
                f"{folder}: threshold {cascade.threshold:g}: FAST takes a class only where it is also more probable "
                "than the background, so a threshold below 0.5 has no effect there. Use 0.5 or more."
            )

    def _spec(self, part: str | None) -> ModelSpec | None:
        if part is None:
            return None
        network, spec = (self.folder / part / name for name in FILES["fast"])
        if not network.is_file() or not spec.is_file():
            raise ExportError(
                f"{network}: no such file. Export the cascade first: `tfseg export {self.folder}` writes the networks "
                "for FAST and the pipelines."
            )
        return ModelSpec.from_dict(read_config(spec), str(spec))

    def model(self, part: str | None, file: str = FILES["fast"][0]) -> str:
        """Path of a part's network as a pipeline writes it."""
        return model_path(self.folder / (part or ".") / file, self.target)

    def heatmap_blocks(self, source: str, patch_level: int | None) -> list[Block]:
        """From the slide to the finished heatmap, process object ``finish``."""
        spec = self.classifier
        assert spec is not None
        image, gate = spec.inputs[0], spec.provenance.get("tissue_gate")
        height, width = image.size_px
        if patch_level is None and image.mpp is None:
            raise ExportError(f"{spec.name}: a patch classifier needs an mpp in its config.json.")
        where = (
            f"patch-level {patch_level}"
            if patch_level is not None
            else f"patch-magnification {magnification_of(image.mpp or 1.0):g}"
        )
        overlap = (width - (spec.stride_px or width)) / 2 / width
        threshold = GATED_MASK["threshold"] if gate else PLAIN_THRESHOLD
        mask_threshold = GATED_MASK["mask-threshold"] if gate else self.cascade.min_tissue
        return [
            ("ProcessObject tissue TissueSegmentation", [f"Attribute threshold {threshold}", f"Input 0 {source}"]),
            (
                "ProcessObject patch PatchGenerator",
                [
                    f"Attribute patch-size {width} {height}",
                    f"Attribute {where}",
                    *([f"Attribute patch-overlap {overlap:g}"] if overlap else []),
                    f"Attribute mask-threshold {mask_threshold:g}",
                    f"Input 0 {source}",
                    "Input 1 tissue 0",
                ],
            ),
            (
                "ProcessObject classifier NeuralNetwork",
                [
                    f"Attribute inference-engine {self.engine}",
                    f"Attribute model {self.model(self.cascade.classifier)}",
                    "Attribute scale-factor 1.0",
                    "Input 0 patch 0",
                ],
            ),
            ("ProcessObject stitcher PatchStitcher", ["Input 0 classifier 0"]),
            ("ProcessObject finish RunUntilFinished", ["Input 0 stitcher 0"]),
        ]

    def refinement_blocks(self, source: str, level: int) -> list[Block]:
        """From slide and heatmap to the segmentation, process object ``refinement``."""
        spec = self.refinement
        assert spec is not None
        blocks: list[Block] = [
            (
                "ProcessObject lowRes ImagePyramidLevelExtractor",
                [f"Attribute level @@level={level}@@", f"Input 0 {source}"],
            )
        ]
        inputs = [f"Input {n} {'lowRes' if i.kind == 'image' else 'field'} 0" for n, i in enumerate(spec.inputs)]
        heatmap = next((one for one in spec.inputs if one.kind == "heatmap"), None)
        if heatmap is not None:
            blocks += self._align_blocks(heatmap)
        blocks.append(
            (
                "ProcessObject refinement SegmentationNetwork",
                [
                    f"Attribute inference-engine {self.engine}",
                    f"Attribute model {self.model(self.cascade.refinement)}",
                    "Attribute scale-factor 1.0",
                    f"Attribute threshold {self.cascade.threshold:g}",
                    *inputs,
                ],
            )
        )
        return blocks

    def _align_blocks(self, heatmap: InputSpec) -> list[Block]:
        """Lays the heatmap over the slide's picture; writes the small network that does it."""
        if self.classifier is None:
            raise ExportError(f"{self.folder}: the refinement network takes a heatmap, but there is no classifier.")
        stride = self.classifier.stride_px or self.classifier.inputs[0].size_px[0]
        write_align(self.folder / (self.cascade.refinement or ".") / ALIGN_FILE, stride, heatmap.size_px)
        return [
            ("ProcessObject heatmapImage TensorToImage", ["Attribute channels 1", "Input 0 finish 0"]),
            (
                "ProcessObject align NeuralNetwork",
                [
                    f"Attribute inference-engine {self.engine}",
                    f"Attribute model {self.model(self.cascade.refinement, ALIGN_FILE)}",
                    "Attribute scale-factor 1.0",
                    "Input 0 heatmapImage 0",
                    "Input 1 lowRes 0",
                    "Input 2 lowRes 0",
                ],
            ),
            ("ProcessObject field TensorToImage", ["Input 0 align 0"]),
        ]


def _header(flavour: str, parts: _Parts, classes: Sequence[ClassSpec], shows_refinement: bool) -> str:
    name = plain(parts.cascade.name)
    lines = [
        f'PipelineName "{name}"',
        f'PipelineDescription "{name}, exported by tfseg"',
    ]
    if flavour == "viewer":
        lines.append('PipelineInputData WSI "Whole-slide image"')
        if parts.refinement is not None:
            lines.append("PipelineOutputData segmentation refinement 0")
        if parts.classifier is not None:
            lines.append("PipelineOutputData heatmap finish 0")
    if shows_refinement and parts.refinement is not None:
        height, width = parts.refinement.inputs[0].size_px
        lines.insert(0, f"# refinement input: {height} x {width}")
    lines.append(f'Attribute classes "{";".join(plain(one.name) for one in classes)}"')
    return "\n".join(lines) + "\n"


def _viewer_blocks(parts: _Parts, classes: Sequence[ClassSpec]) -> list[Block]:
    colors = label_colors(classes)
    blocks: list[Block] = [("Renderer imageRenderer ImagePyramidRenderer", ["Input 0 WSI"])]
    if parts.classifier is not None:
        blocks.append(
            (
                "Renderer heatmapRenderer HeatmapRenderer",
                [
                    "Attribute interpolation false",
                    "Attribute hidden-channels 0",
                    f"Attribute channel-colors {colors}",
                    "Input 0 stitcher 0",
                ],
            )
        )
    if parts.refinement is not None:
        blocks.append(
            (
                "Renderer segmentationRenderer SegmentationRenderer",
                [f"Attribute label-colors {colors}", "Attribute opacity 0.4", "Input 0 refinement 0"],
            )
        )
    names = " ".join(first.split()[1] for first, _ in blocks)
    return [*blocks, (f"View view {names}", [])]


def _sink(with_refinement: bool) -> Block:
    if with_refinement:
        return "ProcessObject exporter TIFFImagePyramidExporter", [
            'Attribute filename "@@output@@"',
            "Input 0 refinement 0",
        ]
    return "ProcessObject exporter HDF5TensorExporter", ['Attribute filename "@@output@@"', "Input 0 finish 0"]
