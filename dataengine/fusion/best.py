"""Fusion `best`: the sequence of the best single expert."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np
from pydantic import Field

from dataengine.core.component import Fusion
from dataengine.core.types import Float, Fused
from dataengine.fusion.observations import Observations
from dataengine.fusion.ssta import Norm


@dataclass(frozen=True)
class Best(Fusion):
    """The sequence of one expert, unchanged: the baseline of every fusion.

    The expert of the highest weight is chosen. Ties go to the highest sum of scores over the sequence (without scores
    every joint seen counts 1), then to the expert nearest to the others, then to the lower index. Joints that the
    chosen expert did not see are NaN. Scores are those of the expert, 1 without scores.

    Attributes:
        gamma: least C of a kept frame. Sets `kept` only.
        norm: length that scales C, as in `SSTA`.
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
        seen = observations.scores >= 0
        experts, joints = len(seen), observations.points.shape[2]
        weights = np.ones(experts) if expert_weights is None else np.asarray(expert_weights, np.float64)
        apart = np.hypot(observations.x[:, None] - observations.x, observations.y[:, None] - observations.y) * (
            seen[:, None] & seen
        )
        ranks = [
            (weights[e], np.where(seen[e], observations.scores[e], 0.0).sum().round(9), -apart[e].sum(), -e)
            for e in range(experts)
        ]
        chosen = max(ranks)[-1] * -1
        pose = np.where(seen[chosen], np.stack([observations.x[chosen], observations.y[chosen]]), np.nan)
        found, own = observations.fused(pose, 0, self.gamma, self.norm), seen[chosen][:, :joints]
        score = np.where(own, observations.scores[chosen][:, :joints], 0).astype(np.float32)
        return replace(found, scores=score, winner=np.where(own, chosen, -1).astype(np.int8))
