"""What FAST's text pipelines (.fpl) are made of, whatever runs in them. The syntax is measured; see docs/fast.md."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from pathlib import Path

from tfseg.types import ClassSpec, ExportError

FLAVOURS = {"viewer": "fastpathology.fpl", "headless": "headless.fpl"}
"""Flavour → file in the model's folder."""

ENGINES = ("OpenVINO", "ONNXRuntime", "TensorRT")

GATED_MASK = {"threshold": 25, "mask-threshold": 0.02}
"""FAST's tissue test set low: only patches of clean glass are left out."""

PLAIN_THRESHOLD = 35
"""FAST's distance from white that comes nearest to a saturation of 20, for classifiers without a gate."""

Block = tuple[str, list[str]]
"""First line of a block, and its attributes and inputs in order."""


def check_choice(what: str, value: str, known: Collection[str]) -> None:
    """Raises ExportError unless ``value`` is one of ``known``."""
    if value not in known:
        raise ExportError(f"{what}: unknown {value!r}. Known: {', '.join(known)}.")


def model_path(network: Path, pipeline: Path) -> str:
    """A network's file as a pipeline names it, relative to itself, so that both can be moved together."""
    relative = os.path.relpath(network.resolve(), pipeline.parent.resolve()).replace(os.sep, "/")
    return f'"$CURRENT_PATH$/{relative}"'


def label_colors(classes: Sequence[ClassSpec]) -> str:
    """Class index and colour of all classes but 0."""
    return " ".join(f'"{n}" "{";".join(map(str, c.color))}"' for n, c in enumerate(classes) if n)


def plain(text: str) -> str:
    """Text without the characters that the syntax gives a meaning to."""
    return text.translate(str.maketrans('";\n@$', "',   "))


def block_text(block: Block) -> str:
    """A block as it stands in the file."""
    return "\n".join([block[0], *block[1]]) + "\n"
