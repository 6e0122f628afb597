"""A fusion: the joint of the first expert that saw it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dataengine.core.component import Fusion
from dataengine.core.types import Float, Fused


@dataclass(frozen=True)
class FirstSeen(Fusion):
    """Takes each joint from the first expert in the recipe that saw it."""

    def fuse(
        self,
        coords: Float,
        scores: Float | None = None,
        skeleton: str | None = None,
        expert_weights: Sequence[float] | None = None,
    ) -> Fused:
        seen = np.isfinite(coords).all(-1)
        given = np.where(seen, 1.0 if scores is None else scores, 0.0)
        first = seen.argmax(0)
        pose = np.take_along_axis(coords, first[None, ..., None], 0)[0].astype(np.float32)
        support = seen.sum((0, 2)).astype(np.int32)
        return Fused(
            coords=pose,
            scores=np.take_along_axis(given, first[None], 0)[0].astype(np.float32),
            confidence=(support > 0).astype(np.float32),
            support=support,
            kept=support > 0,
            winner=np.where(seen.any(0), first, -1).astype(np.int8),
        )
