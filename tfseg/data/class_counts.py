"""How many annotated pixels of each class there are to learn from: for class weights and for balancing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tfseg.files import write_json
from tfseg.types import ClassSpec, CohortError

COUNTS_FILE = "class_counts.json"
_HINT = "`tfseg index --kind dense` makes one."


def pixel_column(class_name: str) -> str:
    """Name of the column that holds a window's annotated pixels of a class."""
    return f"pixels {class_name}"


def window_counts(table: pd.DataFrame, classes: Sequence[ClassSpec]) -> NDArray[np.int64]:
    """Annotated target pixels by window and class, int64 (N, C).

    Its sum over windows is N_c; with elastic copies in the table (``tfseg.data.balance.expand``) each counts, as in
    the DMMN paper. What ``tfseg.losses.class_weights`` takes.

    Raises:
        CohortError: the table has no such columns: it is of a classifier's patches.
    """
    columns = [pixel_column(spec.name) for spec in classes]
    missing = [column for column in columns if column not in table.columns]
    if missing:
        raise CohortError(
            f"no column {missing[0]!r}: this is no index of windows for segmentation. "
            f"Columns: {', '.join(map(str, table.columns))}. {_HINT}"
        )
    return table[columns].to_numpy(np.int64)


def class_counts(table: pd.DataFrame, classes: Sequence[ClassSpec]) -> dict[str, Any]:
    """Counts over the rows of a table.

    Returns:
        windows: their number; pixels: by class name, N_c; pixels_where_present: by class name, the annotated pixels of
        all classes in those windows in which the class occurs (the denominator of the median-frequency rule).

    Raises:
        CohortError: as :func:`window_counts`.
    """
    counts = window_counts(table, classes)
    present = (counts.sum(axis=1, keepdims=True) * (counts > 0)).sum(axis=0)
    names = [spec.name for spec in classes]
    return {
        "windows": len(table),
        "pixels": dict(zip(names, counts.sum(axis=0).tolist(), strict=True)),
        "pixels_where_present": dict(zip(names, present.tolist(), strict=True)),
    }


def write_class_counts(table: pd.DataFrame, classes: Sequence[ClassSpec], folder: Path) -> None:
    """Writes ``class_counts.json``: :func:`class_counts` of every split."""
    splits = sorted(table["split"].unique())
    write_json(folder / COUNTS_FILE, {s: class_counts(table[table["split"] == s], classes) for s in splits})


def read_class_counts(folder: str | Path, split: str = "train") -> dict[str, Any]:
    """:func:`class_counts` of a split as they were counted when the index was made.

    Raises:
        CohortError: the folder has no such file, it is of another index, or has no such split.
    """
    path = Path(folder) / COUNTS_FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CohortError(f"{path}: cannot be read ({error}). No index of windows? {_HINT}") from error
    index = json.loads(beside.read_text(encoding="utf-8")) if (beside := path.with_name("index.json")).is_file() else {}
    counted = sum(one["windows"] for one in content.values())
    if index and (index.get("kind") != "dense" or index["patches"] != counted):
        raise CohortError(
            f"{path}: counts {counted} windows, but the index beside it holds {index['patches']} "
            f"{'windows' if index.get('kind') == 'dense' else 'patches of a classifier'}. {_HINT}"
        )
    if split not in content:
        raise CohortError(f"{path}: no windows in split {split!r}. Splits with windows: {', '.join(content)}.")
    return content[split]
