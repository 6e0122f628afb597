"""Assemble: what the passes made -> index, manifest and `dataset/`, which appears whole or not at all.

Every pass is asked for the columns and tables that it adds; no pass is named here but those whose results are the
dataset itself: the plan, the measures, the decisions and the shards.
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from dataengine.core import registry
from dataengine.core.reasons import REASONS
from dataengine.core.types import Fail
from dataengine.dataset import index, placing
from dataengine.passes.base import Pass, Row
from dataengine.passes.pack import kept_clips, texts
from dataengine.passes.progress import BuildState
from dataengine.pipeline.recipe import fingerprint

PLANNED = ("clip_id", "source", "video_id", "start", "end", "split", "licence", "consent", "url", "subject")
"""Columns of index/clips as the plan has them."""
MEASURED = ("fps", "width", "height", "num_frames", "confidence_p10", "expert_disagreement")
"""Columns of index/clips as `measure` has them."""
FILTERED = ("pose_coverage", "jitter", "motion", "truncation", "bone_variation")
"""Columns of index/clips with the value of the filter of that name."""

Tables = dict[str, list[Row]]


def assemble(build: BuildState, out: Path) -> tuple[bool, Tables]:
    """Put the dataset in place of the one there, if it differs.

    Returns:
        Whether the dataset was put there, and the rows of its index.
    """
    tables = index_tables(build)
    if len(tables["clips"]) + len(tables["rejects"]) != build.plan.num_clips:
        kept, rejected = len(tables["clips"]), len(tables["rejects"])
        raise AssertionError(f"{kept} kept and {rejected} out of {build.plan.num_clips} planned clips")
    return _put_in_place(build, out, tables), tables


def index_tables(build: BuildState) -> Tables:
    """Rows of every table of the index."""
    kept, people = kept_clips(build), build.job.recipe.pose.max_people
    places, text = _places(build), texts(build.job.recipe, kept.values())
    tables: Tables = {"clips": [], "tracks": [], "joints": [], "accuracy": [], "signatures": []}
    measures = build.job.ledger("measures")
    for unit in build.commits(measures.pass_name):
        planned = {row["clip_id"]: row for row in build.rows(unit)}
        added = [values for p in build.passes if (values := p.clip_values(build, unit))]
        for m in pq.read_table(measures.artifact(unit)).to_pylist():
            clip_id = m["clip_id"]
            tables["accuracy"] += [{"clip_id": clip_id, **a} for a in m["accuracy"] or ()]
            if clip_id not in kept:
                continue
            decision = {**kept[clip_id], "text": text[clip_id]}
            row = _clip_row(planned[clip_id], decision, m, places[clip_id], people)
            for values in added:
                row |= values.get(clip_id, {})
            tables["clips"].append(row)
            for track in m["tracks"]:
                shares = dict(zip((f"share_{e}" for e in m["experts"]), track.pop("shares")))
                tables["tracks"].append({"clip_id": clip_id, **track, "kept": track["rank"] < people, **shares})
            tables["joints"] += [{"clip_id": clip_id, **joint} for joint in m["joints"]]
            tables["signatures"].append({"clip_id": clip_id, "hashes": m["hashes"], "words": m["words"]})
    for p in build.passes:
        tables |= p.table_rows(build, kept)
    tables["rejects"] = _reject_rows(build)
    return tables


def _places(build: BuildState) -> dict[str, Row]:
    """clip_id -> where its sample lies."""
    ledger, places = build.job.ledger("pack"), dict[str, Row]()
    for name, commit in build.commits("pack").items():
        for place in json.loads(ledger.sidecar(commit)):
            entries = [dict(zip(("name", "offset", "size"), entry)) for entry in place["entries"]]
            places[place["clip_id"]] = {**place, "entries": entries, "shard": f"shards/pose/{name}.tar"}
    return places


def _clip_row(p: Row, d: Row, m: Row, place: Row, people: int) -> Row:
    """A row of index/clips from the plan, the decision, the measures and the place of the sample."""
    values = {name: m[f"filter_{name}"] for name in FILTERED}
    return {
        **{k: p[k] for k in PLANNED},
        "source_label": p["label"],
        **{k: d[k] for k in ("label", "label_id", "text", "duplicate_of")},
        **{k: m[k] for k in MEASURED},
        **{k: None if v is None or v != v else v for k, v in values.items()},
        "num_people": min(m["num_tracks"], people),
        "confidence_mean": m["filter_confidence"],
        "generation": 0,
        **{k: place[k] for k in ("shard", "offset", "size", "blake3", "entries")},
    }


def _reject_rows(build: BuildState) -> list[Row]:
    """Rows of index/rejects: what the plan left out, and what each pass threw out."""
    thrown_out = {outcome.clip_id: (name, outcome) for name, outcome in build.rejects()}
    rows = []
    for planned in build.plan.iterate():
        row = {k: planned[k] for k in ("clip_id", "source", "video_id")}
        row |= {"value": None, "threshold": None, "retryable": False}
        if planned["reason"] is not None:
            rows.append(row | {"pass": "plan", "reason": planned["reason"], "detail": planned["detail"]})
        elif planned["clip_id"] in thrown_out:
            name, outcome = thrown_out[planned["clip_id"]]
            row |= {"pass": name, "detail": outcome.detail, "value": outcome.value, "threshold": outcome.threshold}
            if isinstance(outcome, Fail):
                rows.append(row | {"reason": outcome.kind, "retryable": outcome.retryable})
            else:
                rows.append(row | {"reason": outcome.reason})
    return rows


def _schemas(build: BuildState, tables: Tables) -> dict[str, pa.Schema]:
    """The schema of each table, with what passes add."""
    own = [column for p in build.passes for column in p.columns if column.name not in index.CLIPS.names]
    schemas = {
        "clips": index.clips_schema(_described(own)),
        "tracks": index.tracks_schema(build.job.recipe.pose.experts),
        "joints": index.JOINTS,
        "rejects": index.REJECTS,
        "signatures": index.SIGNATURES,
    }
    if tables["accuracy"]:
        schemas["accuracy"] = index.ACCURACY
    return schemas | {name: schema for p in build.passes for name, schema in p.tables.items()}


def _described(columns: list[Any]) -> list[Row]:
    """Columns as the manifest carries them."""
    return [{"name": c.name, "type": str(c.type), "null": c.null, "description": c.description} for c in columns]


def _facts(build: BuildState, tables: Tables) -> Row:
    """What the manifest says of a dataset beside its files."""
    recipe, passes = build.job.recipe, build.passes
    reasons = {reason: meaning for p in passes for reason, meaning in p.own_reasons(recipe).items()}
    columns = [column for p in passes for column in p.columns if column.name not in index.CLIPS.names]
    more = {name for p in passes for name in p.tables} - {*index.TABLES, *index.MORE_TABLES}
    facts: Row = {
        "recipe": {
            "name": recipe.recipe.name,
            "version": recipe.recipe.version,
            "description": recipe.recipe.description,
        },
        "skeleton": recipe.pose.skeleton,
        "experts": list(recipe.pose.experts),
        "fusion": recipe.pose.fusion,
        "features": list(recipe.embed.features),
        "filters": {name: registry.config(recipe.component("filters", name)) for name in recipe.curate.filters},
        "passes": [_pass_fact(build, p) for p in passes if p.scope != "dataset"],
    }
    own = {reason: meaning for reason, meaning in reasons.items() if reason not in REASONS}
    # a dataset that nothing was added to says nothing of it
    return facts | {
        k: v for k, v in (("reasons", own), ("columns", _described(columns)), ("tables", sorted(more))) if v
    }


def _pass_fact(build: BuildState, p: Pass) -> Row:
    return {"name": p.name, "scope": p.scope, "fingerprint": build.job.fingerprints[p.name]}


def _put_in_place(build: BuildState, out: Path, tables: Tables) -> bool:
    """Make the new dataset whole in `work/staging`, then let it take the place of the old one in one step."""
    staging = build.job.work / "staging" / f"dataset-{uuid.uuid4().hex}"
    known = _link_shards(build, staging)
    for name, schema in _schemas(build, tables).items():
        index.write_table(staging / "index" / name, tables[name], schema)
    counts = {"planned": build.plan.num_clips} | {name: len(tables[name]) for name in index.TABLES}
    manifest = index.build_manifest(staging, counts, "", known, **_facts(build, tables))
    manifest["fingerprint"] = fingerprint(manifest)
    index.write_manifest(staging, manifest)
    return placing.put(out, staging, manifest, "putting a dataset in place")


def _link_shards(build: BuildState, staging: Path) -> dict[str, tuple[int, str]]:
    """Link the artifacts of shard passes into a dataset; path -> (bytes, blake3) of each."""
    known = {}
    for name, kind in (("pack", "pose"), ("video", "video")):
        if name not in build.job.passes:
            continue
        ledger = build.job.ledger(name)
        (staging / "shards" / kind).mkdir(parents=True)
        for shard, commit in build.commits(name).items():
            target = staging / "shards" / kind / f"{shard}.tar"
            try:
                os.link(ledger.artifact(shard), target)
            except OSError:
                shutil.copyfile(ledger.artifact(shard), target)
            known[f"shards/{kind}/{shard}.tar"] = (commit.size, commit.blake3)
    return known
