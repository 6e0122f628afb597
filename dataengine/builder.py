"""The list of passes, run to the end (knows nothing of any pass).

A build plans, downloads what the plan misses, and then runs each pass of its recipe in order: only the keys that are
not done under the present fingerprints and inputs. The dataset is put in place when all shards are there. Running a
build again resumes.
"""

from __future__ import annotations

import functools
import os
import shlex
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from dataengine.core import devices, extras, registry
from dataengine.core.counting import are, counted
from dataengine.core.errors import DamagedArtifact, DatasetError, LeaseError, RecipeError
from dataengine.core.failures import in_one_line
from dataengine.core.invocation import command
from dataengine.core.progress import Progress
from dataengine.core.types import Fail
from dataengine.dataset.index import MANIFEST, read_manifest
from dataengine.dataset.placing import changing, refuse_link
from dataengine.dataset.takedown_records import TakenDown, home
from dataengine.inspect.build import job_of
from dataengine.inspect.status import clean
from dataengine.io import weights
from dataengine.io.lease import lease
from dataengine.passes.again import NEVER_AGAIN, RETRYABLE, Again, check_clips, check_reasons
from dataengine.passes.assemble import assemble
from dataengine.passes.base import passes_of
from dataengine.passes.chain import run_passes
from dataengine.passes.download import Downloads
from dataengine.passes.job import Job
from dataengine.passes.progress import BuildState, PassState
from dataengine.pipeline import overlays, recipe_lock
from dataengine.pipeline import plan as plans
from dataengine.pipeline import recipe as recipes
from dataengine.pipeline.attempts import forget_attempts
from dataengine.pipeline.engine import Dispatcher, Engine
from dataengine.pipeline.fingerprints import components_of
from dataengine.pipeline.journal import Journal
from dataengine.pipeline.notes import notes
from dataengine.pipeline.plan import Plan
from dataengine.pipeline.recipe import Recipe
from dataengine.sources.imported import spool

HANDOVER = 2.0
"""Seconds that a build waits for another one on the same folder, which may just be ending."""
MENDED = 2
"""How often a build makes the same damaged artifact anew before it gives up: then the disk is to blame."""


@dataclass(frozen=True)
class BuildResult:
    """What a build did.

    Attributes:
        out: folder of the build.
        planned: clips of the plan; always kept + rejected + failed.
        kept: clips in the dataset.
        rejected: clips that were judged and left out.
        failed: clips that could not be judged.
        retryable: failed clips worth another try.
        reasons: number of clips left out, by reason.
        states: each pass before this build ran.
        dataset: folder of the dataset.
        changed: whether the dataset in `out` is another one than before.
        seconds: wall time of the build.
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
            "passes": [state.row() for state in self.states],
        }


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
    return _merged(layers(recipe, sources, overlay, overrides))


def _merged(given: Sequence[recipes.Layer]) -> Recipe:
    loaded = recipes.merged(given)
    passes_of(loaded)  # raises where a pass reads what no pass gives
    return loaded


def check(recipe: Recipe) -> None:
    """Raise what is missing for this recipe: its extras all at once, else the first weight file or program."""
    components = components_of(recipe)
    extras.require(components.items(), overlays.hint(recipe, components))
    for component in components.values():
        component.check()
        component.weights()
    for p in passes_of(recipe):
        p.ready(recipe)


def get_weights(names: Sequence[str], progress: Progress) -> None:
    """Download weight files of the manifest that are not here.

    Raises:
        WeightsError: not reachable, offline, or not the promised file.
    """
    for name in names:
        entry = weights.manifest()[name]
        progress.say(f"getting {name} (licence {entry.licence}) from {entry.source}")
        whole = 0 if entry.member or entry.places else entry.bytes or 0
        with progress.step(name, whole >> 20 if whole else None, "MB") as advance:
            shown = [0]

            def tell(
                done: int, total: int | None, shown: list[int] = shown, advance: Callable[[int], None] = advance
            ) -> None:
                del total
                advance(max(0, (done >> 20) - shown[0]))  # of the next of several files it begins anew
                shown[0] = done >> 20

            weights.download(name, tell, progress.say)


@in_one_line()
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
    accept: Sequence[str] = (),
    retry: Sequence[str] = (),
    release: Sequence[str] = (),
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
        accept: passes whose results are taken as they are although other code, libraries or another kind of device
            made them. The lock and the manifest say so, and later builds take them, too.
        retry: reasons of failures; the clips that failed for them run again, worth another try or not. Clips that are
            worth another try run again anyway.
        release: ids of clips that failed, such as those in quarantine; they run again.

    Raises:
        DataEngineError: what is wrong, in one line; nothing was built then.
    """
    begun = time.monotonic()
    remote, device = (engine or Engine()).remote, (engine or Engine()).device(device)
    given = layers(recipe, sources, overlay, overrides)
    resolved = _merged(given)
    progress = progress or Progress()
    plans.check_places(resolved)
    hint = "" if remote else overlays.hint(resolved, components_of(resolved))
    extras.require(components_of(resolved).items(), hint)
    if hint:
        progress.say(f"this will be very slow: {hint}")
    get_weights(weights.missing(components_of(resolved).values()), progress)
    with progress.waiting("checking weights and programs"):
        check(resolved)
    check_reasons(resolved, retry)
    folder = Path(out) if out is not None else Path("builds") / resolved.recipe.name
    recipe_lock.check(folder, components_of(resolved))
    work = folder.absolute() / "work"
    try:
        work.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RecipeError(f"--out {folder} cannot be made: {error.strerror}; give a folder to write into") from error
    with in_one_line(folder), lease(folder.absolute(), "build", "build", wait=HANDOVER):
        placing = progress.waiting("waiting for another command that changes the dataset")
        with placing, changing(folder.absolute(), "build"):  # what a killed build left of the dataset is mended
            refuse_link(folder.absolute())
        before = recipe_lock.parts(folder / recipe_lock.NAME)

        @functools.cache
        def job_on(device: str) -> Job:
            with progress.waiting("comparing code, libraries and weights with those of the build"):
                job = Job.of(resolved, work, device, before, accept)
            for line in recipe_lock.why_anew(recipe, before, job.parts):
                progress.say(line)
            return job

        if not (remote and device == "auto"):  # else the workers decide, and they come after the plan
            job_on(device)
        again = Again(reasons=frozenset(retry), clips=frozenset(release))
        plan = _planned(resolved, work, data_root or os.environ.get("DATAENGINE_DATA"), limit, progress, again)
        result = _execute(resolved, job_on, device, plan, folder.absolute(), engine, progress, begun, again)
    return replace(result, notes=notes(given))


@in_one_line()
def rewrite(out: str | os.PathLike[str], engine: Engine | None = None, progress: Progress | None = None) -> BuildResult:
    """Build again what `out` planned without what was taken down since; nothing new is planned or downloaded.

    Raises:
        DataEngineError: `out` holds no finished plan and lock.
    """
    begun, folder = time.monotonic(), Path(out).absolute()
    work = folder / "work"
    with lease(folder, "build", "rewrite", wait=HANDOVER):
        with changing(folder, "rewrite") as dataset:
            plan = plans.load(work).without(TakenDown.of(folder))
            _check_last_build(folder, dataset, plan)
        lock = folder / recipe_lock.NAME
        # nothing is added, so nothing is made anew because the code, a library or the machine is another one by now
        recipe, before = recipes.load(str(lock)), recipe_lock.parts(lock)

        def job_on(device: str) -> Job:
            return Job.of(recipe, work, device, before, keep=True)

        return _execute(recipe, job_on, "auto", plan, folder, engine, progress or Progress(), begun)


def _check_last_build(folder: Path, dataset: Path, plan: Plan) -> None:
    """Refuse to rewrite a dataset by the plan and the recipe of another build, which was stopped.

    Raises:
        DatasetError: saying so.
    """
    manifest = read_manifest(dataset)
    made = {p["name"]: p["fingerprint"] for p in manifest.get("passes", [])}
    last = job_of(folder).fingerprints
    if plan.num_clips != manifest["counts"]["planned"] or any(last.get(name) != made[name] for name in made):
        raise DatasetError(
            f"{folder}: the last build here was stopped before its dataset was in place, and is another one than the "
            "dataset's; run the build of the dataset again, which leaves out what was taken down"
        )


def rewrite_and_clean(out: str | os.PathLike[str], progress: Progress | None = None) -> BuildResult | None:
    """`rewrite`, and remove the intermediates that hold what was taken down, before anybody else works on the build.

    Returns:
        What was built; None where there is no dataset to rewrite.

    Raises:
        LeaseError: somebody else does; what was recorded holds, but the shards are as they were.
        DatasetError: the last build was stopped, and is not the one of the dataset, or the dataset lies here without
            its build; likewise.
        DataEngineError: `out` holds no finished plan and lock.
    """
    folder = Path(out).absolute()
    folder = home(folder) or folder
    try:
        if (folder / MANIFEST).exists():
            raise DatasetError(
                f"{folder} is a dataset without its build, and only a build can rewrite it: give the --out of the "
                "build, and copy its dataset anew"
            )
        with lease(folder, "build", "takedown", wait=HANDOVER):
            result = rewrite(folder, progress=progress) if (folder / "dataset" / MANIFEST).exists() else None
            clean(folder, gone=TakenDown.of(folder))
            erase_saved_poses(folder)
    except (LeaseError, DatasetError) as error:
        raise type(error)(
            f"the takedown is recorded and readers leave the clips out, but the shards still hold them: {error}"
        ) from error
    return result


def erase_saved_poses(folder: Path) -> None:
    """Erase what was taken down from the copies of saved poses that a build made for itself."""
    gone = TakenDown.of(folder)
    plan = plans.load(folder / "work", ("clip_id", "source", "video_id"))
    for name, root in plan.roots.items():
        if not registry.component_class("sources", name).brings_poses:
            continue
        rows = (row for row in plan.iterate() if row["source"] == name)
        spool.erase(Path(root), {r["clip_id"] for r in rows if gone.reason(r["clip_id"], r["video_id"]) is not None})


def _execute(
    recipe: Recipe,
    job_on: Callable[[str], Job],
    device: str,
    plan: Plan,
    folder: Path,
    engine: Engine | None,
    progress: Progress,
    begun: float,
    again: Again = RETRYABLE,
) -> BuildResult:
    """Run every pass of a plan, in order; the dataset is put in place before the passes that read it as a whole.

    Args:
        job_on: the job for a device, which workers decide where they run on other hosts.
    """
    work = folder / "work"
    plans.save(plan, work)
    chosen = engine or Engine(
        clip_deadline=recipe.engine.clip_deadline,
        host_failures=recipe.engine.host_failures,
        failure_share=recipe.engine.failure_share,
    )
    forget_attempts(work)
    Journal(work).note("build")
    device = chosen.device(device)
    states, damages = dict[str, PassState](), Counter[tuple[str, str]]()
    while True:
        try:
            with chosen.open(
                progress, gpus=devices.count() * recipe.engine.processes_per_gpu if device == "cuda" else 0
            ) as dispatcher:
                job = job_on(dispatcher.device(device))
                recipe_lock.write(folder, recipe, job.fingerprints, components_of(recipe), job.parts)
                if again.clips:
                    check_clips(BuildState(plan, job, NEVER_AGAIN), again.clips)
                build = BuildState(plan, job, again, drives=True)
                dispatcher.ask(functools.partial(job.question, plan))
                run_passes(build, [p for p in build.passes if p.scope != "dataset"], dispatcher, progress, states)
            with progress.waiting("putting the dataset in place"), lease(folder, "build", "build") as held:
                held.check()
                changed, rows = assemble(build, folder)
            last = [p for p in build.passes if p.scope == "dataset"]
            run_passes(build, last, Dispatcher(chosen, None), progress, states)
            return _result(build, folder, rows, list(states.values()), changed, time.monotonic() - begun)
        except DamagedArtifact as damaged:
            # found by a pass that reads it: the unit counts as not done from now on, all else is reused
            damages[damaged.pass_name, damaged.unit] += 1
            if damages[damaged.pass_name, damaged.unit] > MENDED:
                raise
            progress.say(f"pass {damaged.pass_name}: {damaged.what}: unit {damaged.unit} is run again")


def _planned(
    recipe: Recipe, work: Path, data_root: str | None, limit: int | None, progress: Progress, again: Again
) -> Plan:
    """The plan, made after its annotations, and again after the media that it missed, were obtained."""

    said: list[str] = []

    def make() -> Plan:
        said.clear()
        with progress.step("plan", None) as advance:
            known = [0]

            def counted(n: int) -> None:
                advance(n - known[0])
                known[0] = n

            return plans.make(recipe, work, data_root, limit, counted, said.append)

    with Downloads(recipe, data_root, progress.say, again.reasons) as downloads:
        downloads.annotations()
        plan = make()
        for remark in said:
            progress.say(remark)
        missing = downloads.missing(plan)
        if not missing:
            return plan
        with progress.step("download", sum(map(len, missing.values()))) as advance:
            failures = downloads.media(missing, advance)
        return (make() if len(failures) < sum(map(len, missing.values())) else plan).with_failures(failures)


def _result(
    build: BuildState, out: Path, rows: Mapping[str, int], states: list[PassState], changed: bool, seconds: float
) -> BuildResult:
    reasons: dict[str, int] = {}
    planned_out = [reason for reason in build.plan.table.column("reason").to_pylist() if reason is not None]
    outcomes = [outcome for _, outcome in build.rejects()]
    fails = [outcome for outcome in outcomes if isinstance(outcome, Fail)]
    for reason in (*planned_out, *(o.kind if isinstance(o, Fail) else o.reason for o in outcomes)):
        reasons[reason] = reasons.get(reason, 0) + 1
    return BuildResult(
        out=str(out),
        planned=build.plan.num_clips,
        kept=rows["clips"],
        rejected=rows["rejects"] - len(fails),
        failed=len(fails),
        retryable=sum(fail.retryable for fail in fails),
        reasons=dict(sorted(reasons.items(), key=lambda kv: (-kv[1], kv[0]))),
        states=states,
        dataset=str(out / "dataset"),
        changed=changed,
        seconds=round(seconds, 2),
    )


def result_text(result: BuildResult) -> str:
    """A build's result for people."""
    lines = [
        f"{counted(result.kept, 'clip')} kept, {result.rejected} rejected, {result.failed} failed, "
        f"of {result.planned} planned ({result.seconds:.1f} s)"
    ]
    lines += [f"  {reason:<18}{count:>6}" for reason, count in result.reasons.items()]
    if result.retryable:
        said = f"{counted(result.retryable, 'failed clip')} {are(result.retryable)} worth another try"
        lines.append(f"{said}: run the same command again")
    lines.append(f"dataset  {result.dataset}" + ("" if result.changed else "  (unchanged)"))
    lines.append(f"report   {result.dataset}/report.html")
    out = shlex.quote(result.out)
    lines.append(
        f"next     {command(f'explain {out} CLIP_ID')}   |   {command(f'view {out} CLIP_ID')}   |   "
        f"{command(f'audit {out} rejects')}"
    )
    return "\n".join(lines)
