"""Scores per slide → mean ± sd, overall and by group; Tukey's range test between designs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from tfseg.types import CohortError


def summarise(
    table: pd.DataFrame,
    scores: Sequence[str] = ("recall", "precision", "dice"),
    by: str | Sequence[str] | None = None,
    unit: str = "slides",
) -> pd.DataFrame:
    """Mean and standard deviation (n - 1 in the denominator) of scores over slides.

    Args:
        table: one row a slide.
        scores: columns to summarise; NaN (undefined) is left out of mean and sd.
        by: columns to group by, such as "grade"; None takes all slides together.
        unit: what a row is, in the plural, such as "images".

    Returns:
        One row a group, with the ``by`` columns, the ``unit`` (rows in the group), and per score "<score> mean",
        "<score> sd" (NaN with fewer than two values) and "<score> n" (slides where it is defined).

    Raises:
        CohortError: a column is missing; names those there are.
    """
    columns = [by] if isinstance(by, str) else list(by or [])
    need_columns(table, [*columns, *scores])
    groups = table.groupby(columns, sort=True, dropna=False) if columns else [((), table)]
    rows = []
    for key, group in groups:
        row: dict[str, object] = dict(zip(columns, key, strict=True))
        row[unit] = len(group)
        for score in scores:
            row[f"{score} mean"] = group[score].mean()
            row[f"{score} sd"] = group[score].std(ddof=1)
            row[f"{score} n"] = int(group[score].count())
        rows.append(row)
    return pd.DataFrame(rows)


def markdown(summary: pd.DataFrame, digits: int = 3, unit: str = "slides") -> str:
    """A Markdown table of what :func:`summarise` gives with that ``unit``, each score as "mean ± sd".

    Undefined is "–"; a lone value has no "± sd". Where a score is defined in fewer slides than the group has, its
    number follows in brackets.
    """
    scores = [column.removesuffix(" mean") for column in summary.columns if column.endswith(" mean")]
    others = [c for c in summary.columns if not any(c in (f"{s} mean", f"{s} sd", f"{s} n") for s in scores)]
    lines = ["| " + " | ".join([*others, *scores]) + " |"]
    lines.append("|" + "|".join([*(" --- " for _ in others), *(" ---: " for _ in scores)]) + "|")
    for row in summary.to_dict("records"):
        cells = [str(row[column]).replace("|", "\\|") for column in others]
        for score in scores:
            mean, sd, n = row[f"{score} mean"], row[f"{score} sd"], row[f"{score} n"]
            text = "–" if np.isnan(mean) else f"{mean:.{digits}f}"
            text += "" if np.isnan(sd) else f" ± {sd:.{digits}f}"
            cells.append(text + (f" (n = {n})" if n < row[unit] else ""))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def plain_markdown(table: pd.DataFrame, digits: int = 3) -> str:
    """A Markdown table of a table as it is: floats rounded, undefined is "–"."""
    numbers = [pd.api.types.is_float_dtype(kind) or pd.api.types.is_integer_dtype(kind) for kind in table.dtypes]
    lines = ["| " + " | ".join(map(str, table.columns)) + " |"]
    lines.append("|" + "|".join(" ---: " if number else " --- " for number in numbers) + "|")
    for row in table.itertuples(index=False):
        cells = [
            "–"
            if pd.isna(value)
            else f"{value:.{digits}f}"
            if isinstance(value, float)
            else str(value).replace("|", "\\|")
            for value in row
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def row_parts(matrix: ArrayLike) -> NDArray[np.float64]:
    """A confusion matrix normalised by row: of what is truly a class, which part is called what; NaN without any."""
    counts = np.asarray(matrix, np.float64)
    totals = counts.sum(axis=1, keepdims=True)
    return np.divide(counts, totals, out=np.full_like(counts, np.nan), where=totals > 0)


def confusion_table(matrix: ArrayLike, names: Sequence[str], predicted: Sequence[str] | None = None) -> pd.DataFrame:
    """A confusion matrix normalised by row as a table.

    Args:
        matrix: (C, P) counts, row = truth.
        names: of the C true classes.
        predicted: names of the columns; None takes ``names``.

    Returns:
        Columns "truth", the predicted names, and "pixels" (what the row sums up, as a number).
    """
    columns = list(names if predicted is None else predicted)
    table = pd.DataFrame(row_parts(matrix), columns=columns)
    table.insert(0, "truth", list(names))
    return table.assign(pixels=np.asarray(matrix).sum(axis=1))


def tukey(table: pd.DataFrame, score: str = "dice", group: str = "design", alpha: float = 0.05) -> pd.DataFrame:
    """Tukey's range test (honestly significant difference) between every two groups.

    Which designs differ in mean, at a family-wise error rate of ``alpha`` (the H2G-Net paper's test between designs).
    Calculated by ``statsmodels.stats.multicomp.pairwise_tukeyhsd``, which allows groups of different size.

    Args:
        table: one row a slide and design.
        score: the column compared; rows where it is NaN are left out.
        group: the column that names the design.

    Returns:
        Columns "first", "second", "difference" (mean of second - mean of first), "lower", "upper" (simultaneous
        confidence interval), "p", "differs".

    Raises:
        CohortError: a column is missing, fewer than two groups, or a group with fewer than two scores.
    """
    need_columns(table, [group, score])
    rows = table[[group, score]].dropna()
    counts = rows[group].astype(str).value_counts().sort_index()
    seen = sorted(table[group].dropna().astype(str).unique())
    if len(seen) < 2:
        raise CohortError(
            f"Tukey's range test compares at least 2 values of {group!r}; the table has {len(seen)} "
            f"({', '.join(seen)}). Give the scores of a second one."
        )
    few = [name for name in seen if counts.get(name, 0) < 2]
    if few:
        raise CohortError(
            f"Tukey's range test needs at least 2 slides with a defined {score!r} for each {group}; fewer for: "
            f"{', '.join(few)}. Add slides or leave these out."
        )
    from statsmodels.stats.multicomp import pairwise_tukeyhsd

    result = pairwise_tukeyhsd(rows[score].to_numpy(dtype=float), rows[group].astype(str).to_numpy(dtype=object), alpha)
    first, second = np.triu_indices(len(result.groupsunique), 1)
    return pd.DataFrame(
        {
            "first": result.groupsunique[first],
            "second": result.groupsunique[second],
            "difference": result.meandiffs,
            "lower": result.confint[:, 0],
            "upper": result.confint[:, 1],
            "p": result.pvalues,
            "differs": result.reject,
        }
    )


def tukey_lines(test: pd.DataFrame) -> str:
    """What :func:`tukey` gives as a Markdown table: differences and p."""
    lines = ["| first | second | difference | p |", "| --- | --- | ---: | ---: |"]
    lines += [
        f"| {r.first} | {r.second} | {r.difference:+.3f} | {f'{r.p:.3f}' if r.p >= 0.001 else '< 0.001'} |"
        for r in test.itertuples()
    ]
    return "\n".join(lines) + "\n"


def need_columns(table: pd.DataFrame, columns: Sequence[str], what: str = "the table of scores") -> None:
    """Raises CohortError that names the table (``what``), the missing columns and those there are."""
    missing = [column for column in columns if column not in table.columns]
    if missing:
        raise CohortError(
            f"{what} has no column {', '.join(map(repr, missing))}. It has: {', '.join(map(str, table))}."
        )
