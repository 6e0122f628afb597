"""The signature of a clip, by which near-duplicates are found: a hash of the picture and a pose every half second."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dataengine.core.types import Bool, Float

STEP = 0.5
"""Seconds between two entries of a signature."""

LONGEST = 120
"""Most entries of a signature."""

FLAT = 3.0
"""Standard deviation of grey levels below which a picture is flat and has hash 0."""


def picture_hash(grey: NDArray[np.uint8]) -> int:
    """64-bit hash of a grey picture (h, w): signs of its 64 lowest cosine coefficients about their median; 0 if flat.

    The perceptual hash of Zauner, "Implementation and benchmarking of perceptual image hash functions", 2010, 3.2.2.
    """
    import cv2

    if float(grey.std()) < FLAT:
        return 0
    small = cv2.resize(grey, (32, 32), interpolation=cv2.INTER_AREA).astype(np.float32)
    low = cv2.dct(small)[:8, :8].ravel()
    bits = low > np.median(low[1:])
    return int(np.packbits(bits).view(">u8")[0]) or 1


def pose_words(coords: Float) -> NDArray[np.int8]:
    """Normalised poses as bytes: joints relative to their mean, in steps of `WORD` of the size of the body.

    The size of a body is the root mean square distance of its joints from their mean. Fewer than five joints are no
    pose.

    Args:
        coords: (K, V, 2) pixels, NaN where unseen.

    Returns:
        (K, 2 V) int8, -128 where unseen.
    """
    seen: Bool = np.asarray(np.isfinite(coords).all(-1))
    count = seen.sum(-1)
    filled = np.where(seen[..., None], coords, 0.0).astype(np.float64)
    middle = filled.sum(-2) / np.maximum(count, 1)[:, None]
    about = np.where(seen[..., None], coords - middle[:, None], 0.0)
    size = np.sqrt((about**2).sum((-1, -2)) / np.maximum(count, 1))
    scaled = np.clip(np.rint(100 / 2.5 * about / np.maximum(size, 1e-6)[:, None, None]), -127, 127)
    known = seen & (count >= 5)[:, None] & (size > 1e-6)[:, None]
    words: NDArray[np.int8] = np.where(known[..., None], scaled, -128).astype(np.int8).reshape(len(coords), -1)
    return words


WORD = 2.5 / 100
"""One step of a pose word, relative to the size of the body."""
