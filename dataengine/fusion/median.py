"""Fusion `median`: the median of the experts, frame by frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import Field

from dataengine.core.component import Fusion
from dataengine.core.jit import compiled
from dataengine.core.types import Float, Fused
from dataengine.fusion.observations import Observations
from dataengine.fusion.ssta import Norm


@compiled
def median(values: Any, weight: Any, found: Any) -> None:
    """Write the median over experts of `values` (E, T, W) into `found` (T, W).

    Experts of weight 0 are left out. Without any expert `found` keeps its value. The median of an even number is the
    mean of the middle two.
    """
    experts, frames, joints = values.shape
    row = np.empty(experts)
    for t in range(frames):
        for v in range(joints):
            count = 0
            for e in range(experts):
                if weight[e, t, v] > 0:
                    at = count
                    while at > 0 and row[at - 1] > values[e, t, v]:
                        row[at] = row[at - 1]
                        at -= 1
                    row[at] = values[e, t, v]
                    count += 1
            if count:
                found[t, v] = 0.5 * (row[(count - 1) // 2] + row[count // 2])


@dataclass(frozen=True)
class Median(Fusion):
    """Median of x and of y over the experts that saw a joint and have a weight above 0. Scores do not count.

    Scores and winners are those of `Observations.fused`; joints that no expert saw are NaN.

    Attributes:
        gamma: least C of a kept frame. Sets `kept` only.
        norm: length that scales C, as in `SSTA`.
    """

    combines_scores: ClassVar[bool] = True

    gamma: Annotated[float, Field(ge=0, le=1)] = 0.18
    norm: Norm = "head_neck"

    def fuse(
        self,
        coords: Float,
        scores: Float | None = None,
        skeleton: str | None = None,
        expert_weights: Sequence[float] | None = None,
    ) -> Fused:
        """Fuse one sequence; see `dataengine.fuse`.

        Raises:
            ComponentError: arrays of a wrong shape.
        """
        observations = Observations.from_arrays(coords, scores, skeleton, expert_weights, 0.0)
        pose = observations.empty_pose
        median(observations.x, observations.weight, pose[0])
        median(observations.y, observations.weight, pose[1])
        return observations.fused(pose, 0, self.gamma, self.norm)
