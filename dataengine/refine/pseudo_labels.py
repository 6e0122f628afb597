"""Pseudo-labels: fused poses that a student learns from, and the pictures that they belong to.

Clips have shards of sampled frames (`dataengine.passes.pseudo_labels` makes them). An entry of a clip holds every fused
person of its frames with what the experts proposed, so that thresholds are retuned, and later rounds labelled, without
decoding again:

==================  ======================  ==========================================================
json                                        frames (numbers within the clip)
image-NNNNNN.jpg                            the picture of a frame, quality 95, colours at full resolution
keypoints           (M, K, 13, 2) float32   fused pose in the common layout, pixels, NaN where unseen
scores              (M, K, 13) float16      in [0, 1]
confidence          (M, K) float16          C of the fusion
expert_keypoints    (M, E, K, 13, 2) f4     what each expert proposed
expert_scores       (M, E, K, 13) float16   as the expert gave them
==================  ======================  ==========================================================
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dataengine.core.errors import LedgerError
from dataengine.core.skeletons import COMMON
from dataengine.core.types import Float, LabelledFrame
from dataengine.io import shards
from dataengine.io.storage import mapped

GROWTH = 0.05
"""Share of a box's width or height by which each of its sides is moved outwards: the paper widens boxes by 10 %."""
QUALITY = 95
"""Of stored pictures."""
IMAGE = "image-{:06d}.jpg"


@dataclass(frozen=True)
class Thresholds:
    """What is sure enough to be learned from.

    Attributes:
        gamma: least confidence C of a person. min_score: least score of a joint. min_joints: fewest such joints.
    """

    gamma: float = 0.18
    min_score: float = 0.3
    min_joints: int = 6


def boxes_around(keypoints: Float, growth: float = GROWTH) -> Float:
    """(M, 4) float32 xyxy: the extent of the joints (M, V, 2), each side moved outwards by `growth` of the box's width
    or height, and by at least half a pixel; NaN for people without joints."""
    seen = np.isfinite(keypoints).all(-1, keepdims=True)
    low = np.where(seen, keypoints, np.inf).min(1)
    high = np.where(seen, keypoints, -np.inf).max(1)
    room = np.maximum(growth * (high - low), 0.5)
    found: Float = np.concatenate([low - room, high + room], -1).astype(np.float32)
    found[~np.isfinite(found).all(-1)] = np.nan
    return found


def labels_of(keypoints: Float, scores: Float, confidence: Float, limits: Thresholds) -> tuple[Float, Float, Float]:
    """The people of one frame that are sure enough.

    Args:
        keypoints: (M, V, 2) float32 pixels, NaN where unseen. scores: (M, V). confidence: (M,).

    Returns:
        keypoints (P, V, 2) and scores (P, V) with unsure joints blanked, and boxes (P, 4), all float32. A box is drawn
        around every joint that was seen, so that it shows the whole person.
    """
    sure = np.isfinite(keypoints).all(-1) & (scores >= limits.min_score)
    taken = (confidence >= limits.gamma) & (sure.sum(-1) >= limits.min_joints)
    points = np.where(sure[..., None], keypoints, np.nan)[taken].astype(np.float32)
    certain = np.where(sure, scores, 0)[taken].astype(np.float32)
    return points, certain, boxes_around(keypoints[taken])


def encode(image: NDArray[np.uint8]) -> bytes:
    """A picture (H, W, 3) RGB as it is stored."""
    import cv2

    options = [cv2.IMWRITE_JPEG_QUALITY, QUALITY]
    options += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    done, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)
    assert done, "a picture of three colours can be stored"
    return data.tobytes()


def decode(data: bytes) -> NDArray[np.uint8]:
    """What `encode` stored, (H, W, 3) RGB."""
    import cv2

    found = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert found is not None, "a picture that was stored can be read"
    image: NDArray[np.uint8] = cv2.cvtColor(found, cv2.COLOR_BGR2RGB)
    return image


@dataclass(frozen=True)
class SampledClip:
    """The sampled frames of one clip.

    Attributes:
        shard: the file they lie in. images: (offset, bytes) of the picture of each frame there.
        arrays: entries of the clip, see the module.
    """

    clip_id: str
    shard: Path
    images: tuple[tuple[int, int], ...]
    arrays: Mapping[str, Any]

    @property
    def frames(self) -> list[int]:
        """Numbers of the frames within the clip."""
        found: list[int] = self.arrays["json"]["frames"]
        return found

    def image(self, number: int) -> NDArray[np.uint8]:
        """The picture of the number-th frame."""
        offset, size = self.images[number]
        return decode(bytes(mapped(self.shard)[offset : offset + size]))


def read_clips(shard: Path) -> list[SampledClip]:
    """The clips of one shard; pictures are read when they are asked for.

    Raises:
        LedgerError: a clip lacks a picture.
    """
    data, found = mapped(shard), list[SampledClip]()
    for clip_id, entries in shards.scan(data, str(shard)):
        places = {entry.name: entry for entry in entries}
        plain = {n: bytes(data[e.offset : e.offset + e.size]) for n, e in places.items() if not n.endswith(".jpg")}
        arrays = shards.decode(plain)
        names = [IMAGE.format(frame) for frame in arrays["json"]["frames"]]
        if any(name not in places for name in names):
            raise LedgerError(f"{shard}: clip {clip_id} lacks a picture")
        found.append(SampledClip(clip_id, shard, tuple((places[n].offset, places[n].size) for n in names), arrays))
    return found


@dataclass(frozen=True)
class _Item:
    clip: SampledClip
    number: int
    keypoints: Float
    scores: Float
    boxes: Float


class LabelledFrames(Sequence[LabelledFrame]):
    """The frames of some clips that show anybody who is sure enough; pictures are read when a frame is asked for.

    Args:
        clips: in the order of the frames.
        relabel: gives other fused poses of a clip than those stored: keypoints (M, K, 13, 2), scores (M, K, 13) and
            confidence (M, K).
    """

    def __init__(
        self,
        clips: Iterable[SampledClip],
        limits: Thresholds,
        relabel: Callable[[SampledClip], tuple[Float, Float, Float]] | None = None,
    ) -> None:
        self._items: list[_Item] = []
        for clip in clips:
            keypoints, scores, confidence = stored_labels(clip) if relabel is None else relabel(clip)
            for number in range(len(clip.frames)):
                labels = labels_of(keypoints[:, number], scores[:, number], confidence[:, number], limits)
                if len(labels[0]):
                    self._items.append(_Item(clip, number, *labels))

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, number: Any) -> Any:
        if isinstance(number, slice):
            return [self[n] for n in range(*number.indices(len(self)))]
        item = self._items[number]
        key = f"{item.clip.clip_id}:{item.clip.frames[item.number]}"
        return LabelledFrame(key, item.clip.image(item.number), item.keypoints, item.scores, item.boxes, COMMON)

    @property
    def people(self) -> int:
        """Labelled people of all frames."""
        return sum(len(item.keypoints) for item in self._items)


def stored_labels(clip: SampledClip) -> tuple[Float, Float, Float]:
    """Fused keypoints, scores and confidence of a clip, as float32."""
    names = ("keypoints", "scores", "confidence")
    keypoints, scores, confidence = (clip.arrays[name].astype(np.float32) for name in names)
    return keypoints, scores, confidence
