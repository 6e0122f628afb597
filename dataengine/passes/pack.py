"""pack: kept clips -> shards and index, then the manifest; the dataset appears whole or not at all.

Its units are shards: runs of kept clips of one split, in the plan's order, cut where the size of a
shard is reached.
"""

from __future__ import annotations

import json
import os
import shutil
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dataengine.core.errors import DatasetError
from dataengine.core.skeletons import skeleton
from dataengine.core.types import SPLITS
from dataengine.dataset import index
from dataengine.io import shards
from dataengine.io.storage import write_durably
from dataengine.labels.prompts import prompts
from dataengine.passes import embed
from dataengine.passes import label_check as agree
from dataengine.passes.base import Job, load_job
from dataengine.pipeline import plan as plans
from dataengine.pipeline.ledger import Commit
from dataengine.pipeline.plan import Plan
from dataengine.pipeline.recipe import Recipe, fingerprint

VERSION = 3

ENTRIES = ("keypoints", "scores", "confidence", "timestamps")
"""Arrays that go from the pose artifact into a sample."""


@dataclass(frozen=True)
class ShardPlan:
    """One shard to write: its clips by unit, in order, and the digest of everything it will hold."""

    name: str
    clips: tuple[tuple[str, str], ...]
    inputs: str


def pass_fingerprint(recipe: Recipe, curate: str, agree: str | None = None) -> str:
    """Fingerprint of the pack pass; `agree` where clips have features."""
    return fingerprint(
        [
            "pack",
            VERSION,
            recipe.pack.shard_mb,
            recipe.pose.max_people,
            recipe.pose.skeleton,
            recipe.curate.prompts,
            curate,
            agree,
        ]
    )


def texts(recipe: Recipe, decisions: Iterable[Mapping[str, Any]]) -> dict[str, str | None]:
    """clip_id -> the text of each clip of these decisions; None without a label."""
    known = prompts(recipe.curate.prompts)
    return {
        row["clip_id"]: None if row["label"] is None else known.text_of(row["clip_id"], row["label"])
        for row in decisions
    }


def sample_size(num_people: int, num_frames: int, num_joints: int) -> int:
    """About how many bytes a sample takes in a shard."""
    return num_people * num_frames * (num_joints * 10 + 2) + num_frames * 4 + 5 * 1024


def plan_shards(
    job: Job, plan: Plan, decisions: Path, measured: Mapping[str, Commit], posed: Mapping[str, Commit]
) -> list[ShardPlan]:
    """Group kept clips into shards by split, in the plan's order."""
    recipe = job.recipe
    joints, limit = skeleton(recipe.pose.skeleton).num_joints, recipe.pack.shard_mb << 20
    kept = {row["clip_id"]: row for row in pq.read_table(decisions).to_pylist() if row["kept"]}
    text = texts(recipe, kept.values())
    facts: dict[str, dict[str, Any]] = {}
    for unit in measured:
        table = pq.read_table(job.ledger("measure").artifact(unit), columns=["clip_id", "num_frames", "num_tracks"])
        facts.update((row["clip_id"], row) for row in table.to_pylist())
    rows = [row for row in plan.rows() if row["clip_id"] in kept]
    found = []
    for split in SPLITS:
        groups: list[list[dict[str, Any]]] = [[]]
        size = 0
        for row in (r for r in rows if r["split"] == split):
            fact = facts[row["clip_id"]]
            bytes_ = sample_size(min(fact["num_tracks"], recipe.pose.max_people), fact["num_frames"], joints)
            if groups[-1] and size + bytes_ > limit:
                groups.append([])
                size = 0
            groups[-1].append(row)
            size += bytes_
        for number, group in enumerate(g for g in groups if g):
            decided = [(row, kept[row["clip_id"]]) for row in group]
            content = [[row, d["label"], d["label_id"], text[row["clip_id"]], d.get("features")] for row, d in decided]
            digest = fingerprint([content, [posed[unit].digest for unit in sorted({row["unit"] for row in group})]])
            found.append(
                ShardPlan(f"{split}-{number:06d}", tuple((row["unit"], row["clip_id"]) for row in group), digest)
            )
    return found


def sample_meta(
    recipe: Recipe, row: Mapping[str, Any], decision: Mapping[str, Any], text: str | None, meta: Mapping[str, Any]
) -> dict[str, Any]:
    """KEY.json of one sample."""
    return {
        "clip_id": row["clip_id"], "source": row["source"], "label": decision["label"], "label_id": decision["label_id"],
        "source_label": row["label"], "text": text, "split": row["split"], "fps": meta["fps"], "width": meta["width"],
        "height": meta["height"], "num_frames": meta["num_frames"], "skeleton": meta["skeleton"],
        "joints": list(skeleton(meta["skeleton"]).joints), "tracks": meta["tracks"][: recipe.pose.max_people],
        "generation": 0, "licence": row["licence"],
    }  # fmt: skip


def samples(job: Job, clips: list[tuple[str, str]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Decoded pose entries of clips, unit by unit."""
    for unit in dict.fromkeys(unit for unit, _ in clips):
        wanted = {clip_id for u, clip_id in clips if u == unit}
        for key, entries in shards.iterate(job.ledger("pose").artifact(unit)):
            if key in wanted:
                yield (
                    key,
                    shards.decode(
                        {k: v for k, v in entries.items() if k == "json" or k.removesuffix(".npy") in ENTRIES}
                    ),
                )


def run_shard(
    job_path: Path, plans_path: Path, name: str, quarantine: Mapping[str, str], only: Any = None
) -> dict[str, Any]:
    """Write one shard and commit it; called in a worker. `plans_path` is the file of `save_plans`."""
    del quarantine
    begun = time.monotonic()
    job = load_job(job_path)
    content = json.loads(plans_path.read_bytes())
    wanted = next(s for s in content["shards"] if s["name"] == name)
    clips = [tuple(pair) for pair in wanted["clips"]]
    ids = {clip_id for _, clip_id in clips}
    decided = pq.read_table(content["decisions"], filters=[("unit", "in", sorted({u for u, _ in clips}))]).to_pylist()
    decisions = {row["clip_id"]: row for row in decided if row["clip_id"] in ids}
    table = plans.load(job.work).table
    planned = {
        row["clip_id"]: row
        for row in table.filter(
            pc.is_in(table.column("clip_id"), value_set=pa.array(sorted(ids), pa.string()))
        ).to_pylist()
    }
    ledger = job.ledger("pack")
    staged = ledger.stage(name, "tar")
    rows, text = [], texts(job.recipe, decisions.values())
    with shards.ShardWriter(staged) as writer:
        features: tuple[str, Mapping[str, Any]] = ("", {})
        for clip_id, arrays in samples(job, clips):
            unit = planned[clip_id]["unit"]
            if job.recipe.embed.features and features[0] != unit:
                features = (unit, embed.clip_entries(job, unit, text))
            meta = sample_meta(job.recipe, planned[clip_id], decisions[clip_id], text[clip_id], arrays["json"])
            people = job.recipe.pose.max_people
            entries = {f"{e}.npy": arrays[e] if e == "timestamps" else arrays[e][:people] for e in ENTRIES}
            written = writer.write(clip_id, {"json": meta, **entries, **features[1].get(clip_id, {})})
            rows.append({"clip_id": clip_id, "offset": written.offset, "size": written.size, "blake3": written.blake3,
                         "entries": [list(entry) for entry in written.entries]})  # fmt: skip
    if only is None:
        ledger.commit(name, wanted["inputs"], staged, (), time.monotonic() - begun, json.dumps(rows).encode())
    return {"unit": name, "clips": len(rows), "kept": len(rows), "seconds": time.monotonic() - begun}


def save_plans(job: Job, shard_plans: list[ShardPlan], decisions: Path) -> Path:
    """Write what workers need to know of the shards; the name holds the content's hash."""
    rows = [{"name": s.name, "clips": s.clips, "inputs": s.inputs} for s in shard_plans]
    content = {"decisions": str(decisions), "shards": rows}
    path = job.work / f"shards-{fingerprint(content)[:12]}.json"
    if not path.exists():
        write_durably(path, json.dumps(content).encode())
    return path


def index_rows(
    job: Job, plan: Plan, decisions: Path, shard_plans: list[ShardPlan], measured: Mapping[str, Commit]
) -> dict[str, list[dict[str, Any]]]:
    """Rows of index/clips, tracks, joints and accuracy for everything in the shards."""
    decided = {row["clip_id"]: row for row in pq.read_table(decisions).to_pylist() if row["kept"]}
    planned = {row["clip_id"]: row for row in plan.rows() if row["clip_id"] in decided}
    places: dict[str, dict[str, Any]] = {}
    for shard in shard_plans:
        commit = job.ledger("pack").read(shard.name)
        assert commit is not None
        for place in json.loads(job.ledger("pack").sidecar(commit)):
            entries = [dict(zip(("name", "offset", "size"), entry)) for entry in place["entries"]]
            places[place["clip_id"]] = {**place, "entries": entries, "shard": f"shards/pose/{shard.name}.tar"}
    rows: dict[str, list[dict[str, Any]]] = {"clips": [], "tracks": [], "joints": [], "accuracy": [], "signatures": []}
    if job.recipe.embed.features:
        rows["review"] = agree.review_rows(decisions)
    people, text = job.recipe.pose.max_people, texts(job.recipe, decided.values())
    for unit in measured:
        for m in pq.read_table(job.ledger("measure").artifact(unit)).to_pylist():
            clip_id = m["clip_id"]
            rows["accuracy"] += [{"clip_id": clip_id, **a} for a in m["accuracy"] or ()]
            if clip_id not in decided:
                continue
            rows["clips"].append(
                _clip_row(planned[clip_id], decided[clip_id] | {"text": text[clip_id]}, m, places[clip_id], people)
            )
            for track in m["tracks"]:
                shares = dict(zip((f"share_{e}" for e in m["experts"]), track.pop("shares")))
                rows["tracks"].append({"clip_id": clip_id, **track, "kept": track["rank"] < people, **shares})
            rows["joints"] += [{"clip_id": clip_id, **joint} for joint in m["joints"]]
            rows["signatures"].append({"clip_id": clip_id, "hashes": m["hashes"], "words": m["words"]})
    return rows


def _clip_row(
    p: Mapping[str, Any], d: Mapping[str, Any], m: Mapping[str, Any], place: Mapping[str, Any], people: int
) -> dict[str, Any]:
    copied = ("clip_id", "source", "video_id", "start", "end", "split", "licence", "consent", "url", "subject")
    measured = ("fps", "width", "height", "num_frames", "confidence_p10", "expert_disagreement")
    filters = ("pose_coverage", "jitter", "motion", "truncation", "bone_variation")
    values = {name: m[f"filter_{name}"] for name in filters}
    return {
        **{k: p[k] for k in copied}, "source_label": p["label"], "label": d["label"], "label_id": d["label_id"], "text": d["text"],
        **{k: m[k] for k in measured}, **{k: None if v is None or v != v else v for k, v in values.items()},
        "num_people": min(m["num_tracks"], people), "confidence_mean": m["filter_confidence"], "duplicate_of": d["duplicate_of"],
        **{k: d.get(k) for k in ("label_cosine", "label_margin", "label_rank")},
        "generation": 0, **{k: place[k] for k in ("shard", "offset", "size", "blake3", "entries")},
    }  # fmt: skip


def reject_rows(plan: Plan, rejects: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of index/rejects: those given, completed with source and video id, and what the plan already left out."""
    planned = {row["clip_id"]: row for row in plan.rows()}
    rows = [
        {**r, "source": planned[r["clip_id"]]["source"], "video_id": planned[r["clip_id"]]["video_id"]} for r in rejects
    ]
    for row in planned.values():
        if row["reason"] is not None:
            base = {k: row[k] for k in ("clip_id", "source", "video_id", "reason", "detail")}
            rows.append({**base, "pass": "plan", "value": None, "threshold": None, "retryable": False})
    return rows


def _same(dataset: Path, manifest: Mapping[str, Any]) -> bool:
    """Whether the dataset there is the one of this manifest, with all files in place at their lengths."""
    try:
        if index.read_manifest(dataset)["fingerprint"] != manifest["fingerprint"]:
            return False
        return all((dataset / file["path"]).stat().st_size == file["bytes"] for file in manifest["files"])
    except (DatasetError, OSError):
        return False


def finish(
    out: Path,
    job: Job,
    shard_plans: list[ShardPlan],
    rows: Mapping[str, list[dict[str, Any]]],
    facts: Mapping[str, Any],
) -> bool:
    """Put the dataset in place of the one there, if it differs. True when it was put there.

    The new dataset is made whole in `work/staging` (shards are links to the pass's artifacts), then
    changes places with the old one; tombstones are taken along.
    """
    staging = job.work / "staging" / f"dataset-{uuid.uuid4().hex}"
    kinds = {"pose": job.ledger("pack"), **({"video": job.ledger("video")} if job.recipe.pack.keep_video else {})}
    known: dict[str, tuple[int, str]] = {}
    for kind, ledger in kinds.items():
        (staging / "shards" / kind).mkdir(parents=True)
        for shard in shard_plans:
            target = staging / "shards" / kind / f"{shard.name}.tar"
            try:
                os.link(ledger.artifact(shard.name), target)
            except OSError:
                shutil.copyfile(ledger.artifact(shard.name), target)
            if (commit := ledger.read(shard.name)) is not None:
                known[f"shards/{kind}/{shard.name}.tar"] = (commit.size, commit.blake3)
    schemas = {
        "clips": index.CLIPS,
        "tracks": index.tracks_schema(job.recipe.pose.experts),
        "joints": index.JOINTS,
        "rejects": index.REJECTS,
        "signatures": index.SIGNATURES,
    }
    if rows["accuracy"]:
        schemas["accuracy"] = index.ACCURACY
    if "review" in rows:
        schemas["review"] = index.REVIEW
    for name, schema in schemas.items():
        index.write_table(staging / "index" / name, rows[name], schema)
    told = {k: v for k, v in facts.items() if k != "counts"}
    manifest = index.build_manifest(staging, facts["counts"], "", known, **told)
    manifest["fingerprint"] = fingerprint(manifest)
    index.write_manifest(staging, manifest)
    dataset = out / "dataset"
    if _same(dataset, manifest):
        shutil.rmtree(staging)
        return False
    old = job.work / "staging" / f"old-{uuid.uuid4().hex}"
    if dataset.exists():
        if (dataset / "tombstones").is_dir():
            shutil.copytree(dataset / "tombstones", staging / "tombstones")
        dataset.rename(old)
    staging.rename(dataset)
    shutil.rmtree(old, ignore_errors=True)
    return True
