"""The median of what the experts saw, frame by frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from dataengine.core.component import Fusion
from dataengine.core.jit import compiled
from dataengine.core.types import Float, Fused
from dataengine.fusion.observations import Observations
from dataengine.fusion.ssta import Norm


@compiled
def middle(values: Any, weight: Any, found: Any) -> None:
    """Write the median over experts of `values` (E, T, W) where their weight is above 0 into `found` (T, W), which is left where there is none.

    Of an even number it is the mean of the middle two.
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
    """Median of x and of y over the experts that saw a joint and are trusted at all; how high scores and expert_weights are does not count.

    Scores and winners are those of `Observations.fused`; frames in which nobody saw a joint are NaN.

    Attributes:
        gamma: C from which a frame is kept; sets `kept` alone.
        norm: unit of length of C, as in `SSTA`.
    """

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
        middle(observations.x, observations.weight, pose[0])
        middle(observations.y, observations.weight, pose[1])
        return observations.fused(pose, 0, self.gamma, self.norm)
