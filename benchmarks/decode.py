"""Streaming decode to RGB frames against the ffmpeg program that only decodes, in processor time.

    python benchmarks/decode.py [--quick] [--save]

The goal: frames as RGB arrays for at most 1.2 times the processor time that
`ffmpeg -i clip -an -f null -` takes for the same clip without converting a pixel, at 340 x 256.
Both sides run in a process of their own, start-up included for ffmpeg and left out for the library
(one process decodes many clips); the figure with our start-up is among the details.
"""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from harness import cpu_seconds, main

from dataengine.media.decode import PyAVDecoder
from dataengine.media.decord_decoder import DecordDecoder
from dataengine.media.encode import write_video

GOAL = 1.2
GOAL_MB = 100.0
SHARED = Path(__file__).resolve().parents[2] / "shared" / "data" / "videos" / "arm_wrestling_demo.mp4"

_ALONE = """
import json, resource, sys
from dataengine.media.decode import PyAVDecoder
for batch in PyAVDecoder().open(sys.argv[1]): pass
used = resource.getrusage(resource.RUSAGE_SELF)
# Not ru_maxrss, which a child takes over from its parent.
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(json.dumps([used.ru_utime + used.ru_stime, int(peak.split()[1]) / 1000]))
"""


def make_clip(path: Path, width: int, height: int, count: int) -> None:
    """Write a moving pattern with noise in it: motion and detail somewhat like a hand-held camera's."""
    generator = np.random.default_rng(0)
    rows, columns = np.mgrid[: height + 64, : width + count * 2]
    waves = 96 * np.sin(columns / 17.0) * np.cos(rows / 23.0) + 128
    scene = np.clip(waves[..., None] + generator.normal(0, 10, (*waves.shape, 3)), 0, 255).astype(np.uint8)

    def frames() -> Any:
        for index in range(count):
            top = round(24 + 24 * np.sin(index / 9))
            yield scene[top : top + height, index * 2 : index * 2 + width]

    write_video(path, frames(), 28, options={"g": "60", "preset": "medium"})


def fresh(decoder: type[PyAVDecoder] | type[DecordDecoder], clip: Path) -> int:
    """`decode` by a decoder made for it."""
    return decode(decoder(), clip)


def decode(decoder: PyAVDecoder | DecordDecoder, clip: Path) -> int:
    """Decode a clip to its end as the pose pass does, and return the number of frames."""
    with decoder.open(clip) as video:
        for _ in video:
            pass
    return video.num_frames


def ffmpeg(clip: Path) -> None:
    """Decode with the ffmpeg program, without converting."""
    subprocess.run(["ffmpeg", "-v", "error", "-nostdin", "-i", str(clip), "-an", "-f", "null", "-"], check=True)


def alone(clip: Path) -> tuple[float, float]:
    """Processor seconds and peak MB of a fresh process that decodes one clip."""
    done = subprocess.run([sys.executable, "-c", _ALONE, str(clip)], capture_output=True, text=True, check=True)
    seconds, megabytes = json.loads(done.stdout)
    return seconds, megabytes


def interleaved(sides: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Processor seconds of each side, the sides taking turns."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds + 1):
        for name, act in sides.items():
            began = cpu_seconds()
            act()
            times[name].append(cpu_seconds() - began)
    # The first round warms caches and imports.
    return {name: values[1:] for name, values in times.items()}


def run(quick: bool) -> dict[str, Any]:
    """Measure streaming RGB decode against `ffmpeg -f null`."""
    rounds = 3 if quick else 9
    with tempfile.TemporaryDirectory() as folder:
        clip, large = Path(folder) / "small.mp4", Path(folder) / "large.mp4"
        if SHARED.exists():
            clip = SHARED
        else:
            make_clip(clip, 340, 256, 280)
        make_clip(large, 1280, 720, 60 if quick else 150)
        report: dict[str, Any] = {}
        for name, path in (("small", clip), ("large", large)):
            frames = decode(PyAVDecoder(), path)
            sides: dict[str, Callable[[], Any]] = {"pyav": partial(fresh, PyAVDecoder, path)}
            if shutil.which("ffmpeg"):
                sides["ffmpeg"] = partial(ffmpeg, path)
            try:
                decode(DecordDecoder(), path)
                sides["decord"] = partial(fresh, DecordDecoder, path)
            except Exception as error:
                report[f"{name}_decord"] = f"not measured: {error}"
            times = interleaved(sides, rounds)
            report[name] = {
                side: {"cpu_s": statistics.median(t), "frames_per_cpu_s": frames / statistics.median(t)}
                for side, t in times.items()
            }
            if "ffmpeg" in times:
                ratios = [ours / theirs for ours, theirs in zip(times["pyav"], times["ffmpeg"])]
                report[name]["ratio"] = {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)}
            report[name]["alone"] = dict(zip(("cpu_s", "peak_mb"), alone(path)))
        ratio = report["small"].get("ratio")
        peak = report["large"]["alone"]["peak_mb"]
        return {
            "name": "decode",
            "value": ratio["median"] if ratio else None,
            "unit": "processor time of streaming RGB decode / ffmpeg -f null, 340 x 256",
            "goal": f"<= {GOAL}; peak memory at 720p <= {GOAL_MB:g} MB",
            "holds": bool(ratio) and ratio["median"] <= GOAL and peak <= GOAL_MB,
            "baselines": {"ffmpeg_cpu_s": report["small"].get("ffmpeg", {}).get("cpu_s")},
            "n": rounds,
            "spread": [ratio["min"], ratio["max"]] if ratio else None,
            "data": "a Kinetics clip of 280 frames, 340 x 256"
            if SHARED.exists()
            else "a made clip of 280 frames, 340 x 256",
            "details": report,
        }


if __name__ == "__main__":
    main(run)
