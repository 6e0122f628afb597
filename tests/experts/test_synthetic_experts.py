"""The built-in experts find rendered people, and say so only where there are any."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from dataengine.core import registry
from dataengine.core.errors import ExpertError, WeightsError
from dataengine.core.types import Poses
from dataengine.experts import synthetic
from dataengine.rendering import RenderedClip, render_clip

MEMBERS = ("synthetic_topdown", "synthetic_bottomup", "synthetic_regression")
LIMIT = 7_000_000
FIRST_SEED = 2_000_000


def _look(frames: np.ndarray, name: str) -> list[Poses]:
    expert = registry.create("experts", name)
    boxes = synthetic.SyntheticDetector().load().detect(frames) if expert.needs_boxes else None
    with expert.load() as session:
        poses: list[Poses] = session.predict(frames, boxes)
    return poses


def _right(poses: list[Poses], clip: RenderedClip) -> tuple[int, int]:
    """Joints within half a head of the truth, taking the nearest pose, and joints in the picture."""
    right = joints = 0
    for t, frame in enumerate(poses):
        for p in range(clip.joints.shape[1]):
            inside = (
                (clip.joints[t, p] >= 0) & (clip.joints[t, p] < (clip.frames.shape[2], clip.frames.shape[1]))
            ).all(-1)
            joints += int(inside.sum())
            if len(frame):
                gaps = np.nan_to_num(np.linalg.norm(frame.coords - clip.joints[t, p], axis=-1), nan=1e9)
                nearest = gaps[np.minimum(gaps, 100).mean(-1).argmin()]
                right += int(((nearest <= 0.5 * clip.head[t, p]) & inside).sum())
    return right, joints


@pytest.fixture(scope="module")
def clips() -> list[RenderedClip]:
    return [render_clip(FIRST_SEED + k, 3, condition="clean", irregular=True) for k in range(24)]


@pytest.mark.parametrize("name", MEMBERS)
def test_rendered_people_are_found(name: str, clips: list[RenderedClip]) -> None:
    counts = np.array([_right(_look(clip.frames, name), clip) for clip in clips]).sum(0)
    assert counts[1] > 700
    assert counts[0] / counts[1] > 0.7


def test_detector_boxes_hold_the_people(clips: list[RenderedClip]) -> None:
    found = 0
    for clip in clips:
        for boxes, joints in zip(
            synthetic.SyntheticDetector().load().detect(clip.frames), clip.joints[:, 0], strict=True
        ):
            seen = joints[((joints >= 0) & (joints < (340, 256))).all(-1)]
            assert boxes.shape[1] == 5 and (np.diff(boxes[:, 4]) <= 0).all()
            found += any(((seen >= b[:2] - 12) & (seen <= b[2:4] + 12)).all() for b in boxes)
    assert found / (3 * len(clips)) > 0.85


@pytest.mark.parametrize("name", MEMBERS)
def test_hardly_anybody_is_seen_on_backgrounds(name: str) -> None:
    ghosts = sum(len(p) for k in range(20) for p in _look(render_clip(FIRST_SEED + k, 2, num_people=0).frames, name))
    assert ghosts <= 6


@pytest.mark.parametrize("name", MEMBERS)
def test_scores_say_how_likely_a_joint_is_right(name: str, clips: list[RenderedClip]) -> None:
    """Joints of high scores are right more often than joints of low ones, and about as often as the scores say."""
    scores, right = [], []
    for clip in clips:
        for t, frame in enumerate(_look(clip.frames, name)):
            gaps = np.linalg.norm(frame.coords - clip.joints[t, 0], axis=-1)
            if len(frame):
                m = int(np.nan_to_num(gaps, nan=100).mean(-1).argmin())
                seen = np.isfinite(gaps[m])
                scores.append(frame.scores[m][seen])
                right.append(gaps[m][seen] <= 0.5 * clip.head[t, 0])
    p, hit = np.concatenate(scores), np.concatenate(right)
    sure = p > np.median(p)
    assert hit[sure].mean() > hit[~sure].mean() + 0.05
    assert abs(p.mean() - hit.mean()) < 0.15


@pytest.mark.parametrize("name", MEMBERS)
def test_poses_keep_the_contract(name: str, clips: list[RenderedClip]) -> None:
    frames = np.concatenate([clip.frames for clip in clips[:4]])
    poses = _look(frames, name)
    assert len(poses) == len(frames)
    for p in poses:
        assert p.coords.shape == (len(p), 14, 2) and p.coords.dtype == np.float32
        assert p.scores.shape == (len(p), 14) and p.scores.dtype == np.float32 and p.boxes.shape == (len(p), 5)
        seen = np.isfinite(p.coords).all(-1)
        assert np.array_equal(seen, p.scores > 0)
        assert (p.scores <= 1).all()


@pytest.mark.parametrize("name", MEMBERS)
def test_frames_of_a_batch_do_not_touch_each_other(name: str, clips: list[RenderedClip]) -> None:
    frames = np.concatenate([clip.frames for clip in clips[:8]])
    together = _look(frames, name)
    for t in (0, 7, 17, 23):
        alone = _look(frames[t : t + 1], name)[0]
        assert np.array_equal(alone.coords, together[t].coords, equal_nan=True)
        assert np.array_equal(alone.scores, together[t].scores)


@pytest.mark.parametrize("size", [(1020, 768), (170, 128)])
@pytest.mark.parametrize("name", MEMBERS)
def test_any_frame_size(name: str, size: tuple[int, int], clips: list[RenderedClip]) -> None:
    counts = np.zeros(2)
    for k in range(10):
        clip = render_clip(FIRST_SEED + k, 2, condition="clean", size=size, irregular=True)
        counts += _right(_look(clip.frames, name), clip)
    assert counts[0] / counts[1] > 0.55


@pytest.mark.parametrize("name", MEMBERS)
def test_nothing_in_nothing_out(name: str) -> None:
    expert = registry.create("experts", name).load()
    assert expert.predict(np.zeros((0, 50, 60, 3), np.uint8), []) == []
    grey = np.full((2, 50, 60, 3), 90, np.uint8)
    assert [len(p) for p in expert.predict(grey, [np.zeros((0, 5), np.float32)] * 2)] == [0, 0]
    broken = [np.array([[5, 5, 5, 40, 1], [np.nan, 0, 9, 9, 1]], np.float32)] * 2
    assert all(p.coords.shape[1:] == (14, 2) for p in expert.predict(grey, broken))


@pytest.mark.parametrize("name", ["synthetic_topdown", "synthetic_regression"])
def test_boxes_must_be_given(name: str) -> None:
    expert = registry.create("experts", name).load()
    frames = np.zeros((2, 50, 60, 3), np.uint8)
    with pytest.raises(ExpertError, match="boxes per frame"):
        expert.predict(frames)
    with pytest.raises(ExpertError, match="given 1 for 2"):
        expert.predict(frames, [np.zeros((0, 5), np.float32)])


def test_the_detector_keeps_its_contract() -> None:
    detector = registry.create("detectors", "synthetic_detector", {"threshold": 0.5})
    assert list(detector.weights()) == ["synthetic_detector.onnx"]
    assert detector.load().detect(np.zeros((0, 50, 60, 3), np.uint8)) == []


def test_shipped_files_are_those_of_the_manifest_and_small() -> None:
    folder = synthetic.weights_folder()
    files = {path.name: path for path in folder.glob("*.onnx")}
    assert set(files) == set(synthetic.shipped_hashes())
    assert sum(path.stat().st_size for path in files.values()) <= LIMIT
    assert "rendered" in (folder / "MODEL_CARD.md").read_text()


@pytest.mark.parametrize("harm", ["altered", "missing", "manifest"])
def test_altered_or_missing_weights_are_refused(harm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "weights"
    shutil.copytree(synthetic.weights_folder(), folder)
    path = folder / "synthetic_topdown.onnx"
    if harm == "altered":
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(bytes(content))
    elif harm == "missing":
        path.unlink()
    else:
        (folder / "manifest.json").unlink()
    monkeypatch.setattr(synthetic, "weights_folder", lambda: folder)
    with pytest.raises(WeightsError, match="install the package again"):
        synthetic.SyntheticTopDown().load()


def test_weights_name_what_is_loaded() -> None:
    promised = json.loads((synthetic.weights_folder() / "manifest.json").read_text())["files"]
    for name in MEMBERS:
        ((file, digest),) = registry.create("experts", name).weights().items()
        assert promised[file] == digest and len(digest) == 64
