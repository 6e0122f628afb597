"""What fusions have in common that estimate each joint from the observations of all experts."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field

from dataengine.core.component import Fusion
from dataengine.core.types import Float, Fused
from dataengine.fusion.observations import Observations
from dataengine.fusion.ssta import Norm


@dataclass(frozen=True)
class ObservationFusion(Fusion):
    """Weighs the observations of the experts and writes one pose; a subclass says how, in `estimate`.

    Attributes:
        gamma: least C of a kept frame. Sets `kept` only.
        norm: length that scales C, as in `SSTA`.
        score_power: exponent of the score in the weight of an observation; 0 weighs all alike.
    """

    combines_scores: ClassVar[bool] = True

    gamma: Annotated[float, Field(ge=0, le=1)] = 0.18
    norm: Norm = "head_neck"
    score_power: Annotated[float, Field(ge=0)] = 2.0

    @property
    def bridged(self) -> int:
        """Longest gap in frames that `estimate` bridges."""
        return 0

    @abstractmethod
    def estimate(self, observations: Observations, pose: Float) -> None:
        """Write the joints into `pose` (2, T, W); those that no expert saw keep their value."""

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
        pose = observations.empty_pose
        self.estimate(observations, pose)
        return observations.fused(pose, self.bridged, self.gamma, self.norm)
