"""The pass list, run to the end (knows nothing of pose).

A build plans, works out which units of which pass are not done under the present fingerprints,
runs those, decides, packs, and puts the dataset in place. Running it again resumes.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from dataengine.core import devices, extras, registry
from dataengine.core.errors import DataEngineError, RecipeError
from dataengine.core.progress import Progress
from dataengine.core.types import Fail
from dataengine.io import weights
from dataengine.io.storage import locked
from dataengine.passes import base as passes
from dataengine.passes import curate, embed, pack, video
from dataengine.passes import label_check as agree
from dataengine.passes.base import Job, Pass
from dataengine.passes.download import Downloads
from dataengine.passes.progress import PassState, inspect, pending, rows_by_unit
from dataengine.pipeline import plan as plans
from dataengine.pipeline import recipe as recipes
from dataengine.pipeline import recipe_lock as lock
from dataengine.pipeline.engine import Engine, Session
from dataengine.pipeline.ledger import Commit
from dataengine.pipeline.notes import notes
from dataengine.pipeline.plan import Plan
from dataengine.pipeline.recipe import Recipe


@dataclass(frozen=True)
class BuildResult:
    """What a build did.

    Attributes:
        planned = kept + rejected + failed, always. retryable: failed clips worth another try.
        states: each pass before this build ran. reasons: clips out, by reason.
        changed: whether the dataset in `out` is another one than before.
        notes: options of the recipe that have no effect, one line each.
    """

    out: str
    planned: int
    kept: int
    rejected: int
    failed: int
    retryable: int
    reasons: dict[str, int]
    states: list[PassState]
    dataset: str
    changed: bool
    seconds: float
    notes: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        return {
            **{k: v for k, v in self.__dict__.items() if k != "states"},
            "passes": [state_row(s) for s in self.states],
        }


def state_row(state: PassState) -> dict[str, Any]:
    """The state of a pass for JSON."""
    return {
        "name": state.name,
        "fingerprint": state.fingerprint,
        "units": state.units,
        "done": state.done,
        "clips_left": state.clips_left,
    }


@dataclass
class _Run:
    """A build under way."""

    out: Path
    plan: Plan
    job: Job
    job_path: Path
    progress: Progress
    commits: dict[str, dict[str, Commit]] = field(default_factory=dict)


def layers(
    recipe: str,
    sources: str | Mapping[str, str | None] | None = None,
    overlay: str | None = None,
    overrides: Sequence[str] = (),
) -> list[recipes.Layer]:
    """What makes the recipe that a build with these arguments runs; sample alone implies the overlay core.

    Args:
        sources: 'name=path,name' or a mapping name -> path.
    """
    chosen: Mapping[str, str | None] | None
    if isinstance(sources, str):
        pairs = [part.partition("=") for part in sources.split(",") if part]
        chosen = {name.strip(): (path if sign else None) for name, sign, path in pairs}
        if not chosen:
            raise RecipeError("--sources names no source; give NAME or NAME=PATH, separated by commas")
    else:
        chosen = sources
    if chosen is not None and set(chosen) == {"sample"} and overlay is None and not recipe.endswith(".lock.toml"):
        path = Path(recipe) if recipe.endswith(".toml") else recipes.available().get(recipe)
        overlay = "core" if path is not None and path.with_name(f"{path.stem}.core.toml").exists() else None
    return recipes.layers(recipe, overlay, overrides, chosen)


def resolve(
    recipe: str,
    sources: str | Mapping[str, str | None] | None = None,
    overlay: str | None = None,
    overrides: Sequence[str] = (),
) -> Recipe:
    """The recipe that a build with these arguments runs; see `layers`."""
    return recipes.merged(layers(recipe, sources, overlay, overrides))


def _used(recipe: Recipe) -> dict[str, Any]:
    """The components of a recipe that may need files, extras or programs, by name."""
    pose = recipe.pose
    used = [
        ("decoders", pose.decoder),
        *(("detectors", d) for d in (recipe.detector,) if d),
        *(("experts", e) for e in pose.experts),
    ]
    used += [("trackers", pose.tracker), ("fusion", pose.fusion)]
    used += [("filters", name) for name in recipe.curate.filters]
    used += [("features", name) for name in recipe.embed.features]
    return {name: recipe.component(kind, name) for kind, name in used}


def check(recipe: Recipe) -> None:
    """Raise what is missing for this recipe: its extras all at once, else the first weight file or program."""
    extras.require(_used(recipe).items())
    for component in _used(recipe).values():
        component.check()
        component.weights()


def get_weights(names: Sequence[str], progress: Progress) -> None:
    """Download weight files of the manifest that are not here.

    Raises:
        WeightsError: not reachable, offline, or not the promised file.
    """
    for name in names:
        entry = weights.manifest()[name]
        progress.say(f"getting {name} (licence {entry.licence}) from {entry.url}")
        with progress.step(name, None if entry.bytes is None or entry.member else entry.bytes >> 20, "MB") as advance:
            shown = [0]

            def tell(
                done: int, total: int | None, shown: list[int] = shown, advance: Callable[[int], None] = advance
            ) -> None:
                del total
                advance((done >> 20) - shown[0])
                shown[0] = done >> 20

            weights.download(name, tell)


def build(
    recipe: str,
    sources: str | Mapping[str, str | None] | None = None,
    out: str | os.PathLike[str] | None = None,
    *,
    overlay: str | None = None,
    overrides: Sequence[str] = (),
    engine: Engine | None = None,
    device: str = "auto",
    limit: int | None = None,
    data_root: str | None = None,
    progress: Progress | None = None,
) -> BuildResult:
    """Build a dataset, or finish, extend or update the one in `out`.

    Args:
        recipe: name or path of a recipe.
        sources: 'name=path,name' or a mapping name -> path; None takes the recipe's.
        out: folder of the build; default builds/<recipe>.
        overlay: a committed variant of the recipe, such as 'core'.
        overrides: 'table.key=TOML value' texts.
        engine: how to run; default one local process a core.
        device: auto, cpu or cuda.
        limit: plan only the first clips.
        data_root: folder with a folder a source, for sources without a path; default the variable DATAENGINE_DATA.

    Raises:
        DataEngineError: what is wrong, in one line; nothing was built then.
    """
    begun = time.monotonic()
    given = layers(recipe, sources, overlay, overrides)
    resolved = recipes.merged(given)
    progress = progress or Progress()
    plans.check_places(resolved)
    extras.require(_used(resolved).items())
    get_weights(weights.missing(_used(resolved).values()), progress)
    check(resolved)
    folder = Path(out) if out is not None else Path("builds") / resolved.recipe.name
    lock.check(folder, _used(resolved))
    work = folder.absolute() / "work"
    plan = _planned(resolved, work, data_root or os.environ.get("DATAENGINE_DATA"), limit, progress)
    result = _execute(resolved, plan, folder.absolute(), engine, device, progress, begun)
    return replace(result, notes=notes(given))


def rewrite(out: str | os.PathLike[str], engine: Engine | None = None, progress: Progress | None = None) -> BuildResult:
    """Build again what `out` planned without what was taken down since; nothing new is planned or downloaded.

    Raises:
        DataEngineError: `out` holds no finished plan and lock.
    """
    begun, folder = time.monotonic(), Path(out).absolute()
    work = folder / "work"
    plan = plans.load(work).without(plans.TakenDown.of(work))
    recipe = recipes.load(str(folder / "recipe.lock.toml"))
    return _execute(recipe, plan, folder, engine, "auto", progress or Progress(), begun)


def _execute(
    recipe: Recipe, plan: Plan, folder: Path, engine: Engine | None, device: str, progress: Progress, begun: float
) -> BuildResult:
    """Run every pass of a plan."""
    work = folder / "work"
    plans.save(plan, work)
    job = make_job(recipe, work, devices.pick(device))
    run = _Run(folder, plan, job, passes.save_job(job, work), progress)
    lock.write(folder, recipe, job.fingerprints, _used(recipe))
    states = states_of(plan, job)
    chosen = engine or Engine(clip_deadline=recipe.engine.clip_deadline)
    if job.device != "cpu":
        chosen = replace(chosen, gpus=devices.count())
    with chosen.open() as session:
        for p in passes.unit_passes().values():
            _run_pass(run, session, p)
        changed, rows = _pack(run, session)
    result = _result(run, rows, states, changed, time.monotonic() - begun)
    if recipe.report is not None:
        from dataengine.passes import report

        with progress.step("report", None):
            report.run(run.out, plan, job)
    return result


def _planned(recipe: Recipe, work: Path, data_root: str | None, limit: int | None, progress: Progress) -> Plan:
    """The plan, made after its annotations, and again after the media that it missed, were obtained."""

    def make() -> Plan:
        with progress.step("plan", None) as advance:
            known = [0]

            def counted(n: int) -> None:
                advance(n - known[0])
                known[0] = n

            return plans.make(recipe, work, data_root, limit, counted)

    with Downloads(recipe, data_root, progress.say) as downloads:
        downloads.annotations()
        plan = make()
        missing = downloads.missing(plan)
        if not missing:
            return plan
        with progress.step("download", sum(map(len, missing.values()))) as advance:
            failures = downloads.media(missing, advance)
        return (make() if len(failures) < sum(map(len, missing.values())) else plan).with_failures(failures)


def make_job(recipe: Recipe, work: Path, device: str) -> Job:
    """The job of a recipe: with the fingerprints of all passes."""
    found = passes.fingerprints(recipe)
    found["curate"] = curate.pass_fingerprint(recipe, found["measure"])
    if recipe.embed.features:
        found["embed"] = embed.pass_fingerprint(recipe, recipe.embed.features)
        found["agree"] = agree.pass_fingerprint(recipe, found["curate"], found["embed"])
    found["pack"] = pack.pass_fingerprint(recipe, found["curate"], found.get("agree"))
    if recipe.pack.keep_video:
        found["video"] = video.pass_fingerprint(recipe, found["pack"])
    return Job(work, recipe, device, found)


def states_of(plan: Plan, job: Job) -> list[PassState]:
    """How far each pass is that costs more than reading tables; failures worth another try count as left."""
    return inspect(plan, job, retry=True) + ([embed.inspect(plan, job)] if job.recipe.embed.features else [])


def _run_pass(run: _Run, session: Session, p: Pass) -> None:
    rows = rows_by_unit(run.plan)
    todo, done = pending(rows, run.job, p, retry=True)
    members = {unit: [row["clip_id"] for row in rows[unit]] for unit in todo}
    with run.progress.step(p.name, sum(map(len, members.values()))) as advance:
        session.run(
            passes.run_unit,
            (run.job_path, p.name),
            members,
            lambda receipt: advance(len(members[receipt["unit"]])),
            lambda unit: passes.pulse(run.job.work, unit),
            gpu=p.name == "pose" and run.job.device != "cpu",
        )
    for unit in todo:
        commit = run.job.ledger(p.name).read(unit)
        if commit is None:
            raise DataEngineError(
                f"pass {p.name}: unit {unit} ran but left no record in {run.job.ledger(p.name).folder}; build again"
            )
        done[unit] = commit
    run.commits[p.name] = {unit: done[unit] for unit in rows}


def _embed(run: _Run, session: Session, decisions: Path) -> Path:
    """Give the clips that are kept their features, and judge their labels by them: the decisions that hold from now on."""
    wanted = embed.save_wanted(run.job, decisions, run.job.recipe.embed.features)
    todo = embed.pending(run.job, wanted)
    with run.progress.step("embed", sum(map(len, todo.values()))) as advance:
        session.run(
            embed.run_unit,
            (run.job_path, wanted),
            todo,
            lambda receipt: advance(receipt["clips"]),
            lambda unit: passes.pulse(run.job.work, unit),
            gpu=run.job.device != "cpu",
        )
    run.commits["embed"] = embed.settled(run.job, wanted)
    return agree.run(run.job, decisions)


def _pack(run: _Run, session: Session) -> tuple[bool, dict[str, list[dict[str, Any]]]]:
    job, measured, posed = run.job, run.commits["measure"], run.commits["pose"]
    with run.progress.step("curate", None):
        decisions = curate.run(job, run.plan, measured)
    if job.recipe.embed.features:
        decisions = _embed(run, session, decisions)
    shard_plans = pack.plan_shards(job, run.plan, decisions, measured, posed)
    plans_path = pack.save_plans(job, shard_plans, decisions)
    for name, runner in (
        ("pack", pack.run_shard),
        *((("video", video.run_shard),) if job.recipe.pack.keep_video else ()),
    ):
        ledger = job.ledger(name)
        todo = {
            s.name: [c for _, c in s.clips]
            for s in shard_plans
            if (known := ledger.read(s.name)) is None or known.inputs != s.inputs
        }
        with run.progress.step(name, sum(len(clips) for clips in todo.values())) as advance:
            session.run(runner, (run.job_path, plans_path), todo, lambda receipt: advance(receipt["clips"]))
    rows = pack.index_rows(job, run.plan, decisions, shard_plans, measured)
    rejects = [
        r
        for name, commits in run.commits.items()
        for c in commits.values()
        for o in c.outcomes
        if (r := curate.rejected(o, name))
    ]
    rejects += agree.decisions_out(decisions)
    rows["rejects"] = pack.reject_rows(run.plan, rejects)
    if len(rows["clips"]) + len(rows["rejects"]) != run.plan.num_clips:
        raise AssertionError(
            f"{len(rows['clips'])} kept and {len(rows['rejects'])} out of {run.plan.num_clips} planned clips"
        )
    with locked(job.work / "finish.lock"):
        changed = pack.finish(run.out, job, shard_plans, rows, _facts(run, rows))
    return changed, rows


def _facts(run: _Run, rows: Mapping[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """What the manifest says of a dataset beside its files."""
    recipe, job = run.job.recipe, run.job
    return {
        "recipe": {"name": recipe.recipe.name, "version": recipe.recipe.version, "description": recipe.recipe.description},
        "skeleton": recipe.pose.skeleton,
        "experts": list(recipe.pose.experts),
        "fusion": recipe.pose.fusion,
        "features": list(recipe.embed.features),
        "filters": {name: registry.config(recipe.component("filters", name)) for name in recipe.curate.filters},
        "passes": dict(job.fingerprints),
        "counts": {
            "planned": run.plan.num_clips, "clips": len(rows["clips"]), "rejects": len(rows["rejects"]),
            "tracks": len(rows["tracks"]), "joints": len(rows["joints"]),
        },
    }  # fmt: skip


def _result(
    run: _Run, rows: Mapping[str, list[dict[str, Any]]], states: list[PassState], changed: bool, seconds: float
) -> BuildResult:
    reasons: dict[str, int] = {}
    for row in rows["rejects"]:
        reasons[row["reason"]] = reasons.get(row["reason"], 0) + 1
    fails = [o for commits in run.commits.values() for c in commits.values() for o in c.outcomes if isinstance(o, Fail)]
    retryable = sum(o.retryable for o in fails)
    return BuildResult(
        str(run.out), run.plan.num_clips, len(rows["clips"]), len(rows["rejects"]) - len(fails), len(fails), retryable,
        dict(sorted(reasons.items(), key=lambda kv: -kv[1])), states, str(run.out / "dataset"), changed, round(seconds, 2),
    )  # fmt: skip


def result_text(result: BuildResult) -> str:
    """A build's result for people."""
    lines = [
        f"{result.kept} clips kept, {result.rejected} rejected, {result.failed} failed, of {result.planned} planned ({result.seconds:.1f} s)"
    ]
    lines += [f"  {reason:<18}{count:>6}" for reason, count in result.reasons.items()]
    if result.retryable:
        lines.append(f"{result.retryable} failed clips are worth another try: run the same command again")
    lines.append(f"dataset  {result.dataset}" + ("" if result.changed else "  (unchanged)"))
    lines.append(f"report   {result.dataset}/report.html")
    lines.append(
        f"next     dataengine explain {result.out} CLIP_ID   |   dataengine view {result.out} CLIP_ID   |   dataengine audit {result.out} rejects"
    )
    return "\n".join(lines)
