"""The best single expert."""

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
    """The sequence of one expert as it is: what several experts have to be better than.

    Taken is the expert most trusted; of those trusted alike the one whose scores sum to most over the sequence, where
    without scores every joint seen counts 1; of those alike in this the one nearest to the others; then the lower index.
    What it did not see is NaN, whatever the others saw. The score is its own, 1 without scores.

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
        seen = observations.rated >= 0
        experts, joints = len(seen), observations.points.shape[2]
        trusted = np.ones(experts) if expert_weights is None else np.asarray(expert_weights, np.float64)
        apart = np.hypot(observations.x[:, None] - observations.x, observations.y[:, None] - observations.y) * (
            seen[:, None] & seen
        )
        ranks = [
            (trusted[e], np.where(seen[e], observations.rated[e], 0.0).sum().round(9), -apart[e].sum(), -e)
            for e in range(experts)
        ]
        chosen = max(ranks)[-1] * -1
        pose = np.where(seen[chosen], np.stack([observations.x[chosen], observations.y[chosen]]), np.nan)
        found, own = observations.fused(pose, 0, self.gamma, self.norm), seen[chosen][:, :joints]
        score = np.where(own, observations.rated[chosen][:, :joints], 0).astype(np.float32)
        return replace(found, scores=score, winner=np.where(own, chosen, -1).astype(np.int8))
