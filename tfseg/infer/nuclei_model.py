"""Networks of nuclei as `tfseg segment --nuclei` takes them: a model folder, or the network that comes with tfseg."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import tfseg
from tfseg.infer.dense_options import DenseOptions
from tfseg.infer.instance_outputs import DAB_STAINS, HE_STAINS
from tfseg.infer.instances import InstanceOptions
from tfseg.infer.mask_rcnn import InstancePredictor, PasteOptions, field_px, tile_px
from tfseg.infer.networks import DenseModel, is_dense, load_network
from tfseg.infer.nuclei import nuclei_options, stride_of
from tfseg.infer.outputs import OutputOptions
from tfseg.infer.predictors import Engine
from tfseg.slides.base import Slide
from tfseg.types import COLOURS, NUCLEI_CLASSES, ModelError, one_of, read_config

DEFAULT_MODEL = "nuclei_mobilenetv2"
STAINS: Mapping[str, Mapping[str, Sequence[float]]] = {"he": HE_STAINS, "dab": DAB_STAINS}
_UNUSED_DENSE = ("background", "thresholds", "below")
_UNUSED_OUTPUTS = ("mask_mpp", "tissue_only", "probability", "min_area_um2")


@dataclass(frozen=True)
class FindingOptions:
    """How nuclei are found and measured.

    Attributes:
        stains: whose optical density is measured over each nucleus: "he" haematoxylin and eosin, "dab" haematoxylin
            and DAB.
        overlap_px: pixels of the network that tiles share when instances are made; larger nuclei are cut into pieces.
    """

    stains: Literal["he", "dab"] = "he"
    overlap_px: int = 128

    def check(self) -> None:
        """Raises ModelError for values that cannot be."""
        one_of("--stains", self.stains, tuple(STAINS))
        if self.overlap_px < 1:
            raise ModelError(f"--overlap-px {self.overlap_px}: expected 1 or more, more than the largest nucleus.")

    def changed(self) -> list[str]:
        """Names of the settings that are not the defaults."""
        usual = asdict(FindingOptions())
        return [name for name, value in asdict(self).items() if value != usual[name]]


class View(Protocol):
    """Gives slides the colours that a network was trained on; ``tfseg.data.slide_colours.SlideColours``."""

    def __call__(self, slide: Slide) -> Slide: ...

    def describe(self) -> dict[str, Any]:
        """What it does, for the summary."""
        ...


@dataclass(frozen=True)
class NucleiModel(DenseModel):
    """A loaded network of nuclei.

    Attributes:
        network, folder: as of any dense network.
        how: stains and tiles.
        view: gives slides the colours of training, where those were normalised.

    Raises:
        ModelError: not a dense network of nuclei whose config.json says how its output becomes instances.
    """

    how: FindingOptions = field(default_factory=FindingOptions)
    view: View | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        nuclei_options(self.network.spec, str(self.folder or ""))
        self.how.check()

    @property
    def mpp(self) -> float:
        """µm/px at which it looks for nuclei."""
        assert self.network.spec.output_mpp is not None
        return self.network.spec.output_mpp

    @property
    def stride_px(self) -> int:
        """From a tile to the next: half a tile."""
        return stride_of(self.network.spec)

    @property
    def overlap_px(self) -> int:
        """What tiles share in which instances are made."""
        return self.how.overlap_px

    def settings(self, options: DenseOptions) -> dict[str, Any]:
        """What decides about the results, for the summary."""
        how = {**asdict(self.how), "overlap_px": self.overlap_px}
        own = {"nuclei": how, "instances": asdict(self.instances(options))}
        colours = {} if self.view is None else {"colours": self.view.describe()}
        return {**super().settings(options), **own, **colours}

    def instances(self, options: DenseOptions) -> InstanceOptions:
        """How the output becomes instances: the network's own way, with another threshold where one is given."""
        own = nuclei_options(self.network.spec)
        return replace(own, threshold=options.threshold) if options.threshold else own

    def check(self, options: DenseOptions) -> None:
        """Raises ModelError for options that this network would pass over without a word."""
        return None


@dataclass(frozen=True)
class MaskRCNNModel(NucleiModel):
    """A loaded Mask R-CNN, which draws instances itself.

    Attributes:
        network: one whose ``predict`` has ``every_output``.

    Raises:
        ModelError: not a network of the task instances whose classes are background and nucleus.
    """

    def __post_init__(self) -> None:
        spec = self.network.spec
        field_px(spec)
        names = [one.name for one in spec.classes]
        if names != [one.name for one in NUCLEI_CLASSES] or not spec.inputs[0].mpp:
            raise ModelError(
                f"{self.folder or spec.name}: not a network of nuclei. Expected the classes background and nucleus, "
                f"and an input with an mpp. Received: {', '.join(names)}, {spec.inputs[0].mpp} µm/px."
            )
        self.how.check()

    @property
    def mpp(self) -> float:
        """µm/px at which it looks for nuclei."""
        assert self.network.spec.inputs[0].mpp is not None
        return self.network.spec.inputs[0].mpp

    @property
    def stride_px(self) -> int:
        """From a field to the next: half a field."""
        return field_px(self.network.spec) // 2

    @property
    def overlap_px(self) -> int:
        """What fields share, their outermost pixels not counted."""
        return tile_px(self.network.spec) - self.stride_px

    @property
    def find(self) -> InstancePredictor:
        """The network with all its outputs."""
        return self.network.predict.every_output  # type: ignore[attr-defined, no-any-return]

    def instances(self, options: DenseOptions) -> PasteOptions:  # type: ignore[override]
        """How detections become instances: from the spec's threshold on, or another where one is given."""
        return PasteOptions(threshold=options.threshold or self.network.spec.threshold)

    def check(self, options: DenseOptions) -> None:
        """Raises ModelError for what is given with its fields: stride, overlap, and mirroring at the edges."""
        given = {
            "--stride-px": options.stride_px is not None,
            "--border": options.border not in (None, "reflect"),
            "--overlap-px": "overlap_px" in self.how.changed(),
        }
        named = ", ".join(name for name, wrong in given.items() if wrong)
        if named:
            raise ModelError(
                f"{self.network.spec.name}: {named}: Mask R-CNN's fields follow each other by half and are mirrored at "
                "the slide's edges. Leave out what is named."
            )


def load_nuclei_model(
    folder: str | Path | None = None,
    how: FindingOptions | None = None,
    engine: Engine = "onnxruntime",
    threads: int | None = None,
    view: View | None = None,
) -> NucleiModel:
    """A network of nuclei.

    Args:
        folder: of the model; None takes the one that comes with tfseg.
        how: stains and tiles.
        engine, threads: as of :func:`tfseg.infer.predictors.load_predictor`.
        view: the colours of training, which ``tfseg.data.slide_colours.read_colours`` reads from the folder.

    Raises:
        ModelError: files are missing, it is not a network of nuclei, or it wants normalised colours and gets none.
    """
    folder = default_model() if folder is None else Path(folder)
    if read_config(folder / "config.json").get("task") == "instances":
        kind: type[NucleiModel] = MaskRCNNModel
    elif is_dense(folder):
        kind = NucleiModel
    else:
        raise ModelError(
            f"{folder}: not a network of nuclei. Expected a dense network (task segmentation, an input with an mpp) or "
            "Mask R-CNN (task instances), found a cascade, a classifier or a network on whole slides. Leave out "
            "--nuclei, or --model to take the network that comes with tfseg."
        )
    if view is None and (folder / COLOURS).is_file():
        raise ModelError(
            f"{folder}: the network was trained on pictures with normalised colours ({COLOURS}) and would find other "
            "nuclei without. `tfseg segment --nuclei` normalises by itself; from Python give "
            "view=tfseg.data.slide_colours.read_colours(folder)."
        )
    return kind(load_network(folder, engine, threads), folder, how or FindingOptions(), view)


def default_model() -> Path:
    """Folder of the network of nuclei that comes with tfseg: within the installed package, or beside it in a checkout.

    Raises:
        ModelError: it is in neither place.
    """
    package = Path(tfseg.__file__).resolve().parent
    places = [parent / "saved_models" / DEFAULT_MODEL for parent in (package, package.parent)]
    for place in places:
        if (place / "config.json").is_file():
            return place
    raise ModelError(
        f"the network of nuclei that comes with tfseg, {DEFAULT_MODEL}, is missing: neither {places[0]} nor "
        f"{places[1]} is there. Install tfseg again, or give the folder of another with --model."
    )


def check_options(dense: DenseOptions, outputs: OutputOptions) -> None:
    """Raises ModelError for options that a segmentation of nuclei would pass over without a word."""
    usual = {**asdict(DenseOptions()), **asdict(OutputOptions())}
    given = {name: getattr(dense, name) for name in _UNUSED_DENSE}
    given |= {name: getattr(outputs, name) for name in _UNUSED_OUTPUTS}
    named = [f"--{name.replace('_', '-')}" for name, value in given.items() if value != usual[name]]
    if named:
        raise ModelError(f"--nuclei has no {', '.join(named)}: that is for masks of classes. Leave out what is named.")
    if not 0 <= dense.threshold <= 1:
        raise ModelError(f"--threshold {dense.threshold:g}: expected a probability of nucleus, above 0 and at most 1.")
