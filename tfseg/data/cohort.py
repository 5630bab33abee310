"""A cohort: the CSV manifest of slides, their annotations, splits and whatever else is known of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from tfseg.types import CohortError

REQUIRED = ("slide", "annotation", "split")
UNKNOWN = "unknown"
"""What an empty cell of a column of one's own (grade, stain, scanner, …) reads as."""

_FORMAT = (
    "A manifest is a CSV file with the columns slide, annotation, split and any others (grade, stain, scanner, "
    "mpp, …); paths are relative to the file, annotation may be empty."
)


@dataclass(frozen=True)
class CohortRow:
    """One slide of a cohort.

    Attributes:
        slide_name: unique in the cohort; names its files in every output folder.
        slide: path of the slide.
        annotation: path of the annotation; None when nobody annotated the slide.
        split: train, val, test or any other name.
        values: all other columns (grade, …) as text.
        mpp: µm/px of level 0 from an optional column ``mpp``; overrides what the slide's file says.
    """

    slide_name: str
    slide: Path
    annotation: Path | None
    split: str
    values: dict[str, str]
    mpp: float | None = None


@dataclass(frozen=True)
class Cohort:
    """Slides of a manifest.

    Attributes:
        path: the manifest.
        table: one row a slide: slide (absolute path), slide_name (unique), annotation (absolute path or ""), split and
            the manifest's other columns, all text. An empty cell of these others is "unknown".
    """

    path: Path
    table: pd.DataFrame

    @classmethod
    def read(cls, path: str | Path) -> Cohort:
        """Reads and checks a manifest.

        Raises:
            CohortError: the file is missing, no CSV, empty, lacks a column, or a row is wrong (a slide twice, a file
                that does not exist, no split, an mpp that is no positive number); names file, line and column.
        """
        path = Path(path)
        table = read_csv(path, _FORMAT)
        _check_columns(path, table)
        folder = path.parent.resolve()
        slides = [
            _existing(path, line, "slide", folder, value)
            for line, value in zip(line_numbers(table), table["slide"], strict=True)
        ]
        annotations = [
            _existing(path, line, "annotation", folder, value) if value else ""
            for line, value in zip(line_numbers(table), table["annotation"], strict=True)
        ]
        _check_rows(path, table, slides)
        others = [column for column in table.columns if column not in REQUIRED]
        clean = pd.DataFrame({"slide_name": unique_names(slides), "slide": slides, "annotation": annotations})
        clean["split"] = table["split"].to_numpy()
        for column in others:
            clean[column] = table[column].where((table[column] != "") | (column == "mpp"), UNKNOWN).to_numpy()
        return cls(path, clean)

    @property
    def splits(self) -> list[str]:
        """Names of the splits, sorted."""
        return sorted(self.table["split"].unique())

    def split(self, name: str) -> Cohort:
        """The slides of one split.

        Raises:
            CohortError: no slide has this split; lists those there are.
        """
        part = self.table[self.table["split"] == name].reset_index(drop=True)
        if part.empty:
            raise CohortError(
                f"{self.path}: no slide in split {name!r}. Splits in column 'split': {', '.join(self.splits)}."
            )
        return Cohort(self.path, part)

    def rows(self) -> list[CohortRow]:
        """The slides in the order of the manifest."""
        known = ("slide_name", *REQUIRED, "mpp")
        rows = []
        for record in self.table.to_dict("records"):
            values = {str(key): str(value) for key, value in record.items() if key not in known}
            annotation = Path(record["annotation"]) if record["annotation"] else None
            mpp = float(record["mpp"]) if record.get("mpp") else None
            rows.append(
                CohortRow(record["slide_name"], Path(record["slide"]), annotation, record["split"], values, mpp)
            )
        return rows


def read_csv(path: Path, wanted: str) -> pd.DataFrame:
    """All cells as text without surrounding blanks; :func:`line_numbers` says on which line a row stands.

    Args:
        path: the manifest.
        wanted: what it should hold, for messages.

    Raises:
        CohortError: missing, empty, or no CSV.
    """
    if not path.is_file():
        raise CohortError(f"{path}: no such manifest. {wanted}")
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig", skip_blank_lines=False)
    except pd.errors.EmptyDataError:
        raise CohortError(f"{path}: the manifest is empty. {wanted}") from None
    except (pd.errors.ParserError, UnicodeDecodeError) as error:
        raise CohortError(f"{path}: not a CSV file ({str(error).strip()}). {wanted}") from error
    table.columns = [str(column).strip() for column in table.columns]
    for column in table.columns:
        table[column] = table[column].fillna("").str.strip()
    # Row numbers stay those of the file, so that messages name the right line; blank lines go only now.
    return table[(table != "").any(axis=1)]


def line_numbers(table: pd.DataFrame) -> list[int]:
    """Line numbers in the file of the rows of :func:`read_csv`; the header is line 1."""
    return [int(index) + 2 for index in table.index]


def check_columns(path: Path, table: pd.DataFrame, needed: Sequence[str], of: str, wanted: str) -> None:
    """Raises CohortError where a manifest lacks a column or has no row; ``of`` says rows of what ("slides")."""
    missing = [column for column in needed if column not in table.columns]
    if missing:
        raise CohortError(
            f"{path}: missing column {', '.join(map(repr, missing))}. Found: {', '.join(table.columns)}. {wanted}"
        )
    if table.empty:
        raise CohortError(f"{path}: the manifest has a header but no {of}. {wanted}")


def _check_columns(path: Path, table: pd.DataFrame) -> None:
    check_columns(path, table, REQUIRED, "slides", _FORMAT)
    if "slide_name" in table.columns:
        raise CohortError(f"{path}: column 'slide_name' is made by tfseg from column 'slide'. Rename yours.")


def _check_rows(path: Path, table: pd.DataFrame, slides: list[str]) -> None:
    seen: dict[str, int] = {}
    for line, slide, split in zip(line_numbers(table), slides, table["split"], strict=True):
        if slide in seen:
            raise CohortError(
                f"{path}, line {line}, column 'slide': {slide} is already on line {seen[slide]}. "
                "Each slide has one row; a slide in two splits would leak between them."
            )
        seen[slide] = line
        if not split:
            raise CohortError(f"{path}, line {line}, column 'split': empty. Write train, val, test or a name of yours.")
    for line, value in zip(
        line_numbers(table), table["mpp"] if "mpp" in table.columns else [""] * len(table), strict=True
    ):
        if value and not _positive(value):
            raise CohortError(
                f"{path}, line {line}, column 'mpp': {value!r} is no positive number. "
                "Write the pixel size of level 0 in µm (40x: 0.25), or leave it empty to use the slide's own."
            )


def _positive(text: str) -> bool:
    try:
        return 0 < float(text) < float("inf")
    except ValueError:
        return False


def _existing(path: Path, line: int, column: str, folder: Path, value: str) -> str:
    if not value:
        raise CohortError(f"{path}, line {line}, column {column!r}: empty. Write the path of the slide.")
    target = folder / Path(value).expanduser()
    if not target.exists():
        raise CohortError(
            f"{path}, line {line}, column {column!r}: file not found: {target}. Paths are relative to the manifest."
        )
    return str(target.resolve())


def unique_names(slides: list[str]) -> list[str]:
    """File stems of paths; where two share one, the folder's name is put before it, and at last a number after it."""
    paths = [Path(slide) for slide in slides]
    stems = [path.stem for path in paths]
    names = [
        stem if stems.count(stem) == 1 else f"{path.parent.name}_{stem}"
        for path, stem in zip(paths, stems, strict=True)
    ]
    unique: list[str] = []
    for name in names:
        candidate, number = name, 2
        while candidate in unique or (candidate != name and candidate in names):
            candidate, number = f"{name}_{number}", number + 1
        unique.append(candidate)
    return unique
