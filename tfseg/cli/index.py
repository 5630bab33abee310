"""``tfseg index``."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Literal

from tyro.conf import OmitArgPrefixes, Positional

from tfseg.data.balance import expand, read_rates, write_balance
from tfseg.data.cohort import Cohort
from tfseg.data.index import DenseIndexConfig, IndexConfig, build_index
from tfseg.data.nuclei import NucleiOptions
from tfseg.data.nuclei_index import index_nuclei
from tfseg.slides.known_tables import find_table
from tfseg.types import TfsegError


def index(
    cohort: Positional[Path | None] = None,
    /,
    *,
    out: Path,
    nuclei: Path | None = None,
    kind: Literal["patches", "dense"] = "patches",
    config: OmitArgPrefixes[IndexConfig] = IndexConfig(),  # noqa: B008
    dense: DenseIndexConfig = DenseIndexConfig(),  # noqa: B008
    classes: str | None = None,
    elastic: tuple[str, ...] = (),
    saturation: int | None = None,
    map: tuple[str, ...] = (),
    workers: int = 2,
    skip_broken: bool = False,
    nuclei_options: OmitArgPrefixes[NucleiOptions] = NucleiOptions(),  # noqa: B008
) -> None:
    """Finds tissue on every slide of a cohort, tiles it and labels the patches; or checks images of labelled nuclei.

    Writes patches.parquet, summary.csv, index.json and a picture per slide; of kind dense also class_counts.json.
    With --nuclei in place of a cohort: nuclei.parquet (a row an image), summary.csv (by organ and split), nuclei.json
    and a picture per image with the nuclei's outlines.
    Run again after a stop: finished slides and images are not done twice.

    Args:
        cohort: manifest CSV with the columns slide, annotation, split and any others (grade, stain, mpp …).
        out: folder of the index.
        nuclei: images with labels of nuclei: a folder with images/ and labels/, MoNuSeg's or the 2018 Data Science
            Bowl's folders, a manifest CSV with the columns image, label and any others (organ, split …), or COCO JSON.
        kind: "patches" for a patch classifier, "dense" for windows of a segmentation network.
        config: how patches are found (kind patches).
        dense: how windows are found (kind dense).
        classes: h2g, tissue_types, tumour_normal_others, tissue_and_necrosis, or a JSON file with classes of your
            own. None takes h2g for patches, tissue_types (the DMMN paper's) for dense.
        elastic: deformed copies of windows by class, as CLASS=COPIES, first the class that wins where several
            occur: writes class_balance.csv and .png. "dmmn" takes that paper's rates.
        saturation: 0..255, pixels of more are tissue; lower it for faint stains. None takes 20.
        map: names in annotation files that mean a class, as NAME=CLASS, or NAME=ignore, NAME=skip.
        workers: slides (nuclei: images) at a time.
        skip_broken: leave unreadable slides (nuclei: images) out, naming them, instead of stopping.
        nuclei_options: how images of nuclei are read.
    """
    if (cohort is None) == (nuclei is None):
        raise TfsegError("give either a cohort's manifest (CSV) or --nuclei with images of nuclei. See --help.")
    if nuclei is not None:
        _index_nuclei(nuclei, out, nuclei_options, workers, skip_broken)
        return
    is_dense = kind == DenseIndexConfig.kind
    table = find_table(classes or ("tissue_types" if is_dense else "h2g")).with_aliases(map)
    chosen: IndexConfig | DenseIndexConfig = dense if is_dense else config
    if saturation is not None:
        chosen = dataclasses.replace(chosen, tissue={**chosen.tissue, "saturation": saturation})
    rates = read_rates(elastic, table)  # a wrong one is an error now, not after hours
    built = build_index(Cohort.read(cohort), chosen, out, classes=table, workers=workers, skip_broken=skip_broken)
    print(built.summary.drop(columns="error").to_string(index=False))
    files = "patches.parquet, summary.csv, overview/"
    if elastic:
        balanced = write_balance(built, expand(built, *rates), out)
        print(balanced.to_string(index=False))
        files += ", class_balance.csv, class_balance.png"
    print(f"index: {out}  ({files})")
    for name, reason in built.broken.items():
        print(f"tfseg index: left out {name}: {reason}", file=sys.stderr)


def _index_nuclei(source: Path, out: Path, options: NucleiOptions, workers: int, skip_broken: bool) -> None:
    built = index_nuclei(source, out, options, workers=workers, skip_broken=skip_broken)
    print(built.summary.to_string(index=False, na_rep=""))
    warned = built.table[built.table["warnings"] != ""]
    if len(warned):
        first = warned.iloc[0]
        print(
            f"tfseg index: {len(warned)} of {len(built.table)} images have warnings, in nuclei.parquet's column "
            f"'warnings'; the first: {first['name']}: {first['warnings']}",
            file=sys.stderr,
        )
    print(f"index: {out}  (nuclei.parquet, summary.csv, overview/)")
    for name, reason in built.broken.items():
        print(f"tfseg index: left out {name}: {reason}", file=sys.stderr)


def check_unused(arguments: Sequence[str]) -> None:
    """An option of the other kind would be ignored without a word, also one that gives the default of its kind."""
    words = [word.replace("=", " ", 1).split(" ") for word in arguments if word.startswith("--")]
    given = {word[0].replace("_", "-") for word in words}
    _check_nuclei_options(given)
    if "--nuclei" in given:
        return
    is_dense = "--kind=dense" in arguments or ("--kind", "dense") in pairwise(arguments)
    patches = sorted(given & {f"--{field.name.replace('_', '-')}" for field in dataclasses.fields(IndexConfig)})
    if is_dense and patches:
        raise TfsegError(
            f"tfseg index --kind dense has no {', '.join(patches)}: it takes its options as --dense.…, e.g. "
            "--dense.mpp 0.5. See --help."
        )
    if not is_dense and any(word.startswith("--dense.") or word == "--elastic" for word in given):
        raise TfsegError("--dense.… and --elastic are for segmentation networks: add --kind dense.")


def _check_nuclei_options(given: set[str]) -> None:
    own = {f"--{field.name.replace('_', '-')}" for field in dataclasses.fields(NucleiOptions)}
    own |= {name.replace("--", "--no-", 1) for name in own}
    if "--nuclei" not in given and given & own:
        raise TfsegError(f"{', '.join(sorted(given & own))}: for images of nuclei; add --nuclei and their folder.")
    both = {"--nuclei", "--out", "--workers", "--skip-broken", "--no-skip-broken", "--help"}
    if "--nuclei" in given and given - own - both:
        raise TfsegError(
            f"--nuclei has no {', '.join(sorted(given - own - both))}: that is for slides of a cohort. See --help."
        )
