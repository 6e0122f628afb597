"""A native crash, a hang and no memory in an expert: the build goes on, the clip is tried again and then named."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import dataengine
from dataengine import experts
from dataengine.core import registry
from dataengine.core.errors import ComponentError, RecipeError
from dataengine.dataset.verify import verify
from dataengine.media.encode import write_video
from dataengine.pipeline.engine import Engine
from tests.support import saboteur

SUPPORT = Path(__file__).parents[1] / "support"
COLOURS = {"crash": saboteur.RED, "hang": saboteur.GREEN, "memory": saboteur.BLUE, "once": saboteur.YELLOW}


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The saboteur as another installed package offers it, here and in every process started from here."""
    folder = tmp_path / "site" / "saboteur-1.0.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: saboteur\nVersion: 1.0\n")
    (folder / "entry_points.txt").write_text("[dataengine.experts]\nsaboteur = saboteur:Saboteur\n")
    monkeypatch.syspath_prepend(str(SUPPORT))
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path / "site"), str(SUPPORT)]))
    registry.refresh()
    yield tmp_path
    registry.refresh()


def videos(folder: Path, *kinds: str) -> Path:
    folder.mkdir()
    rng = np.random.default_rng(0)
    for kind in kinds:
        frames = rng.integers(60, 200, (24, 120, 160, 3), dtype=np.uint8)
        frames[:, :24, :24] = COLOURS.get(kind, (128, 128, 128))
        write_video(folder / f"{kind}.mp4", iter(frames), 25)
    return folder


def test_another_packages_expert_is_found(plugin: Path) -> None:
    assert "saboteur" in registry.names("experts")
    assert experts.create("saboteur", marks="x").marks == "x"  # type: ignore[attr-defined]
    with pytest.raises(ComponentError, match="no option 'mark'"):
        experts.create("saboteur", mark="x")


@pytest.mark.parametrize("isolated", [False, True])
def test_the_build_goes_on(plugin: Path, isolated: bool) -> None:
    kinds = ["good", "crash", "memory", "once", "fine", *(["hang"] if isolated else [])]
    overrides = [
        'pose.experts=["saboteur"]',
        "pose.expert_weights={}",
        f'experts.saboteur.marks="{plugin}"',
        "plan.clips_per_unit=6",
        "curate.filters=[]",
        "report.gallery=0",
        *(["pose.isolated={saboteur=3.0}"] if isolated else []),
    ]
    folder = videos(plugin / "videos", *kinds)
    result = dataengine.build(
        "posecap",
        {"folder": str(folder)},
        plugin / "out",
        overlay="core",
        overrides=overrides,
        engine=Engine(workers=1),
    )
    ds = dataengine.open(plugin / "out")
    found = dict(ds.rejects.select(pl.col("video_id").str.split("-").list.first(), "reason").collect().rows())
    expected = (
        {"crash": "expert_crashed", "hang": "expert_timeout", "memory": "out_of_memory"}
        if isolated
        else {"crash": "worker_killed", "memory": "out_of_memory"}
    )
    assert found == expected
    assert result.kept == 3 and verify(plugin / "out") == []
    assert (plugin / "yellow").exists(), "the clip that failed once was tried again"


def test_isolation_is_checked_before_any_work(plugin: Path) -> None:
    from dataengine.pipeline import recipe

    for wrong in ("pose.isolated={synthetic_topdown=0.0}", "pose.isolated={synthetic_topdwn=3.0}"):
        with pytest.raises(RecipeError, match=r"isolated\.synthetic_top"):
            recipe.load("posecap", "core", [wrong])
