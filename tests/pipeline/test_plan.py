"""The plan: units are append-only, ids unique, guarded videos out, and nothing is written by planning."""

from __future__ import annotations

from pathlib import Path

import pytest

from dataengine.core.errors import RecipeError, SourceError
from dataengine.pipeline import plan, recipe, units


def rows(*ids: str) -> list[dict[str, object]]:
    return [{"clip_id": i} for i in ids]


def test_units_are_filled_in_order() -> None:
    assigned = units.assign(rows("a", "b", "c", "d", "e"), {}, 2)
    assert [r["unit"] for r in assigned] == ["u000000", "u000000", "u000001", "u000001", "u000002"]


def test_added_clips_make_new_units() -> None:
    first = {r["clip_id"]: r["unit"] for r in units.assign(rows("b", "d", "e"), {}, 2)}
    again = {r["clip_id"]: r["unit"] for r in units.assign(rows("a", "b", "c", "d", "e"), first, 2)}
    assert {k: again[k] for k in first} == first
    assert again["a"] == again["c"] == "u000002"


def test_clips_that_vanish_leave_their_unit() -> None:
    first = {r["clip_id"]: r["unit"] for r in units.assign(rows("a", "b", "c"), {}, 2)}
    again = units.assign(rows("b", "c"), first, 2)
    assert [(r["clip_id"], r["unit"]) for r in again] == [("b", "u000000"), ("c", "u000001")]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "videos"
    root.mkdir()
    for name in ("a", "b", "c"):
        (root / f"{name}.mp4").write_bytes(b"not a video")
    return root


def resolved(folder: Path, *overrides: str) -> recipe.Recipe:
    return recipe.load("posecap", "core", list(overrides), {"folder": str(folder)})


def test_planning_writes_nothing_and_saving_reads_back(folder: Path, tmp_path: Path) -> None:
    made = plan.make(resolved(folder, "plan.clips_per_unit=2"), tmp_path / "work")
    assert not (tmp_path / "work").exists()
    assert made.num_clips == 3 and made.units() == ["u000000", "u000001"]
    plan.save(made, tmp_path / "work")
    again = plan.load(tmp_path / "work")
    assert again.table.equals(made.table) and again.roots == made.roots
    clip = again.clips("u000001")[0]
    assert again.media(clip).is_file() and again.clip(clip.clip_id) == clip and again.clip("absent") is None
    stamp = (tmp_path / "work" / "plan.parquet").stat().st_mtime_ns
    assert [c.clip_id for c in plan.load_unit(tmp_path / "work", "u000001", stamp).clips()] == [clip.clip_id]


def test_the_leak_guard_takes_videos_out(folder: Path, tmp_path: Path) -> None:
    ids = [row["video_id"] for row in plan.make(resolved(folder), tmp_path / "work").rows()]
    guard = tmp_path / "guard.csv"
    guard.write_text(f"label,youtube_id\nx,{ids[1]}\n")
    found = plan.make(resolved(folder, f'plan.leak_guard=["{guard}"]'), tmp_path / "work").rows()
    assert [row["reason"] for row in found] == [None, "leak_guard", None]


def test_an_absent_guard_list_is_an_error(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="the list 'kinetics999' was not found"):
        plan.make(resolved(folder, 'plan.leak_guard=["kinetics999"]'), tmp_path / "work")


def test_sources_without_a_place_or_clips_are_errors(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="is not a folder"):
        plan.make(resolved(tmp_path / "absent"), tmp_path / "work")
    with pytest.raises(SourceError, match="give --sources kinetics700=PATH"):
        plan.make(recipe.load("posecap", "core", (), {"kinetics700": None}), tmp_path / "work")
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError):
        plan.make(resolved(tmp_path / "empty"), tmp_path / "work")
