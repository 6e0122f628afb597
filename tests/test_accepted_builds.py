"""Builds with other code than before: made anew and said why, or kept because their owner says so."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import dataengine
from dataengine import builder
from dataengine.cli import app
from dataengine.dataset.verify import verify
from dataengine.pipeline import recipe_lock, source_code
from tests.support.said import Said
from tests.support.shared import SERIAL, SETTINGS, build_sample, copied

PACKAGE = Path(dataengine.__file__).parent
CHANGED = "code of fusion/consensus.py changed"


@pytest.fixture
def copy(sample_build: Path, tmp_path: Path) -> Path:
    return copied(sample_build, tmp_path)


@pytest.fixture
def other_fusion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The sources of the fusion are others than those that the shared build was made with."""
    changed = tmp_path / "dataengine"
    shutil.copytree(PACKAGE, changed, ignore=shutil.ignore_patterns("__pycache__"))
    path = changed / "fusion" / "consensus.py"
    path.write_text(path.read_text() + "\nSHARE = 0.5\n")
    for cached in (source_code._file, source_code._read):
        cached.cache_clear()
    monkeypatch.setattr(source_code, "_folders", lambda package: (changed,) if package == "dataengine" else ())
    yield
    monkeypatch.undo()
    for cached in (source_code._file, source_code._read):
        cached.cache_clear()


def poses_made(result: builder.BuildResult) -> int:
    state = next(state for state in result.states if state.name == "pose")
    assert state.units is not None
    return state.units - state.done


def test_accepted_poses_stay_and_the_lock_and_the_manifest_say_so(
    copy: Path, corpus: Path, sample_build: Path, other_fusion: None
) -> None:
    said = Said()
    result = build_sample(corpus, copy, accept=["pose"], progress=said)
    assert poses_made(result) == 0 and not [line for line in said.lines if "made anew" in line]
    passes = {p["name"]: p for p in dataengine.open(copy).manifest["passes"]}
    assert passes["pose"]["accepted"] == [[CHANGED]] and "accepted" not in passes["probe"]
    assert recipe_lock.parts(copy / recipe_lock.NAME)["pose"].accepted[0].changes == (CHANGED,)
    again = build_sample(corpus, copy, progress=said)
    assert poses_made(again) == 0 and not again.changed
    assert verify(copy) == []
    for clip_id in dataengine.open(sample_build).clips.collect()["clip_id"]:
        a, b = dataengine.open(sample_build).sample(clip_id), dataengine.open(copy).sample(clip_id)
        assert (a["keypoints"] == b["keypoints"])[a["scores"] > 0].all()


def test_a_dry_run_says_why_poses_are_made_anew(
    copy: Path, corpus: Path, other_fusion: None, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = [part for text in SETTINGS for part in ("--set", text)]
    command = ["build", "posecap", "--sources", f"sample={corpus}", "--overlay", "core", "--out", str(copy), *settings]
    app([*command, "--dry-run"], standalone_mode=False)
    shown = capsys.readouterr().out
    assert f"pose: made anew: {CHANGED} (--accept pose keeps what there is)" in shown
    app([*command, "--dry-run", "--json", "--accept", "pose"], standalone_mode=False)
    report = json.loads(capsys.readouterr().out)
    assert report["made_anew"] == {} and all(p["units"] in (None, p["done"]) for p in report["passes"])


def test_a_takedown_makes_nothing_anew_because_the_code_is_another(copy: Path, other_fusion: None) -> None:
    result = builder.rewrite(copy, SERIAL)
    assert {state.name: state.left for state in result.states if state.left and state.name != "report"} == {}


@pytest.mark.slow
def test_other_code_makes_poses_anew_and_the_build_says_why(copy: Path, corpus: Path, other_fusion: None) -> None:
    said = Said()
    result = build_sample(corpus, copy, progress=said)
    assert poses_made(result) > 0
    assert f"pose: made anew: {CHANGED} (--accept pose keeps what there is)" in said.lines
    said.lines.clear()
    kept = build_sample(corpus, copy, accept=["pose"], progress=said)
    assert poses_made(kept) == 0, "the poses from before the change are still there"
    assert recipe_lock.parts(copy / recipe_lock.NAME)["pose"].accepted
