"""What the bodies of the example do: four pairs of actions that go through the same poses.

The two of a pair differ by what moves with what, or by the way round, and every clip begins anywhere in its cycle. The
mean pose, and any sum of single coordinates, is the same for both. So a linear classifier of coordinates cannot tell
them apart, and a network that sees joints together over time can.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from dataengine.core.types import Float
from dataengine.rendering.motion import SIDES, Angles, standing

PACE = (0.7, 1.3)
"""Cycles a second, from and to."""


def _punch(a: Angles, rng: np.random.Generator, phase: Float, turned: bool) -> None:
    """Fists go forward in turns, or both at once."""
    for side, shift in zip(SIDES, (0.0, 0.0 if turned else np.pi)):
        out = 0.5 + 0.5 * np.sin(phase + shift)
        a["sf" + side] = 0.5 + 0.9 * out + 0.3 * a["sf" + side]
        a["ef" + side] = 0.2 + 1.9 * (1 - out)
        a["sx" + side] = a["sx" + side] - 0.4


def _march(a: Angles, rng: np.random.Generator, phase: Float, turned: bool) -> None:
    """Knees are lifted in turns; each arm swings with the other leg, or with the leg of its side."""
    lift = rng.uniform(0.7, 1.2)
    for side, shift in zip(SIDES, (0.0, np.pi)):
        up = np.clip(np.sin(phase + shift), 0, 1)
        a["hf" + side] = a["hf" + side] + lift * up
        a["kf" + side] = a["kf" + side] + 1.2 * lift * up
        swing = np.sin(phase + shift + (0.0 if turned else np.pi))
        a["sf" + side] = 0.35 + 0.75 * swing
        a["ef" + side] = a["ef" + side] + 0.5


def _circle(a: Angles, rng: np.random.Generator, phase: Float, turned: bool) -> None:
    """Both hands go round in front of the body: out, up, in and down, or the other way."""
    way = -phase if turned else phase
    wide, high = rng.uniform(0.35, 0.6), rng.uniform(0.4, 0.7)
    for side in SIDES:
        a["sa" + side] = 0.75 + wide * np.cos(way)
        a["sf" + side] = 1.1 + high * np.sin(way)
        a["ef" + side] = 0.3 + 0.5 * a["ef" + side]


def _squat(a: Angles, rng: np.random.Generator, phase: Float, turned: bool) -> None:
    """The body sinks and rises; the arms rise as it rises, or as it sinks."""
    depth = rng.uniform(0.5, 0.8) * (0.5 - 0.5 * np.cos(phase))
    raised = 0.5 + 0.5 * np.cos(phase + (np.pi if turned else 0.0))
    for side in SIDES:
        a["hf" + side] = a["hf" + side] + 1.5 * depth
        a["kf" + side] = a["kf" + side] + 1.9 * depth
        a["sf" + side] = 0.3 + 1.6 * raised
    a["lean"] = a["lean"] + 0.4 * depth


_PAIRS: dict[str, tuple[Callable[[Angles, np.random.Generator, Float, bool], None], bool]] = {
    "punch": (_punch, False),
    "punch_both": (_punch, True),
    "march": (_march, False),
    "amble": (_march, True),
    "circle_out": (_circle, False),
    "circle_in": (_circle, True),
    "squat_reach": (_squat, False),
    "squat_lift": (_squat, True),
}
ACTIONS = tuple(_PAIRS)
"""The classes of the example; each two neighbours are a pair."""


def angles(action: str, t: Float, rng: np.random.Generator) -> Angles:
    """Angles of an action at the times `t`, see `dataengine.rendering.motion`.

    Args:
        action: one of `ACTIONS`.
        t: (T,) float seconds, rising.
        rng: chooses pace, style and where in its cycle the clip begins.
    """
    move, turned = _PAIRS[action]
    a = standing(rng, t)
    phase = 2 * np.pi * (rng.uniform(*PACE) * t + rng.random())
    move(a, rng, phase, turned)
    for side in SIDES:
        a["ef" + side] = np.clip(a["ef" + side], 0.02, 2.4)
        a["kf" + side] = np.clip(a["kf" + side], 0.0, 2.3)
        a["sa" + side] = np.clip(a["sa" + side], 0.04, 3.0)
    return a
