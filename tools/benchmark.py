"""Speed, as ratios against a peer or a raw limit measured in the same run.

python tools/benchmark.py read       # patches a second of the training pipeline, beside a bare OpenSlide loop
python tools/benchmark.py segment    # a whole `tfseg segment`, beside ONNX Runtime alone and beside FAST
python tools/benchmark.py dense      # the same with a dense network on 32768² px: its memory, beside ONNX Runtime alone
python tools/benchmark.py instances  # all scores of 1000 nuclei on 1000² px, beside one np.unique of the same pixels
python tools/benchmark.py windows    # windows a second of every dense network, beside the plain U-Net
python tools/benchmark.py weights    # weight maps of nuclei tiles a second, beside one distance transform a tile
"""

from __future__ import annotations

import sys

import tyro
from benchmark_dense import dense_benchmark
from benchmark_instances import instances_benchmark
from benchmark_read import read_benchmark
from benchmark_segment import segment_benchmark
from benchmark_weights import weights_benchmark
from benchmark_windows import windows_benchmark

from tfseg.types import TfsegError

if __name__ == "__main__":
    try:
        tyro.extras.subcommand_cli_from_dict(
            {
                "read": read_benchmark,
                "segment": segment_benchmark,
                "dense": dense_benchmark,
                "instances": instances_benchmark,
                "windows": windows_benchmark,
                "weights": weights_benchmark,
            },
            description=__doc__,
            sort_subcommands=False,
        )
    except TfsegError as error:
        sys.exit(f"benchmark: {error}")
