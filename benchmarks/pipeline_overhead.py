"""Share of a build's CPU time that is not expert inference, with a network of RTMPose-m's size (random weights).

The network looks at one 256 x 192 crop a frame. The corpus is rendered before the clock starts; the build
runs in this process, so that its CPU time and the network's can be told apart.
"""

from __future__ import annotations

import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from harness import main

import dataengine
from dataengine.core import registry
from dataengine.core.component import Expert, ExpertSession
from dataengine.core.types import Float, Frames, Poses
from dataengine.pipeline.engine import Engine
from dataengine.sources.synthetic import write_corpus

SPENT = {"inference": 0.0, "frames": 0}
STANDING = np.array(
    [
        [0.5, 0.08],
        [0.38, 0.22],
        [0.62, 0.22],
        [0.32, 0.38],
        [0.68, 0.38],
        [0.3, 0.52],
        [0.7, 0.52],
        [0.42, 0.52],
        [0.58, 0.52],
    ]
    + [[0.42, 0.74], [0.58, 0.74], [0.42, 0.95], [0.58, 0.95]],
    np.float32,
)


def network(path: Path) -> float:
    """Write a ResNet-like network with the parameters and FLOPs of RTMPose-m (13.6 M, 1.93 G multiply-adds at 256 x
    192); its multiply-adds in G."""
    import torch
    from torch import nn

    torch.manual_seed(0)
    layers: list[nn.Module] = []
    madds, channels, side = 0.0, 3, (256, 192)
    for width, depth, stride in ((48, 1, 2), (96, 2, 2), (192, 3, 2), (384, 3, 2), (704, 2, 2)):
        for block in range(depth):
            step = stride if block == 0 else 1
            side = (side[0] // step, side[1] // step)
            layers += [nn.Conv2d(channels, width, 3, step, 1), nn.SiLU()]
            madds += side[0] * side[1] * 9 * channels * width
            channels = width
    net = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 26)).eval()
    torch.onnx.export(net, (torch.zeros(1, 3, 256, 192),), str(path), dynamo=False)
    return madds / 1e9


@dataclass(frozen=True)
class Sized(Expert):
    """Runs the network on the centre of each frame and answers a standing person shifted by the answer."""

    path: str = ""
    skeleton: str = "body13"

    def weights(self) -> dict[str, str]:
        return {"random": "0"}

    def load(self, device: str = "cpu") -> ExpertSession:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        return SizedSession(onnxruntime.InferenceSession(self.path, options, providers=["CPUExecutionProvider"]))


class SizedSession(ExpertSession):
    """The open network."""

    def __init__(self, network: Any) -> None:
        self.network = network

    def predict(self, frames: Frames, boxes: Sequence[Float] | None = None) -> list[Poses]:
        found = []
        for frame in frames:
            picture = cv2.resize(frame, (192, 256)).astype(np.float32)
            tensor = np.ascontiguousarray(((picture - 120) / 58).transpose(2, 0, 1)[None])
            begun = time.thread_time()
            shift = self.network.run(None, {self.network.get_inputs()[0].name: tensor})[0].reshape(13, 2)
            SPENT["inference"] += time.thread_time() - begun
            SPENT["frames"] += 1
            size = np.array(frame.shape[1::-1], np.float32)
            coords = (STANDING + 0.01 * np.tanh(shift)) * size
            low, high = coords.min(0), coords.max(0)
            found.append(
                Poses(coords[None], np.full((1, 13), 0.9, np.float32), np.array([[*low, *high, 0.9]], np.float32))
            )
        return found


def run(quick: bool) -> dict[str, Any]:
    """Build the rendered corpus with the sized expert and split the CPU time."""
    sys.modules.setdefault("pipeline_overhead", sys.modules[__name__])
    registry.add("experts", "sized", "pipeline_overhead:Sized")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # in a process of its own, so that torch does not count as memory of the build
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            madds = pool.submit(network, folder / "net.onnx").result()
        write_corpus(folder / "corpus", 12 if quick else 24, 0)
        overrides = ['pose.experts=["sized"]', f'experts.sized.path="{folder / "net.onnx"}"', "report.gallery=0"]
        options: dict[str, Any] = {"overlay": "core", "overrides": overrides, "engine": Engine(serial=True)}
        warm = folder / "warm"
        dataengine.build("posecap", {"cap": str(folder / "corpus" / "cap")}, warm, limit=1, **options)
        model = round((folder / "net.onnx").stat().st_size / 1e6)
        shares = []
        for turn in range(1 if quick else 3):
            SPENT.update(inference=0.0, frames=0)
            begun = time.process_time()
            dataengine.build(
                "posecap",
                {k: str(folder / "corpus" / k.rstrip("07")) for k in ("kinetics700", "cap")},
                folder / f"out{turn}",
                **options,
            )
            total = time.process_time() - begun
            shares.append(1 - SPENT["inference"] / total)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    frames = SPENT["frames"]
    return {
        "name": "pipeline_overhead",
        "value": round(float(np.median(shares)), 4),
        "unit": "share of CPU time that is not expert inference",
        "goal": 0.15,
        "holds": float(np.median(shares)) <= 0.15,
        "n": frames,
        "spread": [round(s, 4) for s in shares],
        "baselines": {
            "inference_ms_a_frame": round(1e3 * SPENT["inference"] / frames, 2),
            "rest_ms_a_frame": round(1e3 * (total - SPENT["inference"]) / frames, 2),
        },
        "details": {"network_gmadds": round(madds, 2), "peak_rss_mb": round(peak), "of_which_model_mb": model},
        "data": "rendered corpus, 340x256",
    }


if __name__ == "__main__":
    main(run)
