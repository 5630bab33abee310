"""The table of networks, and building, describing, saving and loading them."""

from __future__ import annotations

import functools
import inspect
import math
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras

from tfseg.files import atomic_path, write_json
from tfseg.geometry import field_name
from tfseg.models.attention_unet import agunet, dagunet
from tfseg.models.blocks import float32_policy
from tfseg.models.cd_unet import cd_unet, half_unet
from tfseg.models.deeplab import deeplabv3
from tfseg.models.dmmn import dmmn_m2s, dmmn_m3, dmmn_ms, dmmn_s2
from tfseg.models.double_unet import doubleunet
from tfseg.models.encoder_unet import encoder_unet
from tfseg.models.gb_unet import gb_unet, unet_ensemble
from tfseg.models.hooknet import hooknet
from tfseg.models.mask_rcnn import mask_rcnn
from tfseg.models.multi_level import multi_level
from tfseg.models.patch_classifier import inceptionv3_classifier, mobilenetv2_classifier
from tfseg.models.plain_unet import plain_unet
from tfseg.models.segnet import segnet
from tfseg.models.unet import unet, unet_lr
from tfseg.types import H2G_CLASSES, ClassSpec, InputSpec, ModelError, ModelSpec, one_of

MODELS: dict[str, Callable[..., keras.Model]] = {
    "mobilenetv2_classifier": mobilenetv2_classifier,
    "inceptionv3_classifier": inceptionv3_classifier,
    "unet_lr": unet_lr,
    "unet": unet,
    "agunet": agunet,
    "dagunet": dagunet,
    "doubleunet": doubleunet,
    "segnet": segnet,
    "plain_unet": plain_unet,
    "dmmn_s2": dmmn_s2,
    "dmmn_ms": dmmn_ms,
    "dmmn_m2s": dmmn_m2s,
    "dmmn_m3": dmmn_m3,
    "hooknet": hooknet,
    "encoder_unet": encoder_unet,
    "multi_level": multi_level,
    "deeplabv3": deeplabv3,
    "cd_unet": cd_unet,
    "half_unet": half_unet,
    "unet_ensemble": unet_ensemble,
    "gb_unet": gb_unet,
    "mask_rcnn": mask_rcnn,
}
"""Architecture name → builder. Its defaults are the paper's settings; keyword arguments change them."""

ABOUT: dict[str, tuple[str, str]] = {
    "mobilenetv2_classifier": ("MobileNetV2, mean, Dense 100, Dense C: a patch's class", "H2G-Net, Mob-PW"),
    "inceptionv3_classifier": ("InceptionV3, mean, Dense 100, Dense C: a patch's class", "H2G-Net, Inc-PW"),
    "unet_lr": ("U-Net 8 … 512 with batch norm on the whole slide at low resolution", "H2G-Net, UNet-LR"),
    "unet": ("U-Net 8 … 512 with batch norm on slide and heatmap", "H2G-Net, Mob-PW-UNet"),
    "agunet": ("U-Net 8 … 256, input pyramid, attention gates, a head per level", "H2G-Net, Mob-PW-AGUNet"),
    "dagunet": (
        "U-Net 8 … 256, input pyramid, position and channel attention, a head per level",
        "H2G-Net, Mob-PW-DAGUNet",
    ),
    "doubleunet": ("two U-Nets 8 … 256 in a row, squeeze-and-excitation, ASPP", "H2G-Net, Mob-PW-DoubleUNet"),
    "segnet": ("encoder and decoder 64 … 1024, max-unpooling with stored indices", "Deep Multi-Magnification, SegNet"),
    "plain_unet": ("U-Net 64 … 1024 without batch norm on one field", "Deep Multi-Magnification, U-Net"),
    "dmmn_s2": ("U-Net 64 … 1024 on three fields stacked as 9 channels", "Deep Multi-Magnification, DMMN-S2"),
    "dmmn_ms": ("three encoders 32 … 512, one decoder", "Deep Multi-Magnification, DMMN-MS"),
    "dmmn_m2s": ("three U-Nets 32 … 512, joined before the head", "Deep Multi-Magnification, DMMN-M2S"),
    "dmmn_m3": (
        "three U-Nets 32 … 512, decoders joined wherever their pixels are equal",
        "Deep Multi-Magnification, DMMN-M3",
    ),
    "hooknet": (
        "two U-Nets 16 … 160 without padding, context hooked into the bottleneck",
        "multi-stain multi-level (compared with), HookNet",
    ),
    "encoder_unet": ("U-Net on EfficientNet-B0, or any other encoder", "multi-stain multi-level, base model"),
    "multi_level": (
        "two U-Nets on EfficientNet-B4, all of the context merged into the target by space-to-depth",
        "multi-stain multi-level",
    ),
    "deeplabv3": ("atrous ResNet50, ASPP of 256", "multi-stain multi-level (compared with), DeepLabV3"),
    "cd_unet": ("learned colour deconvolution, U-Net 32 … 512 with batch norm", "CD-UNET"),
    "half_unet": ("U-Net 32 … 512 with batch norm", "CD-UNET (compared with), UNET"),
    "unet_ensemble": ("mean of the U-Nets on VGG19, ResNet101, DenseNet121", "GB U-Net, U-Net Ensemble"),
    "gb_unet": ("a U-Net 16 … 512 behind those on VGG19, ResNet101, DenseNet121, which are frozen", "GB U-Net"),
    "mask_rcnn": ("feature pyramid on ResNet101, proposals, RoIAlign, box and mask heads", "GB U-Net, Mask R-CNN"),
}
"""Architecture name → (structure in a line, paper and design)."""

_GB_UNET_ENCODERS = (
    "vgg16",
    "vgg19",
    "resnet50",
    "resnet101",
    "resnet152",
    "densenet121",
    "densenet201",
    "inceptionv3",
)

VARIANTS: dict[str, tuple[str, dict[str, Any], str, str]] = {
    **{
        f"encoder_unet, {encoder}": (
            "encoder_unet",
            {"size_px": 256, "num_classes": 2, "encoder": encoder},
            f"U-Net on {encoder}",
            f"GB U-Net, U-Net({encoder})",
        )
        for encoder in _GB_UNET_ENCODERS
    },
    "gb_unet, joint": ("gb_unet", {"joint": True}, "the same, all of it trained together", "GB U-Net"),
}
"""What a paper builds of an architecture that has other defaults: name → (architecture, arguments, structure, paper and
design). No names to build by: :func:`build` takes the architecture and the arguments."""

TASKS = {"probabilities": "classification", "segmentation": "segmentation", "instances": "instances"}
"""Main output → the task of a network's spec."""

_NOT_STORED = ("weights",)
"""Arguments that say where the first weights came from: no part of what the network is."""


def build(spec_or_name: ModelSpec | str, **arguments: Any) -> keras.Model:
    """Builds a network with new weights.

    Args:
        spec_or_name: a key of ``MODELS``, or the spec of a trained model (then its arguments hold).
        arguments: of the builder; over a spec, they replace the spec's.

    Raises:
        ModelError: unknown name or argument, or a size that does not fit.
    """
    if isinstance(spec_or_name, ModelSpec):
        name, arguments = spec_or_name.architecture, {**spec_or_name.arguments, **arguments}
    else:
        name = spec_or_name
    builder = MODELS[one_of("architecture", name, tuple(MODELS))]
    try:
        return builder(**arguments)
    except TypeError as error:
        if "argument" not in str(error):
            raise
        raise ModelError(f"{name}: {error}. Received: {', '.join(arguments) or 'no arguments'}.") from error


def describe(
    model: keras.Model,
    architecture: str,
    arguments: dict[str, Any],
    mpp: float | None = None,
    classes: tuple[ClassSpec, ...] = H2G_CLASSES,
    name: str | None = None,
) -> ModelSpec:
    """Makes the spec of a built network.

    Args:
        model: as :func:`build` returned it.
        architecture: key of ``MODELS``.
        arguments: keyword arguments given to the builder.
        mpp: µm/px of the image input; None where the whole slide is resized to the input, and for networks of several
            fields, whose ``mpps`` say it.
        classes: of the last output axis.
        name: what the user calls it; the architecture by default.

    Raises:
        ModelError: the number of classes, or ``mpp``, is not the model's.
    """
    one_of("architecture", architecture, tuple(MODELS))
    channels = model.output[output_names(model)[0]].shape[-1]
    if channels != len(classes):
        raise ModelError(f"{architecture}: the network has {channels} classes, the class table {len(classes)}.")
    mpps = _field_mpps(model, architecture, arguments, mpp)
    shapes = {key: tensor.shape for key, tensor in model.input.items()}
    inputs = tuple(
        InputSpec(key, tuple(shapes[key][1:3]), shapes[key][3], field, "heatmap" if key == "heatmap" else "image")
        for key, field in mpps.items()
    )
    kind = output_names(model)[0]
    classifies = kind == "probabilities"
    dense = kind == "segmentation" and "heatmap" not in mpps and inputs[0].mpp is not None
    output_px = tuple(model.output[output_names(model)[0]].shape[1:3]) if dense else None
    return ModelSpec(
        name=name or architecture,
        architecture=architecture,
        arguments={k: list(v) if isinstance(v, tuple) else v for k, v in arguments.items() if k not in _NOT_STORED},
        task=TASKS[kind],
        inputs=inputs,
        outputs=output_names(model),
        classes=classes,
        stride_px=inputs[0].size_px[0] if classifies else output_px[0] if output_px else None,
        output_px=output_px,
        output_mpp=inputs[0].mpp if dense else None,
    )


def _field_mpps(
    model: keras.Model, architecture: str, arguments: dict[str, Any], mpp: float | None
) -> dict[str, float | None]:
    """Input name → µm/px, in the order of the spec: the target field, its context from fine to coarse, heatmaps."""
    parameter = inspect.signature(MODELS[architecture]).parameters.get("mpps")
    if parameter is None:
        return {name: mpp for name in sorted(model.input, key=lambda name: (name == "heatmap", name))}
    mpps = arguments.get("mpps", parameter.default)
    if mpp is not None and mpp != mpps[0]:
        raise ModelError(f"{architecture}: its fields have {', '.join(map(str, mpps))} µm/px (mpps). Received: {mpp}.")
    return {field_name(field): field for field in mpps}


def output_names(model: keras.Model) -> tuple[str, ...]:
    """Output names, the main one first, deep-supervision heads behind it in their order."""
    return tuple(sorted(model.output, key=lambda name: (len(name), name)))


def save(model: keras.Model, spec: ModelSpec, folder: str | Path) -> Path:
    """Writes ``model.keras`` and ``config.json`` to ``folder``, each whole or not at all.

    What is written is the network rebuilt from the spec in float32, with the model's weights: so the spec is known to
    fit, and neither the optimiser nor the precision policy of the training gets into the file.

    Raises:
        ModelError: the weights do not fit the spec.
        OutputError: the folder cannot be written.
    """
    folder = Path(folder)
    with float32_policy():
        clean = build(spec)
    try:
        clean.set_weights(model.get_weights())
    except ValueError as error:
        raise ModelError(f"{folder}: the model's weights do not fit its spec ({spec.architecture}). {error}") from error
    check(clean, spec, folder)
    with atomic_path(folder / "model.keras") as temporary:
        clean.save(temporary)
    write_json(folder / "config.json", spec.to_dict())
    return folder


def load(folder: str | Path) -> tuple[keras.Model, ModelSpec]:
    """Reads what :func:`save` wrote; needs no code from the user.

    Raises:
        ModelError: config.json or model.keras is missing or unreadable, or they do not belong together.
    """
    folder = Path(folder)
    spec = ModelSpec.load(folder)
    path = folder / "model.keras"
    if not path.is_file():
        exported = ", ".join(sorted(file.name for file in folder.glob("*.onnx")))
        hint = (
            f" {folder} holds {exported}, which is exported already; this needs the Keras network." if exported else ""
        )
        raise ModelError(
            f"{path}: no such file. Expected the Keras network beside config.json, as tfseg saves it.{hint}"
        )
    try:
        model = keras.saving.load_model(path, compile=False)
    except (ValueError, TypeError, OSError, KeyError, zipfile.BadZipFile) as error:
        raise ModelError(f"{path}: not a Keras network that tfseg can load. {error}") from error
    check(model, spec, folder)
    return model, spec


def check(model: keras.Model, spec: ModelSpec, where: str | Path) -> None:
    """Raises ModelError, naming ``where``, unless inputs, sizes, outputs and classes of the model are the spec's."""
    if not isinstance(model.input, dict) or not isinstance(model.output, dict):
        raise ModelError(f"{where}: the network's inputs and outputs must be named. Build it with tfseg.models.build.")
    has = {name: tuple(tensor.shape[1:]) for name, tensor in model.input.items()}
    wants = {i.name: (*i.size_px, i.channels) for i in spec.inputs}
    if has != wants:
        raise ModelError(f"{where}: the network's inputs {has} are not those of config.json {wants} (H, W, channels).")
    if set(model.output) != set(spec.outputs):
        raise ModelError(
            f"{where}: the network's outputs {sorted(model.output)} are not those of config.json "
            f"{sorted(spec.outputs)}."
        )
    *size, channels = model.output[spec.outputs[0]].shape[1:]
    if spec.output_px is not None and tuple(size) != spec.output_px:
        raise ModelError(f"{where}: the network's output is {tuple(size)} px, that of config.json {spec.output_px}.")
    if channels != len(spec.classes):
        raise ModelError(f"{where}: the network has {channels} classes, config.json {len(spec.classes)}.")


@functools.cache
def count(name: str) -> tuple[int, int]:
    """(all, trainable) parameters of an architecture at its paper's settings, or of a variant, by building it."""
    architecture, arguments = VARIANTS[name][:2] if name in VARIANTS else (name, {})
    model = build(architecture, **arguments)
    return model.count_params(), sum(math.prod(weight.shape) for weight in model.trainable_weights)


def table(variants: bool = False, begun: Callable[[str, int, int], None] | None = None) -> list[dict[str, str | int]]:
    """One row an architecture at its paper's settings: name, total, trainable (parameters), structure, paper.

    Args:
        variants: rows of ``VARIANTS`` below.
        begun: called with the name of each architecture, how many are done and how many there are: all take minutes.
    """
    about = {**ABOUT, **({name: one[2:] for name, one in VARIANTS.items()} if variants else {})}
    rows: list[dict[str, str | int]] = []
    for done, (name, (structure, paper)) in enumerate(about.items()):
        if begun is not None:
            begun(name, done, len(about))
        total, trainable = count(name)
        rows.append({"name": name, "total": total, "trainable": trainable, "structure": structure, "paper": paper})
    return rows
