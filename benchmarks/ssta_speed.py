"""How many sequences a second the selection fusion fuses on one core, beside plain loops that do the same."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from harness import main

import dataengine
from dataengine.core.types import Float
from dataengine.fusion.consensus import Consensus
from dataengine.fusion.ssta import SSTA

FRAMES, EXPERTS, JOINTS = 300, 3, 13
BATCH = 20
CALLS = 8000
"""Calls of `dataengine.fuse` a CPU second that are the goal."""


def sequences(count: int) -> Float:
    """(B, E, T, V, 2) float32: random walks of bodies seen by noisy experts; 2 % of the joints missing."""
    rng = np.random.default_rng(0)
    bodies = rng.normal(0, 2, (count, 1, FRAMES, JOINTS, 2)).astype(np.float32).cumsum(
        2, dtype=np.float32
    ) + np.float32(300)
    views = bodies + rng.normal(0, 4, (count, EXPERTS, FRAMES, JOINTS, 2)).astype(np.float32)
    views[rng.random(views.shape[:-1]) < 0.02] = np.nan
    return views


def naive_numpy(coords: Float) -> tuple[Float, Float]:
    """The formulas joint by joint with small arrays, as research code writes them (missing joints left out)."""
    experts, frames, joints, _ = coords.shape
    fused = np.full((frames, joints, 2), np.nan)
    certain = np.zeros(frames)
    for t in range(frames):
        for v in range(joints):
            seen = [e for e in range(experts) if not np.isnan(coords[e, t, v]).any()]
            if not seen:
                fused[t, v] = fused[t - 1, v] if t else np.nan
            elif t == 0 or np.isnan(fused[t - 1, v]).any():
                pairs = {np.linalg.norm(coords[i, t, v] - coords[j, t, v]): i for i in seen for j in seen if i < j}
                fused[t, v] = coords[pairs[min(pairs)] if pairs else seen[0], t, v]
            else:
                distances = [np.linalg.norm(coords[e, t, v] - fused[t - 1, v]) for e in seen]
                fused[t, v] = coords[seen[int(np.argmin(distances))], t, v]
        unit = np.linalg.norm(fused[t, 0] - np.mean([fused[t, 1], fused[t, 2]], axis=0))
        apart = [np.linalg.norm(coords[e, t, v] - fused[t, v]) for e in range(experts) for v in range(joints)]
        certain[t] = np.exp(-np.nanmean(apart) / (unit + 1e-12))
    return fused, certain


def plain_python(coords: list[Any]) -> tuple[list[Any], list[float]]:
    """The formulas with lists and floats."""
    fused: list[Any] = []
    certain = []
    for t in range(FRAMES):
        pose = []
        total, count = 0.0, 0
        for v in range(JOINTS):
            seen = [p[t][v] for p in coords if p[t][v][0] == p[t][v][0]]
            before = fused[-1][v] if t else None
            if not seen:
                here = before
            elif before is None:
                pairs = [
                    ((a[0] - b[0]) ** 2 + (a[1] - b[1]) ** 2, i) for i, a in enumerate(seen) for b in seen[i + 1 :]
                ]
                here = seen[min(pairs)[1]] if pairs else seen[0]
            else:
                here = min(seen, key=lambda p: (p[0] - before[0]) ** 2 + (p[1] - before[1]) ** 2)
            pose.append(here)
            if here is not None:
                for p in seen:
                    total += math.hypot(p[0] - here[0], p[1] - here[1])
                    count += 1
        fused.append(pose)
        head, left, right = pose[:3]
        unit = (
            math.hypot(head[0] - (left[0] + right[0]) / 2, head[1] - (left[1] + right[1]) / 2)
            if head and left and right
            else math.nan
        )
        certain.append(math.exp(-total / count / (unit + 1e-12)))
    return fused, certain


def rate(work: Callable[[], Any], count: int) -> float:
    """Sequences a second of CPU time."""
    begun = time.process_time()
    work()
    return count / max(time.process_time() - begun, 1e-9)


def run(quick: bool) -> dict[str, Any]:
    """Sequences of 300 frames, 3 experts and 13 joints fused per second of CPU time on one core."""
    count, rounds, slow = (400, 5, 1) if quick else (1000, 9, 3)
    data = sequences(count)
    lists = [data[i].tolist() for i in range(slow)]
    ssta, consensus = SSTA(), Consensus()
    few = data[: count // 10]
    parts = np.split(
        data, count // BATCH
    )  # memory of this size is used again, larger arrays are mapped anew every time
    work: dict[str, tuple[Callable[[], Any], int]] = {
        "batch": (lambda: [ssta.fuse_batch(part, None, "body13") for part in parts], count),
        "fuse_calls": (lambda: [dataengine.fuse(one, None, "ssta", "body13") for one in data], count),
        "one_by_one": (lambda: [ssta.fuse(one, None, "body13") for one in data], count),
        "memcpy_of_the_input": (lambda: [part.copy() for part in parts], count),
        "consensus": (lambda: [consensus.fuse(one, None, "body13") for one in few], len(few)),
        "naive_numpy": (lambda: [naive_numpy(one) for one in data[:slow]], slow),
        "plain_python": (lambda: [plain_python(one) for one in lists], slow),
    }
    slow_pose = naive_numpy(data[0])[0]
    begins = np.isfinite(data[0, :, 0, :, 0]).all(0)  # the loops take any of the first closest pair
    same = np.asarray(np.isclose(ssta.fuse(data[0], None, "body13").coords, slow_pose, equal_nan=True).all(-1))[
        :, begins
    ].mean()
    for name in ("batch", "fuse_calls", "one_by_one", "consensus"):
        work[name][0]()  # compile
    found: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(rounds):
        for name, (do, number) in work.items():
            found[name].append(rate(do, number))
    middle = {name: float(np.median(values)) for name, values in found.items()}
    times_naive, times_python = middle["batch"] / middle["naive_numpy"], middle["batch"] / middle["plain_python"]
    return {
        "name": "ssta_speed",
        "value": round(middle["batch"]),
        "unit": "sequences per CPU second and core",
        "goal": f">= 10000, >= 1000 x naive numpy, and >= {CALLS} calls of dataengine.fuse",
        "holds": middle["batch"] >= 10_000 and times_naive >= 1000 and middle["fuse_calls"] >= CALLS,
        "fuse_calls_per_cpu_second": round(middle["fuse_calls"]),
        "baselines": {name: round(value, 2) for name, value in middle.items() if name != "batch"},
        "n": count,
        "spread": [round(min(found["batch"])), round(max(found["batch"]))],
        "data": f"random walks, {FRAMES} frames, {EXPERTS} experts, {JOINTS} joints, 2 % missing, batches of {BATCH}; "
        f"medians of {rounds} interleaved rounds",
        "details": {
            "times_naive_numpy": round(times_naive),
            "times_plain_python": round(times_python),
            "share_of_memcpy": round(middle["batch"] / middle["memcpy_of_the_input"], 3),
            "joints_equal_to_naive_numpy": round(float(same), 4),
        },
    }


if __name__ == "__main__":
    main(run)
