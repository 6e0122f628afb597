"""Coordinates relative to the picture are told from pixels, also where joints lie outside it."""

from __future__ import annotations

import numpy as np
import pytest

from dataengine.core.normalised import scale_of, to_pixels

RNG = np.random.default_rng(0)
UNIT = RNG.uniform(0, 1, (40, 17, 2))


def with_some(points: np.ndarray, value: float) -> np.ndarray:
    made = points.copy()
    made[0, :3] = value
    return made


@pytest.mark.parametrize(
    ("points", "scale"),
    [
        (UNIT, "unit"),
        (with_some(UNIT, 1.2), "unit"),
        (with_some(UNIT, -0.1), "unit"),
        (with_some(UNIT, np.nan), "unit"),
        (UNIT[:1, :1], "unit"),
        (UNIT * 2 - 1, "signed"),
        (with_some(UNIT * 2 - 1, 1.3), "signed"),
        (UNIT * 3, "pixels"),
        (UNIT * 640, "pixels"),
        (with_some(UNIT, 5.0), "pixels"),
        (UNIT * 1.9, "pixels"),
        (np.full((2, 17, 2), np.nan), "pixels"),
        (np.zeros((0, 17, 2)), "pixels"),
    ],
)
def test_what_coordinates_are(points: np.ndarray, scale: str) -> None:
    assert scale_of(points) == scale


def test_all_scales_give_the_same_pixels() -> None:
    pixels = (UNIT * np.array([640, 480])).astype(np.float32)
    signed, centred = UNIT * 2 - 1, UNIT - 0.5
    screen = pixels / 640 * 2 - np.array([1, 480 / 640])
    assert to_pixels(pixels, "pixels", 640, 480) is pixels
    for points, scale in ((UNIT, "unit"), (signed, "signed"), (centred, "centred"), (screen, "screen")):
        np.testing.assert_allclose(to_pixels(points, scale, 640, 480), pixels, atol=1e-2)  # type: ignore[arg-type]
