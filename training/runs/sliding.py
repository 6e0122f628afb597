"""Classes of frames of sequences of any length, by windows that slide over them: whole clips, or piece by piece.

    stream = FrameStream(run.method, run.preprocess, run.frames)
    for keypoints in camera:                     # (M, T, V, C), any T
        scores = stream.push(keypoints)          # (F, K) of the frames that are final, in order
    scores = stream.close()                      # of the rest

A stream holds one window of joints and sums, whatever the length of the sequence. Offline scores are those of a stream
that is given the whole clip, so the two are equal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from dataengine.core.errors import TrainingError
from training.data.entries import Motion
from training.data.spans import renumbered
from training.data.types import Array, SkeletonDataset, SkeletonSequence
from training.evaluate.result import Result
from training.evaluate.segmentation import FrameScores, segmentation_results
from training.methods.base import Method
from training.methods.segmentation import Segmentation
from training.transforms.preprocess import Preprocess
from training.transforms.windows import prepared_window

BATCH = 32
"""Windows per forward pass of whole clips."""


def segmenting(method: Method, what: str) -> Segmentation:
    """The method as one that gives classes of frames.

    Raises:
        TrainingError: it is another.
    """
    if not isinstance(method, Segmentation):
        raise TrainingError(
            f"{what} was not trained to tell classes of frames: train a head on its network with `dataengine-train "
            "segment`"
        )
    return method


class FrameStream:
    """Class scores of the frames of a sequence that arrives in pieces.

    Windows of `frames` frames begin every `hop` frames; the last one ends with the sequence. The scores of a frame are
    the mean over the windows that hold it, weighted by how far the frame is from the nearer end of each, as the network
    sees least there. A frame is final once no later window holds it: `delay` frames after it came, at most.

    Args:
        method: the network with its head.
        preprocess: prepares each window by itself.
        frames: of a window.
        hop: frames between windows. Default: those of the method; half a window where it has 0.
        batch: windows per forward pass; more than one wait for each other.
        device: where the network runs.
        size, fps: of the video, where `preprocess` needs them.

    Raises:
        TrainingError: the method gives no classes of frames.
    """

    def __init__(
        self,
        method: Method,
        preprocess: Preprocess,
        frames: int,
        hop: int = 0,
        batch: int = 1,
        device: Any = "cpu",
        size: tuple[int, int] | None = None,
        fps: float | None = None,
    ) -> None:
        self._method = segmenting(method, "the network")
        self._preprocess, self._frames, self._batch, self._device = preprocess, frames, batch, device
        self._hop = min(hop or self._method.hop or max(1, frames // 2), frames)
        self._facts: dict[str, Any] = {"size": size, "fps": fps}
        ramp = np.minimum(np.arange(1, frames + 1), np.arange(frames, 0, -1))
        self._weights: Array = ramp.astype(np.float32)[:, None]
        self._joints: Array | None = None  # of the frames from `_first` on
        self._seen: Array | None = None  # their scores
        self._first = self._next = self._final = 0  # frames in the buffer, of the next window, given out
        self._sums = np.zeros((0, self._method.num_classes), np.float32)  # of the frames from `_final` on
        self._total = np.zeros((0, 1), np.float32)
        self._waiting: list[int] = []

    @property
    def delay(self) -> int:
        """Frames after which the scores of a frame are final, at most."""
        return self._frames + self._hop * (self._batch - 1)

    @property
    def _end(self) -> int:
        return self._first + (0 if self._joints is None else self._joints.shape[1])

    def push(self, keypoints: Array, scores: Array | None = None) -> Array:
        """The next frames of the sequence.

        Args:
            keypoints: (M, T, V, C), NaN where unseen, each person at one place throughout; M may grow.
            scores: (M, T, V), in all pieces or in none.

        Returns:
            (F, K) float32 probabilities of the frames that became final, in order.

        Raises:
            TrainingError: other joints or coordinates than in the pieces before.
        """
        parts = []
        step = max(self._frames, self._hop * self._batch)
        for start in range(0, keypoints.shape[1], step):
            some = slice(start, start + step)
            self._append(keypoints[:, some], None if scores is None else scores[:, some])
            parts.append(self._advance())
        return np.concatenate(parts) if parts else self._sums[:0]

    def close(self) -> Array:
        """The end of the sequence: (F, K) of all frames that were not final."""
        if self._joints is None:
            return self._sums[:0]
        last = max(self._end - self._frames, 0)
        covered = self._next - self._hop + self._frames if self._next else 0
        self._run()
        if covered < self._end:
            self._waiting.append(last)
            self._run(self._next)
        return self._give(self._end)

    def _append(self, keypoints: Array, scores: Array | None) -> None:
        if self._joints is None:
            self._joints, self._seen = np.array(keypoints, np.float32), scores
            return
        if keypoints.ndim != 4 or keypoints.shape[2:] != self._joints.shape[2:]:
            raise TrainingError(
                f"a piece of the sequence is {keypoints.shape}, and those before were (M, T, "
                f"{', '.join(map(str, self._joints.shape[2:]))}); give pieces of one sequence"
            )
        self._joints = _joined(self._joints, np.asarray(keypoints, np.float32), np.nan)
        if (scores is None) != (self._seen is None):
            raise TrainingError("scores come with all pieces of a sequence or with none")
        if scores is not None and self._seen is not None:
            self._seen = _joined(self._seen, np.asarray(scores, np.float32), 0.0)

    def _advance(self) -> Array:
        """Run the windows that are complete, and give out what is final."""
        while self._next + self._frames <= self._end:
            self._waiting.append(self._next)
            self._next += self._hop
            if len(self._waiting) == self._batch:
                self._run()
        given = self._give(min(self._waiting, default=self._next))
        keep = min([*self._waiting, self._next, max(self._end - self._frames, 0)])
        if keep > self._first and self._joints is not None:
            self._joints = self._joints[:, keep - self._first :].copy()
            self._seen = None if self._seen is None else self._seen[:, keep - self._first :].copy()
            self._first = keep
        return given

    @torch.no_grad()
    def _run(self, since: int = 0) -> None:
        """The network on the waiting windows; frames before `since` stay what they are."""
        if not self._waiting or self._joints is None:
            return
        samples, lengths = [], []
        for start in self._waiting:
            frames = slice(start - self._first, start - self._first + self._frames)
            seen = None if self._seen is None else self._seen[:, frames]
            clip = SkeletonSequence("stream", self._joints[:, frames], seen, **self._facts)
            joints, valid = prepared_window(self._preprocess, clip, self._frames)
            samples.append(Motion(self._preprocess.finish(joints)))
            lengths.append(int(valid.sum()))
        motion = torch.from_numpy(np.asarray(Motion.stack("motion", samples)[""])).to(self._device)
        weight = next(self._method.parameters())
        found = self._method.frame_scores(motion.to(weight.device, weight.dtype)).float().cpu().numpy()
        for start, length, scores in zip(self._waiting, lengths, found):
            self._add(start, scores[:length], since)
        self._waiting = []

    def _add(self, start: int, scores: Array, since: int) -> None:
        """Add the scores of a window; those of frames that are final, or before `since`, are dropped."""
        short = start + len(scores) - self._final - len(self._sums)
        if short > 0:
            self._sums = np.concatenate([self._sums, np.zeros((short, self._sums.shape[1]), np.float32)])
            self._total = np.concatenate([self._total, np.zeros((short, 1), np.float32)])
        begin = max(self._final - start, since - start, 0)
        place = slice(start + begin - self._final, start + len(scores) - self._final)
        self._sums[place] += scores[begin:] * self._weights[begin : len(scores)]
        self._total[place] += self._weights[begin : len(scores)]

    def _give(self, stop: int) -> Array:
        """Scores of the frames before `stop` that were not given out yet."""
        count = min(max(stop - self._final, 0), len(self._sums))
        means: Array = self._sums[:count] / np.maximum(self._total[:count], 1e-12)
        self._sums, self._total = self._sums[count:], self._total[count:]
        self._final += count
        return means


def _joined(before: Array, after: Array, missing: float) -> Array:
    """Two pieces of a sequence one after the other; people that one of them lacks are `missing` in it."""
    people = max(len(before), len(after))
    parts = []
    for part in (before, after):
        absent = np.full((people - len(part), *part.shape[1:]), missing, np.float32)
        parts.append(np.concatenate([part, absent]) if len(absent) else part)
    return np.concatenate(parts, axis=1)


def frame_scores(
    method: Method,
    datasets: Sequence[SkeletonDataset],
    names: Sequence[str],
    preprocess: Preprocess,
    frames: int,
    hop: int = 0,
    device: Any = "cpu",
    advance: Callable[[int], None] | None = None,
) -> Iterator[FrameScores]:
    """Scores of all frames of every clip, clip after clip.

    Args:
        method, preprocess, frames, hop, device: see `FrameStream`.
        datasets: the clips, in the joints of the network.
        names: classes of the network; spans of other classes are left out.
        advance: is given 1 after every clip.
    """
    before = method.training
    method.eval()
    for dataset in datasets:
        for index in range(len(dataset)):
            clip = dataset.read([index])[0]
            stream = FrameStream(method, preprocess, frames, hop, BATCH, device, clip.size, clip.fps)
            parts = [stream.push(clip.keypoints, clip.scores), stream.close()]
            spans = renumbered(clip.spans, dataset.span_labels, names)
            yield FrameScores(clip.key, np.concatenate(parts), spans, clip.fps)
            if advance is not None:
                advance(1)
    method.train(before)


def validation_results(
    method: Method,
    datasets: Sequence[SkeletonDataset],
    names: Sequence[str],
    preprocess: Preprocess,
    frames: int,
    device: Any = "cpu",
) -> list[Result]:
    """The figures of a training's validation clips, without floors; none where no clip has a span of these classes."""
    own = segmenting(method, "the network")
    known = [dataset for dataset in datasets if set(dataset.span_labels) & set(names)]
    found = list(frame_scores(own, known, names, preprocess, frames, device=device))
    if not any(clip.spans is not None and len(clip.spans) for clip in found):
        return []
    return segmentation_results(found, names, own.loss_name == "softmax")
