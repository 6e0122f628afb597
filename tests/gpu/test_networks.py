"""Every network on the GPU finds what it finds on the CPU, in float32 and in half precision."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dataengine.core.component import DetectorSession
from dataengine.core.types import Poses
from dataengine.rendering import render_clip

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(600)]

NETWORKS: dict[str, tuple[str, ...]] = {
    "vitpose": ("transformers",),
    "keypoint_rcnn": ("torchvision",),
    "rtmpose": (),
    "rtdetr": ("transformers",),
    "ultralytics": ("ultralytics",),
    "mmpose": ("mmpose",),
}
"""Networks, and what must be installed beside torch."""
NEAR = {"float32": (0.9, 0.05, 1.0), "auto": (0.7, 0.5, 2.0)}
"""Share of people found by both, and pixels that half and nine tenths of their joints are apart at most. Drawn weights
have near ties between people and between peaks, which a last bit decides: hence a tenth without a bound."""


def made(name: str, folder: Path, precision: str) -> Any:
    """A network with drawn weights."""
    from tests.support.torch_setup import random_weights

    absent = [module for module in NETWORKS[name] if importlib.util.find_spec(module) is None]
    if absent:
        pytest.skip(f"{name} needs {', '.join(absent)}")
    options: dict[str, Any] = {"precision": precision}
    if name == "rtdetr":
        return random_weights.rtdetr(folder, threshold=0.0, max_people=8, **options)
    if name == "keypoint_rcnn":
        options["max_people"] = 50  # few, and near ties decide which
    if name == "mmpose":
        options["model"] = "rtmpose-t"
    return getattr(random_weights, name)(folder, min_score=0.0, min_mean=0.0, **options)


def answers(component: Any, device: str, frames: np.ndarray, boxes: Sequence[np.ndarray]) -> tuple[list[Any], float]:
    """What a component finds, and frames a second of the second of two calls."""
    with component.load(device) as session:

        def call() -> list[Any]:
            if isinstance(session, DetectorSession):
                return session.detect(frames)
            return session.predict(frames, boxes)  # type: ignore[no-any-return]

        call()
        begun = time.perf_counter()
        found = call()
        return found, len(frames) / (time.perf_counter() - begun)


def points(one: Any) -> tuple[np.ndarray, np.ndarray]:
    """(boxes (M, 4), points (M, P, 2)) of the people of one frame: joints, or the corners of detections."""
    if isinstance(one, Poses):
        return one.boxes[:, :4], one.coords
    return one[:, :4], one[:, :4].reshape(-1, 2, 2)


def overlap(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union of boxes (M, 4) and (N, 4): (M, N)."""
    low, high = np.maximum(a[:, None, :2], b[None, :, :2]), np.minimum(a[:, None, 2:], b[None, :, 2:])
    both = np.clip(high - low, 0, None).prod(-1)
    areas = [np.clip(x[:, 2:] - x[:, :2], 0, None).prod(-1) for x in (a, b)]
    return np.asarray(both / np.maximum(areas[0][:, None] + areas[1][None] - both, 1e-9))


def compare(expected: list[Any], got: list[Any]) -> tuple[float, np.ndarray]:
    """(share of expected people that are found, pixels between all of their points)."""
    found, away = [], []
    for want, have in zip(expected, got, strict=True):
        (boxes, places), (other, others) = points(want), points(have)
        if not len(boxes):
            continue
        if not len(other):
            found += [False] * len(boxes)
            continue
        table = overlap(boxes, other)
        best = table.argmax(1)
        same = table[np.arange(len(boxes)), best] > 0.9
        found += same.tolist()
        away.append(np.linalg.norm(places[same] - others[best[same]], axis=-1).ravel())
    apart = np.concatenate(away) if away else np.zeros(0)
    return float(np.mean(found)) if found else 0.0, apart[np.isfinite(apart)]


@pytest.mark.parametrize("precision", ["float32", "auto"])
@pytest.mark.parametrize("name", NETWORKS)
def test_as_on_the_cpu(
    name: str,
    precision: str,
    device: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import torch

    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", precision != "float32")
    clip = render_clip(11, 4, condition="clean", num_people=2)
    frames = np.asarray(clip.frames)
    height, width = frames.shape[1:3]
    boxes = [np.array([[10.0, 10, width / 2, height - 10, 1], [width / 3, 0, width, height, 1]])] * len(frames)
    expected, slow = answers(made(name, tmp_path, "float32"), "cpu", frames, boxes)
    got, fast = answers(made(name, tmp_path, precision), device, frames, boxes)
    found, apart = compare(expected, got)
    assert len(apart) >= 8, "drawn weights find people"
    half, most = float(np.median(apart)), float(np.quantile(apart, 0.9))
    with capsys.disabled():
        print(
            f"\n{name} {precision}: {found:.0%} of people, half of {len(apart)} points within {half:.3f} px, nine "
            f"tenths within {most:.3f} px; {slow:.1f} frames/s on the CPU, {fast:.1f} on "
            f"{device} (batch of {len(frames)})"
        )
    least, middle, edge = NEAR[precision]
    assert found >= least and half <= middle and most <= edge


@pytest.mark.parametrize("precision", ["float32", "auto"])
def test_video_features_as_on_the_cpu(precision: str, device: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("open_clip")
    from dataengine.core import registry

    clips = [np.asarray(render_clip(seed, 16, condition="clean").frames) for seed in (3, 4, 5)]
    found = []
    for where, how in (("cpu", "float32"), (device, precision)):
        with registry.create("features", "viclip", {"size": "tiny", "precision": how}).load(where) as session:
            found.append((session.encode_video(clips), session.encode_text(["a person jumps", "two people dance"])))
    cosines = [float((a * b).sum(-1).min()) for a, b in zip(*found, strict=True)]
    with capsys.disabled():
        print(f"\nviclip tiny {precision}: least cosine {min(cosines):.6f}")
    assert min(cosines) > 0.999


def test_frames_a_second(device: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Crops a second of the networks on crops: no bound, since machines differ, but the figure is printed."""
    from tests.support.torch_setup import random_weights

    num = 512 if device == "cuda" else 4
    pixels = np.random.default_rng(0).integers(0, 255, (num, 256, 192, 3), dtype=np.uint8)
    for name in ("rtmpose", "vitpose"):
        if name == "vitpose" and importlib.util.find_spec("transformers") is None:
            continue
        for batch in (16, 64, 256) if device == "cuda" else (2,):
            with getattr(random_weights, name)(tmp_path, batch=batch).load(device) as session:
                session.infer(pixels[:batch])
                begun = time.perf_counter()
                answered = sum(len(session.infer(pixels[k : k + batch])) for k in range(0, num, batch))
                speed = num / (time.perf_counter() - begun)
            with capsys.disabled():
                print(f"\n{name}, batch {batch}: {speed:.0f} crops/s on {device}, one thread, from host to answers")
            assert answered == num
