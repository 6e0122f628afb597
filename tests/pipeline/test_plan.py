"""The plan: units are append-only, ids unique, guarded videos out, and nothing is written by planning."""

from __future__ import annotations

from pathlib import Path

import pytest

from dataengine.core.errors import LeaseError, LedgerError, RecipeError, SourceError
from dataengine.dataset.takedown_records import TakenDown
from dataengine.pipeline import plan, recipe, units


def assigned(known: dict[str, str], *ids: str) -> dict[str, str]:
    return dict(zip(ids, units.assign(ids, known, 2)))


def test_units_are_filled_in_order() -> None:
    found = assigned({}, "a", "b", "c", "d", "e")
    assert list(found.values()) == ["u000000", "u000000", "u000001", "u000001", "u000002"]


def test_added_clips_make_new_units() -> None:
    first = assigned({}, "b", "d", "e")
    again = assigned(first, "a", "b", "c", "d", "e")
    assert {k: again[k] for k in first} == first
    assert again["a"] == again["c"] == "u000002"


def test_clips_that_vanish_leave_their_unit() -> None:
    first = assigned({}, "a", "b", "c")
    assert assigned(first, "b", "c") == {"b": "u000000", "c": "u000001"}


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


def unit_of(work: Path) -> dict[str, str]:
    return dict(units.read(work).by_clip)


def test_a_limited_plan_leaves_the_units_of_all_others(folder: Path, tmp_path: Path) -> None:
    work, alone = tmp_path / "work", resolved(folder, "plan.clips_per_unit=1")
    for limit, planned in ((None, 3), (1, 1), (2, 2), (None, 3)):
        made = plan.make(alone, work, limit=limit)
        plan.save(made, work)
        assert made.num_clips == planned and len(unit_of(work)) == 3
        assert {row["clip_id"]: row["unit"] for row in made.rows()}.items() <= unit_of(work).items()
    assert [path.name for path in (work / "units").iterdir()] == ["part-00000.parquet"]
    (folder / "d.mp4").write_bytes(b"not a video")
    known = unit_of(work)
    plan.save(plan.make(alone, work), work)
    assert known.items() < unit_of(work).items() and len(list((work / "units").iterdir())) == 2


def test_the_units_of_an_earlier_version_are_those_of_its_plan(folder: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"
    plan.save(plan.make(resolved(folder, "plan.clips_per_unit=2"), work), work)
    known = unit_of(work)
    (work / "units" / "part-00000.parquet").unlink()
    (folder / "0.mp4").write_bytes(b"not a video")  # comes first now
    plan.save(plan.make(resolved(folder, "plan.clips_per_unit=2"), work, limit=2), work)
    assert known.items() < unit_of(work).items() and len(unit_of(work)) == 4


def test_clips_of_a_video_that_was_taken_down_are_found_whatever_the_plan_holds(folder: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"
    made = plan.make(resolved(folder), work)
    plan.save(made, work)
    plan.save(plan.make(resolved(folder), work, limit=1), work)
    row = made.rows()[2]
    assert units.read(work).gone(TakenDown({"x": "asked"}, {row["video_id"]: "asked"})) == {"x", row["clip_id"]}


def test_a_damaged_table_of_units_is_named_and_guessed_by_nobody(folder: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"
    plan.save(plan.make(resolved(folder), work), work)
    part = work / "units" / "part-00000.parquet"
    part.write_bytes(part.read_bytes()[:-9])
    with pytest.raises(LedgerError, match=r"part-00000\.parquet cannot be read: .*put it back from a copy, or remove"):
        plan.make(resolved(folder), work)


def test_two_that_plan_new_clips_at_once_are_told(folder: Path, tmp_path: Path) -> None:
    """The lease of the build keeps them apart; where that was lost, the table still does."""
    work = tmp_path / "work"
    one, other = (plan.make(resolved(folder, f"plan.clips_per_unit={n}"), work) for n in (1, 2))
    plan.save(one, work)
    with pytest.raises(LeaseError, match="another process planned clips at the same time"):
        plan.save(other, work)


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


def test_a_unit_is_read_from_the_part_of_the_plan_that_holds_it(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = tmp_path / "work"
    for name in range(30):
        (folder / f"v{name:02d}.mp4").write_bytes(b"not a video")
    monkeypatch.setattr(plan, "GROUP_ROWS", 5)
    made = plan.make(resolved(folder, "plan.clips_per_unit=2"), work)
    plan.save(made, work)
    stamp = (work / "plan.parquet").stat().st_mtime_ns
    for unit in made.units():
        assert plan.load_unit(work, unit, stamp).rows() == made.rows(unit)
    assert plan.load_unit(work, "u999999", stamp).num_clips == 0
    ids = made.table["clip_id"].to_pylist()[3:20:4]
    assert [row["clip_id"] for row in plan.load_clips(work, ids).rows()] == ids


def test_clips_taken_down_are_marked_and_no_other(folder: Path, tmp_path: Path) -> None:
    made = plan.make(resolved(folder), tmp_path / "work")
    gone = made.table["clip_id"][1].as_py()
    marked = made.without(TakenDown({gone: "asked"}, {}))
    assert [(r["reason"], r["detail"]) for r in marked.rows() if r["clip_id"] == gone] == [("takedown", "asked")]
    assert [r for r in marked.rows() if r["clip_id"] != gone] == [r for r in made.rows() if r["clip_id"] != gone]
    assert marked.table.schema.equals(made.table.schema)
