"""refine: a student learns from pseudo-labels, round by round, and a gate decides which of its generations counts.

A pass over all clips, in the driver's process on its device. It leaves no clip out. What it makes lies in
`work/refine-<fingerprint12>/generations/<learned12>/round-<n>/`: the weights, the checkpoint of learning,
`generation.json`, which is written when a round has learned and never changed, and `verdict-<gate12>.json` for every
setting of the gate that has judged it. So keys of the gate, and more rounds, learn nothing again. The record of the
pass names the generation that counts, by the hash of its weights; 0 are the experts of the recipe.

A round learns from labels that the generation before helped to make: in the second round and later, the recipe's
fusion is asked again in the sampled frames, with the last generation as one more expert. A generation that the gate
refuses ends the rounds, and the one before stays.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from blake3 import blake3

from dataengine.core import devices, registry
from dataengine.core.component import Component
from dataengine.core.counting import are, counted
from dataengine.core.errors import LedgerError
from dataengine.core.gpu_claim import device_of_process
from dataengine.core.progress import Progress, current
from dataengine.dataset import index
from dataengine.dataset.learned_from import note_clips
from dataengine.io.storage import file_hash, staged, write_durably
from dataengine.passes.base import ALL, Row
from dataengine.passes.generation_files import (
    GENERATION,
    Generation,
    folder_of,
    generation_of,
    read_generation,
    read_verdict,
    write_verdict,
)
from dataengine.passes.held_out import HeldOut
from dataengine.passes.job import Job
from dataengine.passes.progress import BuildState, PassState
from dataengine.passes.table_pass import Table, TablePass
from dataengine.passes.unit_pass import receipt
from dataengine.pipeline import plan as plans
from dataengine.pipeline.ledger import joined_inputs
from dataengine.pipeline.recipe import Recipe, fingerprint
from dataengine.pipeline.recipe_tables import RefineTable
from dataengine.pipeline.task import Receipt, Task
from dataengine.refine.gate import Margins, Verdict
from dataengine.refine.loop import CHECKPOINT, FitSettings, fit
from dataengine.refine.pseudo_labels import LabelledFrames, SampledClip, Thresholds, read_clips
from dataengine.refine.sampling import drawn, is_held_out

FEWEST = 2
"""Videos that the gate needs: it refuses what it saw in one alone."""
ENOUGH = 5
"""Videos that are held out at least where they are no more than half: intervals of fewer are too narrow."""
LEARNING = ("epochs", "batch", "rate", "warmup", "optimizer", "weight_decay", "clip", "patience", "seed", "threads")
"""Keys of [refine] that go into `FitSettings`."""


@dataclass(frozen=True)
class Refine(TablePass):
    """Lets a student learn from the fused poses, and judges what it has learned."""

    version = 3
    after = ("pseudo_labels", "poses")
    gives = None
    on_device = True
    shows_steps = True
    per = "frame"
    adds = (pa.field("generation", pa.int32()), pa.field("generation_weights", pa.string()))

    def enabled(self, recipe: Recipe) -> bool:
        return recipe.refine.student is not None

    def config(self, recipe: Recipe) -> dict[str, Any]:
        student = recipe.student
        return {
            "table": recipe.refine.model_dump(exclude={"frames", "gate", "rounds"}),
            "student": registry.config(student),
            "weights": student.weights(),
            "pose": [recipe.pose.fusion, recipe.pose.tracker, recipe.pose.skeleton],
        }

    def uses(self, recipe: Recipe) -> list[Component]:
        kinds = (("decoders", recipe.pose.decoder), ("trackers", recipe.pose.tracker), ("fusion", recipe.pose.fusion))
        return [*(recipe.component(kind, name) for kind, name in kinds), recipe.student, recipe.student.expert(None)]

    def ready(self, recipe: Recipe) -> None:
        from dataengine.refine.truth import AnnotatedPictures

        if recipe.refine.gate.truth is not None:
            AnnotatedPictures.read(recipe.refine.gate.truth, recipe.refine.gate.pictures)

    def state(self, build: BuildState) -> PassState:
        """Its inputs are the pseudo-labels and the poses, not labels or licences of the plan."""
        ledger = build.job.ledger(self.name)
        state = PassState(self.name, self.scope, ledger.fingerprint, [ALL])
        clips = tuple(clip_id for unit in build.given(self.name).values() for clip_id in unit)
        state.left, digests = clips, list[Any]()
        for name in self.reads(build.passes):
            if not build.state(name).finished:
                return state
            digests += [[name, key, commit.digest] for key, commit in sorted(build.commits(name).items())]
        inputs = joined_inputs(fingerprint([digests, clips]), fingerprint(judging(build.job.recipe)))
        commit = build.find(self.name, ALL, inputs)
        if commit is not None and generation_of(build.job, commit.inputs, ledger.sidecar(commit)) is not None:
            state.commits, state.left = {ALL: commit}, ()
        else:
            state.tasks = [Task(ALL, clips, inputs, replaces="" if commit is None else commit.digest)]
        return state

    def run(self, job: Job, task: Task) -> Receipt:
        begun, ledger = time.monotonic(), job.ledger(self.name)
        record = Rounds(job, self, task).run()
        given = self._given(job, self._earlier(job), task.clips)
        schema = self._schema(given.schema)
        accepted = record["rounds"][record["generation"] - 1] if record["generation"] else {"weights_blake3": None}
        count = len(given)
        columns = {name: given[name] for name in given.column_names} | {
            "generation": pa.array([record["generation"]] * count, pa.int32()),
            "generation_weights": pa.array([accepted["weights_blake3"]] * count, pa.string()),
        }
        told = json.dumps(record, sort_keys=True).encode()
        # verdicts that change no row make another file, beside which another record lies
        schema = schema.with_metadata({"record": blake3(told).hexdigest()})
        path = ledger.stage(ALL, "parquet")
        pq.write_table(pa.table(columns, schema), path, compression="zstd", row_group_size=index.GROUP_ROWS)
        seconds = time.monotonic() - begun
        commit = ledger.commit(ALL, task.inputs, path, (), seconds, told, replaces=task.replaces)
        return receipt(task, count, count, begun, commit)

    def decide(self, table: Table) -> Iterable[Row]:
        """Every clip stays."""
        return table.rows

    def unit_digest(self, build: BuildState, unit: str) -> Any:
        """What passes over units depend on: the generation that counts, by its weights."""
        found = build.remember(("refine", "generation"), lambda: generation_in_use(build.job))
        return None if found is None else [found.number, found.digest]

    def explain(self, job: Job, row: Mapping[str, Any]) -> Row | None:
        step = super().explain(job, row)
        record = record_of(job)
        if step is None or record is None:
            return step
        step.pop("decision", None)
        facts = {"generation": record["generation"], "student": record["student"]}
        facts |= _learned(record["rounds"][-1]) if record["rounds"] else {"nothing": record["nothing"]}
        return {"outcome": "keep", "facts": facts}

    def remark(self, job: Job) -> str | None:
        record = record_of(job)
        if record is None:
            return None
        number = record["generation"]
        used = f"generation {number} of {record['student']}" if number else "the experts"
        last = record["rounds"][-1] if record["rounds"] else None
        why = record["nothing"] if last is None else "; ".join(last["verdict"]["reasons"])
        refused = "" if last is None or last["verdict"]["published"] else f"generation {last['round']} is refused: "
        return f"refine: the poses are those of {used}" + (f"; {refused}{why}" if why else "")

    def facts(self, build: BuildState) -> Row:
        record = record_of(build.job)
        return {} if record is None else record

    def rates(self, recipe: Recipe) -> Mapping[str, float]:
        table = recipe.refine  # each round goes through its frames once an epoch
        return {f"students/{table.student}": table.frames * table.epochs * table.rounds}


def _learned(last: Mapping[str, Any]) -> Row:
    """What to show of the last round."""
    history, verdict = last["history"], last["verdict"]
    best = history[last["best_epoch"]]
    facts = {"learned from": f"{last['train_frames']} frames, {last['train_people']} people"}
    facts["validation loss"] = f"{history[0]['validation']:.4g} -> {best['validation']:.4g} in epoch {best['epoch']}"
    facts["gate"] = "published" if verdict["published"] else f"refused round {last['round']}"
    facts |= {f"refused for {n}": line for n, line in enumerate(verdict["reasons"], 1)}
    return facts


def judging(recipe: Recipe) -> Row:
    """What a verdict, and how many rounds there are, depend on beside what was learned."""
    gate = recipe.refine.gate
    truth = None if gate.truth is None else file_hash(Path(gate.truth))
    return {"gate": gate.model_dump(exclude={"truth", "pictures"}), "truth": truth, "rounds": recipe.refine.rounds}


def generation_in_use(job: Job) -> Generation | None:
    """The generation that counts; None where pass refine has not run.

    Raises:
        LedgerError: its weights are gone, or are not what they were.
    """
    ledger = job.ledger("refine")
    commit = ledger.read(ALL)
    if commit is None:
        return None
    found = generation_of(job, commit.inputs, ledger.sidecar(commit))
    if found is None:
        raise LedgerError(
            f"pass refine: the weights of its generation in {ledger.folder} are gone or damaged; build again"
        )
    return found


def generation_number(job: Job) -> int:
    """The round that made the poses; 0 for the experts of the recipe."""
    record = record_of(job)
    return 0 if record is None else int(record["generation"])


def record_of(job: Job) -> Row | None:
    """What pass refine tells of its rounds; None where it has not run, or is not of the recipe."""
    if "refine" not in job.fingerprints:
        return None
    ledger = job.ledger("refine")
    commit = ledger.read(ALL)
    record: Row | None = None if commit is None else json.loads(ledger.sidecar(commit))
    return record


class Rounds:
    """The rounds of one run of the pass."""

    def __init__(self, job: Job, owner: Refine, task: Task) -> None:
        self.job, self.table, self.student = job, job.recipe.refine, job.recipe.student
        self.folder = folder_of(job, task.inputs)
        self.judging = fingerprint({**judging(job.recipe), "rounds": None})
        self.device = device_of_process("cuda" if job.device != "cpu" and devices.able() else "cpu")
        if job.device != "cpu" and self.device == "cpu":
            current().say(
                "refine: the workers have a GPU and the driver has none: the student learns on the driver's CPU; start "
                "the build on a machine with a GPU to learn there"
            )
        self.reads = owner.reads(list(job.passes.values()))
        self.plan = plans.load(job.work, ["clip_id", "unit", "source", "video_id", "split", "reason"])
        self.limits = Thresholds(self.table.gamma, self.table.min_score, self.table.min_joints)
        chosen = set(task.clips)
        self.clips = [clip for clip in self._sampled() if clip.clip_id in chosen]
        self.rows = {row["clip_id"]: row for row in self.plan.iterate() if row["clip_id"] in chosen}
        self.held = self._held_out()

    def _sampled(self) -> Iterator[SampledClip]:
        ledger = self.job.ledger(self.reads[0])
        for unit in ledger.units():
            yield from read_clips(ledger.artifact(unit))

    def _video(self, clip: SampledClip) -> tuple[str, str]:
        row = self.rows[clip.clip_id]
        return row["source"], row["video_id"]

    def _held_out(self) -> set[str]:
        """Clips of the videos that are held out: a share of them, and of few videos `ENOUGH` or about half."""
        videos = sorted(
            {self._video(clip) for clip in self.clips}, key=lambda v: drawn("held out", *v, self.table.seed)
        )
        share = sum(is_held_out(*v, self.table.seed, self.table.validation) for v in videos)
        least = max(FEWEST, min(ENOUGH, len(videos) // 2))
        held = set(videos[: min(max(share, least), max(len(videos) - 1, 0))])
        return {clip.clip_id for clip in self.clips if self._video(clip) in held}

    def run(self) -> Row:
        """Every round; gives the record of the pass."""
        rounds, last, why = list[Row](), Generation(0), self._nothing()
        for number in range(1, self.table.rounds + 1 if why is None else 1):
            learned = self._known(number) or self._learn(number, last)
            row = {**learned, "verdict": self._verdict(number, last, learned)}
            rounds.append(row)
            if not row["verdict"]["published"]:
                break
            last = Generation(number, self.folder / f"round-{number}" / row["weights"], row["weights_blake3"])
        if why is not None:
            current().say(f"refine: {why}: the poses of the experts stay")
        return {"student": self.table.student, "generation": last.number, "rounds": rounds, "nothing": why}

    def _nothing(self) -> str | None:
        """Why there is nothing to learn from, where that is so."""
        videos, splits = len({self._video(clip) for clip in self.clips}), ", ".join(self.table.splits)
        if videos <= FEWEST:
            return (
                f"{counted(videos, 'video')} of {splits} {are(videos)} too few: one is learned from, {FEWEST} judge; "
                "more videos, or more splits in [refine], give some"
            )
        for what, held in (("learn from", False), ("validate with", True)):
            mine = [clip for clip in self.clips if (clip.clip_id in self.held) == held]
            if not len(LabelledFrames(mine, self.limits)):
                return (
                    f"no labelled frames to {what} in {counted(len(mine), 'clip')} of {splits}; "
                    "more clips, or lower gamma, min_score and min_joints in [refine], give some"
                )
        return None

    def _known(self, number: int) -> Row | None:
        """What a round learned that was finished before the build was stopped."""
        folder = self.folder / f"round-{number}"
        row = read_generation(folder)
        try:
            whole = row is not None and file_hash(folder / row["weights"]) == row["weights_blake3"]
        except OSError:
            return None
        return row if whole else None

    def _learn(self, number: int, last: Generation) -> Row:
        folder, progress = self.folder / f"round-{number}", current()
        folder.mkdir(parents=True, exist_ok=True)
        note_clips(self.folder, ((clip.clip_id, clip.clip_id in self.held) for clip in self.clips))
        train, validation = self._frames(last)
        settings = replace(settings_of(self.table), seed=self.table.seed + number - 1)
        weights = folder / f"generation-{number}{self.student.suffix}"
        with self.student.start(self.device, settings.seed, last.weights) as session:
            fitted = fit(session, train, validation, settings, folder, progress, _name(number))
            with staged(weights) as partial:
                session.save(partial)
        row = {
            "round": number,
            "weights": weights.name,
            "weights_blake3": file_hash(weights),
            "bytes": weights.stat().st_size,
            "train_frames": len(train),
            "train_people": train.people,
            "validation_frames": len(validation),
            "validation_people": validation.people,
            "settings": asdict(settings),
            "history": fitted.history,
            "best_epoch": fitted.best_epoch,
            "stopped": fitted.stopped,
        }
        write_durably(folder / GENERATION, json.dumps(row, sort_keys=True, indent=1).encode())
        (folder / CHECKPOINT).unlink(missing_ok=True)  # the weights lie beside
        return row

    def _verdict(self, number: int, last: Generation, learned: Row) -> Row:
        """What the gate says of a round, looked at once for each setting of the gate."""
        path = self.folder / f"round-{number}" / f"verdict-{self.judging[:12]}.json"
        about = [learned["weights_blake3"], last.digest]
        if (known := read_verdict(path, about)) is not None:
            return known
        weights, progress = path.with_name(learned["weights"]), current()
        verdict = self._judged(number, last, weights, learned["best_epoch"], progress)
        found = json.loads(json.dumps(verdict.to_dict()))  # the same after a restart
        write_verdict(path, about, found)
        if not verdict.published:
            progress.say(
                f"refine: generation {number} is refused, generation {last.number} stays: {verdict.reasons[0]}"
            )
        return dict(found)

    def _frames(self, last: Generation) -> tuple[LabelledFrames, LabelledFrames]:
        relabel = None
        if last.weights is not None:
            from dataengine.passes.relabel import Relabeller

            relabel = Relabeller(self.job.recipe, self.student, last.weights, self.device)
        train = [clip for clip in self.clips if clip.clip_id not in self.held]
        held = [clip for clip in self.clips if clip.clip_id in self.held]
        try:
            return LabelledFrames(train, self.limits, relabel), LabelledFrames(held, self.limits, relabel)
        finally:
            if relabel is not None:
                relabel.close()

    def _judged(self, number: int, last: Generation, weights: Path, best_epoch: int, progress: Progress) -> Verdict:
        held = HeldOut(self.job, self.reads[1], self.held, self.rows, self.limits, self.device)
        gate = self.table.gate
        margins = Margins(
            gate.agreement_margin,
            gate.missing_margin,
            gate.extra_margin,
            gate.sides_margin,
            gate.jitter_margin,
            gate.truth_margin,
        )
        return held.judged(last.weights, weights, margins, best_epoch, progress, f"gate {number}")


def settings_of(table: RefineTable) -> FitSettings:
    """How the table says that a student learns."""
    return FitSettings(**{key: getattr(table, key) for key in LEARNING})


def _name(number: int) -> str:
    return f"round {number}"
