"""Pass: the one abstraction that a build is a list of.

A build runs every pass that its recipe enables, in the order of the list. The builder, `status`, `explain`, `gc`,
`--dry-run`, the report and the manifest (and through it `verify`) iterate over the same list and ask each pass the same
questions. A pass that a recipe does not enable is asked nothing and leaves no trace.

**The list** is `dataengine.passes.PASSES`, in the order of a build. Other packages add to it by an entry point of the
group `dataengine.passes`, for example `brightness = "mypackage:Brightness"`. Such a pass is put behind the last pass
that it reads.

**Scopes.** What a pass works on at a time:

=========  ====================================================================================  ======================
scope      key of a piece of work                                                                base class
=========  ====================================================================================  ======================
`unit`     a unit of the plan: a fixed group of clips, run in a worker                            `UnitPass`
`table`    `all`: a table of all clips at once, made in the driver's process                      `TablePass`
`shard`    a shard of the dataset: a run of kept clips of one split, run in a worker              `Pass`
`dataset`  `all`: the finished dataset, after it was put in place, in the driver's process        `Pass`
=========  ====================================================================================  ======================

**Reading.** `after` names what a pass reads: a pass, or what a pass gives (`gives`): `poses`, `measures` or
`decisions`. A name such as `poses` stands for the last enabled pass before this one that gives poses. So a pass that
refines poses says `after = ("poses",)` and `gives = "poses"`, and everything behind it reads its poses.

**Adding a unit pass**: one file, and one line in the entry points (or in the registry). A subclass of `UnitPass` with
`schema` makes a table with a row for each clip::

    @dataclass(frozen=True)
    class Brightness(UnitPass):
        '''Mean brightness of a clip; clips that are too dark are left out.'''

        min: float = 0.05                      # an option: [passes.brightness] min = 0.1

        version = 1                            # raise it when results change
        after = ("poses",)                     # its clips are those that these passes kept
        schema = pa.schema([("clip_id", pa.string()), ("brightness", pa.float32())])
        columns = (Column("brightness", pa.float32(), description="mean brightness, 0 to 1"),)
        reasons = {"too_dark": "the clip is too dark"}

        def examine(self, unit, clip):
            value = ...                        # unit.arrays("poses"), unit.plan.media(clip), unit.recipe
            if value < self.min:
                return Reject(clip.clip_id, "too_dark", value, self.min)
            return {"brightness": value}

**Adding a table pass**: a subclass of `TablePass` is given the decisions of all clips and may leave clips out or add
columns::

    @dataclass(frozen=True)
    class Balance(TablePass):
        '''At most `most` clips of a video.'''

        most: int = 10

        version = 1
        after = ("decisions",)
        reasons = {"video_cap": "its video has as many clips as the recipe allows"}

        def decide(self, table):
            for row in table.rows:
                ...
                if count > self.most:
                    leave_out(row, "video_cap", "detail", count, self.most)
            return table.rows

**Options and being enabled.** The fields of the dataclass are the options of the pass. A recipe enables a pass of
another package, and gives its options, by the table `[passes.NAME]`, which may be empty. An unknown option or a value
of the wrong type is refused like that of any other component. An installed package alone changes no build, so a recipe
stays the whole truth about its dataset. Built-in passes have tables of their own and override `enabled`.

**What the base class does.** It finds the keys and clips that are left, compares digests of inputs, runs the loop over
clips, turns exceptions into typed failures, checks that every clip given comes out exactly once and with a reason that
is listed, commits, and counts. What a pass adds to the dataset it declares in `columns`, `tables` and `entries`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias

import numpy as np
import pyarrow as pa

from dataengine.core import registry
from dataengine.core.component import Component
from dataengine.core.errors import RecipeError, suggestion
from dataengine.core.types import Fail, Int, Keep, Outcome, Reject
from dataengine.dataset import index
from dataengine.pipeline.fingerprints import Environment
from dataengine.pipeline.ledger import Commit
from dataengine.pipeline.recipe import Recipe, fingerprint
from dataengine.pipeline.task import Receipt, Task

if TYPE_CHECKING:
    from dataengine.passes.job import Job
    from dataengine.passes.progress import BuildState, PassState

Scope: TypeAlias = Literal["unit", "table", "shard", "dataset"]
Row: TypeAlias = dict[str, Any]

ALL = "all"
"""The only key of passes over tables and over the dataset."""


@dataclass(frozen=True)
class Column:
    """A column that a pass adds to index/clips.

    Attributes:
        type: a primitive Arrow type, such as `pa.float32()`, or `dataengine.dataset.index.SPANS`.
        null: whether the column may be null in every row. `verify` names a column that is null in every row otherwise.
    """

    name: str
    type: pa.DataType
    null: bool = False
    description: str = ""


@dataclass(frozen=True)
class Pass(Component, ABC):
    """One pass of a build; see the module for the whole picture. The fields of a subclass are its options.

    Attributes:
        name: the name that it goes by in the list or as an entry point; the registry fills it in.
        version: part of the fingerprint; raise it when results change.
        after: what it reads: names of passes, or of what passes give.
        gives: what it gives to others under a common name (poses, measures, decisions); None for nothing of the kind.
        reasons: reason -> meaning of reasons of its own, beside those of `dataengine.core.reasons.REASONS`.
        columns: what it adds to index/clips. tables: index tables that it adds, by name, each with a column clip_id.
        entries: what it adds to samples, as the documentation names it, such as 'NAME_video.npy'.
        on_device: whether its work runs on the accelerator where there is one.
        per: what its cost grows with, for `--dry-run`: clips, frames, or neither (`build`).
        shows_steps: whether it shows its own progress (`dataengine.core.progress.current`) where it runs in the
            driver's process.
    """

    name: str = ""

    version: ClassVar[int]
    scope: ClassVar[Scope]
    after: ClassVar[tuple[str, ...]] = ()
    gives: ClassVar[str | None] = None
    reasons: ClassVar[Mapping[str, str]] = {}
    columns: ClassVar[tuple[Column, ...]] = ()
    tables: ClassVar[Mapping[str, pa.Schema]] = {}
    entries: ClassVar[tuple[str, ...]] = ()
    on_device: ClassVar[bool] = False
    per: ClassVar[Literal["clip", "frame", "build"]] = "clip"
    shows_steps: ClassVar[bool] = False

    def enabled(self, recipe: Recipe) -> bool:
        """Whether a recipe runs this pass: when it has a table [passes.NAME]."""
        return self.name in recipe.options.get("passes", {})

    def reads(self, passes: Sequence[Pass]) -> tuple[str, ...]:
        """Names of the passes whose results it reads, of the enabled ones."""
        return tuple(dict.fromkeys(provider(passes, name, self.name).name for name in self.after))

    def config(self, recipe: Recipe) -> Any:
        """The part of the recipe (and hashes of weights) that results depend on, beside the pass's own options."""
        del recipe
        return {}

    def ready(self, recipe: Recipe) -> None:
        """Raise what would fail the pass, before any work: a file that the recipe names and that is not there. Default:
        nothing."""

    def uses(self, recipe: Recipe) -> Iterable[Component]:
        """The components that it runs: results depend on their code as on the pass's own. Default: none."""
        del recipe
        return ()

    def unused(self, recipe: Recipe) -> Sequence[str]:
        """Modules that its code imports and that it does not run under a recipe. Default: none."""
        del recipe
        return ()

    def environment(self, recipe: Recipe, device: str) -> Environment:
        """The code, libraries and kind of device of this process that results depend on; part of the fingerprint."""
        used = tuple(self.uses(recipe))
        programs = [name for component in used for name in component.programs]
        return Environment.of((self, *used), self.unused(recipe), device if self.on_device else "", programs)

    def fingerprint(self, recipe: Recipe, upstream: Mapping[str, str]) -> str:
        """Digest of configuration, version and options, and of what the pass reads.

        Args:
            upstream: fingerprints of the passes that it reads, by name.
        """
        options = {k: v for k, v in registry.config(self).items() if k != "name"}
        return fingerprint(
            [self.name, self.version, options, self.weights(), self.config(recipe), list(upstream.values())]
        )

    @abstractmethod
    def state(self, build: BuildState) -> PassState:
        """What of this pass is done and what is left, given the states of the passes before it."""

    @abstractmethod
    def run(self, job: Job, task: Task) -> Receipt:
        """Run one key and commit it, or only run it for a probe; called in a worker for units and shards."""

    def commit_of(self, build: BuildState, key: str, inputs: str, record: Commit | None = None) -> Commit | None:
        """The record of a finished key for the inputs of this build, as the build sees it.

        Args:
            record: what was written, where it is known; None reads it.
        """
        return build.find(self.name, key, inputs) if record is None else record

    def thrown_out(self, build: BuildState) -> Iterator[Reject | Fail]:
        """What became of the clips that the pass was given and did not keep, as far as it is done."""
        for commit in build.commits(self.name).values():
            yield from (outcome for outcome in commit.outcomes if not isinstance(outcome, Keep))

    def unit_digest(self, build: BuildState, unit: str) -> Any:
        """Of a pass over tables: what passes over units depend on, beside the clips of a unit and their labels."""
        del build, unit

    def facts(self, build: BuildState) -> Row:
        """What the manifest of the dataset says of the pass, under its name. Default: nothing."""
        del build
        return {}

    def remark(self, job: Job) -> str | None:
        """What `status` says of the pass beside its counts, in one line. Default: nothing."""
        del job
        return None

    def own_reasons(self, recipe: Recipe) -> Mapping[str, str]:
        """Reason -> meaning of the reasons that it may give under a recipe and that are not built in."""
        del recipe
        return self.reasons

    def rates(self, recipe: Recipe) -> Mapping[str, float]:
        """What the pass is made of, and how often each is asked per frame (or clip): names in manifests/rates.toml."""
        del recipe
        return {self.name: 1.0}

    def explain(self, job: Job, row: Mapping[str, Any]) -> Row | None:
        """What the pass decided about one clip.

        Args:
            row: the clip's row of the plan.

        Returns:
            outcome (keep, reject or fail); where there is one reason, value, threshold and detail; and `facts`, names
            with values that are worth showing. None where the clip was not given to the pass, or it has not run.
        """
        commit = job.ledger(self.name).read(row["unit"])
        outcome = next((o for o in commit.outcomes if o.clip_id == row["clip_id"]), None) if commit else None
        return None if outcome is None else outcome_step(outcome)

    def live_keys(self, out: Path, units: set[str]) -> set[str]:
        """Keys whose records `gc` keeps. `out` is the build's folder, `units` are all units ever planned."""
        del out
        return units if self.scope == "unit" else {ALL}

    def clip_values(self, build: BuildState, unit: str) -> Mapping[str, Row]:
        """clip_id -> column -> value of `columns`, for the clips of one unit."""
        del build, unit
        return {}

    def table_rows(self, build: BuildState, kept: Mapping[str, Row]) -> Mapping[str, index.Rows]:
        """Rows of each of `tables`, dicts or an Arrow table. `kept` is clip_id -> decision of the clips of the
        dataset."""
        del build, kept
        return {}

    def sample_entries(self, job: Job, unit: str, texts: Mapping[str, str | None]) -> Mapping[str, Row]:
        """clip_id -> entry -> value that the pass adds to the samples of a unit. `texts` is clip_id -> its text."""
        del job, unit, texts
        return {}

    def entry_bytes(self, num_people: Int, num_frames: Int, num_joints: int) -> Int:
        """About how many bytes the pass adds to each of N samples with so many people and frames (N,), where they are
        many; shards are cut by it. Default: none."""
        del num_people, num_joints
        return np.zeros_like(num_frames)

    def entries_digest(self, build: BuildState, decision: Mapping[str, Any]) -> Any:
        """What tells whether the entries of a clip are the same as before; `decision` is its row of the decisions."""
        return build.commits(self.name)[decision["unit"]].digest


def outcome_step(outcome: Outcome) -> Row:
    """An outcome as `Pass.explain` gives it."""
    if isinstance(outcome, Keep):
        return {"outcome": "keep"}
    kind, reason = ("fail", outcome.kind) if isinstance(outcome, Fail) else ("reject", outcome.reason)
    step = {"outcome": kind, "reason": reason, "value": outcome.value, "threshold": outcome.threshold}
    return step | {"detail": outcome.detail or None}


def passes_of(recipe: Recipe) -> list[Pass]:
    """The enabled passes of a recipe, in the order of a build.

    Raises:
        RecipeError: a pass reads what no enabled pass gives.
    """
    built_in = [recipe.component("passes", name) for name in registry.KINDS["passes"].builtin]
    passes: list[Pass] = [p for p in built_in if p.enabled(recipe)]
    names = sorted(set(recipe.options.get("passes", {})) - registry.KINDS["passes"].builtin.keys())
    left: list[Pass] = [recipe.component("passes", name) for name in names]
    added: list[Pass] = []
    while left:
        placed = next((p for p in left if all(_place(passes, name) is not None for name in p.after)), None)
        if placed is None:
            wanted = next(name for name in left[0].after if _place(passes, name) is None)
            known = [name for p in passes for name in (p.name, p.gives) if name]
            raise RecipeError(f"[passes.{left[0].name}] reads {wanted!r}{suggestion(wanted, dict.fromkeys(known))}")
        place = max((_place(passes, name) or 0 for name in placed.after), default=-1) + 1
        while place < len(passes) and passes[place] in added:
            place += 1
        passes.insert(place, placed)
        added.append(placed)
        left.remove(placed)
    _check_additions(passes, added)
    return passes


def _check_additions(passes: Sequence[Pass], added: Sequence[Pass]) -> None:
    """Refuse columns and tables of other packages that the index, or a pass before them, has already."""
    columns = {*index.CLIPS.names, *(column.name for p in passes if p not in added for column in p.columns)}
    tables = {*index.TABLES, *index.MORE_TABLES}
    for p in (p for p in passes if p in added):
        own = [column.name for column in p.columns]
        for kind, taken, names in (("column", columns, own), ("table", tables, list(p.tables))):
            for name in names:
                if name in taken:
                    raise RecipeError(f"[passes.{p.name}] adds the {kind} {name!r} to the index, which has it already")
                taken.add(name)


def _place(passes: Sequence[Pass], name: str) -> int | None:
    """Where the last pass stands that is called `name`, or that gives what is called so."""
    places = [n for n, p in enumerate(passes) if name in (p.name, p.gives)]
    return places[-1] if places else None


def provider(passes: Sequence[Pass], name: str, before: str | None = None) -> Pass:
    """The pass that gives `name` (poses, measures, decisions, or the name of a pass): the last one in the list.

    Args:
        passes: enabled passes in order.
        before: look only before this pass.

    Raises:
        RecipeError: no enabled pass gives it.
    """
    end = next((n for n, p in enumerate(passes) if p.name == before), len(passes))
    place = _place(passes[:end], name)
    if place is None:
        raise RecipeError(f"no pass of this recipe gives {name!r}" + (f" to pass {before}" if before else ""))
    return passes[place]
