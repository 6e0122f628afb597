"""Builds on a GPU: a dead context costs a worker and no clip; clips give the same together and alone."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import dataengine
from dataengine.core import registry
from dataengine.media.encode import write_video
from dataengine.pipeline.engine import Engine
from dataengine.rendering import render_clip
from tests.support import poison
from tests.support.expert_poses import proposed

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(900)]

ROOT = Path(__file__).resolve().parents[2]
PLAIN = ["pose.expert_weights={}", "curate.filters=[]", 'curate.dedup="off"', "report.gallery=0"]


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The poison as another installed package offers it, here and in every process started from here."""
    folder, support = tmp_path / "site" / "poison-1.0.dist-info", ROOT / "tests/support"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: poison\nVersion: 1.0\n")
    (folder / "entry_points.txt").write_text("[dataengine.experts]\npoison = poison:Poison\n")
    monkeypatch.syspath_prepend(str(support))
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    before = os.environ.get("PYTHONPATH", "")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path / "site"), str(support), str(ROOT), before]))
    registry.refresh()
    yield tmp_path
    registry.refresh()


def test_a_dead_context_restarts_the_worker_and_costs_no_clip(plugin: Path, device: str) -> None:
    videos, rng = plugin / "videos", np.random.default_rng(0)
    videos.mkdir()
    for n in range(6):
        frames = rng.integers(60, 200, (24, 120, 160, 3), dtype=np.uint8)
        frames[:, :24, :24] = poison.RED if n == 2 else (128, 128, 128)
        write_video(videos / f"v{n}.mp4", iter(frames), 25)
    result = dataengine.build(
        "posecap",
        {"folder": str(videos)},
        plugin / "out",
        overlay="core",
        overrides=[*PLAIN, 'pose.experts=["poison"]', f'experts.poison.marks="{plugin}"', "plan.clips_per_unit=3"],
        engine=Engine(workers=1),
        device=device,
    )
    assert (plugin / "poisoned").exists(), "the context did die"
    assert result.kept == 6
    assert dataengine.open(plugin / "out").rejects.collect().is_empty()


def test_clips_under_way_together_give_what_each_gives_alone(
    device: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from tests.support.torch_setup import random_weights

    videos, clips, length = tmp_path / "videos", 12, 48 if device == "cuda" else 6
    videos.mkdir()
    for n in range(clips):
        shown = render_clip(n, 24, condition="clean", num_people=1).frames
        write_video(videos / f"v{n:02d}.mp4", (shown[k % len(shown)] for k in range(length)), 25)
    expert = random_weights.rtmpose(tmp_path / "weights", "t", min_score=0.0, min_mean=0.0)
    options = {
        k: v for k, v in registry.config(expert).items() if k in ("model", "checkpoint", "min_score", "min_mean")
    }
    shown_options = [f"experts.rtmpose.{k}={v!r}".replace("'", '"') for k, v in options.items()]
    found, speed = {}, {}
    for together in (1, 8):
        out, begun = tmp_path / f"out{together}", time.perf_counter()
        dataengine.build(
            "posecap",
            {"folder": str(videos)},
            out,
            overlay="core",
            overrides=[
                *PLAIN,
                *shown_options,
                'pose.experts=["rtmpose"]',
                'pose.fusion="median"',
                "plan.clips_per_unit=12",
                f"engine.clips_in_flight={together}",
            ],
            engine=Engine(serial=True),
            device=device,
        )
        found[together], speed[together] = proposed(out), clips * length / (time.perf_counter() - begun)
    assert len(found[1]) >= clips // 2 and found[1].keys() == found[8].keys()
    apart = []
    for clip, alone in found[1].items():
        other = found[8][clip]
        assert alone.shape == other.shape, clip
        apart.append(np.linalg.norm(alone - other, axis=-1).ravel())
    pixels = np.concatenate(apart)
    pixels = pixels[np.isfinite(pixels)]
    with capsys.disabled():
        print(
            f"\n8 clips under way against 1: half of {len(pixels)} joints within {np.median(pixels):.4f} px, 99 % "
            f"within {np.quantile(pixels, 0.99):.4f} px; whole build "
            f"{speed[1]:.0f} frames/s alone, {speed[8]:.0f} together"
        )
    assert len(pixels) > 100
    assert np.median(pixels) <= 0.05 and np.mean(pixels <= 1.0) > 0.98
    kept = [dataengine.open(tmp_path / f"out{n}").clips.select(pl.len()).collect().item() for n in (1, 8)]
    assert kept[0] == kept[1] == clips
