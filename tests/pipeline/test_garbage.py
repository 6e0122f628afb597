"""Garbage is what no record names that is to stay; staging of others, former work and former inputs are none."""

from __future__ import annotations

import os
import time
from pathlib import Path

from dataengine.core.types import Keep
from dataengine.pipeline.garbage import collect_garbage, last_used
from dataengine.pipeline.ledger import Ledger


def commit(ledger: Ledger, unit: str, inputs: str = "i", clips: tuple[str, ...] = ("a", "b")) -> None:
    staged = ledger.stage(unit, "tar")
    staged.write_bytes(f"{unit} {inputs} {clips}".encode())
    ledger.commit(unit, inputs, staged, tuple(map(Keep, clips)), 1.0)


def ledger(work: Path, letter: str = "a", name: str = "pose") -> Ledger:
    return Ledger(work, name, letter * 64)


def test_garbage_is_what_no_commit_names(tmp_path: Path) -> None:
    live, dead = ledger(tmp_path), ledger(tmp_path, "b")
    for each in (live, dead):
        commit(each, "u000000")
        commit(each, "u000001")
    (live.folder / "data" / "u000000-000000000000.tar").write_bytes(b"left behind")
    collect_garbage(tmp_path, {live.folder.name: {"u000000"}})
    assert live.read("u000000") is not None and live.read("u000001") is None
    assert not dead.folder.exists() and len(list((live.folder / "data").iterdir())) == 1


def test_staging_stays_while_it_may_be_written_to(tmp_path: Path) -> None:
    young, old = ledger(tmp_path).stage("u000000", "tar"), ledger(tmp_path).stage("u000001", "tar")
    for path, age in ((young, 600), (old, 7200)):
        path.write_bytes(b"half")
        os.utime(path, (time.time() - age,) * 2)
    assert collect_garbage(tmp_path, {}) == [old] and young.exists()


def test_folders_of_former_recipes_stay_with_what_their_records_name(tmp_path: Path) -> None:
    present, before = ledger(tmp_path), ledger(tmp_path, "b")
    for each in (present, before):
        commit(each, "u000000")
    collect_garbage(tmp_path, {present.folder.name: {"u000000"}}, whole={before.folder.name})
    assert before.read("u000000") is not None


def test_the_folders_used_last_are_counted_by_pass(tmp_path: Path) -> None:
    for n, (name, letter) in enumerate(
        (("pose", "a"), ("pose", "b"), ("curate", "c"), ("curate", "d"), ("curate", "e"))
    ):
        each = ledger(tmp_path, letter, name)
        commit(each, "u000000")
        each.use()
        os.utime(each.folder, (1000 + n, 1000 + n))
    names = {
        path.name[: -len("-aaaaaaaaaaaa")] + path.name[-1] for path in tmp_path.iterdir() if path.name != "staging"
    }
    assert names == {"posea", "poseb", "curatec", "curated", "curatee"}
    present = {ledger(tmp_path, "a").folder.name, ledger(tmp_path, "d", "curate").folder.name}
    assert {name[:-12] + name[-1] for name in last_used(tmp_path, present, 1)} == {"pose-b", "curate-e"}
    assert {name[:-12] + name[-1] for name in last_used(tmp_path, set(), 2)} == {
        "pose-a", "pose-b", "curate-d", "curate-e",
    }  # fmt: skip
    assert last_used(tmp_path, present, 0) == set()


def test_a_build_of_few_clips_does_not_push_out_the_record_of_all(tmp_path: Path) -> None:
    each = ledger(tmp_path)
    commit(each, "u000000", "all", ("a", "b", "c"))
    for inputs, clips in (("two", ("a", "b")), ("one", ("a",))):
        commit(each, "u000000", inputs, clips)
        each.find("u000000", inputs, activate=True)
    collect_garbage(tmp_path, {each.folder.name: {"u000000"}}, former=1)
    assert [each.find("u000000", inputs) is not None for inputs in ("all", "two", "one")] == [True, False, True]
    collect_garbage(tmp_path, {each.folder.name: {"u000000"}})
    assert each.find("u000000", "all") is None and each.find("u000000", "one") is not None


def test_nothing_that_names_a_clip_that_was_taken_down_stays(tmp_path: Path) -> None:
    present, before, table = ledger(tmp_path), ledger(tmp_path, "b"), ledger(tmp_path, "c", "curate")
    for each in (present, before):
        commit(each, "u000000", "with", ("a", "b"))
        commit(each, "u000000", "without", ("b",))
        each.find("u000000", "without", activate=True)
        commit(each, "u000001", clips=("c",))
    for inputs in ("with", "without"):
        commit(table, "all", inputs, ())
        table.find("all", inputs, activate=True)
    live = {present.folder.name: {"u000000", "u000001"}, table.folder.name: {"all"}}
    collect_garbage(tmp_path, live, whole={before.folder.name}, former=5, gone={"a"})
    for each in (present, before):
        assert each.find("u000000", "with") is None and each.find("u000000", "without") is not None
        assert each.read("u000001") is not None
    assert table.find("all", "with") is None and table.find("all", "without") is not None


def test_lists_for_workers_go_but_the_last_of_each_name(tmp_path: Path) -> None:
    for n, name in enumerate(("job-aaaaaaaaaaaa", "shards-bbbbbbbbbbbb", "job-cccccccccccc")):
        path = tmp_path / f"{name}.json"
        path.write_text("{}")
        os.utime(path, (n, n))
    (tmp_path / "roots.json").write_text("{}")
    collect_garbage(tmp_path, {})
    assert {path.name[:5] for path in tmp_path.iterdir()} == {"job-c", "shard", "roots"}
