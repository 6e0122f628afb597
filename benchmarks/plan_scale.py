"""The driver at scale: plan, states, curation, near-duplicates, shards and index of a build with a no-op expert.

Annotation rows of Kinetics-700's form, no media. Other processes commit drawn results of every unit in the place of
workers; one clip in a hundred is a shifted copy of another with some bits of every hash changed. What is measured is
the driver: seconds and memory of each step, at two sizes, each in a process of its own. Everything is done by the
functions that a build calls, from the plan to the dataset put in place.
"""

from __future__ import annotations

import csv
import functools
import gc
import json
import multiprocessing
import os
import resource
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from harness import main

from dataengine.passes.job import Job, load_job
from dataengine.pipeline.task import Task

ENTRIES = 20
"""Hashes of a clip of ten seconds."""
PEOPLE = 2
"""Tracks of a clip."""
GOAL_GIB, GOAL_CLIPS = 2.0, 650_000
SECONDS_A_MILLION = 900.0


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
            video = f"{n * 2654435761 % 2**40:011x}"  # ids do not come in their order, as in the real lists
            writer.writerow([labels[n % len(labels)], video, n % 300, n % 300 + 10, "train"])


def signature(number: int, count: int) -> tuple[np.ndarray, bytes]:
    """Hashes (ENTRIES,) that change slowly and words (ENTRIES, 26) of clip `number` of `count`; the last hundredth are
    shifted copies of the first."""
    copies = max(1, count // 100)
    original = count - 1 - number if number >= count - copies else number
    rng, bit = np.random.default_rng([original, 0]), np.uint64(1)
    steps = bit << rng.integers(0, 64, ENTRIES, dtype=np.uint64)
    steps[0] = rng.integers(1, 1 << 63, dtype=np.uint64)
    hashes = np.bitwise_xor.accumulate(steps)
    words = rng.integers(-60, 60, (ENTRIES, 26), dtype=np.int8)
    if original != number:
        own, offset = np.random.default_rng([number, 1]), original % 5
        flips = bit << own.integers(0, 64, (2, ENTRIES - offset), dtype=np.uint64)
        hashes[: ENTRIES - offset] = hashes[offset:] ^ flips[0] ^ flips[1]
        words[: ENTRIES - offset] = words[offset:]
    return hashes, words.tobytes()


@functools.cache
def alike(job_path: Path, clips: int) -> pa.Table:
    """A table of `measure` of clips without names, whose measures, tracks and joints are alike."""
    from dataengine.core.skeletons import skeleton
    from dataengine.passes.measure import schema

    job = load_job(job_path)
    names, experts = schema(job.recipe), list(job.recipe.pose.experts)
    track = {"num_frames": 300, "coverage": 1.0, "score_mean": 0.9, "confidence_mean": 0.9, "motion": 0.4}
    joints = [
        {"track_id": t, "joint": joint, "visible": 1.0, "score_mean": 0.9, "disagreement": 0.1}
        for t in range(PEOPLE)
        for joint in skeleton(job.recipe.pose.skeleton).joints
    ]
    row = {"fps": "30/1", "width": 640, "height": 360, "num_frames": 300, "num_tracks": PEOPLE}
    row |= {"experts": experts, "joints": joints, "confidence_p10": 0.8, "expert_disagreement": 0.1}
    row["tracks"] = [{"track_id": t, "rank": t, **track, "shares": [0.5] * len(experts)} for t in range(PEOPLE)]
    row |= {name: 0.9 for name in names.names if name.startswith("filter_")}
    return pa.Table.from_pylist([row] * clips, names)


def probed(job_path: Path, clips: Sequence[str]) -> pa.Table:
    """A table of `probe` of some clips, whose files are alike."""
    from dataengine.passes.probe import Probe

    del job_path
    row = {"size": 1 << 20, "blake3": "0" * 64, "width": 640, "height": 360, "codec": "h264", "duration": 10.0}
    return pa.Table.from_pylist([{"clip_id": clip, **row, "video_stream": 0} for clip in clips], Probe.schema)


def measured(job_path: Path, clips: Sequence[str], count: int) -> pa.Table:
    """A table of `measure` of some of `count` clips, with drawn signatures."""
    table = alike(job_path, len(clips))
    signs = [signature(number_of(clip), count) for clip in clips]
    own: dict[str, Any] = {"clip_id": list(clips), "frames_blake3": [f"{number_of(clip):064x}" for clip in clips]}
    own |= {"hashes": [hashes for hashes, _ in signs], "words": [words for _, words in signs]}
    for name, values in own.items():
        place = table.schema.get_field_index(name)
        table = table.set_column(place, table.schema.field(place), pa.array(values, table.schema.field(place).type))
    return table


def draw(job_path: Path, name: str, tasks: Sequence[Task], count: int) -> None:
    """Commit drawn results of some tasks of a pass; runs in a process of its own."""
    from dataengine.core.types import Keep
    from dataengine.io import storage
    from dataengine.pipeline import ledger as ledgers

    for module in (storage, ledgers):  # durability is not what is measured
        for function in ("fsync_file", "fsync_folder"):
            setattr(module, function, lambda path: None)
    job = load_job(job_path)
    ledger, kind = job.ledger(name), job.passes[name].scope
    for task in tasks:
        tables: dict[str, Callable[..., pa.Table]]
        tables = {"probe": probed, "measure": functools.partial(measured, count=count)}
        table = tables.get(name)
        staged, sidecar = ledger.stage(task.key, "tar" if table is None else "parquet"), None
        if table is not None:
            pq.write_table(table(job_path, task.clips), staged, compression="zstd")
        else:
            staged.write_bytes(task.key.encode())
        if kind == "shard":
            entries = [[f"{entry}.npy", 512 * n, 512] for n, entry in enumerate(("keypoints", "scores", "times"))]
            place = {"offset": 0, "size": 4096, "blake3": "0" * 64, "entries": entries}
            sidecar = json.dumps([{"clip_id": clip, **place} for clip in task.clips]).encode()
        outcomes = tuple(Keep(clip) for clip in task.clips) if kind == "unit" else ()
        ledger.commit(task.key, task.inputs, staged, outcomes, 0.0, sidecar)


def number_of(clip_id: str) -> int:
    """The number of a clip in the list, from its video id."""
    video = int(clip_id.split("-")[1], 16)
    return video * pow(2654435761, -1, 2**40) % 2**40


class Steps:
    """Seconds and peak memory of each step of this process."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Measure what is done inside."""
        gc.collect()
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
        begun, cpu = time.perf_counter(), time.process_time()
        yield
        seconds, busy = time.perf_counter() - begun, time.process_time() - cpu
        status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
        gib = {key: round(int(status[key].split()[0]) / 2**20, 3) for key in ("VmHWM", "VmRSS")}
        row = {"step": name, "seconds": round(seconds, 1), "cpu_s": round(busy, 1)}
        self.rows.append(row | {"peak_gib": gib["VmHWM"], "after_gib": gib["VmRSS"]})
        print(self.rows[-1], flush=True)


def one_size(rows: int, folder: str) -> dict[str, Any]:
    """Everything that the driver does for `rows` clips but waiting for workers."""
    from dataengine.passes.assemble import assemble
    from dataengine.passes.job import run_task
    from dataengine.passes.progress import BuildState
    from dataengine.pipeline import plan as plans
    from dataengine.pipeline import recipe

    root, steps = Path(folder), Steps()
    write_list(root / "kinetics700", rows)
    overrides = ["plan.leak_guard=[]", 'curate.dedup="near"', "curate.max_per_label=1000000"]
    overrides += ['curate.relabel="posecap_labels"', 'curate.filters=["pose_coverage", "confidence"]']
    chosen = recipe.load("posecap", "core", overrides, {"kinetics700": str(root / "kinetics700")})
    work = root / "out" / "work"
    with steps.step("plan"):
        plan = plans.make(chosen, work)
        plans.save(plan, work)
    job = Job.of(chosen, work, "cpu")
    build, path = BuildState(plan, job, drives=True), job.save()
    for p in (p for p in build.passes if p.scope != "dataset"):
        with steps.step(f"{p.name}: what is left"):
            tasks = build.state(p.name).tasks
        if p.scope == "table":
            with steps.step(p.name):
                for task in tasks:
                    run_task(path, p.name, task)
        else:
            in_other_processes(path, p.name, tasks, rows)
        with steps.step(f"{p.name}: records"):
            build.record(p.name)
    with steps.step("index and dataset"):
        assemble(build, root / "out")
    units = len(build.units)
    del build, plan  # the next build is another process
    with steps.step("nothing left to do"):
        again = BuildState(plans.load(work), job)
        assert all(state.finished for state in again.states() if state.scope != "dataset")
    decisions = pq.read_table(job.ledger("curate").artifact("all"), columns=["detail"]).column(0).to_pylist()
    near = sum(1 for detail in decisions if detail and detail.startswith("nearly"))
    index = {p.parent.name: 0 for p in sorted((root / "out/dataset/index").glob("*/*.parquet"))}
    for part in (root / "out/dataset/index").glob("*/*.parquet"):
        index[part.parent.name] += pq.read_metadata(part).num_rows
    return {
        "rows": rows,
        "units": units,
        "seconds": round(sum(row["seconds"] for row in steps.rows), 1),
        "peak_gib": max(row["peak_gib"] for row in steps.rows),
        "steps": steps.rows,
        "index": index,
        "near_found": near,
        "near_planted": max(1, rows // 100),
    }


def in_other_processes(job_path: Path, name: str, tasks: Sequence[Task], rows: int) -> None:
    """Draw the results of tasks in other processes, a share each."""
    count = os.cpu_count() or 1
    with ProcessPoolExecutor(count, multiprocessing.get_context("spawn")) as pool:
        shares = [tasks[n::count] for n in range(count)]
        for done in [pool.submit(draw, job_path, name, share, rows) for share in shares]:
            done.result()


def run(quick: bool) -> dict[str, Any]:
    """Plan, work out what is left, curate, search near-duplicates and write the index, in two sizes."""
    sizes = (5_000, 20_000) if quick else (130_000, 650_000)
    results = []
    for rows in sizes:
        own = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
        with tempfile.TemporaryDirectory() as scratch, own as pool:
            results.append(pool.submit(one_size, rows, scratch).result())
    small, large = results
    seconds = [r["seconds"] for r in results]
    growth = (seconds[1] / seconds[0]) / (large["rows"] / small["rows"])
    return {
        "name": "plan_scale",
        "value": large["peak_gib"],
        "unit": f"GiB of the driver at most, from the plan to the dataset, of {sizes[1]:,} clips",
        "goal": f"<= {GOAL_GIB:g} GiB for {GOAL_CLIPS:,} clips, growing linearly, {SECONDS_A_MILLION:g} s a million",
        "n": sizes[1],
        "spread": [r["peak_gib"] for r in results],
        "holds": large["peak_gib"] <= GOAL_GIB * max(1.0, sizes[1] / GOAL_CLIPS)
        and seconds[1] <= max(60.0, SECONDS_A_MILLION * sizes[1] / 1e6)
        and growth <= 1.3
        and large["near_found"] >= 0.98 * large["near_planted"],
        "baselines": {"seconds": seconds, "growth_over_linear": round(growth, 2)},
        "details": {"sizes": results},
        "data": "drawn rows, measures and signatures",
    }


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, resource.getrlimit(resource.RLIMIT_NOFILE)[1]),) * 2)
    main(run)
