"""view: a clip's skeletons drawn on its video."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from dataengine.core.errors import DataEngineError, DatasetError
from dataengine.core.skeletons import COMMON, convert
from dataengine.core.types import Clip, Frames
from dataengine.inspect.explain import build_state, explain, find_clip
from dataengine.io import shards
from dataengine.media.encode import write_video
from dataengine.pipeline.ledger import Ledger
from dataengine.pipeline.plan import Plan, load
from dataengine.pipeline.recipe import Recipe
from dataengine.report.overlay import draw_people, panels


def pose_arrays(ledger: Ledger, unit: str, clip_id: str) -> dict[str, Any]:
    """The pose pass's arrays of one clip.

    Raises:
        DatasetError: the clip has none.
    """
    for key, entries in shards.iterate(ledger.artifact(unit)):
        if key == clip_id:
            return shards.decode(entries)
    raise DatasetError(f"clip {clip_id} has no poses")


def frames_of(recipe: Recipe, plan: Plan, clip: Clip, timestamps: Any) -> Iterator[Frames]:
    """The clip's pictures that poses were estimated in, in order."""
    decoder = recipe.component("decoders", recipe.pose.decoder)
    wanted, first = np.asarray(timestamps, np.float64), None
    place = 0
    with decoder.open(plan.media(clip), clip.span_start, clip.span_end) as stream:
        for batch in stream:
            for frame, time in zip(batch.frames, batch.timestamps):
                first = float(time) if first is None else first
                if place < len(wanted) and time - first >= wanted[place] - 1e-3:
                    place += 1
                    yield frame


def view(out: Path, clip_id: str, to: Path, experts: bool = False) -> Path:
    """Write a video (.mp4) or the frame with the clearest pose (.png) with skeletons drawn on it.

    Args:
        experts: one panel an expert beside the fused pose.

    Raises:
        DatasetError: no such clip, or it has no poses; the message says why.
    """
    if to.suffix not in (".mp4", ".png"):
        raise DataEngineError(f"view writes .mp4 or .png; given {to.name!r}")
    recipe, fingerprints = build_state(out)
    plan = load(out / "work")
    row = find_clip(plan, clip_id)
    clip = plan.clip(clip_id)
    assert clip is not None
    try:
        arrays = pose_arrays(Ledger(out / "work", "pose", fingerprints["pose"]), row["unit"], clip_id)
    except DataEngineError:
        steps = explain(out, clip_id)["passes"]
        last = steps[-1] if steps else {"pass": "plan", "outcome": "not run"}
        raise DatasetError(
            f"clip {clip_id} has no poses: {last['pass']} {last['outcome']} {last.get('reason', '')} {last.get('detail', '')}".rstrip()
        ) from None
    pictures = _drawn(frames_of(recipe, plan, clip, arrays["timestamps"]), arrays, experts)
    to.parent.mkdir(parents=True, exist_ok=True)
    if to.suffix == ".mp4":
        write_video(to, pictures, Fraction(arrays["json"]["fps"]))
        return to
    import cv2

    best = int(np.argmax(np.nan_to_num(arrays["scores"].astype(np.float32)).sum((0, 2))))
    picture = next(p for n, p in enumerate(pictures) if n == best)
    cv2.imwrite(str(to), cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    return to


def _drawn(frames: Iterator[Frames], arrays: dict[str, Any], experts: bool) -> Iterator[Frames]:
    meta = arrays["json"]
    keypoints, scores = arrays["keypoints"], arrays["scores"].astype(np.float32)
    common, common_scores = convert(keypoints, scores, meta["skeleton"], COMMON)
    for t, frame in enumerate(frames):
        scale = max(1.0, 480 / frame.shape[0])
        if not experts:
            yield even(draw_people(frame, keypoints[:, t], scores[:, t], meta["skeleton"], scale=scale))
            continue
        poses = {"fused": (common[:, t], common_scores[:, t])}
        for e, name in enumerate(meta["experts"]):
            poses[name] = (arrays["expert_keypoints"][:, e, t], arrays["expert_scores"][:, e, t].astype(np.float32))
        yield even(panels(frame, poses, COMMON, scale=scale))


def even(picture: Frames) -> Frames:
    """Without the last row or column where their number is odd, which H.264 cannot store."""
    return np.ascontiguousarray(picture[: picture.shape[0] // 2 * 2, : picture.shape[1] // 2 * 2])
