"""pack: kept clips -> shards of samples.

A shard is a run of kept clips of one split, in the plan's order, cut where the size of a shard is reached.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dataengine.core.errors import DatasetError
from dataengine.core.skeletons import skeleton
from dataengine.core.types import SPLITS, Int
from dataengine.dataset.dataset import open as open_dataset
from dataengine.io import shards
from dataengine.labels.prompts import prompts
from dataengine.passes.base import Pass, Row
from dataengine.passes.job import Job
from dataengine.passes.progress import BuildState, PassState
from dataengine.passes.table_pass import decisions_of, tables_of
from dataengine.passes.unit_pass import receipt
from dataengine.pipeline import plan as plans
from dataengine.pipeline.plan import Plan
from dataengine.pipeline.recipe import Recipe, fingerprint
from dataengine.pipeline.task import Receipt, Task

ENTRIES = ("keypoints", "scores", "confidence", "timestamps")
"""Arrays that go from the poses into a sample."""


@dataclass(frozen=True)
class Pack(Pass):
    """Writes the samples of kept clips into shards."""

    version = 3
    scope = "shard"
    after = ("poses", "measures", "decisions")

    def enabled(self, recipe: Recipe) -> bool:
        return True

    def reads(self, passes: Sequence[Pass]) -> tuple[str, ...]:
        """What it names, and the passes that add entries to samples."""
        return tuple(dict.fromkeys([*super().reads(passes), *(p.name for p in passes if p.entries)]))

    def config(self, recipe: Recipe) -> list[Any]:
        return [recipe.pack.shard_mb, recipe.pose.max_people, recipe.pose.skeleton, recipe.curate.prompts]

    def state(self, build: BuildState) -> PassState:
        return shard_state(self, build)

    def run(self, job: Job, task: Task) -> Receipt:
        begun, ledger, recipe = time.monotonic(), job.ledger(self.name), job.recipe
        planned = planned_rows(plans.load_clips(job.work, task.clips), task.clips)
        decisions = decisions_of(job, task.clips, (row["unit"] for row in planned.values()))
        adding = [p for p in job.passes.values() if p.entries]
        text, staged = texts(recipe, decisions.values()), ledger.stage(task.key, "tar")
        places, added, unit = [], list[Mapping[str, Row]](), ""
        try:
            with shards.ShardWriter(staged) as writer:
                for clip_id, arrays in samples(job, planned):
                    if planned[clip_id]["unit"] != unit:
                        unit = planned[clip_id]["unit"]
                        added = [p.sample_entries(job, unit, text) for p in adding]
                    meta = sample_meta(recipe, planned[clip_id], decisions[clip_id], text[clip_id], arrays["json"])
                    entries = {
                        f"{e}.npy": arrays[e] if e == "timestamps" else arrays[e][: recipe.pose.max_people]
                        for e in ENTRIES
                    }
                    more = {name: value for found in added for name, value in found.get(clip_id, {}).items()}
                    written = writer.write(clip_id, {"json": meta, **entries, **more})
                    place = {"offset": written.offset, "size": written.size, "blake3": written.blake3}
                    places.append({"clip_id": clip_id, **place, "entries": [list(entry) for entry in written.entries]})
            commit = None
            if not task.probe:
                seconds = time.monotonic() - begun
                commit = ledger.commit(task.key, task.inputs, staged, (), seconds, json.dumps(places).encode())
        finally:
            staged.unlink(missing_ok=True)
        return receipt(task, len(task.clips), len(places), begun, commit)

    def live_keys(self, out: Path, units: set[str]) -> set[str]:
        return shards_in(out)

    def explain(self, job: Job, row: Mapping[str, Any]) -> Row | None:
        """Where the sample lies, if the clip is in the dataset."""
        try:
            clips = open_dataset(job.work.parent).clips
        except DatasetError:
            return None
        found = clips.filter(clip_id=row["clip_id"]).select("shard", "offset", "size").collect().to_dicts()
        return {"outcome": "keep", "facts": found[0]} if found else None


def shard_state(p: Pass, build: BuildState) -> PassState:
    """The state of a pass whose keys are the shards of poses."""
    ledger = build.job.ledger(p.name)
    state = PassState(p.name, "shard", ledger.fingerprint, None)
    if not all(build.state(name).finished for name in p.reads(build.passes)):
        state.left = [clip_id for clips in build.given(p.name).values() for clip_id in clips]
        return state
    tasks: list[Task] = build.remember(("shards",), lambda: plan_shards(build), lasting=True)
    state.keys = [task.key for task in tasks]
    for task in tasks:
        commit = build.find(p.name, task.key, task.inputs)
        if commit is not None:
            state.commits[task.key] = commit
        else:
            state.tasks.append(task)
    state.left = [clip_id for task in state.tasks for clip_id in task.clips]
    return state


def shards_in(out: Path) -> set[str]:
    """Names of the shards of the dataset that lies in a build's folder."""
    return {path.stem for path in (out / "dataset" / "shards" / "pose").glob("*.tar")}


def kept_clips(build: BuildState) -> pa.Table:
    """Rows of decisions of the clips that no pass threw out, in the plan's order."""
    table = build.decided(build.job.ledger("decisions").pass_name)
    assert table is not None, "decisions are made before clips are packed"
    on_their_way = pa.array([clip_id for clips in build.given("pack").values() for clip_id in clips], pa.string())
    return table.filter(pc.is_in(table["clip_id"], value_set=on_their_way)).combine_chunks()


def planned_rows(plan: Plan, clips: Sequence[str]) -> dict[str, Row]:
    """clip_id -> row of the plan, of some clips in the plan's order."""
    chosen = pa.array(clips, pa.string())
    rows = plan.table.filter(pc.is_in(plan.table.column("clip_id"), value_set=chosen)).to_pylist()
    return {row["clip_id"]: row for row in rows}


def plan_shards(build: BuildState) -> list[Task]:
    """A task for each shard: kept clips by split, in the plan's order; its inputs are everything the shard will
    hold."""
    recipe, job = build.job.recipe, build.job
    joints, limit = skeleton(recipe.pose.skeleton).num_joints, recipe.pack.shard_mb << 20
    kept = kept_clips(build)
    facts = _lengths(build, kept["unit"].unique().to_pylist())
    facts = facts.take(pc.index_in(kept["clip_id"], facts["clip_id"].combine_chunks()))
    people = np.minimum(facts["num_tracks"].to_numpy(), recipe.pose.max_people).astype(np.int64)
    frames = facts["num_frames"].to_numpy().astype(np.int64)
    adding = [p for p in build.passes if p.entries]
    sizes = sample_size(people, frames, joints) + sum(p.entry_bytes(people, frames, joints) for p in adding)
    rows = build.plan.table.filter(pc.is_in(build.plan.table["clip_id"], value_set=kept["clip_id"].combine_chunks()))
    posed = build.commits(job.ledger("poses").pass_name)
    tasks = []
    for split in SPLITS:
        places = np.flatnonzero(pc.fill_null(pc.equal(rows["split"], split), False).to_numpy())
        for number, group in enumerate(_groups(places, sizes[places].tolist(), limit)):
            planned, decided = rows.take(group).to_pylist(), kept.take(group).to_pylist()
            text, content = texts(recipe, decided), []
            for row, d in zip(planned, decided):
                assert row["clip_id"] == d["clip_id"], "decisions come in the plan's order"
                added = [p.entries_digest(build, d) for p in adding]
                more = [] if d.get("spans") is None else [d["spans"]]
                content.append([row, d["label"], d["label_id"], text[row["clip_id"]], added, *more])
            units = sorted({row["unit"] for row in planned})
            digest = fingerprint([content, [posed[unit].digest for unit in units]])
            tasks.append(Task(f"{split}-{number:06d}", tuple(row["clip_id"] for row in planned), digest))
    return tasks


def _lengths(build: BuildState, units: Sequence[str]) -> pa.Table:
    """clip_id, num_frames and num_tracks of the clips of some units."""
    ledger, columns = build.job.ledger("measures"), ["clip_id", "num_frames", "num_tracks"]
    schema = pa.schema([("clip_id", pa.string()), ("num_frames", pa.int32()), ("num_tracks", pa.int32())])
    return pa.concat_tables([schema.empty_table(), *tables_of(ledger, units, columns)])


def _groups(places: Int, sizes: Sequence[int], limit: int) -> Iterator[Int]:
    """Runs of rows whose samples take up to `limit` bytes."""
    start, size = 0, 0
    for number, octets in enumerate(sizes):
        if number > start and size + octets > limit:
            yield places[start:number]
            start, size = number, 0
        size += octets
    if len(sizes):
        yield places[start:]


def texts(recipe: Recipe, decisions: Iterable[Mapping[str, Any]]) -> dict[str, str | None]:
    """clip_id -> the text of each clip of these decisions; None without a label."""
    known = prompts(recipe.curate.prompts)
    return {
        row["clip_id"]: None if row["label"] is None else known.text_of(row["clip_id"], row["label"])
        for row in decisions
    }


def sample_size(num_people: Int, num_frames: Int, num_joints: int) -> Int:
    """About how many bytes each of N samples (N,) takes in a shard."""
    return num_people * num_frames * (num_joints * 10 + 2) + num_frames * 4 + 5 * 1024


def sample_meta(
    recipe: Recipe, row: Mapping[str, Any], decision: Mapping[str, Any], text: str | None, meta: Mapping[str, Any]
) -> dict[str, Any]:
    """KEY.json of one sample."""
    facts = {
        "clip_id": row["clip_id"],
        "source": row["source"],
        "label": decision["label"],
        "label_id": decision["label_id"],
        "source_label": row["label"],
        "text": text,
        "split": row["split"],
        "fps": meta["fps"],
        "width": meta["width"],
        "height": meta["height"],
        "num_frames": meta["num_frames"],
        "skeleton": meta["skeleton"],
        "joints": list(skeleton(meta["skeleton"]).joints),
        "tracks": meta["tracks"][: recipe.pose.max_people],
        "generation": meta.get("generation", 0),
        "licence": row["licence"],
    }
    return facts if decision.get("spans") is None else facts | {"spans": decision["spans"]}


def samples(job: Job, planned: Mapping[str, Row]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(clip_id, decoded pose entries) of clips, unit by unit. `planned` is clip_id -> row of the plan."""
    units: dict[str, set[str]] = {}
    for clip_id, row in planned.items():
        units.setdefault(row["unit"], set()).add(clip_id)
    for unit, clips in units.items():
        for key, entries in shards.iterate(job.ledger("poses").artifact(unit)):
            if key in clips:
                named = {k: v for k, v in entries.items() if k == "json" or k.removesuffix(".npy") in ENTRIES}
                yield key, shards.decode(named)
