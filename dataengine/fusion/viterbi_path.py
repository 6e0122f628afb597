"""Fusion `viterbi_path`: the best path over the experts of each joint, by dynamic programming."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from dataengine.core.jit import compiled
from dataengine.core.types import Float
from dataengine.fusion.observation_fusion import ObservationFusion
from dataengine.fusion.observations import Observations, bridge

WIDTH, REACH, CAP, AGREEMENT = 0.7, 0.365, 12.0, 2.0
"""Defaults: width of the agreement kernel and likely step per frame, both in head-neck lengths; highest cost of a step;
weight of agreement."""


@dataclass(frozen=True)
class ViterbiPath(ObservationFusion):
    """One expert for every joint and frame, so that the whole sequence costs least (exact, by Viterbi 1967).

    A step from one observation to the next costs min((length / reach)^2, cap). `reach` grows with every frame in which
    no expert saw the joint. An observation gains `agreement` times the sum of the weights of all observations of its
    frame, its own included, each times (1 + (distance / width)^2)^-2. As in `SSTA` the result is always the joint of
    some expert, but later frames count as well: a wrong start or a jump is not followed. A path costs the same in both
    directions of time.

    Scores and winners are those of `Observations.fused`. Inner gaps of up to `max_gap` frames are bridged linearly.

    Attributes:
        gamma: least C of a kept frame. Sets `kept` only.
        norm: length that scales C, as in `SSTA`.
        max_gap: longest gap in frames that is bridged.
        score_power: exponent of the score in the weight of an observation; 0 weighs all alike.
        width: distance at which another observation supports this one a quarter as much, in head-neck lengths.
        reach: step per frame that costs 1, in head-neck lengths.
        cap: highest cost of a step, however long.
        agreement: factor by which the support of other observations lowers the cost.
    """

    max_gap: Annotated[int, Field(ge=0)] = 5
    width: Annotated[float, Field(gt=0)] = WIDTH
    reach: Annotated[float, Field(gt=0)] = REACH
    cap: Annotated[float, Field(ge=0)] = CAP
    agreement: Annotated[float, Field(ge=0)] = AGREEMENT

    @property
    def bridged(self) -> int:
        return self.max_gap

    def estimate(self, observations: Observations, pose: Float) -> None:
        x, y, weight, scale = observations.x, observations.y, observations.weight, observations.scale
        trace(x, y, weight, self.width * scale, self.reach * scale, self.cap, self.agreement, pose)
        bridge(pose)


@compiled
def trace(x: Any, y: Any, weight: Any, width: float, reach: float, cap: float, agreement: float, pose: Any) -> None:
    """Write the observations of the cheapest path of every joint into `pose` (2, T, W).

    Frames without an observation keep their value. Ties go to the expert of lower index.
    """
    experts, frames, joints = x.shape
    narrow, short = 1.0 / width**2, 1.0 / reach**2
    cost, new = np.empty(experts), np.empty(experts)
    back, before = np.empty((frames, experts), np.int64), np.empty(frames, np.int64)
    for v in range(joints):
        last = -1
        for t in range(frames):
            present = False
            for e in range(experts):
                new[e] = math.inf
                if not weight[e, t, v] > 0:
                    continue
                present = True
                gain = 0.0
                for k in range(experts):
                    near = 1.0 + ((x[k, t, v] - x[e, t, v]) ** 2 + (y[k, t, v] - y[e, t, v]) ** 2) * narrow
                    gain += weight[k, t, v] / (near * near)
                least = math.inf if last >= 0 else 0.0
                for k in range(experts):
                    if last >= 0 and cost[k] < math.inf:
                        step = (x[k, last, v] - x[e, t, v]) ** 2 + (y[k, last, v] - y[e, t, v]) ** 2
                        way = cost[k] + min(step * short / (t - last) ** 2, cap)
                        if way < least:
                            least = way
                            back[t, e] = k
                new[e] = least - agreement * gain
            if present:
                before[t] = last
                last = t
                for e in range(experts):
                    cost[e] = new[e]
        if last >= 0:
            chosen = 0
            for e in range(experts):
                if cost[e] < cost[chosen]:
                    chosen = e
            while last >= 0:
                pose[0, last, v], pose[1, last, v] = x[chosen, last, v], y[chosen, last, v]
                chosen, last = back[last, chosen], before[last]
