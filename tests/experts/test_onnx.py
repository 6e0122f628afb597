"""Networks from ONNX files: what they are is recognized, what they say is read, and it comes back to the right
place."""

from __future__ import annotations

import dataclasses
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

pytest.importorskip("onnx")

from dataengine import experts
from dataengine.core import registry
from dataengine.core.errors import ComponentError, DataEngineError, ExpertError, WeightsError
from dataengine.experts import onnx_decode as decode
from dataengine.experts.isolation.isolated import Isolated
from dataengine.experts.onnx import NORMALISATIONS, Onnx, OnnxDetector
from dataengine.experts.onnx_graphs import open_graph
from tests.support import onnx_files

SIZE = (96, 128)
WHOLE = (160, 128)
RNG = np.random.default_rng(0)


def detector(**options: Any) -> OnnxDetector:
    made: OnnxDetector = registry.create("detectors", "onnx_detector", options)
    return made


def expert(**options: Any) -> Onnx:
    made = experts.create("onnx", **options)
    assert isinstance(made, Onnx)
    return made


def blobs(width: int, height: int, points: np.ndarray, sigma: float) -> np.ndarray:
    """A picture (height, width, 3) with one soft spot a channel, at points (3, 2)."""
    y, x = np.mgrid[:height, :width]
    spots = [np.exp(-((x - px) ** 2 + (y - py) ** 2) / (2 * sigma**2)) for px, py in points]
    return np.stack([np.round(250 * s) for s in spots], -1).astype(np.uint8)


def spots(count: int, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    return np.round(RNG.uniform(low, high, (count, 3, 2)))


# where answers come back to


@pytest.mark.parametrize("family", ["simcc", "heatmap"])
@pytest.mark.parametrize("extent", [(30, 40), (96, 128), (60, 20), (20, 90), (200, 260), (300, 120)])
def test_a_joint_comes_back_to_its_place_from_any_crop(tmp_path: Path, family: str, extent: tuple[int, int]) -> None:
    """As near as the brightest pixel or cell of the crop can tell."""
    build = onnx_files.brightest_simcc if family == "simcc" else onnx_files.brightest_heatmap
    looker = expert(model=str(build(tmp_path / "net.onnx", SIZE, 17)), kind=family, min_mean=0.0).load()
    scale = min(SIZE[0] / extent[0], SIZE[1] / extent[1]) / 1.25
    worst = 0.0
    for corner in RNG.integers(-10, 150, (8, 2)):
        box = np.array([*corner, *(corner + extent), 1.0], np.float64)
        inside = np.clip(box[:4], 0, [400, 360, 400, 360])
        points = spots(1, inside[:2], inside[2:] - 1)[0]
        frame = blobs(400, 360, points, max(2.0, 2.5 / scale))
        (pose,) = looker.predict(frame[None], [box[None]])
        assert len(pose) == 1
        np.testing.assert_allclose(pose.boxes[0, :4], inside, atol=1e-3)
        worst = max(worst, float(np.abs(pose.coords[0] - points[np.arange(17) % 3]).max()))
    cell = 0.5 if family == "simcc" else 1.0  # half a pixel, or a quarter of a cell of four pixels, and OpenCV's 1/32
    assert worst <= (cell + 0.05) / scale, (worst, scale)


@pytest.mark.parametrize("form", ["rtmo", "yolo", "yolo_end"])
@pytest.mark.parametrize(("width", "height"), [(160, 128), (320, 256), (640, 360), (90, 200), (161, 127), (80, 64)])
def test_a_person_comes_back_to_its_place_from_a_whole_frame(
    tmp_path: Path, form: str, width: int, height: int
) -> None:
    path = onnx_files.brightest_whole(tmp_path / f"{form}.onnx", WHOLE, 17, form)
    looker = expert(model=str(path), kind=form.split("_")[0])
    assert not looker.needs_boxes
    scale = min(WHOLE[0] / width, WHOLE[1] / height)
    every = spots(6, np.zeros(2), np.array([width - 1, height - 1]))
    frames = np.stack([blobs(width, height, points, max(2.0, 3 / scale)) for points in every])
    poses = looker.load().predict(frames)
    for pose, points in zip(poses, every, strict=True):
        points = points[::-1] if NORMALISATIONS[looker.family].bgr else points
        np.testing.assert_allclose(pose.coords[0], points[np.arange(17) % 3], atol=max(0.5, 0.5 / scale) + 0.02)
        middle = (pose.boxes[0, :2] + pose.boxes[0, 2:4]) / 2
        np.testing.assert_allclose(middle, points[0], atol=max(0.5, 0.5 / scale) + 0.02)
        np.testing.assert_allclose(pose.boxes[0, 2:4] - pose.boxes[0, :2], 20 / scale, rtol=0.02)
        np.testing.assert_allclose(pose.boxes[0, 4], 0.9, atol=1e-6)


@pytest.mark.parametrize(("width", "height"), [(320, 256), (640, 360), (90, 200)])
def test_a_box_comes_back_to_its_place(tmp_path: Path, width: int, height: int) -> None:
    finder = detector(model=str(onnx_files.brightest_whole(tmp_path / "rtmdet.onnx", WHOLE, 3, "rtmdet")))
    scale = min(WHOLE[0] / width, WHOLE[1] / height)
    room = 12 / scale
    every = spots(6, np.full(2, room), np.array([width, height]) - room)
    frames = np.stack([blobs(width, height, points, max(2.0, 3 / scale)) for points in every])
    for boxes, points in zip(finder.load().detect(frames), every, strict=True):
        assert boxes.shape == (1, 5) and boxes.dtype == np.float32
        middle = (boxes[0, :2] + boxes[0, 2:4]) / 2
        np.testing.assert_allclose(middle, points[2], atol=max(0.5, 0.5 / scale) + 0.02)


# what outputs mean, against the slow obvious reading


def slow_keep(boxes: np.ndarray, scores: np.ndarray, threshold: float, overlap: float, most: int) -> list[int]:
    kept: list[int] = []
    for k in sorted(range(len(boxes)), key=lambda k: (-scores[k], k)):
        clear = True
        for other in kept:
            a, b = boxes[k], boxes[other]
            w, h = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
            shared = max(w, 0) * max(h, 0)
            union = max(a[2] - a[0], 0) * max(a[3] - a[1], 0) + max(b[2] - b[0], 0) * max(b[3] - b[1], 0) - shared
            clear &= shared <= overlap * max(union, 1e-9)
        if scores[k] >= threshold and clear and len(kept) < most:
            kept.append(k)
    return kept


def some_boxes(count: int) -> np.ndarray:
    low = RNG.uniform(0, 60, (count, 2))
    return np.concatenate([low, low + RNG.uniform(5, 60, (count, 2))], -1)


def test_whom_the_sieve_keeps() -> None:
    for _ in range(20):
        boxes, scores = some_boxes(40), np.round(RNG.uniform(0, 1, 40), 1)
        for threshold, overlap, most in ((0.3, 0.65, 20), (0.0, 0.0, 40), (0.5, 1.0, 3), (1.1, 0.5, 5)):
            found = decode.NonMaximumSuppression(threshold, overlap, most)(boxes, scores)
            assert found.tolist() == slow_keep(boxes, scores, threshold, overlap, most)


NMS = decode.NonMaximumSuppression(0.3, 0.65, 20)


def test_simcc() -> None:
    across, down = RNG.normal(size=(3, 17, 2 * 96)), RNG.normal(size=(3, 17, 2 * 128))
    across[0, 0] = -1
    got = decode.simcc([across, down], SIZE)
    for n in range(3):
        for v in range(17):
            x, y = across[n, v], down[n, v]
            want = [list(x).index(max(x)) / 2, list(y).index(max(y)) / 2, min(max(x), max(y))]
            np.testing.assert_allclose(got[n, v], want if min(max(x), max(y)) > 0 else [np.nan, np.nan, 0])
    assert np.isnan(got[0, 0, :2]).all()


def test_heatmap() -> None:
    maps = RNG.normal(size=(4, 17, 16, 12))
    maps[0, 0] = -np.abs(maps[0, 0])
    maps[0, 1] = 0
    maps[0, 1, 0, 11] = 1  # in a corner: no quarter
    got = decode.heatmap([maps], (48, 64))
    for n in range(4):
        for v in range(17):
            cells = {(r, c): maps[n, v, r, c] for r in range(16) for c in range(12)}
            r, c = max(cells, key=lambda k: (cells[k], -k[0], -k[1]))
            if cells[r, c] <= 0:
                assert np.isnan(got[n, v, :2]).all() and got[n, v, 2] == 0
                continue
            dx = dy = 0.0
            if 1 < c < 11 and 1 < r < 15:
                dx = 0.25 * np.sign(cells[r, c + 1] - cells[r, c - 1])
                dy = 0.25 * np.sign(cells[r + 1, c] - cells[r - 1, c])
            np.testing.assert_allclose(got[n, v], [4 * (c + dx), 4 * (r + dy), cells[r, c]])
    np.testing.assert_allclose(got[0, 1], [44, 0, 1])


def people(count: int, joints: int = 17) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return some_boxes(count), RNG.uniform(0, 1, count), RNG.uniform(0, 100, (count, joints, 3))


def check_people(got: np.ndarray, boxes: np.ndarray, scores: np.ndarray, points: np.ndarray) -> None:
    kept = slow_keep(boxes, scores, 0.3, 0.65, 20)
    assert len(got) == len(kept) > 3
    for row, k in zip(got, kept, strict=True):
        np.testing.assert_allclose(row, np.concatenate([boxes[k], [scores[k]], points[k].reshape(-1)]), atol=1e-9)


def test_rtmo() -> None:
    made = [people(30) for _ in range(3)]
    dets = np.stack([np.concatenate([b, s[:, None]], -1) for b, s, _ in made])
    for outputs in ([dets, np.stack([p for *_, p in made])], [np.stack([p for *_, p in made]), dets]):
        for got, (boxes, scores, points) in zip(decode.rtmo(outputs, WHOLE, 17, NMS), made, strict=True):
            check_people(got, boxes, scores, points)


def test_yolo_pose() -> None:
    made = [people(30) for _ in range(2)]
    rows = []
    for boxes, scores, points in made:
        middle, extent = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
        rows.append(np.concatenate([middle, extent, scores[:, None], points.reshape(30, -1)], -1).T)
    for got, (boxes, scores, points) in zip(decode.yolo_pose([np.stack(rows)], WHOLE, 17, NMS), made, strict=True):
        check_people(got, boxes, scores, points)


def test_yolo_pose_that_chose_itself() -> None:
    boxes, scores, points = people(30)
    kinds = np.arange(30) % 2
    rows = np.concatenate([boxes, scores[:, None], kinds[:, None], points.reshape(30, -1)], -1)[None]
    (got,) = decode.yolo_pose([rows], WHOLE, 17, NMS)
    persons = kinds == 0
    check_people(got, boxes[persons], scores[persons], points[persons])


def check_boxes(got: np.ndarray, boxes: np.ndarray, scores: np.ndarray) -> None:
    kept = slow_keep(boxes, scores, 0.3, 0.65, 20)
    assert len(kept) > 3
    np.testing.assert_allclose(got, np.concatenate([boxes[kept], scores[kept, None]], -1), atol=1e-6)


@pytest.mark.parametrize("reader", [decode.labelled_boxes, decode.yolox])
def test_boxes_with_labels(reader: Callable[..., Any]) -> None:
    boxes, scores, _ = people(40)
    labels = np.arange(40) % 3
    dets = np.concatenate([boxes, scores[:, None]], -1)[None]
    for outputs in ([dets, labels[None]], [labels[None], dets]):
        check_boxes(reader(outputs, WHOLE, NMS)[0], boxes[labels == 0], scores[labels == 0])
    check_boxes(reader([dets], WHOLE, NMS)[0], boxes, scores)


def test_yolox_of_its_authors() -> None:
    cells = np.concatenate([RNG.normal(0, 1, (1, 420, 4)), RNG.uniform(0, 1, (1, 420, 5))], -1)
    boxes, scores = [], []
    row = 0
    for stride in (8, 16, 32):
        for cy in range(128 // stride):
            for cx in range(160 // stride):
                dx, dy, w, h, there, person = cells[0, row, :6]
                x, y, w, h = (dx + cx) * stride, (dy + cy) * stride, np.exp(w) * stride, np.exp(h) * stride
                boxes.append([x - w / 2, y - h / 2, x + w / 2, y + h / 2])
                scores.append(there * person)
                row += 1
    assert row == 420
    check_boxes(decode.yolox([cells], WHOLE, NMS)[0], np.array(boxes), np.array(scores))
    with pytest.raises(ExpertError, match="answers 419 cells, 420 belong to"):
        decode.yolox([cells[:, :-1]], WHOLE, NMS)


@pytest.mark.parametrize("chosen", [False, True])
def test_yolo(chosen: bool) -> None:
    boxes, scores, _ = people(40)
    if chosen:
        kinds = np.arange(40) % 2
        rows = np.concatenate([boxes, scores[:, None], kinds[:, None]], -1)
        check_boxes(decode.yolo([rows[None]], WHOLE, NMS)[0], boxes[kinds == 0], scores[kinds == 0])
        return
    middle, extent = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    rows = np.concatenate([middle, extent, scores[:, None], RNG.uniform(0, 1, (40, 79))], -1)
    check_boxes(decode.yolo([rows.T[None]], WHOLE, NMS)[0], boxes, scores)


def test_how_families_see_colours() -> None:
    pixels = RNG.integers(0, 256, (1, 2, 3, 3), dtype=np.uint8)
    red, green, blue = (pixels[0, ..., c].astype(float) for c in range(3))
    np.testing.assert_allclose(NORMALISATIONS["simcc"](pixels, np.float32)[0, 0], (red - 123.675) / 58.395, rtol=1e-5)
    np.testing.assert_allclose(NORMALISATIONS["rtmdet"](pixels, np.float32)[0, 2], (red - 123.675) / 58.395, rtol=1e-5)
    np.testing.assert_allclose(NORMALISATIONS["yolox"](pixels, np.float32)[0], [blue, green, red])
    np.testing.assert_allclose(NORMALISATIONS["rtmo"](pixels, np.float32)[0], [blue, green, red])
    np.testing.assert_allclose(
        NORMALISATIONS["yolo"](pixels, np.float16)[0], np.array([red, green, blue]) / 255, atol=1e-3
    )


# what files are

POSES = {
    "simcc": ({"simcc_x": [17, 192], "simcc_y": [17, 256]}, SIZE),
    "heatmap": ({"output": [17, 32, 24]}, SIZE),
    "rtmo": ({"dets": [20, 5], "keypoints": [20, 17, 3]}, WHOLE),
    "yolo": ({"output0": [56, 420]}, WHOLE),
}
DETECTORS = {
    "rtmdet": ({"dets": [30, 5], "labels": [30]}, WHOLE),
    "yolox": ({"output": [420, 85]}, WHOLE),
    "yolo": ({"output0": [84, 420]}, WHOLE),
}


@pytest.fixture(params=list(POSES))
def pose_file(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Path]:
    outputs, size = POSES[request.param]
    return request.param, onnx_files.random_network(tmp_path / "some.onnx", outputs, size)


def frames_and_boxes(num: int = 5) -> tuple[np.ndarray, list[np.ndarray]]:
    frames = RNG.integers(0, 256, (num, 90, 120, 3), dtype=np.uint8)
    return frames, [np.array([[10, 5, 70, 85, 0.8], [50, 0, 110, 60, 0.7]], np.float32)] * num


def test_the_outputs_tell_what_a_pose_network_is(pose_file: tuple[str, Path]) -> None:
    kind, path = pose_file
    looker = expert(model=str(path), min_mean=0.0)
    assert looker.family == kind
    assert looker.needs_boxes == (kind in ("simcc", "heatmap"))
    frames, boxes = frames_and_boxes()
    poses = looker.load().predict(frames, boxes if looker.needs_boxes else None)
    assert len(poses) == 5 and all(p.coords.shape[1:] == (17, 2) for p in poses)
    assert any(len(p) for p in poses)
    assert list(looker.weights()) == ["some.onnx"]


@pytest.mark.parametrize("batch", [1, 2, 3])
@pytest.mark.parametrize("kind", list(POSES))
def test_files_of_a_fixed_batch_say_the_same(tmp_path: Path, kind: str, batch: int) -> None:
    outputs, size = POSES[kind]
    free = expert(model=str(onnx_files.random_network(tmp_path / "free.onnx", outputs, size)), min_mean=0.0)
    fixed = expert(model=str(onnx_files.random_network(tmp_path / "fixed.onnx", outputs, size, batch)), min_mean=0.0)
    frames, boxes = frames_and_boxes()
    for a, b in zip(free.load().predict(frames, boxes), fixed.load().predict(frames, boxes), strict=True):
        np.testing.assert_allclose(a.coords, b.coords, atol=1e-3)
        np.testing.assert_allclose(a.scores, b.scores, atol=1e-5)


@pytest.mark.parametrize("kind", list(DETECTORS))
def test_detectors(tmp_path: Path, kind: str) -> None:
    outputs, size = DETECTORS[kind]
    path = onnx_files.random_network(
        tmp_path / "some.onnx", outputs, size, classes=[n for n in outputs if n == "labels"]
    )
    finder = detector(model=str(path), kind="rtmdet" if kind == "rtmdet" else "auto")
    assert finder.family == kind
    frames, _ = frames_and_boxes()
    for boxes in finder.load().detect(frames):
        assert boxes.shape[1:] == (5,)
        assert (np.diff(boxes[:, 4]) <= 0).all() and (boxes[:, 4] >= finder.threshold).all()


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("rtmpose-m_simcc-body7_pt-body7_420e-256x192-e48f03d0_20230504.onnx", "simcc"),
        ("rtmo-s_8xb32-600e_body7-640x640-dac2bf74_20231211.onnx", "rtmo"),
        ("./my/yolo11n-pose.onnx", "yolo"),
        ("./td-hm_hrnet-w32.onnx", "heatmap"),
    ],
)
def test_names_tell_before_the_file_is_here(
    name: str, family: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DATAENGINE_WEIGHTS", str(tmp_path))
    looker = expert(model=name)
    assert looker.family == family
    assert looker.needs() == ([name] if "/" not in name else [])
    with pytest.raises(WeightsError, match=r"dataengine weights|neither a file"):
        looker.weights()
    with pytest.raises(WeightsError):
        looker.load()


def test_errors_say_what_to_do(tmp_path: Path) -> None:
    def refused(match: str, error: type[DataEngineError] = ComponentError, **options: Any) -> None:
        with pytest.raises(error, match=match):
            expert(**options).load()

    simcc = str(onnx_files.random_network(tmp_path / "a.onnx", *POSES["simcc"]))
    refused("gives 17 joints: give its skeleton, 'halpe26' has 26", model=simcc, skeleton="halpe26")
    refused(r"does not have the outputs of rtmo .*simcc_x", WeightsError, model=simcc, kind="rtmo")
    refused(r"size = \[64, 64\], but a\.onnx takes \[96, 128\]", model=simcc, size=(64, 64))
    refused("unknown skeleton", model=simcc, skeleton="coco18")
    refused("threshold = 2", model=simcc, threshold=2)
    refused("padding = 0", model=simcc, padding=0)
    refused(r"size = \[8, 8\]", model=simcc, size=(8, 8))
    refused("onnxruntime cannot use 'cuda'", model=simcc, provider="cuda")
    refused("kind", model=simcc, kind="hrnet")
    yolo = str(onnx_files.random_network(tmp_path / "b.onnx", {"output0": [83, 420]}, WHOLE))
    refused("gives 83 numbers a person, not 56", model=yolo)
    expert(model=yolo, skeleton="halpe26").load()
    odd = str(onnx_files.random_network(tmp_path / "c.onnx", {"a": [3], "b": [4], "c": [5]}, SIZE))
    refused(r"cannot tell what c\.onnx is .*give kind", model=odd)
    (tmp_path / "d.onnx").write_bytes(b"not an onnx file")
    refused("cannot be opened as an ONNX network", WeightsError, model=str(tmp_path / "d.onnx"))
    free = onnx_files.random_network(tmp_path / "e.onnx", *POSES["heatmap"])
    network = onnx_files.onnx.load(free)
    for dim in network.graph.input[0].type.tensor_type.shape.dim[2:]:
        dim.dim_param = "any"
    onnx_files.onnx.save(network, free)
    refused(r"give size = \[width, height\]", model=str(free))
    assert expert(model=str(free), size=SIZE).load().processing.size == SIZE
    with pytest.raises(ComponentError, match="give kind"):
        detector(model=str(onnx_files.random_network(tmp_path / "f.onnx", *DETECTORS["rtmdet"]))).load()
    with pytest.raises(WeightsError, match="does not have the outputs of yolo"):
        detector(model=str(tmp_path / "f.onnx"), kind="yolo").load()


def test_a_gpu_that_onnxruntime_cannot_use_is_an_error_not_the_cpu(tmp_path: Path) -> None:
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("onnxruntime can use a GPU here")
    pose = expert(model=str(onnx_files.random_network(tmp_path / "a.onnx", *POSES["simcc"])))
    finder = detector(model=str(onnx_files.random_network(tmp_path / "b.onnx", *DETECTORS["yolo"])))
    for component in (pose, finder):
        for device in ("cuda", "cuda:1"):
            with pytest.raises(ComponentError, match=r"device 'cuda.* onnxruntime .*cannot use it.*`rtmpose`.*-gpu"):
                component.load(device)
    # asked for by name, the CPU serves a GPU's build
    assert dataclasses.replace(pose, provider="cpu").load("cuda").network.graph.provider == "cpu"


def test_what_takes_no_pictures_is_refused(tmp_path: Path) -> None:
    path = onnx_files.random_network(tmp_path / "a.onnx", *POSES["heatmap"])
    network = onnx_files.onnx.load(path)
    network.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 4
    onnx_files.onnx.save(network, path)
    with pytest.raises(WeightsError, match=r"cannot be opened|wanted one input"):
        open_graph(path)


def test_configuration_travels(pose_file: tuple[str, Path]) -> None:
    _, path = pose_file
    looker = expert(model=str(path), min_mean=0.0, batch=2)
    frames, boxes = frames_and_boxes()
    before = looker.load().predict(frames, boxes)
    again = pickle.loads(pickle.dumps(looker))  # noqa: S301, bytes of our own making
    assert again == looker
    for a, b in zip(before, again.load().predict(frames, boxes), strict=True):
        np.testing.assert_array_equal(a.coords, b.coords)


def test_a_joint_nobody_sees_is_missing(tmp_path: Path) -> None:
    outputs, size = POSES["simcc"]
    path = onnx_files.random_network(tmp_path / "a.onnx", outputs, size)
    network = onnx_files.onnx.load(path)
    for constant in network.graph.initializer:
        if constant.name == "simcc_x_b":
            values = onnx_files.numpy_helper.to_array(constant).copy().reshape(17, -1)
            values[3] = -1000
            constant.CopyFrom(onnx_files.numpy_helper.from_array(values.reshape(-1), constant.name))
    onnx_files.onnx.save(network, path)
    frames, boxes = frames_and_boxes()
    for pose in expert(model=str(path)).load().predict(frames, boxes):
        assert np.isnan(pose.coords[:, 3]).all() and (pose.scores[:, 3] == 0).all()
        assert np.isfinite(np.delete(pose.coords, 3, 1)).any()


def test_a_process_of_its_own_needs_the_same_file(tmp_path: Path) -> None:
    name = "rtmo-s_8xb32-600e_body7-640x640-dac2bf74_20231211.onnx"
    assert Isolated("onnx", {"model": name}).needs() == [name]
    outputs, size = POSES["heatmap"]
    options = {"model": str(onnx_files.random_network(tmp_path / "some.onnx", outputs, size)), "min_mean": 0.0}
    frames, boxes = frames_and_boxes(2)
    with expert(**options).load() as own, Isolated("onnx", options).load() as isolated:
        for a, b in zip(own.predict(frames, boxes), isolated.predict(frames, boxes), strict=True):
            np.testing.assert_array_equal(a.coords, b.coords)
