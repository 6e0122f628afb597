"""What the experts of a build proposed, read from its intermediates."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from dataengine.io import shards


def proposed(out: Path) -> dict[str, np.ndarray]:
    """Clip -> (M, E, T, 13, 2): joints of every expert, people in the order of their tracks."""
    found = {}
    for path in sorted((out / "work").rglob("*.tar")):
        for key, entries in shards.iterate(path):
            if "expert_keypoints.npy" in entries:
                found[key] = np.load(io.BytesIO(entries["expert_keypoints.npy"]))
    return found
