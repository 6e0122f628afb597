"""What the network of anchor poses is trained on: pictures of COCO's format, and rendered people."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, overload

import cv2
import numpy as np

from dataengine.core.errors import DatasetError
from dataengine.core.skeletons import convert
from dataengine.core.types import Float, LabelledFrame
from dataengine.rendering import RenderedClip, render_clip

ROOM = 0.05
"""How far each side of a box lies from the outermost joints, in widths or heights of their extent."""
FRAMES_PER_CLIP = 4
BACKGROUND_SHARE = 0.04
"""Share of rendered clips with nobody in them."""
CUT_SHARE = 0.35
"""Share of rendered clips whose people end at a side of the picture."""
MIN_JOINTS = 5
"""Least labelled joints of a person who is learned."""
SIZES = ((213, 120), (160, 120), (213, 160))


def labelled(key: str, image: np.ndarray, points: Float, skeleton: str) -> LabelledFrame:
    """A picture with joints (M, V, 2); joints that are NaN or outside have no label, people with few joints go."""
    height, width = image.shape[:2]
    points = np.asarray(points, np.float32)
    with np.errstate(invalid="ignore"):
        seen = np.asarray(((points >= 0) & (points < (width, height))).all(-1))
    points, seen = points[seen.sum(1) >= MIN_JOINTS], seen[seen.sum(1) >= MIN_JOINTS]
    points = np.where(seen[..., None], points, np.nan)
    if len(points):
        low, high = np.nanmin(points, 1), np.nanmax(points, 1)
        room = ROOM * (high - low)
        boxes = np.concatenate([low - room, high + room], 1)
    else:
        boxes = np.zeros((0, 4), np.float32)
    return LabelledFrame(key, image, points, seen.astype(np.float32), boxes.astype(np.float32), skeleton)


def cut(clip: RenderedClip, rng: np.random.Generator, most: float = 0.5) -> tuple[np.ndarray, Float]:
    """Frames and joints of a clip, moved so that 15 % to `most` of the first person's extent lie outside, below, on the
    left or on the right."""
    height, width = clip.frames.shape[1:3]
    points = clip.joints[len(clip.joints) // 2, 0]
    low, high = points.min(0), points.max(0)
    share, side = rng.uniform(0.15, most), int(rng.integers(3))
    shift = np.zeros(2)
    if side == 0:
        shift[1] = height - (high[1] - share * (high[1] - low[1]))
    elif side == 1:
        shift[0] = -(low[0] + share * (high[0] - low[0]))
    else:
        shift[0] = width - (high[0] - share * (high[0] - low[0]))
    move = np.array([[1, 0, shift[0]], [0, 1, shift[1]]])
    frames = [cv2.warpAffine(frame, move, (width, height), borderMode=cv2.BORDER_REFLECT) for frame in clip.frames]
    return np.stack(frames), clip.joints + shift.astype(np.float32)


def rendered(
    first_seed: int, num_clips: int, condition: str = "mixed", skeleton: str = "body13"
) -> list[LabelledFrame]:
    """Frames of rendered clips, in several sizes, some cut off by the picture and some without people."""
    out = []
    for seed in range(first_seed, first_seed + num_clips):
        rng = np.random.default_rng((seed, 5))
        nobody = rng.random() < BACKGROUND_SHARE
        size = SIZES[int(rng.integers(len(SIZES)))]
        clip = render_clip(
            seed, FRAMES_PER_CLIP, size=size, condition=condition, irregular=True, num_people=0 if nobody else None
        )
        frames, joints = clip.frames, clip.joints
        if not nobody and rng.random() < CUT_SHARE:
            frames, joints = cut(clip, rng)
        points, _ = convert(joints, None, "body14", skeleton)
        out += [labelled(f"rendered-{seed}:{t}", frames[t], points[t], skeleton) for t in range(len(frames))]
    return out


class CocoPeople(Sequence[LabelledFrame]):
    """Pictures of a data set in COCO's format for keypoints; pictures are read when they are asked for.

    Args:
        annotations: a JSON file. pictures: the folder of the files that it names.
        skeleton: layout of the joints, "coco17" or one that can be made of it.

    Raises:
        DatasetError: the file is of another format, or has no person with joints.
    """

    def __init__(self, annotations: Path, pictures: Path, skeleton: str = "body13") -> None:
        try:
            told = json.loads(annotations.read_text())
            names = {int(one["id"]): str(one["file_name"]) for one in told["images"]}
            people: dict[int, list[Float]] = {}
            for one in told["annotations"]:
                if one.get("iscrowd") or not one.get("num_keypoints", 1):
                    continue
                rows = np.array(one["keypoints"], np.float32).reshape(17, 3)
                people.setdefault(int(one["image_id"]), []).append(
                    np.where(rows[:, 2:] > 0, rows[:, :2], np.nan).astype(np.float32)
                )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DatasetError(
                f"{annotations} is no file of COCO's format for keypoints ({type(error).__name__}: {error}); "
                "give one with images, annotations and 17 keypoints per person"
            ) from error
        self.skeleton, self._pictures = skeleton, pictures
        self._rows = [(names[n], np.stack(some)) for n, some in sorted(people.items()) if n in names]
        if not self._rows:
            raise DatasetError(f"{annotations} has no person with keypoints in a picture that it names")

    def __len__(self) -> int:
        return len(self._rows)

    def joints(self, index: int) -> Float:
        """(M, V, 2) joints of a picture without reading it."""
        return convert(self._rows[index][1], None, "coco17", self.skeleton)[0]

    @overload
    def __getitem__(self, index: int) -> LabelledFrame: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[LabelledFrame]: ...
    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[k] for k in range(*index.indices(len(self)))]
        name, _ = self._rows[index]
        path = (self._pictures / name).resolve()
        if not path.is_relative_to(self._pictures.resolve()):
            raise DatasetError(f"picture {name!r} lies outside of {self._pictures}")
        image = cv2.imread(str(path), cv2.IMREAD_COLOR)
        if image is None:
            raise DatasetError(f"picture {path} cannot be read; leave it out of the annotations")
        return labelled(f"{name}:0", cv2.cvtColor(image, cv2.COLOR_BGR2RGB), self.joints(index), self.skeleton)


def normalised_poses(frames: Sequence[LabelledFrame]) -> Float:
    """(N, V, 2) poses of all people in lengths of their boxes, within the picture."""
    from dataengine.experts.anchor_classes import normalise

    out = []
    for n in range(len(frames)):
        frame = frames[n]
        size = np.array(frame.image.shape[1::-1])
        boxes = np.clip(frame.boxes.reshape(-1, 2, 2), 0, size).reshape(-1, 4)
        out.append(normalise(frame.keypoints, boxes))
    return np.concatenate(out)
