"""Trackers, fusions and lifters, which make sequences of poses of those of frames, experts and pictures."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

from dataengine.core.component.configuration import Component
from dataengine.core.component.sessions import Session
from dataengine.core.skeletons import COMMON, gives
from dataengine.core.skeletons import skeleton as layout_of
from dataengine.core.types import Float, Fused, Lifted, Poses, Track


class Tracker(Component, ABC):
    """Links poses of single frames to tracks of people."""

    @abstractmethod
    def track(self, frames: Sequence[Sequence[Poses]], timestamps: Any, experts: Sequence[str]) -> list[Track]:
        """The tracks of one clip.

        Args:
            frames: for every frame the `Poses` of each expert, in the layout of that expert.
            timestamps: (T,) seconds, increasing.
            experts: name of each expert's layout.

        Returns:
            Tracks in the common layout, best first.
        """


class Fusion(Component, ABC):
    """Makes one pose sequence of several experts' sequences of one person.

    Attributes:
        combines_scores: whether the score of a joint is the probability that not every expert is wrong, their errors
            taken as independent; else it is the score of the chosen expert.
    """

    combines_scores: ClassVar[bool] = False

    @abstractmethod
    def fuse(
        self,
        coords: Float,
        scores: Float | None = None,
        skeleton: str | None = None,
        expert_weights: Sequence[float] | None = None,
    ) -> Fused:
        """Fuse one sequence; see `dataengine.fuse`.

        Args:
            coords: (E, T, V, 2) float pixels, NaN where missing.
            scores: (E, T, V) float in [0, 1], or None.
            skeleton: layout of the joints, or None.
            expert_weights: weight of each expert, or None for equal weights.
        """


class LifterSession(Session, ABC):
    """A lifter that is ready to lift."""

    @abstractmethod
    def lift(self, keypoints: Float, scores: Float, skeleton: str, size: tuple[int, int]) -> Lifted:
        """Bring one person's poses from the picture into space.

        Args:
            keypoints: (T, V, 2) float pixels, NaN where unseen.
            scores: (T, V) float in [0, 1], 0 where unseen.
            skeleton: layout of the joints; `Lifter.serves` says whether the lifter takes it.
            size: width and height of the picture in pixels.

        Returns:
            The poses in the same layout. Joints that are not seen are filled; frames that lie too far from any frame
            with enough joints are NaN.

        Raises:
            ComponentError: arrays of other shapes, a layout that the lifter does not take, or an impossible size.
        """


class Lifter(Component, ABC):
    """Brings poses from the picture into space (frozen dataclass; its fields are its whole configuration).

    Attributes:
        licence: of its weights, where it is not this package's own.
    """

    licence: ClassVar[str | None] = None

    def serves(self, skeleton: str) -> bool:
        """Whether the lifter takes poses of a layout. Default: layouts with a head point and the twelve body joints."""
        return gives(skeleton, layout_of(COMMON).joints)

    @abstractmethod
    def load(self, device: str = "cpu") -> LifterSession:
        """Open a session on a device; raises as `Expert.load`."""
