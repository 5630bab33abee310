"""Windows a second of every dense network and Mask R-CNN in ONNX Runtime, at their papers' settings, from memory.

Called by ``tools/benchmark.py windows``. Each network has random weights and a process of its own; ONNX Runtime uses
all cores. The plain U-Net comes first and is what the others are compared with, by output pixels a second, as their
windows differ in size.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from benchmark_process import apart

PEER = "plain_unet"
NETWORKS = (
    PEER,
    "segnet",
    "dmmn_s2",
    "dmmn_ms",
    "dmmn_m2s",
    "dmmn_m3",
    "encoder_unet",
    "multi_level",
    "hooknet",
    "deeplabv3",
    "cd_unet",
    "half_unet",
    "unet_ensemble",
    "gb_unet",
    "mask_rcnn",
)


def windows_benchmark(
    networks: tuple[str, ...] = (), *, batch_size: int = 1, seconds: float = 10.0
) -> list[dict[str, float]]:
    """Measures and prints a Markdown table.

    Args:
        networks: keys of ``tfseg.models.MODELS`` or of its ``VARIANTS``; none takes all that label pixels or instances.
        batch_size: windows a batch.
        seconds: at least so long each network runs, after one batch that does not count.

    Returns:
        a row a network: windows_per_second, output_px (side) and ratio (output pixels a second beside the plain
        U-Net's in this run).
    """
    from tfseg.models.registry import VARIANTS

    networks = networks or (*NETWORKS, *(name for name in VARIANTS if name.startswith("encoder_unet")))
    print("| network | fields | output | windows/s | output pixels/s, plain U-Net = 1 |\n|---|---|---|---|---|")
    rows: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as name:
        for number, network in enumerate(dict.fromkeys((PEER, *networks))):
            found = Path(name) / f"{number}.json"
            try:
                apart(_measure, network, batch_size, seconds, found)
            except SystemExit as failed:  # the others are measured all the same
                if not rows:
                    raise
                print(f"| {network} | failed: {failed} ||||", flush=True)
                continue
            row = json.loads(found.read_text(encoding="utf-8"))
            pixels = row["windows_per_second"] * row["output_px"] ** 2
            first = rows[0]["windows_per_second"] * rows[0]["output_px"] ** 2 if rows else pixels
            rows.append({**row, "ratio": pixels / first})
            print(
                f"| {network} | {row['fields']:.0f} of {row['input_px']:.0f}² | {row['output_px']:.0f}² | "
                f"{row['windows_per_second']:.2f} | {rows[-1]['ratio']:.2f} |",
                flush=True,
            )
    return rows


def _measure(network: str, batch_size: int, seconds: float, found: Path) -> None:
    from tfseg import models
    from tfseg.export.onnx import export_onnx
    from tfseg.infer.predictors import onnx_predictor
    from tfseg.models.registry import VARIANTS, output_names
    from tfseg.slides.class_table import ClassTable
    from tfseg.types import ClassSpec

    architecture, arguments = VARIANTS[network][:2] if network in VARIANTS else (network, {})
    built = models.build(architecture, **arguments)
    channels = built.output[output_names(built)[0]].shape[-1]
    classes = ClassTable.dmmn().classes[:channels]
    classes += tuple(ClassSpec(f"further {n}", (0, 0, 0)) for n in range(channels - len(classes)))
    several = len(built.inputs) > 1
    spec = models.describe(built, architecture, arguments, mpp=None if several else 0.5, classes=classes)
    folder = found.with_suffix("")
    models.save(built, spec, folder)
    export_onnx(folder)
    predict = onnx_predictor(folder).every_output
    random = np.random.default_rng(0)
    fields = [random.uniform(0, 255, (batch_size, *one.size_px, 3)).astype(np.float32) for one in spec.inputs]
    predict(*fields)
    begun, batches = time.perf_counter(), 0
    while time.perf_counter() - begun < seconds:
        predict(*fields)
        batches += 1
    row = {
        "windows_per_second": batches * batch_size / (time.perf_counter() - begun),
        "fields": len(spec.inputs),
        "input_px": spec.inputs[0].size_px[0],
        "output_px": (spec.output_px or spec.inputs[0].size_px)[0],  # Mask R-CNN draws on the whole window
    }
    found.write_text(json.dumps(row), encoding="utf-8")
    print(f"{network}: {batches} batches", file=sys.stderr)
