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


def test_the_acrobat_of_a_cartwheel_is_found_upside_down(cartwheel: Path) -> None:
    job = job_of(cartwheel)
    (row,) = load(job.work).rows()
    arrays = pose_arrays(job.ledger("poses"), row["unit"], row["clip_id"])
    names = arrays["json"]["skeleton"]
    assert names == "posetics17"
    ankles, hips = arrays["keypoints"][:, :, 15:17, 1], arrays["keypoints"][:, :, 11:13, 1]
    upside_down = (np.nanmax(ankles, -1) < np.nanmin(hips, -1)).sum(1)
    assert upside_down.max() >= 3  # frames in which both feet of a person are above the hips
