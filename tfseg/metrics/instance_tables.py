"""Scores of instances over images: a table of them, means ± sd by any column, all instances pooled, files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pandas as pd
from numpy.typing import ArrayLike

from tfseg.files import atomic_path, write_text
from tfseg.metrics.instances import COUNTED, RATES, THRESHOLDS, instance_scores, scores_from_counts
from tfseg.metrics.tables import markdown, need_columns, plain_markdown, summarise
from tfseg.types import CohortError

SHOWN = ("aji", "aji_plus", "pq", "map_precision", "map_dsb", "f1 0.50", "f1 0.70")
"""Scores that stand in summary.md; the CSV files have all."""
POOLED = ("map_precision", "map_dsb", *(f"{rate} {t}" for t in ("0.50", "0.70") for rate in RATES[:3]))
"""Pooled scores that stand in summary.md: those of the GB U-Net paper's table 2."""
_MEANS = ("map_precision", "mean_recall", "mean_f1", "map_dsb")
_SCORES = (
    *("aji", "aji_plus", "pq", "dq", "sq"),
    *_MEANS,
    *(f"{rate} {threshold}" for threshold in THRESHOLDS for rate in RATES),
)

_ABOUT = """\
Means ± sd are over images. A score that an image leaves undefined (precision without a predicted nucleus, recall
without a true one, every score without either) is left out, and n says how many images are in. A pair is a hit when its
IoU is at least the threshold; for PQ, when it is above 0.5. map_precision is the mean of TP / (TP + FP), map_dsb of
TP / (TP + FP + FN), over IoU 0.50, 0.55 … 0.95. "All nuclei" adds the TP, FP and FN of all images before it divides.

"""


def image_table(images: Iterable[tuple[Mapping[str, object], ArrayLike, ArrayLike]]) -> pd.DataFrame:
    """:func:`tfseg.metrics.instances.instance_scores` of many images.

    Args:
        images: of each: what is known about it, such as {"image": "a.png", "organ": "breast"}; truth; prediction. Read
            one after the other, so a generator holds one image at a time.

    Returns:
        One row an image: what is known, then the scores.

    Raises:
        CohortError: no image, or its labels cannot be scored; says of which image.
    """
    rows = []
    for about, truth, prediction in images:
        try:
            rows.append({**about, **instance_scores(truth, prediction)})
        except ValueError as error:
            raise CohortError(f"{', '.join(map(str, about.values()))}: {error}") from error
    if not rows:
        raise CohortError("no image to score. Give at least one (what is known about it, truth, prediction).")
    return pd.DataFrame(rows)


def pooled(table: pd.DataFrame, by: Sequence[str] = ()) -> pd.DataFrame:
    """Scores of all instances of a group's images together: TP, FP and FN are added up, then divided.

    Args:
        table: of :func:`image_table`.
        by: columns to group by; none takes all images together.

    Returns:
        One row a group: the ``by`` columns, "images", "true", "predicted" and what
        :func:`tfseg.metrics.instances.threshold_scores` gives. AJI and panoptic quality are scores of an image and not
        among them.

    Raises:
        CohortError: a column is missing.
    """
    need_columns(table, [*by, "true", "predicted", *_counts("tp"), *_counts("fp"), *_counts("fn")])
    rows = []
    for key, group in table.groupby(list(by), sort=True, dropna=False) if by else [((), table)]:
        counts = [group[_counts(what)].sum().to_numpy() for what in COUNTED]
        size = {"images": len(group), **group[["true", "predicted"]].sum().astype(int).to_dict()}
        rows.append({**dict(zip(by, key, strict=True)), **size, **scores_from_counts(*counts)})
    return pd.DataFrame(rows)


def write_report(
    table: pd.DataFrame, out: str | Path, by: Sequence[str] = ("organ",), within: Sequence[str] = ()
) -> None:
    """Writes scores.csv (one row an image), summary.csv, pooled.csv and summary.md into ``out``.

    The summaries are over all images and over those of each value of each column of ``by``: means ± sd over images, and
    all nuclei pooled.

    Args:
        table: of :func:`image_table`.
        out: folder.
        by: columns such as "organ".
        within: columns whose values are never put together, such as the system that made the predictions.

    Raises:
        CohortError: a column is missing.
        OutputError: the folder cannot be written.
    """
    out, within = Path(out), list(within)
    parts = {"All images": within} | {f"By {column}": [*within, column] for column in by}
    summaries = {title: summarise(table, _SCORES, columns, "images") for title, columns in parts.items()}
    pools = {title: pooled(table, columns) for title, columns in parts.items()}
    text = "".join(
        f"## {title}\n\n{markdown(_shown(summaries[title], parts[title]), unit='images')}\n"
        f"All nuclei:\n\n{plain_markdown(pools[title][[*columns, 'images', 'true', 'predicted', *POOLED]])}\n"
        for title, columns in parts.items()
    )
    known = [column for column in table.columns if column not in {*_SCORES, *_counts(*COUNTED), "true", "predicted"}]
    each = plain_markdown(table[[*known, "true", "predicted", *SHOWN]].astype({"true": int, "predicted": int}))
    for name, content in (("scores.csv", table), ("summary.csv", _stacked(summaries)), ("pooled.csv", _stacked(pools))):
        with atomic_path(out / name) as temporary:
            content.to_csv(temporary, index=False)
    write_text(out / "summary.md", f"{_ABOUT}{text}## Each image\n\n{each}")


def _counts(*kinds: str) -> list[str]:
    return [f"{kind} {threshold}" for kind in kinds for threshold in THRESHOLDS]


def _shown(summary: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    return summary[[*columns, "images", *(f"{score} {part}" for score in SHOWN for part in ("mean", "sd", "n"))]]


def _stacked(parts: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Tables below each other, with a column "part" that says which one."""
    return pd.concat([part.assign(part=title) for title, part in parts.items()])
