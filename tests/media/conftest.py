"""Moving pictures for the media tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dataengine.media.encode import write_video


def moving(count: int, height: int = 48, width: int = 64, seed: int = 0) -> Iterator[np.ndarray[Any, Any]]:
    """A bright square that runs over a gradient; the blue channel tells the frame."""
    rows, columns = np.mgrid[:height, :width]
    for index in range(count):
        picture = np.stack([columns * 2, rows * 3, np.full((height, width), index * 7 + seed)], -1) % 256
        x, y = index * 3 % (width - 8), index * 2 % (height - 8)
        picture[y : y + 8, x : x + 8] = 255
        yield picture.astype(np.uint8)


@pytest.fixture(scope="session")
def pictures() -> Callable[..., Iterator[np.ndarray[Any, Any]]]:
    return moving


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """100 frames at 25 fps, a key frame every 10, with B-frames."""
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    write_video(path, moving(100), 25, options={"g": "10", "bf": "3"})
    return path
