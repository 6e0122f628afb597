"""Rendered people: the truth is where the picture shows it, and one seed gives one clip."""

from __future__ import annotations

import numpy as np
import pytest

from dataengine.core.errors import ComponentError
from dataengine.core.skeletons import skeleton
from dataengine.rendering import CONDITIONS, MOTIONS, render_clip
from dataengine.rendering.body import NUM_JOINTS, TOE, Body, pose
from dataengine.rendering.motion import angles, standing

LAYOUT = skeleton("body14")


@pytest.mark.parametrize("condition", CONDITIONS)
def test_a_seed_gives_the_same_bytes(condition: str) -> None:
    a, b = (render_clip(3, 3, condition=condition, camera_motion=True) for _ in range(2))
    assert a.frames.tobytes() == b.frames.tobytes()
    assert a.joints.tobytes() == b.joints.tobytes()
    assert np.array_equal(a.hidden, b.hidden)
    other = render_clip(4, 3, condition=condition, camera_motion=True)
    assert other.frames.tobytes() != a.frames.tobytes()


@pytest.mark.parametrize(("condition", "people"), [("clean", 1), ("multi", 3), ("mixed", 0)])
def test_shapes_and_types(condition: str, people: int) -> None:
    clip = render_clip(1, 4, size=(160, 120), condition=condition, num_people=people)
    assert clip.frames.shape == (4, 120, 160, 3) and clip.frames.dtype == np.uint8
    assert clip.joints.shape == (4, people, 14, 2) and clip.joints.dtype == np.float32
    assert clip.head.shape == (4, people) and clip.head.dtype == np.float32
    assert clip.hidden.shape == (4, people, 14) and clip.hidden.dtype == np.bool_
    assert len(clip.motions) == people and set(clip.motions) <= set(MOTIONS)


def test_conditions_show_the_same_people() -> None:
    clean, occluded, low = (render_clip(11, 3, condition=c) for c in ("clean", "occluded", "lowres"))
    assert np.array_equal(clean.joints, occluded.joints) and np.array_equal(clean.joints, low.joints)
    assert occluded.hidden.sum() > clean.hidden.sum()
    detail = [float(np.abs(np.diff(c.frames[0].astype(int), axis=1)).mean()) for c in (clean, low)]
    assert detail[1] < detail[0]


def test_joints_lie_on_the_drawn_person() -> None:
    """Where the picture with a person differs from the picture without, there the visible joints are."""
    hits, total = 0, 0
    for seed in range(30):
        drawn = render_clip(seed, 2, condition="clean", num_people=1)
        empty = render_clip(seed, 2, condition="clean", num_people=0)
        assert empty.joints.shape[1] == 0
        person = np.abs(drawn.frames.astype(int) - empty.frames).max(-1) > 14
        for t in range(2):
            for v in range(NUM_JOINTS):
                x, y = np.round(drawn.joints[t, 0, v]).astype(int)
                if not drawn.hidden[t, 0, v] and 1 <= x < 339 and 1 <= y < 255:
                    hits += bool(person[t, y - 1 : y + 2, x - 1 : x + 2].any())
                    total += 1
    assert total > 500
    assert hits / total > 0.97


@pytest.mark.parametrize("motion", MOTIONS)
def test_every_motion_moves_or_rests_within_the_picture(motion: str) -> None:
    clip = render_clip(21, 12, fps=8, condition="clean", motion=motion)
    assert clip.motions == (motion,)
    assert np.isfinite(clip.joints).all()
    inside = ((clip.joints >= 0) & (clip.joints < (340, 256))).all(-1)
    assert inside.mean() > 0.6


def test_left_is_left_and_knees_bend_backwards() -> None:
    rng = np.random.default_rng(0)
    body, t = Body.draw(rng), np.zeros(1)
    still = {key: np.zeros(1) for key in standing(rng, t)}
    p = pose(body, still, (0.0, 0.0), 0.0).points[0]
    for left, right in zip(LAYOUT.joints[2::2], LAYOUT.joints[3::2], strict=True):
        assert left.startswith("left_") and right.startswith("right_")
        assert p[LAYOUT.index(left), 0] > 0 > p[LAYOUT.index(right), 0]
    assert p[0, 2] > p[1, 2]
    assert p[TOE, 2] > p[LAYOUT.index("left_ankle"), 2]
    bent = pose(body, still | {"kfL": np.ones(1)}, (0.0, 0.0), 0.0).points[0]
    assert bent[LAYOUT.index("left_ankle"), 2] < bent[LAYOUT.index("left_knee"), 2] - 0.1


def test_mirrored_angles_give_the_mirrored_body() -> None:
    """Swapping the sides of all angles mirrors the joints, in the order the layout's flip pairs say."""
    rng = np.random.default_rng(5)
    body, t = Body.draw(rng), np.linspace(0, 1, 4)
    a = angles("free", t, rng)
    mirrored = {
        (key[:-1] + {"L": "R", "R": "L"}[key[-1]] if key[-1] in "LR" else key): value for key, value in a.items()
    }
    for key in ("side", "twist", "look", "yaw"):
        mirrored[key] = -a[key]
    p = pose(body, a, (0.0, 0.0), 0.0).points[:, :NUM_JOINTS]
    q = pose(body, mirrored, (0.0, 0.0), 0.0).points[:, :NUM_JOINTS]
    assert np.allclose(q[:, list(LAYOUT.flip)] * (-1, 1, 1), p, atol=1e-9)


def test_head_length_is_not_foreshortened() -> None:
    clip = render_clip(2, 10, condition="multi", motion="bow")
    seen = np.linalg.norm(clip.joints[:, :, 0] - clip.joints[:, :, 1], axis=-1)
    assert (clip.head > 3).all()
    assert (seen < 1.15 * clip.head).all()


def test_even_and_irregular_times() -> None:
    assert np.allclose(np.diff(render_clip(0, 5, fps=10, size=(64, 48)).times), 0.1)
    steps = np.diff(render_clip(0, 6, irregular=True, size=(64, 48)).times)
    assert (steps >= 0.15).all() and (steps <= 0.6).all() and np.ptp(steps) > 0.01


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"condition": "foggy"}, "allowed"),
        ({"motion": "wav"}, "wave"),
        ({"num_people": 99}, "0 to 8"),
        ({"size": (4, 4)}, "sides"),
    ],
)
def test_what_cannot_be_rendered_is_said(options: dict[str, object], says: str) -> None:
    with pytest.raises(ComponentError, match=says):
        render_clip(0, 2, **options)  # type: ignore[arg-type]
