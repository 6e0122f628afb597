"""Two generations of a student, and the experts of the recipe, on annotated pictures.

Top-down networks look into the annotated boxes, so that people are judged and not the detector. All poses go through
the recipe's tracker and fusion, a picture being a clip of one frame.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np

from dataengine.core.component import ClipFrames, DetectorSession
from dataengine.core.progress import Progress
from dataengine.core.types import Clip, Float, Frames
from dataengine.passes.pose import fuse_track
from dataengine.passes.pose_estimation import PoseEstimator
from dataengine.passes.pose_session import PoseComponents, PoseSession
from dataengine.pipeline.recipe import Recipe
from dataengine.refine.gate import PairedValues
from dataengine.refine.truth import AnnotatedPictures, Picture, scores_of


class AnnotatedBoxes(DetectorSession):
    """The annotated boxes of a picture, in the place of a detector."""

    def __init__(self, picture: Picture) -> None:
        ones = np.ones((len(picture.boxes), 1), np.float32)
        self._boxes = np.concatenate([picture.boxes, ones], 1).astype(np.float32)

    def detect(self, frames: Frames) -> list[Float]:
        """The boxes, for every frame."""
        return [self._boxes] * len(frames)


def compare_on_pictures(
    recipe: Recipe, old: PoseSession, new: PoseSession, device: str, progress: Progress, name: str
) -> tuple[dict[str, PairedValues], dict[str, PairedValues] | None]:
    """OKS and PCKh of every annotated person: of the generation before and of this one, and of the experts' fusion and
    of this one. The latter is None where an expert looks saved poses up, which pictures have none of."""
    pictures = AnnotatedPictures.read(str(recipe.refine.gate.truth), recipe.refine.gate.pictures)
    fused: PoseSession | None = None
    if not any(recipe.component("experts", name).looks_up for name in recipe.pose.experts):
        tools = replace(PoseComponents.of(recipe), detector=None)
        fused = PoseSession(recipe, device, tools)
    sessions = [old, new, *([] if fused is None else [fused])]
    try:
        with progress.step(f"{name}: truth", len(pictures), "pictures") as advance:
            values = [_scores(pictures, session, advance if session is new else None) for session in sessions]
    finally:
        if fused is not None:
            fused.close()
    groups = [str(picture.path) for picture in pictures for _ in picture.joints]

    def paired(before: int) -> dict[str, PairedValues]:
        return {kind: PairedValues(values[before][kind], values[1][kind], groups) for kind in ("oks", "pckh")}

    return paired(0), None if fused is None else paired(2)


def _scores(pictures: list[Picture], session: PoseSession, advance: Callable[[int], None] | None) -> dict[str, Float]:
    """OKS and PCKh of every annotated person of all pictures."""
    found: list[Any] = []
    for picture in pictures:
        found.append(scores_of(picture, poses_in(picture, session)))
        if advance is not None:
            advance(1)
    return {kind: np.concatenate([row[n] for row in found]) for n, kind in enumerate(("oks", "pckh"))}


def poses_in(picture: Picture, session: PoseSession) -> Float:
    """(M, 13, 2) fused poses of the people of a picture."""
    tools = session.components
    clip = Clip(clip_id="picture", source="", video_id="picture", media="")
    frames = picture.image()[None]
    zero = np.zeros(1)
    given = ClipFrames(clip, frames, zero.astype(np.int64), zero, Fraction(1))
    with session.for_clip() as (_, experts):
        estimator = PoseEstimator(AnnotatedBoxes(picture), list(zip(experts, session.needs_boxes)), 1)
        people = [list(per_frame) for per_frame in zip(*estimator.predict(given))]
    tracks = tools.tracker.track(people, zero, session.skeletons)
    if not tracks:
        return np.zeros((0, 13, 2), np.float32)
    return np.stack([fuse_track(track, tools).coords[0] for track in tracks])
