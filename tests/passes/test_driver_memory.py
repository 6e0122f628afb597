"""What the driver holds of a large build: tables of Arrow, and no row of a clip, a track or a joint in Python."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from dataengine.passes import assemble

CLIPS = 3000


@pytest.mark.slow
def test_no_table_of_joints_is_held_as_python_objects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """34 rows of joints a clip took 15 kB in Python."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    import plan_scale

    found: list[int] = []

    def watched(build: Any, folder: Path) -> dict[str, int]:
        tracemalloc.start()
        rows = write_index(build, folder)
        found.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        return rows

    write_index = assemble.write_index
    monkeypatch.setattr(assemble, "write_index", watched)
    result = plan_scale.one_size(CLIPS, str(tmp_path))
    assert result["index"]["joints"] == 34 * result["index"]["clips"] > 34 * 0.9 * CLIPS
    assert found[0] < 3000 * CLIPS, f"{found[0] / CLIPS:.0f} bytes a clip"
