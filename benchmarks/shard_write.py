"""How fast shards are written, beside webdataset's ShardWriter and the standard library's tarfile."""

from __future__ import annotations

import io
import json
import shutil
import statistics
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import webdataset
from harness import cpu_seconds, main

from dataengine.io.shards import ShardWriter

GOAL = 1.0

Sample = dict[str, Any]


def sample(video_bytes: int) -> Sample:
    """What a clip of 300 frames and one person holds: 48 KB, and a video where asked for."""
    rng = np.random.default_rng(0)
    facts = {
        "clip_id": "kinetics-abcdefghijk-12-22",
        "label": "jumping jacks",
        "label_id": 7,
        "fps": "30000/1001",
        "num_frames": 300,
    }
    arrays = {
        "keypoints.npy": rng.normal(size=(1, 300, 17, 3)).astype(np.float16),
        "scores.npy": rng.random((1, 300, 17)).astype(np.float16),
        "viclip_video.npy": rng.normal(size=768).astype(np.float32),
    }
    return {"json": facts, **arrays} | ({"mp4": rng.bytes(video_bytes)} if video_bytes else {})


def ours(folder: Path, content: Sample, count: int) -> None:
    """Deterministic members, BLAKE3 of each sample and of the shard, fsync and rename."""
    with ShardWriter(folder / "train-000000.tar") as writer:
        for number in range(count):
            writer.write(f"kinetics-{number:011d}-12-22", content)


def shardwriter(folder: Path, content: Sample, count: int) -> None:
    """webdataset.ShardWriter, one shard; no hash, no fsync."""
    with webdataset.ShardWriter(str(folder / "train-%06d.tar"), maxcount=count + 1, maxsize=1e12, verbose=0) as writer:
        for number in range(count):
            writer.write({"__key__": f"kinetics-{number:011d}-12-22", **content})


def standard(folder: Path, content: Sample, count: int) -> None:
    """tarfile in USTAR_FORMAT, arrays by np.save; no hash, no fsync."""
    with tarfile.open(folder / "train-000000.tar", "w", format=tarfile.USTAR_FORMAT) as archive:
        for number in range(count):
            for name, value in content.items():
                if isinstance(value, np.ndarray):
                    file = io.BytesIO()
                    np.save(file, value)
                    data = file.getvalue()
                else:
                    data = value if isinstance(value, bytes) else json.dumps(value).encode()
                member = tarfile.TarInfo(f"kinetics-{number:011d}-12-22.{name}")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))


WRITERS: dict[str, Callable[[Path, Sample, int], None]] = {
    "ours": ours,
    "ShardWriter": shardwriter,
    "tarfile": standard,
}


def measure(content: Sample, count: int, rounds: int) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Samples per CPU second and per wall second of every writer, a value a round; the writers take turns."""
    cpu: dict[str, list[float]] = {name: [] for name in WRITERS}
    wall: dict[str, list[float]] = {name: [] for name in WRITERS}
    for turn in range(rounds + 1):
        for name, write in WRITERS.items():
            folder = Path(tempfile.mkdtemp())
            begun, spent = time.perf_counter(), cpu_seconds()
            write(folder, content, count)
            spent, begun = cpu_seconds() - spent, time.perf_counter() - begun
            shutil.rmtree(folder)
            if turn:  # the first round warms caches up
                cpu[name].append(count / spent)
                wall[name].append(count / begun)
    return cpu, wall


def ratios(figures: dict[str, list[float]]) -> list[float]:
    return [one / other for one, other in zip(figures["ours"], figures["ShardWriter"])]


def run(quick: bool) -> dict[str, Any]:
    """Write shards of 48 KB samples, and of samples with a 300 KB video, with each writer in turn."""
    rounds = 3 if quick else 7
    cpu, wall = measure(sample(0), 500 if quick else 3000, rounds)
    video_cpu, video_wall = measure(sample(300_000), 100 if quick else 800, rounds)
    speed = ratios(cpu)
    value = statistics.median(speed)
    return {
        "name": "shard_write",
        "value": round(value, 3),
        "unit": "samples per CPU second, ours / webdataset.ShardWriter",
        "goal": GOAL,
        "holds": value >= GOAL,
        "baselines": {f"{name} (samples per CPU s)": round(statistics.median(found), 1) for name, found in cpu.items()},
        "n": rounds,
        "spread": [round(min(speed), 3), round(max(speed), 3)],
        "data": "random poses of 300 frames (48 KB per sample); only ours includes two BLAKE3, fsync and rename",
        "details": {
            "wall_ratio": round(statistics.median(ratios(wall)), 3),
            "wall": {name: round(statistics.median(found), 1) for name, found in wall.items()},
            "with_video_ratio": round(statistics.median(ratios(video_cpu)), 3),
            "with_video": {name: round(statistics.median(found), 1) for name, found in video_cpu.items()},
            "with_video_wall_ratio": round(statistics.median(ratios(video_wall)), 3),
        },
    }


if __name__ == "__main__":
    main(run)
