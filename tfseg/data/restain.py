"""Labelled nuclei in stains that nobody labelled: their haematoxylin, among the counterstain of unrelated tissue.

A network that has seen one laboratory's stain takes another's stroma for nuclei, and what it has not seen no change of
hue or contrast brings: the purple H&E of the 2018 Data Science Bowl has next to no eosin. So the haematoxylin of a
labelled picture is shown in a drawn shade, and between its nuclei lies the second stain of a picture without labels,
pink as eosin or brown as DAB, with that picture's own texture. By the law of Beer and Lambert

    I = light · exp(−(h · H + c · C)),

with H and C the colours of both stains (optical density, length 1), h and c their amounts at a pixel:

- h, from the labelled picture: the optical density of red, which haematoxylin absorbs and eosin hardly, above that of
  the background (the 20th percentile outside nuclei), divided by its 99.5th percentile, so that about 1 is a dark
  nucleus, times a drawn strength;
- c, from a random part of another picture: the amount of its second stain by Vahadane's separation
  (:mod:`tfseg.data.stain_separation`) in units of its 99th percentile, times a drawn strength, less inside nuclei, and
  as DAB only in drawn patches, as markers are.

A picture whose nuclei are not darker in red than the rest (fluorescence) stays as it is.

Colours, strengths, scale and patches are drawn from the seed; the ranges are ours. Not imitated: markers of nuclei (ER,
Ki67), whose positive nuclei are brown. Nuclei of the unlabelled picture may show as pale ghosts in its second stain.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from tfseg.data.colour_normalisation import fit
from tfseg.data.nuclei_pictures import PICTURES, read_rgb
from tfseg.data.stain_separation import LIGHT, optical_density, stain_amounts
from tfseg.files import atomic_path
from tfseg.types import CohortError, ModelError, SlideError

HAEMATOXYLIN = (0.65, 0.70, 0.29)
EOSINS = (0.07, 0.99, 0.11), (0.30, 0.78, 0.55)
DAB = (0.27, 0.57, 0.78)
"""Optical densities of red, green and blue: Ruifrok and Johnston (2001), and the orange end of scanned eosins."""

_UNIT = 100.0
"""Of the planes' uint8: so much is the 99th percentile of a picture's second stain."""
_LEAST_CONTRAST = 0.6
"""A picture whose haematoxylin is fainter is taken to have this much: noise is not blown up to nuclei."""
_SPARSITY = 0.01
_ROWS = 512
MAX_OPEN = 64
"""Planes that stay mapped."""
_FORMAT, _PURPOSE = 1, 3


@dataclass(frozen=True)
class Counterstains:
    """The second stain of pictures, of :func:`counterstains`.

    Attributes:
        files: amounts, a NumPy file each, uint8 (H, W); 100 is a picture's 99th percentile.
        digest: changes with the pictures.
    """

    files: tuple[Path, ...]
    digest: str


@dataclass(frozen=True)
class Restain:
    """Shows labelled pictures in other stains.

    Attributes:
        source: of the second stain.
        p: probability that a picture is restained.
        brown: of those, the share with DAB in place of eosin.

    Raises:
        ModelError: p or brown is not from 0 to 1.
    """

    source: Counterstains
    p: float = 0.7
    brown: float = 0.35

    def __post_init__(self) -> None:
        check_probabilities(self.p, self.brown)

    @property
    def key(self) -> tuple[str, float, float]:
        """Changes with what comes out."""
        return self.source.digest, self.p, self.brown

    def __call__(self, image: NDArray[np.uint8], labels: NDArray[np.integer], seed: int) -> NDArray[np.uint8]:
        """The picture, restained or as it is; the same for the same seed.

        Args:
            image: uint8 RGB (H, W, 3).
            labels: integers (H, W), 0 background.
            seed: any integer.

        Returns:
            uint8 RGB (H, W, 3).
        """
        random = np.random.default_rng((seed & (2**64 - 1), _PURPOSE))
        nuclei = labels > 0
        if random.random() >= self.p or not _dark(image, nuclei):
            return image
        shade = _colour(HAEMATOXYLIN, 0.08, random)
        second = self._part(nuclei.shape, random)
        if random.random() < self.brown:
            colour = _colour(DAB, 0.06, random)
            strength, amount, kept = random.uniform(0.4, 1.2), random.uniform(0.3, 2.2), random.uniform(0.0, 0.5)
            second *= _patches(nuclei.shape, random)
        else:
            ends, place = np.array(EOSINS), random.random()
            colour = _colour(ends[0] + place * (ends[1] - ends[0]), 0.05, random)
            strength, amount, kept = random.uniform(0.7, 2.0), random.uniform(0.1, 1.0), random.random()
        inside = cv2.GaussianBlur(nuclei.astype(np.float32), (0, 0), 1.0)
        second *= np.float32(amount) * (1 - np.float32(1 - kept) * inside)
        light = LIGHT * random.uniform(0.85, 1.0) * (1 + random.normal(0, 0.02, 3))
        return compose(haematoxylin(image, nuclei) * np.float32(strength), shade, second, colour, light)

    def _part(self, shape: tuple[int, ...], random: np.random.Generator) -> NDArray[np.float32]:
        """Amounts of a random part of a random plane, 0.7 to 1.6 pixels of it a pixel, turned over at random.

        A plane that is smaller than the part goes on mirrored.
        """
        scale, files = random.uniform(0.7, 1.6), self.source.files
        plane = _mapped(files[random.integers(len(files))])
        sides = np.maximum(1, np.rint(np.array(shape) * scale)).astype(int)
        top, left = random.integers(np.maximum(0, np.array(plane.shape) - sides) + 1)
        down, across = random.choice((-1, 1), 2)
        part = plane[top : top + sides[0], left : left + sides[1]][::down, ::across].astype(np.float32)
        missing = [(0, side - has) for side, has in zip(sides, part.shape, strict=True)]
        part = np.pad(part, missing, mode="symmetric")
        how = cv2.INTER_AREA if scale > 1 else cv2.INTER_LINEAR
        return np.asarray(cv2.resize(part, shape[::-1], interpolation=how) / np.float32(_UNIT), np.float32)


def check_probabilities(p: float, brown: float) -> None:
    """Raises ModelError where one is not from 0 to 1."""
    for name, value in (("p", p), ("brown", brown)):
        if not 0 <= value <= 1:
            raise ModelError(f"restain: {name} is a probability, 0 to 1. Received: {value:g}.")


def compose(
    first: NDArray[np.float32],
    first_colour: NDArray[np.float64],
    second: NDArray[np.float32],
    second_colour: NDArray[np.float64],
    light: NDArray[np.float64],
) -> NDArray[np.uint8]:
    """light · exp(−(first · first_colour + second · second_colour)), rounded and clipped to 0..255.

    Args:
        first, second: amounts (H, W).
        first_colour, second_colour: optical densities of red, green and blue at an amount of 1.
        light: of the empty slide, 0..255, (3,).

    Returns:
        uint8 (H, W, 3).
    """
    density = first[..., None] * np.asarray(first_colour, np.float32)
    density += second[..., None] * np.asarray(second_colour, np.float32)
    return np.rint(np.asarray(light, np.float32) * np.exp(-density)).clip(0, 255).astype(np.uint8)


def haematoxylin(image: NDArray[np.uint8], nuclei: NDArray[np.bool_]) -> NDArray[np.float32]:
    """How much of it each pixel has: 0 the background, about 1 a dark nucleus; see the module's text.

    Args:
        image: uint8 RGB (H, W, 3).
        nuclei: bool (H, W).

    Returns:
        float32 (H, W), not below 0.
    """
    red = image[..., 0]
    outside = red[~nuclei]
    levels = optical_density(np.arange(256, dtype=np.uint8))
    clear = levels[int(np.percentile(outside if outside.size else red, 80))]
    dark = levels[int(np.percentile(red, 0.5))] - clear
    table = np.maximum(levels - clear, 0) / max(float(dark), _LEAST_CONTRAST)
    return np.asarray(table[red], np.float32)


def counterstains(
    pictures: Path, folder: Path, each: Callable[[Sequence[Path]], Iterable[Path]] = iter
) -> Counterstains:
    """The second stain of every picture in a folder, computed once and kept on disk.

    Args:
        pictures: folder of PNG, TIFF or JPEG, 8-bit RGB, of tissue in two stains (H&E), at about the pixel size of the
            labelled pictures; labels are not needed. Nothing is read of folders in it.
        folder: gets a file of one byte a pixel for each, named by the picture's content.
        each: goes through the pictures, for progress.

    Raises:
        CohortError: no picture.
        SlideError: a picture that cannot be read or has no two stains.
        OutputError: ``folder`` cannot be written.
    """
    found = sorted(path for path in Path(pictures).glob("*") if path.suffix.lower() in PICTURES and path.is_file())
    if not found:
        raise CohortError(
            f"{pictures}: no picture to take a counterstain from. Expected a folder of PNG, TIFF or JPEG pictures of "
            "tissue in two stains, such as H&E; they need no labels."
        )
    files = tuple(_plane(path, Path(folder)) for path in each(found))
    return Counterstains(files, hashlib.sha256("".join(file.name for file in files).encode()).hexdigest()[:16])


def _plane(picture: Path, folder: Path) -> Path:
    """The file with a picture's second stain, made where it is missing."""
    try:
        digest = hashlib.sha256(picture.read_bytes()).hexdigest()
    except OSError as error:
        raise SlideError(f"{picture}: cannot be read: {error.strerror or error}.") from error
    made = folder / f"{digest[:32]}-{_FORMAT}.npy"
    if not made.is_file():
        image = read_rgb(picture)
        try:
            stains = dataclasses.asdict(fit(image, "vahadane"))
        except SlideError as error:
            raise SlideError(f"{picture}: {error} Take it out of the folder of counterstains.") from error
        matrix, unit = np.array(stains["stains"]).T, stains["amounts"][1]
        plane = np.empty(image.shape[:2], np.uint8)
        for top in range(0, len(image), _ROWS):
            amounts = stain_amounts(optical_density(image[top : top + _ROWS]), matrix, _SPARSITY)[..., 1]
            plane[top : top + _ROWS] = np.rint(amounts * (_UNIT / unit)).clip(0, 255)
        with atomic_path(made) as temporary, temporary.open("wb") as out:
            np.save(out, plane)
    return made


@functools.lru_cache(MAX_OPEN)
def _mapped(file: Path) -> NDArray[np.uint8]:
    return np.load(file, mmap_mode="r")


def _dark(image: NDArray[np.uint8], nuclei: NDArray[np.bool_]) -> bool:
    """Whether nuclei take more red than the rest, by the medians; where there is only one of the two, they do."""
    red = image[..., 0]
    return not nuclei.any() or bool(nuclei.all()) or bool(np.median(red[nuclei]) < np.median(red[~nuclei]))


def _colour(mean: Sequence[float] | NDArray[np.float64], sd: float, random: np.random.Generator) -> NDArray[np.float64]:
    drawn = np.maximum(np.asarray(mean) / np.linalg.norm(mean) + random.normal(0, sd, 3), 0.02)
    return drawn / np.linalg.norm(drawn)


def _patches(shape: tuple[int, ...], random: np.random.Generator) -> NDArray[np.float32]:
    """Where a marker is: 0..1 (H, W), soft patches about a quarter of the picture wide, over some of it or all."""
    coarse = random.random((4, 4)).astype(np.float32)
    smooth = cv2.resize(coarse, shape[::-1], interpolation=cv2.INTER_CUBIC)
    return np.asarray((smooth - random.uniform(0, 0.6)) * 6, np.float32).clip(0, 1)
