"""Assemble: what the passes made -> index, manifest and `dataset/`, which appears whole or not at all.

Every pass is asked for the columns and tables that it adds; no pass is named here but those whose results are the
dataset itself: the plan, the measures, the decisions and the shards.
"""

from __future__ import annotations

import os
import shutil
import uuid
from pathlib import Path

from dataengine.core import registry
from dataengine.core.reasons import REASONS
from dataengine.dataset import index, placing
from dataengine.passes.base import Pass, Row
from dataengine.passes.index_tables import added_columns, described, write_index
from dataengine.passes.progress import BuildState
from dataengine.pipeline.recipe import fingerprint

Counts = dict[str, int]
"""Rows of each table of the index."""


def assemble(build: BuildState, out: Path) -> tuple[bool, Counts]:
    """Put the dataset in place of the one there, if it differs.

    Returns:
        Whether the dataset was put there, and how many rows each table of its index has.
    """
    return _put_in_place(build, out)


def _facts(build: BuildState) -> Row:
    """What the manifest says of a dataset beside its files."""
    recipe, passes = build.job.recipe, build.passes
    reasons = {reason: meaning for p in passes for reason, meaning in p.own_reasons(recipe).items()}
    columns = added_columns(build)
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
    facts |= {p.name: found for p in passes if (found := p.facts(build))}
    own = {reason: meaning for reason, meaning in reasons.items() if reason not in REASONS}
    # a dataset that nothing was added to says nothing of it
    given = {"reasons": own, "columns": described(columns), "tables": sorted(more), "lifter": recipe.lifter}
    return facts | {k: v for k, v in given.items() if v}


def _pass_fact(build: BuildState, p: Pass) -> Row:
    fact = {"name": p.name, "scope": p.scope, "fingerprint": build.job.fingerprints[p.name]}
    accepted = build.job.parts[p.name].accepted if p.name in build.job.parts else ()
    # results of several environments under one fingerprint, as the owner of the build wanted it
    return fact | ({"accepted": [list(one.changes) for one in accepted]} if accepted else {})


def _put_in_place(build: BuildState, out: Path) -> tuple[bool, Counts]:
    """Make the new dataset whole in `work/staging`, then let it take the place of the old one in one step."""
    staging = build.job.work / "staging" / f"dataset-{uuid.uuid4().hex}"
    known = _link_shards(build, staging)
    rows = write_index(build, staging / "index")
    if rows["clips"] + rows["rejects"] != build.plan.num_clips:
        raise AssertionError(f"{rows['clips']} kept and {rows['rejects']} out of {build.plan.num_clips} planned clips")
    counts = {"planned": build.plan.num_clips} | {name: rows[name] for name in index.TABLES}
    manifest = index.build_manifest(staging, counts, "", known, **_facts(build))
    manifest["fingerprint"] = fingerprint(manifest)
    index.write_manifest(staging, manifest)
    return placing.put(out, staging, manifest, "putting a dataset in place"), rows


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
