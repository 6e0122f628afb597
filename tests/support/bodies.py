"""Bodies that several tests place into a picture."""

from __future__ import annotations

import numpy as np

BODY = np.array(
    [
        [0, 0.5],
        [0.8, 1.5],
        [-0.8, 1.5],
        [1, 2.7],
        [-1, 2.7],
        [1, 3.7],
        [-1, 3.7],
        [0.5, 3.8],
        [-0.5, 3.8],
        [0.5, 5.4],
        [-0.5, 5.4],
        [0.5, 7],
        [-0.5, 7],
    ]
)
"""(13, 2): a standing body in body13. The unit is the length of a head; the feet are at y = 7."""
