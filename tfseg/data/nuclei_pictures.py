"""Pictures of nuclei and pictures of their labels, read as they are or refused: nothing is converted in silence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

from tfseg.types import AnnotationError, SlideError

TIFF = {".tif", ".tiff", ".btf"}
PICTURES = {".png", ".jpg", ".jpeg", ".bmp", *TIFF}
LABEL_PICTURES = {".png", ".npy", ".bmp", *TIFF}
_MODES = {"L": "grey", "LA": "grey", "1": "black and white", "P": "palette", "CMYK": "CMYK", "I;16": "16-bit grey"}
_CONVERT = "Save it as 8-bit RGB."


def read_rgb(path: Path) -> NDArray[np.uint8]:
    """An image of 8-bit RGB; an alpha channel is dropped where all of it is opaque.

    Returns:
        (H, W, 3) uint8.

    Raises:
        SlideError: missing, damaged, transparent somewhere, or not 8-bit RGB (grey, palette, 16-bit, …).
    """
    if not path.is_file():
        raise SlideError(f"{path}: no such image. Each label needs its image; check the name.")
    try:
        pixels, what = _tiff(path) if path.suffix.lower() in TIFF else _picture(path)
    except Exception as error:  # Pillow, tifffile and imagecodecs raise a wide choice of types on damaged data
        raise SlideError(
            f"{path}: not readable as a picture ({error}). Expected 8-bit RGB: PNG, TIFF or JPEG."
        ) from error
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] not in (3, 4) or what:
        found = what or f"{pixels.dtype} of shape {'×'.join(map(str, pixels.shape))}"
        raise SlideError(f"{path}: expected an 8-bit RGB image, found {found}. {_CONVERT}")
    if pixels.shape[2] == 4:
        transparent = int(np.count_nonzero(pixels[..., 3] != 255))
        if transparent:
            raise SlideError(
                f"{path}: {transparent} of {pixels[..., 3].size} pixels are transparent (RGBA), so their colour is not "
                f"certain. {_CONVERT}"
            )
        pixels = pixels[..., :3]
    return np.ascontiguousarray(pixels)


def picture_size(path: Path) -> tuple[int, int]:
    """(H, W) of an image by its header; the pixels are not decoded.

    Raises:
        SlideError: missing or not readable.
    """
    try:
        if path.suffix.lower() in TIFF:
            with tifffile.TiffFile(path) as file:
                page = file.pages[0].aspage()
                return page.imagelength, page.imagewidth
        with Image.open(path) as image:
            return image.height, image.width
    except Exception as error:
        raise SlideError(f"{path}: not readable as a picture ({error}). Expected PNG, TIFF or JPEG.") from error


def read_label_picture(path: Path) -> NDArray[np.integer]:
    """A picture of ids: PNG, TIFF or NPY of one channel and any integer dtype, one id a nucleus, 0 background.

    Returns:
        (H, W), the dtype of the file.

    Raises:
        AnnotationError: missing, damaged, of several channels or pages, of 1 bit (it tells no nuclei apart), or no
            integers.
    """
    if not path.is_file():
        raise AnnotationError(f"{path}: no such label. Each image needs one, of the same name; check the name.")
    try:
        if path.suffix.lower() == ".npy":
            pixels = np.load(path, allow_pickle=False)
        elif path.suffix.lower() in TIFF:
            pixels, _ = _tiff(path, only_page=True)
        else:
            with Image.open(path) as image:
                pixels = np.asarray(image)
    except Exception as error:
        raise AnnotationError(f"{path}: not readable as a label ({error}). Expected PNG, TIFF or NPY.") from error
    if pixels.ndim != 2 or pixels.dtype.kind not in "iu":
        hint = "Label the connected parts of a mask first." if pixels.dtype == bool else "Save the ids as integers."
        raise AnnotationError(
            f"{path}: a label has one channel of integers, one id a nucleus, 0 for background. Found "
            f"{pixels.dtype} of shape {'×'.join(map(str, pixels.shape))}. {hint}"
        )
    return pixels


def _picture(path: Path) -> tuple[NDArray[Any], str | None]:
    """Pixels, and what is wrong with their kind."""
    with path.open("rb") as file:
        head = file.read(26)
    if head[:8] == b"\x89PNG\r\n\x1a\n" and head[24] == 16:  # Pillow would halve it to 8 bit without a word
        return np.empty(0, np.uint8), "16 bit a channel"
    with Image.open(path) as image:
        return np.asarray(image), None if image.mode in ("RGB", "RGBA") else _MODES.get(image.mode, image.mode)


def _tiff(path: Path, only_page: bool = False) -> tuple[NDArray[Any], str | None]:
    """The first page, channels last, and what is wrong with its kind."""
    with tifffile.TiffFile(path) as file:
        if only_page and len(file.pages) > 1:
            raise ValueError(f"it has {len(file.pages)} pages; one is expected")
        page = file.pages[0].aspage()
        pixels = page.asarray()
        if pixels.ndim == 3 and page.planarconfig == tifffile.PLANARCONFIG.SEPARATE:
            pixels = np.moveaxis(pixels, 0, -1)
        return pixels, None if page.photometric in (
            2,
            6,
        ) or only_page else f"{tifffile.PHOTOMETRIC(page.photometric).name} pixels"
