"""Pictures as the input of a network: size, colours, and random views of them.

Constants of the random views are those of rho-MoCo: facebookresearch/SlowFast `configs/contrastive_ssl/
MoCo_SlowR50_8x8.yaml` (area 0.2 to 0.766, aspect 3/4 to 4/3, colours 0.6 / 0.6 / 0.6 / 0.15 four times in five, grey
one time in five), with the blur of MoCo v2 (Chen et al. 2020, section 2).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from dataengine.core.errors import TrainingError
from dataengine.core.types import Frames
from training.data.entries import Motion
from training.data.rgb import as_frames, is_pictures
from training.data.types import Array, SkeletonSequence
from training.transforms.placement import Prepared
from training.transforms.preprocess import Preprocess

MEAN, DEVIATION = 0.45, 0.225
"""Of pixels from 0 to 1 in every colour, as the weights of PySlowFast expect."""
SIDE = 224
"""Width and height of pictures without a size of their own."""
GREY = np.array([0.299, 0.587, 0.114], np.float32)
"""Luminance of red, green and blue (ITU-R BT.601)."""
ATTEMPTS = 10
"""Boxes that are drawn before the largest one in the middle is taken, as in Inception's crop."""


@dataclass(frozen=True)
class PicturePreprocess(Preprocess):
    """Turns a clip of pictures into (W, T, H, 3) float32 of one size: columns stand where people do, rows where joints
    do.

    `joints` gives the whole pictures as they are, (W, T, H, 3) uint8; `entry` takes the largest box of the aspect of
    `size` in their middle, at that size (224 x 224 by default), with colours of mean 0.45 and deviation 0.225.
    """

    @property
    def shape(self) -> tuple[int, int]:
        """Width and height of the input."""
        return self.size or (SIDE, SIDE)

    def __call__(
        self,
        clip: SkeletonSequence,
        view: Callable[[Array, np.random.Generator], Array] | None = None,
        rng: np.random.Generator | None = None,
    ) -> Array:
        """The input of the network of a clip, (W, T, H, 3) float32; see `Preprocess`."""
        array = self.joints(clip)
        return self.finish(array if view is None else view(array, np.random.default_rng(0) if rng is None else rng))

    def joints(self, clip: SkeletonSequence) -> Array:
        """The pictures of a clip as they are, (W, T, H, 3) uint8."""
        if clip.keypoints.dtype != np.uint8 or clip.keypoints.ndim != 4 or clip.keypoints.shape[-1] != 3:
            raise TrainingError(
                f"clip {clip.key!r} is no clip of pictures: it has {clip.keypoints.dtype} of shape "
                f"{clip.keypoints.shape}; allowed: uint8 (W, T, H, 3)"
            )
        return clip.keypoints

    def prepare(self, clip: SkeletonSequence) -> Prepared:
        """As `joints`, with all frames of the clip."""
        array = self.joints(clip)
        return Prepared(array, np.arange(array.shape[1]), None, None)

    def finish(self, array: Array) -> Array:
        """(W', T, H', 3) float32 of pictures (W, T, H, 3), uint8 or from 0 to 255."""
        frames = as_frames(array)
        height, width = frames.shape[1:3]
        box = _middle(width, height, self.shape[0] / self.shape[1])
        return self.normalised(cut(frames, box, self.shape))

    def entry(self, array: Array) -> Motion:
        """The entry of a sample of pictures (W, T, H, 3)."""
        return Motion(self.finish(array))

    def normalised(self, frames: Array | Frames) -> Array:
        """(W, T, H, 3) float32 of pictures (T, H, W, 3) from 0 to 255, laid out as a batch will be."""
        out = np.empty((3, *frames.shape[:3]), np.float32)
        np.multiply(frames.transpose(3, 0, 1, 2), np.float32(1 / (255 * DEVIATION)), out=out)
        out -= np.float32(MEAN / DEVIATION)
        turned: Array = out.transpose(3, 1, 2, 0)
        return turned


def check_preprocess(table: dict[str, Any], defaults: dict[str, Any]) -> None:
    """Refuse options of [preprocess] that have no effect on pictures.

    Raises:
        TrainingError: one of joints is set.
    """
    for name in ("channels", "stream", "score", "keep_root", "mask"):
        if table[name] != defaults[name]:
            raise TrainingError(
                f"preprocess.{name} = {table[name]!r} is of joints, and the data are pictures; leave it out"
            )


def picture_preprocess(layout: Any, size: tuple[int, int] | None) -> PicturePreprocess:
    """The preprocessing of pictures of a layout.

    Raises:
        TrainingError: the layout is of joints, or the size is none.
    """
    if not is_pictures(layout) or (size is not None and min(size) < 8):
        raise TrainingError(f"preprocess.size = {size}: width and height of pictures are 8 pixels or more")
    return PicturePreprocess(layout, normalise="none", size=None if size is None else (size[0], size[1]))


Box = tuple[int, int, int, int]
"""Left, top, width and height in pixels."""


def _middle(width: int, height: int, aspect: float) -> Box:
    """The largest box of an aspect (width over height) in the middle of a picture."""
    w, h = min(width, max(1, round(height * aspect))), min(height, max(1, round(width / aspect)))
    return (width - w) // 2, (height - h) // 2, w, h


def cut(frames: Array | Frames, box: Box, size: tuple[int, int]) -> Array:
    """A box of pictures (T, H, W, 3), scaled to `size` (width, height): (T, height, width, 3) of their dtype."""
    left, top, width, height = box
    out: Array = np.empty((len(frames), size[1], size[0], 3), frames.dtype)
    how = cv2.INTER_AREA if width > size[0] else cv2.INTER_LINEAR
    for target, frame in zip(out, frames):
        part = frame[top : top + height, left : left + width]
        target[...] = (
            part if (width, height) == size else cv2.resize(np.ascontiguousarray(part), size, interpolation=how)
        )
    return out


@dataclass(frozen=True)
class PictureViews:
    """Random changes of a clip of pictures, the same for all its frames.

    Attributes:
        area: least and largest part of the picture that a random box covers.
        aspect: least and largest width of the box over its height, relative to that of the input.
        flip: probability of mirroring.
        colours: probability of changed brightness, contrast, saturation and hue.
        strength: of brightness, contrast and saturation; the hue changes by up to a quarter of it.
        grey: probability of a clip without colours.
        blur: probability of a Gaussian blur, of 0.1 to 2 pixels on pictures of 224.
    """

    area: tuple[float, float] = (0.2, 0.766)
    aspect: tuple[float, float] = (0.75, 1.333)
    flip: float = 0.5
    colours: float = 0.8
    strength: float = 0.6
    grey: float = 0.2
    blur: float = 0.5

    def __post_init__(self) -> None:
        chances = (self.flip, self.colours, self.grey, self.blur)
        ranges_fit = 0 < self.area[0] <= self.area[1] <= 1 and 0 < self.aspect[0] <= self.aspect[1]
        if not ranges_fit or not all(0 <= chance <= 1 for chance in chances) or not 0 <= self.strength <= 1:
            raise TrainingError(
                f"area {self.area} within 0 to 1, aspect {self.aspect} above 0, each from the least to the largest; "
                f"flip, colours, grey, blur and strength from 0 to 1; given {chances} and {self.strength}"
            )

    def __call__(self, frames: Frames, size: tuple[int, int], rng: np.random.Generator) -> Array:
        """A random view (T, height, width, 3) float32, 0 to 255, of pictures (T, H, W, 3) uint8."""
        height, width = frames.shape[1:3]
        out: Array = cut(frames, self.box(width, height, size, rng), size).astype(np.float32)
        if rng.random() < self.flip:
            out = out[:, :, ::-1]
        if rng.random() < self.colours:
            out = self._coloured(out, rng)
        if rng.random() < self.grey:
            out = np.repeat((out @ GREY)[..., None], 3, -1)
        if rng.random() < self.blur:
            sigma = rng.uniform(0.1, 2.0) * size[0] / SIDE
            out = np.stack([cv2.GaussianBlur(np.ascontiguousarray(frame), (0, 0), sigma) for frame in out])
        return out

    def box(self, width: int, height: int, size: tuple[int, int], rng: np.random.Generator) -> Box:
        """A random box of a picture: its area and the logarithm of its aspect are uniform."""
        own = size[0] / size[1]
        for _ in range(ATTEMPTS):
            area = rng.uniform(*self.area) * width * height
            aspect = own * np.exp(rng.uniform(*np.log(self.aspect)))
            w, h = round(np.sqrt(area * aspect)), round(np.sqrt(area / aspect))
            if 0 < w <= width and 0 < h <= height:
                return int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1)), w, h
        return _middle(width, height, own)

    def _coloured(self, frames: Array, rng: np.random.Generator) -> Array:
        """Brightness, contrast, saturation and hue of frames (T, H, W, 3) from 0 to 255, in this order."""
        bright, contrast, saturation = 1 + self.strength * rng.uniform(-1, 1, 3).astype(np.float32)
        out = frames * bright
        mean = np.float32((out @ GREY).mean())
        out = mean + (out - mean) * contrast
        grey = (out @ GREY)[..., None]
        out = np.clip(grey + (out - grey) * saturation, 0, 255)
        turn = 360 * self.strength / 4 * rng.uniform(-1, 1)
        hsv = cv2.cvtColor(np.ascontiguousarray(out.reshape(1, -1, 3)) / np.float32(255), cv2.COLOR_RGB2HSV)
        hsv[..., 0] = (hsv[..., 0] + np.float32(turn)) % 360
        return np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB) * np.float32(255), np.float32).reshape(frames.shape)


def changed_views(
    frames: Frames, views: PictureViews, preprocess: PicturePreprocess, rng: np.random.Generator
) -> Motion:
    """The entry of a random view of pictures (T, H, W, 3) uint8."""
    return Motion(preprocess.normalised(views(frames, preprocess.shape, rng)))
