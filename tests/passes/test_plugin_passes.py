"""Passes and filters of another package: built, resumed, told, packed and checked like the built-in ones."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

import dataengine
from dataengine import builder
from dataengine import dry_run as estimates
from dataengine.core import registry
from dataengine.core.errors import DataEngineError
from dataengine.dataset.verify import verify
from dataengine.inspect.build import job_of
from dataengine.inspect.explain import explain, to_text
from dataengine.inspect.status import clean, status
from dataengine.passes.base import Column, passes_of
from dataengine.report.statistics import funnel
from tests.support import plugin_passes
from tests.support.shared import SETTINGS, build_sample, copied

POINTS = """[dataengine.passes]
brightness = plugin_passes_of_another:Brightness
shift = plugin_passes_of_another:Shift
video_cap = plugin_passes_of_another:VideoCap

[dataengine.filters]
crowded = plugin_passes_of_another:Crowded
"""


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Another package is installed, with entry points."""
    site = tmp_path / "site"
    (site / "another-1.0.dist-info").mkdir(parents=True)
    (site / "another-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: another\nVersion: 1.0\n")
    (site / "another-1.0.dist-info" / "entry_points.txt").write_text(POINTS)
    shutil.copy(plugin_passes.__file__, site / "plugin_passes_of_another.py")
    monkeypatch.syspath_prepend(str(site))
    registry.refresh()
    yield
    monkeypatch.undo()
    registry.refresh()


def names(*overrides: str) -> list[str]:
    """Names of the passes of a recipe, in order."""
    recipe = builder.resolve("posecap", "sample", "core", [*SETTINGS, *overrides])
    return [p.name for p in passes_of(recipe)]


def test_passes_stand_behind_what_they_read(installed: None) -> None:
    plain = names()
    assert plain == ["probe", "pose", "measure", "curate", "pack", "report"], "an installed package changes no build"
    assert names("passes.brightness.min=0.1") == ["probe", "pose", "brightness", *plain[2:]]
    assert names("passes.video_cap={}") == [*plain[:4], "video_cap", *plain[4:]]
    both = names("passes.shift={}", "passes.brightness={}")
    assert both == ["probe", "pose", "brightness", "shift", *plain[2:]]


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("passes.brightnes={}", "did you mean 'brightness'"),
        ("passes.brightness.mni=0.1", "no option 'mni'"),
        ('passes.brightness.min="much"', "min = 'much'"),
        ("passes.pose.version=4", "no option 'version'"),
    ],
)
def test_mistakes_are_told(installed: None, override: str, words: str) -> None:
    with pytest.raises(DataEngineError, match=words):
        names(override)


def test_a_pass_that_reads_what_nobody_gives_is_refused(installed: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry.component_class("passes", "brightness"), "after", ("embed",))
    with pytest.raises(DataEngineError, match="reads 'embed'"):
        names("passes.brightness={}")


def test_a_column_that_the_index_has_is_refused(installed: None, monkeypatch: pytest.MonkeyPatch) -> None:
    found = registry.component_class("passes", "brightness")
    monkeypatch.setattr(found, "columns", (Column("jitter", pa.float32()),))
    with pytest.raises(DataEngineError, match="adds the column 'jitter'"):
        names("passes.brightness={}")


def test_a_unit_pass_from_build_to_gc(installed: None, sample_build: Path, corpus: Path, tmp_path: Path) -> None:
    out = copied(sample_build, tmp_path)
    before = dataengine.open(sample_build).clips.collect()
    result = build_sample(corpus, out, "passes.brightness={}")
    done = {s.name: (s.done, s.units) for s in result.states if s.scope == "unit"}
    assert done["brightness"][0] == 0 < done["brightness"][1]
    assert all(done[name][0] == done[name][1] for name in ("probe", "pose", "measure")), "nothing else is run again"
    ds = dataengine.open(out)
    clips = ds.clips.collect()
    assert clips.drop("brightness", "tint").equals(before) and clips["brightness"].null_count() == 0
    assert verify(out) == []

    least = float(clips["brightness"].sort()[len(clips) // 2])
    result = build_sample(corpus, out, f"passes.brightness.min={least}")
    lost = dataengine.open(out).rejects.filter(pl.col("reason") == "too_dark").collect()
    assert len(lost) == result.reasons["too_dark"] >= len(clips) // 2 and set(lost["pass"]) == {"brightness"}
    assert verify(out) == [] and not build_sample(corpus, out, f"passes.brightness.min={least}").changed
    assert dict((row[0], row[2]) for row in funnel(dataengine.open(out)))["brightness"] == [("too_dark", len(lost))]
    assert "the clip is too dark" in (out / "dataset" / "report.html").read_text()
    assert "the clip is too dark" in (out / "dataset" / "README.md").read_text()

    story = explain(out, lost["clip_id"][0])
    assert story["passes"][-1]["pass"] == "brightness" and "too_dark: the clip is too dark" in to_text(story)
    kept = to_text(explain(out, dataengine.open(out).clips.collect()["clip_id"][0]))
    assert "brightness   keep" in kept and "brightness 0." in kept
    rows = {p["pass"]: p for p in status(out)["passes"]}
    assert rows["brightness"]["done"] == rows["brightness"]["units"] and rows["brightness"]["clips_per_second_a_core"]

    folder = job_of(out).ledger("brightness").folder
    clean(out, keep=1)
    assert [p.name for p in (out / "work").glob("brightness-*")] == [folder.name]
    build_sample(corpus, out)
    clean(out, keep=1)
    assert not list((out / "work").glob("brightness-*")) and dataengine.open(out).clips.collect().equals(before)


def test_a_dry_run_names_what_was_never_measured(installed: None, sample_build: Path, corpus: Path) -> None:
    recipe = builder.resolve("posecap", {"sample": str(corpus)}, "core", [*SETTINGS, "passes.brightness={}"])
    report = estimates.dry_run(recipe, sample_build, None, None, "cpu")
    found = {c["name"]: c for c in report["costs"]}
    assert found["brightness"]["clips"] and "not measured on cpu: brightness" in found["brightness"]["basis"]
    assert found["measure"]["clips"] == 0 and "brightness" in estimates.dry_run_text(report)


def test_a_table_pass_and_a_pass_that_gives_poses(
    installed: None, sample_build: Path, corpus: Path, tmp_path: Path
) -> None:
    out = copied(sample_build, tmp_path)
    before = dataengine.open(sample_build)
    result = build_sample(corpus, out, "passes.shift.pixels=2.0", "passes.video_cap.most=1")
    done = {s.name: s.done == s.units for s in result.states}
    assert done["probe"] and done["pose"] and not done["measure"], "measures are those of the shifted poses"
    ds = dataengine.open(out)
    rejects = ds.rejects.filter(pl.col("reason") == "video_cap").collect()
    assert len(rejects) and set(rejects["pass"]) == {"video_cap"} and verify(out) == []
    clips = ds.clips.collect()
    assert set(clips["place_in_video"]) == {1} and clips["video_id"].is_unique().all()
    assert sorted(ds.table("videos").collect()["clip_id"]) == sorted(clips["clip_id"])
    for clip_id in clips["clip_id"]:
        old, new = before.sample(clip_id), ds.sample(clip_id)
        np.testing.assert_allclose(new["keypoints"], old["keypoints"] + np.float32([2, 0]), atol=1e-3)
        np.testing.assert_array_equal(new["shift"], np.float32([2]))
    story = explain(out, rejects["clip_id"][0])
    assert story["decision"]["reason"] == "video_cap" and "place_in_video" in to_text(story)
    assert [p["name"] for p in ds.manifest["passes"]] == [
        *("probe", "pose", "shift", "measure", "curate", "video_cap", "pack"),
    ]


def test_a_filter_with_a_reason_of_its_own(installed: None, sample_build: Path, corpus: Path, tmp_path: Path) -> None:
    out = copied(sample_build, tmp_path)
    build_sample(corpus, out, 'curate.filters=["crowded"]', "filters.crowded.min=0.5")
    ds = dataengine.open(out)
    lost = ds.rejects.filter(pl.col("reason") == "alone").collect()
    assert len(lost) and verify(out) == []
    assert ds.manifest["reasons"] == {"alone": "too few frames show two people"}
    assert "too few frames show two people" in to_text(explain(out, lost["clip_id"][0]))
    assert "too few frames show two people" in (out / "dataset" / "README.md").read_text()
    manifest = ds.manifest
    del manifest["reasons"]
    from dataengine.dataset.index import write_manifest

    write_manifest(out / "dataset", manifest)
    assert any("reason outside the closed list" in problem.what for problem in verify(out))
