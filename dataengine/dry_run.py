"""What a build would do and cost, estimated before any of it is done.

Seconds per frame or per clip come from the keys of the pass that this build has finished. Else they come from
`manifests/rates.toml`, where measured rates stand with the hardware they were measured on. What was never measured is
said to be so.
"""

from __future__ import annotations

import os
import shutil
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from dataengine.core import devices, extras, registry
from dataengine.core.counting import counted
from dataengine.core.errors import DataEngineError, MissingExtraError, RecipeError
from dataengine.core.settings import find_manifest
from dataengine.io import weights
from dataengine.passes.base import Pass
from dataengine.passes.job import Job
from dataengine.passes.progress import BuildState
from dataengine.pipeline import overlays, recipe_lock
from dataengine.pipeline import plan as plans
from dataengine.pipeline.fingerprints import components_of, reasons
from dataengine.pipeline.ledger import Commit
from dataengine.pipeline.recipe import Recipe

FPS = 30.0
"""Frames a second of a clip before its media is opened."""
SECONDS = 10.0
"""Length of a clip when nothing tells the length of any: that of a Kinetics clip."""


@dataclass(frozen=True)
class Rate:
    """One measured rate of manifests/rates.toml.

    Attributes:
        what: the pass ("measure"), or the component as KIND/NAME ("experts/synthetic_topdown").
        device: cpu or cuda.
        seconds: one process needs, for one of `per`: frame, clip or build.
        hardware: it was measured on. source: the measurement.
        options: of the component, where the rate is true for these values alone.
    """

    what: str
    device: str
    seconds: float
    per: str
    hardware: str
    source: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def fits(self, recipe: Recipe, what: str, devices: Sequence[str]) -> bool:
        """Whether this is the rate of a pass, or of a component with the recipe's options."""
        if self.what != what or self.device not in devices:
            return False
        given = registry.config(recipe.component(*what.split("/"))) if self.options else {}
        return all(given.get(name) == value for name, value in self.options.items())


@dataclass(frozen=True)
class Cost:
    """What is left of one pass.

    Attributes:
        clips, frames: to go through, at most: earlier passes may throw some out.
        cpu_hours: of one core. gpu_hours: of one accelerator with the process that feeds it. None where not known.
        basis: what the hours were estimated from, or what was never measured.
    """

    name: str
    clips: int
    frames: int
    cpu_hours: float | None
    gpu_hours: float | None
    basis: str


def known_rates(path: Path | None = None) -> list[Rate]:
    """The measured rates of a file; default the nearest `manifests/rates.toml`.

    Raises:
        RecipeError: the file cannot be read, or a rate in it is not whole.
    """
    found = path or find_manifest("rates.toml")
    if found is None:
        return []
    try:
        rates = [Rate(**row) for row in tomllib.loads(found.read_text(encoding="utf-8")).get("rate", [])]
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, TypeError) as error:
        raise RecipeError(
            f"{found} cannot be read: {error}; a [[rate]] has {', '.join(Rate.__dataclass_fields__)}"
        ) from error
    for rate in rates:
        if rate.device not in ("cpu", "cuda") or rate.per not in ("frame", "clip", "build") or not rate.seconds > 0:
            raise RecipeError(
                f"{found}: rate of {rate.what}: device is cpu or cuda, per is frame, clip or build, seconds are above 0"
            )
    return rates


def clip_frames(rows: Sequence[Mapping[str, Any]], max_fps: float | None) -> dict[str, int]:
    """clip_id -> about how many frames it has, of plan rows; clips of unknown length count as the mean of the
    others."""
    lengths: dict[str, float | None] = {}
    for row in rows:
        span = (row["span_start"], row["span_end"]) if row["span_end"] is not None else (row["start"], row["end"])
        lengths[row["clip_id"]] = None if span[1] is None else max(span[1] - (span[0] or 0.0), 0.0)
    given = [length for length in lengths.values() if length]
    usual, fps = sum(given) / len(given) if given else SECONDS, min(FPS, max_fps or FPS)
    return {clip_id: round((length or usual) * fps) for clip_id, length in lengths.items()}


def _own_seconds(p: Pass, commits: Mapping[str, Commit], frames: Mapping[str, int]) -> float | None:
    """Seconds per frame, or per clip, that finished keys of this build took; None where there are none."""
    clips = [o.clip_id for commit in commits.values() for o in commit.outcomes]
    counts = {"clip": len(clips), "frame": sum(frames.get(clip_id, 0) for clip_id in clips), "build": len(commits)}
    amount = counts[p.per]
    seconds = sum(commit.seconds for commit in commits.values())
    return seconds / amount if amount and seconds else None


def _known_seconds(recipe: Recipe, p: Pass, device: str, rates: Sequence[Rate]) -> tuple[float | None, str]:
    """Seconds per frame, or per clip, by the table, and where they are from, or what of it was never measured."""
    total, hardware, absent = 0.0, [], dict[str, list[str]]()
    for what, times in p.rates(recipe).items():
        # what runs beside the networks runs on the processor, whatever the device
        beside = not p.on_device or what.startswith(("decoders/", "trackers/", "fusion/"))
        where = "cpu" if beside else device
        rate = next((r for r in rates if r.fits(recipe, what, (where,))), None)
        if rate is None:
            absent.setdefault(where, []).append(what)
        else:
            total += rate.seconds * times
            hardware.append(rate.hardware)
    if absent:
        return None, "; ".join(f"not measured on {where}: {', '.join(names)}" for where, names in absent.items())
    return total, f"rates of {', '.join(dict.fromkeys(hardware))}"


def cost(
    recipe: Recipe, p: Pass, device: str, clips: int, frames: int, own: float | None, rates: Sequence[Rate]
) -> Cost:
    """What a pass over so many clips with so many frames costs; `own` is the rate of this build, if any."""
    if not clips:
        return Cost(p.name, 0, 0, 0.0, 0.0, "nothing left")
    seconds, basis = (
        (own, "finished units of this build") if own is not None else _known_seconds(recipe, p, device, rates)
    )
    hours = None if seconds is None else seconds * {"clip": clips, "frame": frames, "build": 1}[p.per] / 3600
    on_gpu = device != "cpu" and p.on_device
    return Cost(p.name, clips, frames, 0.0 if on_gpu else hours, hours if on_gpu else 0.0, basis)


def costs(build: BuildState, rates: Sequence[Rate]) -> list[Cost]:
    """What is left of each pass, in order."""
    recipe, device = build.job.recipe, build.job.device
    rows = [row for row in build.plan.iterate() if row["reason"] is None]
    frames = clip_frames(rows, recipe.pose.max_fps)
    found = []
    for p in build.passes:
        state = build.state(p.name)
        own, count = _own_seconds(p, state.commits, frames), sum(frames[clip_id] for clip_id in state.left)
        found.append(cost(recipe, p, device, len(state.left), count, own, rates))
    return found


def free_bytes(path: Path) -> int:
    """Free space of the disk that holds `path` or its nearest existing parent."""
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


def dry_run(
    recipe: Recipe, out: Path, limit: int | None, data_root: str | None, device: str, accept: Sequence[str] = ()
) -> dict[str, Any]:
    """What a build would do, without doing any of it: clips, bytes, units and clips left in each pass, and the hours
    they take. What this machine lacks for it is said, and is no error: another machine may run it."""
    work = out.absolute() / "work"
    remarks: list[str] = []
    chosen = devices.pick(device) if device == "auto" else devices.named(device)
    lacking = missing(recipe, chosen)
    root = data_root or os.environ.get("DATAENGINE_DATA")
    plan = plans.make(recipe, work, root, limit, say=remarks.append, absent=lacking.append)
    before = recipe_lock.parts(out / recipe_lock.NAME)
    with weights.promised():
        job = Job.of(recipe, work, chosen, before, accept)
        build = BuildState(plan, job)
        found = costs(build, known_rates())
    rows = plan.rows()
    sizes = {row["media"]: row["media_size"] for row in rows if row["media_size"] > 0}
    return {
        "out": str(out),
        "device": build.job.device,
        "planned": plan.num_clips,
        "left_out_by_plan": sum(row["reason"] is not None for row in rows),
        "without_media": sum(row["media_size"] < 0 and row["reason"] is None for row in rows),
        "frames": sum(clip_frames([row for row in rows if row["reason"] is None], recipe.pose.max_fps).values()),
        "media_bytes": sum(sizes.values()),
        "free_bytes": free_bytes(out.absolute()),
        "passes": [state.row() for state in build.states()],
        "made_anew": reasons(before, job.parts),
        "remarks": remarks,
        "missing": lacking,
        "costs": [asdict(c) for c in found],
        "total": {name: _sum([getattr(c, name) for c in found]) for name in ("cpu_hours", "gpu_hours")},
    }


def missing(recipe: Recipe, device: str) -> list[str]:
    """What this machine lacks for a build on a device, one line each."""
    components = components_of(recipe)
    lines = []
    if device == "cpu" and (hint := overlays.hint(recipe, components)):
        lines.append(f"{hint}; --dry-run --device cuda estimates for a machine with a GPU")
    if device == "cuda" and not devices.able():
        lines.append("no GPU can be used here: the hours are those of a machine that has one")
    try:
        extras.require(components.items())
    except MissingExtraError as error:
        lines.append(str(error))
    absent = weights.missing(components.values())
    if absent:
        sizes = [weights.manifest()[name].bytes for name in absent]
        told = f"{sum(size or 0 for size in sizes) / 1e6:,.0f} MB{' and more' * (None in sizes)}"
        lines.append(f"weights {', '.join(absent)} ({told}) come with the first build")
    for component in components.values():
        if not weights.missing([component]) and (component.extra is None or extras.installed(component.extra)):
            try:
                component.check()
            except DataEngineError as error:
                lines.append(str(error))
    return lines


def _sum(hours: Sequence[float | None]) -> dict[str, Any]:
    """The hours that are known, and whether those are all."""
    return {"known": sum(h for h in hours if h is not None), "complete": None not in hours}


def hours_text(hours: float | None) -> str:
    """Hours for people: '?' where unknown, minutes and seconds where they are few."""
    if hours is None:
        return "?"
    if hours < 1 / 60:
        return f"{hours * 3600:.1f} s"
    return f"{hours * 60:.1f} min" if hours < 1 else f"{hours:,.1f} h"


def dry_run_text(report: Mapping[str, Any]) -> str:
    """The report of `dry_run` for people."""
    units = {
        p["name"]: "?" if p["units"] is None else f"{p['units'] - p['done']} of {p['units']}" for p in report["passes"]
    }
    lines = [
        f"{counted(report['planned'], 'clip')}, {report['media_bytes'] / 1e9:.2f} GB of media, "
        f"{report['without_media']} without media, "
        f"about {report['frames']:,} frames; on {report['device']}",
        f"{'pass':<14}{'keys to run':>12}{'clips to run':>14}{'CPU time':>12}{'GPU time':>12}  estimated from",
    ]
    for c in report["costs"]:
        shown = [hours_text(c[k]) for k in ("cpu_hours", "gpu_hours")]
        lines.append(
            f"{c['name']:<14}{units.get(c['name'], ''):>12}{c['clips']:>14}{shown[0]:>12}{shown[1]:>12}  {c['basis']}"
        )
    shown = [
        hours_text(t["known"]) + ("" if t["complete"] else " +")
        for t in (report["total"][k] for k in ("cpu_hours", "gpu_hours"))
    ]
    lines.append(f"{'total':<40}{shown[0]:>12}{shown[1]:>12}")
    lines += [f"{name}: made anew: {why}" for name, why in report["made_anew"].items()]
    lines += report["remarks"]
    lines += [f"missing: {line}" for line in report["missing"]]
    lines.append(f"{report['free_bytes'] / 1e9:.0f} GB free")
    return "\n".join(lines)
