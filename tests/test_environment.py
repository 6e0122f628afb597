"""Failures of the environment are not failures of clips: mounts, disks and GPUs that fail while a build runs."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import dataengine
from dataengine.builder import BuildResult
from dataengine.core import registry
from dataengine.core.errors import DataEngineError
from dataengine.core.types import Outcome
from dataengine.dataset.verify import verify
from dataengine.inspect.explain import explain
from dataengine.inspect.explain import to_text as explained
from dataengine.inspect.status import status, to_text
from dataengine.media.encode import write_video
from dataengine.passes.measure import Measure
from dataengine.passes.pose import Pose
from dataengine.passes.probe import Probe
from dataengine.passes.unit_pass import Unit, UnitPass
from dataengine.pipeline.engine import Engine
from dataengine.pipeline.journal import Journal
from tests.support import saboteur
from tests.support.commands import dataengine as command
from tests.support.plugins import install

ROOT = Path(__file__).parents[1]
SERIAL = Engine(serial=True)
NAMES = ("a", "b", "c", "d", "e", "f")


class Lab:
    """Six videos in units of two, and an expert that gets its host into trouble."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.marks, self.videos, self.out = (
            folder,
            folder / "marks",
            folder / "videos",
            folder / "out",
        )
        self.marks.mkdir()
        self.videos.mkdir()
        for n, name in enumerate(NAMES):
            self.write(name, (n, 128, 128))

    def write(self, name: str, colour: tuple[int, int, int]) -> None:
        frames = np.random.default_rng(0).integers(60, 200, (12, 120, 160, 3), dtype=np.uint8)
        frames[:, :24, :24] = colour
        write_video(self.videos / f"{name}.mp4", iter(frames), 25)

    def plant(self, what: str, text: object = "") -> None:
        (self.marks / what).write_text(str(text))

    def overrides(self) -> list[str]:
        overrides = ['pose.experts=["troubled"]', "pose.expert_weights={}", f'experts.troubled.marks="{self.marks}"']
        overrides += ["plan.clips_per_unit=2", "curate.filters=[]", 'curate.dedup="off"', "report.gallery=0"]
        return overrides

    def build(self, engine: Engine = SERIAL, **options: Any) -> BuildResult:
        sources, settings = {"folder": str(self.videos)}, self.overrides()
        return dataengine.build(
            "posecap", sources, self.out, overlay="core", overrides=settings, engine=engine, **options
        )

    def command(self, *options: str) -> tuple[int, str, str]:
        settings = [part for text in self.overrides() for part in ("--set", text)]
        places = ["--sources", f"folder={self.videos}", "--out", str(self.out), "--overlay", "core"]
        return command("build", "posecap", *places, "--engine", "serial", *settings, *options)

    def rejects(self) -> dict[str, tuple[str, bool]]:
        rows = dataengine.open(self.out).rejects.select(
            pl.col("video_id").str.split("-").list.first(), "reason", "retryable"
        )
        return {video: (reason, retryable) for video, reason, retryable in rows.collect().rows()}

    def troubles(self) -> list[dict[str, Any]]:
        return [line for line in Journal(self.out / "work").read() if line["event"] == "trouble"]

    def content(self) -> dict[str, str]:
        files = json.loads((self.out / "dataset" / "MANIFEST.json").read_text())["files"]
        return {file["path"]: file["blake3"] for file in files}


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
    entry = "[dataengine.experts]\ntroubled = tests.support.troubled_expert:Troubled\n"
    install(tmp_path / "site", "troubled", entry, ROOT, monkeypatch)
    yield Lab(tmp_path)
    registry.refresh()


def test_a_mount_that_goes_away_stops_the_build_and_rejects_nothing(lab: Lab) -> None:
    lab.plant("away", lab.videos)
    with pytest.raises(
        DataEngineError, match=r"stopped: .* 3 times in a row \(media_unreachable: .*no other host"
    ) as caught:
        lab.build()
    assert "\n" not in str(caught.value) and not (lab.out / "dataset").exists()
    assert {line["kind"] for line in lab.troubles()} == {"media_unreachable"} and len(lab.troubles()) == 3
    Path(f"{lab.videos}.away").rename(lab.videos)
    result = lab.build()
    assert (result.kept, result.failed, lab.rejects(), verify(lab.out)) == (6, 0, {}, [])
    built = lab.content()
    shutil.rmtree(lab.out)
    lab.build()
    assert lab.content() == built, "the bytes of an undisturbed build"


ROOT_ALONE = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("mount") is None, reason="only the superuser may mount"
)


def mount(*arguments: str) -> None:
    """Mount, or skip the test where that is not allowed."""
    if subprocess.run(["mount", *arguments], check=False).returncode:
        pytest.skip("nothing can be mounted here")


@ROOT_ALONE
def test_a_real_mount_that_is_unmounted_during_the_build_rejects_nothing(lab: Lab) -> None:
    inside = lab.videos.rename(lab.folder / "inside")
    lab.videos.mkdir()
    mount("--bind", str(inside), str(lab.videos))
    try:
        lab.plant("unmount", lab.videos)
        with pytest.raises(DataEngineError, match=r"3 times in a row \(media_unreachable.*no other host"):
            lab.build()
        mount("--bind", str(inside), str(lab.videos))
        result = lab.build()
        assert (result.kept, result.failed, lab.rejects()) == (6, 0, {})
    finally:
        subprocess.run(["umount", "-l", str(lab.videos)], check=True)


def test_a_file_that_goes_away_alone_fails_and_may_be_tried_again(lab: Lab) -> None:
    lab.plant("remove", lab.videos / "d.mp4")
    result = lab.build()
    assert (result.kept, result.retryable, lab.rejects()) == (5, 1, {"d": ("media_missing", True)})
    assert lab.troubles() == []
    lab.write("d", (3, 128, 128))
    assert lab.build().kept == 6


@pytest.mark.slow
def test_a_gpu_that_lost_its_context_costs_a_process_and_no_clip(lab: Lab) -> None:
    lab.plant("poison")
    result = lab.build(Engine(workers=1))
    assert (result.kept, result.failed, lab.rejects(), verify(lab.out)) == (6, 0, {}, [])
    (trouble,) = lab.troubles()
    assert trouble["kind"] == "gpu_failed" and "illegal memory access" in trouble["detail"]


def test_a_clip_that_loses_the_gpu_each_time_is_to_blame_itself(lab: Lab) -> None:
    lab.write("c", saboteur.RED)
    result = lab.build()
    assert (result.kept, result.retryable, lab.rejects()) == (5, 1, {"c": ("expert_failed", True)})
    assert [line["unit"] for line in lab.troubles()] == ["u000001", "u000001"]
    state = status(lab.out)
    (lost,), (host,) = state["lost"], state["hosts"]
    assert (lost["kind"], lost["count"], lost["host"]) == ("gpu_failed", 2, host["host"])
    assert (host["failures"], host["in_flight"], host["set_aside"], state["in_flight"]) == (2, 0, False, [])
    assert host["units"] >= 9 and "lost to the environment, by kind and host" in to_text(state)


@ROOT_ALONE
def test_a_full_disk_stops_the_build_and_rejects_nothing(lab: Lab) -> None:
    lab.out.mkdir()
    mount("-t", "tmpfs", "-o", "size=4m", "tmpfs", str(lab.out))
    try:
        lab.plant("fill", lab.out)
        with pytest.raises(DataEngineError, match=r"disk_full: .*[\d.]+ MB free") as caught:
            lab.build()
        assert "\n" not in str(caught.value) and not (lab.out / "dataset").exists()
        with pytest.raises(DataEngineError, match="No space left") as caught:
            lab.build()  # the driver's own files find no room, either
        assert "\n" not in str(caught.value)
        for filler in lab.out.glob("filler*"):
            filler.unlink()
        result = lab.build()
        assert (result.kept, result.failed, lab.rejects()) == (6, 0, {})
    finally:
        subprocess.run(["umount", "-l", str(lab.out)], check=True)


@pytest.mark.parametrize(
    "spoilt", [pytest.param(Probe, marks=pytest.mark.slow), Pose, pytest.param(Measure, marks=pytest.mark.slow)]
)
def test_a_unit_that_fails_everywhere_is_set_aside_and_the_rest_is_finished(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, spoilt: type[UnitPass]
) -> None:
    """A mistake of ours outside of any clip: the next build, without it, gives the bytes of an undisturbed one."""
    process = spoilt.process

    def spoiled(self: UnitPass, unit: Unit) -> list[Outcome]:
        if unit.name == "u000001":
            raise KeyError("nobody foresaw this")
        return process(self, unit)

    with monkeypatch.context() as patch:
        patch.setattr(spoilt, "process", spoiled)
        code, told, said = lab.command()
    assert code == 3 and "2 failed clips are worth another try" in told
    assert said.count("KeyError: 'nobody foresaw this' (test_environment.py:") == 3 and "Traceback" not in said
    assert lab.rejects() == {"c": ("set_aside", True), "d": ("set_aside", True)} and verify(lab.out) == []
    aside = status(lab.out)["set_aside"]
    name = spoilt.__name__.lower()
    assert [(row["pass"], row["unit"], row["kind"]) for row in aside] == [(name, "u000001", "unexpected_error")]
    clip_id = dataengine.open(lab.out).rejects.collect()["clip_id"][0]
    story = explain(lab.out, clip_id)
    step, text = story["passes"][-1], explained(story)
    assert (step["pass"], step["reason"], step["facts"]["host"]) == (name, "set_aside", socket.gethostname())
    assert step["facts"]["time"].endswith("+00:00") and step["facts"]["kind"] == "unexpected_error"
    assert "nobody foresaw this" in text and "unexpected_error" in text and "Traceback" not in text
    assert lab.command()[0] == 0 and "set_aside" not in explained(explain(lab.out, clip_id))
    built = lab.content()
    shutil.rmtree(lab.out)
    lab.build()
    assert lab.content() == built


def left(result: BuildResult, name: str) -> int:
    """How many units of a pass ran."""
    state = next(state for state in result.states if state.name == name)
    return (state.units or 0) - state.done


def test_failures_are_run_again_by_reason_and_clips_by_name(lab: Lab) -> None:
    (lab.videos / "e.mp4").write_bytes(b"no video")
    lab.build()
    assert lab.rejects() == {"e": ("media_corrupt", False)}
    ids = {row["video_id"][0]: row["clip_id"] for row in dataengine.open(lab.out).rejects.collect().to_dicts()}
    kept = dataengine.open(lab.out).clips.collect()["clip_id"][0]
    assert left(lab.build(), "probe") == 0
    assert left(lab.build(retry=["media_corrupt"]), "probe") == 1
    assert left(lab.build(release=[ids["e"]]), "probe") == 1
    assert left(lab.build(retry=["worker_killed"]), "probe") == 0
    for options, words in (
        ({"retry": ["media_corupt"]}, r"--retry 'media_corupt' \(did you mean 'media_corrupt'\?\); allowed: corrupt"),
        ({"retry": ["jitter"]}, "--retry 'jitter' is a decision of the recipe, not a failure"),
        ({"release": [ids["e"] + "x"]}, f"is no clip of the plan .did you mean '{ids['e']}'"),
        ({"release": [kept]}, f"--release '{kept}' did not fail"),
    ):
        with pytest.raises(DataEngineError, match=words) as caught:
            lab.build(**options)
        assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_a_clip_is_released_from_quarantine(lab: Lab) -> None:
    lab.write("c", saboteur.GREEN)
    lab.plant("kill")
    result = lab.build(Engine(workers=1))
    assert (result.kept, result.retryable, lab.rejects()) == (5, 0, {"c": ("worker_killed", False)})
    (lab.marks / "kill").unlink()
    assert lab.build().kept == 5, "what stands in quarantine stays there"
    clip_id = dataengine.open(lab.out).rejects.collect()["clip_id"][0]
    assert lab.build(release=[clip_id]).kept == 6 and lab.rejects() == {}
