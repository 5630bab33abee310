"""Systems that find nuclei, compared: test images labelled with each, scores, curves and overlays."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import tifffile
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from tfseg.data.nuclei_pictures import read_label_picture
from tfseg.data.nuclei_store import NucleiStore
from tfseg.data.overview import write_png
from tfseg.files import atomic_path, write_json
from tfseg.metrics.instance_plots import ap_curves, hit_overlay
from tfseg.metrics.instance_tables import image_table, write_report
from tfseg.types import CohortError

_NOTE = "predictions.json"


@dataclass(frozen=True)
class NucleiSystem:
    """What finds the nuclei of a picture.

    Attributes:
        label: uint8 RGB (H, W, 3) → labels, integers (H, W), 0 background.
        identity: changes with the network or the settings; labels of another identity are made again.
    """

    label: Callable[[NDArray[np.uint8]], NDArray[np.integer]]
    identity: str


def compare_nuclei(
    test: NucleiStore, systems: Mapping[str, Callable[[], NucleiSystem]], out: str | Path, by: tuple[str, ...]
) -> pd.DataFrame:
    """Makes or trains each system, labels the test images with it, and compares them all; what is finished is kept.

    Writes OUT/predictions/<system>/<image>.tiff (labels, uint32), <image>.overlay.png (hits green, misses red, false
    blue), OUT/scores (see :func:`tfseg.metrics.instance_tables.write_report`, and curves.png, precision over IoU
    thresholds) and OUT/seconds.json.

    Args:
        test: prepared images.
        systems: name → function that makes or trains it.
        out: run folder.
        by: "organ" or columns of the manifest by which scores are grouped.

    Returns:
        the table of scores.csv: one row a system and image.

    Raises:
        CohortError: no test image, or one without a column of ``by``.
    """
    out = Path(out)
    if not test.items:
        raise CohortError(
            "no test image. Hold whole organs out (--split.test-organs), or say test in the column split of a manifest."
        )
    known = [{"image": item.name, "organ": item.organ, **item.values} for item in test.items]
    missing = [column for column in by if any(column not in one for one in known)]
    if missing:
        raise CohortError(f"cannot group by {', '.join(missing)}: the images have {', '.join(known[0])}.")
    file = out / "seconds.json"
    seconds = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    for name, make in systems.items():
        start = time.perf_counter()
        print(f"== {name}", flush=True)
        if _predict(test, make(), out / "predictions" / name, name):
            seconds[name] = round(time.perf_counter() - start, 1)
            write_json(file, seconds)

    def scored() -> Iterator[tuple[dict[str, object], NDArray, NDArray]]:
        for name in systems:
            for k, about in enumerate(known):
                found = read_label_picture(_file(out / "predictions" / name, about["image"]))
                yield {"system": name, **about}, test[k].labels, found

    table = image_table(scored())
    write_report(table, out / "scores", by, within=("system",))
    ap_curves(dict(list(table.groupby("system", sort=False))), out / "scores" / "curves.png")
    return table


def _file(folder: Path, image: str) -> Path:
    return folder / f"{image}.tiff"


def _predict(test: NucleiStore, system: NucleiSystem, folder: Path, name: str) -> bool:
    """Labels the test images; False where that was done before, by the same system."""
    note = folder / _NOTE
    done = {"identity": system.identity, "images": test.keys()}
    if note.is_file() and json.loads(note.read_text(encoding="utf-8")) == done:
        return False
    for k, item in enumerate(track(test.items, name, console=Console(stderr=True))):
        image, truth, _ = test[k]
        labels = system.label(np.array(image))
        with atomic_path(_file(folder, item.name)) as temporary:
            tifffile.imwrite(temporary, labels.astype(np.uint32), compression="zlib")
        write_png(folder / f"{item.name}.overlay.png", hit_overlay(image, truth, labels))
    write_json(note, done)
    return True
