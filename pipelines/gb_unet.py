"""GB U-Net and its rivals: fourteen systems that find nuclei, from images with labelled nuclei to one table.

Lagree et al., "A review and comparison of breast tumor cell nuclei segmentation performances using deep convolutional
neural networks", Sci. Rep. 2021.

    python pipelines/gb_unet.py images --out runs/nuclei --split.test-organs Breast
    python pipelines/gb_unet.py images --out runs/small --small --small-weights FILE --split.test-organs Bladder Colon
    python pipelines/gb_unet.py images --out runs/quick --quick --split.test-organs Breast   # scores mean nothing

IMAGES is whatever `tfseg index --nuclei` takes: a folder with images/ and labels/, MoNuSeg's files, a manifest, COCO.
Whole organs are held out for the test (--split.test-organs), or the column split of a manifest says. GB U-Net and the
ensemble take their three U-Nets from those that are trained on their own. Everything that is finished is taken as it
is, so the same command goes on after a stop.

Writes OUT/index, OUT/prepared (images as they are trained on), OUT/designs/<system> (model folders, with ONNX, for
`tfseg segment --nuclei`), for each system OUT/predictions/<system> (labels, TIFF, uint32; overlays: hits green, misses
red, false blue), and OUT/scores: scores.csv, summary.md (means ± sd, by organ, all nuclei), precision over thresholds
of IoU of all systems in one figure.

`--small` runs the three classical systems and two networks that two cores train in about an hour each, a U-Net with a
border class and a narrow Mask R-CNN: both on MobileNetV2, with colour augmentation and a falling learning rate. They
are none of the paper's.

Hyperparameters default to the paper's section "Training" and each is an option (--help). Expected, from the paper's
breast images of MoNuSeg: AJI 0.536 for GB U-Net, 0.528 for Mask R-CNN, 0.508 for U-Net DenseNet201, 0.340 for Fiji. Not
yet run at full size by us: U-Nets of this size want a GPU.
"""

import dataclasses
import functools
import hashlib
from pathlib import Path
from typing import Any, Literal

import keras
from tyro.conf import Positional

from tfseg.comparison import run_script
from tfseg.data.nuclei import NucleiItem
from tfseg.data.nuclei_index import index_nuclei, indexed_items
from tfseg.data.nuclei_split import NucleiSplit, split_items
from tfseg.data.nuclei_store import NucleiStore
from tfseg.export.onnx import export_onnx
from tfseg.infer.classical import CLASSICAL
from tfseg.infer.instances import InstanceOptions
from tfseg.infer.mask_rcnn import predict_instances
from tfseg.infer.nuclei import label_image
from tfseg.infer.predictors import load_predictor, onnx_predictor
from tfseg.nuclei_comparison import NucleiSystem, compare_nuclei
from tfseg.train.fit import TrainConfig
from tfseg.train.mask_rcnn import MaskRCNNTraining, train_mask_rcnn
from tfseg.train.nuclei import assemble_nuclei, train_nuclei
from tfseg.train.nuclei_data import colours_of
from tfseg.train.nuclei_settings import NormalisationSettings, NucleiSettings, ThresholdSettings
from tfseg.types import ModelSpec

METHODS = {"Otsu": "otsu", "Watershed": "watershed", "Fiji": "fiji"}
ENCODERS = {
    "VGG16": "vgg16",
    "VGG19": "vgg19",
    "ResNet50": "resnet50",
    "ResNet101": "resnet101",
    "ResNet152": "resnet152",
    "DenseNet121": "densenet121",
    "DenseNet201": "densenet201",
    "InceptionV3": "inceptionv3",
}
UNETS = {f"U-Net-{name}": encoder for name, encoder in ENCODERS.items()}
MEMBERS = ("U-Net-VGG19", "U-Net-ResNet101", "U-Net-DenseNet121")
MASK_RCNN = "Mask-R-CNN"
STACKED = {"U-Net-ensemble": "unet_ensemble", "GB-U-Net": "gb_unet"}
SYSTEMS = (*METHODS, *UNETS, MASK_RCNN, *STACKED)
"""The paper's."""
SMALL_UNET, SMALL_RCNN = "U-Net-MobileNetV2", "Mask-R-CNN-MobileNetV2"
SMALL_SYSTEMS = (*METHODS, SMALL_UNET, SMALL_RCNN)
Name = Literal[(*SYSTEMS, SMALL_UNET, SMALL_RCNN)]  # type: ignore[valid-type]

PAPER = NucleiSettings(normalisation=NormalisationSettings("vahadane"))
SMALL = NucleiSettings(
    arguments={"encoder": "mobilenetv2", "freeze_batch_norm": True},
    border_class=True,
    batch_size=4,
    augment="nuclei",
    schedule="cosine",
    instances=InstanceOptions(split="border"),
    threshold=ThresholdSettings(maximise="aji"),
    train=dataclasses.replace(
        PAPER.train, epochs=24, learning_rate=1e-3, patience=None, reestimate_batches=16, save_every_steps=100
    ),
)
NARROW_RCNN = MaskRCNNTraining(
    encoder="mobilenetv2",
    network={"pyramid_width": 64, "rpn_width": 64, "head_width": 256, "before_nms": 1000, "proposals": 300},
    rois=128,
    train=TrainConfig(
        epochs=24, steps_per_epoch=0, validation_steps=None, learning_rate=5e-3, patience=None, save_every_steps=100
    ),
)


def main(
    images: Positional[Path],
    /,
    out: Path,
    systems: tuple[Name, ...] = (),
    small: bool = False,
    quick: bool = False,
    small_weights: str = "imagenet",
    joint: bool = False,
    by: tuple[str, ...] = ("organ",),
    workers: int = 2,
    split: NucleiSplit = NucleiSplit(),  # noqa: B008
    training: NucleiSettings = PAPER,
    mask_rcnn: MaskRCNNTraining = MaskRCNNTraining(),  # noqa: B008
) -> None:
    """Compares systems that find nuclei.

    Args:
        images: images with labelled nuclei, as `tfseg index --nuclei` takes them.
        out: run folder.
        systems: which to run; none takes the paper's, with --small the three classical ones and those on MobileNetV2.
        small: run what two cores train in about an hour each; colours are normalised only where --training says how.
        quick: shrink networks, tiles and training until a run takes minutes; a smoke test.
        small_weights: of MobileNetV2: "imagenet", or a file of Keras' MobileNetV2 without top.
        joint: train GB U-Net's first stage on with the second, instead of keeping it as it is.
        by: "organ" or columns of the manifest by which scores are grouped.
        workers: images at a time.
        split: which images train, validate and test.
        training: how networks are trained; architecture and encoder follow from the system. The systems on MobileNetV2
            have settings of their own, but for what is given here otherwise than the paper's: a value that is the
            paper's cannot be told from none.
        mask_rcnn: what is Mask R-CNN's own, its epochs, batch size and learning rate among it; the same goes for the
            one on MobileNetV2. It computes in float32.
    """
    if (small or quick) and training.normalisation == PAPER.normalisation:
        training = dataclasses.replace(training, normalisation=NormalisationSettings())
    training = dataclasses.replace(training, split=split)
    index_nuclei(images, out / "index", workers=workers)
    run = Run(out, tuple(indexed_items(out / "index")), training, mask_rcnn, small_weights, joint, quick)
    names = systems or (SMALL_SYSTEMS if small else SYSTEMS)
    compare_nuclei(run.test_images(workers), {name: functools.partial(run.make, name) for name in names}, out, by)
    print((out / "scores" / "summary.md").read_text(encoding="utf-8"))


@dataclasses.dataclass(frozen=True)
class Run:
    """How the systems of a run are made."""

    out: Path
    items: tuple[NucleiItem, ...]
    training: NucleiSettings
    mask_rcnn: MaskRCNNTraining
    small_weights: str
    joint: bool
    quick: bool
    trained: dict[str, Path] = dataclasses.field(default_factory=dict)

    @property
    def prepared(self) -> Path:
        """Images as they are trained on, the same for every system."""
        return self.out / "prepared"

    def test_images(self, workers: int) -> NucleiStore:
        """The images held out, with the colours of training."""
        parts = split_items(self.items, self.training.split)
        colours = colours_of(self.out, parts["train"], self.training.normalisation)
        store = NucleiStore(parts["test"], self.prepared, colours, self.training.border)
        store.prepare(workers)
        return store

    def make(self, name: str) -> NucleiSystem:
        """A system, trained where it is not yet."""
        if name in METHODS:
            return NucleiSystem(CLASSICAL[METHODS[name]], f"{METHODS[name]}, {InstanceOptions()}")
        folder = export_onnx(self.train(name)).parent
        return mask_rcnn_system(folder) if name in (MASK_RCNN, SMALL_RCNN) else network_system(folder)

    def train(self, name: str) -> Path:
        """The model folder of a network, its members trained before it."""
        if name in self.trained:
            return self.trained[name]
        folder, settings = self.out / "designs" / name, self.settings(name)
        if name in (MASK_RCNN, SMALL_RCNN):
            train_mask_rcnn(self.items, folder, settings, self.rcnn_settings(name), self.prepared)
        elif name == "U-Net-ensemble":
            assemble_nuclei(self.items, folder, settings, self.prepared)
        else:
            train_nuclei(self.items, folder, settings, self.prepared)
        keras.utils.clear_session()  # the graphs of all networks would fill the memory
        return self.trained.setdefault(name, folder)

    def settings(self, name: str) -> NucleiSettings:
        """How a network is trained; its members are, now."""
        base = self.training
        changes: dict[str, object] = {"arguments": {**base.arguments, "encoder": UNETS.get(name, "")}}
        if name in (SMALL_UNET, SMALL_RCNN):
            base, changes = taken_over(SMALL, base, PAPER), {"weights": self.small_weights}
        elif name in STACKED:
            members = tuple(str(self.train(one)) for one in MEMBERS)
            changes = {"architecture": STACKED[name], "members": members, "weights": None}
            changes["arguments"] = {"joint": self.joint} if name == "GB-U-Net" else {}
        settings = dataclasses.replace(base, **changes)  # type: ignore[arg-type]
        return shrunk(settings) if self.quick else settings

    def rcnn_settings(self, name: str) -> MaskRCNNTraining:
        """What is a Mask R-CNN's own."""
        usual = MaskRCNNTraining()
        own = taken_over(NARROW_RCNN, self.mask_rcnn, usual) if name == SMALL_RCNN else self.mask_rcnn
        return shrunk_rcnn(own) if self.quick else own


def taken_over(small: Any, given: Any, usual: Any) -> Any:
    """Settings of a small network with what was given otherwise than usual, down to single epochs and arguments."""
    if given == usual:
        return small
    if dataclasses.is_dataclass(given):
        names = [one.name for one in dataclasses.fields(given)]
        values = {name: taken_over(*(getattr(one, name) for one in (small, given, usual))) for name in names}
        return dataclasses.replace(small, **values)
    return {**small, **given} if isinstance(given, dict) else given


def shrunk(settings: NucleiSettings) -> NucleiSettings:
    """The same for a smoke run: MobileNetV2, narrow, in the place of every encoder."""
    plain = settings.architecture == "encoder_unet"  # the others take the encoders of their members
    train = dataclasses.replace(
        settings.train, epochs=1, steps_per_epoch=1, validation_steps=1, reestimate_batches=1, patience=None
    )
    rule = dataclasses.replace(settings.threshold, min_recall=0.0, overlap=0.0)
    return dataclasses.replace(
        settings,
        arguments={"alpha": 0.35, "encoder": "mobilenetv2"} if plain else settings.arguments,
        widths=(4, 4, 4, 4, 4),
        weights=None,
        tile_px=64,
        batch_size=2,
        threshold=rule,
        train=train,
    )


def shrunk_rcnn(own: MaskRCNNTraining) -> MaskRCNNTraining:
    """The same for Mask R-CNN."""
    narrow = {"pyramid_width": 4, "rpn_width": 4, "head_width": 4, "before_nms": 20, "proposals": 8, "detections": 4}
    train = dataclasses.replace(own.train, epochs=1, steps_per_epoch=1, validation_steps=1)
    return dataclasses.replace(own, encoder="mobilenetv2", alpha=0.35, network=narrow, rois=6, train=train)


def network_system(folder: Path) -> NucleiSystem:
    """A model folder of a network that labels pixels, with its ONNX."""
    predict, spec = load_predictor(folder)
    return NucleiSystem(lambda image: label_image(predict, spec, image), identity(folder))


def mask_rcnn_system(folder: Path) -> NucleiSystem:
    """A model folder of Mask R-CNN, with its ONNX."""
    predict, spec = onnx_predictor(folder).every_output, ModelSpec.load(folder)
    return NucleiSystem(lambda image: predict_instances(predict, image, spec).labels, identity(folder))


def identity(folder: Path) -> str:
    """Changes with the network and with its spec."""
    return hashlib.sha256((folder / "config.json").read_bytes() + (folder / "model.onnx").read_bytes()).hexdigest()


if __name__ == "__main__":
    run_script(main, __doc__)
