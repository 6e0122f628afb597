"""A whole build on one GPU: the default recipe's networks with drawn weights, on rendered clips.

Speed does not depend on what a network has learnt. The detector names two people in every frame, so that both top-down
experts get two crops a frame; filters and the removal of duplicates are off, so that every clip goes through every
pass. Clips are a few rendered videos under many names.

Three builds in one process: some clips one by one, the same clips together (which also warms up), then all clips
together, measured. Stages are seconds of threads: decoding and preprocessing run beside the networks, so their sum
exceeds the wall time. `forward` holds the wait for the device. Needs the extras `vitpose` and `clip`; without open_clip
no features are embedded. A CPU only shows that it runs: its result has no value.
"""

from __future__ import annotations

import os

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

import importlib.util
import io
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import random_weights
from expert_speed import corpus
from harness import main

import dataengine
from dataengine.core import nvml, registry
from dataengine.io import shards
from dataengine.pipeline.engine import Engine

GOAL = 240.0
"""Frames a second on one GPU: 650,000 clips of 300 frames on 64 GPUs in three and a half hours."""


class Stages:
    """Seconds that threads spent in named functions, while it is on."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.on = False
        self._lock = threading.Lock()

    def add(self, name: str, seconds: float) -> None:
        """Count seconds."""
        if self.on:
            with self._lock:
                self.seconds[name] += seconds

    def watch(self, owner: Any, attribute: str, name: str) -> None:
        """Count the time in a function or method."""
        inner = getattr(owner, attribute)

        def timed(*given: Any, **named: Any) -> Any:
            begun = time.perf_counter()
            try:
                return inner(*given, **named)
            finally:
                self.add(name, time.perf_counter() - begun)

        setattr(owner, attribute, timed)

    def watch_iteration(self, owner: Any, name: str) -> None:
        """Count the time that iterating over an object takes, apart from what the loop does."""
        inner = owner.__iter__

        def timed(this: Any) -> Iterator[Any]:
            items = inner(this)
            while True:
                begun = time.perf_counter()
                try:
                    item = next(items)
                except StopIteration:
                    return
                finally:
                    self.add(name, time.perf_counter() - begun)
                yield item

        owner.__iter__ = timed


@contextmanager
def sampled_utilisation(seconds: float = 0.05) -> Iterator[list[float]]:
    """Samples of the first visible GPU's utilisation while the context lasts; empty without NVML."""
    samples: list[float] = []
    ended = threading.Event()

    def sample() -> None:
        with nvml.opened() as library:
            handle = None if library is None else nvml.handle_of(library, 0)
            while handle is not None and not ended.wait(seconds):
                rate = nvml.utilisation(library, handle)
                if rate is not None:
                    samples.append(rate)

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield samples
    finally:
        ended.set()
        thread.join()


def components(folder: Path, quick: bool, device: str) -> tuple[list[str], dict[str, Any]]:
    """(overrides of the recipe that put drawn weights into its networks, what they are)."""
    small = device == "cpu"
    reduced = {"width": 160, "height": 128, "proposals": 50} if small else {}
    networks = {
        "detectors.rtdetr": random_weights.rtdetr(
            folder, "r18vd" if small else "r50vd_coco_o365", threshold=0.0, max_people=2
        ),
        "experts.vitpose": random_weights.vitpose(folder, "plus-small" if small else "base-simple", min_mean=0.0),
        "experts.keypoint_rcnn": random_weights.keypoint_rcnn(folder, max_people=2, min_mean=0.0, **reduced),
        "experts.rtmpose": random_weights.rtmpose(folder, "t" if small else "m", min_mean=0.0),
    }
    overrides, used = [], {}
    for table, network in networks.items():
        options = {k: v for k, v in registry.config(network).items() if k != "name" and v is not None}
        used[table] = options.get("model", "resnet50")
        overrides += [f"{table}.{key}={toml(value)}" for key, value in options.items()]
    if importlib.util.find_spec("open_clip") is not None:
        size = "tiny" if small else "B/16" if quick else "L/14"
        overrides += ['embed.features=["viclip"]', f"features.viclip.size={toml(size)}"]
        if size != "tiny":
            overrides.append(f"features.viclip.checkpoint={toml(random_weights.viclip(folder, size))}")
        used["features.viclip"] = size
    else:
        overrides.append("embed.features=[]")
    return overrides, used


def toml(value: Any) -> str:
    """A value as TOML."""
    return str(value).lower() if isinstance(value, bool) else f'"{value}"' if isinstance(value, str) else str(value)


def build(source: Path, out: Path, overrides: list[str], together: int, device: str) -> float:
    """Seconds of a whole build in this process."""
    begun = time.perf_counter()
    dataengine.build(
        "posecap",
        {"folder": str(source)},
        out,
        overrides=[
            *overrides,
            "plan.leak_guard=[]",
            "plan.clips_per_unit=512",
            "curate.filters=[]",
            'curate.dedup="off"',
            "report.gallery=0",
            f"engine.clips_in_flight={together}",
        ],
        engine=Engine(serial=True),
        device=device,
    )
    return time.perf_counter() - begun


def proposed(out: Path) -> dict[str, np.ndarray]:
    """What every expert proposed, by clip: (M, E, T, 13, 2)."""
    found = {}
    for path in sorted((out / "work").rglob("*.tar")):
        for key, entries in shards.iterate(path):
            if "expert_keypoints.npy" in entries:
                found[key] = np.load(io.BytesIO(entries["expert_keypoints.npy"]))
    return found


def difference(alone: Path, together: Path) -> dict[str, float]:
    """How far joints of the same clips are apart, in pixels; people in the order of their tracks."""
    first, second = proposed(alone), proposed(together)
    apart, other = [], 0
    for clip, joints in first.items():
        if clip not in second or second[clip].shape != joints.shape:
            other += 1
            continue
        apart.append(np.linalg.norm(joints - second[clip], axis=-1).ravel())
    pixels = np.concatenate(apart) if apart else np.zeros(0)
    pixels = pixels[np.isfinite(pixels)]
    return {
        "clips": len(first),
        "clips_with_other_tracks": other,
        "joints": len(pixels),
        "median_px": round(float(np.median(pixels)), 4) if len(pixels) else float("nan"),
        "share_within_1_px": round(float(np.mean(pixels <= 1)), 5) if len(pixels) else 0.0,
    }


def watched() -> tuple[Stages, dict[str, float]]:
    """(stages of the pose pass, wall seconds of passes), counted from now on."""
    from dataengine.experts.batching import NetworkSession
    from dataengine.experts.torch_runtime import TorchNetwork
    from dataengine.media.stream import VideoStream
    from dataengine.passes import embed, pose
    from dataengine.tracking import OksTracker

    stages = Stages()
    walls: dict[str, float] = {}
    stages.watch_iteration(VideoStream, "decode")
    stages.watch(NetworkSession, "preprocess", "preprocess")
    stages.watch(NetworkSession, "postprocess", "postprocess")
    stages.watch(TorchNetwork, "__call__", "forward")
    stages.watch(OksTracker, "track", "track")
    stages.watch(pose, "_fuse", "fuse")
    process, run = pose.Pose.process, embed.Embed.run

    def posed(this: Any, unit: Any) -> Any:
        pose.open_session(unit)
        begun, stages.on = time.perf_counter(), True
        try:
            return process(this, unit)
        finally:
            stages.on = False
            walls["pose"] = walls.get("pose", 0.0) + time.perf_counter() - begun

    def embedded(this: Any, *given: Any) -> Any:
        begun = time.perf_counter()
        try:
            return run(this, *given)
        finally:
            walls["embed"] = walls.get("embed", 0.0) + time.perf_counter() - begun

    pose.Pose.process, embed.Embed.run = posed, embedded  # type: ignore[method-assign, assignment]
    return stages, walls


def run(quick: bool) -> dict[str, Any]:
    """Frames a second of a whole build on one GPU, and where the time goes."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu" and not quick:
        sys.exit("gpu_build: torch sees no CUDA device; --quick shows on a CPU that it runs, and claims nothing")
    torch.set_num_threads(1 if device == "cpu" else 8)
    few, clips, frames = (1, 2, 4) if device == "cpu" else (4, 16, 100) if quick else (16, 96, 300)
    stages, walls = watched()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        begun = time.perf_counter()
        overrides, used = components(folder, quick, device)
        some, every = corpus(folder / "some", few, frames, 2), corpus(folder / "every", clips, frames, 2)
        seconds = {"preparation": time.perf_counter() - begun}
        seconds["one_by_one"] = build(some, folder / "alone", overrides, 1, device)
        pose_alone = walls.pop("pose")
        seconds["together"] = build(some, folder / "together", overrides, 16, device)
        same = difference(folder / "alone", folder / "together")
        walls.clear()
        stages.seconds.clear()
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        with sampled_utilisation() as samples:
            seconds["measured"] = build(every, folder / "out", overrides, 16, device)
        kept = len(dataengine.open(folder / "out").clips.collect())
    total = clips * frames
    speed = total / walls["pose"]
    memory = (
        {}
        if device == "cpu"
        else {
            "peak_allocated_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2),
            "peak_reserved_gib": round(torch.cuda.max_memory_reserved() / 2**30, 2),
        }
    )
    spent = sum(stages.seconds.values())
    equal = same["clips_with_other_tracks"] == 0 and same["median_px"] <= 0.05 and same["share_within_1_px"] >= 0.98
    return {
        "name": "gpu_build",
        "value": None if device == "cpu" else round(speed, 1),
        "unit": "frames a second of the pose pass on one GPU and one process, four networks, two crops a frame",
        "goal": f">= {GOAL:.0f}, and clips together give what they give alone",
        "holds": False if device == "cpu" else speed >= GOAL and equal and kept == clips,
        "n": total,
        "spread": [],
        "baselines": {"one_by_one_frames_per_second": round(few * frames / pose_alone, 1)},
        "details": {
            "device": torch.cuda.get_device_name(0) if device == "cuda" else "cpu: no claim",
            "networks": used,
            "clips": clips,
            "clips_kept": kept,
            "wall_seconds": {k: round(v, 2) for k, v in seconds.items()},
            "pass_seconds": {k: round(v, 2) for k, v in walls.items()},
            "build_frames_per_second": round(total / seconds["measured"], 1),
            "embed_clips_per_second": round(clips / walls["embed"], 1) if walls.get("embed") else None,
            "stage_thread_seconds": {k: round(v, 2) for k, v in sorted(stages.seconds.items())},
            "stage_share": {k: round(v / spent, 3) for k, v in sorted(stages.seconds.items())},
            "gpu_utilisation": round(float(np.mean(samples)), 3) if samples else None,
            "gpu_utilisation_samples": len(samples),
            **memory,
            "together_against_alone": same,
        },
        "data": f"rendered people, 340x256 H.264, {frames} frames a clip; drawn weights",
    }


if __name__ == "__main__":
    main(run)
