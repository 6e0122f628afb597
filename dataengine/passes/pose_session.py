"""What one process needs for the pose pass: a recipe's components, and the open sessions of its networks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

from dataengine.core.component import Detector, DetectorSession, Expert, Fusion, Session, Tracker
from dataengine.core.gpu_claim import device_of_process
from dataengine.experts.dynamic_batcher import DynamicBatcher
from dataengine.fusion.calibration import Calibration
from dataengine.media.decode import Decoder
from dataengine.media.prefetch import Budget
from dataengine.pipeline.recipe import Recipe

S = TypeVar("S", bound=Session)


@dataclass(frozen=True)
class PoseComponents:
    """The components that a recipe names for the pose pass.

    Attributes:
        names: of the experts. expert_weights: of the experts, for the fusion.
    """

    decoder: Decoder
    detector: Detector | None
    experts: tuple[Expert, ...]
    names: tuple[str, ...]
    tracker: Tracker
    fusion: Fusion
    expert_weights: tuple[float, ...]
    calibration: Calibration | None

    @staticmethod
    def of(recipe: Recipe) -> PoseComponents:
        """Make the components of a recipe."""
        pose = recipe.pose
        return PoseComponents(
            recipe.component("decoders", pose.decoder),
            recipe.component("detectors", recipe.detector) if recipe.detector else None,
            tuple(recipe.expert(name) for name in pose.experts),
            tuple(pose.experts),
            recipe.component("trackers", pose.tracker),
            recipe.component("fusion", pose.fusion),
            tuple(pose.expert_weights.get(name, 1.0) for name in pose.experts),
            None if pose.calibration is None else Calibration.load(pose.calibration),
        )


class PoseSession(Session):
    """The open detector and experts of a recipe on the device of this process.

    On an accelerator the images of several clips go through the networks together, and frames are decoded ahead of
    the networks. On a CPU larger batches gain nothing, and the result of a clip must not depend on other clips, so
    clips run one by one there.

    Attributes:
        components: what the recipe names.
        detector: open, None where no expert needs boxes.
        experts: open, in the order of the recipe.
        skeletons: layout of each expert's joints.
        budget: bytes of frames decoded ahead; None where clips run one by one.
    """

    def __init__(self, recipe: Recipe, device: str) -> None:
        self.components = PoseComponents.of(recipe)
        self.detector: DetectorSession | None = None
        self.budget: Budget | None = None
        self._owned: list[Session] = []
        own = device_of_process(device)
        try:
            if self.components.detector is not None:
                self.detector = self._own(self.components.detector.load(own))
            self.experts = tuple(self._own(expert.load(own)) for expert in self.components.experts)
        except BaseException:
            self.close()
            raise
        self.skeletons = [expert.skeleton for expert in self.components.experts]
        self.needs_boxes = [expert.needs_boxes for expert in self.components.experts]
        together = all(session.concurrent for session in self._owned)
        if device != "cpu" and together and recipe.engine.clips_in_flight > 1:
            self.budget = Budget(recipe.engine.prefetch_mb << 20)
            self._share_batches()

    @property
    def clips_in_flight(self) -> bool:
        """Whether several clips may be in flight: on an accelerator, where threads may share every session."""
        return self.budget is not None

    def _own(self, session: S) -> S:
        self._owned.append(session)
        return session

    def _share_batches(self) -> None:
        batcher = self._own(DynamicBatcher())
        for session in (self.detector, *self.experts):
            if session is not None:
                session.use_batcher(batcher)

    def release(self) -> None:
        """Close every session, the batcher first."""
        while self._owned:
            self._owned.pop().close()
