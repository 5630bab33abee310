"""What the pipelines share: designs trained one after the other, their test slides segmented, one set of tables."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import keras
import pandas as pd
import tyro

from tfseg.data.balance import expand, read_rates, write_balance
from tfseg.data.cohort import Cohort
from tfseg.data.index import DenseIndexConfig, build_index
from tfseg.evaluation import check_evaluation, evaluate_cohort
from tfseg.export.onnx import export_onnx
from tfseg.files import write_json
from tfseg.infer.cascade import SegmentOptions, segment_slides
from tfseg.slides.base import open_slide
from tfseg.slides.class_table import ClassTable
from tfseg.train.interrupt import TrainingInterruptedError
from tfseg.train.segmentation import SegmentationSettings, train_segmentation
from tfseg.types import TfsegError


def compare(
    test: Cohort,
    designs: Mapping[str, Callable[[], Path]],
    out: Path,
    by: Sequence[str],
    classes: ClassTable,
    options: SegmentOptions | None = None,
    baselines: Sequence[str] = (),
) -> pd.DataFrame:
    """Trains designs, segments the test slides with each, compares them; what is finished is taken as it is.

    Writes OUT/segmentations/<design>, OUT/scores (see :func:`tfseg.evaluation.evaluate_cohort`) and OUT/seconds.json.

    Args:
        test: the slides to segment and to compare with their annotations.
        designs: name → function that trains it and returns the folder that ``tfseg segment`` takes.
        out: run folder.
        by: columns of the manifest by which scores are grouped.
        classes: of the annotations.
        options: how slides are segmented.
        baselines: designs that Tukey's test leaves out.

    Returns:
        the table of scores.csv.

    Raises:
        CohortError: before any training, no slide has an annotation, or a column of ``by`` is missing.
        TfsegError: slides could not be segmented; names each.
    """
    check_evaluation(test, by)  # now, not after days of training
    folders, seconds = {}, {}
    for name, train in designs.items():
        start = time.perf_counter()
        print(f"== {name}", flush=True)
        model = train()
        rows, folder = test.rows(), out / "segmentations" / name
        sources = [open_slide(row.slide, mpp=row.mpp) for row in rows]
        names = [row.slide_name for row in rows]
        segment_slides(sources, model, folder, options or SegmentOptions(), names=names).raise_failures()
        folders[name], seconds[name] = folder, round(time.perf_counter() - start, 1)
        keras.utils.clear_session()  # the graphs of all designs would fill the memory
    table = evaluate_cohort(test, folders, out / "scores", by, classes, baselines=baselines)
    write_json(out / "seconds.json", seconds)
    print((out / "scores" / "summary.md").read_text(encoding="utf-8"))
    return table


def train_dense(
    cohort: Cohort,
    config: DenseIndexConfig,
    classes: ClassTable,
    folder: Path,
    index_folder: Path,
    settings: SegmentationSettings,
    workers: int,
) -> Path:
    """Windows, with the table before and after class balancing where there is any; a dense network; its ONNX.

    Args:
        cohort: the slides.
        config: how windows are found.
        classes: of the annotations.
        folder: model folder.
        index_folder: gets the index; finished slides are taken as they are.
        settings: how the network is trained.
        workers: processes that index.

    Returns:
        ``folder``.
    """
    rates = read_rates(settings.elastic, classes) if settings.elastic else None
    index = build_index(cohort, config, index_folder, classes=classes, workers=workers)
    if rates is not None:
        write_balance(index, expand(index, *rates), index_folder)
    train_segmentation(index, folder, settings)
    export_onnx(folder)
    return folder


def run_script(main: Callable[..., None], about: str | None) -> None:
    """Runs a pipeline's ``main`` with the options of the command line; an error is a line, not a traceback."""
    name = Path(sys.argv[0]).stem
    try:
        tyro.cli(main, config=(tyro.conf.AvoidSubcommands,), description=about)
    except TrainingInterruptedError as stopped:
        print(f"{name}: {stopped}", file=sys.stderr)
        sys.exit(130)
    except TfsegError as error:
        sys.exit(f"{name}: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
