"""Classes of frames of whole clips, by windows that slide over them, as a stream that is given the whole clip at once:
so the scores of a clip are those of a stream (`training.runs.stream`) that gets it piece by piece.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from dataengine.core.errors import TrainingError
from training.data.spans import renumbered
from training.data.subsets import with_spans
from training.data.types import SkeletonDataset
from training.evaluate.result import Result
from training.evaluate.segmentation import FrameScores, segmentation_results
from training.methods.base import Method
from training.methods.segmentation import Segmentation
from training.runs.no_pose import shows_pose
from training.runs.stream import FrameStream
from training.transforms.preprocess import Preprocess

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


def stream_of(
    method: Method,
    preprocess: Preprocess,
    frames: int,
    hop: int = 0,
    batch: int = 1,
    device: Any = "cpu",
    size: tuple[int, int] | None = None,
    fps: float | None = None,
) -> FrameStream:
    """A stream of a method; see `FrameStream`.

    Args:
        method: the network with its head.
        preprocess, frames, batch, size, fps: see `FrameStream`.
        hop: frames between windows. Default: those of the method; half a window where it has 0.
        device: where the network runs.

    Raises:
        TrainingError: the method gives no classes of frames.
    """
    own = segmenting(method, "the network")
    dtype = next(own.parameters()).dtype

    @torch.no_grad()
    def score(motion: Any) -> Any:
        return own.frame_scores(torch.from_numpy(motion).to(device, dtype)).float().cpu().numpy()

    return FrameStream(score, own.num_classes, preprocess, frames, hop or own.hop, batch, size, fps)


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
        method, preprocess, frames, hop, device: see `stream_of`.
        datasets: the clips, in the joints of the network.
        names: classes of the network; spans of other classes are left out.
        advance: is given 1 after every clip.
    """
    before = method.training
    method.eval()
    for dataset in datasets:
        for index in range(len(dataset)):
            clip = dataset.read([index])[0]
            stream = stream_of(method, preprocess, frames, hop, BATCH, device, clip.size, clip.fps)
            parts = [stream.push(clip.keypoints, clip.scores), stream.close()]
            spans = renumbered(clip.spans, dataset.span_labels, names)
            yield FrameScores(clip.key, np.concatenate(parts), spans, clip.fps, shows_pose(clip.keypoints))
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
    known = with_spans([dataset for dataset in datasets if set(dataset.span_labels) & set(names)], by_people=True)
    found = list(frame_scores(own, known, names, preprocess, frames, device=device))
    if not any(clip.spans is not None and len(clip.spans) for clip in found):
        return []
    return segmentation_results(found, names, own.loss_name == "softmax")
