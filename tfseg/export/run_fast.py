"""Runs a headless text pipeline through pyFAST, in a process of its own.

FAST hangs on some pipelines, crashes on some networks, and its command ends with exit code 0 even after an error. So
the process gets a time limit, and success is the output file being there.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tfseg.files import atomic_path
from tfseg.types import ExportError

FLOAT32 = {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_VNNI"}
"""Keeps OpenVINO 2022.3 from computing in bfloat16 on processors that can, which moves probabilities by several per
cent. FAST has no attribute for it."""

_RESULT = "tfseg-result "
_TAIL = 1500


@dataclass(frozen=True)
class FastRun:
    """What a run gave.

    Attributes:
        output: the file that the pipeline wrote.
        seconds: from the pipeline's start to its end, without the start of Python and FAST.
        level: level of the slide's pyramid that the refinement network saw; None where there is none.
    """

    output: Path
    seconds: float
    level: int | None


def has_fast() -> bool:
    """Whether pyFAST is installed (``pip install tfseg[fast]``)."""
    return importlib.util.find_spec("fast") is not None


def run_headless(
    fpl: str | Path,
    slide: str | Path,
    output: str | Path,
    *,
    level: int | None = None,
    timeout: float = 3600.0,
    float32: bool = True,
) -> FastRun:
    """Runs a pipeline that :func:`tfseg.export.fast.write_fpl` wrote with flavour "headless".

    Args:
        fpl: the pipeline.
        slide: a slide that tells its magnification.
        output: the file to write, whole or not at all: .tiff for a segmentation, .hdf5 for a heatmap.
        level: level of the slide's pyramid for the refinement network; by default the smallest one that is no smaller
            than the network's input.
        timeout: seconds after which the process is killed.
        float32: whether OpenVINO must compute in float32; otherwise in bfloat16 where the processor can.

    Raises:
        ExportError: pyFAST is not installed, the pipeline is missing, failed or took too long, or the slide is one
            that FAST misreads.
        OutputError: the output cannot be written.
    """
    if not has_fast():
        raise ExportError(
            'pyFAST is not installed. Install it with `pip install "tfseg[fast]"` (Linux, Windows, macOS).'
        )
    fpl, slide = Path(fpl).resolve(), Path(slide).resolve()
    for what, path in (("pipeline", fpl), ("slide", slide)):
        if not path.is_file():
            raise ExportError(f"{path}: no such {what}.")
    with atomic_path(Path(output).resolve()) as temporary:
        job = {"fpl": str(fpl), "slide": str(slide), "output": str(temporary), "level": level}
        log = _run([sys.executable, "-m", __name__, json.dumps(job)], timeout, float32, fpl, slide)
        results = [line for line in log.splitlines() if line.startswith(_RESULT)]
        if not results or not temporary.is_file():
            raise ExportError(f"{fpl}: FAST wrote nothing for {slide}. Its last words:\n{log[-_TAIL:]}")
        found = json.loads(results[-1][len(_RESULT) :])
    return FastRun(Path(output), found["seconds"], found["level"])


def _run(command: list[str], timeout: float, float32: bool, fpl: Path, slide: Path) -> str:
    """Returns what the process said; it is killed when it takes too long."""
    environment = {**os.environ, **(FLOAT32 if float32 else {})}
    try:
        done = subprocess.run(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=timeout, check=False
        )
    except subprocess.TimeoutExpired as error:
        said = (error.stdout or b"").decode(errors="replace")[-_TAIL:]
        raise ExportError(
            f"{fpl}: FAST did not finish {slide} within {timeout:g} s. Its last words:\n{said}"
        ) from error
    return done.stdout.decode(errors="replace")


def _work(job: dict[str, Any]) -> None:
    """Inside the process: runs the pipeline and prints the result as a line of JSON."""
    import fast

    text = Path(job["fpl"]).read_text(encoding="utf-8")
    pyramid = fast.WholeSlideImageImporter.create(job["slide"]).runAndGetOutputData()
    sizes = [(pyramid.getLevelWidth(i), pyramid.getLevelHeight(i)) for i in range(pyramid.getNrOfLevels())]
    magnification = re.search(r"^Attribute patch-magnification (\S+)", text, re.MULTILINE)
    if magnification:
        _check_levels(job["slide"], sizes, pyramid.getMagnification() / float(magnification[1]))
    level, wanted = job["level"], re.search(r"^# refinement input: (\d+) x (\d+)", text, re.MULTILINE)
    if level is None and wanted:
        level = best_level(sizes, (int(wanted[2]), int(wanted[1])))
    begun = time.perf_counter()
    variables = {"wsi": job["slide"], "output": job["output"]}
    if wanted:
        variables["level"] = str(level)
    fast.Pipeline(job["fpl"], variables).run({}, {}, False)
    seconds = time.perf_counter() - begun
    print(f"\n{_RESULT}{json.dumps({'seconds': seconds, 'level': level})}", flush=True)


def best_level(sizes: list[tuple[int, int]], wanted: tuple[int, int]) -> int:
    """The smallest level (width, height) with both sides no smaller than ``wanted``; 0 where none is."""
    large = [n for n, (width, height) in enumerate(sizes) if width >= wanted[0] and height >= wanted[1]]
    return max(large, default=0)


def _check_levels(slide: str, sizes: list[tuple[int, int]], downsample: float) -> None:
    """FAST rounds a level's downsample down to a whole number: a level whose width was rounded up is read askew."""
    full = sizes[0][0]
    for level, (width, _) in enumerate(sizes):
        if round(full / width) == round(downsample) and int(full / width) != round(full / width):
            raise SystemExit(
                f"{slide}: FAST would read level {level} askew: its width {width} is {full} / {round(full / width)} "
                "rounded up, and FAST takes the downsample for one less. Crop the slide to even sides, or run it with "
                "`tfseg segment`."
            )


if __name__ == "__main__":
    _work(json.loads(sys.argv[1]))
