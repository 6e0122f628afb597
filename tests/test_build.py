"""The main job end to end on rendered people: nothing lost, defects named, resumed, retuned, extended; the same
bytes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import psutil
import pyarrow.parquet as pq
import pytest

import dataengine
from dataengine import builder
from dataengine import dry_run as estimates
from dataengine.core import devices
from dataengine.core.errors import DataEngineError, DatasetError
from dataengine.core.progress import Progress
from dataengine.core.reasons import REASONS
from dataengine.dataset.verify import verify
from dataengine.inspect.build import job_of
from dataengine.inspect.explain import explain, to_text
from dataengine.inspect.status import clean, status
from dataengine.inspect.view import view
from dataengine.io import shards
from dataengine.passes.job import Job
from dataengine.pipeline import plan
from dataengine.pipeline.engine import Engine
from dataengine.sources.synthetic import planted
from tests.support.clocks import BusyClock
from tests.support.commands import dataengine as command
from tests.support.shared import CLIPS, SERIAL, SETTINGS, build_sample, copied


@pytest.fixture(scope="module")
def out(sample_build: Path) -> Path:
    """A finished small build; read only."""
    return sample_build


@pytest.fixture
def copy(out: Path, tmp_path: Path) -> Path:
    """A finished build to change."""
    return copied(out, tmp_path)


@pytest.fixture(scope="module")
def as_shipped(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A build by the recipe as it is, every frame of it: the one that DATAENGINE_TEST_BUILD names, or an own one."""
    if "DATAENGINE_TEST_BUILD" in os.environ:
        return Path(os.environ["DATAENGINE_TEST_BUILD"])
    folder = tmp_path_factory.mktemp("shipped") / "out"
    dataengine.build("posecap", {"sample": str(corpus)}, folder, overlay="core", engine=SERIAL)
    return folder


def content(out: Path) -> dict[str, str]:
    files = json.loads((out / "dataset" / "MANIFEST.json").read_text())["files"]
    return {file["path"]: file["blake3"] for file in files}


def test_clips_and_rejects_are_the_plan(out: Path) -> None:
    ds = dataengine.open(out)
    kept, rejected = set(ds.clips.collect()["clip_id"]), set(ds.rejects.collect()["clip_id"])
    planned = set(plan.load(out / "work").table.column("clip_id").to_pylist())
    assert not kept & rejected and kept | rejected == planned and kept
    assert set(ds.rejects.collect()["reason"]) <= set(REASONS)
    assert verify(out) == []


def test_planted_defects_are_found_and_named(as_shipped: Path, corpus: Path) -> None:
    ds = dataengine.open(as_shipped)
    found = {
        **dict.fromkeys(ds.clips.collect()["clip_id"], "keep"),
        **dict(ds.rejects.select("clip_id", "reason").collect().rows()),
    }
    # Experts that guess no joints outside the picture leave too few of a body beyond its edge, and of a ghost in an
    # empty scene.
    also = {"truncation": "body_visible", "no_person": "body_visible"}
    wrong = {
        clip: (found.get(clip), wanted)
        for clip, wanted in planted(corpus).items()
        if found.get(clip) not in (wanted, also.get(wanted))
    }
    assert not wrong


def test_most_ordinary_clips_are_kept(as_shipped: Path, corpus: Path) -> None:
    ds = dataengine.open(as_shipped)
    ordinary = set(plan.load(as_shipped / "work").table.column("clip_id").to_pylist()) - set(planted(corpus))
    kept = ordinary & set(ds.clips.collect()["clip_id"])
    left_out = set(ds.rejects.filter(pl.col("reason") == "label_left_out").collect()["clip_id"])
    rejects = ds.rejects.select("clip_id", "reason", "detail").collect().rows()
    assert len(kept) >= 0.7 * len(ordinary - left_out), rejects


def test_a_sample_holds_what_the_index_says(out: Path) -> None:
    ds = dataengine.open(out)
    row = ds.clips.collect().row(0, named=True)
    assert row["video_stream"] == 0
    sample = ds.sample(row["clip_id"])
    people, frames = row["num_people"], row["num_frames"]
    assert sample["keypoints"].shape == (people, frames, 17, 2) and sample["scores"].shape == (people, frames, 17)
    assert sample["json"]["label"] == row["label"] and sample["json"]["licence"] == row["licence"] == "CC0-1.0"
    assert sample["timestamps"][0] == 0 and (sample["timestamps"][1:] > sample["timestamps"][:-1]).all()


def test_accuracy_is_told_for_every_expert_and_both_fusions(out: Path) -> None:
    rows = dataengine.open(out).table("accuracy").collect()
    assert set(rows["expert"]) == {
        "synthetic_topdown",
        "synthetic_bottomup",
        "synthetic_regression",
        "SST-A",
        "fusion (consensus)",
    }
    shares = rows.group_by("expert").agg(pl.col("num_right").sum() / pl.col("num_joints").sum())
    assert shares["num_right"].min() > 0.3, shares


def test_building_again_does_nothing(copy: Path, corpus: Path, out: Path) -> None:
    result = build_sample(corpus, copy)
    assert not result.changed and content(copy) == content(out)
    assert all(state.done == state.units for state in result.states)


def test_a_changed_threshold_runs_no_model(copy: Path, corpus: Path, out: Path) -> None:
    result = build_sample(corpus, copy, "filters.motion.min=0.5")
    left = [state.name for state in result.states if state.done < (state.units or 0)]
    assert "curate" in left and not {"probe", "pose", "measure"} & set(left), "a threshold must not run a model"
    assert result.changed and result.reasons["motion"] > 1
    assert build_sample(corpus, copy).changed and content(copy) == content(out)


def test_a_dry_run_says_what_is_missing_here(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATAENGINE_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.setattr(devices, "gpus", tuple)
    monkeypatch.setattr(devices, "able", lambda: False)
    recipe = builder.resolve("posecap", {"sample": str(corpus)}, "cpu")
    report = estimates.dry_run(recipe, tmp_path / "out", None, None, "auto")
    assert report["missing"] == [
        "weights nanodet, movenet_multipose, movenet_thunder, efficientpose (35 MB) come with the first build"
    ]
    assert report["total"]["cpu_hours"]["known"] > 0 and not list(tmp_path.iterdir())
    plain = builder.resolve("posecap", {"folder": str(corpus)})
    assert any("no NVIDIA GPU: --overlay cpu finds real people" in line for line in estimates.missing(plain, "cpu"))
    on_gpu = estimates.missing(plain, "cuda")
    assert "no GPU can be used here: the hours are those of a machine that has one" in on_gpu
    assert "--overlay cpu" not in str(on_gpu)


def test_a_changed_expert_recomputes_from_pose_down(out: Path, corpus: Path) -> None:
    report = estimates.dry_run(
        builder.resolve("posecap", {"sample": str(corpus)}, None, [*SETTINGS, 'pose.experts=["synthetic_topdown"]']),
        out,
        None,
        None,
        "cpu",
    )
    assert {p["name"]: p["done"] == p["units"] for p in report["passes"]} == {
        "probe": True,
        **dict.fromkeys(["pose", "measure", "curate", "pack", "report"], False),
    }
    assert "clips to run" in estimates.dry_run_text(report)


@pytest.mark.parametrize("workers", [3, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 2))])
def test_one_process_and_any_number_of_workers_give_the_same_bytes(
    out: Path, corpus: Path, tmp_path: Path, workers: int
) -> None:
    """`out` is built in one process. There are four units: three workers cannot share them equally."""
    build_sample(corpus, tmp_path / "out", engine=Engine(workers=workers))
    assert content(tmp_path / "out") == content(out)


def test_clips_under_way_together_give_the_same_poses(
    out: Path, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on an accelerator: several clips at once, their pictures in common batches, frames decoded ahead."""
    monkeypatch.setattr("dataengine.core.devices.pick", lambda name: "cuda")
    monkeypatch.setattr("dataengine.passes.pose_session.device_of_process", lambda device: "cpu")
    build_sample(corpus, tmp_path / "out", "engine.clips_in_flight=5", "engine.prefetch_mb=8")
    one, other = dataengine.open(out), dataengine.open(tmp_path / "out")
    assert other.rejects.collect()["clip_id"].to_list() == one.rejects.collect()["clip_id"].to_list()
    for clip_id in one.clips.collect()["clip_id"]:
        a, b = one.sample(clip_id), other.sample(clip_id)
        np.testing.assert_allclose(a["keypoints"], b["keypoints"], atol=0.1)
        np.testing.assert_allclose(a["scores"], b["scores"], atol=5e-3)
    assert not any(t.name in ("clip", "prefetch") for t in threading.enumerate())


def test_added_clips_leave_finished_units_alone(tmp_path: Path, corpus: Path) -> None:
    videos = tmp_path / "videos"
    videos.mkdir()
    files = sorted(p for p in (corpus / "kinetics").rglob("*.mp4") if p.stat().st_size > 20_000)
    for path in files[1:4]:
        shutil.copy2(path, videos / path.name)
    arguments = {
        "overrides": ["plan.clips_per_unit=2", "pose.max_fps=8.0", 'pose.experts=["synthetic_topdown"]'],
        "overlay": "core",
        "engine": SERIAL,
    }
    dataengine.build("posecap", {"folder": str(videos)}, tmp_path / "out", **arguments)
    shutil.copy2(files[0], videos / ("0" + files[0].name))
    result = dataengine.build("posecap", {"folder": str(videos)}, tmp_path / "out", **arguments)
    assert [(s.units, s.done) for s in result.states if s.scope == "unit"] == [(3, 2)] * 3
    assert verify(tmp_path / "out") == []


def test_the_lock_is_a_recipe_of_the_same_dataset(out: Path, tmp_path: Path) -> None:
    resolved = builder.resolve(str(out / "recipe.lock.toml"))
    assert Job.of(resolved, tmp_path, "cpu").fingerprints == job_of(out).fingerprints


def test_explain_tells_kept_rejected_and_failed(out: Path) -> None:
    ds = dataengine.open(out)
    kept = explain(out, ds.clips.collect()["clip_id"][0])
    assert (
        [(step["pass"], step["outcome"]) for step in kept["passes"]]
        == [(name, "keep") for name in ("probe", "pose", "measure", "curate", "pack")]
        and kept["decision"]["kept"]
        and "motion" in to_text(kept)
    )
    for row in ds.rejects.collect().iter_rows(named=True):
        story = explain(out, row["clip_id"])
        told = [story["decision"]] if story["decision"] else story["passes"]
        assert told[-1]["reason"] == row["reason"], row
    with pytest.raises(DatasetError, match="no clip 'sampel'"):
        explain(out, "sampel")


def test_view_draws_on_the_video(out: Path, tmp_path: Path) -> None:
    clip = dataengine.open(out).clips.collect()["clip_id"][0]
    from dataengine.media.probe import probe

    assert view(out, clip, tmp_path / "a.png").stat().st_size > 10_000
    info = probe(view(out, clip, tmp_path / "a.mp4", experts=True))
    assert info.width > 2 * 340
    with pytest.raises(DataEngineError, match=r"\.mp4 or \.png"):
        view(out, clip, tmp_path / "a.gif")


def test_status_counts_and_gc_keeps_what_is_needed(copy: Path, corpus: Path) -> None:
    state = status(copy)
    assert all(p["done"] == p["units"] and not p["clips_left"] for p in state["passes"]) and state["dataset"]
    build_sample(corpus, copy, "filters.motion.min=0.5")
    removed, freed = clean(copy)
    assert removed and freed > 0 and verify(copy) == []
    assert not build_sample(corpus, copy, "filters.motion.min=0.5").changed


def finished_before(result: builder.BuildResult) -> dict[str, tuple[int, int | None]]:
    """Pass -> keys that were done when the build began, and all its keys; the page is written for every dataset."""
    return {state.name: (state.done, state.units) for state in result.states if state.scope != "dataset"}


def test_a_build_of_a_few_clips_costs_nothing_of_the_work_of_all(copy: Path, corpus: Path, out: Path) -> None:
    first = build_sample(corpus, copy, limit=6)
    assert first.planned == 6 and first.changed and status(copy)["planned"] == 6 and verify(copy) == []
    again = build_sample(corpus, copy)
    assert all(done == keys for done, keys in finished_before(again).values()), finished_before(again)
    assert content(copy) == content(out) and verify(copy) == []


@pytest.mark.slow
def test_a_source_that_was_left_out_once_is_not_run_again(copy: Path, corpus: Path, out: Path, tmp_path: Path) -> None:
    """The clips of both sources are numbered through, so that one unit has clips of both."""
    folder = tmp_path / "videos"
    folder.mkdir()
    for path in sorted(corpus.rglob("*.mp4"))[:3]:
        shutil.copy2(path, folder)
    both = {"sample": str(corpus), "folder": str(folder)}
    alone, settings = {"sample": str(corpus)}, [*SETTINGS, "plan.clips_per_unit=4"]

    def build(sources: dict[str, str]) -> builder.BuildResult:
        return dataengine.build("posecap", sources, copy, overlay="core", overrides=settings, engine=SERIAL)

    build(both)
    made = content(copy)
    assert finished_before(build(alone))["pose"][0] >= 3 and content(copy) == content(out)
    clean(copy)
    again = build(both)  # only shards that are not in the dataset are no longer there
    found = {name: keys for name, keys in finished_before(again).items() if name != "pack"}
    assert all(done == keys for done, keys in found.values()), found
    assert content(copy) == made and verify(copy) == []


def test_an_aborted_trial_costs_nothing_of_the_dataset_in_place(copy: Path, corpus: Path, out: Path) -> None:
    """Another recipe that stops at its first pass; what made the dataset survives even the strictest gc."""
    with pytest.raises(KeyboardInterrupt):
        build_sample(corpus, copy, "pose.max_people=1", progress=StopsAt("pose"))
    with pytest.raises(DatasetError, match="the last build here was stopped"):
        builder.rewrite(copy)
    clean(copy, keep=1)
    again = build_sample(corpus, copy)
    assert all(done == keys for done, keys in finished_before(again).values()), finished_before(again)
    assert not again.changed and content(copy) == content(out)


class StopsAt(Progress):
    """Somebody who presses Ctrl-C when a pass begins."""

    def __init__(self, name: str) -> None:
        self.name = name

    def step(self, name: str, total: int | None, unit: str = "clips") -> Any:
        if name == self.name:
            raise KeyboardInterrupt
        return super().step(name, total, unit)


@pytest.mark.parametrize(
    ("found_by", "workers"),
    [("pack", 0), ("assemble", 0), pytest.param("measure", 2, marks=pytest.mark.slow)],
)
def test_a_damaged_intermediate_is_made_anew_within_the_same_build(
    found_by: str, workers: int, copy: Path, corpus: Path, out: Path
) -> None:
    """One flipped bit in what a unit made before: the unit runs again, and no other."""
    name = "measure-*/data/*.parquet" if found_by == "assemble" else "pose-*/data/*.tar"
    artifact = max((copy / "work").glob(name), key=lambda p: p.stat().st_size)
    data = bytearray(artifact.read_bytes())
    data[len(data) // 2] ^= 1
    artifact.write_bytes(data)
    shutil.rmtree(copy / "dataset")
    for folder in (copy / "work").glob("measure-*" if found_by == "measure" else "pack-*"):
        if found_by != "assemble":
            shutil.rmtree(folder)
    damaged = artifact.parent.parent / "commits"
    records = {p: p.stat().st_mtime_ns for p in damaged.glob("*.json")}
    build_sample(corpus, copy, engine=Engine(workers=workers) if workers else SERIAL)
    assert content(copy) == content(out) and verify(copy) == []
    unit = artifact.name.split("-")[0]
    assert {p.stem for p, time in records.items() if p.stat().st_mtime_ns != time} == {unit}


def test_the_report_names_its_files(copy: Path) -> None:
    page, card = copy / "dataset" / "report.html", copy / "dataset" / "README.md"
    page.unlink()
    answer = command("report", str(copy), "--json")
    assert json.loads(answer.stdout) == {"report": str(page), "card": str(card)} and page.is_file()


def test_the_report_shows_what_was_built(out: Path) -> None:
    page = (out / "dataset" / "report.html").read_text()
    assert (
        "SST-A" in page and "data:image/jpeg;base64," in page and "http://" not in page.replace("http://www.w3.org", "")
    )


ELSEWHERE = """
import time
real = time.time
time.time = lambda: real() + 4e7
from dataengine.cli import main
main()
"""
"""The command, a year and a quarter later."""


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same build by the command in another folder, place and year, from a corpus that it renders itself."""
    place = tmp_path_factory.mktemp("another-place")
    settings = [part for text in (f"sources.sample.clips={CLIPS}", *SETTINGS) for part in ("--set", text)]
    arguments = ["build", "posecap", "--sources", "sample", "--out", "there", "--engine", "serial", *settings]
    other = {"TZ": "Pacific/Auckland", "LC_ALL": "C", "PYTHONHASHSEED": "7", "HOME": str(place), "USER": "somebody"}
    other["PYTHONPATH"] = str(Path(dataengine.__file__).parents[1])
    answer = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, *arguments], cwd=place, env={**os.environ, **other}, capture_output=True
    )
    assert answer.returncode == 0, answer.stderr.decode()
    return place / "there"


@pytest.mark.slow
def test_the_dataset_depends_on_no_path_and_no_time(out: Path, elsewhere: Path) -> None:
    def files(dataset: Path) -> dict[str, bytes]:
        return {str(p.relative_to(dataset)): p.read_bytes() for p in sorted(dataset.rglob("*")) if p.is_file()}

    one, other = files(out / "dataset"), files(elsewhere / "dataset")
    assert one.keys() == other.keys()
    assert [name for name in one if one[name] != other[name]] == []


def test_no_text_in_the_dataset_is_a_place_of_this_machine(out: Path) -> None:
    """Tables and shards are read, as their bytes on disk are compressed."""
    texts = [str(out.parent), "/tmp/", f"{Path.home()}/"]
    said = []
    for path in sorted((out / "dataset").rglob("*")):
        if path.suffix == ".parquet":
            table = pq.read_table(path)
            said += [(path, str(table.to_pylist())), (path, str(table.schema.metadata))]
        elif path.suffix in (".json", ".md", ".html"):
            said.append((path, path.read_text()))
        elif path.suffix == ".tar":
            said += [(path, str(entries["json"])) for _, entries in shards.iterate(path)]
    assert len(said) > 20
    assert [(path, text) for path, content in said for text in texts if text in content] == []


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["build", "posecpa"], 1, "did you mean 'posecap'"),
        (["build", "posecap", "--sources", "folder=/nonexistent"], 1, "is not a folder"),
        (["build", "posecap", "--engine", "ray"], 1, "allowed: dask, serial"),
        (["build", "posecap", "--sources", "sample", "--device", "tpu"], 1, "tpu"),
        (["build", "posecap", "--sources", "sample", "--out", "/dev/null/x"], 1, "give a folder to write into"),
        (["build"], 2, "Missing argument"),
        (["verify", "/nonexistent"], 1, "no such folder"),
        (["status", "/nonexistent"], 1, "is not a build"),
        (["build", "posecap", "--engine", "serial", "--workers", "2"], 1, "leave out --workers, or --engine serial"),
        (["list", "expert"], 1, "did you mean 'experts'"),
    ],
)
def test_mistakes_are_one_line_and_an_exit_code(arguments: list[str], code: int, words: str) -> None:
    returned, told, complaint = command(*arguments)
    assert returned == code and words in complaint and not told
    if code == 1:
        # a build names its recipe first
        assert complaint.splitlines()[-1].startswith("dataengine: ") and complaint.count("dataengine: ") == 1


def test_a_mistake_shows_no_traceback_in_a_process_of_its_own() -> None:
    answer = subprocess.run([sys.executable, "-m", "dataengine.cli", "status", "/nonexistent"], capture_output=True)
    assert answer.returncode == 1 and not answer.stdout
    assert answer.stderr.startswith(b"dataengine: /nonexistent is not a build") and answer.stderr.count(b"\n") == 1


def test_json_goes_to_stdout_alone(out: Path) -> None:
    code, told, _ = command("status", str(out), "--json")
    assert code == 0 and json.loads(told)["planned"] > CLIPS
    code, told, _ = command("list", "experts", "-v", "--json")
    assert {entry["name"] for entry in json.loads(told)} >= {"synthetic_topdown", "mediapipe"}


def interrupted(out: Path, corpus: Path, number: int) -> tuple[subprocess.Popen[str], list[psutil.Process]]:
    """Start a build in a process group of its own and signal it once a unit of poses is done.

    Returns:
        The process, and those that it had started.
    """
    settings = [part for text in SETTINGS for part in ("--set", text)]
    arguments = ["build", "posecap", "--sources", f"sample={corpus}", "--out", str(out), "--workers", "2", *settings]
    # a runner in the background ignores Ctrl-C, and so would what it starts
    listening = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    listening += "from dataengine.cli import main; main()"
    driver = subprocess.Popen(
        [sys.executable, "-c", listening, *arguments], stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    limit = time.monotonic() + 200
    while not list((out / "work").glob("pose-*/commits/*.json")):
        assert driver.poll() is None and time.monotonic() < limit, driver.communicate()[1]
        time.sleep(0.05)
    below = psutil.Process(driver.pid).children(recursive=True)
    if number in (signal.SIGKILL, signal.SIGTERM):
        driver.send_signal(number)
    else:
        os.killpg(driver.pid, number)
    return driver, below


@pytest.mark.parametrize(
    "number", [signal.SIGINT, *(pytest.param(n, marks=pytest.mark.slow) for n in (signal.SIGKILL, signal.SIGTERM))]
)
def test_an_interrupted_build_resumes_to_the_same_bytes(out: Path, corpus: Path, tmp_path: Path, number: int) -> None:
    driver, below = interrupted(tmp_path / "out", corpus, number)
    with BusyClock() as clock:
        driver.wait(120)
    if number != signal.SIGKILL:
        assert driver.returncode == 128 + number and clock.seconds < 5, clock.seconds
        assert driver.stderr is not None and "Traceback" not in driver.stderr.read()
    _, alive = psutil.wait_procs(below, timeout=60)
    assert not alive, "workers outlived their driver"
    assert not (tmp_path / "out" / "dataset").exists()
    result = build_sample(corpus, tmp_path / "out")
    assert next(s.done for s in result.states if s.name == "pose") >= 1, "the finished unit was run again"
    assert content(tmp_path / "out") == content(out)
