"""The ``tfseg`` command.

Each command is made by a function that imports what it needs, so that the others, and ``tfseg --help``, answer at once.
(No ``from __future__ import annotations`` here: tyro reads the evaluated annotations of the inner functions.)
"""

import contextlib
import dataclasses
import difflib
import json
import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from tyro.conf import OmitArgPrefixes, Positional, arg

import tfseg
from tfseg.train.interrupt import TrainingInterruptedError
from tfseg.types import CascadeSpec, ModelError, TfsegError

Command = Callable[..., int | None]


def _index() -> Command:
    from tfseg.data.balance import expand, read_rates, write_balance
    from tfseg.data.cohort import Cohort
    from tfseg.data.index import DenseIndexConfig, IndexConfig, build_index
    from tfseg.slides.known_tables import find_table

    def index(
        cohort: Positional[Path],
        /,
        out: Path,
        kind: Literal["patches", "dense"] = "patches",
        config: OmitArgPrefixes[IndexConfig] = IndexConfig(),  # noqa: B008
        dense: DenseIndexConfig = DenseIndexConfig(),  # noqa: B008
        classes: str | None = None,
        elastic: tuple[str, ...] = (),
        saturation: int | None = None,
        map: tuple[str, ...] = (),
        workers: int = 2,
        skip_broken: bool = False,
    ) -> None:
        """Finds tissue on every slide of a cohort, tiles it and labels the patches.

        Writes patches.parquet, summary.csv, index.json and a picture per slide; of kind dense also class_counts.json.
        Run again after a stop: finished slides are not done twice.

        Args:
            cohort: manifest CSV with the columns slide, annotation, split and any others (grade, stain, mpp …).
            out: folder of the index.
            kind: "patches" for a patch classifier, "dense" for windows of a segmentation network.
            config: how patches are found (kind patches).
            dense: how windows are found (kind dense).
            classes: h2g, tissue_types, tumour_normal_others, tissue_and_necrosis, or a JSON file with classes of your
                own. None takes h2g for patches, tissue_types (the DMMN paper's) for dense.
            elastic: deformed copies of windows by class, as CLASS=COPIES, first the class that wins where several
                occur: writes class_balance.csv and .png. "dmmn" takes that paper's rates.
            saturation: 0..255, pixels of more are tissue; lower it for faint stains. None takes 20.
            map: names in annotation files that mean a class, as NAME=CLASS, or NAME=ignore, NAME=skip.
            workers: slides at a time.
            skip_broken: leave unreadable slides out, naming them, instead of stopping.
        """
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

    return index


def _check_unused(arguments: Sequence[str]) -> None:
    """An option of the other kind would be ignored without a word, also one that gives the default of its kind."""
    from tfseg.data.index_config import IndexConfig

    words = [word.replace("=", " ", 1).split(" ") for word in arguments if word.startswith("--")]
    given = {word[0].replace("_", "-") for word in words}
    pairs = zip(arguments, [*arguments[1:], ""], strict=True)
    is_dense = "--kind=dense" in arguments or ("--kind", "dense") in pairs
    patches = sorted(given & {f"--{field.name.replace('_', '-')}" for field in dataclasses.fields(IndexConfig)})
    if is_dense and patches:
        raise TfsegError(
            f"tfseg index --kind dense has no {', '.join(patches)}: it takes its options as --dense.…, e.g. "
            "--dense.mpp 0.5. See --help."
        )
    if not is_dense and any(word.startswith("--dense.") or word == "--elastic" for word in given):
        raise TfsegError("--dense.… and --elastic are for segmentation networks: add --kind dense.")


def _train() -> Command:
    with _quiet_stderr():
        import tensorflow  # noqa: F401

    from tfseg.data.cohort import Cohort
    from tfseg.data.index import DenseIndexConfig, PatchIndex
    from tfseg.export.onnx import export_onnx
    from tfseg.train.cascade import train_cascade
    from tfseg.train.classifier import ClassifierSettings
    from tfseg.train.clustering import ClusterSettings
    from tfseg.train.refinement import RefinementSettings
    from tfseg.train.segmentation import SegmentationSettings, train_segmentation

    def dense(index: PatchIndex, out: Path, settings: SegmentationSettings) -> Path:
        train_segmentation(index, out / "model", settings)
        export_onnx(out / "model")
        return out / "model"

    def cascade(
        cohort: Cohort,
        index: PatchIndex,
        out: Path,
        stages: str,
        first: ClassifierSettings,
        second: RefinementSettings,
        name: str,
        workers: int,
    ) -> Path:
        if stages == "refinement" and second.architecture != "unet_lr":
            raise ModelError(
                f"--stages refinement trains a network without heatmaps; {second.architecture} needs them. "
                "Give --refinement.architecture unet_lr, or train both stages."
            )
        one, two = None if stages == "refinement" else first, None if stages == "classifier" else second
        return train_cascade(cohort, index, out, one, two, name=name, workers=workers)

    def train(
        cohort: Positional[Path],
        /,
        index: Path,
        out: Path,
        stages: Literal["both", "classifier", "refinement"] = "both",
        clustering: bool = False,
        augment: bool = True,
        classifier: ClassifierSettings = ClassifierSettings(clustering=ClusterSettings()),  # noqa: B008
        refinement: RefinementSettings = RefinementSettings(),  # noqa: B008
        segmentation: SegmentationSettings = SegmentationSettings(),  # noqa: B008
        name: str = "h2g_net",
        workers: int = 2,
    ) -> None:
        """Trains networks; writes the folder that `tfseg segment` takes.

        On an index of patches: the classifier and the refinement network, with the settings of the H2G-Net paper. On an
        index of windows (`tfseg index --kind dense`): a dense network, with the settings of the DMMN paper. Run again
        after a stop: it goes on at the last saved step.

        Args:
            cohort: manifest CSV, the one that was indexed.
            index: folder that `tfseg index` wrote.
            out: run folder: classifier/, heatmaps/, refinement/ and model/; of a dense network model/ alone.
            stages: "classifier" stops after stage one; "refinement" trains a network that sees the whole slide alone
                (give --refinement.architecture unet_lr).
            clustering: weigh the classifier's loss by clusters of tissue (k-means on features of the patches).
            augment: augment patches, slides and windows.
            classifier: stage one.
            refinement: stage two.
            segmentation: the dense network.
            name: of the cascade.
            workers: slides at a time, for heatmaps.
        """
        slides, patches = Cohort.read(cohort), PatchIndex.load(index)
        stage_options = classifier, refinement, stages, clustering
        if isinstance(patches.config, DenseIndexConfig):
            if stage_options != (ClassifierSettings(clustering=ClusterSettings()), RefinementSettings(), "both", False):
                raise ModelError(
                    f"{index} holds windows of a dense network, which takes --segmentation.… and no stages."
                )
            model = dense(patches, out, segmentation if augment else dataclasses.replace(segmentation, augment="none"))
        else:
            if segmentation != SegmentationSettings():
                raise ModelError(f"--segmentation.… is for dense networks; {index} holds patches of a classifier.")
            first = dataclasses.replace(classifier, clustering=classifier.clustering if clustering else None)
            second = refinement
            if not augment:
                first, second = dataclasses.replace(first, augment=None), dataclasses.replace(second, augment=None)
            model = cascade(slides, patches, out, stages, first, second, name, workers)
        print(f"model: {model}  (tfseg segment SLIDE --model {model} --out DIR)")

    return train


def _segment() -> Command:
    from tfseg.infer.cascade import SegmentOptions, segment_slides

    def segment(
        slides: Positional[tuple[Path, ...]],
        /,
        model: Path,
        out: Path,
        options: OmitArgPrefixes[SegmentOptions] = SegmentOptions(progress=True),  # noqa: B008
    ) -> int:
        """Segments whole slides: mask (and heatmap) as pyramidal TIFF, polygons for QuPath, overlay, areas, summary.

        The model is a cascade, a patch classifier, a network on whole slides, or a dense network, which labels every
        pixel window by window.

        Run again after a stop: finished slides are skipped and a started one goes on. A slide that cannot be done is
        named, the rest are done, and the exit code is 1.

        Args:
            slides: slides or pictures.
            model: folder that `tfseg train` wrote.
            out: gets a folder a slide.
            options: how. --stride-px, --border, --tissue, --saturation, --min-tissue, --background, --threshold,
                --thresholds and --below are for dense networks alone; with another model they are an error.
        """
        if not slides:
            raise TfsegError("no slide given. Usage: tfseg segment SLIDE… --model FOLDER --out DIR")
        report = segment_slides(slides, model, out, options)
        for name, summary in report.summaries.items():
            areas = _areas(summary["areas_mm2"])
            seconds = f"{summary['seconds']['total']:.1f} s"
            how = "finished before, left as it is (--force does it again)" if name in report.skipped else seconds
            print(f"{out / name}: {areas}; {how}")
        for name, reason in report.failures.items():
            print(f"tfseg segment: {name}: {reason}", file=sys.stderr)
        return 1 if report.failures else 0

    return segment


def _areas(found: dict[str, Any]) -> str:
    """The areas of a summary in a line: of slide and tissue, then, perhaps nested (dense networks), of the classes."""
    whole = {what: area for what, area in found.items() if not isinstance(area, dict)}
    nested = found["classes"].items() if len(whole) < len(found) else ()
    return ", ".join(f"{what} {area:.2f} mm²" for what, area in [*whole.items(), *nested])


def _evaluate() -> Command:
    from tfseg.data.cohort import Cohort
    from tfseg.data.index import PatchIndex
    from tfseg.evaluation import evaluate_cohort
    from tfseg.evaluation_classes import segmented_classes

    def evaluate(
        cohort: Positional[Path],
        /,
        segmentations: tuple[Path, ...],
        out: Path,
        split: str = "test",
        by: tuple[str, ...] = (),
        index: Path | None = None,
        map: tuple[str, ...] = (),
        within_tissue: bool = False,
    ) -> None:
        """Compares segmentations with the annotations of a cohort: scores per slide, tables, box plots, Tukey's test.

        Args:
            cohort: manifest CSV.
            segmentations: folders that `tfseg segment --out` wrote, one a design; the folder's name names the design.
            out: gets scores.csv, summary.csv, summary.md, boxes*.png and, for two designs or more, tukey.csv; with more
                than two classes also classes.csv and a folder a design with confusion.csv and .png, boxes*.png of each
                class, and, where `tfseg segment` wrote the probabilities, curves.csv and .png.
            split: the slides of this split are compared.
            by: columns of the manifest to group by; where none is given, grade, or with more than two classes stain,
                scanner and source, those that the manifest has.
            index: folder that `tfseg index` wrote: annotations are read with its classes and their spellings. Without
                it, classes are those of the segmentations, by their own names and the spellings of known tables.
            map: names in annotation files that mean a class, as NAME=CLASS.
            within_tissue: compare within tissue alone.
        """
        classes = segmented_classes(segmentations) if index is None else PatchIndex.load(index).labels
        designs = {folder.name: folder for folder in segmentations}
        if len(designs) < len(segmentations):
            given = ", ".join(str(folder) for folder in segmentations)
            raise TfsegError(f"two folders have the same name, which names the design: {given}. Rename one.")
        slides = Cohort.read(cohort).split(split)
        usual = ("grade",) if len(classes.classes) == 2 else ("stain", "scanner", "source")
        by = by or tuple(column for column in usual if column in slides.table.columns)
        evaluate_cohort(slides, designs, out, by, classes.with_aliases(map), within_tissue)
        print((out / "summary.md").read_text(encoding="utf-8"))
        print(f"scores: {out}")

    return evaluate


def _export() -> Command:
    with _quiet_stderr():
        import tensorflow  # noqa: F401

    from tfseg.export.fast import export_cascade
    from tfseg.export.fast_dense import export_dense
    from tfseg.export.onnx import export_onnx
    from tfseg.infer.networks import is_dense

    def export(
        model: Positional[Path],
        /,
        profile: Literal["default", "fast"] = "fast",
        engine: Literal["OpenVINO", "ONNXRuntime", "TensorRT"] = "OpenVINO",
    ) -> None:
        """Exports the networks of a cascade, or a single one, to ONNX and to FAST text pipelines.

        Args:
            model: model or cascade folder.
            profile: "default" writes model.onnx, for ONNX Runtime and `tfseg segment`; "fast" also writes
                model_fast.onnx, free of operators that FAST's OpenVINO gets wrong (a dense network as one graph that
                cuts its own fields), and the pipelines for FastPathology and for running without a screen.
            engine: of FAST, in the pipelines.
        """
        spec = CascadeSpec.load(model)
        if profile == "fast":
            written = export_dense(model, engine) if is_dense(model) else export_cascade(model, engine)
        else:
            written = [export_onnx(model / part) for part in (spec.classifier, spec.refinement) if part is not None]
        print(*written, sep="\n")

    return export


def _models() -> Command:
    with _quiet_stderr():
        from tfseg.models import table

    def models(*, json_: Annotated[bool, arg(name="json")] = False) -> None:
        """Lists every registered model with its parameters, counted by building it at its paper's settings.

        Args:
            json_: print JSON instead of a table.
        """
        rows = table()
        if json_:
            print(json.dumps(rows, indent=2))
            return
        from rich.console import Console
        from rich.table import Table

        shown = Table("model", "total", "trainable", "structure", "paper")
        for row in rows:
            shown.add_row(row["name"], f"{row['total']:,}", f"{row['trainable']:,}", row["structure"], row["paper"])
        Console().print(shown)

    return models


def _demo() -> Command:
    with _quiet_stderr():
        from tfseg.demo import run_demo

    def demo(out: Path = Path("runs/demo"), workers: int = 2, seed: int = 0) -> None:
        """Makes a small synthetic cohort and takes H2G-Net the whole way: index, train, segment, evaluate, export.

        Args:
            out: folder of everything the demo writes.
            workers: processes that write and index slides.
            seed: one seed for cohort, sampling and weights.
        """
        run_demo(out, workers=workers, seed=seed)

    return demo


COMMANDS: dict[str, tuple[str, Callable[[], Command]]] = {
    "index": ("find tissue, tile it, label patches", _index),
    "train": ("train classifier and refinement network, or a dense network", _train),
    "segment": ("segment whole slides", _segment),
    "evaluate": ("compare segmentations with annotations", _evaluate),
    "export": ("write ONNX and FAST text pipelines", _export),
    "models": ("list the registered models and their parameters", _models),
    "demo": ("all of it on synthetic slides, in minutes", _demo),
}


@contextlib.contextmanager
def _quiet_stderr() -> Iterator[None]:
    """Hides what TensorFlow's C++ side prints while it is imported; a failing import still raises."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _usage() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"tfseg {tfseg.__version__}: from annotated slides to a measured, deployed model", ""]
    lines += ["usage: tfseg COMMAND [options]     (tfseg COMMAND --help for its options)", ""]
    lines += [f"  {name:<{width}}  {what}" for name, (what, _) in COMMANDS.items()]
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit code: 0 well, 1 an error that the message explains, 2 wrong usage, 130 Ctrl-C."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    logging.captureWarnings(True)  # Python's warnings speak to programmers; what users need, tfseg logs itself
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    arguments = sys.argv[1:] if argv is None else argv
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_usage())
        return 0 if arguments else 2
    if arguments[0] == "--version":
        print(tfseg.__version__)
        return 0
    name, rest = arguments[0], arguments[1:]
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f", did you mean {near[0]!r}?" if near else ""
        print(f"tfseg: no command {name!r}{hint}\n\n{_usage()}", file=sys.stderr)
        return 2
    try:
        if name == "index":
            _check_unused(rest)
        command = COMMANDS[name][1]()
        return tyro.cli(command, args=rest, prog=f"tfseg {name}", config=(tyro.conf.AvoidSubcommands,)) or 0
    except TrainingInterruptedError as stopped:
        print(f"\ntfseg {name}: {stopped}", file=sys.stderr)
        return 130
    except (TfsegError, OSError) as error:
        print(f"tfseg {name}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"\ntfseg {name}: stopped. What is finished is kept; run the same command to go on.", file=sys.stderr)
        return 130
