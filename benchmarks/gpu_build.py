"""A whole build on one GPU: the default recipe's networks with drawn weights, on rendered clips.

Speed does not depend on what a network has learnt. The detector names two people in every frame, so that both top-down
experts get two crops a frame; filters and the removal of duplicates are off, so that every clip goes through every
pass. Clips are a few rendered videos under many names.

Builds in one process: some clips one by one, the same clips together (which also warms up), then all clips together,
measured; then half of them with the switch interval that Python has by itself, with CUDA graphs, and in three processes
that share the GPU. Stages are seconds of threads and, of these, seconds on a processor: threads also wait, for the
device and for the interpreter, so their sum exceeds the wall time. `forward` holds the wait for the device. Figures
also go to stderr as soon as they are there.

Needs the extras `vitpose` and `clip`; without open_clip no features are embedded. A CPU only shows that it runs: its
result has no value.
"""

from __future__ import annotations

import os

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

import importlib.util
import multiprocessing
import queue
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import random_weights
from expert_speed import corpus
from harness import main

import dataengine
from dataengine.core import nvml, registry
from dataengine.core.component import SESSIONS
from dataengine.core.errors import DataEngineError
from dataengine.pipeline.engine import Engine

sys.path[:0] = [str(Path(__file__).resolve().parents[1])]
from tests.support.expert_poses import proposed

GOAL = 240.0
"""Frames a second on one GPU: 650,000 clips of 300 frames on 64 GPUs in three and a half hours."""
GRAPHED = ("experts.vitpose", "experts.rtmpose")
"""Networks whose forward pass can be recorded."""
PROCESSES = 3
"""Processes that share the GPU in the last part."""


def now() -> tuple[float, float]:
    """(seconds, seconds that this thread spent on a processor)."""
    return time.perf_counter(), time.thread_time()


class Stages:
    """Seconds that threads spent in named functions, and of these on a processor, while it is on."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.busy: dict[str, float] = defaultdict(float)
        self.on = False
        self._lock = threading.Lock()

    def add(self, name: str, begun: tuple[float, float]) -> None:
        """Count what this thread spent since `begun`, which `now` gave."""
        wall, busy = now()
        if self.on:
            with self._lock:
                self.seconds[name] += wall - begun[0]
                self.busy[name] += busy - begun[1]

    def watch(self, owner: Any, attribute: str, name: str) -> None:
        """Count the time in a function or method."""
        inner = getattr(owner, attribute)

        def timed(*given: Any, **named: Any) -> Any:
            begun = now()
            try:
                return inner(*given, **named)
            finally:
                self.add(name, begun)

        setattr(owner, attribute, timed)

    def watch_iteration(self, owner: Any, name: str) -> None:
        """Count the time that iterating over an object takes, apart from what the loop does."""
        inner = owner.__iter__

        def timed(this: Any) -> Iterator[Any]:
            items = inner(this)
            while True:
                begun = now()
                try:
                    item = next(items)
                except StopIteration:
                    return
                finally:
                    self.add(name, begun)
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
            folder, "r18vd" if small else "r18vd_coco_o365", threshold=0.0, max_people=2
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


@dataclass
class Passes:
    """When passes ran: (begin, end) by the clock of the machine, and processor seconds of this process during pose."""

    pose: list[tuple[float, float]] = field(default_factory=list)
    embed: list[tuple[float, float]] = field(default_factory=list)
    processor: float = 0.0

    def seconds(self, name: str) -> float:
        """Wall seconds of a pass."""
        return float(sum(end - begin for begin, end in getattr(self, name)))

    def clear(self) -> None:
        """Forget all."""
        self.pose, self.embed, self.processor = [], [], 0.0


class Speeds(dict[str, float]):
    """Frames a second by name; each is also told on stderr."""

    def __setitem__(self, name: str, value: float) -> None:
        super().__setitem__(name, value)
        print(f"gpu_build: {name} {value:.1f} frames/s", file=sys.stderr, flush=True)


def peak_memory(device: str) -> dict[str, float]:
    """Most GiB of this process on the device so far."""
    if device == "cpu":
        return {}
    import torch

    return {
        "peak_allocated_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2),
        "peak_reserved_gib": round(torch.cuda.max_memory_reserved() / 2**30, 2),
    }


def watched() -> tuple[Stages, Passes]:
    """The stages of the pose pass, and the passes, counted from now on."""
    from dataengine.experts.batching import NetworkSession
    from dataengine.experts.torch_runtime import TorchNetwork
    from dataengine.media.stream import VideoStream
    from dataengine.passes import embed, pose
    from dataengine.tracking import OksTracker

    stages = Stages()
    passes = Passes()
    stages.watch_iteration(VideoStream, "decode")
    stages.watch(NetworkSession, "preprocess", "preprocess")
    stages.watch(NetworkSession, "postprocess", "postprocess")
    stages.watch(TorchNetwork, "__call__", "forward")
    stages.watch(OksTracker, "track", "track")
    stages.watch(pose, "_fuse", "fuse")
    process, run = pose.Pose.process, embed.Embed.run

    def posed(this: Any, unit: Any) -> Any:
        pose.open_session(unit)
        begun, processor, stages.on = time.time(), time.process_time(), True
        try:
            return process(this, unit)
        finally:
            stages.on = False
            passes.pose.append((begun, time.time()))
            passes.processor += time.process_time() - processor

    def embedded(this: Any, *given: Any) -> Any:
        begun = time.time()
        try:
            return run(this, *given)
        finally:
            passes.embed.append((begun, time.time()))

    pose.Pose.process, embed.Embed.run = posed, embedded  # type: ignore[method-assign, assignment]
    return stages, passes


def part(
    number: int, folder: Path, overrides: list[str], warm: Path, source: Path, device: str, ready: Any, spans: Any
) -> None:
    """One of several processes on the GPU: warms up, waits for the others, and gives (begin, end) of its poses."""
    import torch

    torch.set_num_threads(1)
    _, passes = watched()
    build(warm, folder / f"warm{number}", overrides, 16, device)
    passes.clear()
    ready.wait(300)
    build(source, folder / f"part{number}", overrides, 16, device)
    spans.put((passes.pose[0][0], passes.pose[-1][1]))


def together(folder: Path, overrides: list[str], warm: Path, source: Path, device: str, frames: int) -> float | None:
    """Frames a second of several processes on one GPU; None where one of them failed."""
    spawn = multiprocessing.get_context("spawn")
    ready, spans = spawn.Barrier(PROCESSES), spawn.Queue()
    given = [*overrides, "experts.keypoint_rcnn.batch=32", "detectors.rtdetr.batch=32"]
    running = [
        spawn.Process(target=part, args=(n, folder, given, warm, source, device, ready, spans))
        for n in range(PROCESSES)
    ]
    for process in running:
        process.start()
    found: list[tuple[float, float]] = []
    with suppress(queue.Empty):
        found += [spans.get(timeout=300) for _ in running]
    for process in running:
        process.join(5 if len(found) == PROCESSES else 0)
        process.kill()
    if len(found) < PROCESSES:
        return None
    return PROCESSES * frames / (max(end for _, end in found) - min(begin for begin, _ in found))


def run(quick: bool) -> dict[str, Any]:
    """Frames a second of a whole build on one GPU, and where the time goes."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu" and not quick:
        sys.exit("gpu_build: torch sees no CUDA device; --quick shows on a CPU that it runs, and claims nothing")
    torch.set_num_threads(1 if device == "cpu" else 8)
    few, clips, frames = (1, 2, 4) if device == "cpu" else (4, 16, 100) if quick else (16, 96, 300)
    share = max(1, clips // 2)
    stages, passes = watched()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        begun = time.perf_counter()
        overrides, used = components(folder, quick, device)
        some, every, half = (
            corpus(folder / name, count, frames, 2)
            for name, count in (("some", few), ("every", clips), ("half", share))
        )
        seconds = {"preparation": time.perf_counter() - begun}
        seconds["one_by_one"] = build(some, folder / "alone", overrides, 1, device)
        speeds = Speeds()
        speeds["one_by_one"] = few * frames / passes.seconds("pose")
        seconds["warm_up"] = build(some, folder / "together", overrides, 16, device)
        same = difference(folder / "alone", folder / "together")
        passes.clear()
        stages.seconds.clear()
        stages.busy.clear()
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        with sampled_utilisation() as samples:
            seconds["measured"] = build(every, folder / "out", overrides, 16, device)
        kept = len(dataengine.open(folder / "out").clips.collect())
        walls = {name: passes.seconds(name) for name in ("pose", "embed")}
        processors, measured = passes.processor / walls["pose"], dict(stages.seconds)
        busy, memory = dict(stages.busy), peak_memory(device)
        speeds["together"] = clips * frames / walls["pose"]
        failed: dict[str, str] = {}

        def variant(name: str, *more: str) -> None:
            """Measure half of the clips with other settings; what fails is told and ends nothing."""
            passes.clear()
            try:
                build(half, folder / name, [*overrides, *more], 16, device)
                speeds[name] = share * frames / passes.seconds("pose")
            except DataEngineError as error:
                failed[name] = str(error)

        interval = sys.getswitchinterval()
        sys.setswitchinterval(0.005)
        variant("switch_interval_of_5_ms")
        sys.setswitchinterval(interval)
        if device == "cuda":
            variant("cuda_graphs", *(f"{name}.cuda_graphs=true" for name in GRAPHED))
            SESSIONS.close()
            torch.cuda.empty_cache()
            crowd = together(folder, overrides, some, half, device, share * frames)
            if crowd is None:
                failed[f"{PROCESSES}_processes"] = "a process ended early"
            else:
                speeds[f"{PROCESSES}_processes"] = crowd
    total = clips * frames
    speed = speeds.pop("together")
    spent = sum(measured.values())
    equal = same["clips_with_other_tracks"] == 0 and same["median_px"] <= 0.05 and same["share_within_1_px"] >= 0.98
    return {
        "name": "gpu_build",
        "value": None if device == "cpu" else round(speed, 1),
        "unit": "frames a second of the pose pass on one GPU and one process, four networks, two crops a frame",
        "goal": f">= {GOAL:.0f}, and clips together give what they give alone",
        "holds": False if device == "cpu" else speed >= GOAL and equal and kept == clips,
        "n": total,
        "spread": [],
        "baselines": {f"{name}_frames_per_second": round(value, 1) for name, value in speeds.items()},
        "details": {
            "device": torch.cuda.get_device_name(0) if device == "cuda" else "cpu: no claim",
            "networks": used,
            "clips": clips,
            "clips_kept": kept,
            "wall_seconds": {k: round(v, 2) for k, v in seconds.items()},
            "pass_seconds": {k: round(v, 2) for k, v in walls.items()},
            "build_frames_per_second": round(total / seconds["measured"], 1),
            "embed_clips_per_second": round(clips / walls["embed"], 1) if walls.get("embed") else None,
            "stage_thread_seconds": {k: round(v, 2) for k, v in sorted(measured.items())},
            "stage_processor_seconds": {k: round(v, 2) for k, v in sorted(busy.items())},
            "stage_share": {k: round(v / spent, 3) for k, v in sorted(measured.items())},
            "processors_busy": round(processors, 2),
            "gpu_utilisation": round(float(np.mean(samples)), 3) if samples else None,
            "gpu_utilisation_samples": len(samples),
            **memory,
            "variants_that_failed": failed,
            "together_against_alone": same,
        },
        "data": f"rendered people, 340x256 H.264, {frames} frames a clip; drawn weights",
    }


if __name__ == "__main__":
    main(run)
