"""The pixel size of a slide and where it was found."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from xml.etree import ElementTree

from tfseg.types import MppError

GIVEN = "given (--mpp)"
ASSUMED = "assumed"
"""Nobody said it: taken as a network's µm/px. What is measured in µm is no more certain than that."""
PLAUSIBLE_MPP = (0.02, 50.0)
"""A slide's pixel size in µm/px; the 72 dpi that programs write without knowing is 353."""
SQUARE_TOLERANCE = 0.01

_HOW = (
    "Give it with `tfseg segment --mpp`, in Python with mpp=, or as a column `mpp` of the manifest, in µm per pixel "
    "(40x is about 0.25)."
)
_UM_PER_UNIT = {
    "m": 1e6, "dm": 1e5, "cm": 1e4, "mm": 1e3, "µm": 1.0, "μm": 1.0, "um": 1.0, "nm": 1e-3, "pm": 1e-6, "Å": 1e-4,
    "in": 25400.0, "inch": 25400.0, "centimeter": 1e4,
}  # fmt: skip


def check_given(mpp: float, name: str) -> float:
    """``mpp`` as a float, or MppError naming the slide."""
    if not (isinstance(mpp, (int, float)) and math.isfinite(mpp) and mpp > 0):
        raise MppError(f"{name}: the given mpp must be a number above 0, in µm/px. Received: {mpp!r}.")
    low, high = PLAUSIBLE_MPP
    if not low <= mpp <= high:
        raise MppError(
            f"{name}: the given mpp of {mpp:g} µm/px is no slide's, {low:g} to {high:g} are plausible (40x is about "
            "0.25). Is it in nanometres, or a magnification?"
        )
    return float(mpp)


def find_mpp(
    properties: Mapping[str, str], name: str, given: float | None = None, assumed: float | None = None
) -> tuple[float, str]:
    """Pixel size of a file and its source.

    In this order: ``given``; openslide.mpp-x and -y; aperio.MPP; PhysicalSizeX and -Y of OME-XML in
    tiff.ImageDescription or openslide.comment; tiff.XResolution, -YResolution with tiff.ResolutionUnit. Values
    outside 0.02..50 µm/px are passed over, since many programs write 72 dpi or 1 px without knowing. Last ``assumed``.

    Returns:
        (µm/px, source). Where x and y differ by up to 1 %, their mean.

    Raises:
        MppError: none is found and none is assumed, or the pixels are not square.
    """
    if given is not None:
        return check_given(given, name), GIVEN
    rejected = []
    for source, x, y in _candidates(properties):
        if not all(PLAUSIBLE_MPP[0] <= side <= PLAUSIBLE_MPP[1] for side in (x, y)):
            rejected.append(f"{source} says {x:g} µm/px")
            continue
        if abs(x - y) > SQUARE_TOLERANCE * max(x, y):
            raise MppError(
                f"{name}: pixels are not square: {x:g} × {y:g} µm ({source}). Expected both within 1 %. "
                f"Resample the slide, or override both. {_HOW}"
            )
        return (x if x == y else (x + y) / 2), source
    if assumed is not None:
        return check_given(assumed, name), ASSUMED
    low, high = PLAUSIBLE_MPP
    found = f" ({'; '.join(rejected)}: not plausible, {low:g}..{high:g} expected)" if rejected else ""
    raise MppError(f"{name}: the file does not say its pixel size{found}. {_HOW}")


def find_objective_power(properties: Mapping[str, str]) -> float | None:
    """Magnification of the objective from openslide.objective-power, aperio.AppMag or OME NominalMagnification."""
    for key in ("openslide.objective-power", "aperio.AppMag"):
        power = _number(properties.get(key))
        if power is not None and power > 0:
            return power
    for root in _ome(properties):
        for element in root.iter():
            power = _number(element.get("NominalMagnification"))
            if power is not None and power > 0:
                return power
    return None


def _candidates(properties: Mapping[str, str]) -> Iterator[tuple[str, float, float]]:
    """(source, µm/px in x, in y) of everything that the properties say, best first."""
    x, y = _number(properties.get("openslide.mpp-x")), _number(properties.get("openslide.mpp-y"))
    if x is not None or y is not None:
        yield "openslide.mpp-x" if x is not None else "openslide.mpp-y", _either(x, y), _either(y, x)
    aperio = _number(properties.get("aperio.MPP"))
    if aperio is not None:
        yield "aperio.MPP", aperio, aperio
    for root in _ome(properties):
        pixels = next((e for e in root.iter() if e.tag.rpartition("}")[2] == "Pixels"), None)
        if pixels is not None:
            x, y = (_ome_size(pixels, axis) for axis in "XY")
            if x is not None or y is not None:
                yield "OME PhysicalSizeX", _either(x, y), _either(y, x)
    unit = _UM_PER_UNIT.get(properties.get("tiff.ResolutionUnit", "").lower())
    x, y = _number(properties.get("tiff.XResolution")), _number(properties.get("tiff.YResolution"))
    if unit and (x or y):
        yield "TIFF resolution", unit / _either(x or None, y), unit / _either(y or None, x)


def _either(first: float | None, second: float | None) -> float:
    """The first that is there; one of them is."""
    return first if first is not None else float(second or 0)


def _number(text: str | None) -> float | None:
    """A finite float, or None; a comma counts as decimal point, as some scanners' locales write it."""
    try:
        value = float((text or "").strip().replace(",", "."))
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _ome(properties: Mapping[str, str]) -> Iterator[ElementTree.Element]:
    """Parsed OME-XML of the description, if it is that."""
    for key in ("tiff.ImageDescription", "openslide.comment"):
        text = properties.get(key, "")
        if re.search(r"<(\w+:)?OME[\s>]", text[:2000]):
            try:
                yield ElementTree.fromstring(text.strip().encode("utf-8"))
            except ElementTree.ParseError:
                continue
            return


def _ome_size(pixels: ElementTree.Element, axis: str) -> float | None:
    """PhysicalSizeX or -Y in µm; OME's default unit is µm, and a unit that is no length (pixel) tells nothing."""
    size = _number(pixels.get(f"PhysicalSize{axis}"))
    unit = _UM_PER_UNIT.get(pixels.get(f"PhysicalSize{axis}Unit", "µm"))
    return None if size is None or unit is None else size * unit
