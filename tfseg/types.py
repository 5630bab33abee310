"""What flows between the parts of tfseg: windows, classes, model specs, errors. NumPy-free on purpose."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

IGNORE = 255
"""Label value of pixels that nobody annotated; they count in no loss and in no metric."""


class TfsegError(Exception):
    """Something a user can mend. The command line prints its message and ends with exit code 1.

    The message names the file or setting, says what was expected, what came, and what would help.
    """


class SlideError(TfsegError):
    """A slide is missing, unreadable or unsuitable."""


class MppError(SlideError):
    """A slide says nothing (or nonsense) about its pixel size."""


class AnnotationError(TfsegError):
    """An annotation file cannot be read or used."""


class CohortError(TfsegError):
    """A manifest, cohort or patch index cannot be used."""


class ModelError(TfsegError):
    """A model folder, spec or network does not fit."""


class OutputError(TfsegError):
    """A result cannot be written."""


class ExportError(TfsegError):
    """A network cannot be exported faithfully."""


@dataclass(frozen=True)
class Window:
    """A field of a slide.

    Attributes:
        x, y: centre of the field in level-0 pixels. Concentric fields share their centre whatever their size.
            Pixel (i, j) of a slide covers [i, i + 1) × [j, j + 1), so a field of an even number of level-0 pixels
            has an integer centre.
        width_px, height_px: size of the output image.
        mpp: pixel size of the output image, µm/px.
    """

    x: float
    y: float
    width_px: int
    height_px: int
    mpp: float

    def bounds(self, slide_mpp: float) -> tuple[float, float, float, float]:
        """(left, top, right, bottom) in level-0 pixels of a slide of ``slide_mpp`` µm/px."""
        half_w = self.width_px * self.mpp / slide_mpp / 2
        half_h = self.height_px * self.mpp / slide_mpp / 2
        return self.x - half_w, self.y - half_h, self.x + half_w, self.y + half_h


@dataclass(frozen=True)
class ClassSpec:
    """A class: its name and its colour, red, green, blue in 0..255."""

    name: str
    color: tuple[int, int, int]


H2G_CLASSES = (ClassSpec("non-tumour", (160, 160, 160)), ClassSpec("tumour", (200, 0, 0)))

NUCLEI_CLASSES = (ClassSpec("background", (160, 160, 160)), ClassSpec("nucleus", (40, 160, 60)))
NUCLEI_BORDER_CLASSES = (*NUCLEI_CLASSES, ClassSpec("border", (230, 200, 40)))
"""Of networks that see where nuclei touch: background, inside of a nucleus, its border."""


COLOURS = "colours.json"
"""In a model folder: the target of the colour normalisation that the network's pictures went through in training."""


@dataclass(frozen=True)
class InputSpec:
    """One input of a network.

    Attributes:
        name: name of the Keras input and of the ONNX input.
        size_px: (height, width).
        channels: 3 for an RGB image, 1 for a heatmap.
        mpp: µm/px of the field; None where the whole slide is resized to ``size_px``.
        kind: "image" (RGB, float32 in 0..255, normalised inside the network) or "heatmap" (probability, 0..1).
    """

    name: str
    size_px: tuple[int, int]
    channels: int = 3
    mpp: float | None = None
    kind: str = "image"


@dataclass(frozen=True)
class ModelSpec:
    """All that a program must know to run a trained network; ``config.json`` beside the weights.

    Attributes:
        name: what the user calls the model.
        architecture: key in ``tfseg.models.MODELS``.
        arguments: keyword arguments that rebuild the network with that key.
        task: "classification" (one vector of class probabilities a patch), "segmentation" (one a pixel) or "instances"
            (one an instance; boxes and masks are further outputs).
        inputs: in the order in which a predictor takes them.
        outputs: output names; the first is the one to use, others serve training (deep supervision).
        classes: index i of the last output axis is ``classes[i]``.
        stride_px: step between neighbouring patches, at the input's mpp (dense networks: at ``output_mpp``); None for
            whole-slide inputs.
        threshold: probability from which the foreground class is taken.
        provenance: free: cohort, seed, versions, scores.
        output_px: (height, width) of the main output of a dense network; None for all others.
        output_mpp: µm/px of that output, which is concentric with every input; None for all others.
        instances: of networks of nuclei, how their output becomes instances: fields of
            ``tfseg.infer.instances.InstanceOptions``; None for all others.
    """

    name: str
    architecture: str
    arguments: dict[str, Any]
    task: str
    inputs: tuple[InputSpec, ...]
    outputs: tuple[str, ...]
    classes: tuple[ClassSpec, ...] = H2G_CLASSES
    stride_px: int | None = None
    threshold: float = 0.5
    provenance: dict[str, Any] = field(default_factory=dict)
    output_px: tuple[int, int] | None = None
    output_mpp: float | None = None
    instances: dict[str, Any] | None = None

    @property
    def dense(self) -> bool:
        """Whether the network labels every pixel of a window of known µm/px, so that windows tile a slide."""
        return self.task == "segmentation" and self.output_mpp is not None

    def to_dict(self) -> dict[str, Any]:
        """What config.json holds, without ``output_px``, ``output_mpp`` and ``instances`` where there are none.

        Models' identities are hashes of it: those of whole-slide networks and classifiers must stay what they were.
        """
        content = {"format": "tfseg-model", "version": 1, **asdict(self)}
        return {k: v for k, v in content.items() if v is not None or k not in ("output_px", "output_mpp", "instances")}

    @classmethod
    def from_dict(cls, content: dict[str, Any], where: str = "model spec") -> ModelSpec:
        """Raises ModelError, naming ``where``, when a field is missing or unknown."""
        content = {k: v for k, v in content.items() if k not in ("format", "version")}
        try:
            content["inputs"] = tuple(InputSpec(**{**i, "size_px": tuple(i["size_px"])}) for i in content["inputs"])
            content["outputs"] = tuple(content["outputs"])
            content["classes"] = tuple(ClassSpec(c["name"], tuple(c["color"])) for c in content["classes"])
            if content.get("output_px") is not None:
                content["output_px"] = tuple(content["output_px"])
            return cls(**content)
        except (KeyError, TypeError) as error:
            raise ModelError(f"{where}: not a tfseg model spec ({error}). Expected the fields of ModelSpec.") from error

    @classmethod
    def load(cls, folder: str | Path) -> ModelSpec:
        """Reads ``folder/config.json``."""
        path = Path(folder) / "config.json"
        return cls.from_dict(read_config(path), str(path))


@dataclass(frozen=True)
class CascadeSpec:
    """A whole-slide pipeline of one or two networks: ``config.json`` of the folder that ``tfseg segment`` takes.

    Attributes:
        name: what the user calls it.
        classifier: subfolder of the patch classifier that makes the heatmap; None for a low-resolution network alone.
        refinement: subfolder of the network that takes the whole slide (and the heatmap); None for the heatmap alone.
            Without either network all tissue is foreground, by Otsu's threshold (``tfseg.slides.tissue.otsu_tissue``).
        threshold: probability from which a pixel is foreground.
        tissue: arguments of ``tfseg.slides.tissue.tissue_mask``.
        min_tissue: patches with no more than this fraction of tissue are not classified (probability 0).
    """

    name: str
    classifier: str | None = "classifier"
    refinement: str | None = "refinement"
    threshold: float = 0.5
    tissue: dict[str, Any] = field(default_factory=dict)
    min_tissue: float = 0.25
    provenance: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        return {"format": "tfseg-cascade", "version": 1, **asdict(self)}

    @classmethod
    def load(cls, folder: str | Path) -> CascadeSpec:
        """Reads ``folder/config.json``; a folder of a single network is taken as a cascade of one."""
        path = Path(folder) / "config.json"
        content = read_config(path)
        if content.get("format") == "tfseg-model":
            spec = ModelSpec.from_dict(content, str(path))
            first = spec.task == "classification"
            return cls(spec.name, "." if first else None, None if first else ".", spec.threshold)
        content = {k: v for k, v in content.items() if k not in ("format", "version")}
        try:
            return cls(**content)
        except TypeError as error:
            raise ModelError(f"{path}: not a tfseg cascade ({error}).") from error


def read_config(path: Path) -> dict[str, Any]:
    """Reads a ``config.json``; raises ModelError that says what a model folder holds."""
    holds = (
        "A model folder holds config.json beside model.keras or model.onnx, or, of a cascade, beside the folders of "
        "its networks; `tfseg train --out RUN` writes one, RUN/model."
    )
    if not path.is_file():
        within = path.parent / "model"
        meant = f" Did you mean {within}?" if (within / path.name).is_file() else ""
        raise ModelError(f"{path}: no such file.{meant} {holds}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"{path}: not JSON ({error}). {holds}") from error
    if not isinstance(content, dict):
        raise ModelError(f"{path}: expected a JSON object, got {type(content).__name__}. {holds}")
    if content.get("version", 1) != 1:
        raise ModelError(f"{path}: format version {content['version']}, this tfseg reads version 1. Update tfseg.")
    return content


def one_of(what: str, value: str, known: Sequence[str]) -> str:
    """Returns ``value`` or raises ModelError listing what is known."""
    if value not in known:
        raise ModelError(f"{what}: unknown {value!r}. Known: {', '.join(sorted(known))}.")
    return value
