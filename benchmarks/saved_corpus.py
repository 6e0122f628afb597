"""A corpus of many tiny clips with saved poses: builds of it run no network, for benchmarks of the pipeline."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from dataengine.media.encode import write_video

FRAMES, SIDE = 16, 64
SETTINGS = (
    'pose.experts=["precomputed"]',
    "pose.expert_weights={}",
    'pose.fusion="mean"',
    'experts.precomputed.pattern="{stem}"',
    'experts.precomputed.layout="coco17"',
    "curate.filters=[]",
    "report.gallery=0",
)
"""Settings of the recipe `posecap`, overlay `core`, for a build of the corpus, besides the folder of the poses."""


def write(folder: Path, clips: int) -> None:
    """Write `folder/videos` and `folder/poses`: one person of noise per clip, each clip with pictures of its own."""
    for name in ("videos", "poses"):
        (folder / name).mkdir(parents=True)
    steps = np.arange(FRAMES)[:, None, None]
    for number in range(clips):
        rng = np.random.default_rng(number)
        ground = rng.integers(0, 255, (SIDE // 8, SIDE // 8, 3), np.uint8).repeat(8, 0).repeat(8, 1)
        frames = [np.roll(ground, 4 * n, axis=1) for n in range(FRAMES)]
        write_video(folder / "videos" / f"v{number:05d}.mp4", iter(frames), 10)
        body = rng.uniform(12, SIDE - 12, (1, 17, 2)) + rng.normal(0, 0.3, (FRAMES, 17, 2)) + 0.2 * steps
        np.savez(
            folder / "poses" / f"v{number:05d}.npz", keypoint=body[None], keypoint_score=np.full((1, FRAMES, 17), 0.9)
        )


def arguments(folder: Path, out: Path, *settings: str) -> list[str]:
    """The command that builds the corpus into `out`."""
    told = [*SETTINGS, f'experts.precomputed.folder="{folder / "poses"}"', *settings]
    build = [sys.executable, "-m", "dataengine.cli", "build", "posecap", "--overlay", "core"]
    build += ["--sources", f"folder={folder / 'videos'}", "--out", str(out), "--json", "--device", "cpu"]
    return [*build, *(part for text in told for part in ("--set", text))]
