"""A build whose units go through its passes one by one: nobody waits until all files are probed."""

from __future__ import annotations

from pathlib import Path

import pytest

import dataengine
from dataengine.core import registry
from dataengine.passes.progress import BuildState
from dataengine.pipeline.engine import Engine
from dataengine.pipeline.task import Receipt, Task
from tests.support import blocks, plugins

RECIPE = [
    'pose.experts=["bright_block"]', "pose.expert_weights={}", 'curate.filters=["length"]', "filters.length.min=8",
    "report.gallery=0", 'curate.relabel="block_labels"', "plan.clips_per_unit=1",
]  # fmt: skip


@pytest.mark.slow
def test_poses_and_measures_do_not_wait_for_all_files_to_be_probed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugins.install_outside(tmp_path / "site", monkeypatch)
    blocks.write_corpus(tmp_path / "videos")
    order: list[tuple[str, str]] = []
    note = BuildState.note

    def watched(build: BuildState, name: str, task: Task, receipt: Receipt | None) -> None:
        note(build, name, task, receipt)
        order.append((name, task.key))

    monkeypatch.setattr(BuildState, "note", watched)
    sources = {"blocks": str(tmp_path / "videos")}

    def build(out: str, engine: Engine) -> dict[str, bytes]:
        dataengine.build("posecap", sources, tmp_path / out, overlay="core", overrides=RECIPE, engine=engine)
        return {
            p.name: p.read_bytes() for p in (tmp_path / out / "dataset").rglob("*") if p.suffix in (".json", ".tar")
        }

    try:
        found = build("streamed", Engine(workers=1))
        units = [key for name, key in order if name == "probe"]
        measured = [key for name, key in order if name == "measure"]
        assert len(units) >= 4 and set(measured) <= set(units)
        assert order.index(("measure", measured[0])) < order.index(("probe", units[-1]))
        assert order.index(("curate", "all")) > max(order.index(("measure", key)) for key in measured)
        assert found == build("serial", Engine(serial=True))
    finally:
        registry.refresh()
