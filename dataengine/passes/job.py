"""Job: a build as its workers know it, and running one task of it."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from dataengine.core.errors import DamagedArtifact, RecipeError, suggestion
from dataengine.io.storage import write_durably
from dataengine.passes.base import Pass, passes_of, provider
from dataengine.pipeline.fingerprints import LIBRARIES, Parts, accept, kept, settled
from dataengine.pipeline.handshake import Question, media_of, question
from dataengine.pipeline.ledger import Commit, Ledger
from dataengine.pipeline.plan import Plan
from dataengine.pipeline.recipe import Recipe, fingerprint, validate
from dataengine.pipeline.task import Receipt, Task


@dataclass(frozen=True)
class Job:
    """What every worker needs to know about a build: written once to `work/`, read by path.

    Attributes:
        fingerprints: pass -> fingerprint, of every enabled pass.
        parts: pass -> what its fingerprint was made of; empty in a worker, and where a lock is only looked at.
    """

    work: Path
    recipe: Recipe
    device: str
    fingerprints: Mapping[str, str]
    parts: Mapping[str, Parts] = field(default_factory=dict)

    @staticmethod
    def of(
        recipe: Recipe,
        work: Path,
        device: str,
        before: Mapping[str, Parts] | None = None,
        accepted: Iterable[str] = (),
        keep: bool = False,
    ) -> Job:
        """The job of a recipe in this process.

        Args:
            before: the parts that the lock of the build holds, by pass.
            accepted: passes whose results of another environment are taken as they are, from now on.
            keep: take the results of every pass so for this once.

        Raises:
            RecipeError: a pass to accept is not of the recipe, or its results differ for another reason.
        """
        passes, locked, asked = passes_of(recipe), before or {}, set(accepted)
        for name in sorted(asked - {p.name for p in passes}):
            raise RecipeError(f"--accept {name!r}{suggestion(name, [p.name for p in passes])}")
        fingerprints, parts = dict[str, str](), dict[str, Parts]()
        for p in passes:
            read = p.reads(passes)
            configuration = p.fingerprint(recipe, dict.fromkeys(read, ""))
            found = Parts(p.version, configuration, p.environment(recipe, device))
            known = locked.get(p.name)
            if p.name in asked:
                found = accept(p.name, found, known)
            elif keep and known is not None and found.same_recipe(known):
                found = kept(found, known, lasting=False)
            else:
                found = settled(found, known)
            configured = p.fingerprint(recipe, {name: fingerprints[name] for name in read})
            fingerprints[p.name], parts[p.name] = fingerprint([configured, found.environment.digest]), found
        return Job(work, recipe, device, fingerprints, parts)

    def question(self, plan: Plan) -> Question:
        """What to ask the workers of this build before their first task; saves the job."""
        libraries = {name for parts in self.parts.values() for name in parts.environment.libraries}
        media = media_of(plan.iterate(), plan.roots)
        return question(self.save(), self.recipe, media, self.device, libraries & LIBRARIES.keys())

    @functools.cached_property
    def passes(self) -> dict[str, Pass]:
        """The enabled passes by name, in the order of a build."""
        return {p.name: p for p in passes_of(self.recipe)}

    def ledger(self, name: str, before: str | None = None) -> Ledger:
        """The ledger of a pass, or of the last pass (before another) that gives poses, measures or decisions."""
        if name not in self.fingerprints:
            name = provider(list(self.passes.values()), name, before).name
        return Ledger(self.work, name, self.fingerprints[name])

    def save(self) -> Path:
        """Write the job where workers can read it; the name holds the content's hash."""
        content = {
            "recipe": self.recipe.to_toml(),
            "overlay": self.recipe.overlay,
            "device": self.device,
            "fingerprints": dict(self.fingerprints),
        }
        path = self.work / f"job-{fingerprint(content)[:12]}.json"
        if not path.exists():
            self.work.mkdir(parents=True, exist_ok=True)
            write_durably(path, json.dumps(content, sort_keys=True, indent=1).encode())
        os.utime(path)
        return path


@functools.lru_cache(maxsize=8)
def load_job(path: Path) -> Job:
    """The job that `Job.save` wrote."""
    content = json.loads(path.read_bytes())
    recipe = validate(content["recipe"], str(path), content["overlay"])
    return Job(path.parent, recipe, content["device"], content["fingerprints"])


def run_task(job_path: Path, pass_name: str, task: Task) -> Receipt:
    """Run one task of a pass; called in a worker. `job_path` is what `Job.save` gave."""
    job = load_job(job_path)
    return job.passes[pass_name].run(job, task)


def finished(job: Job, name: str, key: str) -> Commit:
    """The record of a key.

    Raises:
        DamagedArtifact: the key is not finished, or its artifact is gone.
    """
    ledger = job.ledger(name)
    commit = ledger.read(key)
    if commit is None:
        raise DamagedArtifact(ledger.pass_name, key, f"unit {key} is not finished")
    return commit
