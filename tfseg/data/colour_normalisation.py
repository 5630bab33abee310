"""Colours of one laboratory made those of another: Vahadane, Macenko and Reinhard behind one interface.

>>> normaliser = fit(target, "vahadane")
>>> normalised = normaliser.apply(image)

Stains (Vahadane, Macenko): the light that passes is I = 255 · exp(−S · C), with a matrix S of two stains, its columns
of length 1 in optical density space, and amounts C ≥ 0 a pixel. An image keeps its own amounts, which are its
structure, scaled so that the 99th percentile of each stain is that of the target, and gets the target's S. Glass has
C = 0, so white stays white. What the two stains do not explain of a colour is dropped, as in the papers.

- Vahadane et al., "Structure-preserving color normalization and sparse stain separation for histological images", IEEE
  TMI 35 (2016): S by sparse non-negative matrix factorisation, see
  :func:`tfseg.data.stain_separation.vahadane_stains`.
- Macenko et al., "A method for normalizing histology slides for quantitative analysis", ISBI 2009: S from extreme
  angles, :func:`tfseg.data.stain.stain_matrix` (which loads TensorFlow).
- Reinhard et al., "Color transfer between images", IEEE CG&A 21 (2001): mean and standard deviation of each channel,
  here in CIELAB.

The two stain methods take two stains on white glass for granted. Where glass is grey (below about 220 of 255 it counts
as tissue) or there is one dye alone, they take glass or a shade of the dye for a stain, and may turn nuclei into eosin:
look at the pictures. Reinhard's method has nothing to confuse.

Nothing is drawn at random: pixels are taken at regular steps, so the same image gives the same result.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from tfseg.data.stain_separation import LIGHT, optical_density, stain_amounts, vahadane_stains
from tfseg.files import atomic_path, write_json
from tfseg.types import ModelError, SlideError, one_of

Method = Literal["vahadane", "macenko", "reinhard"]
Image: TypeAlias = NDArray[np.uint8]

TISSUE_DENSITY = 0.15
"""Pixels with a mean optical density, −ln(I / 255) over red, green and blue, above this are tissue."""

_LEAST_TISSUE_PX = 100
_ESTIMATE_PX = 2**17
"""About how many pixels stains are estimated from."""

_AMOUNT_SPARSITY = 0.01
"""λ while the amounts are computed with S given."""

_PERCENTILE = 99
_LEAST_AMOUNT = 0.05
_FORMAT = "tfseg-colour-normalisation"
_VERSION = 1


@dataclass(frozen=True)
class StainNormaliser:
    """The stains of an image, which :meth:`apply` gives to others.

    Attributes:
        method: "vahadane" or "macenko".
        stains: (red, green, blue) of haematoxylin, then of eosin: optical density, length 1.
        amounts: 99th percentile of each stain's amount over the tissue.
    """

    method: str
    stains: tuple[tuple[float, float, float], tuple[float, float, float]]
    amounts: tuple[float, float]

    def apply(self, image: Image, source: StainNormaliser | None = None) -> Image:
        """The image in these stains.

        Args:
            image: uint8 RGB (H, W, 3).
            source: the image's own stains where they are known better than from itself: fitted to the slide that a
                tile was cut from, so that neighbouring tiles get the same colours. None estimates them.

        Returns:
            uint8 RGB (H, W, 3). The image unchanged where there is no tissue (fewer than 100 pixels of it; with
            Macenko also where no two stains can be told apart). A stain that the image hardly has (99th percentile
            below 0.05) keeps its amounts: noise is not blown up.

        Raises:
            ValueError: not uint8 RGB.
        """
        check_image(image)
        own = source or _stains_of(image, self.method)
        if own is None:
            return image
        scale = [new / old if old >= _LEAST_AMOUNT else 1.0 for new, old in zip(self.amounts, own.amounts, strict=True)]
        # float32 is enough for 256 levels, and four times as fast on a field of a million pixels.
        amounts = stain_amounts(optical_density(image), np.array(own.stains).T, _sparsity(self.method))
        density = (amounts * np.array(scale, np.float32)) @ np.array(self.stains, np.float32)
        return np.rint(LIGHT * np.exp(-density)).astype(np.uint8)


@dataclass(frozen=True)
class ReinhardNormaliser:
    """Mean and spread of an image's CIELAB channels, which :meth:`apply` gives to others.

    Attributes:
        mean, sd: of L (0..100), a and b.
        tissue_only: see :func:`fit`.
        method: "reinhard".
    """

    mean: tuple[float, float, float]
    sd: tuple[float, float, float]
    tissue_only: bool = True
    method: str = "reinhard"

    def apply(self, image: Image, source: ReinhardNormaliser | None = None) -> Image:
        """The image with this mean and spread: (Lab − mean of the image) · sd / (sd of the image) + mean.

        With ``tissue_only`` a pixel moves all the way only from an optical density of 0.15 on, and proportionally less
        below: white stays white and no edge appears. Without, glass moves like everything else, as in the paper.

        Args, Raises: as for :meth:`StainNormaliser.apply`.

        Returns:
            uint8 RGB (H, W, 3). Unchanged where ``tissue_only`` and there is no tissue; a channel without any spread is
            only moved.
        """
        check_image(image)
        own = source or _moments_of(image, self.tissue_only)
        if own is None:
            return image
        mean, sd = np.array(own.mean, np.float32), np.array(own.sd, np.float32)
        factor = np.divide(np.array(self.sd, np.float32), sd, out=np.ones(3, np.float32), where=sd > 1e-3)
        lab = (_lab(image) - mean) * factor + np.array(self.mean, np.float32)
        moved = (cv2.cvtColor(lab, cv2.COLOR_LAB2RGB) * 255).clip(0, 255)
        if self.tissue_only:
            share = np.clip(_mean_density(image) / TISSUE_DENSITY, 0, 1)[..., None]
            moved = image + share * (moved - image)
        return np.rint(moved).astype(np.uint8)


Normaliser: TypeAlias = StainNormaliser | ReinhardNormaliser


def fit(target: Image, method: Method = "vahadane", *, tissue_only: bool = True) -> Normaliser:
    """Takes up the colours of a target.

    Args:
        target: uint8 RGB (H, W, 3), any size: a field in which both stains are well seen.
        method: "vahadane", "macenko" or "reinhard".
        tissue_only: of Reinhard: glass counts neither in mean and spread nor is it moved. The others never count it.

    Returns:
        What makes other images look like it; :func:`save_normaliser` keeps it.

    Raises:
        SlideError: too little tissue, or no two stains in it.
        ModelError: no such method.
        ValueError: not uint8 RGB.
    """
    one_of("colour normalisation", method, tuple(METHODS))
    check_image(target)
    fitted = METHODS[method](target, tissue_only)
    if fitted is None or (isinstance(fitted, StainNormaliser) and min(fitted.amounts) < _LEAST_AMOUNT):
        tissue = int((_mean_density(target) > TISSUE_DENSITY).sum())
        raise SlideError(
            f"target of the colour normalisation ({method}): no stains to take up. Expected two stains on at least "
            f"{_LEAST_TISSUE_PX} pixels of tissue (mean optical density above {TISSUE_DENSITY:g}); of "
            f"{target.shape[1]} × {target.shape[0]} pixels {tissue} are tissue. Choose a field full of stained cells."
        )
    return fitted


def normalise_cached(image: Image, normaliser: Normaliser, folder: str | Path) -> Image:
    """``normaliser.apply(image)``, from a folder where it was computed before.

    A file is named after the SHA-256 of the image's pixels and of the target's parameters, so that nothing stale is
    ever read; PNG, so lossless. A file that cannot be decoded is computed and written again.

    Args:
        image: uint8 RGB (H, W, 3).
        normaliser: fitted to the target.
        folder: made where it is missing; may be emptied at any time.

    Raises:
        OutputError: the folder cannot be written.
        ValueError: not uint8 RGB.
    """
    check_image(image)
    parameters = json.dumps([_VERSION, image.shape, dataclasses.asdict(normaliser)], sort_keys=True)
    key = hashlib.sha256(parameters.encode() + np.ascontiguousarray(image).tobytes()).hexdigest()
    path = Path(folder) / f"{key}.png"
    if path.is_file():
        known = cv2.imread(str(path), cv2.IMREAD_COLOR_RGB)
        if known is not None and known.shape == image.shape:
            return np.asarray(known, np.uint8)
    result = normaliser.apply(image)
    done, data = cv2.imencode(".png", cv2.cvtColor(result, cv2.COLOR_RGB2BGR))
    assert done
    with atomic_path(path) as temporary:
        temporary.write_bytes(data.tobytes())
    return result


def save_normaliser(path: str | Path, normaliser: Normaliser) -> None:
    """Writes the parameters as JSON, whole or not at all. Raises OutputError where that cannot be."""
    write_json(path, {"format": _FORMAT, "version": _VERSION, **dataclasses.asdict(normaliser)})


def load_normaliser(path: str | Path) -> Normaliser:
    """Reads what :func:`save_normaliser` wrote. Raises ModelError, naming the file, where it is something else."""
    try:
        content: dict[str, Any] = json.loads(Path(path).read_text(encoding="utf-8"))
        if content.pop("format", None) != _FORMAT or content.pop("version", None) != _VERSION:
            raise ValueError(f'no "format": "{_FORMAT}", "version": {_VERSION}')
        if content["method"] == "reinhard":
            values = {**content, "mean": tuple(content["mean"]), "sd": tuple(content["sd"])}
            return ReinhardNormaliser(**values)
        stains = tuple(tuple(float(v) for v in stain) for stain in content.pop("stains"))
        return StainNormaliser(stains=stains, amounts=tuple(content.pop("amounts")), **content)  # type: ignore[arg-type]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(
            f"{path}: not the parameters of a colour normalisation ({error}). Expected what save_normaliser writes; "
            "fit the target again."
        ) from error


def check_image(image: Image) -> None:
    """Raises ValueError unless ``image`` is uint8 RGB (H, W, 3)."""
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        got = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
        raise ValueError(
            f"expected a uint8 RGB image (H, W, 3). Received: {got}. Drop an alpha channel; scale to 0..255."
        )


def _sparsity(method: str) -> float:
    return _AMOUNT_SPARSITY if method == "vahadane" else 0.0


def _mean_density(image: Image) -> NDArray[np.float32]:
    return np.asarray(optical_density(image).mean(axis=-1))


def _sampled(image: Image) -> Image:
    """Every n-th row and column, about ``_ESTIMATE_PX`` pixels."""
    step = max(1, int(np.ceil(np.sqrt(image.shape[0] * image.shape[1] / _ESTIMATE_PX))))
    return image[::step, ::step]


def _stains_of(image: Image, method: str) -> StainNormaliser | None:
    """None where no two stains can be told apart."""
    density = optical_density(_sampled(image)).reshape(-1, 3)
    density = density[density.mean(axis=1) > TISSUE_DENSITY]
    if len(density) < _LEAST_TISSUE_PX:
        return None
    if method == "vahadane":
        matrix = vahadane_stains(density)
    else:
        from tfseg.data.stain import stain_matrix  # TensorFlow: loaded by those who ask for Macenko alone

        matrix = np.asarray(stain_matrix(_sampled(image)), np.float64)
    amounts = stain_amounts(density, matrix, _sparsity(method))
    strengths = np.percentile(amounts, _PERCENTILE, axis=0)
    if not matrix.any():
        return None
    first, second = (tuple(map(float, stain)) for stain in matrix.T)
    return StainNormaliser(method, (first, second), tuple(map(float, strengths)))  # type: ignore[arg-type]


def _moments_of(image: Image, tissue_only: bool) -> ReinhardNormaliser | None:
    part = _sampled(image)
    lab = _lab(part)[_mean_density(part) > TISSUE_DENSITY] if tissue_only else _lab(part).reshape(-1, 3)
    if tissue_only and len(lab) < _LEAST_TISSUE_PX:
        return None
    mean, sd = lab.mean(axis=0, dtype=np.float64), lab.std(axis=0, dtype=np.float64)
    return ReinhardNormaliser(tuple(mean.tolist()), tuple(sd.tolist()), tissue_only)


def _lab(image: Image) -> NDArray[np.float32]:
    return np.asarray(cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2LAB))


METHODS: dict[str, Callable[[Image, bool], Normaliser | None]] = {
    "vahadane": lambda image, tissue_only: _stains_of(image, "vahadane"),
    "macenko": lambda image, tissue_only: _stains_of(image, "macenko"),
    "reinhard": _moments_of,
}
