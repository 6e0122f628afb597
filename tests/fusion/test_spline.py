"""The robust spline: its equations, its measure of noise, and what steps are good for."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.linalg import norm

from dataengine.fusion import fuse
from dataengine.fusion._kernels import smoothing
from dataengine.fusion.observations import bridge


def observations(frames, seed=0):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(0, 1, (2, 3, frames, 8))
    weight = rng.random((3, frames, 8)) * (rng.random((3, frames, 8)) < 0.7)
    return np.where(weight > 0, x, 0), np.where(weight > 0, y, 0), weight, rng.normal(0, 1, (2, frames, 8))


@pytest.mark.parametrize("frames", [1, 2, 3, 4, 9])
@pytest.mark.parametrize("speed", [0.0, 2.5])
@pytest.mark.parametrize("stiff", [0.0, 1.3])
def test_a_stage_solves_its_equations(frames, speed, stiff):
    """One reweighted step against a dense solve of the same squares."""
    scale, quick, bend = 0.7, 0.4, 0.9
    x, y, weight, pose = observations(frames)
    before = pose.copy()
    smoothing.spline(x, y, weight, pose, np.array([[scale, quick, speed, stiff, bend]]))
    first, second = (
        np.diff(np.eye(frames), 1, axis=0),
        np.diff(np.eye(frames), 2, axis=0) if frames > 2 else np.zeros((0, frames)),
    )
    squares = lambda a, b: a**2 + b**2  # noqa: E731
    for v in range(8):
        own = before[:, :, v]
        near = weight[:, :, v] / (1 + squares(x[:, :, v] - own[0], y[:, :, v] - own[1]) / scale**2) ** 2
        far = squares(first @ (x[:, :, v] - own[0]).T, first @ (y[:, :, v] - own[1]).T).T
        steps = speed * np.minimum(weight[:, 1:, v], weight[:, :-1, v]) / (1 + far / quick**2) ** 2
        bent = stiff / (1 + squares(second @ own[0], second @ own[1]) / bend**2)
        matrix = (
            np.diag(near.sum(0) + 1e-9) + first.T @ np.diag(steps.sum(0)) @ first + second.T @ np.diag(bent) @ second
        )
        for axis, data in enumerate((x, y)):
            right = (
                (near * data[:, :, v]).sum(0)
                + 1e-9 * own[axis]
                + first.T @ (steps * (first @ data[:, :, v].T).T).sum(0)
            )
            np.testing.assert_allclose(pose[axis, :, v], np.linalg.solve(matrix, right), rtol=1e-6, atol=1e-6)


def loss(x, y, weight, pose, scale, quick, speed, stiff, bend):
    places = ((x - pose[0]) ** 2 + (y - pose[1]) ** 2) / scale**2
    steps = (np.diff(x - pose[0], axis=1) ** 2 + np.diff(y - pose[1], axis=1) ** 2) / quick**2
    bent = (np.diff(pose, 2, axis=1) ** 2).sum(0) / bend**2
    least = np.minimum(weight[:, 1:], weight[:, :-1])
    total = scale**2 * (weight * places / (1 + places)).sum() + speed * quick**2 * (least * steps / (1 + steps)).sum()
    return total + stiff * bend**2 * np.log1p(bent).sum()


def test_every_stage_lowers_the_loss():
    stage = (0.7, 0.4, 2.5, 1.3, 0.9)
    x, y, weight, pose = observations(30)
    losses = [loss(x, y, weight, pose, *stage)]
    for _ in range(20):
        smoothing.spline(x, y, weight, pose, np.array([stage]))
        losses.append(loss(x, y, weight, pose, *stage))
    assert (np.diff(losses) <= 1e-6).all() and losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize("experts", [1, 2, 4])
def test_wobble_is_the_noise_of_steps(experts):
    """For white noise of deviation s: 8 s^2 in the plane, between two experts as from one expert's neighbours in
    time."""
    rng = np.random.default_rng(0)
    x, y = np.arange(400)[:, None] * 2.0 + rng.normal(0, 3, (2, experts, 400, 8))
    weight = (rng.random(x.shape) < 0.8).astype(float)
    assert smoothing.step_noise(x, y, weight, 1e6) == pytest.approx(8 * 9, rel=0.1)
    shift = rng.normal(0, 50, (experts, 1, 1))
    assert smoothing.step_noise(x + shift, y, weight, 1e6) == pytest.approx(8 * 9, rel=0.1)
    assert smoothing.step_noise(x, y, 0 * weight, 1.0) == 0


def test_bridge():
    nan = np.nan
    pose = np.array([[[nan, 1.0, nan], [2.0, nan, nan], [nan, nan, nan], [nan, 4.0, nan], [5.0, nan, nan]]] * 2)
    bridge(pose)
    np.testing.assert_allclose(pose[0].T, [[2, 2, 3, 4, 5], [1, 2, 3, 4, 4], [0] * 5])


def offsets(seed=0, frames=120):
    """A quick body seen by experts who are each wrong by a vector that holds for a while, two of them badly at
    times."""
    rng = np.random.default_rng(seed)
    t = np.arange(frames)[:, None]
    truth = (
        rng.uniform(0, 150, (13, 2))
        + 200
        + 25 * np.stack([np.sin(t / 5 + np.arange(13)), np.cos(t / 4 + np.arange(13))], -1)
    )
    truth[:, 0] = truth[:, 1:3].mean(1) + [0, -20]
    wrong = np.repeat(rng.normal(0, 4, (3, frames // 8, 13, 2)), 8, axis=1)
    bad = np.repeat(rng.random((frames // 8, 13)) < 0.2, 8, axis=0)
    wrong[:2, bad] += np.repeat(rng.normal(0, 15, (2, frames // 8, 13, 2)), 8, axis=1)[:, bad]
    return truth, (truth + wrong + rng.normal(0, 0.4, wrong.shape)).astype(np.float32)


@pytest.mark.parametrize("start", ["median", "viterbi_path"])
def test_steps_carry_a_joint_that_most_get_wrong_for_a_while(start):
    truth, coords = offsets()

    def error(**options):
        return norm(
            fuse(coords, method="spline", skeleton="body13", unswap=False, start=start, **options).coords - truth,
            axis=-1,
        )

    with_steps, without, median = error(), error(motion=False, smooth=0.02), norm(np.median(coords, 0) - truth, axis=-1)
    assert (with_steps < 10).mean() > 0.97
    assert with_steps.mean() < 0.6 * min(without.mean(), median.mean())


def test_smooth_and_motion_do_what_they_say():
    truth, coords = offsets()
    quick, own = norm(np.diff(truth, 2, axis=0), axis=-1).mean(), {}
    for smooth in (0, 1, 30):
        pose = fuse(coords, method="spline", skeleton="body13", smooth=smooth).coords
        own[smooth] = norm(np.diff(pose, 2, axis=0), axis=-1).mean()
    assert own[0] > own[1] > own[30] and abs(own[1] / quick - 1) < 0.2
    alone = fuse(coords, method="spline", skeleton="body13", smooth=0, motion=False, unswap=False).coords
    again = fuse(coords[:, ::-1], method="spline", skeleton="body13", smooth=0, motion=False, unswap=False).coords[::-1]
    np.testing.assert_allclose(alone, again, atol=1e-3)
