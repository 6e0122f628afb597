"""Pseudo-labels: who is sure enough, boxes as documented, and pictures that come back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dataengine.core.errors import LedgerError
from dataengine.io import shards
from dataengine.refine.pseudo_labels import (
    IMAGE,
    LabelledFrames,
    Thresholds,
    boxes_around,
    decode,
    encode,
    labels_of,
    read_clips,
)

LIMITS = Thresholds(gamma=0.18, min_score=0.3, min_joints=3)


def test_a_box_is_the_extent_of_the_joints_with_each_side_moved_by_a_twentieth() -> None:
    joints = np.array([[[10, 20], [110, 60], [np.nan, np.nan]], [[np.nan, np.nan]] * 3], np.float32)
    boxes = boxes_around(joints)
    assert boxes.dtype == np.float32 and boxes[0].tolist() == [5, 18, 115, 62] and np.isnan(boxes[1]).all()
    assert boxes_around(np.full((1, 3, 2), 7, np.float32)).tolist() == [[6.5, 6.5, 7.5, 7.5]]


def test_people_above_gamma_with_enough_sure_joints_are_labels() -> None:
    rng = np.random.default_rng(0)
    points = rng.uniform(0, 100, (4, 5, 2)).astype(np.float32)
    scores = np.full((4, 5), 0.9, np.float32)
    scores[1, 1:] = 0.29  # one sure joint
    points[2, 0], scores[2, 0] = np.nan, 0
    scores[2, 1] = 0.1
    confidence = np.array([0.18, 0.9, 0.9, 0.17], np.float32)
    found, certain, boxes = labels_of(points, scores, confidence, LIMITS)
    assert found.shape == (2, 5, 2) and boxes.shape == (2, 4)
    assert np.array_equal(found[0], points[0]) and np.isnan(found[1, :2]).all() and (certain[1, :2] == 0).all()
    assert np.array_equal(boxes[1], boxes_around(points[2:3])[0]), "a box shows joints that are no labels, too"
    assert not len(labels_of(points, scores, np.zeros(4, np.float32), LIMITS)[0])


def write(path: Path, clips: int = 2, lacking: bool = False) -> dict[str, np.ndarray]:
    rng, images = np.random.default_rng(1), {}
    with shards.ShardWriter(path) as writer:
        for n in range(clips):
            frames = [3, 8, 20]
            smooth = np.linspace(0, 255, 40 * 60 * 3).reshape(40, 60, 3).astype(np.uint8)
            entries = {"json": {"frames": frames}}
            for number, frame in enumerate(frames):
                images[f"clip{n}:{frame}"] = np.roll(smooth, 5 * number + n, 0)
                if not (lacking and number):
                    entries[IMAGE.format(frame)] = encode(images[f"clip{n}:{frame}"])
            entries["keypoints.npy"] = rng.uniform(0, 40, (2, 3, 13, 2)).astype(np.float32)
            entries["scores.npy"] = np.full((2, 3, 13), 0.5, np.float16)
            entries["confidence.npy"] = np.array([[0.9, 0.1, 0.9], [0.9, 0.1, 0.1]], np.float16)
            writer.write(f"clip{n}", entries)
    return images


def test_pictures_come_back_nearly_as_they_were() -> None:
    image = (
        np.random.default_rng(0).integers(0, 40, (33, 47, 3)).astype(np.uint8) + np.arange(47, dtype=np.uint8)[:, None]
    )
    again = decode(encode(image))
    assert again.shape == image.shape and np.abs(again.astype(int) - image).mean() < 4
    assert encode(image) == encode(image)


def test_frames_are_read_when_they_are_asked_for(tmp_path: Path) -> None:
    images = write(tmp_path / "a.tar")
    frames = LabelledFrames(read_clips(tmp_path / "a.tar"), LIMITS)
    assert [frame.key for frame in frames] == ["clip0:3", "clip0:20", "clip1:3", "clip1:20"]
    assert [len(frame) for frame in frames[:2]] == [2, 1] and frames.people == 6 and len(frames) == 4
    for frame in frames:
        assert frame.image.shape == (40, 60, 3) and frame.skeleton == "body13"
        assert np.abs(frame.image.astype(int) - images[frame.key]).mean() < 3


def test_frames_can_be_labelled_anew(tmp_path: Path) -> None:
    write(tmp_path / "a.tar", 1)
    points = np.ones((1, 3, 13, 2), np.float32) * np.arange(13)[:, None]
    again = (points, np.ones((1, 3, 13), np.float32), np.ones((1, 3), np.float32))
    frames = LabelledFrames(read_clips(tmp_path / "a.tar"), LIMITS, lambda clip: again)
    assert [frame.key for frame in frames] == ["clip0:3", "clip0:8", "clip0:20"]
    assert np.array_equal(frames[1].keypoints, points[:, 1])


def test_a_clip_without_its_pictures_is_damaged(tmp_path: Path) -> None:
    write(tmp_path / "a.tar", 1, lacking=True)
    with pytest.raises(LedgerError, match="clip0 lacks a picture"):
        read_clips(tmp_path / "a.tar")
