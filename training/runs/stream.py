"""Classes of frames of a sequence that arrives in pieces, in bounded memory. Nothing here needs torch.

    stream = exported_stream("model.onnx")       # or training.runs.sliding.stream_of(run.method, ...)
    for keypoints in camera:                     # (M, T, V, C), any T
        scores = stream.push(keypoints)          # (F, K) of the frames that are final, in order
    scores = stream.close()                      # of the rest

A stream holds one window of joints and sums, whatever the length of the sequence.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from dataengine.core.errors import TrainingError
from dataengine.core.skeletons import Skeleton
from training.data.entries import Motion
from training.data.types import Array, SkeletonSequence
from training.transforms.preprocess import Preprocess
from training.transforms.windows import prepared_window

Score: TypeAlias = Callable[[Any], Any]


def exported_stream(
    path: str | os.PathLike[str],
    hop: int = 0,
    batch: int = 1,
    size: tuple[int, int] | None = None,
    fps: float | None = None,
) -> FrameStream:
    """A stream of an ONNX file that `dataengine-train export` wrote of a run of `segment`, on one core of the CPU.

    Args:
        path: of the file; how windows are prepared, and how long they are, stands in it.
        hop, batch, size, fps: see `FrameStream`.

    Raises:
        TrainingError: no such file, or one of another network.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.enable_cpu_mem_arena = False
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        note = {key: json.loads(text) for key, text in session.get_modelmeta().custom_metadata_map.items()}
        if note.get("output") != "frames":
            raise ValueError(f"its output is {note.get('output', 'not said')}")
        table = dict(note["preprocess"])
        bones = tuple((int(a), int(b)) for a, b in note["bones"])
        table["skeleton"] = Skeleton(note["skeleton"], tuple(note["joints"]), bones)
        for key in ("channels", "size"):
            table[key] = None if table.get(key) is None else tuple(table[key])
        preprocess = Preprocess(**table)
    except TrainingError:
        raise
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise TrainingError(
            f"{path}: no network that tells classes of frames ({reason}): give a file that `dataengine-train export` "
            "wrote of a run of segment"
        ) from error

    def score(motion: Any) -> Any:
        return session.run(None, {session.get_inputs()[0].name: motion})[0]

    return FrameStream(score, len(note["labels"]), preprocess, int(note["frames"]), hop, batch, size, fps)


class FrameStream:
    """Class scores of the frames of a sequence that arrives in pieces.

    Windows of `frames` frames begin every `hop` frames; the last one ends with the sequence. The scores of a frame are
    the mean over the windows that hold it, weighted by how far the frame is from the nearer end of each, as the network
    sees least there. A frame is final once no later window holds it: `delay` frames after it came, at most.

    Args:
        score: windows (N, C, T, V, M) float32 to probabilities (N, T, K) of the classes of their frames.
        num_classes: K.
        preprocess: prepares each window by itself.
        frames: T of a window.
        hop: frames between windows; 0: half a window.
        batch: windows per forward pass; more than one wait for each other.
        size, fps: of the video, where `preprocess` needs them.
    """

    def __init__(
        self,
        score: Score,
        num_classes: int,
        preprocess: Preprocess,
        frames: int,
        hop: int = 0,
        batch: int = 1,
        size: tuple[int, int] | None = None,
        fps: float | None = None,
    ) -> None:
        self._score, self._preprocess, self._frames, self._batch = score, preprocess, frames, batch
        self._hop = min(hop or max(1, frames // 2), frames)
        self._facts: dict[str, Any] = {"size": size, "fps": fps}
        ramp = np.minimum(np.arange(1, frames + 1), np.arange(frames, 0, -1))
        self._weights: Array = ramp.astype(np.float32)[:, None]
        self._joints: Array | None = None  # of the frames from `_first` on
        self._seen: Array | None = None  # their scores
        self._first = self._next = self._final = 0  # frames in the buffer, of the next window, given out
        self._sums = np.zeros((0, num_classes), np.float32)  # of the frames from `_final` on
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
        found = self._score(np.asarray(Motion.stack("motion", samples)[""]))
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
