"""A build that is killed while it puts the dataset in place: the next build makes it whole, and nothing is lost."""

from __future__ import annotations

import json
import multiprocessing
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import dataengine
from dataengine.core import registry
from dataengine.dataset.takedown import takedown
from dataengine.dataset.verify import verify
from tests.support import blocks, plugins
from tests.support.killed import at_every_change
from tests.support.shared import SERIAL

RECIPE = [
    'pose.experts=["bright_block"]', "pose.expert_weights={}", 'curate.filters=["length"]', "filters.length.min=8",
    "report.gallery=0", 'curate.relabel="block_labels"',
]  # fmt: skip
OTHER = "filters.length.min=22"
"""Another threshold: other clips, so that another dataset takes the place of the one there."""


def build(folder: Path, out: Path, *overrides: str) -> dataengine.builder.BuildResult:
    sources = {"blocks": str(folder / "videos")}
    return dataengine.build("posecap", sources, out, overlay="core", overrides=[*RECIPE, *overrides], engine=SERIAL)


def content(out: Path) -> dict[str, str]:
    return {f["path"]: f["blake3"] for f in json.loads((out / "dataset/MANIFEST.json").read_text())["files"]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """`before` and `after`: finished builds under the one threshold and the other."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("killed")
        plugins.install_outside(folder / "site", patch)
        blocks.write_corpus(folder / "videos")
        build(folder, folder / "before")
        shutil.copytree(folder / "before", folder / "after", copy_function=shutil.copy2)
        build(folder, folder / "after", OTHER)
        yield folder
    registry.refresh()


def _rebuild_killed(folder: Path, scratch: Path, results: Any) -> None:
    """In a process of its own that has started no threads yet: builds in copies, killed at every change in turn."""

    def copy(n: int) -> Path:
        return scratch / str(n) / "out"

    # import once what every fork needs
    for kind in ("passes", "filters"):
        for name in registry.names(kind):
            registry.find(kind, name)
    shutil.copytree(folder / "before", copy(0), copy_function=shutil.copy2)
    for n, killed in at_every_change(lambda n: build(folder, copy(n), OTHER) and None, lambda n: f"{n}/out/dataset"):
        results.put((n, killed))
        if killed:
            shutil.copytree(folder / "before", copy(n + 1), copy_function=shutil.copy2)
    results.put(None)


def killed_builds(folder: Path, scratch: Path) -> list[tuple[Path, bool]]:
    """Builds that were killed before each change of the folder `dataset`, and one that was not; whether it was."""
    spawn = multiprocessing.get_context("spawn")
    results = spawn.SimpleQueue()
    driver = spawn.Process(target=_rebuild_killed, args=(folder, scratch, results))
    driver.start()
    found = [(scratch / str(n) / "out", killed) for n, killed in iter(results.get, None)]
    driver.join(30)
    assert driver.exitcode == 0
    return found


def test_a_build_killed_at_any_step_ends_as_if_it_was_not(folder: Path, tmp_path: Path) -> None:
    found = killed_builds(folder, tmp_path)
    assert sum(killed for _, killed in found) >= 2, "two renames at least put a dataset in place"
    for out, _ in found:
        if (out / "dataset").exists():  # the old one or the new one, whole; page and card may be unfinished
            assert content(out) in (content(folder / "before"), content(folder / "after"))
            assert [p for p in verify(out) if not p.path.lstrip(".").startswith(("report.html", "README.md"))] == []
        build(folder, out, OTHER)
        assert content(out) == content(folder / "after") and verify(out) == []


@pytest.mark.slow
def test_takedowns_outlive_a_kill_at_any_step(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "build", copy_function=shutil.copy2)
    clip_id = dataengine.open(tmp_path / "build" / "before").clips.collect()["clip_id"][0]
    takedown(tmp_path / "build" / "before", [clip_id], "asked")
    for out, _ in killed_builds(tmp_path / "build", tmp_path / "killed"):
        build(tmp_path / "build", out, OTHER)
        assert clip_id not in set(dataengine.open(out).clips.collect()["clip_id"]), out
