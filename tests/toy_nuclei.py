"""Pictures of dark discs with known labels, and folders of them."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from PIL import Image


def picture(seed: int, side: int = 96) -> tuple[np.ndarray, np.ndarray]:
    """Dark discs on pink that nearly touch."""
    random = np.random.default_rng(seed)
    labels, places = np.zeros((side, side), np.int32), np.empty((0, 2))
    for place in random.integers(8, side - 8, (200, 2)):
        if (np.hypot(*(places - place).T) >= 20).all():
            places = np.vstack([places, place])
            cv2.circle(labels, place.tolist(), 8, len(places), -1)
    colours = np.where(labels[..., None] > 0, (80, 40, 120), (235, 200, 220))
    return (colours + random.integers(-15, 15, colours.shape)).clip(0, 255).astype(np.uint8), labels


def write_folder(folder: Path, organs: tuple[str, ...], side: int = 96) -> Path:
    """images/ORGAN_k.png and labels/ORGAN_k.png, one for each of ``organs``; returns ``folder``."""
    for part in ("images", "labels"):
        (folder / part).mkdir(parents=True)
    for k, organ in enumerate(organs):
        image, labels = picture(k, side)
        Image.fromarray(image).save(folder / "images" / f"{organ}_{k}.png")
        Image.fromarray(labels.astype(np.uint16)).save(folder / "labels" / f"{organ}_{k}.png")
    return folder
