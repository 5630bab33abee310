"""Scores Otsu, watershed and the Fiji steps on a folder of nuclei: ``python tools/score_classical.py DIR``."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import tyro

from tfseg.infer.classical import CLASSICAL, fiji
from tfseg.infer.instances import InstanceOptions
from tfseg.metrics.instance_tables import image_table
from tfseg.types import CohortError


def main(folder: tyro.conf.Positional[Path], /, out: Path | None = None, min_area_px: int = 30) -> None:
    """Prints mean AJI, precision over thresholds and F1 at 0.5, of all images and by organ.

    Args:
        folder: ``images/*.png`` and ``labels/*.png`` of the same names; organ = name up to the first "_".
        out: folder for ``classical.csv``, every score of every image; None writes none.
        min_area_px: smaller nuclei are removed.
    """
    paths = sorted((folder / "images").glob("*.png"))
    if not paths:
        raise CohortError(f"{folder}: no images/*.png.")
    options = InstanceOptions(min_area_px=min_area_px)
    systems = {**CLASSICAL, "fiji on haematoxylin": partial(fiji, channel="haematoxylin")}

    def scored() -> Iterator[tuple[dict[str, object], np.ndarray, np.ndarray]]:
        for path in paths:
            image = np.ascontiguousarray(cv2.imread(str(path), cv2.IMREAD_COLOR)[..., ::-1])
            truth = cv2.imread(str(folder / "labels" / path.name), cv2.IMREAD_UNCHANGED)
            for name, method in systems.items():
                yield (
                    {"system": name, "image": path.name, "organ": path.name.split("_")[0]},
                    truth,
                    method(image, options),
                )

    table = image_table(scored())
    shown = ["aji", "map_precision", "map_dsb", "precision 0.50", "recall 0.50", "f1 0.50"]
    print(table.groupby("system", sort=False)[shown].mean().round(4).to_string())
    print(table.pivot_table("aji", "organ", "system", sort=False).round(4).to_string())
    if out:
        out.mkdir(parents=True, exist_ok=True)
        table.to_csv(out / "classical.csv", index=False)


if __name__ == "__main__":
    tyro.cli(main)
