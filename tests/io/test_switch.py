"""A folder takes the place of another: whole at any moment, and recovered after a kill at any step."""

from __future__ import annotations

import multiprocessing
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest

from dataengine.io import switch
from tests.support.killed import at_every_change

MARK = "MANIFEST"


def write(folder: Path, content: str) -> Path:
    (folder / "inner").mkdir(parents=True)
    for name in (MARK, "inner/a", "inner/b"):
        (folder / name).write_text(content)
    return folder


def read(folder: Path) -> set[str]:
    return {(folder / name).read_text() for name in (MARK, "inner/a", "inner/b")}


@pytest.fixture(params=["exchange", "two renames"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "two renames":
        monkeypatch.setattr(switch, "_renameat2", lambda: None)
    return str(request.param)


def test_the_new_folder_is_there_and_the_old_one_gone(way: str, tmp_path: Path) -> None:
    for content in ("one", "two"):
        switch.put(write(tmp_path / "staging", content), tmp_path / "dataset", MARK)
        assert read(tmp_path / "dataset") == {content}
    assert [path.name for path in tmp_path.iterdir()] == ["dataset"]


def test_names_are_exchanged_in_one_step_where_that_is_possible(tmp_path: Path) -> None:
    one, other = write(tmp_path / "one", "one"), write(tmp_path / "other", "other")
    if not switch.exchange(one, other):
        pytest.skip("this file system cannot exchange names")
    assert read(one) == {"other"} and read(other) == {"one"}
    with pytest.raises(FileNotFoundError):
        switch.exchange(one, tmp_path / "absent")


@pytest.mark.parametrize("way", ["exchange", "two renames"])
def test_a_kill_at_any_step_leaves_the_old_or_the_new_one(way: str, tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    results = spawn.SimpleQueue()
    driver = spawn.Process(target=_put_killed, args=(tmp_path, way, results))
    driver.start()
    found = list(iter(results.get, None))
    driver.join(60)
    assert driver.exitcode == 0 and sum(killed for _, killed in found) >= 3
    absent = 0
    for n, killed in found:
        dataset = tmp_path / str(n) / "dataset"
        absent += not dataset.exists()
        assert not dataset.exists() or read(dataset) in ({"old"}, {"new"})
        switch.recover(dataset, MARK)
        assert read(dataset) in ({"old"}, {"new"}) and not switch.interrupted(dataset)
        assert killed or read(dataset) == {"new"}
    assert absent == (way == "two renames"), "with an exchange there is always one"


def _put_killed(folder: Path, way: str, results: Any) -> None:
    if way == "two renames":
        switch._renameat2 = lambda: None  # type: ignore[assignment]

    def prepare(n: int) -> None:
        write(folder / str(n) / "dataset", "old")
        write(folder / str(n) / "staging", "new")

    def work(n: int) -> None:
        switch.put(folder / str(n) / "staging", folder / str(n) / "dataset", MARK)

    prepare(0)
    for n, killed in at_every_change(work, lambda n: f"{folder}/{n}/"):
        results.put((n, killed))
        if killed:
            prepare(n + 1)
    results.put(None)


def test_a_folder_of_another_disk_is_copied_its_mark_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = Path("/dev/shm")
    if not other.is_dir() or other.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("no second file system at hand")
    with tempfile.TemporaryDirectory(dir=other) as staging:
        for content in ("one", "two"):
            switch.put(write(Path(staging) / "dataset", content), tmp_path / "dataset", MARK)
            assert read(tmp_path / "dataset") == {content}
        assert not list(Path(staging).iterdir()) and [p.name for p in tmp_path.iterdir()] == ["dataset"]


def test_what_was_half_removed_is_never_taken_for_a_whole_one(tmp_path: Path) -> None:
    old = write(tmp_path / "dataset.old", "old")
    (old / MARK).unlink()
    switch.recover(tmp_path / "dataset", MARK)
    assert not list(tmp_path.iterdir())
    shutil.rmtree(tmp_path)


def test_a_relative_place_has_neighbours_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "dataset").mkdir()
    monkeypatch.chdir(tmp_path / "dataset")
    assert not switch.interrupted(Path())
    (tmp_path / "dataset.new").mkdir()
    assert switch.interrupted(Path())
