"""The overlay `cpu` on real videos, where these and the weights are here."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

import dataengine
from dataengine import builder
from dataengine.inspect.build import job_of
from dataengine.io import weights
from dataengine.passes.clip_frames import pose_arrays
from dataengine.pipeline.fingerprints import components_of
from dataengine.pipeline.plan import load
from tests.support.shared import SERIAL

pytestmark = [pytest.mark.data, pytest.mark.slow]


@pytest.fixture(scope="module")
def cartwheel(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    absent = weights.missing(components_of(builder.resolve("posecap", {"folder": None}, overlay="cpu")).values())
    if absent:
        pytest.skip(f"dataengine weights {' '.join(absent)} gets them")
    folder = tmp_path_factory.mktemp("cartwheel")
    (video,) = (shared_data / "videos").glob("hmdb51_*_cartwheel_*.avi")
    shutil.copy(video, folder / video.name)
    fewer = ["pose.max_fps=10.0", "pose.detect_every=3"]
    dataengine.build(
        "posecap", {"folder": str(folder)}, folder / "out", overlay="cpu", overrides=fewer, engine=SERIAL, device="cpu"
    )
    return folder / "out"


def test_the_acrobat_of_a_cartwheel_is_found_and_not_only_the_spectator(cartwheel: Path) -> None:
    """She walks in from the left, turns over in the middle and stands further right; the spectator sits in front."""
    job = job_of(cartwheel)
    (row,) = load(job.work).rows()
    arrays = pose_arrays(job.ledger("poses"), row["unit"], row["clip_id"])
    middle = np.nanmedian(arrays["keypoints"], axis=2)  # (M, T, 2) in pixels of 320 x 240, people by rank
    first, last = middle[0, :5], middle[:, -5:]
    assert np.nanmedian(first[:, 0]) < 120 and np.nanmax(first[:, 1]) < 160
    standing = (last[..., 0] > 150) & (last[..., 1] < 160)
    assert standing.any(0).sum() >= 3  # the spectator sits lower
