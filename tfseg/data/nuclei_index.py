"""Checks and summary of images with labelled nuclei: every image is loaded once, measured and drawn."""

from __future__ import annotations

import contextlib
import hashlib
import json
import platform
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from skimage.measure import label as connected_parts

import tfseg
from tfseg.data.nuclei import NucleiItem, NucleiOptions, read_nuclei
from tfseg.data.nuclei_overview import draw_nuclei
from tfseg.data.overview import write_png
from tfseg.files import atomic_path, write_json
from tfseg.types import CohortError, OutputError, TfsegError

_TABLE, _SUMMARY, _INDEX = "nuclei.parquet", "summary.csv", "nuclei.json"
_FORMAT, _VERSION, _PART_VERSION = "tfseg-nuclei", 1, 1
_ODD_SIZE, _LEAST_IMAGES = 3.0, 5
"""How many times smaller or larger an image's median nucleus is to be noted, among at least so many images."""
_COLUMNS = (
    *("name", "image", "label", "organ", "split", "height_px", "width_px", "nuclei", "median_area_px", "touching"),
    *("in_pieces", "warnings"),
)


@dataclass(frozen=True)
class NucleiIndex:
    """What a check found.

    Attributes:
        table: one row an image that can be used: name, image and label (paths), organ, split, height_px, width_px,
            nuclei (number), median_area_px (NaN without nuclei), touching and in_pieces (numbers of nuclei, as
            :func:`measure` counts them), warnings (text, "" where there are none) and the manifest's other columns.
        summary: one row an organ and split, and one of all: organ, split, images, broken, nuclei, median_area_px (of
            all its nuclei), touching, in_pieces, with_warnings (images).
        broken: name → why the image cannot be used.
    """

    table: pd.DataFrame
    summary: pd.DataFrame
    broken: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Measures:
    """Nuclei of one image.

    Attributes:
        areas_px: (N,) int64, pixels of nucleus 1 … N.
        touching: ids of nuclei of which a pixel has one of another nucleus among its eight neighbours.
        in_pieces: ids of nuclei that are not connected, by eight neighbours.
    """

    areas_px: NDArray[np.int64]
    touching: NDArray[np.int64]
    in_pieces: NDArray[np.int64]


def measure(labels: NDArray[np.int32]) -> Measures:
    """Sizes and neighbourhoods of the nuclei of labels (H, W) without gaps, 0 background."""
    touching: set[int] = set()
    for one, other in (
        (labels[:, :-1], labels[:, 1:]),
        (labels[:-1], labels[1:]),
        (labels[:-1, :-1], labels[1:, 1:]),
        (labels[:-1, 1:], labels[1:, :-1]),
    ):
        meet = (one != other) & (one > 0) & (other > 0)
        touching.update(one[meet].tolist(), other[meet].tolist())
    parts, first = np.unique(connected_parts(labels, background=0, connectivity=2), return_index=True)
    pieces = np.bincount(labels.ravel()[first[parts > 0]], minlength=1)
    return Measures(np.bincount(labels.ravel())[1:], np.array(sorted(touching), np.int64), np.flatnonzero(pieces > 1))


def index_nuclei(
    source: str | Path,
    out: str | Path,
    options: NucleiOptions | None = None,
    *,
    workers: int = 2,
    skip_broken: bool = False,
    progress: bool = True,
) -> NucleiIndex:
    """Loads every image once, and writes nuclei.parquet, summary.csv, overview/<name>.png and, last, nuclei.json.

    Each image leaves ``parts/<name>.json`` when it is done, so that a stopped run goes on where it stopped; a part is
    used again only if the image's files are the same (path, size, time of change).

    Args:
        source: manifest, COCO JSON or folder, as :func:`tfseg.data.nuclei.read_nuclei` takes it.
        out: folder.
        options: how ``source`` is read.
        workers: images at a time.
        skip_broken: leaves out images that cannot be used and lists them in ``broken`` and nuclei.json.
        progress: shows a bar on the terminal.

    Raises:
        CohortError: images cannot be used; all of them are named, after the others are done. Not with ``skip_broken``,
            unless no image is left. Also where ``source`` cannot be read, or a column has a name that the table gives.
        OutputError: ``out`` cannot be written.
    """
    options, out = options or NucleiOptions(), Path(out)
    items = read_nuclei(source, options)
    _check_columns(source, items)
    done: dict[str, dict[str, Any]] = {}
    broken: dict[str, str] = {}
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not progress) as bar:
        shown = bar.add_task("checking images", total=len(items))
        for name, part, error in _results(items, out, workers):
            if part is not None:
                done[name] = part
            else:
                broken[name] = error
            bar.update(shown, advance=1, description=f"checked {name}" if part is not None else f"broken: {name}")
    broken = {item.name: broken[item.name] for item in items if item.name in broken}
    if broken and not (skip_broken and done):
        names = "\n".join(f"  {name}: {reason}" for name, reason in broken.items())
        raise CohortError(
            f"{source}: {len(broken)} of {len(items)} images cannot be used:\n{names}\n"
            "Mend them or take them away, or leave them out with --skip-broken; finished images are not done again."
        )
    done = _odd_sizes_noted(done)
    index = NucleiIndex(_table(items, done), _summary(items, done), broken)
    with atomic_path(out / _TABLE) as temporary:
        index.table.to_parquet(temporary, index=False)
    with atomic_path(out / _SUMMARY) as temporary:
        index.summary.to_csv(temporary, index=False)
    content = {
        "format": _FORMAT,
        "version": _VERSION,
        "source": str(Path(source).resolve()),
        "options": {**asdict(options), "images": str(options.images.resolve()) if options.images else None},
        "images": len(index.table),
        "broken": broken,
        "versions": {"tfseg": tfseg.__version__, "python": platform.python_version(), "numpy": np.__version__},
    }
    write_json(out / _INDEX, content)
    return index


def indexed_items(folder: str | Path) -> list[NucleiItem]:
    """The items that :func:`index_nuclei` found usable, in their order, from the folder it wrote.

    Raises:
        CohortError: the folder holds no such index, or what it was made of has changed.
    """
    path, hint = Path(folder) / _INDEX, "`tfseg index --nuclei` writes one; run it again."
    if not path.is_file():
        raise CohortError(f"{folder}: no index of nuclei ({_INDEX} is missing). {hint}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content.get("format") != _FORMAT or content.get("version") != _VERSION:
            raise ValueError(f"format {content.get('format')!r}, version {content.get('version')!r}")
        images = content["options"].pop("images")
        options = NucleiOptions(**content["options"], images=Path(images) if images else None)
        names = pd.read_parquet(Path(folder) / _TABLE, columns=["name"])["name"].tolist()
        source = content["source"]
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise CohortError(f"{folder}: the index of nuclei cannot be read ({error}). {hint}") from error
    items = {item.name: item for item in read_nuclei(source, options)}
    if set(names) != items.keys() - content["broken"].keys():
        raise CohortError(f"{folder}: {source} no longer holds the images that were indexed. {hint}")
    return [items[name] for name in names]


def _check_columns(source: str | Path, items: Sequence[NucleiItem]) -> None:
    taken = [column for column in (items[0].values if items else ()) if column in _COLUMNS]
    if taken:
        raise CohortError(
            f"{source}: column {', '.join(map(repr, taken))}: the index has columns so named of its own. Rename yours, "
            f"for example to 'image {taken[0]}'."
        )


def _results(items: Sequence[NucleiItem], out: Path, workers: int) -> Iterator[tuple[str, dict[str, Any] | None, str]]:
    """(name, part or None, what is wrong) as they are done."""
    pool = ThreadPoolExecutor(max(1, workers), "tfseg-nuclei")
    try:
        for future in as_completed([pool.submit(_attempt, item, out) for item in items]):
            yield future.result()
    finally:  # on Ctrl-C images in work are finished, others are not begun
        pool.shutdown(wait=True, cancel_futures=True)


def _attempt(item: NucleiItem, out: Path) -> tuple[str, dict[str, Any] | None, str]:
    """Checks one image; what is wrong with it is returned, what is wrong with ``out`` is raised."""
    try:
        return item.name, _check(item, out), ""
    except OutputError:
        raise
    except TfsegError as error:
        return item.name, None, str(error)
    except Exception as error:  # a damaged file can raise anything from any library; the image is what to name
        return item.name, None, f"{item.image}: {type(error).__name__}: {error}"


def _check(item: NucleiItem, out: Path) -> dict[str, Any]:
    """Measures of one image, from its part where nothing has changed."""
    part, picture = out / "parts" / f"{item.name}.json", out / "overview" / f"{item.name}.png"
    key = _key(item)
    if part.is_file() and picture.is_file():
        with contextlib.suppress(ValueError):  # not JSON: made again
            kept = json.loads(part.read_text(encoding="utf-8"))
            if kept.get("key") == key:
                return kept
    image, labels, warnings = item.load_noted()
    found = measure(labels)
    if len(found.in_pieces):
        y, x = np.argwhere(labels == found.in_pieces[0])[0]
        warnings.append(f"nuclei in several pieces: {len(found.in_pieces)} (one begins at x {x}, y {y})")
    write_png(picture, draw_nuclei(item.name, image, labels, found.touching, found.in_pieces))
    content = {
        "key": key,
        "height_px": labels.shape[0],
        "width_px": labels.shape[1],
        "areas_px": found.areas_px.tolist(),
        "touching": len(found.touching),
        "in_pieces": len(found.in_pieces),
        "warnings": "; ".join(warnings),
    }
    write_json(part, content)
    return content


def _key(item: NucleiItem) -> str:
    """Changes whenever the part would: path, size and time of change of the files."""
    stamps: list[Any] = [_PART_VERSION, item.allow_empty]
    for path in (item.image, *item.labels.files()):
        stat = path.stat() if path.exists() else None
        stamps.append([str(path), stat and stat.st_size, stat and stat.st_mtime_ns])
    return hashlib.sha256(json.dumps(stamps).encode()).hexdigest()


def _odd_sizes_noted(done: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The parts with a further warning where an image's nuclei are of quite another size than the others'.

    Networks take all images at one µm/px, which the files do not say: an image at another magnification is seen by its
    nuclei alone.
    """
    medians = {name: float(np.median(part["areas_px"])) for name, part in done.items() if part["areas_px"]}
    if len(medians) < _LEAST_IMAGES:
        return done
    usual = float(np.median(list(medians.values())))
    noted = dict(done)
    for name, median in medians.items():
        if not usual / _ODD_SIZE <= median <= usual * _ODD_SIZE:
            text = f"median nucleus {median:g} px, of the images {usual:g} px: another magnification?"
            earlier = done[name]["warnings"]
            noted[name] = {**done[name], "warnings": f"{earlier}; {text}" if earlier else text}
    return noted


def _table(items: Sequence[NucleiItem], done: dict[str, dict[str, Any]]) -> pd.DataFrame:
    rows = []
    for item in items:
        if item.name not in done:
            continue
        part = done[item.name]
        values = (item.name, str(item.image), str(item.labels.path), item.organ, item.split)
        areas = part["areas_px"]
        counts = (part["height_px"], part["width_px"], len(areas), float(np.median(areas)) if areas else np.nan)
        rest = (part["touching"], part["in_pieces"], part["warnings"])
        rows.append({**dict(zip(_COLUMNS, (*values, *counts, *rest), strict=True)), **item.values})
    return pd.DataFrame(rows)


def _summary(items: Sequence[NucleiItem], done: dict[str, dict[str, Any]]) -> pd.DataFrame:
    """One row an organ and split, sorted, and one of all."""
    groups: dict[tuple[str, str], list[NucleiItem]] = {}
    for item in items:
        groups.setdefault((item.organ, item.split), []).append(item)
    rows = [(*group, *_totals(members, done)) for group, members in sorted(groups.items())]
    rows.append(("all", "all", *_totals(items, done)))
    counts = ("images", "broken", "nuclei", "median_area_px", "touching", "in_pieces", "with_warnings")
    return pd.DataFrame(rows, columns=["organ", "split", *counts])


def _totals(items: Sequence[NucleiItem], done: dict[str, dict[str, Any]]) -> tuple[Any, ...]:
    parts = [done[item.name] for item in items if item.name in done]
    areas = [area for part in parts for area in part["areas_px"]]
    sums = (sum(part[key] for part in parts) for key in ("touching", "in_pieces"))
    median = float(np.median(areas)) if areas else np.nan
    warned = sum(bool(part["warnings"]) for part in parts)
    return len(parts), len(items) - len(parts), len(areas), median, *sums, warned
