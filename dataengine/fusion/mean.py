"""Fusion `mean`: the weighted mean of the experts, frame by frame."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from pydantic import Field

from dataengine.core.types import Float
from dataengine.fusion.observation_fusion import ObservationFusion
from dataengine.fusion.observations import Observations


@dataclass(frozen=True)
class Mean(ObservationFusion):
    """Weighted mean over the experts that saw a joint. One outlier moves the mean in proportion to its weight.

    Scores and winners are those of `Observations.fused`; joints that no expert saw are NaN.

    Attributes:
        gamma: least C of a kept frame. Sets `kept` only.
        norm: length that scales C, as in `SSTA`.
        score_power: exponent of the score in the weight of an observation; 0 weighs all alike.
    """

    score_power: Annotated[float, Field(ge=0)] = 1.0

    def estimate(self, observations: Observations, pose: Float) -> None:
        mass = observations.weight.sum(0)
        for axis, values in enumerate((observations.x, observations.y)):
            np.divide((observations.weight * values).sum(0), mass, out=pose[axis], where=mass > 0)
