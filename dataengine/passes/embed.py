"""embed: features of kept clips and of their labels' texts, kept for each clip and each text whatever curation decides.

A unit's artifact is a shard of every clip of the unit that was ever kept, with `NAME_video.npy` (K, D) float16 of
unit length for K temporal views. When curation keeps more clips, only those are added. The key `texts` holds every
label's text that was ever in use, with `NAME_text.npy` (D,) float16. What is kept now is chosen when packing.

Clips are decoded a second time here, on purpose: `docs/explanation/build.md` has the figures.
"""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from blake3 import blake3

from dataengine.core import registry
from dataengine.core.component import SESSIONS, Component, Session
from dataengine.core.errors import MediaError
from dataengine.core.gpu_claim import device_of_process
from dataengine.core.types import Clip, Fail, Float, Frames, Keep, Outcome
from dataengine.features import Features, FeaturesSession
from dataengine.io import shards
from dataengine.labels.prompts import prompts
from dataengine.media.frame_sampler import FrameSampler
from dataengine.passes.again import Again
from dataengine.passes.base import ALL, Row
from dataengine.passes.job import Job
from dataengine.passes.progress import BuildState, PassState
from dataengine.passes.unit_pass import Unit, UnitPass, quarantined, receipt
from dataengine.pipeline import plan as plans
from dataengine.pipeline.attempts import Heartbeat
from dataengine.pipeline.ledger import Commit
from dataengine.pipeline.recipe import Recipe, fingerprint
from dataengine.pipeline.task import Receipt, Task

TEXTS = "texts"
"""The key that holds the features of texts."""
UNRELATED = ("checkpoint", "batch")
"""Options of features that change no result: the weights' hashes tell which weights they are, wherever they lie."""
Entries = dict[str, Any]


@dataclass(frozen=True)
class Embed(UnitPass):
    """Encodes the video of every kept clip and every text of every label in use."""

    version = 1
    after = ("decisions", "measures", "probe")
    entries = ("NAME_video.npy", "NAME_views.npy", "NAME_text.npy")
    extension = "tar"
    on_device = True
    streams = False

    def enabled(self, recipe: Recipe) -> bool:
        return bool(recipe.embed.features)

    def config(self, recipe: Recipe) -> list[Any]:
        used = {name: recipe.component("features", name) for name in recipe.embed.features}
        options = {n: {k: v for k, v in registry.config(c).items() if k not in UNRELATED} for n, c in used.items()}
        weights = {name: sorted(c.weights().values()) for name, c in used.items()}
        decoder = registry.config(recipe.component("decoders", recipe.pose.decoder))
        return [options, weights, recipe.pose.decoder, decoder, recipe.pose.max_fps]

    def fingerprint(self, recipe: Recipe, upstream: Mapping[str, str]) -> str:
        """Digest of the features with their weights and of how frames are read; nothing of curation or of poses."""
        del upstream
        return fingerprint([self.name, self.version, self.config(recipe)])

    def uses(self, recipe: Recipe) -> list[Component]:
        features = [recipe.component("features", name) for name in recipe.embed.features]
        return [recipe.component("decoders", recipe.pose.decoder), *features]

    def unused(self, recipe: Recipe) -> Sequence[str]:
        # an embedding lies under the digest of its text, wherever the text came from
        return ("dataengine.labels.prompts",)

    def rates(self, recipe: Recipe) -> Mapping[str, float]:
        return {f"features/{name}": 1.0 for name in recipe.embed.features}

    def state(self, build: BuildState) -> PassState:
        """Of the clips that curation keeps, or of all clips on their way where curation has not decided."""
        ledger = build.job.ledger(self.name)
        wanted = _wanted(build)
        ready = all(build.state(name).finished for name in self.reads(build.passes))
        state = PassState(self.name, self.scope, ledger.fingerprint, list(wanted) if ready else None)
        left_out: list[str] = []
        for key, clips in wanted.items():
            inputs = _inputs(build, key)
            commit = build.find(self.name, key, inputs)
            left = _left(commit, inputs, clips, build.again)
            if left:
                left_out += left if key != TEXTS else []
                state.tasks += [Task(key, tuple(left), inputs)] if ready else []
            else:
                assert commit is not None
                state.commits[key] = _among(commit, clips)
        state.left = left_out
        return state

    def commit_of(self, build: BuildState, key: str, inputs: str, record: Commit | None = None) -> Commit | None:
        """The record of a unit with the outcomes of the clips that are kept now."""
        commit = super().commit_of(build, key, inputs, record)
        return None if commit is None else _among(commit, _wanted(build)[key])

    def run(self, job: Job, task: Task) -> Receipt:
        """Embed what is left of one unit and commit it together with what was there."""
        begun, ledger = time.monotonic(), job.ledger(self.name)
        session = open_features(job, job.recipe.embed.features)
        staged = ledger.stage(task.key, self.extension)
        commit = None
        try:
            if task.key == TEXTS:
                texts = texts_in_use(job)
                made, outcomes = _embed_texts(session, [texts[key] for key in task.clips])
            else:
                made, outcomes = self._embed_clips(job, task, session, staged)
            if not task.probe:
                before = ledger.find(task.key, task.inputs)
                every = {o.clip_id: o for o in (*(before.outcomes if before else ()), *outcomes)}
                with shards.ShardWriter(staged) as writer:
                    old = dict(shards.iterate(ledger.checked(before))) if before else {}
                    for key, entries in sorted({**old, **made}.items()):
                        writer.write(key, entries)
                seconds = time.monotonic() - begun + (before.seconds if before else 0.0)
                ordered = tuple(every[key] for key in sorted(every))
                replaced = before.digest if before else ""
                commit = ledger.commit(task.key, task.inputs, staged, ordered, seconds, replaces=replaced)
        finally:
            staged.unlink(missing_ok=True)
        return receipt(task, len(task.clips), len(made), begun, commit)

    def _embed_clips(
        self, job: Job, task: Task, session: EmbedSession, staged: Path
    ) -> tuple[dict[str, Entries], list[Outcome]]:
        """Decode and prepare every clip, then encode them: several at once on an accelerator, one by one on a CPU."""
        plan = plans.load_unit(job.work, task.key, (job.work / "plan.parquet").stat().st_mtime_ns)
        chosen, quarantine = set(task.clips), dict(task.quarantine)
        clips = [clip for clip in plan.clips() if clip.clip_id in chosen]
        runnable = [clip for clip in clips if clip.clip_id not in quarantine]
        work = Unit(job, task.key, runnable, staged, plan, Heartbeat(task.attempt))
        table = pq.read_table(job.ledger("measures").artifact(task.key), columns=["clip_id", "num_frames"])
        lengths = {row["clip_id"]: row["num_frames"] for row in table.to_pylist()}
        prepared: dict[str, dict[str, list[Frames]]] = {}

        def prepare(clip: Clip) -> Outcome:
            prepared[clip.clip_id] = _prepared(work, clip, lengths[clip.clip_id], session.features)
            return Keep(clip.clip_id)

        in_flight = job.recipe.engine.clips_in_flight if job.device != "cpu" else 1
        outcomes = {o.clip_id: o for o in work.each(prepare, in_flight)}
        ready = [clip for clip in runnable if clip.clip_id in prepared]
        made, failed = _encoded(replace(work, clips=ready), prepared, session)
        return made, [*{**outcomes, **failed}.values(), *quarantined(self, clips, quarantine)]

    def live_keys(self, out: Path, units: set[str]) -> set[str]:
        return {*units, TEXTS}

    def sample_entries(self, job: Job, unit: str, texts: Mapping[str, str | None]) -> Mapping[str, Row]:
        return clip_entries(job, unit, texts)

    def entries_digest(self, build: BuildState, decision: Mapping[str, Any]) -> Any:
        return decision.get("features")


def _wanted(build: BuildState) -> dict[str, list[str]]:
    """Key -> what it is to hold: clips on their way by unit, and the keys of the texts of the labels in use."""
    wanted: dict[str, list[str]] = build.remember(("embed", "wanted"), lambda: _look_up_wanted(build))
    return wanted


def _look_up_wanted(build: BuildState) -> dict[str, list[str]]:
    wanted = build.given("embed")
    known = prompts(build.job.recipe.curate.prompts)
    labels = build.labels(build.job.ledger("decisions", before="embed").pass_name)
    texts = sorted({text for label in labels for text in known.texts(label)})
    return wanted | ({TEXTS: [text_key(text) for text in texts]} if texts else {})


def texts_in_use(job: Job) -> dict[str, str]:
    """Key -> text of every text of every label of kept clips."""
    path = job.ledger("decisions", before="embed").artifact(ALL)
    table = pq.read_table(path, columns=["label", "kept"])
    known = prompts(job.recipe.curate.prompts)
    labels = {label for label in table.filter(table["kept"])["label"].unique().to_pylist() if label is not None}
    return {text_key(text): text for label in labels for text in known.texts(label)}


def _left(commit: Commit | None, inputs: str, wanted: Sequence[str], again: Again) -> list[str]:
    if commit is None or commit.inputs != inputs:
        return list(wanted)
    finished = {o.clip_id for o in commit.outcomes if not again.wants(o)}
    return [key for key in wanted if key not in finished]


def _among(commit: Commit, clips: Sequence[str]) -> Commit:
    """A record with the outcomes of some clips alone."""
    chosen = set(clips)
    return replace(commit, outcomes=tuple(o for o in commit.outcomes if o.clip_id in chosen))


def _inputs(build: BuildState, key: str) -> str:
    """Digest of what a unit's features are made of: the media as probed. Which clips are kept is no part of it."""
    commit = None if key == TEXTS else build.commits("probe").get(key)
    return "" if commit is None else commit.digest


def text_key(text: str) -> str:
    """The key of a text in the unit `texts`."""
    return blake3(text.encode()).hexdigest()[:32]


class EmbedSession(Session):
    """The open features of a recipe on the device of this process.

    Attributes:
        features: configuration by name.
        sessions: what runs, by name.
    """

    def __init__(self, recipe: Recipe, names: Sequence[str], device: str) -> None:
        own = device_of_process(device)
        self.features: dict[str, Features] = {name: recipe.component("features", name) for name in names}
        self.sessions: dict[str, FeaturesSession] = {}
        try:
            for name, component in self.features.items():
                self.sessions[name] = component.load(own)
        except BaseException:
            self.close()
            raise

    def release(self) -> None:
        """Close every session."""
        for session in self.sessions.values():
            session.close()


def open_features(job: Job, names: Sequence[str]) -> EmbedSession:
    """The session of this process for a job; units of the same recipe and device share it."""
    key = (job.fingerprints["embed"], job.device, tuple(names))
    return SESSIONS.get("embed", key, lambda: EmbedSession(job.recipe, names, job.device))


def _embed_texts(session: EmbedSession, texts: Sequence[str]) -> tuple[dict[str, Entries], list[Outcome]]:
    made: dict[str, Entries] = {text_key(text): {"json": {"text": text}} for text in texts}
    for name, encoders in session.sessions.items():
        for text, feature in zip(texts, encoders.encode_text(texts)):
            made[text_key(text)][f"{name}_text.npy"] = feature.astype(np.float16)
    return made, [Keep(key) for key in made]


def _encoded(
    work: Unit, prepared: Mapping[str, Mapping[str, list[Frames]]], session: EmbedSession
) -> tuple[dict[str, Entries], dict[str, Fail]]:
    """The features of prepared clips, and the failures of those that could not be encoded."""
    made: dict[str, Entries] = {clip.clip_id: {} for clip in work.clips}
    failed: dict[str, Fail] = {}
    for name, component in session.features.items():

        def together(part: Sequence[Clip], name: str = name, component: Features = component) -> None:
            flat = [frames for clip in part for frames in prepared[clip.clip_id][name]]
            found = session.sessions[name].encode_video(flat).reshape(len(part), component.views, component.dim)
            for clip, views in zip(part, found):
                made[clip.clip_id][f"{name}_video.npy"] = views.astype(np.float16)

        def alone(clip: Clip, together: Callable[[Sequence[Clip]], None] = together) -> Outcome:
            together([clip])
            return Keep(clip.clip_id)

        at_once = 1 if work.job.device == "cpu" else component.batch
        for start in range(0, len(work.clips), at_once):
            part = [clip for clip in work.clips[start : start + at_once] if clip.clip_id not in failed]
            if len(part) > 1:
                with contextlib.suppress(Exception):  # whose fault it was shows when each clip is encoded alone
                    work.beat(part[0])
                    together(part)
                    work.heartbeat.end(part[0].clip_id)
                    continue
            failed |= {o.clip_id: o for o in replace(work, clips=part).each(alone) if isinstance(o, Fail)}
    return {clip_id: entries for clip_id, entries in made.items() if clip_id not in failed}, failed


def _prepared(unit: Unit, clip: Clip, num_frames: int, features: Mapping[str, Features]) -> dict[str, list[Frames]]:
    """name -> one prepared (t, h, w, 3) array a view, of the frames that the clip's poses belong to; decoding ends with
    the last one needed."""
    places = {name: [c.sample_indices(num_frames, view) for view in range(c.views)] for name, c in features.items()}
    wanted = {n for views in places.values() for indices in views for n in indices}
    sampler, count, found = FrameSampler(unit.recipe.pose.max_fps), 0, dict[int, Frames]()
    decoder = unit.recipe.component("decoders", unit.recipe.pose.decoder)
    with decoder.open(unit.plan.media(clip), clip.span_start, clip.span_end) as stream:
        for batch in stream:
            for n in sampler.pick(batch.timestamps):
                if count in wanted:
                    found[count] = batch.frames[n].copy()
                count += 1
            if len(found) == len(wanted):
                break
    if len(found) < len(wanted):
        raise MediaError("decode_failed", f"{clip.media} has {count} frames now, it had {num_frames}")
    return {
        name: [features[name].prepare(np.stack([found[n] for n in indices])) for indices in views]
        for name, views in places.items()
    }


def video_features(job: Job, unit: str) -> Iterator[tuple[str, dict[str, Float]]]:
    """(clip_id, name -> (K, D) float16) of every clip of a unit that has features."""
    for key, entries in shards.iterate(job.ledger("embed").artifact(unit)):
        decoded = shards.decode(entries)
        yield key, {entry.removesuffix("_video"): value for entry, value in decoded.items()}


def text_features(job: Job) -> Mapping[str, dict[str, Float]]:
    """text -> name -> (D,) float16; nothing where no label was ever in use."""
    ledger = job.ledger("embed")
    return {} if ledger.read(TEXTS) is None else _read_texts(ledger.artifact(TEXTS))


@functools.lru_cache(maxsize=2)
def _read_texts(artifact: Path) -> Mapping[str, dict[str, Float]]:
    """The texts of an artifact, whose name holds its hash."""
    found = {}
    for _, entries in shards.iterate(artifact):
        decoded = shards.decode(entries)
        text = decoded.pop("json")["text"]
        found[text] = {entry.removesuffix("_text"): value for entry, value in decoded.items()}
    return found


def clip_entries(job: Job, unit: str, texts: Mapping[str, str | None]) -> dict[str, Entries]:
    """clip_id -> what the features add to its sample, of the clips of `texts` (clip_id -> its text) that have
    features."""
    read = text_features(job)
    return {
        clip_id: sample_entries(views, read.get(texts[clip_id] or "", {}))
        for clip_id, views in video_features(job, unit)
        if clip_id in texts
    }


def sample_entries(video: Mapping[str, Float], text: Mapping[str, Float]) -> Entries:
    """What the features add to a packed sample: NAME_video.npy (D,) of view 0, NAME_views.npy (K, D) with more views,
    NAME_text.npy (D,)."""
    entries: Entries = {}
    for name, views in sorted(video.items()):
        entries[f"{name}_video.npy"] = views[0]
        if len(views) > 1:
            entries[f"{name}_views.npy"] = views
        if name in text:
            entries[f"{name}_text.npy"] = text[name]
    return entries
