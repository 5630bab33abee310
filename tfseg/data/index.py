"""Which patches of a cohort can be trained on: the patch index, built slide by slide."""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import tfseg
from tfseg.data.class_counts import COUNTS_FILE, pixel_column, write_class_counts
from tfseg.data.cohort import Cohort
from tfseg.data.index_config import DenseIndexConfig, IndexConfig
from tfseg.data.index_slide import AnyIndexConfig, SlidePatches
from tfseg.data.overview import UNANNOTATED
from tfseg.data.workers import index_slides
from tfseg.files import atomic_path, write_json
from tfseg.slides.class_table import ClassTable
from tfseg.types import IGNORE, ClassSpec, CohortError, SlideError

__all__ = ["DenseIndexConfig", "IndexConfig", "PatchIndex", "build_index"]

_TABLE, _SUMMARY, _INDEX = "patches.parquet", "summary.csv", "index.json"
_CONFIGS: dict[str, type[IndexConfig] | type[DenseIndexConfig]] = {c.kind: c for c in (IndexConfig, DenseIndexConfig)}
_FORMAT, _VERSION = "tfseg-index", 1
BALANCE_TABLE, BALANCE_PICTURE = "class_balance.csv", "class_balance.png"
_OF_ANOTHER_INDEX = (COUNTS_FILE, BALANCE_TABLE, BALANCE_PICTURE)
ELASTIC_COPY = "elastic_copy"
"""Column of a table that ``tfseg.data.balance.expand`` made: 0 is the window as it is, k its k-th deformed copy."""


@dataclass(frozen=True)
class PatchIndex:
    """Patches of a cohort, or windows for dense segmentation, and where they come from.

    Attributes:
        table: one row a patch: slide_name, slide (path), slide_mpp, x, y (centre, level-0 pixels), tissue (fraction of
            the patch), class_index, class, split and the manifest's other columns.
            Of a classifier's patches also foreground (fraction); class_index is IGNORE and class "unannotated" for
            those of slides without annotation.
            Of windows also annotated (fraction of the target) and "pixels <class>" for every class; they are all
            annotated.
        config: how the patches were found; its type says of which kind they are.
        classes: index i is class_index i.
        slides: per slide name: path, annotation (path or None), size, mpp, mpp_source, counts; of windows also pixels
            and annotation_sha256, as in ``SlidePatches.info``.
        broken: slide name → why it was left out.
        summary: one row a slide: split, grade (if the manifest has it), slide_name, one column of patch counts a class,
            unannotated, dropped (by the label rule, or too little annotated), no_tissue, of windows annotated pixels a
            class, mpp, mpp_source, error.
        versions: of tfseg and what it was built with.
        labels: how annotations became classes, so that later stages read them alike.
    """

    table: pd.DataFrame
    config: AnyIndexConfig
    classes: tuple[ClassSpec, ...]
    slides: dict[str, dict[str, Any]]
    summary: pd.DataFrame
    broken: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    labels: ClassTable = field(default_factory=ClassTable.h2g)

    def split(self, name: str) -> PatchIndex:
        """The patches of one split.

        Raises:
            CohortError: it has none; lists the splits that have.
        """
        part = self.table[self.table["split"] == name]
        if part.empty:
            present = ", ".join(sorted(self.table["split"].unique()))
            raise CohortError(
                f"the index has no patches in split {name!r}. Splits with patches: {present}. "
                "Give slides of the manifest that split (column 'split') and run `tfseg index` again."
            )
        return self._with(part)

    def annotated(self) -> PatchIndex:
        """Without the patches of slides that nobody annotated."""
        return self._with(self.table[self.table["class_index"] != IGNORE])

    def _with(self, table: pd.DataFrame) -> PatchIndex:
        rest = {name: value for name, value in vars(self).items() if name != "table"}
        return PatchIndex(table.reset_index(drop=True), **rest)

    def save(self, folder: str | Path) -> None:
        """Writes patches.parquet, summary.csv and, last, index.json; each whole or not at all.

        Of windows also class_counts.json: per split the annotated pixels of each class. What was written beside an
        earlier index there, its counts and its class balance, is deleted first.
        """
        folder = Path(folder)
        for name in _OF_ANOTHER_INDEX:
            (folder / name).unlink(missing_ok=True)
        if isinstance(self.config, DenseIndexConfig):
            write_class_counts(self.table, self.classes, folder)
        with atomic_path(folder / _TABLE) as temporary:
            self.table.to_parquet(temporary, index=False)
        with atomic_path(folder / _SUMMARY) as temporary:
            self.summary.to_csv(temporary, index=False)
        write_json(
            folder / _INDEX,
            {
                "format": _FORMAT,
                "version": _VERSION,
                "kind": self.config.kind,
                "patches": len(self.table),
                "config": asdict(self.config),
                "classes": [asdict(spec) for spec in self.classes],
                "slides": self.slides,
                "broken": self.broken,
                "versions": self.versions,
                "labels": {
                    "aliases": self.labels.aliases,
                    "values": [list(pair) for pair in self.labels.values.items()],
                    "rest": self.labels.rest,
                },
            },
        )

    @classmethod
    def load(cls, folder: str | Path) -> PatchIndex:
        """Reads what :meth:`save` wrote.

        Raises:
            CohortError: the folder holds no index, or one that cannot be read; names the file.
        """
        folder = Path(folder)
        hint = "`tfseg index` writes one; run it again (finished slides are not done twice)."
        for name in (_INDEX, _TABLE, _SUMMARY):
            if (folder / "nuclei.json").is_file():
                raise CohortError(
                    f"{folder}: an index of images of nuclei; a cohort's, of patches or windows, is wanted."
                )
            if not (folder / name).is_file():
                raise CohortError(f"{folder}: no patch index ({name} is missing). {hint}")
        try:
            content = json.loads((folder / _INDEX).read_text(encoding="utf-8"))
            if content.get("format") != _FORMAT or content.get("version") != _VERSION:
                raise ValueError(f"format {content.get('format')!r}, version {content.get('version')!r}")
            table = pd.read_parquet(folder / _TABLE)
            if len(table) != content["patches"]:
                raise ValueError(f"{_TABLE} has {len(table)} patches, {_INDEX} says {content['patches']}")
            classes = tuple(ClassSpec(spec["name"], tuple(spec["color"])) for spec in content["classes"])
            labels = content["labels"]
            return cls(
                table,
                _CONFIGS[content.get("kind", IndexConfig.kind)](**content["config"]),
                classes,
                content["slides"],
                pd.read_csv(folder / _SUMMARY, dtype={"grade": str, "slide_name": str}, keep_default_na=False),
                content["broken"],
                content["versions"],
                ClassTable(classes, labels["aliases"], dict(labels["values"]), labels["rest"]),
            )
        except (ValueError, KeyError, TypeError, OSError) as error:
            raise CohortError(f"{folder}: the patch index cannot be read ({error}). {hint}") from error


def build_index(
    cohort: Cohort,
    config: AnyIndexConfig,
    out: str | Path,
    *,
    classes: ClassTable | None = None,
    workers: int = 2,
    skip_broken: bool = False,
    progress: bool = True,
) -> PatchIndex:
    """Finds, labels and records the patches of every slide of a cohort.

    Slides are done in parallel. Each leaves ``parts/<slide_name>.parquet`` and ``overview/<slide_name>.png`` in
    ``out`` when it is finished, so that an interrupted run goes on where it stopped; a part is used again only if
    configuration, classes, slide and annotation (path, size, time of change) are the same.

    Args:
        cohort: the slides.
        config: patch size, pixel size and thresholds; :class:`DenseIndexConfig` for windows of a segmentation network.
        out: folder; the index is saved there.
        classes: of the annotations; None takes :meth:`ClassTable.h2g`.
        workers: processes; 1 works in this one.
        skip_broken: leaves out slides that cannot be indexed and lists them in ``broken`` and the summary.
        progress: shows a bar on the terminal.

    Raises:
        SlideError: slides cannot be read, have no tissue, are smaller than a patch, or their annotation is wrong;
            all of them are named, after the others are finished. Not with ``skip_broken``, unless no slide is left.
        CohortError: a class has no patch in split "train", or no window of it is annotated; the class rule names no
            class; the manifest has a column of a name that the index gives.
        OutputError: ``out`` cannot be written.
    """
    classes = classes or ClassTable.h2g()
    if isinstance(config, DenseIndexConfig):
        config.order(classes)  # a wrong name is an error now, not in the last worker
    rows = cohort.rows()
    _check_columns(cohort, config, classes.classes)
    done, broken = index_slides(rows, config, classes, Path(out), workers=workers, progress=progress)
    if broken and not (skip_broken and done):
        names = "\n".join(f"  {row.slide_name}: {broken[row.slide_name]}" for row in rows if row.slide_name in broken)
        raise SlideError(
            f"{cohort.path}: {len(broken)} of {len(rows)} slides cannot be indexed:\n{names}\n"
            "Mend them or take them out of the manifest, or leave them out with --skip-broken; "
            "finished slides are kept and not done again."
        )
    index = PatchIndex(
        _join(cohort, done, classes.classes),
        config,
        classes.classes,
        {name: part.info for name, part in done.items()},
        _summary(cohort, done, broken, classes.classes),
        broken,
        {"tfseg": tfseg.__version__, "python": platform.python_version(), "numpy": np.__version__},
        classes,
    )
    _check_classes(cohort, index)
    index.save(out)
    return index


def _check_columns(cohort: Cohort, config: AnyIndexConfig, classes: Sequence[ClassSpec]) -> None:
    """The manifest's columns stand beside the index's own; two of one name cannot be told apart."""
    own = {"slide_mpp", "x", "y", "tissue", "class_index", "class", ELASTIC_COPY}
    if isinstance(config, DenseIndexConfig):
        own |= {"annotated", *(pixel_column(spec.name) for spec in classes)}
    else:
        own |= {"foreground"}
    taken = [column for column in cohort.table.columns if column in own]
    if taken:
        raise CohortError(
            f"{cohort.path}: column {', '.join(map(repr, taken))}: the index has columns so named of its own. "
            f"Rename yours in the manifest, for example to 'slide {taken[0]}'."
        )


def _join(cohort: Cohort, done: dict[str, SlidePatches], classes: Sequence[ClassSpec]) -> pd.DataFrame:
    """All patches in the order of the manifest, with the manifest's columns."""
    names = {i: spec.name for i, spec in enumerate(classes)} | {IGNORE: UNANNOTATED}
    tables = []
    for row in cohort.rows():
        if row.slide_name not in done:
            continue
        part = done[row.slide_name]
        table = part.table.copy()
        table.insert(0, "slide_name", row.slide_name)
        table.insert(1, "slide", str(row.slide))
        table.insert(2, "slide_mpp", float(part.info["mpp"]))
        table["class"] = table["class_index"].map(names)
        table["split"] = row.split
        for column, value in row.values.items():
            table[column] = value
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


def _summary(
    cohort: Cohort, done: dict[str, SlidePatches], broken: dict[str, str], classes: Sequence[ClassSpec]
) -> pd.DataFrame:
    """One row a slide, broken ones too, by split, grade and name."""
    lines = []
    for row in cohort.rows():
        line: dict[str, Any] = {"split": row.split}
        if "grade" in row.values:
            line["grade"] = row.values["grade"]
        line["slide_name"] = row.slide_name
        part = done.get(row.slide_name)
        counts = part.info["counts"] if part else {}
        for name in (*(spec.name for spec in classes), UNANNOTATED, "dropped", "no_tissue"):
            line[name] = int(counts.get(name, 0))
        for name, pixels in (part.info.get("pixels", {}) if part else {}).items():
            line[pixel_column(name)] = pixels
        line["mpp"] = part.info["mpp"] if part else ""
        line["mpp_source"] = part.info["mpp_source"] if part else ""
        line["error"] = broken.get(row.slide_name, "")
        lines.append(line)
    order = [column for column in ("split", "grade", "slide_name") if column in lines[0]]
    return pd.DataFrame(lines).sort_values(order, kind="stable", ignore_index=True)


def _check_classes(cohort: Cohort, index: PatchIndex) -> None:
    """A classifier cannot learn a class that it never sees, a segmentation network nothing without annotation."""
    train = index.summary[index.summary["split"] == "train"]
    if isinstance(index.config, DenseIndexConfig):
        if len(train) and "train" not in set(index.table["split"]):
            raise CohortError(
                f"{cohort.path}: in split 'train' ({len(train)} slides) no window has more than "
                f"{index.config.min_annotated:.0%} of its {index.config.target_px}² px annotated. Check the column "
                "'annotation' and the overview pictures, or lower min_annotated."
            )
        return
    annotated = train[[*(spec.name for spec in index.classes), "dropped"]]
    if not annotated.to_numpy().sum():  # no such split, or nobody annotated it: an index for other uses
        return
    for spec in index.classes:
        if train[spec.name].sum() == 0:
            raise CohortError(
                f"{cohort.path}: no patch of class {spec.name!r} in split 'train' ({len(train)} slides, "
                f"{int(train['dropped'].sum())} patches dropped because they are neither clearly one class nor free of "
                "it). Check the annotations and the overview pictures, annotate more, or use smaller patches."
            )
