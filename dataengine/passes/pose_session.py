"""What one process needs for the pose pass: a recipe's components, and the open sessions of its networks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TypeVar

from dataengine.core import devices
from dataengine.core.accelerator import is_accelerator
from dataengine.core.component import Detector, DetectorSession, Expert, ExpertSession, Fusion, Session, Tracker
from dataengine.core.gpu_claim import device_of_process
from dataengine.core.resources import cpu_count
from dataengine.experts.dynamic_batcher import DynamicBatcher
from dataengine.fusion.calibration import Calibration, load_calibration
from dataengine.fusion.score_calibration import ScoreCalibration, ScoreCurve, built_in
from dataengine.media.decode import Decoder
from dataengine.media.prefetch import Budget
from dataengine.passes.clip_sessions import SessionPerClip, detector_for_threads, for_threads
from dataengine.pipeline.recipe import Recipe

S = TypeVar("S", bound=Session)


@dataclass(frozen=True)
class PoseComponents:
    """The components that a recipe names for the pose pass.

    Attributes:
        names: of the experts. expert_weights: of the experts, for the fusion.
        calibration: of the experts by those names; None where every expert is used as it is.
    """

    decoder: Decoder
    detector: Detector | None
    experts: tuple[Expert, ...]
    names: tuple[str, ...]
    tracker: Tracker
    fusion: Fusion
    expert_weights: tuple[float, ...]
    calibration: Calibration | ScoreCalibration | None

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
            _calibration(recipe),
        )


def built_in_curves(recipe: Recipe) -> dict[str, ScoreCurve]:
    """The built-in curves that a recipe uses, by the names of its experts; none where it names a file, or "none"."""
    if recipe.pose.calibration is not None:
        return {}
    asked = {name: recipe.component("experts", name).score_calibration for name in recipe.pose.experts}
    known = {name: built_in().curves[curve] for name, curve in asked.items() if curve in built_in().curves}
    return {name: curve for name, curve in known.items() if not curve.is_identity}


def _calibration(recipe: Recipe) -> Calibration | ScoreCalibration | None:
    if recipe.pose.calibration_file is not None:
        return load_calibration(recipe.pose.calibration_file)
    curves = built_in_curves(recipe)
    return ScoreCalibration(curves) if curves else None


class PoseSession(Session):
    """The open detector and experts of a recipe, or other components, on the device of this process.

    On an accelerator the images of several clips go through the networks together, and frames are decoded ahead of
    the networks, also beside experts that take no part in batches (`dataengine.passes.clip_sessions`). On a CPU larger
    batches gain nothing, and the result of a clip must not depend on other clips, so clips run one by one there.

    Attributes:
        components: what the recipe names.
        skeletons: layout of each expert's joints.
        budget: bytes of frames decoded ahead; None where clips run one by one.
        batcher: makes batches across clips; None where clips run one by one.
    """

    def __init__(self, recipe: Recipe, device: str, components: PoseComponents | None = None) -> None:
        self.components = components or PoseComponents.of(recipe)
        self.budget: Budget | None = None
        self.batcher: DynamicBatcher | None = None
        self._detector: DetectorSession | None = None
        self._experts: list[ExpertSession | SessionPerClip] = []
        self._owned: list[Session] = []
        own, most = device_of_process(device), recipe.engine.clips_in_flight
        try:
            if self.components.detector is not None:
                self._detector = self._own(self.components.detector.load(own))
            experts = [self._own(expert.load(own)) for expert in self.components.experts]
            self._experts += experts
            if is_accelerator(device) and most > 1:
                self.budget = Budget(recipe.engine.prefetch_mb << 20)
                beside = devices.count() * recipe.engine.processes_per_gpu  # processes that share the processors
                self._share(experts, own, min(most, max(1, cpu_count() // beside)))
        except BaseException:
            self.close()
            raise
        self.skeletons = [expert.skeleton for expert in self.components.experts]
        self.needs_boxes = [expert.needs_boxes for expert in self.components.experts]

    @property
    def clips_in_flight(self) -> bool:
        """Whether several clips may be in flight: on an accelerator."""
        return self.budget is not None

    @contextmanager
    def for_clip(self) -> Iterator[tuple[DetectorSession | None, list[ExpertSession]]]:
        """The detector, None where no expert needs boxes, and the experts in the order of the recipe, for one clip."""
        with ExitStack() as stack:
            yield (
                self._detector,
                [stack.enter_context(one.lease()) if isinstance(one, SessionPerClip) else one for one in self._experts],
            )

    def _own(self, session: S) -> S:
        self._owned.append(session)
        return session

    def _share(self, experts: Sequence[ExpertSession], device: str, most: int) -> None:
        """Make the sessions ready for clips in several threads, at most so many of an expert that remembers frames."""
        batcher = self.batcher = self._own(DynamicBatcher())
        for session in (self._detector, *experts):
            if session is not None:
                session.use_batcher(batcher)
        if self._detector is not None:
            self._detector = detector_for_threads(self._detector)
        shared = [for_threads(one, of, device, most) for one, of in zip(experts, self.components.experts)]
        for one in shared:
            if isinstance(one, SessionPerClip):
                self._own(one)
        self._experts = list(shared)

    def release(self) -> None:
        """Close every session, the batcher first."""
        while self._owned:
            self._owned.pop().close()
