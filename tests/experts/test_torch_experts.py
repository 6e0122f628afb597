"""What all experts on torch have in common: published weights, errors, threads, memory, real pictures."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, get_args, get_type_hints

import cv2
import numpy as np
import pytest

pytest.importorskip("torch")

from dataengine.core import registry
from dataengine.core.errors import ComponentError, ExpertError, WeightsError
from dataengine.core.skeletons import skeleton
from dataengine.experts.batching import AdaptiveBatchSize, NetworkSession
from dataengine.io import weights
from tests.support.local_experts import make
from tests.support.torch_setup import scene

NAMES = [("experts", n) for n in ("vitpose", "keypoint_rcnn", "rtmpose", "mmpose", "ultralytics")] + [
    ("detectors", "rtdetr")
]


@pytest.mark.parametrize(("kind", "name"), NAMES)
def test_every_model_has_published_weights_in_the_manifest(kind: str, name: str) -> None:
    cls = registry.component_class(kind, name)
    models = get_args(get_type_hints(cls).get("model")) or (None,)
    known = weights.manifest()
    for model in models:
        made = registry.create(kind, name, {"model": model} if model else {})
        (file,) = made.needs()
        assert name in known[file].used_by
        assert made.licence.split()[0] == known[file].licence


@pytest.mark.parametrize(("kind", "name"), NAMES)
def test_absent_weights_are_named_with_the_command_that_gets_them(
    kind: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATAENGINE_WEIGHTS", str(tmp_path))
    made = registry.create(kind, name)
    with pytest.raises(WeightsError, match="get them with  dataengine weights"):
        made.load("cpu")
    local = registry.create(kind, name, {"checkpoint": str(tmp_path / "none.pt")})
    assert local.needs() == []
    with pytest.raises(WeightsError, match="neither a file here nor a name"):
        local.weights()


@pytest.mark.parametrize(
    ("kind", "name", "options", "words"),
    [
        ("experts", "vitpose", {"batch": 0}, "batch = 0: at least 1"),
        ("experts", "vitpose", {"model": "huge"}, "model = 'huge'"),
        ("experts", "mmpose", {"threshold": 2.0}, "threshold = 2.0: lies in"),
        ("experts", "ultralytics", {"side": 100}, "side = 100: a multiple of 32"),
        ("detectors", "rtdetr", {"max_people": 0}, "max_people = 0: at least 1"),
    ],
)
def test_wrong_options(kind: str, name: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ComponentError, match=words):
        registry.create(kind, name, options)


def test_a_device_that_is_not_there(tmp_path: Path) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is one")
    made = make("mmpose", tmp_path)
    with pytest.raises(ComponentError, match="no CUDA device"):
        made.load("cuda")


@pytest.mark.parametrize(
    ("name", "module", "extra"),
    [
        ("vitpose", "transformers", "vitpose"),
        ("mmpose", "mmengine", "mmpose"),
        ("ultralytics", "ultralytics", "yolo"),
        ("keypoint_rcnn", "torch", "torch"),
    ],
)
def test_a_missing_library_names_its_extra(name: str, module: str, extra: str, tmp_path: Path) -> None:
    (tmp_path / "some.pt").write_bytes(b"")
    script = (
        f"import sys; sys.modules[{module!r}] = None\n"
        "from dataengine.core import registry\n"
        "from dataengine.core.errors import MissingExtraError\n"
        "try:\n"
        f"    registry.create('experts', {name!r}, {{'checkpoint': 'some.pt'}}).load()\n"
        "except MissingExtraError as error:\n"
        f"    assert {'--extra ' + extra!r} in str(error), error\n"
        "else:\n"
        "    raise AssertionError('no error')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr


def test_threads_get_what_one_thread_gets(tmp_path: Path) -> None:
    made = make("ultralytics", tmp_path)
    with made.load() as session:
        inputs = session.preprocess(np.stack([scene(), scene()[:, ::-1]]))
        alone = session.infer(inputs.pixels)
        with ThreadPoolExecutor(4) as pool:
            answers = list(pool.map(lambda _: session.infer(inputs.pixels), range(4)))
    for answer in answers:
        assert all(np.array_equal(a, b) for a, b in zip(alone, answer, strict=True))


def test_out_of_memory_halves_the_batch_and_ends_in_a_typed_error(tmp_path: Path) -> None:
    import torch

    whole = make("mmpose", tmp_path).load()
    pixels = whole.preprocess(scene()[None].repeat(4, 0), [np.array([[20.0, 20, 150, 200]])] * 4).pixels
    room = 2

    def infer(some: np.ndarray) -> Any:
        if len(some) > room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return whole.infer(some)

    small = NetworkSession(whole.processing, infer, 4)
    size = AdaptiveBatchSize(4)
    got = size.run(small, pixels)
    assert (size.batch, size.halvings) == (2, 1)
    assert all(np.allclose(a, b, atol=1e-3) for a, b in zip(got, whole.infer(pixels), strict=True))
    room = 0
    with pytest.raises(ExpertError, match="out_of_memory"):
        AdaptiveBatchSize(4).run(small, pixels)


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.parametrize("name", [n for kind, n in NAMES if kind == "experts"])
def test_real_pictures_and_clips_go_through(name: str, tmp_path: Path, shared_data: Path) -> None:
    """Every picture, and the first frames of every clip that can be decoded: plumbing only, the weights are random."""
    from dataengine.media.decode import read_frames

    made = make(name, tmp_path)
    pictures = [
        cv2.cvtColor(cv2.imread(str(p)), cv2.COLOR_BGR2RGB)[None]
        for p in sorted((shared_data / "keypoints2d").rglob("*.jpg"))
    ]
    clips = []
    for path in sorted((shared_data / "videos").glob("*.*")):
        if path.suffix in (".mp4", ".avi", ".mkv"):
            clips.append(np.stack(read_frames(path, range(4 if name == "keypoint_rcnn" else 32))))
    assert len(pictures) == 12
    assert len(clips) >= 10
    joints = skeleton(made.skeleton).num_joints
    session = made.load()
    for frames in pictures + clips:
        whole = np.array([[0, 0, frames.shape[2], frames.shape[1], 1]], np.float32)
        poses = session.predict(frames, [whole] * len(frames))
        assert len(poses) == len(frames)
        assert all(p.coords.shape[1:] == (joints, 2) and np.isfinite(p.boxes).all() for p in poses)
