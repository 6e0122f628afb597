"""passes.json: what every pass makes of a tiny corpus, beside the pass's version.

    python -m tests.golden.make_passes [--write]

Changed results need a raised `version` of the pass, so that no build keeps what the old code made. `--write` refuses
to store changed results under the same version (`--force` does so, where the tiny corpus changed and not the pass).

The corpus is drawn without loss and looked at by experts that compare whole numbers (`tests/support/blocks.py`,
`tests/support/outside`), so that no network, codec or resizing takes part, whose results differ between processors.
What remains of a pass is stored in two parts. Whole numbers, texts, shapes and decisions have a digest. Numbers with a
fraction are not rounded into it, since a number on the edge between two rounded values would fall to either side:
each array is stored as three weighted means, which are compared within 1e-4 of the array's size.
"""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import re
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow.parquet as pq
import pytest

import dataengine
from dataengine.core import extras, registry
from dataengine.importer import import_poses
from dataengine.io import shards
from dataengine.passes import PASSES
from dataengine.passes.job import Job, load_job
from dataengine.refine.pseudo_labels import decode as decode_jpeg
from tests.golden.stored import GOLDEN
from tests.support import blocks, plugins
from tests.support.shared import SERIAL

RECIPE = [
    'pose.experts=["bright_block", "precomputed"]', "pose.expert_weights={}", 'pose.fusion="consensus"',
    'experts.precomputed.pattern="{stem}"', "plan.clips_per_unit=5", "filters.length.min=8",
    'curate.filters=["length", "truncation", "confidence", "motion", "upright"]',
    'curate.relabel="block_labels"', 'curate.dedup="exact"', 'embed.features=["mean_colour"]', "pack.keep_video=true",
    "report.gallery=1",
]  # fmt: skip
UNSTABLE = ("hashes", "words", "size", "blake3", "generation_weights", "weights_blake3")
"""Columns that are rounded from resized pictures or from poses, or that depend on the version of the encoder or on the
last bits of weights."""
REFINE = [
    'embed.features=[]', "pack.keep_video=false", "report.gallery=0", 'refine.student="block_student"',
    "refine.gate.max_missing=0.5", "refine.gate.min_agreement=0.5",
    "refine.rate=0.6", "refine.epochs=3", "refine.threads=1", "refine.frames=0.5", "refine.weight_decay=0.0",
]  # fmt: skip
"""A build with a student that learns two numbers, and passes the gate."""
TOLERANCE = 1e-4


def save_poses(folder: Path, videos: Path) -> None:
    """Poses of a second estimator: joints on whole and half pixels, some of them missing."""
    folder.mkdir()
    for path in sorted(videos.glob("*.mkv")):
        with av.open(str(path)) as container:
            frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        with registry.create("experts", "bright_block", {"shift": 1.5}).load() as session:
            found = session.predict(np.stack(frames))
        coords = np.stack([pose.coords[0] if len(pose) else np.full((13, 2), np.nan, np.float32) for pose in found])
        coords[::4, 3] = np.nan
        coords[5:7] = np.nan
        scores = np.where(np.isfinite(coords).all(-1), 0.5, 0.0).astype(np.float32)
        np.savez(folder / f"{path.stem}.npz", keypoint=np.nan_to_num(coords)[None], keypoint_score=scores[None])


def build(folder: Path) -> Path:
    """Build the tiny corpus with every pass; the package outside is installed already."""
    videos = blocks.write_corpus(folder / "videos")
    save_poses(folder / "saved", videos)
    overrides = [*RECIPE, f'experts.precomputed.folder="{folder / "saved"}"']
    dataengine.build(
        "posecap", {"blocks": str(videos)}, folder / "out", overlay="core", overrides=overrides, engine=SERIAL
    )
    if extras.installed("torch"):
        dataengine.build(
            "posecap", {"blocks": str(videos)}, folder / "refined", overlay="core", overrides=[*overrides, *REFINE],
            engine=SERIAL,
        )  # fmt: skip
    said = folder / "said.csv"
    said.write_text(
        "clip_id,label,keep,why,proposed,probability\nimported-clip0-0-400,,,,7,0.75\nimported-clip1-0-300,,no,covered,,\n"
    )
    overrides = ["report.gallery=0", 'lift.use="paper"', "lifters.paper.fold=0.25"]
    spans = folder / "spans.csv"
    spans.write_text(
        "clip_id,label,start,end,unit,probability\nimported-clip0-0-400,wave,0.125,0.25,,\nimported-clip1-0-300,,,,,\n"
        "imported-clip0-0-400,fall,2,6,frames,\nimported-clip2-0-134,fall,0,1,frames,0.75\n"
    )
    overrides += [f'curate.annotations=["{said}"]', f'curate.spans=["{spans}"]', "curate.min_probability=0.5"]
    import_poses(save_annotations(folder / "saved.pkl"), "pyskl", folder / "imported", overrides=overrides)
    return folder / "out"


def save_annotations(path: Path) -> Path:
    """Poses of another program on whole pixels, in the layout of COCO; the last annotation shows nobody."""
    rng = np.random.default_rng(0)
    annotations = []
    for number, shape in enumerate(((2, 12, 17), (1, 9, 17), (1, 4, 17))):
        keypoint = rng.integers(1, 60, (*shape, 2)).astype(np.float32) * (number < 2)
        score = (rng.integers(1, 5, shape) / 4).astype(np.float32)
        found = {"frame_dir": f"clip{number}", "label": number, "img_shape": (48, 64), "keypoint": keypoint}
        annotations.append(found | {"keypoint_score": score})
    path.write_bytes(pickle.dumps({"annotations": annotations, "split": {"train": ["clip0", "clip1", "clip2"]}}))
    return path


def flat(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """(path, leaf) of a nested value; arrays are leaves, rows of a table come column by column."""
    if isinstance(value, dict):
        for key in sorted(value):
            yield from flat(value[key], f"{name}.{key}")
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from flat(item, name)
    else:
        yield name, value


class Summary:
    """Collects results: what is exact goes into a digest, what has a fraction into means."""

    def __init__(self) -> None:
        self.exact = hashlib.blake2b(digest_size=16)
        self.floats: dict[str, list[float]] = {}

    def add(self, where: str, value: Any) -> None:
        for name, leaf in flat(value, where):
            if any(name.endswith(f".{part}") for part in UNSTABLE):
                self.exact.update(f"{name}\n".encode())
            elif isinstance(leaf, float) or (isinstance(leaf, np.ndarray) and leaf.dtype.kind == "f"):
                array = np.asarray(leaf, np.float64)
                self.exact.update(f"{name} {array.shape} {np.isnan(array).sum()}\n".encode())
                self.floats.setdefault(name, []).extend(np.nan_to_num(array).ravel().tolist())
            elif isinstance(leaf, np.ndarray):
                self.exact.update(f"{name} {leaf.shape} {leaf.dtype} {leaf.tolist()}\n".encode())
            else:
                self.exact.update(f"{name} {leaf!r}\n".encode())

    def facts(self) -> dict[str, Any]:
        means = {}
        for name, values in sorted(self.floats.items()):
            a = np.array(values or [0.0])
            ramp = np.arange(len(a)) / max(len(a), 1)
            means[name] = [
                float(f"{x:.7g}") for x in (np.abs(a).mean(), (a * ramp).mean(), (a * np.sin(7 * ramp)).mean())
            ]
        return {"digest": self.exact.hexdigest(), "means": means}


def read(path: Path, commit: bytes | None = None) -> Iterator[tuple[str, Any]]:
    """(name, value) of everything in an artifact."""
    if path.suffix == ".parquet":
        yield "table", pq.read_table(path).to_pylist()
    elif path.suffix == ".tar":
        for key, entries in shards.iterate(path):
            for name, data in entries.items():
                yield f"{name}", _entry(name, data)
            yield "key", key
    elif path.suffix == ".json":
        yield "json", json.loads(path.read_bytes())
    elif path.suffix == ".html":
        text = re.sub(r"data:[^\"')]*|\b[0-9a-f]{8,}\b", "", path.read_text())
        yield "html", re.sub(r"-?\d[\d.,e+-]*", "#", text)


def _entry(name: str, data: bytes) -> Any:
    if name.endswith("npy"):
        return np.load(io.BytesIO(data), allow_pickle=False)
    if name.endswith("json"):
        return json.loads(data)
    if name.endswith("jpg"):
        return np.round(decode_jpeg(data).mean((0, 1)) / 4).astype(int)
    with av.open(io.BytesIO(data)) as container:  # the encoder computes with fractions: only mean colours are compared
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return np.round(np.stack(frames).mean((1, 2, 3)) / 4).astype(int)


def summaries(out: Path) -> dict[str, dict[str, Any]]:
    """Version and results of every built-in pass of a build, and of the import beside it, by name."""
    found = _summaries(out)
    for other in ("imported", *(["refined"] if extras.installed("torch") else [])):
        found |= {name: facts for name, facts in _summaries(out.parent / other).items() if name not in found}
    absent = set() if extras.installed("torch") else {"pseudo_labels", "refine", "repose"}
    assert found.keys() == PASSES.keys() - absent, "every built-in pass takes part"
    return found


def _summaries(out: Path) -> dict[str, dict[str, Any]]:
    (saved,) = (out / "work").glob("job-*.json")
    job: Job = load_job(saved)
    found = {}
    for name, p in job.passes.items():
        summary, ledger = Summary(), job.ledger(name)
        for unit in sorted(ledger.units()):
            commit = ledger.read(unit)
            assert commit is not None
            summary.add(
                "outcomes", [[type(o).__name__, *(getattr(o, f.name) for f in fields(o))] for o in commit.outcomes]
            )
            if commit.artifact:
                for where, value in read(ledger.path(commit)):
                    summary.add(where, value)
            if name == "refine":
                summary.add("record", json.loads(ledger.sidecar(commit)))
        if name == "report":
            for where, value in read(out / "dataset" / "report.html"):
                summary.add(where, value)
        found[name] = {"version": p.version, **summary.facts()}
    return found


def differences(stored: dict[str, Any], made: dict[str, Any]) -> list[str]:
    """What changed of one pass, its version apart."""
    wrong = [] if stored["digest"] == made["digest"] else ["whole numbers, texts or decisions"]
    if stored["means"].keys() != made["means"].keys():
        return [*wrong, f"names of numbers: {sorted(stored['means'].keys() ^ made['means'].keys())}"]
    for name, means in made["means"].items():
        bound = TOLERANCE * max(stored["means"][name][0], 1e-3)
        if not np.allclose(means, stored["means"][name], rtol=0, atol=bound):
            wrong.append(f"{name}: {stored['means'][name]} before, {means} now")
    return wrong


def main() -> int:
    path = GOLDEN / "passes.json"
    stored = json.loads(path.read_text()) if path.exists() else {}
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        plugins.install_outside(Path(folder) / "site", patch)
        made = summaries(build(Path(folder)))
    failed = False
    for name, facts in made.items():
        before = stored.get(name)
        changed = ["is new"] if before is None else differences(before, facts)
        same_version = before is not None and bool(changed) and before["version"] == facts["version"]
        failed |= same_version
        print(f"{name} {facts['version']}: {'; '.join(changed) or 'as stored'}")
    if "--write" in sys.argv[1:] and (not failed or "--force" in sys.argv[1:]):
        path.write_text(json.dumps(made, indent=1, sort_keys=True) + "\n")
        return 0
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
