"""Images made on the device, in torch, beside those that OpenCV makes on the host."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from dataengine.core.accelerator import cpu_as_accelerator
from dataengine.core.types import Frames
from dataengine.experts.device_images import DeviceFrames, DeviceImages, joined
from dataengine.experts.preprocess import BoxProcessing, CropProcessing, FrameProcessing, warp
from dataengine.experts.vitpose import UnbiasedCrops
from tests.support.torch_setup import BOXES, one_thread, random_weights, scene

CPU = torch.device("cpu")
SIZES = [(320, 240), (340, 256), (641, 359), (1280, 720), (97, 211)]


def pictures(width: int, height: int) -> Frames:
    """A rendered picture with sharp edges, the same smoothed, and noise."""
    noise = np.random.default_rng(width).integers(0, 256, (height, width, 3), np.uint8)
    return np.stack([scene(width, height), cv2.GaussianBlur(scene(width, height), (9, 9), 2.0), noise])


def close(own: Any, expected: Frames, share: float) -> None:
    """At most one grey level apart, and only in a small share of values."""
    assert isinstance(own, DeviceImages)
    away = np.abs(own.gather().numpy().astype(int) - expected)
    assert away.max() <= 1
    assert (away > 0).mean() <= share


@pytest.mark.parametrize(("width", "height"), SIZES)
@pytest.mark.parametrize(
    "processing",
    [
        FrameProcessing((640, 640), "coco17", 0.0, 0.0),
        FrameProcessing((800, 608), "coco17", 0.0, 0.0, False, (124, 116, 104)),
        FrameProcessing((96, 64), "coco17", 0.0, 0.0),
        BoxProcessing((640, 640), keep_ratio=False),
        BoxProcessing((160, 96), keep_ratio=False),
    ],
    ids=["letterbox", "corner", "small", "stretch", "shrink"],
)
def test_resized_frames_are_within_one_grey_level_of_opencv(processing: Any, width: int, height: int) -> None:
    frames = pictures(width, height)
    host, device = processing.preprocess(frames), processing.preprocess(DeviceFrames(frames, CPU))
    close(device.pixels, host.pixels, 0.01)
    np.testing.assert_array_equal(device.affines, host.affines)
    np.testing.assert_array_equal(device.boxes, host.boxes)
    np.testing.assert_array_equal(device.frame, host.frame)


@pytest.mark.parametrize(("width", "height"), SIZES)
@pytest.mark.parametrize(
    "processing",
    [
        CropProcessing("test", (192, 256), "coco17", 0.0, 0.0),
        CropProcessing("test", (288, 384), "coco17", 0.0, 0.0, fill=(114, 90, 3)),
        UnbiasedCrops("test", (192, 256), "coco17", 0.0, 0.0),
    ],
    ids=["rtmpose", "large", "vitpose"],
)
def test_crops_are_within_one_grey_level_of_opencv(processing: Any, width: int, height: int) -> None:
    """Boxes inside, over the edges, tiny, empty and not finite."""
    frames, share = pictures(width, height), np.array([width, height] * 2) / np.array([320, 240] * 2)
    some = np.concatenate([BOXES, [[-30.0, -20, 60, 90], [200, 100, 400, 300], [50, 50, 58, 61]]]) * share
    boxes = [some, np.concatenate([some[:1], [[9, 9, 9, 9], [np.nan] * 4]]), np.zeros((0, 5))]
    host, device = processing.preprocess(frames, boxes), processing.preprocess(DeviceFrames(frames, CPU), boxes)
    close(device.pixels, host.pixels, 0.002)
    np.testing.assert_array_equal(device.affines, host.affines)
    np.testing.assert_array_equal(device.boxes, host.boxes)
    np.testing.assert_array_equal(device.frame, host.frame)


def test_turned_crops_are_within_one_grey_level_of_opencv() -> None:
    frames = pictures(320, 240)
    affines = np.array([[[0.31, 0.2, 5], [-0.2, 0.31, 50]], [[-1.4, 0.7, 200.5], [0.7, 1.4, -90.25]]])
    device = DeviceFrames(frames, CPU).warp(np.array([2, 0]), affines, (192, 256), (9, 8, 7))
    expected = np.stack([warp(frames[t], affine, (192, 256), (9, 8, 7)) for t, affine in zip((2, 0), affines)])
    close(device, expected, 0.01)


def test_some_frames_and_joined_pieces_keep_their_order() -> None:
    frames = np.arange(7, dtype=np.uint8)[:, None, None, None].repeat(8, 1).repeat(8, 2).repeat(3, 3)
    device = DeviceFrames(frames, CPU)
    assert device.shape == frames.shape
    images = joined([device[[1, 4]].resize((8, 8), False), device[2:6][1:].resize((8, 8), False)])
    assert isinstance(images, DeviceImages)
    assert images.shape == (5, 8, 8, 3)
    assert images.gather()[:, 0, 0, 0].tolist() == [1, 4, 3, 4, 5]
    assert images[1:4].gather()[:, 0, 0, 0].tolist() == [4, 3, 4]
    assert images[1:4].gather(4)[:, 0, 0, 0].tolist() == [4, 3, 4, 4]  # filled up with the first
    assert len(images[5:]) == 0


@pytest.mark.parametrize(
    "name",
    ["rtmpose", *(pytest.param(name, marks=pytest.mark.slow) for name in ("vitpose", "keypoint_rcnn", "rtdetr"))],
)
def test_joints_are_within_a_tenth_of_a_pixel_of_the_opencv_path(name: str, tmp_path: Path) -> None:
    """Uploaded frames, images made on the device and batches filled up, against OpenCV's crops one by one."""
    one_thread()
    options: dict[str, Any] = {"min_score": 0.0, "min_mean": 0.0}
    if name == "vitpose":
        made = random_weights.vitpose(tmp_path, "plus-small", **options)
    elif name == "rtmpose":
        made = random_weights.rtmpose(tmp_path, "t", **options)
    elif name == "keypoint_rcnn":
        made = random_weights.keypoint_rcnn(tmp_path, width=320, height=256, proposals=50, max_people=3, **options)
    else:
        made = random_weights.rtdetr(tmp_path, threshold=0.0, max_people=5)
    frames = np.stack([scene(310, 236), scene(310, 236)[:, ::-1], scene(310, 236)[::-1]])
    boxes = [BOXES] * 3
    with made.load() as session:
        host = session.detect(frames) if name == "rtdetr" else session.predict(frames, boxes)
    with cpu_as_accelerator(), made.load() as session:
        uploaded = session.upload(frames)
        device = session.detect(uploaded) if name == "rtdetr" else session.predict(uploaded, boxes)
    away = []
    for a, b in zip(host, device, strict=True):
        if name == "rtdetr":
            away.append(np.abs(a[:, :4] - b[:, :4]).ravel())
        else:
            assert len(a) == len(b) > 0
            away.append(np.linalg.norm(a.coords - b.coords, axis=-1).ravel())
    pixels = np.concatenate(away)
    print(f"{name}: joints differ by {np.nanmax(pixels):.4f} px at most, {np.nanmean(pixels):.5f} on average")
    assert np.nanmax(pixels) < 0.1
