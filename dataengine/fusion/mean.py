"""Fusion `mean`: the weighted mean of the experts, frame by frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from pydantic import Field

from dataengine.core.component import Fusion
from dataengine.core.types import Float, Fused
from dataengine.fusion.observations import Observations
from dataengine.fusion.ssta import Norm


@dataclass(frozen=True)
class Mean(Fusion):
    """Weighted mean over the experts that saw a joint. One outlier moves the mean in proportion to its weight.

    Scores and winners are those of `Observations.fused`; joints that no expert saw are NaN.

    Attributes:
        gamma: least C of a kept frame. Sets `kept` only.
        norm: length that scales C, as in `SSTA`.
        score_power: exponent of the score in the weight of an observation; 0 weighs all alike.
    """

    gamma: Annotated[float, Field(ge=0, le=1)] = 0.18
    norm: Norm = "head_neck"
    score_power: Annotated[float, Field(ge=0)] = 1.0

    def fuse(
        self,
        coords: Float,
        scores: Float | None = None,
        skeleton: str | None = None,
        expert_weights: Sequence[float] | None = None,
    ) -> Fused:
        """Fuse one sequence; see `dataengine.fuse`. `expert_weights` multiply the weights.

        Raises:
            ComponentError: arrays of a wrong shape.
        """
        observations = Observations.from_arrays(coords, scores, skeleton, expert_weights, self.score_power)
        mass = observations.weight.sum(0)
        pose = observations.empty_pose
        for axis, values in enumerate((observations.x, observations.y)):
            np.divide((observations.weight * values).sum(0), mass, out=pose[axis], where=mass > 0)
        return observations.fused(pose, 0, self.gamma, self.norm)
