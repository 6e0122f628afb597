"""Tables that are sorted beyond memory: the files are those of `write_table` for the same rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from dataengine.core.errors import DatasetError
from dataengine.dataset import index, sorted_table
from dataengine.dataset.sorted_table import SortedTable, ranges


def joints(clips: int, seed: int) -> pa.Table:
    """Joints of two tracks of each clip; clips come in any order, a clip's rows together, some values NaN."""
    rng = np.random.default_rng(seed)
    ids = np.repeat([f"clip-{n:05d}" for n in rng.permutation(clips)], 6)
    count = len(ids)
    values = {name: rng.random(count).astype(np.float32) for name in ("visible", "score_mean", "disagreement")}
    values["disagreement"][::7] = np.nan
    columns = {"clip_id": ids, "track_id": np.tile([1, 1, 1, 0, 0, 0], clips), "joint": np.tile(list("abc"), 2 * clips)}
    return pa.table(columns | values)


@pytest.mark.parametrize(("held", "clips"), [(1 << 30, 300), (2000, 300), (2000, 0)])
def test_rows_sorted_beyond_memory_give_the_same_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, held: int, clips: int
) -> None:
    monkeypatch.setattr(sorted_table, "HELD_BYTES", held)
    monkeypatch.setattr(sorted_table, "RANGE_CLIPS", 37)
    monkeypatch.setattr(index, "PART_ROWS", 500)
    monkeypatch.setattr(index, "GROUP_ROWS", 128)
    rows = joints(clips, 3)
    index.write_table(tmp_path / "at_once", rows, index.JOINTS)
    table = SortedTable(tmp_path / "sorted", index.JOINTS, tmp_path / "scratch", ranges(rows["clip_id"].unique()))
    assert len(table.bounds) == max(0, -(-clips // 37) - 1)
    (tmp_path / "sorted").mkdir()
    (tmp_path / "sorted/part-00009.parquet").touch()  # of a larger table that lay there
    for start in range(0, len(rows), 30):
        table.add(rows.slice(start, 30))
    assert table.write() == len(rows)
    expected = {path.name: path.read_bytes() for path in (tmp_path / "at_once").iterdir()}
    assert {path.name: path.read_bytes() for path in (tmp_path / "sorted").iterdir()} == expected
    assert not (tmp_path / "scratch").exists()


def test_no_more_rows_lie_in_memory_than_a_table_may_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sorted_table, "HELD_BYTES", 1 << 20)
    monkeypatch.setattr(sorted_table, "RANGE_CLIPS", 1000)
    rows = joints(20_000, 5)
    table = SortedTable(tmp_path / "sorted", index.JOINTS, tmp_path / "scratch", ranges(rows["clip_id"].unique()))
    size, before, most = rows.nbytes, pa.total_allocated_bytes(), 0
    for start in range(0, len(rows), 600):
        table.add(rows.slice(start, 600))
        most = max(most, pa.total_allocated_bytes() - before)
    assert most < size / 2, "rows are spilled as they come"
    assert table.write() == len(rows)


def test_a_row_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    table = SortedTable(tmp_path / "joints", index.JOINTS, tmp_path / "scratch")
    with pytest.raises(DatasetError, match="unknown column 'joints'"):
        table.add([{"clip_id": "a", "joints": 1}])
