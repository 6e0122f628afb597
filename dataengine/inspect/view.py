"""view: a clip's skeletons drawn on its video, and beside it in space where the clip is lifted."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from dataengine.core.errors import DataEngineError, DatasetError
from dataengine.core.failures import in_one_line
from dataengine.core.skeletons import COMMON, convert
from dataengine.core.types import Float, Frames
from dataengine.dataset.takedown_records import TakenDown
from dataengine.inspect.build import find_clip, job_of
from dataengine.inspect.explain import explain
from dataengine.io.storage import write_durably
from dataengine.media.encode import write_video
from dataengine.passes.clip_frames import clearest, frames_of, lifted_arrays, pose_arrays
from dataengine.pipeline.plan import load
from dataengine.report.overlay import draw_people, panels
from dataengine.report.space import SIDES, TURN, space_panel, stage_of


def view(out: Path, clip_id: str, to: Path, experts: bool = False) -> Path:
    """Write a video (.mp4) or the frame with the clearest pose (.png) with skeletons drawn on it.

    Beside a clip with poses in space, its people turn about the upright axis, each about their own hips; a picture
    shows them from two sides.

    Args:
        experts: one panel an expert beside the fused pose; of refined clips beside the student's and the fused pose.

    Raises:
        DatasetError: no such clip, it was taken down, or it has no poses; the message says why.
    """
    if to.suffix not in (".mp4", ".png"):
        raise DataEngineError(f"view writes .mp4 or .png; given {to.name!r}")
    job = job_of(out)
    plan = load(job.work)
    row = find_clip(plan, clip_id)
    clip = plan.clip(clip_id)
    assert clip is not None
    gone = TakenDown.of(out).reason(clip_id, clip.video_id)
    if gone is not None:
        raise DatasetError(f"clip {clip_id} was taken down: {gone}")
    try:
        arrays = pose_arrays(job.ledger("poses"), row["unit"], clip_id)
    except DataEngineError:
        steps = explain(out, clip_id)["passes"]
        last = steps[-1] if steps else {"pass": "plan", "outcome": "not run"}
        why = f"{last['pass']} {last['outcome']} {last.get('reason', '')} {last.get('detail', '')}".rstrip()
        raise DatasetError(f"clip {clip_id} has no poses: {why}") from None
    lifted = lifted_arrays(job, row["unit"], clip_id)
    pictures = _drawn(frames_of(job.recipe, plan, clip, arrays), arrays, experts)
    if lifted is not None:
        pictures = _with_space(pictures, arrays["json"], lifted["keypoints3d"], to.suffix == ".mp4")
    with in_one_line(to.parent):
        to.parent.mkdir(parents=True, exist_ok=True)
        if to.suffix == ".mp4":
            write_video(to, pictures, Fraction(arrays["json"]["fps"]))
            return to
    import cv2

    best = clearest(arrays["scores"])
    picture = next(p for n, p in enumerate(pictures) if n == best)
    done, content = cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    assert done
    with in_one_line(to):
        write_durably(to, content.tobytes())
    return to


def _drawn(frames: Iterator[Frames], arrays: dict[str, Any], experts: bool) -> Iterator[Frames]:
    meta = arrays["json"]
    keypoints, scores = arrays["keypoints"], arrays["scores"].astype(np.float32)
    common, common_scores = convert(keypoints, scores, meta["skeleton"], COMMON)
    former = None
    if "fused_keypoints" in arrays:  # the poses before refinement, of the same people
        fused, sure = arrays["fused_keypoints"], arrays["fused_scores"].astype(np.float32)
        former = convert(fused, sure, meta["skeleton"], COMMON)
    for t, frame in enumerate(frames):
        scale = max(1.0, 480 / frame.shape[0])
        if not experts:
            yield even(draw_people(frame, keypoints[:, t], scores[:, t], meta["skeleton"], scale=scale))
            continue
        name = f"generation {meta['generation']}" if meta.get("generation") else "fused"
        poses = {name: (common[:, t], common_scores[:, t])}
        if former is not None:
            poses["fused"] = (former[0][:, t], former[1][:, t])
        for e, name in enumerate(meta["experts"]):
            poses[name] = (arrays["expert_keypoints"][:, e, t], arrays["expert_scores"][:, e, t].astype(np.float32))
        yield even(panels(frame, poses, COMMON, scale=scale))


def _with_space(pictures: Iterator[Frames], meta: dict[str, Any], joints: Float, turning: bool) -> Iterator[Frames]:
    """Pictures with the people in space on their right: turning with the time, or from two sides.

    Args:
        joints: (M, T, V, 3) metres from the middle of the hips.
    """
    stages, fps = [stage_of(person) for person in joints], float(Fraction(meta["fps"]))
    for t, picture in enumerate(pictures):
        sides = ((TURN * t / fps, ""),) if turning else SIDES
        panels = [space_panel(joints[:, t], meta["skeleton"], stages, yaw, len(picture), text) for yaw, text in sides]
        yield even(np.hstack([picture, *panels]))


def even(picture: Frames) -> Frames:
    """Without the last row or column where their number is odd, which H.264 cannot store."""
    return np.ascontiguousarray(picture[: picture.shape[0] // 2 * 2, : picture.shape[1] // 2 * 2])
