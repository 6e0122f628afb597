"""An hour of skeletons at 30 frames a second, segmented as they arrive: memory, time, and whether it is the offline
answer.

A rendered body does one thing after the other for an hour; its joints come in pieces of one second, as from a camera,
and nothing but the stream holds them. The process is one of its own with one thread; its memory is the largest that the
operating system ever gave it, with Python, torch and the network. The network is UNIK with a linear head per frame, of
the quarter width of `segment_small` and of full width, with random weights: time and memory do not depend on them.
Windows have 64 frames and begin every 32. The first two minutes are also segmented offline, all at once.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"

import itertools
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from harness import main

RATE, SECONDS, COMPARED = 30, 3600, 120
FRAMES = 64
WIDTHS = {"quarter": 16, "full": 64}
LIMIT_MB = 500
WORK = Path(os.environ.get("DATAENGINE_BENCHMARKS", Path(tempfile.gettempdir()) / "dataengine-benchmarks"))


def pieces(seconds: int, seed: int = 0) -> Iterator[Any]:
    """Joints (1, 30, V, 2) of one second after the other."""
    from dataengine.rendering.body import Body, pose
    from dataengine.rendering.motion import angles
    from dataengine.rendering.scene import draw_camera
    from training.runs.example import LAYOUT, SIZE
    from training.runs.example import VARIED as ACTIONS

    rng = np.random.default_rng(seed)
    body, camera = Body.draw(rng), draw_camera(rng, np.zeros(1), SIZE, 1, moving=False)
    done = 0
    while done < seconds:
        t = np.arange(min(int(rng.integers(2, 10)), seconds - done) * RATE) / RATE
        points = pose(body, angles(str(rng.choice(ACTIONS)), t, rng), (0, 0), np.pi).points[:, : LAYOUT.num_joints]
        pixels = np.concatenate([camera.project(points[k : k + 1]) for k in range(len(points))])
        for start in range(0, len(t), RATE):
            yield pixels[None, start : start + RATE].astype(np.float32)
        done += len(t) // RATE


def peak_mb() -> float:
    """The largest resident memory of this program; the `ru_maxrss` of a new process is at first that of its parent."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return round(int(line.split()[1]) / 1024, 1)


def network(width: int) -> Any:
    """UNIK with a linear head per frame, random weights."""
    import torch

    from training import create_backbone, create_method
    from training.runs.example import LAYOUT
    from training.runs.example import VARIED as ACTIONS

    torch.set_num_threads(1)
    torch.manual_seed(0)
    backbone = create_backbone("unik", 0, LAYOUT, 2, people=1, channels_base=width)
    return create_method("segment", backbone=backbone, num_classes=len(ACTIONS)).eval()


def opened(kind: str, width: int, batch: int = 1) -> Any:
    """A stream: of the exported file, or of the network in torch."""
    from training.runs.example import LAYOUT
    from training.transforms.preprocess import Preprocess

    if kind == "torch":
        from training.runs.sliding import stream_of

        return stream_of(network(width), Preprocess(LAYOUT), FRAMES, batch=batch)
    from training.runs.stream import exported_stream

    return exported_stream(WORK / f"segment_hour-{width}.onnx", batch=batch)


def export(width: int) -> None:
    """The network as a file, as `dataengine-train export` writes it."""
    from training.config import load
    from training.runs.example import LAYOUT
    from training.runs.example import VARIED as ACTIONS
    from training.runs.export import export as write
    from training.runs.trained_network import BareNetwork
    from training.transforms.preprocess import Preprocess

    method = network(width)
    config = load("segment_small", [f"backbone.channels_base={width}"])
    bare = BareNetwork(method.backbone, method, config, Preprocess(LAYOUT), ACTIONS)
    WORK.mkdir(parents=True, exist_ok=True)
    write(bare, WORK / f"segment_hour-{width}.onnx", frames=FRAMES)


def measure(kind: str, width: int, seconds: int) -> dict[str, Any]:
    """One stream in this process."""
    stream = opened(kind, width)
    wall, busy, frames = time.perf_counter(), time.process_time(), 0
    making, first = 0.0, []
    source = pieces(seconds)
    while True:
        begun = time.process_time()
        piece = next(source, None)
        making += time.process_time() - begun
        if piece is None:
            break
        found = stream.push(piece)
        frames += len(found)
        if frames <= COMPARED * RATE:
            first.append(found)
    frames += len(stream.close())
    facts = {
        "frames": frames,
        "wall_s": round(time.perf_counter() - wall, 1),
        "cpu_s": round(time.process_time() - busy - making, 1),
        "peak_mb": peak_mb(),
    }
    whole = np.concatenate(list(itertools.islice(pieces(seconds), COMPARED + 10)), axis=1)
    offline, online = opened("torch", width, 32).push(whole), np.concatenate(first)
    count = min(len(online), len(offline))
    facts["largest_difference"] = float(np.abs(online[:count] - offline[:count]).max())
    facts["compared_frames"] = count
    return facts


def run(quick: bool) -> dict[str, Any]:
    """Memory and time of an hour of skeletons."""
    seconds = 300 if quick else SECONDS
    found = {}
    for name, width in WIDTHS.items():
        export(width)
        for kind in ("exported", "torch") if name == "quarter" else ("exported",):
            command = [sys.executable, __file__, "--one", kind, str(width), str(seconds)]
            answer = subprocess.run(command, check=True, capture_output=True, text=True)
            found[f"{name}, {kind}"] = json.loads(answer.stdout.splitlines()[-1])
    worst = max(one["peak_mb"] for name, one in found.items() if name.endswith("exported"))
    return {
        "name": "segment_hour",
        "value": worst,
        "unit": "MB, the largest memory of the process, exported network of full width",
        "goal": {"peak_mb": LIMIT_MB, "cpu_s_below": seconds, "largest_difference": 1e-5},
        "holds": bool(
            worst < LIMIT_MB
            and all(one["cpu_s"] < seconds and one["largest_difference"] < 1e-5 for one in found.values())
        ),
        "baselines": {"importing torch alone, MB": _torch_alone()},
        "n": found["full, exported"]["frames"],
        "spread": {name: {**one, "times_real_time": round(seconds / one["cpu_s"], 1)} for name, one in found.items()},
        "data": f"{seconds} s of a rendered body at {RATE} frames a second, 14 joints, pieces of one second",
    }


def _torch_alone() -> float:
    code = "import torch, segment_hour; print(segment_hour.peak_mb())"
    here = Path(__file__).parent
    answer = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=here)
    return float(answer.stdout)


if __name__ == "__main__":
    if "--one" in sys.argv:
        kind, width, seconds = sys.argv[2:]
        print(json.dumps(measure(kind, int(width), int(seconds))))
    else:
        main(run)
