"""Runs networks on Keras' JAX backend: python jax_forward.py FOLDER, a subfolder each with spec, weights and inputs."""

import sys
from pathlib import Path

import jax
import keras
import numpy as np

from tfseg.models import build
from tfseg.types import ModelSpec, read_config

sys.path.insert(0, str(Path(__file__).parents[1]))
import tiny_encoder  # noqa: F401  (an encoder by its name)


def arrays(path: Path) -> list[np.ndarray]:
    with np.load(path) as file:
        return [file[name] for name in file.files]


def main(root: Path) -> None:
    assert keras.backend.backend() == "jax" and "tensorflow" not in sys.modules
    # Variables need no values, for all are given; JAX would compile an initialiser for each of their shapes.
    with keras.StatelessScope(initialize_variables=False):
        for folder in sorted(path for path in root.iterdir() if path.is_dir()):
            model = build(ModelSpec.from_dict(read_config(folder / "spec.json")))
            weights = arrays(folder / "trained.npz"), arrays(folder / "other.npz")
            inputs = dict(np.load(folder / "inputs.npz"))
            forward = jax.jit(lambda *given, model=model: model.stateless_call(*given, training=False)[0])
            np.savez(folder / "outputs", **forward(*weights, inputs))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
