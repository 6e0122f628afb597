"""How near the pose pass comes to the speed of its networks alone, from video files to tracks, and against their own
programs; and the speed of each network by batch, precision, and where its images are made.

Random weights: speed does not depend on what a network has learnt. A detector that answers the whole frame gives
top-down experts one picture a frame, so that counts are exact. "Alone" is the same network, batch and precision fed
with a tensor that is ready on its device. On a CPU figures are CPU time in one process, alone and end to end
interleaved; on a GPU they are wall time of one process, clips under way together.
"""

from __future__ import annotations

import os

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

import functools
import importlib.util
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import random_weights
from harness import main

import dataengine
from dataengine.core import registry
from dataengine.core.component import Detector
from dataengine.core.types import Float, Frames
from dataengine.experts.batching import InputBatch, NetworkDetectorSession, Processing
from dataengine.experts.torch_runtime import Runtime, TorchNetwork
from dataengine.media.encode import write_video
from dataengine.pipeline.engine import Engine
from dataengine.rendering import render_clip

SIZE = (256, 340)


@dataclass(frozen=True)
class WholeFrame(Detector):
    """Says that a person fills every frame."""

    def weights(self) -> dict[str, str]:
        return {"none": "0"}

    def load(self, device: str = "cpu") -> NetworkDetectorSession:
        return NetworkDetectorSession(WholeFrameProcessing(), lambda pixels: [None] * len(pixels), 64)


class WholeFrameProcessing(Processing):
    """Around no network at all."""

    def preprocess(self, frames: Frames, boxes: Any = None) -> InputBatch:
        num, height, width = frames.shape[:3]
        nothing = np.zeros((num, 1, 1, 3), np.uint8)
        return InputBatch(nothing, np.arange(num), np.zeros((num, 2, 3)), np.zeros((num, 5)), num, width, height)

    def postprocess(self, answers: Any, batch: InputBatch) -> list[Float]:
        return [np.array([[0, 0, batch.width - 1, batch.height - 1, 1.0]], np.float32) for _ in answers]


@dataclass(frozen=True)
class Ready(Runtime):
    """A runtime whose images are on the device already."""

    x: Any = None

    def images(self, pixels: Any, mean: Any, std: Any, bgr: bool = False) -> Any:
        return self.x[: len(pixels)]


def clock(device: str) -> float:
    """Seconds: CPU time on a CPU, wall time on a GPU."""
    return time.process_time() if device == "cpu" else time.perf_counter()


def alone(expert: Any, loaded: TorchNetwork, pixels: Frames, seconds: float) -> float:
    """Images per second of an expert's network on ready tensors."""
    runtime, network = loaded.runtime, loaded.module
    seen: list[Any] = []

    class Kept(Runtime):
        def images(self, *arguments: Any, **more: Any) -> Any:
            seen.append(super().images(*arguments, **more))
            return seen[-1]

    part = np.ascontiguousarray(np.resize(pixels, (loaded.batch, *pixels.shape[1:])))
    kept = Kept(runtime.device, runtime.dtype)
    runtime.run(lambda: expert.forward(kept, network, part))
    ready = Ready(runtime.device, runtime.dtype, x=seen[0])
    count, begun = 0, clock(runtime.device.type)
    while (spent := clock(runtime.device.type) - begun) < seconds:
        found = runtime.run(lambda: expert.forward(ready, network, part))
        count += len(part)
        if runtime.device.type == "cuda" and not isinstance(found, list):
            runtime.to_host(found)  # or kernels would only be queued
    return count / spent


def corpus(folder: Path, clips: int, frames: int, people: int = 1) -> Path:
    """Videos of rendered people, 340 x 256: at most eight of them, under `clips` names."""
    folder.mkdir()
    made: list[Path] = []
    for n in range(clips):
        path = folder / f"v{n:04d}.mp4"
        if n < 8:
            shown = render_clip(n, min(frames, 48), condition="clean", num_people=people).frames
            write_video(path, (shown[k % len(shown)] for k in range(frames)), 25)
            made.append(path)
        else:
            shutil.copyfile(made[n % 8], path)
    return folder


def installed(*modules: str) -> bool:
    """Whether other packages that a network needs are here."""
    return all(importlib.util.find_spec(module) is not None for module in modules)


def sweep(
    make: Callable[..., Any], device: str, batches: Sequence[int], precisions: Sequence[str], seconds: float
) -> list[dict[str, Any]]:
    """Images per second of one network by precision and batch: alone, and from frames of the host to its answers.

    "opencv" makes the images on the host, "on_device" uploads the frames and makes them there; both include the
    answers' way back. A frame has one person, so images are frames or crops.
    """
    rows = []
    sample = render_clip(1, 8, condition="clean", num_people=1).frames
    for precision in precisions:
        for batch in batches:
            frames = np.resize(sample, (batch, *sample.shape[1:]))
            boxes = WholeFrame().load().detect(frames)
            with make(batch=batch, precision=precision).load(device) as session:
                host = session.processing.preprocess(frames, boxes).pixels
                speeds = {"alone": alone(session.network.component, session.network, host, seconds)}
                ways = {"opencv": session.processing.preprocess}
                if session.upload is not None:
                    ways["on_device"] = session.preprocess
                for name, preprocess in ways.items():
                    session.infer(preprocess(frames, boxes).pixels)
                    count, begun = 0, clock(device)
                    while (spent := clock(device) - begun) < seconds:
                        count += len(session.infer(preprocess(frames, boxes).pixels))
                    speeds[name] = count / spent
            rows.append(
                {"precision": precision, "batch": batch, **{f"{k}_per_second": round(v, 1) for k, v in speeds.items()}}
            )
    return rows


def swept(folder: Path, device: str, quick: bool) -> dict[str, list[dict[str, Any]]]:
    """The sweeps of the default recipe's networks."""
    makers: dict[str, Callable[..., Any]] = {
        "rtmpose": functools.partial(random_weights.rtmpose, folder),
        "keypoint_rcnn": functools.partial(random_weights.keypoint_rcnn, folder),
    }
    if installed("transformers"):
        makers["vitpose"] = functools.partial(random_weights.vitpose, folder)
        makers["rtdetr"] = functools.partial(random_weights.rtdetr, folder, threshold=0.0, max_people=2)
    if device == "cpu":
        return {name: sweep(make, device, (2,), ("auto",), 1.0) for name, make in makers.items()}
    precisions = ("float16",) if quick else ("float16", "bfloat16", "float32")
    found = {}
    for name, make in makers.items():
        whole = name in ("keypoint_rcnn", "rtdetr")  # images of whole frames are large
        batches = (64,) if quick else (4, 16, 64) if whole else (16, 64, 256)
        found[name] = sweep(make, device, batches, precisions, 0.5)
    return found


def end_to_end(name: str, expert: Any, videos: Path, out: Path, device: str, frames: int) -> tuple[float, int]:
    """(pictures a second of the pose pass from files to its artifact, pictures)."""
    options = {k: v for k, v in registry.config(expert).items() if k != "name"}
    overrides = [
        f'pose.experts=["{name}"]',
        'pose.detector="whole_frame"',
        "pose.expert_weights={}",
        'pose.fusion="median"',
        "curate.filters=[]",
    ]
    overrides += [
        "plan.clips_per_unit=512",
        "report.gallery=0",
        *(f"experts.{name}.{k}={_toml(v)}" for k, v in options.items() if v is not None),
    ]
    spent: dict[str, float] = {}

    from dataengine.passes import pose

    process = pose.Pose.process

    def timed(self: Any, unit: Any) -> Any:
        pose.open_session(unit)
        begun = clock(device)
        outcomes = process(self, unit)
        spent["pose"] = clock(device) - begun
        return outcomes

    pose.Pose.process = timed  # type: ignore[method-assign]
    try:
        dataengine.build(
            "posecap",
            {"folder": str(videos)},
            out,
            overlay="core",
            overrides=overrides,
            engine=Engine(serial=True),
            device=device,
        )
    finally:
        pose.Pose.process = process  # type: ignore[method-assign]
    pictures = len(list(videos.glob("*.mp4"))) * frames
    return pictures / spent["pose"], pictures


def _toml(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else f'"{value}"' if isinstance(value, str) else str(value)


def inferencer(expert: Any, video: Path, device: str) -> float:
    """Frames a second of mmpose's inferencer on one video, with the same weights, a whole frame a person."""
    import mmpose

    from dataengine.experts.mmpose import NETWORKS
    from dataengine.experts.mmpose_shims import mmpose_importable

    with mmpose_importable("the comparison"):
        from mmpose.apis import Pose2DInferencer

        config = Path(mmpose.__file__).parent / ".mim/configs/body_2d_keypoint" / f"{NETWORKS[expert.model].config}.py"
        program = Pose2DInferencer(str(config), expert.checkpoint, device=device, det_model="whole_image")
        program.model.test_cfg["flip_test"] = False
        list(program(str(video), batch_size=1))
        begun = clock(device)
        count = len(list(program(str(video), batch_size=1)))
        return count / (clock(device) - begun)


def predict(expert: Any, video: Path, device: str) -> float:
    """Frames a second of ultralytics' own predict on one video, with the same weights."""
    import torch

    from dataengine.experts.ultralytics import empty_network, import_ultralytics

    program = import_ultralytics("the comparison").YOLO(f"{expert.model}.yaml", verbose=False)
    program.model = empty_network(expert.model, "the comparison")  # one class, as the published weights have
    program.model.load_state_dict(torch.load(expert.checkpoint, weights_only=True)["state_dict"])
    settings = {"imgsz": expert.side, "device": device, "stream": True, "verbose": False, "half": device != "cpu"}
    sum(1 for _ in program.predict(str(video), **settings))
    begun = clock(device)
    count = sum(1 for _ in program.predict(str(video), **settings))
    return count / (clock(device) - begun)


def run(quick: bool) -> dict[str, Any]:
    """Throughput of the pose pass against its networks alone, and against mmpose's and ultralytics' own programs."""
    import torch

    torch.set_num_threads(1)
    sys.modules.setdefault("expert_speed", sys.modules[__name__])
    registry.add("detectors", "whole_frame", "expert_speed:WholeFrame")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    clips, frames, seconds = (
        ((2, 16, 3.0) if quick else (3, 40, 10.0)) if device == "cpu" else ((8, 100, 0.5) if quick else (24, 300, 2.0))
    )
    batch = 64 if device == "cuda" else 8
    makers: dict[str, functools.partial[Any]] = {
        "keypoint_rcnn": functools.partial(random_weights.keypoint_rcnn, batch=batch // 4 if device == "cuda" else 2),
        "rtmpose": functools.partial(random_weights.rtmpose, batch=batch),
    }
    if installed("transformers"):
        makers["vitpose"] = functools.partial(random_weights.vitpose, batch=batch)
    if installed("mmpose", "mmcv", "mmengine"):
        makers["mmpose"] = functools.partial(random_weights.mmpose, batch=batch)
    if installed("ultralytics"):
        makers["ultralytics"] = functools.partial(random_weights.ultralytics, batch=batch // 2)
    rows: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        videos = corpus(folder / "videos", clips, frames)
        tables = swept(folder, device, quick)
        sample = render_clip(1, 8, condition="clean", num_people=1).frames
        for name, make in makers.items():
            expert = make(folder)
            with expert.load(device) as session:
                pixels = session.processing.preprocess(sample, WholeFrame().load().detect(sample)).pixels
                session.infer(pixels)
                before = alone(expert, session.network, pixels, seconds)
                speed, pictures = end_to_end(name, expert, videos, folder / f"out-{name}", device, frames)
                after = alone(expert, session.network, pixels, seconds)
            own = (before + after) / 2
            rows[name] = {
                "alone": round(own, 2),
                "alone_spread": round(abs(before - after) / own, 3),
                "end_to_end": round(speed, 2),
                "share": round(speed / own, 3),
                "pictures": pictures,
            }
            video = sorted(videos.glob("*.mp4"))[0]
            for other, program in (("mmpose", inferencer), ("ultralytics", predict)):
                if name == other:
                    rows[name]["own_program"] = round(program(expert, video, device), 2)
                    rows[name]["times_own_program"] = round(speed / rows[name]["own_program"], 2)
    goal = 0.85 if device == "cpu" else 0.9
    least = min(rows[name]["share"] for name in ("keypoint_rcnn", "vitpose", "rtmpose") if name in rows)
    faster = min((row["times_own_program"] for row in rows.values() if "times_own_program" in row), default=None)
    return {
        "name": "expert_speed",
        "value": least,
        "unit": f"share of the network's own speed, end to end from files ({device}; lowest of the networks)",
        "goal": f">= {goal}" + ("" if device == "cpu" else "; >= 3 x mmpose's inferencer and ultralytics' predict"),
        "holds": least >= goal and (device == "cpu" or (faster is not None and faster >= 3)),
        "n": int(sum(r["pictures"] for r in rows.values())),
        "spread": [r["share"] for r in rows.values()],
        "baselines": {f"{k}_own_program": r["own_program"] for k, r in rows.items() if "own_program" in r},
        "details": {"device": device, "experts": rows, "times_own_programs": faster, "by_batch_and_precision": tables},
        "data": "rendered people, 340x256 H.264; random weights",
    }


if __name__ == "__main__":
    main(run)
