"""Errors of poses in space: equal to the published program, and what they must not depend on."""

from __future__ import annotations

import numpy as np
import pytest

from dataengine.lift import errors
from tests.golden.stored import read


def test_errors_are_those_of_the_published_program() -> None:
    stored = read("videopose3d_errors")
    given = stored["predicted"], stored["target"]
    for name, error in (
        ("mpjpe", errors.mpjpe), ("p_mpjpe", errors.p_mpjpe), ("n_mpjpe", errors.n_mpjpe),
        ("mean_velocity_error", errors.velocity_error),
    ):  # fmt: skip
        assert error(*given) == pytest.approx(float(stored[name]), rel=1e-10), name


def turned(rng: np.random.Generator) -> np.ndarray:
    q, r = np.linalg.qr(rng.normal(size=(3, 3)))
    q = q * np.sign(np.diag(r))
    return np.asarray(q * np.linalg.det(q) if np.linalg.det(q) > 0 else q @ np.diag([1, 1, -1]))


def test_alignment_undoes_turn_scale_and_shift_but_no_mirroring() -> None:
    rng = np.random.default_rng(0)
    poses = rng.normal(size=(20, 13, 3))
    moved = 1.7 * poses @ turned(rng) + rng.normal(size=(20, 1, 3))
    assert errors.p_mpjpe(moved, poses) < 1e-12
    assert np.abs(errors.aligned(moved / 1.7, poses, scale=False) - poses).max() < 1e-12
    assert errors.n_mpjpe(2.5 * poses, poses) < 1e-12
    assert errors.velocity_error(poses + rng.normal(size=3), poses) < 1e-12
    assert errors.p_mpjpe(poses * [-1, 1, 1], poses) > 0.3


def test_alignment_is_the_best_there_is() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(2, 1, 13, 3))
    best = ((errors.aligned(a, b) - b) ** 2).sum()
    for _ in range(200):
        other = rng.uniform(0, 2) * a @ turned(rng)
        other = other - other.mean(1, keepdims=True) + b.mean(1, keepdims=True)
        assert ((other - b) ** 2).sum() >= best
