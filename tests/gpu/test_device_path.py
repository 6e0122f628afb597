"""Frames uploaded once, images made on the device, streams of threads: the same as on the host, and nothing waits."""

from __future__ import annotations

import importlib.util
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dataengine.experts.preprocess import BoxProcessing, CropProcessing, FrameProcessing

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(300)]

BOXES = np.array([[60.0, 20.0, 180.0, 220.0], [-10.0, 30.0, 90.0, 275.5], [0.0, 0.0, 340.0, 256.0]])


def pictures(num: int = 4, width: int = 340, height: int = 256) -> np.ndarray:
    """Coarse and fine noise (num, height, width, 3)."""
    rng = np.random.default_rng(num)
    coarse = rng.integers(0, 256, (num, height // 16 + 1, width // 16 + 1, 3)).repeat(16, 1).repeat(16, 2)
    return np.clip(coarse[:, :height, :width] + rng.integers(-30, 30, (num, height, width, 3)), 0, 255).astype(np.uint8)


def made(name: str, folder: Path, **options: Any) -> Any:
    """A network with drawn weights."""
    from tests.support.torch_setup import random_weights

    if name != "rtmpose" and importlib.util.find_spec("transformers") is None:
        pytest.skip("needs transformers")
    if name == "rtdetr":
        return random_weights.rtdetr(folder, threshold=0.0, max_people=5, **options)
    return getattr(random_weights, name)(folder, min_score=0.0, min_mean=0.0, **options)


@pytest.mark.parametrize(
    "processing",
    [
        CropProcessing("test", (192, 256), "coco17", 0.0, 0.0),
        FrameProcessing((800, 608), "coco17", 0.0, 0.0, False),
        FrameProcessing((96, 64), "coco17", 0.0, 0.0),
        BoxProcessing((640, 640), keep_ratio=False),
    ],
    ids=["crops", "corner", "small", "stretched"],
)
def test_images_are_those_of_the_host(processing: Any, device: str, capsys: pytest.CaptureFixture[str]) -> None:
    import torch

    from dataengine.experts.device_images import DeviceFrames

    frames, boxes = pictures(), [BOXES] * 4
    expected = processing.preprocess(frames, boxes).pixels
    images = processing.preprocess(DeviceFrames(frames, torch.device(device)), boxes).pixels
    away = np.abs(images.gather().cpu().numpy().astype(int) - expected)
    with capsys.disabled():
        print(f"\nimages on {device}: at most {away.max()} grey levels apart, {(away > 0).mean():.4%} of values are")
    assert away.max() <= 1
    assert (away > 0).mean() < 0.01


@pytest.mark.parametrize("name", ["rtmpose", "vitpose"])
def test_nothing_waits_for_the_device_before_the_answers(name: str, cuda: str, tmp_path: Path) -> None:
    """From the upload of frames to the tensor of answers no call makes the host wait for the device."""
    import torch

    from dataengine.experts.device_images import own_stream

    with made(name, tmp_path).load(cuda) as session:
        frames = pictures()
        network = session.network

        def forward() -> Any:
            images = session.preprocess(session.upload(frames), [BOXES] * 4).pixels
            with own_stream(network.runtime.device), torch.inference_mode():
                return network.component.forward(network.runtime, network.module, images)

        forward()
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            found = forward()
        finally:
            torch.cuda.set_sync_debug_mode("default")
        torch.cuda.synchronize()
        assert torch.isfinite(found[..., -1]).all()


@pytest.mark.parametrize("name", ["rtmpose", "rtdetr"])
def test_threads_with_common_batches_get_what_one_thread_gets(
    name: str, device: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Many clips in threads, each on a stream of its own, their images in common batches: again and again the same."""
    from dataengine.experts.dynamic_batcher import DynamicBatcher

    clips = [pictures(n) for n in ((3, 7, 5, 11, 2, 6, 9, 4) if device == "cuda" else (2, 1))]

    def call(session: Any, frames: np.ndarray) -> np.ndarray:
        uploaded = session.upload(frames)
        found = session.detect(uploaded) if name == "rtdetr" else session.predict(uploaded, [BOXES] * len(frames))
        return np.concatenate([one if name == "rtdetr" else one.coords.reshape(-1, 34) for one in found])

    with made(name, tmp_path, precision="float32", batch=16).load(device) as session:
        expected = [call(session, frames) for frames in clips]
        with DynamicBatcher() as batcher:
            session.use_batcher(batcher)
            begun = time.perf_counter()
            with ThreadPoolExecutor(8) as threads:
                rounds = 4 if device == "cuda" else 1
                found = list(threads.map(lambda frames: call(session, frames), clips * rounds))
            spent = time.perf_counter() - begun
            sizes = list(batcher.batches)
        with capsys.disabled():
            print(
                f"\n{name}: {sum(sizes) / spent:.0f} images/s in 8 threads, {np.mean(sizes):.1f} images a batch, "
                f"padding {session.network.padding_share:.0%}"
            )
    away = np.concatenate([np.abs(a - b).ravel() for a, b in zip(expected * rounds, found, strict=True)])
    away = away[np.isfinite(away)]
    assert np.median(away) < 0.01
    assert np.mean(away < 0.5) > 0.95  # drawn weights have near ties, which a last bit decides


@pytest.mark.parametrize("name", ["rtmpose", "vitpose"])
def test_recorded_forward_passes_say_the_same(
    name: str, cuda: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """CUDA graphs: each size of batch twice, from two threads with streams of their own."""
    spent, found = [], []
    for graphs in (False, True):
        with made(name, tmp_path, precision="float32", batch=16, cuda_graphs=graphs).load(cuda) as session:
            images = [session.preprocess(session.upload(pictures(n)), [BOXES] * n).pixels for n in (1, 3, 5, 4) * 3]
            with ThreadPoolExecutor(2) as threads:
                answers = [np.concatenate(one) for one in threads.map(session.infer, images)]
                begun = time.perf_counter()
                for _ in threads.map(session.infer, images):
                    pass
                spent.append(time.perf_counter() - begun)
            found.append(answers)
    with capsys.disabled():
        print(f"\n{name}: twelve small batches in {spent[0] * 1e3:.0f} ms, recorded in {spent[1] * 1e3:.0f} ms")
    for a, b in zip(*found, strict=True):
        assert a.shape == b.shape
        away = np.abs(a - b)
        assert np.nanmedian(away) < 0.01


@pytest.mark.slow
def test_a_compiled_network_says_the_same(cuda: str, tmp_path: Path) -> None:
    crops = pictures(4, 192, 256)
    with made("rtmpose", tmp_path, precision="float32").load(cuda) as session:
        expected = np.stack(session.infer(crops))
    with made("rtmpose", tmp_path, precision="float32", compile=True).load(cuda) as session:
        got = np.stack(session.infer(crops))
    away = np.linalg.norm(expected[..., :2] - got[..., :2], axis=-1)
    assert np.nanmedian(away) < 0.1
