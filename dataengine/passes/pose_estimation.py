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
        max_boxes: most people per frame that top-down experts after the first one look at, and only people that the
            first one found; None: every box.
        every: of each expert, the frames from one look to the next; in the frames between, the expert finds nobody.
            The first top-down expert looks at every frame. None: all do.
    """

    def __init__(
        self,
        detector: DetectorSession | None,
        experts: Sequence[tuple[ExpertSession, bool]],
        detect_every: int,
        max_boxes: int | None = None,
        every: Sequence[int] | None = None,
    ) -> None:
        self.detector = detector
        self.experts = experts
        self.every = [1] * len(experts) if every is None else every
        self.joints = [0] * len(experts)
        self.detect_every = detect_every
        self.max_boxes = max_boxes
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
            return self._observe(given, first, slice(0, len(batch)), None, [True, False])
        due = [n for n in range(len(batch)) if (first + n) % self.detect_every == 0]
        found = dict(zip(due, self.detector.detect(given(self.detector).frames[due]))) if due else {}
        if self.detect_every == 1:
            boxes = [found[n] for n in range(len(batch))]
            return self._observe(given, first, slice(0, len(batch)), boxes, [True, False])
        answers = self._observe(given, first, slice(0, len(batch)), None, [False])
        leader = top_down.index(True)
        for n in range(len(batch)):
            if self.here is not None:
                self.boxes = next_boxes(self.here, self.boxes, self.before, found.get(n))
            elif n in found:
                self.boxes = found[n]
            for poses, new in zip(answers, self._observe(given, first, slice(n, n + 1), [self.boxes], [True])):
                poses += new
            self.before, self.here = self.here, answers[leader][-1]
        return answers

    def _observe(
        self,
        given: Callable[[Session], ClipFrames],
        first: int,
        part: slice,
        boxes: Sequence[Float] | None,
        kinds: Sequence[bool],
    ) -> list[list[Poses]]:
        """The poses of the experts of these kinds, top-down or not, in a part of the frames with its boxes; nothing of
        the other experts. `first` is the number within the clip of the frame 0 of the batch."""
        answers: list[list[Poses]] = []
        leading = True
        for number, (expert, needs_boxes) in enumerate(self.experts):
            if needs_boxes not in kinds:
                answers.append([])
                continue
            answers.append(self._look(number, given(expert), first, part, boxes if needs_boxes else None))
            if needs_boxes and leading and boxes is not None and self.max_boxes is not None:
                boxes = [surest(poses, self.max_boxes) for poses in answers[-1]]
            leading = leading and not needs_boxes
        return answers

    def _look(
        self, number: int, frames: ClipFrames, first: int, part: slice, boxes: Sequence[Float] | None
    ) -> list[Poses]:
        """The poses of one expert in a part of the frames: nobody where it does not look."""
        expert, every = self.experts[number][0], self.every[number]
        if every == 1:
            whole = part.stop - part.start == len(frames)
            return list(expert.observe(frames if whole else frames[part], boxes))
        skipped = -(first + part.start) % every  # frames of the part before the first look
        due = range(part.start + skipped, part.stop, every)
        seen: list[Poses] = []
        if due:
            looked = slice(due.start, due.stop, every)
            seen = list(expert.observe(frames[looked], None if boxes is None else boxes[skipped::every]))
            self.joints[number] = seen[0].coords.shape[1]
        answers = [Poses.empty(self.joints[number]) for _ in range(part.start, part.stop)]
        for n, poses in zip(due, seen):
            answers[n - part.start] = poses
        return answers

    def _given(self, batch: ClipFrames) -> Callable[[Session], ClipFrames]:
        """Which frames each session takes: those of the host, or the same frames uploaded once for all."""
        sessions = [*([] if self.detector is None else [self.detector]), *(expert for expert, _ in self.experts)]
        upload = next((session.upload for session in sessions if session.upload is not None), None)
        if upload is None:
            return lambda session: batch
        uploaded = replace(batch, frames=upload(batch.frames))
        return lambda session: batch if session.upload is None else uploaded


def surest(poses: Poses, most: int) -> Float:
    """The boxes (K, 5) of the people with the highest mean scores, K <= `most`."""
    order = np.argsort(-poses.scores.mean(-1), kind="stable")[:most]
    return np.asarray(poses.boxes[order], np.float32)
