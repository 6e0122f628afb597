"""YOLO pose networks: the same people as ultralytics' own predict finds with the same weights, and nothing of it left
behind."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
if not any((Path(p) / "ultralytics").is_dir() for p in sys.path):
    pytest.skip("ultralytics is not installed", allow_module_level=True)

from dataengine.experts.checkpoints import read_state
from dataengine.experts.ultralytics import empty_network, import_ultralytics
from tests.support.torch_setup import one_thread, random_weights, scene


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    one_thread()
    return tmp_path_factory.mktemp("yolo")


def predicted(expert: Any, picture: np.ndarray) -> Any:
    """What ultralytics' predictor says of a picture (RGB)."""
    import_ultralytics("the test")
    from ultralytics.models.yolo.pose import PosePredictor

    network = empty_network(expert.model, "the test")
    network.load_state_dict(read_state(Path(expert.checkpoint)))
    network.names = {0: "person"}
    options = {
        "conf": expert.threshold, "iou": expert.overlap, "imgsz": expert.side, "max_det": expert.max_people,
        "rect": False, "save": False, "verbose": False, "device": "cpu", "mode": "predict",
    }  # fmt: skip
    predictor = PosePredictor(overrides=options)
    predictor.setup_model(network.eval(), verbose=False)
    (result,) = predictor([picture[..., ::-1].copy()])
    return result


@pytest.mark.parametrize(
    "model",
    [
        "yolo11n-pose",
        pytest.param("yolov8n-pose", marks=pytest.mark.slow),
        pytest.param("yolo11m-pose", marks=pytest.mark.slow),
    ],
)
def test_as_ultralytics_predicts(model: str, folder: Path) -> None:
    # a picture of the network's size needs no letterbox: both see the same pixels
    expert = random_weights.ultralytics(folder, model, side=320, threshold=0.02, min_score=0.0, min_mean=0.0)
    picture = scene(320, 320)
    (got,) = expert.load().infer(picture[None])
    theirs = predicted(expert, picture)
    assert len(got) == len(theirs.boxes) > 3
    np.testing.assert_allclose(got[:, 4], theirs.boxes.conf.numpy(), atol=1e-4)
    np.testing.assert_allclose(got[:, :4], theirs.boxes.xyxy.numpy(), atol=0.05)
    joints = got[:, 5:].reshape(-1, 17, 3)
    points = theirs.keypoints.data.numpy()
    # theirs are clipped to the picture
    np.testing.assert_allclose(np.clip(joints[..., :2], 0, 320), points[..., :2], atol=0.05)
    np.testing.assert_allclose(joints[..., 2], points[..., 2], atol=1e-4)


def test_a_letterboxed_frame_as_ultralytics_predicts(folder: Path) -> None:
    """Enlarged to twice its size; they put the middle of the first pixel half a pixel of the picture elsewhere."""
    expert = random_weights.ultralytics(folder, side=640, threshold=0.02, min_score=0.0, min_mean=0.0)
    picture = scene(320, 240)
    (poses,) = expert.load().predict(picture[None])
    theirs = predicted(expert, picture)
    np.testing.assert_allclose(poses.boxes[:, 4], theirs.boxes.conf.numpy()[: len(poses)], atol=1e-3)
    points = theirs.keypoints.data.numpy()[: len(poses)]
    inside = np.isfinite(poses.coords).all(-1) & (points[..., :2] > 0).all(-1) & (points[..., :2] < [319, 239]).all(-1)
    assert inside.sum() > 10
    shift = (poses.coords - points[..., :2])[inside]
    np.testing.assert_allclose(np.median(shift, 0), -0.25, atol=0.02)
    assert np.abs(shift + 0.25).max() < 0.1


def test_importing_it_changes_nothing_and_asks_no_network() -> None:
    script = """
import os, socket
def refuse(*given): raise AssertionError(f"asked the network for {given}")
socket.socket.connect = refuse
socket.getaddrinfo = refuse
os.environ.pop("OMP_NUM_THREADS", None)
import cv2, numpy as np, torch
cv2.setNumThreads(3)
before = dict(os.environ), np.get_printoptions(), torch.save, cv2.getNumThreads()
from dataengine.experts.ultralytics import empty_network
empty_network("yolo11n-pose", "the test")
after = dict(os.environ), np.get_printoptions(), torch.save, cv2.getNumThreads()
assert before == after, [(a, b) for a, b in zip(before, after) if a != b]
"""
    home = Path(os.environ.get("TMPDIR", "/tmp"))
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120, cwd=home, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""


def test_a_pickled_module_is_read_without_its_classes(folder: Path, tmp_path: Path) -> None:
    """As ultralytics saves: whole modules in half precision, the averaged one first."""
    import torch

    network = empty_network("yolo11n-pose", "the test").eval()
    path = tmp_path / "best.pt"
    torch.save({"epoch": -1, "model": None, "ema": network.half(), "train_args": {"imgsz": 640}, "date": "2026"}, path)
    got = read_state(path)
    own = network.float().state_dict()
    assert got.keys() == own.keys()
    assert all(torch.equal(got[name].to(t.dtype), t) for name, t in own.items())


class Command:
    """An object whose unpickling would run a command."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.path}",)


def test_what_a_checkpoint_would_run_is_not_run(tmp_path: Path) -> None:
    import torch

    path, mark = tmp_path / "bad.pt", tmp_path / "ran"
    torch.save({"state_dict": {"weight": torch.ones(2)}, "extra": Command(mark)}, path)
    assert list(read_state(path)) == ["weight"]
    assert not mark.exists()
