"""Features of the frames of whole clips by a trained network, for the annotator per frame.

Windows slide over a clip as for `segment` (`training.runs.stream`): a frame's features are the mean over the windows
that hold it. One row is kept for each step of the network, which is `stride` frames long.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch

from dataengine.core.errors import TrainingError
from training.data.types import Array, SkeletonDataset
from training.methods.segmentation import at_frames, single
from training.runs.clip_features import check_once
from training.runs.run import Run
from training.runs.sliding import BATCH
from training.runs.stream import FrameStream


@dataclass(frozen=True)
class FrameFeatures:
    """Features of the frames of one clip.

    Attributes:
        key: of the clip.
        rows: (S, D) float32; row s is of frame s `every`.
        every: frames from one row to the next.
        frames: T of the clip.
        fps: frames per second, or None.
        group: who or what was filmed; the key where the data do not say.
        shows_pose: whether the clip shows a pose (see `training.runs.no_pose`): the rows of others mean nothing.
    """

    key: str
    rows: Array
    every: int
    frames: int
    fps: float | None
    group: str
    shows_pose: bool = True

    def thinned(self, times: int) -> FrameFeatures:
        """The same with one row in `times`."""
        return replace(self, rows=self.rows[::times], every=self.every * times)

    def at_frames(self, values: Array) -> Array:
        """Values (S, K) of the rows, interpolated linearly to the frames (T, K); frames after the last row have its
        value."""
        place = np.arange(self.frames) / self.every
        low = np.minimum(place.astype(np.int64), len(values) - 1)
        high = np.minimum(low + 1, len(values) - 1)
        share = np.clip(place - low, 0, 1)[:, None]
        return np.asarray(values[low] * (1 - share) + values[high] * share)


class ClipsOfRun:
    """The clips of some datasets, whose frames get features by the network of a run.

    Args:
        run: any run whose network takes joints.
        datasets: in the joints of the run.
        device: where the network runs.

    Attributes:
        keys: of the clips, each once.

    Raises:
        TrainingError: the network takes pictures, or a clip is given twice.
    """

    def __init__(self, run: Run, datasets: Sequence[SkeletonDataset], device: Any = "cpu") -> None:
        if run.backbone.takes_pictures:
            raise TrainingError(f"{run.folder}: features of frames are those of joints; this network takes pictures")
        self._run, self._device = run, device
        self._places = [(dataset, index) for dataset in datasets for index in range(len(dataset))]
        self.keys: tuple[str, ...] = tuple(dataset.keys[index] for dataset, index in self._places)
        check_once(self.keys)

    def read(self, numbers: Iterable[int], advance: Callable[[int], None] | None = None) -> Iterator[FrameFeatures]:
        """The features of the clips with these numbers; `advance` is given 1 after every clip."""
        network = self._run.backbone.to(self._device).eval()
        for number in numbers:
            dataset, index = self._places[number]
            clip = dataset.read([index])[0]
            shown: list[bool] = []
            stream = FrameStream(
                partial(self._score, shown),
                network.width,
                self._run.preprocess,
                self._run.frames,
                batch=BATCH,
                size=clip.size,
                fps=clip.fps,
            )
            whole = np.concatenate([stream.push(clip.keypoints, clip.scores), stream.close()])
            group = clip.key if dataset.groups is None else str(dataset.groups[index])
            rows = np.ascontiguousarray(whole[:: network.stride], np.float32)
            yield FrameFeatures(clip.key, rows, network.stride, len(whole), clip.fps, group, any(shown))
            if advance is not None:
                advance(1)

    @torch.no_grad()
    def _score(self, shown: list[bool], windows: Any) -> Any:
        """(N, T, D) float32 of windows (N, C, T, V, M); `shown` is told whether they show a pose."""
        network = self._run.backbone
        shown.append(bool(windows[:, : windows.shape[1] - self._run.preprocess.score].any()))
        motion = torch.from_numpy(windows).to(self._device, next(network.parameters()).dtype)
        motion = self._run.method.seen(motion)
        mask = [(motion != 0).any(3).any(1)] if self._run.preprocess.mask else []
        steps = single(network.sequence(motion, *mask))
        return at_frames(steps, motion.shape[2], network.stride).transpose(1, 2).float().cpu().numpy()
