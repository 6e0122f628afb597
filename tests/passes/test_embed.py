"""The embed pass on generated videos: right features, only what is missing, whatever curation decides."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("open_clip")

from dataengine.core.types import Fail
from dataengine.features.viclip import ViCLIP, ViCLIPSession
from dataengine.media.decode import read_frames
from dataengine.media.encode import write_video
from dataengine.passes import embed
from dataengine.passes.base import ALL
from dataengine.passes.embed import Embed
from dataengine.passes.job import Job, run_task
from dataengine.passes.progress import BuildState
from dataengine.passes.table_pass import DECISIONS
from dataengine.pipeline import plan, recipe
from dataengine.pipeline.task import Task

LENGTHS = {"a": 40, "b": 25, "c": 9, "d": 5, "e": 30}
LABELS = {"a": "yoga", "b": "archery", "c": "yoga", "d": None, "e": "juggling"}


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    for seed, (name, count) in enumerate(LENGTHS.items()):
        noise = np.random.default_rng(seed).integers(0, 256, (count, 12, 16, 3), dtype=np.uint8)
        write_video(folder / f"{name}.mp4", noise.repeat(4, 1).repeat(4, 2), 25)
    rows = "".join(f"{name}.mp4,{label or ''}\n" for name, label in LABELS.items())
    (folder / "labels.csv").write_text("file,label\n" + rows)
    return folder


class Build:
    """A build up to curation, with what embed reads of it: the plan, the probed media, lengths and decisions."""

    def __init__(self, videos: Path, work: Path, views: int = 1, max_fps: float | None = None) -> None:
        overrides = [
            "plan.clips_per_unit=3",
            'curate.prompts="label"',
            'embed.features=["viclip"]',
            'features.viclip.size="tiny"',
            f"features.viclip.views={views}",
            *([] if max_fps is None else [f"pose.max_fps={max_fps}"]),
        ]
        loaded = recipe.load("posecap", "core", overrides, {"folder": str(videos)})
        self.plan = plan.make(loaded, work)
        plan.save(self.plan, work)
        self.job = Job.of(loaded, work, "cpu")
        self.ids = {row["clip_id"]: Path(row["media"]).stem for row in self.plan.rows()}
        self.by_name = {name: clip_id for clip_id, name in self.ids.items()}
        self.units = {row["clip_id"]: row["unit"] for row in self.plan.rows()}
        for task in BuildState(self.plan, self.job).state("probe").tasks:
            run_task(self.job.save(), "probe", task)
        self.measured = {}
        for unit in sorted(set(self.units.values())):
            clips = [clip_id for clip_id, u in self.units.items() if u == unit]
            frames = [-(-LENGTHS[self.ids[c]] // 2) if max_fps else LENGTHS[self.ids[c]] for c in clips]
            staged = self.job.ledger("measure").stage(unit, "parquet")
            pq.write_table(pa.table({"clip_id": clips, "num_frames": frames}), staged)
            self.measured[unit] = self.job.ledger("measure").commit(unit, "", staged, (), 0.0)

    def decided(self, kept: str) -> BuildState:
        """The build after curation has kept some clips."""
        rows = []
        for clip_id, name in self.ids.items():
            row = dict.fromkeys(DECISIONS.names) | {"clip_id": clip_id, "unit": self.units[clip_id]}
            rows.append(row | {"kept": name in kept, "label": LABELS[name]})
        ledger = self.job.ledger("curate")
        staged = ledger.stage(ALL, "parquet")
        pq.write_table(pa.Table.from_pylist(rows, DECISIONS), staged)
        build = BuildState(self.plan, self.job)
        build.take("pose", list(self.measured), {})
        build.take("measure", list(self.measured), self.measured)
        ledger.commit(ALL, kept, staged, (), 0.0)
        decided = ledger.find(ALL, kept, activate=True)
        assert decided is not None
        build.take("curate", [ALL], {ALL: decided})
        return build

    def tasks(self, kept: str) -> list[Task]:
        return self.decided(kept).state("embed").tasks

    def run(self, kept: str, quarantine: dict[str, str] | None = None) -> dict[str, int]:
        held = tuple((quarantine or {}).items())
        tasks = [dataclasses.replace(task, quarantine=held) for task in self.tasks(kept)]
        receipts = [self.job.passes["embed"].run(self.job, task) for task in tasks]
        return {receipt.key: receipt.clips for receipt in receipts}

    def features(self) -> dict[str, np.ndarray]:
        units = sorted(set(self.units.values()) & set(self.job.ledger("embed").units()))
        return {self.ids[key]: found["viclip"] for unit in units for key, found in embed.video_features(self.job, unit)}


@pytest.fixture
def build(videos, tmp_path):
    return Build(videos, tmp_path / "work", views=3)


def test_features_are_those_of_the_clips_frames(build, videos):
    build.run("abcde")
    found, component = build.features(), ViCLIP("tiny")
    assert found.keys() == LENGTHS.keys()
    for name, count in LENGTHS.items():
        frames = np.stack(read_frames(videos / f"{name}.mp4", range(count)))
        wanted = np.stack([component.encode_video(frames, view)[0] for view in range(3)]).astype(np.float16)
        assert found[name].tobytes() == wanted.tobytes(), name
    texts = embed.text_features(build.job)
    assert sorted(texts) == ["archery", "juggling", "yoga"]
    assert texts["yoga"]["viclip"].tobytes() == component.encode_text(["yoga"])[0].astype(np.float16).tobytes()


def test_only_what_is_new_is_computed_and_the_rest_stays_as_it_is(build, monkeypatch):
    first = build.run("ab")
    assert sum(first.values()) == 4 and not build.tasks("ab")
    before = build.features()
    assert build.run("a") == {} and build.run("ba") == {}
    looked = []
    encode = ViCLIPSession.encode_video
    monkeypatch.setattr(
        ViCLIPSession, "encode_video", lambda self, frames, view=0: looked.extend(frames) or encode(self, frames, view)
    )
    again = build.run("abce")
    assert again.pop(embed.TEXTS) == 1 and sum(again.values()) == 2 and len(looked) == 2 * 3
    after = build.features()
    assert after.keys() == {"a", "b", "c", "e"} and all(
        after[name].tobytes() == before[name].tobytes() for name in before
    )


def test_features_do_not_depend_on_the_order_of_decisions(build, videos, tmp_path):
    build.run("a")
    build.run("abcde")
    other = Build(videos, tmp_path / "other", views=3)
    other.run("abcde")
    for unit in sorted(other.job.ledger("embed").units()):
        assert (
            build.job.ledger("embed").artifact(unit).read_bytes()
            == other.job.ledger("embed").artifact(unit).read_bytes()
        )


def test_the_fingerprint_is_of_features_and_media_alone(build):
    job = build.job
    own = Embed("embed").fingerprint(job.recipe, {})
    for change, same in (
        ({"curate": job.recipe.curate.model_copy(update={"filters": [], "dedup": "off"})}, True),
        ({"pose": job.recipe.pose.model_copy(update={"people": 1, "experts": ["synthetic_regression"]})}, True),
        ({"pose": job.recipe.pose.model_copy(update={"max_fps": 10.0})}, False),
        ({"options": {**job.recipe.options, "features": {"viclip": {"size": "tiny", "batch": 2, "views": 3}}}}, True),
        ({"options": {**job.recipe.options, "features": {"viclip": {"size": "tiny"}}}}, False),
    ):
        changed = Embed("embed").fingerprint(job.recipe.model_copy(update=change), {})
        assert (changed == own) == same, change


def test_frames_are_those_of_the_poses_when_the_rate_is_thinned(videos, tmp_path):
    build = Build(videos, tmp_path / "work", max_fps=12.5)
    build.run("a")
    frames = np.stack(read_frames(videos / "a.mp4", range(0, 40, 2)))
    assert build.features()["a"][0].tobytes() == ViCLIP("tiny").encode_video(frames)[0].astype(np.float16).tobytes()


def test_a_clip_that_fails_is_told_and_the_others_are_embedded(build, videos, tmp_path):
    (tmp_path / "less").mkdir()
    held = {build.by_name["a"]: "worker_killed"}
    moved = {source: str(tmp_path / "less") for source in build.plan.roots}
    for file in videos.iterdir():
        if file.name != "b.mp4":
            (tmp_path / "less" / file.name).write_bytes(file.read_bytes())
    plan.save(dataclasses.replace(build.plan, roots=moved), build.job.work)
    build.run("abcde", held)
    outcomes = [o for unit in set(build.units.values()) for o in build.job.ledger("embed").read(unit).outcomes]
    failed = {build.ids[o.clip_id]: o.kind for o in outcomes if isinstance(o, Fail)}
    assert failed.keys() == {"a", "b"} and failed["a"] == "worker_killed" and failed["b"].startswith("media")
    assert build.features().keys() == {"c", "d", "e"}


def test_memory_that_does_not_suffice_for_one_clip_is_that_clips_failure(build, monkeypatch):
    """As on an accelerator: clips go through together, then alone to find the one that is too much."""
    encode, groups = ViCLIPSession.encode_video, []
    too_much = build.by_name["b"]
    build.job = dataclasses.replace(build.job, device="cuda")
    monkeypatch.setattr(embed, "device_of_process", lambda device: "cpu")
    prepared = embed._prepared
    monkeypatch.setattr(
        embed,
        "_prepared",
        lambda unit, clip, *rest: {
            k: [v[0], v[1], v[2] * 0 + (clip.clip_id == too_much)] for k, v in prepared(unit, clip, *rest).items()
        },
    )

    def short_of_memory(self, frames, view=0):
        groups.append(len(frames) // 3)
        if any((clip == 1).all() for clip in frames):
            raise torch.OutOfMemoryError("a clip too many")
        return encode(self, frames, view)

    monkeypatch.setattr(ViCLIPSession, "encode_video", short_of_memory)
    build.run("abcde")
    outcomes = [o for unit in set(build.units.values()) for o in build.job.ledger("embed").read(unit).outcomes]
    failed = {build.ids[o.clip_id]: (o.kind, o.retryable) for o in outcomes if isinstance(o, Fail)}
    assert failed == {"b": ("out_of_memory", True)} and build.features().keys() == {"a", "c", "d", "e"}
    assert max(groups) > 1


def test_a_probe_commits_nothing(build):
    clip = build.by_name["a"]
    task = next(task for task in build.tasks("abc") if task.key == build.units[clip])
    probe = dataclasses.replace(task, clips=(clip,), probe=True)
    assert build.job.passes["embed"].run(build.job, probe).kept == 1
    assert build.job.ledger("embed").read(task.key) is None and not list((build.job.work / "staging").glob("embed-*"))


def test_entries_of_a_packed_sample():
    views, text = np.ones((3, 4), np.float16), np.zeros(4, np.float16)
    assert list(embed.sample_entries({"viclip": views}, {"viclip": text})) == [
        "viclip_video.npy",
        "viclip_views.npy",
        "viclip_text.npy",
    ]
    alone = embed.sample_entries({"viclip": views[:1]}, {})
    assert list(alone) == ["viclip_video.npy"] and alone["viclip_video.npy"].shape == (4,)
