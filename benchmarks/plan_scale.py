"""Plan, curate and near-duplicates at scale: seconds and memory at two sizes, each in a process of its own.

Synthetic annotation rows of Kinetics-700's form, no media; measures and signatures of every clip are drawn, one clip
in a hundred a shifted copy of another with some bits of every hash changed.
"""

from __future__ import annotations

import csv
import multiprocessing
import resource
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from harness import main

ENTRIES = 20
PER_UNIT = 4096


def write_list(folder: Path, rows: int) -> None:
    """Write a Kinetics-700 list of `rows` clips."""
    folder.mkdir(parents=True)
    labels = [
        "abseiling",
        "air drumming",
        "archery",
        "arm wrestling",
        "baking cookies",
        "bartending",
        "juggling balls",
        "zumba",
    ]
    with (folder / "kinetics700_train.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["label", "youtube_id", "time_start", "time_end", "split"])
        for n in range(rows):
            writer.writerow([labels[n % len(labels)], f"{n:011x}", n % 300, n % 300 + 10, "train"])


def signatures(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Hashes (count, ENTRIES) that change slowly and words (count, ENTRIES, 26); the last hundredth are copies."""
    rng = np.random.default_rng(seed)
    bit = np.uint64(1)
    steps = bit << rng.integers(0, 64, (count, ENTRIES), dtype=np.uint64)
    steps[:, 0] = rng.integers(1, 1 << 63, count, dtype=np.uint64)
    hashes = np.bitwise_xor.accumulate(steps, axis=1)
    words = rng.integers(-60, 60, (count, ENTRIES, 26), dtype=np.int8)
    copies = max(1, count // 100)
    for n in range(copies):
        source, copy, offset = n, count - 1 - n, n % 5
        flips = bit << rng.integers(0, 64, (2, ENTRIES - offset), dtype=np.uint64)
        hashes[copy, : ENTRIES - offset] = hashes[source, offset:] ^ flips[0] ^ flips[1]
        words[copy, : ENTRIES - offset] = words[source, offset:]
    return hashes, words


def one_size(rows: int) -> dict[str, float]:
    """Plan `rows` clips, write drawn measures for them, and curate: seconds of each and peak memory."""
    from dataengine.passes.base import ALL, Job
    from dataengine.passes.measure import schema
    from dataengine.pipeline import plan as plans
    from dataengine.pipeline import recipe
    from dataengine.pipeline.task import Task

    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        write_list(root / "kinetics700", rows)
        overrides = [
            "plan.leak_guard=[]",
            f"plan.clips_per_unit={PER_UNIT}",
            'curate.dedup="near"',
            "curate.max_per_label=1000000",
        ]
        overrides += ['curate.relabel="posecap_labels"', 'curate.filters=["pose_coverage", "confidence"]']
        chosen = recipe.load("posecap", "core", overrides, {"kinetics700": str(root / "kinetics700")})
        work = root / "out" / "work"
        begun = time.process_time()
        plan = plans.make(chosen, work)
        plans.save(plan, work)
        planned = time.process_time() - begun
        job = Job.of(chosen, work, "cpu")
        ledger = job.ledger("measure")
        hashes, words = signatures(plan.num_clips, 0)
        ids, units = plan.table.column("clip_id").to_pylist(), plan.table.column("unit").to_pylist()
        start = 0
        fields = [
            f
            for f in schema(chosen)
            if f.name in ("clip_id", "frames_blake3", "hashes", "words") or f.name.startswith("filter_")
        ]
        while start < len(ids):
            stop = min(start + PER_UNIT, len(ids))
            part = {
                "clip_id": ids[start:stop],
                "frames_blake3": ids[start:stop],
                "words": [w.tobytes() for w in words[start:stop]],
            }
            part["hashes"] = pa.ListArray.from_arrays(
                np.arange(0, (stop - start) * ENTRIES + 1, ENTRIES, dtype=np.int32), hashes[start:stop].ravel()
            )
            columns = [
                pa.array(part[f.name], f.type)
                if f.name != "hashes" and f.name in part
                else part.get(f.name, pa.array(np.full(stop - start, 0.9)))
                for f in fields
            ]
            staged = ledger.stage(units[start], "parquet")
            pq.write_table(pa.table(dict(zip([f.name for f in fields], columns))), staged)
            ledger.commit(units[start], "drawn", staged, (), 0.0)
            start = stop
        del hashes, words
        begun = time.process_time()
        job.passes["curate"].run(job, Task(ALL, tuple(ids), "drawn"))
        decisions = pq.read_table(job.ledger("curate").artifact(ALL))
        curated = time.process_time() - begun
    near = sum(1 for detail in decisions.column("detail").to_pylist() if detail and detail.startswith("nearly"))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {
        "rows": rows,
        "plan_s": round(planned, 1),
        "curate_s": round(curated, 1),
        "peak_gib": round(peak, 2),
        "near_found": near,
        "near_planted": max(1, rows // 100),
    }


def run(quick: bool) -> dict[str, Any]:
    """Plan, curate and search near-duplicates in two sizes."""
    sizes = (20_000, 100_000) if quick else (250_000, 1_000_000)
    results = []
    for rows in sizes:
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            results.append(pool.submit(one_size, rows).result())
    small, large = results
    seconds = [r["plan_s"] + r["curate_s"] for r in results]
    growth = (seconds[1] / seconds[0]) / (large["rows"] / small["rows"])
    return {
        "name": "plan_scale",
        "value": round(seconds[1], 1),
        "unit": f"CPU seconds to plan and curate {sizes[1]:,} clips, near-duplicates included",
        "goal": "minutes (<= 300 for a million) and <= 4 GiB, growing linearly",
        "n": sizes[1],
        "spread": seconds,
        "holds": seconds[1] <= 300 * sizes[1] / 1e6
        and large["peak_gib"] <= 4
        and growth <= 1.3
        and large["near_found"] >= 0.98 * large["near_planted"],
        "baselines": {"growth_over_linear": round(growth, 2)},
        "details": {"sizes": results},
        "data": "drawn rows, measures and signatures",
    }


if __name__ == "__main__":
    main(run)
