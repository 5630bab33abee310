"""Elastic class balancing: windows of rare classes count several times, each copy deformed; nothing is stored."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from tfseg.data.class_counts import window_counts
from tfseg.data.index import BALANCE_PICTURE, BALANCE_TABLE, ELASTIC_COPY, PatchIndex
from tfseg.data.index_config import class_order
from tfseg.data.index_labels import window_classes
from tfseg.files import atomic_path
from tfseg.slides.class_table import ClassTable
from tfseg.types import ClassSpec, CohortError

TISSUE_RATES: dict[str, int] = {
    "carcinoma": 2,
    "benign epithelial": 10,
    "background": 1,
    "stroma": 0,
    "necrotic": 3,
    "adipose": 0,
}
"""r_c of the DMMN paper, section 3: deformed copies of a window by its class."""
TISSUE_ORDER = ("benign epithelial", "carcinoma", "necrotic", "background")
"""Class order of the DMMN paper, first the one that wins."""


def expand(index: PatchIndex, rates: Mapping[str, int], order: Sequence[str] = ()) -> PatchIndex:
    """The index with every window as often as class balancing wants it.

    A window belongs to the first class of ``order`` that occurs in it, else to the class of most of its pixels; it is
    followed by r_c rows of the same place, told apart by the column ``elastic_copy``. DMMN, section 2.3.

    Args:
        index: windows for segmentation.
        rates: r_c by class name; classes that are not named have 0.
        order: class names, first the one that wins; none takes every window by majority.

    Returns:
        an index whose table has the column ``elastic_copy``, and class and class_index by ``order``; the other columns
        are repeated.

    Raises:
        CohortError: a rate is no whole number of 0 or more, a name is no class, or the index holds no windows.
    """
    names = [spec.name for spec in index.classes]
    class_order(tuple(rates), index.labels)
    wrong = {name: rate for name, rate in rates.items() if rate != int(rate) or rate < 0}
    if wrong:
        raise CohortError(f"rates of elastic copies are whole numbers, 0 or more. Received: {wrong}.")
    classes = window_classes(window_counts(index.table, index.classes), class_order(order, index.labels))
    copies = np.array([1 + int(rates.get(name, 0)) for name in names])[classes]
    rows = np.repeat(np.arange(len(index.table)), copies)
    table = index.table.iloc[rows].reset_index(drop=True)
    table["class_index"] = classes[rows].astype(np.uint8)
    table["class"] = np.array(names, object)[classes[rows]]
    firsts = np.repeat(np.cumsum(copies) - copies, copies)
    table[ELASTIC_COPY] = (np.arange(len(rows)) - firsts).astype(np.int32)
    return replace(index, table=table)


def read_rates(words: Sequence[str], classes: ClassTable) -> tuple[dict[str, int], tuple[str, ...]]:
    """(rates, order) from words CLASS=COPIES, first the class that wins; ("dmmn",) takes the paper's.

    Raises:
        CohortError: a word of another form, of no class, or of a class that stood before.
    """
    order: tuple[str, ...] = TISSUE_ORDER
    rates = dict(TISSUE_RATES)
    if tuple(words) != ("dmmn",):
        rates = {}
        for word in words:
            name, _, copies = word.rpartition("=")
            if not name or not copies.isdecimal():
                raise CohortError(f"elastic copies {word!r}: expected CLASS=COPIES, as carcinoma=2, or dmmn alone.")
            if name in rates:
                raise CohortError(f"elastic copies {word!r}: class {name!r} stands twice. Give each class once.")
            rates[name] = int(copies)
        order = tuple(rates)
    class_order(tuple(rates), classes)
    return rates, order


def version_seed(slide_name: str, x: float, y: float, version: int) -> int:
    """Seed of a window's deformed copy: the same copy in every epoch, run and order, as if it were stored."""
    text = f"{slide_name} {float(x)!r} {float(y)!r} {int(version)}"
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little", signed=True)


def balance_table(before: PatchIndex, after: PatchIndex) -> pd.DataFrame:
    """What class balancing changed: DMMN's table 1 and figure 5 as one table.

    Returns:
        one row a split and class, and "all" for each split: split, class, slides (that have such windows), windows
        before, windows after, pixels before, pixels after. Windows are counted under their one class, in both columns
        by the order that ``after`` was made with; pixels under their own.
    """
    lines = []
    originals = after.table[after.table[ELASTIC_COPY] == 0]
    for split in sorted(before.table["split"].unique()):
        tables = [table[table["split"] == split] for table in (originals, after.table)]
        pixels = [window_counts(table, before.classes).sum(axis=0) for table in tables]
        for index, spec in enumerate(before.classes):
            own = [table[table["class_index"] == index] for table in tables]
            lines.append(_line(split, spec.name, own, [count[index] for count in pixels]))
        lines.append(_line(split, "all", tables, [count.sum() for count in pixels]))
    return pd.DataFrame(lines)


def _line(split: str, name: str, tables: Sequence[pd.DataFrame], pixels: Sequence[np.int64]) -> dict[str, object]:
    return {
        "split": split,
        "class": name,
        "slides": tables[0]["slide_name"].nunique(),
        "windows before": len(tables[0]),
        "windows after": len(tables[1]),
        "pixels before": int(pixels[0]),
        "pixels after": int(pixels[1]),
    }


def write_balance(before: PatchIndex, after: PatchIndex, folder: str | Path) -> pd.DataFrame:
    """Writes ``class_balance.csv`` and ``class_balance.png`` beside an index; returns :func:`balance_table`.

    Raises:
        OutputError: the folder cannot be written.
    """
    folder = Path(folder)
    table = balance_table(before, after)
    with atomic_path(folder / BALANCE_TABLE) as temporary:
        table.to_csv(temporary, index=False)
    draw_balance(table, before.classes, folder / BALANCE_PICTURE)
    return table


def draw_balance(table: pd.DataFrame, classes: Sequence[ClassSpec], path: Path) -> None:
    """Bars of annotated pixels by class before (pale) and after (full colour) balancing, one panel a split."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    splits = list(dict.fromkeys(table["split"]))
    shown = [spec for spec in classes if table.loc[table["class"] == spec.name, "pixels before"].sum() > 0]
    figure = Figure(figsize=(1.5 + (1.0 + 0.8 * len(shown)) * len(splits), 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    for number, split in enumerate(splits):
        axes = figure.add_subplot(1, len(splits), number + 1)
        rows = table[table["split"] == split].set_index("class")
        for place, spec in enumerate(shown):
            color = tuple(part / 255 for part in spec.color)
            for shift, column, alpha in ((-0.2, "pixels before", 0.4), (0.2, "pixels after", 1.0)):
                height = rows.loc[spec.name, column] / 1e6
                axes.bar(place + shift, height, 0.38, color=color, alpha=alpha, edgecolor="black", linewidth=0.5)
        axes.set_xticks(range(len(shown)), [spec.name for spec in shown], rotation=30, ha="right")
        axes.set_ylabel("annotated pixels, millions")
        windows = rows.loc["all"]
        axes.set_title(f"{split}: {windows['windows before']:,} → {windows['windows after']:,} windows", fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle("Before (pale) and after class balancing by elastic copies", fontsize=10)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=150)
