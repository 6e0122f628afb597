"""What rendered people do: joint angles over time for every named motion.

Angles are radians, one array (T,) each. Keys of both sides end in L or R:

==========  ==========================================================================
``sf``      arm forward and up (0 hangs, pi/2 points forward, pi points up)
``sa``      arm out to its side
``sx``      turn of the arm about itself; negative turns a bent forearm inwards
``ef``      bend of the elbow
``hf, ha``  thigh forward, thigh out to its side
``kf``      bend of the knee (the shin only ever goes backwards)
==========  ==========================================================================

Keys of the whole body: ``lean`` (trunk forward), ``side`` (trunk sideways), ``twist`` (trunk about
the vertical), ``nod`` and ``look`` (head), ``yaw`` (turning on the spot), ``pitch`` (whole body
forward, for lying), and two lengths in metres: ``jump`` (off the ground) and ``path`` (along the
direction faced).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from dataengine.core.types import Float

Angles: TypeAlias = dict[str, Float]
SIDES = ("L", "R")


def wobble(rng: np.random.Generator, t: Float, amplitude: float) -> Float:
    """A smooth random function of time: two slow sines."""
    return sum(
        (amplitude / 2 * np.sin(2 * np.pi * (rng.uniform(0.1, 0.8) * t + rng.random())) for _ in range(2)),
        np.zeros_like(t),
    )


def standing(rng: np.random.Generator, t: Float) -> Angles:
    """Somebody who stands about: small movements everywhere."""
    zero = np.zeros_like(t)
    a = {key: wobble(rng, t, 0.12) for key in ("lean", "side", "twist", "nod", "yaw")}
    a["look"] = wobble(rng, t, 0.6)
    a |= {"pitch": zero.copy(), "jump": zero.copy(), "path": zero.copy()}
    for s in SIDES:
        a["sf" + s] = wobble(rng, t, 0.25)
        a["sa" + s] = rng.uniform(0.05, 0.35) + wobble(rng, t, 0.1)
        a["sx" + s] = wobble(rng, t, 0.4)
        a["ef" + s] = rng.uniform(0.05, 0.5) + wobble(rng, t, 0.15)
        a["hf" + s] = wobble(rng, t, 0.08)
        a["ha" + s] = zero + rng.uniform(0.02, 0.16)
        a["kf" + s] = zero + rng.uniform(0.0, 0.15)
    return a


def _gait(a: Angles, rng: np.random.Generator, t: Float, swing: float, pace: float) -> None:
    phase = 2 * np.pi * (pace * rng.uniform(0.85, 1.15) * t + rng.random())
    for s, shift in (("L", 0.0), ("R", np.pi)):
        a["hf" + s] = swing * (np.sin(phase + shift) + 0.25)
        a["kf" + s] = 1.3 * swing * np.clip(np.sin(phase + shift - 1.9) + 0.45, 0, 2)
        a["sf" + s] = -0.95 * swing * np.sin(phase + shift)


def _walk(a: Angles, rng: np.random.Generator, t: Float, up: Float, s: str, o: str) -> None:
    _gait(a, rng, t, rng.uniform(0.3, 0.5), 0.9)
    a["path"] = 0.9 * rng.uniform(0, 0.6) * (t - t.mean())
    a["lean"] = a["lean"] + 0.05


def _run(a: Angles, rng: np.random.Generator, t: Float, up: Float, s: str, o: str) -> None:
    _gait(a, rng, t, rng.uniform(0.65, 1.0), 1.4)
    a["path"] = 1.8 * rng.uniform(0, 0.5) * (t - t.mean())
    a["lean"] = a["lean"] + 0.22
    for side in SIDES:
        a["ef" + side] = a["ef" + side] + 1.2


def _wave(a: Angles, rng: np.random.Generator, t: Float, up: Float, s: str, o: str) -> None:
    a["sa" + s] = a["sa" + s] + rng.uniform(1.4, 2.3)
    a["sf" + s] = a["sf" + s] + 0.1
    a["ef" + s] = 0.5 + 0.8 * up + 0.2 * rng.random()
    a["sx" + s] = np.zeros_like(t) + rng.uniform(1.0, 1.7)


def _clap(a: Angles, rng: np.random.Generator, t: Float, up: Float, s: str, o: str) -> None:
    high = rng.uniform(0.7, 1.4)
    for side in SIDES:
        a["sf" + side] = high + 0.1 * up
        a["sa" + side] = 0.05 + 0.55 * up
        a["ef" + side] = 0.75 + 0.15 * up
        a["sx" + side] = -0.9 + 0.5 * up


def _squat(a: Angles, rng: np.random.Generator, t: Float, up: Float, s: str, o: str) -> None:
    _crouch(a, rng, up * rng.uniform(0.65, 1.0), 2.0)


def _sit(a: Angles, rng: np.random.Generator, t: Float, up: Float, s: str, o: str) -> None:
    depth = np.clip(1.7 * up, 0, 1) if rng.random() < 0.5 else np.ones_like(t)
    _crouch(a, rng, depth, 1.55)


def _crouch(a: Angles, rng: np.random.Generator, depth: Float, knee: float) -> None:
    reach = rng.uniform(0.4, 1.6) if rng.random() < 0.7 else 0.0
    spread = rng.uniform(0.05, 0.4)
    for side in SIDES:
        a["hf" + side] = a["hf" + side] + 1.55 * depth
        a["kf" + side] = a["kf" + side] + knee * depth
        a["ha" + side] = a["ha" + side] + spread * depth
        a["sf" + side] = a["sf" + side] + reach * depth
        a["ef" + side] = a["ef" + side] + rng.uniform(0, 1.2)
    a["lean"] = a["lean"] + rng.uniform(0.05, 0.6) * depth


def _jump(a: Angles, rng: np.random.Generator, t: Float, up: Float, s: str, o: str) -> None:
    dip, air = np.clip(1 - 2 * up, 0, 1), np.clip(2 * up - 1, 0, 1)
    for side in SIDES:
        a["hf" + side] = a["hf" + side] + 0.8 * dip
        a["kf" + side] = a["kf" + side] + 1.3 * dip
        a["sf" + side] = -0.5 * dip + 2.4 * air
    a["jump"] = 0.4 * air


def _kick(a: Angles, rng: np.random.Generator, t: Float, up: Float, s: str, o: str) -> None:
    a["hf" + s] = -0.4 + rng.uniform(1.1, 1.9) * up
    a["kf" + s] = 1.3 * np.clip(1 - 1.6 * up, 0, 1)
    a["ha" + s] = a["ha" + s] + rng.uniform(0, 0.5) * up
    a["sf" + o] = a["sf" + o] + 0.8 * up
    a["sa" + s] = a["sa" + s] + 0.4 * up
    a["lean"] = a["lean"] - 0.2 * up


def _throw(a: Angles, rng: np.random.Generator, t: Float, up: Float, s: str, o: str) -> None:
    a["sf" + s] = 2.6 - 2.0 * up
    a["ef" + s] = 0.2 + 1.5 * np.clip(1 - 1.5 * up, 0, 1)
    a["sa" + s] = a["sa" + s] + 0.3
    a["sf" + o] = a["sf" + o] + 0.9 * (1 - up)
    a["twist"] = (1 - 2 * up) * (-0.45 if s == "R" else 0.45)
    a["hf" + o], a["kf" + o], a["hf" + s] = a["hf" + o] + 0.4, a["kf" + o] + 0.25, a["hf" + s] - 0.2


def _bow(a: Angles, rng: np.random.Generator, t: Float, up: Float, s: str, o: str) -> None:
    a["lean"] = a["lean"] + rng.uniform(0.8, 1.4) * up
    follow = rng.uniform(0.0, 0.9)
    for side in SIDES:
        a["sf" + side] = a["sf" + side] + follow * up


def _jumping_jack(a: Angles, rng: np.random.Generator, t: Float, up: Float, s: str, o: str) -> None:
    for side in SIDES:
        a["sa" + side] = 0.2 + 2.6 * up
        a["ha" + side] = 0.05 + 0.45 * up
        a["ef" + side] = 0.1 + 0.2 * (1 - up)
    a["jump"] = 0.12 * 4 * up * (1 - up)


def _punch(a: Angles, rng: np.random.Generator, t: Float, up: Float, s: str, o: str) -> None:
    for side, out in ((s, up), (o, 1 - up)):
        a["sf" + side] = 0.45 + 1.0 * out
        a["ef" + side] = 0.1 + 2.1 * (1 - out)
        a["sx" + side] = np.zeros_like(t) - 0.4
    a["hf" + s], a["kf" + s] = a["hf" + s] - 0.3, a["kf" + s] + 0.2
    a["hf" + o], a["kf" + o] = a["hf" + o] + 0.4, a["kf" + o] + 0.35
    a["twist"] = (2 * up - 1) * (0.3 if s == "R" else -0.3)


def _stretch(a: Angles, rng: np.random.Generator, t: Float, up: Float, s: str, o: str) -> None:
    reach = rng.uniform(1.0, 2.9)
    for side in SIDES:
        a["sa" + side] = reach + 0.25 * up
        a["ef" + side] = np.zeros_like(t) + rng.uniform(0.05, 0.4)
    a["side"] = a["side"] + 0.55 * (2 * up - 1)


def _pick_up(a: Angles, rng: np.random.Generator, t: Float, up: Float, s: str, o: str) -> None:
    a["lean"] = a["lean"] + 1.1 * up
    for side in SIDES:
        a["hf" + side] = a["hf" + side] + 0.9 * up
        a["kf" + side] = a["kf" + side] + 1.2 * up
    a["sf" + s] = 0.2 + 1.1 * up
    a["ef" + s] = 0.3 + 1.3 * (1 - up)
    a["ef" + o] = a["ef" + o] + rng.uniform(0.1, 1.4) * up


def _lie(a: Angles, rng: np.random.Generator, t: Float, up: Float, s: str, o: str) -> None:
    _loose(a, rng, t, 0.5)
    down = np.ones_like(t) if rng.random() < 0.5 else np.clip(1.6 * up, 0, 1)
    a["pitch"] = rng.choice([-1.0, 1.0]) * rng.uniform(1.2, 1.55) * down


def _free(a: Angles, rng: np.random.Generator, t: Float, up: Float, s: str, o: str) -> None:
    _loose(a, rng, t, 1.0)
    a["lean"] = rng.uniform(-0.2, 0.6) + wobble(rng, t, 0.3)


def _loose(a: Angles, rng: np.random.Generator, t: Float, much: float) -> None:
    """Limbs anywhere in their range."""
    for s in SIDES:
        a["sf" + s] = much * rng.uniform(-0.6, 2.6) + wobble(rng, t, 0.8 * much)
        a["sa" + s] = rng.uniform(0.0, 1.6) + wobble(rng, t, 0.5 * much)
        a["sx" + s] = rng.uniform(-1.2, 0.6) + wobble(rng, t, 0.6)
        a["ef" + s] = rng.uniform(0.1, 1.6) + wobble(rng, t, 0.6 * much)
        a["hf" + s] = much * rng.uniform(-0.3, 1.2) + wobble(rng, t, 0.5 * much)
        a["ha" + s] = rng.uniform(0.02, 0.5) + wobble(rng, t, 0.15)
        a["kf" + s] = rng.uniform(0, 1.3) + wobble(rng, t, 0.5 * much)
    a["side"] = rng.uniform(-0.25, 0.25) + wobble(rng, t, 0.2)
    a["twist"] = wobble(rng, t, 0.5)


_TABLE: dict[str, Callable[[Angles, np.random.Generator, Float, Float, str, str], None]] = {
    "walk": _walk,
    "run": _run,
    "wave": _wave,
    "clap": _clap,
    "squat": _squat,
    "jump": _jump,
    "kick": _kick,
    "throw": _throw,
    "bow": _bow,
    "sit": _sit,
    "jumping_jack": _jumping_jack,
    "punch": _punch,
    "stretch": _stretch,
    "pick_up": _pick_up,
    "lie": _lie,
    "free": _free,
}
MOTIONS: tuple[str, ...] = tuple(_TABLE)
"""Names of the motions a rendered person can do."""


def angles(motion: str, t: Float, rng: np.random.Generator, busy: float = 0.25) -> Angles:
    """Angles of `motion` at the times `t`.

    Args:
        motion: one of `MOTIONS`.
        t: (T,) float seconds, rising.
        rng: chooses side, pace and style.
        busy: share of people with one arm doing something of its own (a phone, a hand on the hip).
    """
    a = standing(rng, t)
    side, other = ("L", "R") if rng.random() < 0.5 else ("R", "L")
    up = 0.5 - 0.5 * np.cos(2 * np.pi * (rng.uniform(0.5, 1.2) * t + rng.random()))
    _TABLE[motion](a, rng, t, up, side, other)
    if rng.random() < busy:
        a["sf" + other] = rng.uniform(-0.5, 1.6) + wobble(rng, t, 0.3)
        a["sa" + other] = rng.uniform(0.1, 1.1) + wobble(rng, t, 0.2)
        a["sx" + other] = rng.uniform(-1.3, 0.3) + wobble(rng, t, 0.3)
        a["ef" + other] = rng.uniform(0.2, 2.1) + wobble(rng, t, 0.3)
    for s in SIDES:
        a["ef" + s] = np.clip(a["ef" + s], 0.02, 2.4)
        a["kf" + s] = np.clip(a["kf" + s], 0.0, 2.3)
        # arms do not pass through the trunk
        a["sa" + s] = np.clip(a["sa" + s], 0.04, 3.0)
        a["ha" + s] = np.clip(a["ha" + s], 0.0, 1.0)
    return a
