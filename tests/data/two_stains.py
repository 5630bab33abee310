"""A picture of two known stains."""

from __future__ import annotations

import numpy as np

HAEMATOXYLIN = np.array([0.65, 0.70, 0.29]) / np.linalg.norm([0.65, 0.70, 0.29])
EOSIN = np.array([0.07, 0.99, 0.11]) / np.linalg.norm([0.07, 0.99, 0.11])
PURPLE = np.array([0.50, 0.75, 0.43]) / np.linalg.norm([0.50, 0.75, 0.43])
ORANGE = np.array([0.20, 0.70, 0.68]) / np.linalg.norm([0.20, 0.70, 0.68])


def two_stains(
    stains: tuple[np.ndarray, np.ndarray] = (HAEMATOXYLIN, EOSIN), strength: float = 1.0, seed: int = 0, side: int = 96
) -> np.ndarray:
    """Nuclei (mostly the first stain) in stroma (mostly the second), with a white margin and sensor noise."""
    rng = np.random.default_rng(seed)
    amounts = rng.gamma((2.0, 3.0), (0.4, 0.25), (side, side, 2)) * strength
    nuclei = rng.random((side, side)) < 0.3
    amounts[nuclei, 1] *= 0.1
    amounts[~nuclei, 0] *= 0.05
    amounts[:, : side // 6] = 0
    image = (
        255 * np.exp(-amounts @ np.stack(stains)) + rng.normal(0, 1, (side, side, 3)) * (amounts.sum(-1) > 0)[..., None]
    )
    return image.clip(0, 255).round().astype(np.uint8)
