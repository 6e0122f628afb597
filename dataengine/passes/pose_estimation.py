"""The order in which the detector and the experts of one clip run: top-down experts get the boxes of people."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from dataengine.core.component import ClipFrames, DetectorSession, ExpertSession, Session
from dataengine.core.types import Float, Poses
from dataengine.tracking import next_boxes


class PoseEstimator:
    """Runs the experts on one clip, top-down experts inside the boxes of a detector.

    The detector runs on every `detect_every`-th frame. In between, boxes follow the people that the first top-down
    expert found inside them, so that frames are processed one by one; where people are detected again, the boxes are
    joined with the last poses. With a detection in every frame boxes are the detector's.

    Args:
        detector: None where no expert is top-down.
        experts: open experts, each with whether it needs boxes.
        detect_every: frames between two detections.
    """

    def __init__(
        self, detector: DetectorSession | None, experts: Sequence[tuple[ExpertSession, bool]], detect_every: int
    ) -> None:
        self.detector = detector
        self.experts = experts
        self.detect_every = detect_every
        self.count = 0
        self.boxes: Float = np.zeros((0, 5), np.float32)
        self.here: Poses | None = None
        self.before: Poses | None = None
        for expert, _ in experts:
            expert.start_clip()

    def predict(self, batch: ClipFrames) -> list[list[Poses]]:
        """The poses of each expert in the next frames of the clip: one list per expert, with one `Poses` per frame."""
        first, self.count = self.count, self.count + len(batch)
        given = self._given(batch)
        top_down = [needs_boxes for _, needs_boxes in self.experts]
        if not any(top_down) or self.detector is None:
            return [expert.observe(given(expert)) for expert, _ in self.experts]
        due = [n for n in range(len(batch)) if (first + n) % self.detect_every == 0]
        found = dict(zip(due, self.detector.detect(given(self.detector).frames[due]))) if due else {}
        if self.detect_every == 1:
            boxes = [found[n] for n in range(len(batch))]
            return [
                expert.observe(given(expert), boxes if needs_boxes else None) for expert, needs_boxes in self.experts
            ]
        answers: list[list[Poses]] = [
            [] if needs_boxes else expert.observe(given(expert)) for expert, needs_boxes in self.experts
        ]
        leader = top_down.index(True)
        for n in range(len(batch)):
            if self.here is not None:
                self.boxes = next_boxes(self.here, self.boxes, self.before, found.get(n))
            elif n in found:
                self.boxes = found[n]
            for (expert, needs_boxes), poses in zip(self.experts, answers):
                if needs_boxes:
                    poses += expert.observe(given(expert)[n : n + 1], [self.boxes])
            self.before, self.here = self.here, answers[leader][-1]
        return answers

    def _given(self, batch: ClipFrames) -> Callable[[Session], ClipFrames]:
        """Which frames each session takes: those of the host, or the same frames uploaded once for all."""
        sessions = [*([] if self.detector is None else [self.detector]), *(expert for expert, _ in self.experts)]
        upload = next((session.upload for session in sessions if session.upload is not None), None)
        if upload is None:
            return lambda session: batch
        uploaded = replace(batch, frames=upload(batch.frames))
        return lambda session: batch if session.upload is None else uploaded
