"""What all experts on torch have in common: published weights, errors, threads, memory, real pictures."""

from __future__ import annotations

import dataclasses
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
from dataengine.core.accelerator import cpu_as_accelerator
from dataengine.core.errors import ComponentError, ExpertError, WeightsError
from dataengine.core.skeletons import skeleton
from dataengine.io import weights
from tests.support.local_experts import make
from tests.support.torch_setup import BOXES, random_weights, scene

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
        ("detectors", "rtdetr", {"cuda_graphs": True}, "cuda_graphs = true: this network cannot be recorded"),
        ("experts", "keypoint_rcnn", {"cuda_graphs": True}, "cuda_graphs = true: this network cannot be recorded"),
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


def test_out_of_memory_halves_what_reaches_the_network(tmp_path: Path) -> None:
    """The sizes that the network itself is given on the device, filled up to a power of two, become half as large."""
    import torch

    frames, boxes = scene()[None].repeat(11, 0), [np.array([[20.0, 20, 150, 200]])] * 11
    made = random_weights.rtmpose(tmp_path, "t", batch=16)
    expected = made.load().predict(frames, boxes)
    with cpu_as_accelerator():
        session: Any = made.load()
    sizes: list[int] = []
    room = 3

    def watch(module: Any, given: Any) -> None:
        sizes.append(len(given[0]))
        if len(given[0]) > room:
            raise torch.OutOfMemoryError("CUDA out of memory")

    session.network.module.register_forward_pre_hook(watch)
    got = session.predict(frames, boxes)
    assert sizes == [16, 8, 4, 2, 2, 2, 2, 2, 1]
    for a, b in zip(expected, got, strict=True):
        np.testing.assert_allclose(a.coords, b.coords, atol=0.05)
    sizes.clear()
    session.predict(frames[:5], boxes[:5])
    assert sizes == [2, 2, 1]  # remembered for as long as the process uses the network
    room = 0
    with pytest.raises(ExpertError, match="out_of_memory"):
        session.predict(frames[:2], boxes[:2])


def test_batches_are_filled_up_to_few_sizes(tmp_path: Path) -> None:
    """On an accelerator shapes are 1, 2, 4, 8 and the batch, whatever the number of images; padding is counted."""
    frames, box = scene()[None].repeat(20, 0), np.array([[20.0, 20, 150, 200]])
    with cpu_as_accelerator():
        session: Any = random_weights.rtmpose(tmp_path, "t", batch=12).load()
    sizes: list[int] = []
    session.network.module.register_forward_pre_hook(lambda module, given: sizes.append(len(given[0])))
    for count in (1, 3, 8, 9, 20):
        session.predict(frames[:count], [box] * count)
    assert sizes == [1, 4, 8, 12, 12, 8]
    assert (session.network.images, session.network.padding) == (41, 4)
    assert 0.08 < session.network.padding_share < 0.09


@pytest.mark.parametrize(
    ("name", "precision"),
    [
        ("rtmpose", "bfloat16"),
        ("rtmpose", "float16"),
        *(pytest.param(name, "float16", marks=pytest.mark.slow) for name in ("vitpose", "keypoint_rcnn", "rtdetr")),
    ],
)
def test_half_precision_ends_where_it_is_not_safe(name: str, precision: str, tmp_path: Path) -> None:
    """Backbones have half weights. Heads, proposals, regions, the decoder and the decoding are given float32."""
    import torch

    exact = make(name, tmp_path, "detectors" if name == "rtdetr" else "experts")
    made = dataclasses.replace(exact, precision=precision)
    with cpu_as_accelerator():
        session: Any = made.load()
    module = session.network.module
    dtype = getattr(torch, precision)
    half, full = {
        "rtmpose": (lambda m: [m.backbone], lambda m: [m.head]),
        "vitpose": (lambda m: [m.backbone], lambda m: [m.head]),
        "keypoint_rcnn": (
            lambda m: [m.backbone, m.rpn.head, m.roi_heads.box_head, m.roi_heads.keypoint_head],
            lambda m: [
                m.rpn.anchor_generator,
                m.roi_heads.box_roi_pool,
                m.roi_heads.box_predictor,
                m.roi_heads.keypoint_roi_pool,
                m.roi_heads.keypoint_predictor,
            ],
        ),
        "rtdetr": (
            lambda m: [m.model.backbone, m.model.encoder],
            lambda m: [*m.model.decoder_input_proj, m.model.enc_score_head, m.model.enc_bbox_head, m.model.decoder],
        ),
    }[name]
    assert all(weight.dtype == dtype for part in half(module) for weight in part.parameters())
    seen: list[Any] = []

    def watch(part: Any, given: Any, named: Any) -> None:
        seen.extend(floats([given, named]))

    for part in full(module):
        assert all(weight.dtype == torch.float32 for weight in part.parameters())
        part.register_forward_pre_hook(watch, with_kwargs=True)
    frames = scene(310, 236)[None]
    answers = [exact.load().detect(frames)] if name == "rtdetr" else [exact.load().predict(frames, [BOXES])]
    answers += [session.detect(frames)] if name == "rtdetr" else [session.predict(frames, [BOXES])]
    assert seen
    assert {tensor.dtype for tensor in seen} == {torch.float32}
    (a,), (b,) = answers
    if name in ("rtmpose", "vitpose"):  # random weights; people of the others are a lottery among equals
        away = np.linalg.norm(a.coords - b.coords, axis=-1)
        assert np.nanmedian(away) < (4 if precision == "bfloat16" else 1)
        assert np.abs(a.scores - b.scores).mean() < 0.05


def floats(value: Any) -> list[Any]:
    """All floating tensors in nested lists and dictionaries."""
    import torch

    if isinstance(value, torch.Tensor):
        return [value] if value.is_floating_point() else []
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
    return [one for part in parts for one in floats(part)]


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
