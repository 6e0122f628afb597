"""embed: features of kept clips and of their labels' texts, cached per clip and per text whatever curation decides.

A unit's artifact is a shard of every clip of the unit that was ever kept, with `NAME_video.npy` (K, D) float16 of
unit length for K temporal views; when curation keeps more clips, only those are added. The unit `texts` holds
every label's text that was ever in use, with `NAME_text.npy` (D,) float16. What is kept now is chosen when packing.
"""

from __future__ import annotations

import contextlib
import functools
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from blake3 import blake3

from dataengine.core import registry
from dataengine.core.component import SESSIONS, Session
from dataengine.core.devices import device_of_process
from dataengine.core.errors import LedgerError, MediaError
from dataengine.core.types import Clip, Fail, Float, Frames, Keep, Outcome
from dataengine.features import Features, FeaturesSession
from dataengine.io import shards
from dataengine.io.storage import write_durably
from dataengine.labels.prompts import prompts
from dataengine.media.frame_sampler import FrameSampler
from dataengine.passes.base import Job, Unit, load_job, pulse
from dataengine.passes.progress import PassState
from dataengine.pipeline import plan as plans
from dataengine.pipeline.ledger import Commit
from dataengine.pipeline.plan import Plan
from dataengine.pipeline.recipe import Recipe, fingerprint

VERSION = 1
TEXTS = "texts"
"""Name of the unit that holds the features of texts."""
UNRELATED = ("checkpoint", "batch")
"""Options of features that change no result: the weights' hashes tell which weights they are, wherever they lie."""
Entries = dict[str, Any]


def pass_fingerprint(recipe: Recipe, names: Sequence[str]) -> str:
    """Fingerprint of the embed pass: the features with their weights, and how frames are read; nothing of curation or of poses."""
    used = {name: recipe.component("features", name) for name in names}
    options = {name: {k: v for k, v in registry.config(c).items() if k not in UNRELATED} for name, c in used.items()}
    weights = {name: sorted(c.weights().values()) for name, c in used.items()}
    decoder = registry.config(recipe.component("decoders", recipe.pose.decoder))
    return fingerprint(["embed", VERSION, options, weights, recipe.pose.decoder, decoder, recipe.pose.max_fps])


def save_wanted(job: Job, decisions: Path, names: Sequence[str]) -> Path:
    """Write which clips and texts are wanted of which features; the name holds the content's hash."""
    content = wanted(job, decisions, names)
    path = job.work / f"embed-{fingerprint(content)[:12]}.json"
    if not path.exists():
        write_durably(path, json.dumps(content).encode())
    return path


def wanted(job: Job, decisions: Path, names: Sequence[str]) -> dict[str, Any]:
    """Kept clips unit by unit, and every text of every label of theirs: what is wanted of which features."""
    rows = pq.read_table(decisions, columns=["clip_id", "unit", "label", "kept"]).to_pylist()
    units: dict[str, list[str]] = {}
    for row in rows:
        if row["kept"]:
            units.setdefault(row["unit"], []).append(row["clip_id"])
    labels = {row["label"] for row in rows if row["kept"] and row["label"] is not None}
    known = prompts(job.recipe.curate.prompts)
    return {
        "features": list(names),
        "units": units,
        "texts": sorted({text for label in labels for text in known.texts(label)}),
    }


def pending(job: Job, wanted_path: Path) -> dict[str, list[str]]:
    """What is still to be done: unit -> clips without features; for the unit `texts` the keys of texts."""
    return _pending(job, json.loads(wanted_path.read_bytes()))


def _pending(job: Job, content: Mapping[str, Any]) -> dict[str, list[str]]:
    todo = {
        unit: _left(job.ledger("embed").read(unit), _inputs(job, unit), clips)
        for unit, clips in content["units"].items()
    }
    todo[TEXTS] = _left(job.ledger("embed").read(TEXTS), "", [text_key(text) for text in content["texts"]])
    return {unit: left for unit, left in todo.items() if left}


def settled(job: Job, wanted_path: Path) -> dict[str, Commit]:
    """The records of units of clips, each with the outcomes of the wanted clips alone.

    Raises:
        LedgerError: a unit is not finished.
    """
    found = {}
    for unit, clips in json.loads(wanted_path.read_bytes())["units"].items():
        commit, among = job.ledger("embed").read(unit), set(clips)
        if commit is None:
            raise LedgerError(f"pass embed: unit {unit} is not finished; build again")
        found[unit] = replace(commit, outcomes=tuple(o for o in commit.outcomes if o.clip_id in among))
    return found


def inspect(plan: Plan, job: Job) -> PassState:
    """How far the pass is: of the clips that curation keeps, or of all of the plan where it has not decided yet."""
    decided = job.ledger("curate").read("all")
    if decided is None:
        units = plan.units()
        return PassState("embed", job.fingerprints["embed"], len(units), 0, plan.num_clips, {})
    content = wanted(job, job.ledger("curate").path(decided), job.recipe.embed.features)
    left, ledger = _pending(job, content), job.ledger("embed")
    commits = {unit: c for unit in content["units"] if unit not in left and (c := ledger.read(unit)) is not None}
    clips_left = sum(len(clips) for unit, clips in left.items() if unit != TEXTS)
    return PassState("embed", job.fingerprints["embed"], len(content["units"]), len(commits), clips_left, commits)


def _left(commit: Commit | None, inputs: str, wanted: Sequence[str]) -> list[str]:
    if commit is None or commit.inputs != inputs:
        return list(wanted)
    settled = {o.clip_id for o in commit.outcomes if not (isinstance(o, Fail) and o.retryable)}
    return [key for key in wanted if key not in settled]


def _inputs(job: Job, unit: str) -> str:
    """Digest of what a unit's features are made of: the media as fetched; which clips are kept is no part of it."""
    commit = job.ledger("fetch").read(unit)
    return "" if commit is None else commit.digest


def text_key(text: str) -> str:
    """The key of a text in the unit `texts`."""
    return blake3(text.encode()).hexdigest()[:32]


def run_unit(
    job_path: Path, wanted_path: Path, unit: str, quarantine: Mapping[str, str], only: Sequence[str] | None = None
) -> dict[str, Any]:
    """Embed what is left of one unit; called in a worker. `job_path` is what `save_job` gave, the rest as `embed_unit`."""
    return embed_unit(load_job(job_path), wanted_path, unit, quarantine, only)


def embed_unit(
    job: Job, wanted_path: Path, unit: str, quarantine: Mapping[str, str], only: Sequence[str] | None = None
) -> dict[str, Any]:
    """Embed what is left of one unit and commit it together with what was there.

    Args:
        wanted_path: what `save_wanted` gave.
        quarantine: clip_id -> reason of clips that must not be run again.
        only: run just these clips and commit nothing: a probe for the clip that kills workers.

    Returns:
        A small receipt: unit, seconds, and counts of outcomes.
    """
    begun = time.monotonic()
    content = json.loads(wanted_path.read_bytes())
    session = open_features(job, content["features"])
    ledger, inputs = job.ledger("embed"), "" if unit == TEXTS else _inputs(job, unit)
    known = ledger.read(unit)
    keys = [text_key(text) for text in content["texts"]] if unit == TEXTS else content["units"][unit]
    left = [key for key in _left(known, inputs, keys) if only is None or key in only]
    staged, beat = ledger.stage(unit, "tar"), pulse(job.work, unit)
    try:
        if unit == TEXTS:
            made, outcomes = _embed_texts(session, [text for text in content["texts"] if text_key(text) in left])
        else:
            made, outcomes = _embed_clips(job, unit, session, left, quarantine, staged, beat)
        if only is None:
            before = known if known is not None and known.inputs == inputs else None
            every = {o.clip_id: o for o in (*(before.outcomes if before else ()), *outcomes)}
            with shards.ShardWriter(staged) as writer:
                old = dict(shards.iterate(ledger.artifact(unit))) if before else {}
                for key, entries in sorted({**old, **made}.items()):
                    writer.write(key, entries)
            seconds = time.monotonic() - begun + (before.seconds if before else 0.0)
            ledger.commit(unit, inputs, staged, tuple(every[key] for key in sorted(every)), seconds)
    finally:
        for leftover in (staged, beat):
            leftover.unlink(missing_ok=True)
    return {"unit": unit, "clips": len(left), "kept": len(made), "seconds": time.monotonic() - begun}


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


def _embed_clips(
    job: Job,
    unit: str,
    session: EmbedSession,
    left: Sequence[str],
    quarantine: Mapping[str, str],
    staged: Path,
    beat: Path,
) -> tuple[dict[str, Entries], list[Outcome]]:
    """Decode and prepare every clip, then encode them together: several at once on an accelerator, one by one on a CPU."""
    path = job.work / "plan.parquet"
    plan = plans.load_unit(job.work, unit, path.stat().st_mtime_ns)
    clips = [clip for clip in plan.clips() if clip.clip_id in left]
    held = [
        Fail(c.clip_id, quarantine[c.clip_id], False, "stands in quarantine since pass embed")
        for c in clips
        if c.clip_id in quarantine
    ]
    runnable = [clip for clip in clips if clip.clip_id not in quarantine]
    work = Unit(job, unit, runnable, staged, plan, lambda clip: beat.touch())
    lengths = {row["clip_id"]: row["num_frames"] for row in _lengths(job, unit)}
    prepared: dict[str, dict[str, list[Frames]]] = {}

    def prepare(clip: Clip) -> Outcome:
        prepared[clip.clip_id] = _prepared(work, clip, lengths[clip.clip_id], session.features)
        return Keep(clip.clip_id)

    outcomes = {
        o.clip_id: o for o in work.each(prepare, job.recipe.engine.clips_in_flight if job.device != "cpu" else 1)
    }
    made, failed = _encoded(
        replace(work, clips=[clip for clip in runnable if clip.clip_id in prepared]), prepared, session
    )
    return made, [*{**outcomes, **failed}.values(), *held]


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
                    work.before(part[0])
                    together(part)
                    continue
            failed |= {o.clip_id: o for o in replace(work, clips=part).each(alone) if isinstance(o, Fail)}
    return {clip_id: entries for clip_id, entries in made.items() if clip_id not in failed}, failed


def _lengths(job: Job, unit: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(
        job.ledger("measure").artifact(unit), columns=["clip_id", "num_frames"]
    ).to_pylist()
    return rows


def _prepared(unit: Unit, clip: Clip, num_frames: int, features: Mapping[str, Features]) -> dict[str, list[Frames]]:
    """name -> one prepared (t, h, w, 3) array a view, of the frames that the clip's poses belong to; decoding ends with the last one needed."""
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
    """clip_id -> what the features add to its sample, of the clips of `texts` (clip_id -> its text) that have features."""
    read = text_features(job)
    return {
        clip_id: sample_entries(views, read.get(texts[clip_id] or "", {}))
        for clip_id, views in video_features(job, unit)
        if clip_id in texts
    }


def sample_entries(video: Mapping[str, Float], text: Mapping[str, Float]) -> Entries:
    """What the features add to a packed sample: NAME_video.npy (D,) of view 0, NAME_views.npy (K, D) with more views, NAME_text.npy (D,)."""
    entries: Entries = {}
    for name, views in sorted(video.items()):
        entries[f"{name}_video.npy"] = views[0]
        if len(views) > 1:
            entries[f"{name}_views.npy"] = views
        if name in text:
            entries[f"{name}_text.npy"] = text[name]
    return entries
