"""The main job end to end on rendered people: nothing lost, defects named, resumed, retuned, extended; the same bytes."""

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
import pytest

import dataengine
from dataengine import builder
from dataengine import dry_run as estimates
from dataengine.core.errors import DataEngineError, DatasetError
from dataengine.core.reasons import REASONS
from dataengine.dataset.verify import verify
from dataengine.inspect.explain import build_state, explain, to_text
from dataengine.inspect.status import clean, status
from dataengine.pipeline import plan
from dataengine.pipeline.engine import Engine
from dataengine.report.view import view
from dataengine.sources.synthetic import planted, write_corpus

SERIAL = Engine(serial=True)
SMALL = ["sources.sample.clips=12", "plan.clips_per_unit=7"]


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished small build."""
    folder = tmp_path_factory.mktemp("build") / "out"
    dataengine.build("posecap", "sample", folder, overrides=SMALL, engine=Engine(workers=2))
    return folder


def again(out: Path, *overrides: str, **options: Any) -> builder.BuildResult:
    return dataengine.build("posecap", "sample", out, overrides=[*SMALL, *overrides], engine=SERIAL, **options)


def content(dataset: Path) -> dict[str, str]:
    files = json.loads((dataset / "MANIFEST.json").read_text())["files"]
    return {file["path"]: file["blake3"] for file in files}


def test_clips_and_rejects_are_the_plan(out: Path) -> None:
    ds = dataengine.open(out)
    kept, rejected = set(ds.clips.collect()["clip_id"]), set(ds.rejects.collect()["clip_id"])
    planned = set(plan.load(out / "work").table.column("clip_id").to_pylist())
    assert not kept & rejected and kept | rejected == planned and kept
    assert set(ds.rejects.collect()["reason"]) <= set(REASONS)
    assert verify(out) == []


def test_planted_defects_are_found_and_named(out: Path) -> None:
    ds = dataengine.open(out)
    found = {
        **dict.fromkeys(ds.clips.collect()["clip_id"], "keep"),
        **dict(ds.rejects.select("clip_id", "reason").collect().rows()),
    }
    (root,) = plan.load(out / "work").roots.values()
    # experts that guess no joints outside the picture leave too few of a body beyond its edge, and of a ghost in an empty scene
    also = {"truncation": "body_visible", "no_person": "body_visible"}
    wrong = {
        clip: (found.get(clip), wanted)
        for clip, wanted in planted(Path(root)).items()
        if found.get(clip) not in (wanted, also.get(wanted))
    }
    assert not wrong


def test_most_ordinary_clips_are_kept(out: Path) -> None:
    ds = dataengine.open(out)
    (root,) = plan.load(out / "work").roots.values()
    ordinary = set(plan.load(out / "work").table.column("clip_id").to_pylist()) - set(planted(Path(root)))
    kept = ordinary & set(ds.clips.collect()["clip_id"])
    left_out = set(ds.rejects.filter(pl.col("reason") == "label_left_out").collect()["clip_id"])
    assert len(kept) >= 0.7 * len(ordinary - left_out), (
        ds.rejects.select("clip_id", "reason", "detail").collect().rows()
    )


def test_a_sample_holds_what_the_index_says(out: Path) -> None:
    ds = dataengine.open(out)
    row = ds.clips.collect().row(0, named=True)
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


def test_building_again_does_nothing(out: Path) -> None:
    before = content(out / "dataset")
    result = again(out)
    assert not result.changed and content(out / "dataset") == before
    assert all(state.done == state.units for state in result.states)


def test_a_changed_threshold_runs_no_model(out: Path, tmp_path: Path) -> None:
    copy = tmp_path / "out"
    shutil.copytree(out, copy, copy_function=shutil.copy2)
    result = again(copy, "filters.motion.min=0.5")
    assert all(state.done == state.units for state in result.states), "a threshold must not run fetch, pose or measure"
    assert result.changed and result.reasons["motion"] > 1
    assert again(copy).changed and content(copy / "dataset") == content(out / "dataset")


def test_a_changed_expert_recomputes_from_pose_down(out: Path) -> None:
    report = estimates.dry_run(
        builder.resolve("posecap", "sample", None, [*SMALL, 'pose.experts=["synthetic_topdown"]']),
        out,
        None,
        None,
        "cpu",
    )
    assert {p["name"]: p["done"] == p["units"] for p in report["passes"]} == {
        "fetch": True,
        "pose": False,
        "measure": False,
    }
    assert "clips to run" in estimates.dry_run_text(report)


def test_any_engine_and_number_of_workers_gives_the_same_bytes(out: Path, tmp_path: Path) -> None:
    result = again(tmp_path / "serial", "plan.clips_per_unit=7")
    assert result.kept and content(tmp_path / "serial" / "dataset") == content(out / "dataset")


def test_clips_under_way_together_give_the_same_poses(
    out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on an accelerator: several clips at once, their pictures in common batches, frames decoded ahead."""
    monkeypatch.setattr("dataengine.core.devices.pick", lambda name: "cuda")
    monkeypatch.setattr("dataengine.passes.pose.own_device", lambda device: "cpu")
    dataengine.build(
        "posecap",
        "sample",
        tmp_path / "out",
        overrides=[*SMALL, "engine.clips_in_flight=5", "engine.prefetch_mb=8"],
        engine=SERIAL,
    )
    one, other = dataengine.open(out), dataengine.open(tmp_path / "out")
    assert other.rejects.collect()["clip_id"].to_list() == one.rejects.collect()["clip_id"].to_list()
    for clip_id in one.clips.collect()["clip_id"]:
        a, b = one.sample(clip_id), other.sample(clip_id)
        np.testing.assert_allclose(a["keypoints"], b["keypoints"], atol=0.1)
        np.testing.assert_allclose(a["scores"], b["scores"], atol=5e-3)
    assert not any(t.name in ("clip", "decode-ahead") for t in threading.enumerate())


def test_added_clips_leave_finished_units_alone(tmp_path: Path) -> None:
    write_corpus(tmp_path / "corpus", 12, 0)
    videos = tmp_path / "videos"
    videos.mkdir()
    files = sorted(p for p in (tmp_path / "corpus" / "kinetics").rglob("*.mp4") if p.stat().st_size > 20_000)
    for path in files[1:4]:
        shutil.copy2(path, videos / path.name)
    arguments = {
        "overrides": ["plan.clips_per_unit=2", 'pose.experts=["synthetic_topdown"]'],
        "overlay": "core",
        "engine": SERIAL,
    }
    dataengine.build("posecap", {"folder": str(videos)}, tmp_path / "out", **arguments)
    shutil.copy2(files[0], videos / ("0" + files[0].name))
    result = dataengine.build("posecap", {"folder": str(videos)}, tmp_path / "out", **arguments)
    assert [(s.units, s.done) for s in result.states] == [(3, 2)] * 3
    assert verify(tmp_path / "out") == []


def test_the_lock_is_a_recipe_of_the_same_dataset(out: Path, tmp_path: Path) -> None:
    resolved = builder.resolve(str(out / "recipe.lock.toml"))
    assert builder.make_job(resolved, tmp_path, "cpu").fingerprints == build_state(out)[1]


def test_explain_tells_kept_rejected_and_failed(out: Path) -> None:
    ds = dataengine.open(out)
    kept = explain(out, ds.clips.collect()["clip_id"][0])
    assert (
        [step["outcome"] for step in kept["passes"]] == ["keep"] * 3
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


def test_status_counts_and_gc_keeps_what_is_needed(out: Path, tmp_path: Path) -> None:
    state = status(out)
    assert all(p["done"] == p["units"] and not p["clips_left"] for p in state["passes"]) and state["dataset"]
    copy = tmp_path / "out"
    shutil.copytree(out, copy, copy_function=shutil.copy2)
    again(copy, "filters.motion.min=0.5")
    removed, freed = clean(copy)
    assert removed and freed > 0 and verify(copy) == []
    assert not again(copy, "filters.motion.min=0.5").changed


def test_damaged_intermediates_are_dropped_and_made_anew(out: Path, tmp_path: Path) -> None:
    copy = tmp_path / "out"
    shutil.copytree(out, copy, copy_function=shutil.copy2)
    artifact = max((copy / "work").glob("pose-*/data/*.tar"), key=lambda p: p.stat().st_size)
    data = bytearray(artifact.read_bytes())
    data[len(data) // 2] ^= 1
    artifact.write_bytes(data)
    shutil.rmtree(copy / "dataset")
    for pack in (copy / "work").glob("pack-*"):
        shutil.rmtree(pack)
    with pytest.raises(DataEngineError, match="damaged after it was written"):
        again(copy)
    again(copy)
    assert content(copy / "dataset") == content(out / "dataset")


def test_the_report_shows_what_was_built(out: Path) -> None:
    page = (out / "dataset" / "report.html").read_text()
    assert (
        "SST-A" in page and "data:image/jpeg;base64," in page and "http://" not in page.replace("http://www.w3.org", "")
    )


def test_the_dataset_depends_on_no_path_or_time(out: Path) -> None:
    blob = b"".join(
        p.read_bytes() for p in sorted((out / "dataset").rglob("*")) if p.is_file() and p.name != "report.html"
    )
    assert str(out).encode() not in blob and b"/tmp/" not in blob


def command(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "dataengine.cli", *arguments], capture_output=True, text=True, cwd=cwd, check=False
    )


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["build", "posecpa"], 1, "did you mean 'posecap'"),
        (["build", "posecap", "--sources", "folder=/nonexistent"], 1, "is not a folder"),
        (["build", "posecap", "--engine", "ray"], 1, "allowed: dask, serial"),
        (["build"], 2, "Missing argument"),
        (["verify", "/nonexistent"], 1, "no such folder"),
        (["status", "/nonexistent"], 1, "is not a build"),
        (["list", "expert"], 1, "did you mean 'experts'"),
    ],
)
def test_mistakes_are_one_line_and_an_exit_code(arguments: list[str], code: int, words: str) -> None:
    answer = command(*arguments)
    assert answer.returncode == code and words in answer.stderr and "Traceback" not in answer.stderr
    if code == 1:
        assert answer.stderr.strip().splitlines()[-1].startswith("dataengine: ")


def test_json_goes_to_stdout_alone(out: Path) -> None:
    answer = command("status", str(out), "--json")
    assert answer.returncode == 0 and json.loads(answer.stdout)["planned"] > 12
    answer = command("list", "experts", "-v", "--json")
    assert {entry["name"] for entry in json.loads(answer.stdout)} >= {"synthetic_topdown", "mediapipe"}


def interrupted(out: Path, corpus: Path, number: int) -> tuple[subprocess.Popen[str], list[psutil.Process]]:
    """Start a build in a process group of its own, signal it once a unit of poses is done; it, and the processes it had started."""
    arguments = [
        "build",
        "posecap",
        "--sources",
        f"sample={corpus}",
        "--out",
        str(out),
        "--workers",
        "2",
        *(a for s in SMALL for a in ("--set", s)),
    ]
    # a runner in the background ignores Ctrl-C, and so would what it starts
    listening = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); from dataengine.cli import main; main()"
    driver = subprocess.Popen(
        [sys.executable, "-c", listening, *arguments], stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    limit = time.monotonic() + 200
    while not list((out / "work").glob("pose-*/commits/*.json")):
        assert driver.poll() is None and time.monotonic() < limit, driver.communicate()[1]
        time.sleep(0.05)
    below = psutil.Process(driver.pid).children(recursive=True)
    if number == signal.SIGKILL:
        driver.kill()
    else:
        os.killpg(driver.pid, number)
    return driver, below


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_an_interrupted_build_resumes_to_the_same_bytes(out: Path, tmp_path: Path, number: int) -> None:
    (root,) = plan.load(out / "work").roots.values()
    shutil.copytree(root, tmp_path / "corpus", copy_function=shutil.copy2)
    driver, below = interrupted(tmp_path / "out", tmp_path / "corpus", number)
    begun = time.monotonic()
    driver.wait(30)
    if number == signal.SIGINT:
        assert time.monotonic() - begun < 60 and driver.returncode == 130
        assert driver.stderr is not None and "Traceback" not in driver.stderr.read()
    _, alive = psutil.wait_procs(below, timeout=30)
    assert not alive, "workers outlived their driver"
    assert not (tmp_path / "out" / "dataset").exists()
    result = dataengine.build(
        "posecap", {"sample": str(tmp_path / "corpus")}, tmp_path / "out", overrides=SMALL, engine=SERIAL
    )
    assert next(s.done for s in result.states if s.name == "pose") >= 1, "the finished unit was run again"
    assert content(tmp_path / "out" / "dataset") == content(out / "dataset")
