"""MediaPipe on real people; makes its environment of its own the first time."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from dataengine import experts
from dataengine.core.errors import ExpertError
from dataengine.core.skeletons import BODY12, skeleton
from dataengine.core.types import Frames, Poses
from dataengine.experts import mediapipe
from dataengine.experts.mediapipe import MediaPipe, MediaPipeSession
from dataengine.media.decode import PyAVDecoder

pytestmark = [pytest.mark.slow, pytest.mark.network]

BODY = skeleton("blazepose33").indices(BODY12)


@pytest.fixture(scope="module")
def expert() -> Iterator[MediaPipeSession]:
    with MediaPipe().load() as session:
        assert isinstance(session, MediaPipeSession)
        yield session


def read(path: Path, num_frames: int) -> Frames:
    parts: list[Frames] = []
    for batch in PyAVDecoder().open(path):
        parts.append(batch.frames)
        if sum(map(len, parts)) >= num_frames:
            break
    return np.concatenate(parts)[:num_frames]


def look(expert: MediaPipeSession, frames: Frames) -> list[Poses]:
    expert.start_clip()
    return expert.predict(frames)


def visible(pose: Poses) -> int:
    """Most body joints of one person that are inside the picture with a score above 0.5."""
    return int((pose.scores[:, BODY] > 0.5).sum(1).max(initial=0))


def share(poses: list[Poses], people: int) -> float:
    return float(np.mean([len(p) >= people for p in poses]))


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "people", "num_frames"),
    [
        ("clean_and_jerk.mp4", 1, 40),
        ("v_SoccerJuggling_g23_c01.avi", 1, 40),
        ("ntu_two_people_demo.mp4", 2, 32),
        ("street_crowd.avi", 1, 16),
    ],
)
def test_real_people_are_found(
    expert: MediaPipeSession, shared_data: Path, name: str, people: int, num_frames: int
) -> None:
    poses = look(expert, read(shared_data / "videos" / name, num_frames))
    assert share(poses, people) >= 0.85
    assert np.median([visible(p) for p in poses]) >= 8


@pytest.mark.data
def test_two_people_stand_beside_each_other(expert: MediaPipeSession, shared_data: Path) -> None:
    """Both are upright, of like size, and the same two in every frame."""
    poses = look(expert, read(shared_data / "videos" / "ntu_two_people_demo.mp4", 16))
    middles = np.array([sorted(p.coords[:, BODY].mean(1)[:, 0]) for p in poses])
    assert middles.shape == (16, 2)
    assert (np.diff(middles, axis=1) > 150).all()
    assert (np.ptp(middles, axis=0) < 60).all()
    for pose in poses:
        shoulders, hips, ankles = (
            pose.coords[:, skeleton("blazepose33").indices(j), 1].mean(1)
            for j in (BODY12[:2], BODY12[6:8], BODY12[10:])
        )
        assert (shoulders < hips).all() and (hips < ankles).all()


@pytest.mark.data
@pytest.mark.parametrize(("name", "most"), [("cleaning_pool_test.mp4", 0.4), ("edge/bt709_full_range.mp4", 0.0)])
def test_hardly_anybody_is_found_where_nobody_is(
    expert: MediaPipeSession, shared_data: Path, name: str, most: float
) -> None:
    poses = look(expert, read(shared_data / "videos" / name, 80))
    assert np.mean([visible(p) >= 8 for p in poses]) <= most


@pytest.mark.data
def test_a_clip_is_a_function_of_its_frames(expert: MediaPipeSession, shared_data: Path) -> None:
    """Batches, other clips before, and a worker killed in between change nothing."""
    frames = read(shared_data / "videos" / "v_SoccerJuggling_g23_c01.avi", 21)
    whole = look(expert, frames)
    look(expert, read(shared_data / "videos" / "clean_and_jerk.mp4", 3))
    expert.start_clip()
    parts: list[Poses] = []
    for start, stop in ((0, 1), (1, 1), (1, 6), (6, 20), (20, 21)):
        parts += expert.predict(frames[start:stop])
        if start == 6:
            pid = expert.process.pid
            os.kill(pid, signal.SIGKILL)
            time.sleep(0.1)
    for a, b in zip(whole, parts, strict=True):
        for name in ("coords", "scores", "boxes"):
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name))


def test_frames_of_another_form_are_refused(expert: MediaPipeSession) -> None:
    with pytest.raises(ExpertError, match="uint8") as caught:
        expert.predict(np.zeros((1, 8, 8, 3), np.float32))  # type: ignore[arg-type]
    assert not caught.value.retryable


def test_other_networks_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mediapipe, "WEIGHTS", {n: "0" * 64 for n in mediapipe.WEIGHTS})
    with pytest.raises(ExpertError, match="sha256"):
        experts.create("mediapipe").load()
