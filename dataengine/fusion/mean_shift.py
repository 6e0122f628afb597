"""Fusion `mean_shift`: the densest place of the experts (the mode), frame by frame."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field

from dataengine.core.jit import compiled
from dataengine.core.types import Float
from dataengine.fusion.observation_fusion import ObservationFusion
from dataengine.fusion.observations import Observations

_STEPS, _SMALL, _SMALLEST, _THERE = 100, 0.03, 0.001, 0.2
"""Most steps of a climb; the step that ends a climb while peaks are compared, and for the highest peak; and the
distance from the highest peak so far within which an observation would climb the same peak. All lengths are in kernel
widths."""


@dataclass(frozen=True)
class MeanShift(ObservationFusion):
    """The mode of the experts: the highest peak of a weighted sum of Gaussians, one around each observation.

    Mean shift (Fukunaga and Hostetler 1975) climbs from every observation. The highest peak wins; ties go to the expert
    of lower index. Outliers have no influence on the mode, unlike on the mean and the median.

    Scores and winners are those of `Observations.fused`; joints that no expert saw are NaN.

    Attributes:
        gamma: least C of a kept frame. Sets `kept` only.
        norm: length that scales C, as in `SSTA`.
        width: standard deviation of the Gaussian, in head-neck lengths; half a head is 0.5 to 0.7.
        refine: how often the width is halved and the climb continues from the peak. The finer the width, the nearer the
            result is to a single expert.
        score_power: exponent of the score in the weight of an observation; 0 weighs all alike.
    """

    width: Annotated[float, Field(gt=0)] = 0.5
    refine: Annotated[int, Field(ge=0)] = 1

    def estimate(self, observations: Observations, pose: Float) -> None:
        scale = self.width * observations.scale
        _peaks(observations.x, observations.y, observations.weight, scale, self.refine, pose)


@compiled
def _climb(
    x: Any, y: Any, weight: Any, t: int, v: int, px: float, py: float, width: float, small: float
) -> tuple[float, float, float]:
    """The peak above (px, py) of joint v in frame t, and its height."""
    narrow, enough, height = -0.5 / width**2, (small * width) ** 2, 0.0
    for _ in range(_STEPS):
        mass = sx = sy = 0.0
        for e in range(len(x)):
            if weight[e, t, v] > 0:
                share = weight[e, t, v] * math.exp(narrow * ((x[e, t, v] - px) ** 2 + (y[e, t, v] - py) ** 2))
                mass += share
                sx += share * x[e, t, v]
                sy += share * y[e, t, v]
        height = mass
        sx, sy = sx / mass, sy / mass
        step = (sx - px) ** 2 + (sy - py) ** 2
        px, py = sx, sy
        if step <= enough:
            break
    return px, py, height


@compiled
def _peaks(x: Any, y: Any, weight: Any, width: float, refine: int, pose: Any) -> None:
    """Write the highest peak of every joint and frame into `pose` (2, T, W)."""
    experts, frames, joints = x.shape
    there = (_THERE * width) ** 2
    for t in range(frames):
        for v in range(joints):
            highest = 0.0
            for e in range(experts):
                away = (x[e, t, v] - pose[0, t, v]) ** 2 + (y[e, t, v] - pose[1, t, v]) ** 2
                if weight[e, t, v] > 0 and (highest == 0 or away > there):
                    px, py, height = _climb(x, y, weight, t, v, x[e, t, v], y[e, t, v], width, _SMALL)
                    if height > highest * (1.0 + 1e-3):
                        highest = height
                        pose[0, t, v], pose[1, t, v] = px, py
            if highest > 0:
                finer = width
                for _ in range(refine + 1):
                    px, py, height = _climb(x, y, weight, t, v, pose[0, t, v], pose[1, t, v], finer, _SMALLEST)
                    pose[0, t, v], pose[1, t, v] = px, py
                    finer *= 0.5
