"""A build that lies in a folder, opened to be looked at: its plan, its recipe and the fingerprints of its passes."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dataengine.core.errors import DataEngineError, DatasetError, suggestion
from dataengine.dataset.index import MANIFEST
from dataengine.passes.base import passes_of
from dataengine.passes.job import Job
from dataengine.pipeline.plan import Plan
from dataengine.pipeline.recipe import load as load_recipe
from dataengine.pipeline.recipe_lock import NAME


def job_of(out: Path) -> Job:
    """The job that a build ran, from its recipe.lock.toml.

    Raises:
        DatasetError: there is no build, or another version of this package built it.
    """
    path = out / NAME
    if not path.exists():
        if (out / MANIFEST).exists():
            raise DatasetError(
                f"{out} is a dataset without its build, for verify, audit and takedown; here give the OUT of the build"
            )
        raise DatasetError(f"{out} is not a build: it has no {NAME}; give the --out of a dataengine build")
    try:
        recipe = load_recipe(str(path))
    except DataEngineError as error:
        raise DatasetError(f"{out}: its recipe is not one of this version; run the build again ({error})") from error
    recorded: Mapping[str, str] = (
        tomllib.loads(path.read_text(encoding="utf-8")).get("lock", {}).get("fingerprints", {})
    )
    names = [p.name for p in passes_of(recipe)]
    missing = [name for name in names if name not in recorded]
    if missing:
        raise DatasetError(f"{path} knows no pass {missing[0]!r}: run the build again with this version of dataengine")
    return Job(out.absolute() / "work", recipe, "cpu", {name: recorded[name] for name in names})


def find_clip(plan: Plan, clip_id: str) -> dict[str, Any]:
    """The plan's row of a clip.

    Raises:
        DatasetError: the plan has no such clip.
    """
    if plan.clip(clip_id) is None:
        near = plan.table.column("clip_id").slice(0, 20_000).to_pylist()
        hint = suggestion(clip_id, near).split(";")[0]
        raise DatasetError(f"no clip {clip_id!r} among the {plan.num_clips} planned{hint}")
    return plan.row(clip_id)
