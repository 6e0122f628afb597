"""TensorFlow.js graph models become ONNX files: operators against plain loops, whole networks against goldens."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

from dataengine.core.errors import WeightsError
from dataengine.io import weights
from dataengine.io.tfjs.convert import Input, Output, convert
from dataengine.io.tfjs.graph_model import read_graph_model
from tests.golden.stored import GOLDEN, read
from tests.support.tfjs_files import GraphFile

Array = NDArray[Any]


def session(content: bytes | str) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def converted(
    graph: GraphFile, folder: Path, shape: Sequence[int], free: Sequence[str], outputs: Sequence[Output], **more: Any
) -> bytes:
    path, binaries = graph.write(folder, shuffled=True)
    begin = Input("image", "image", tuple(shape), tuple(free), **more)
    return convert(read_graph_model(path, binaries), [begin], outputs)


def outcome(graph: GraphFile, folder: Path, x: Array, last: str, free: Sequence[str] = ("N", "", "", "")) -> Array:
    """What the converted graph gives for x; its first row alone decides the shape that the graph is written for."""
    content = converted(graph, folder, (1, *x.shape[1:]), free, [Output("y", last)], dtype=x.dtype.name)
    (y,) = session(content).run(None, {"image": x})
    return np.asarray(y)


def numbers(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def close(a: Array, b: Array, bound: float = 1e-5) -> bool:
    return a.shape == b.shape and float(np.abs(a - b).max()) <= bound * max(1.0, float(np.abs(b).max()))


def same_pads(size: int, kernel: int, stride: int, dilation: int = 1) -> tuple[int, int]:
    reach = (kernel - 1) * dilation + 1
    total = max((math.ceil(size / stride) - 1) * stride + reach - size, 0)
    return total // 2, total - total // 2


def convolved(x: Array, kernel: Array, stride: int, padding: str, dilation: int = 1) -> Array:
    """Channels last; kernel (h, w, in / group, out). Plain loops over the kernel."""
    kh, kw, depth, out = kernel.shape
    pads = [same_pads(n, k, stride, dilation) if padding == "SAME" else (0, 0) for n, k in zip(x.shape[1:3], (kh, kw))]
    x = np.pad(x, ((0, 0), *pads, (0, 0)))
    height, width = ((n - (k - 1) * dilation - 1) // stride + 1 for n, k in zip(x.shape[1:3], (kh, kw), strict=True))
    groups = x.shape[3] // depth
    y = np.zeros((len(x), height, width, out), np.float64)
    for i, j in itertools.product(range(kh), range(kw)):
        part = x[:, i * dilation :, j * dilation :][:, ::stride, ::stride][:, :height, :width]
        for g in range(groups):
            these = slice(g * out // groups, (g + 1) * out // groups)
            y[..., these] += part[..., g * depth : (g + 1) * depth].astype(np.float64) @ kernel[i, j, :, these]
    return y.astype(np.float32)


SQUARE: dict[str, Any] = {"data_format": "NHWC"}


@pytest.mark.parametrize("padding", ["SAME", "VALID"])
@pytest.mark.parametrize(("size", "stride", "dilation"), [((9, 12), 1, 1), ((10, 7), 2, 1), ((11, 11), 1, 2)])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("free", [("N", "", "", ""), ("N", "H", "W", "")])
def test_convolutions(
    tmp_path: Path, padding: str, size: tuple[int, int], stride: int, dilation: int, groups: int, free: tuple[str, ...]
) -> None:
    kernel, bias = numbers(3, 2, 4 // groups, 6), numbers(6, seed=1)
    graph = GraphFile()
    inputs = [graph.image("image", (1, *size, 4)), graph.constant("kernel", kernel), graph.constant("bias", bias)]
    graph.add(
        "_FusedConv2D", "y", inputs, strides=[1, stride, stride, 1], dilations=[1, dilation, dilation, 1],
        padding=padding, fused_ops=["BiasAdd", "Relu6"], **SQUARE,
    )  # fmt: skip
    x = numbers(2, *size, 4, seed=2)
    expected = np.clip(convolved(x, kernel, stride, padding, dilation) + bias, 0, 6)
    assert close(outcome(graph, tmp_path, x, "y", free), expected)


@pytest.mark.parametrize("multiplier", [1, 2])
def test_depthwise_convolutions(tmp_path: Path, multiplier: int) -> None:
    kernel = numbers(3, 3, 5, multiplier)
    graph = GraphFile()
    inputs = [graph.image("image", (1, 8, 7, 5)), graph.constant("kernel", kernel)]
    graph.add("DepthwiseConv2dNative", "y", inputs, strides=[1, 2, 2, 1], padding="SAME", **SQUARE)
    x = numbers(2, 8, 7, 5, seed=2)
    grouped = kernel.reshape(3, 3, 1, 5 * multiplier)
    assert close(outcome(graph, tmp_path, x, "y"), convolved(x, grouped, 2, "SAME"))


@pytest.mark.parametrize("side", [2, 3, 4, 5])
def test_transposed_convolutions(tmp_path: Path, side: int) -> None:
    kernel = numbers(side, side, 3, 4)  # height, width, out, in
    graph = GraphFile()
    graph.image("image", (1, 5, 6, 4))
    graph.constant("size", np.array([1, 10, 12, 3]))
    graph.constant("kernel", kernel)
    graph.add("Conv2DBackpropInput", "y", ["size", "kernel", "image"], strides=[1, 2, 2, 1], padding="SAME", **SQUARE)
    x = numbers(2, 5, 6, 4, seed=2)
    before = (side - 2) // 2
    full = np.zeros((2, 10 + side, 12 + side, 3), np.float64)
    for i, j, k, m in itertools.product(range(5), range(6), range(side), range(side)):
        full[:, 2 * i + k, 2 * j + m] += x[:, i, j].astype(np.float64) @ kernel[k, m].T
    expected = full[:, before : before + 10, before : before + 12].astype(np.float32)
    assert close(outcome(graph, tmp_path, x, "y"), expected)


@pytest.mark.parametrize("padding", ["SAME", "VALID"])
@pytest.mark.parametrize(("side", "stride"), [(2, 2), (3, 2), (5, 1)])
def test_largest_of_a_window(tmp_path: Path, padding: str, side: int, stride: int) -> None:
    graph = GraphFile()
    inputs = [graph.image("image", (1, 9, 8, 3))]
    graph.add(
        "MaxPool", "y", inputs, ksize=[1, side, side, 1], strides=[1, stride, stride, 1], padding=padding, **SQUARE
    )
    x = numbers(2, 9, 8, 3)
    pads = [same_pads(n, side, stride) if padding == "SAME" else (0, 0) for n in (9, 8)]
    full = np.pad(x, ((0, 0), *pads, (0, 0)), constant_values=-np.inf)
    windows = np.lib.stride_tricks.sliding_window_view(full, (side, side), (1, 2))[:, ::stride, ::stride]
    assert close(outcome(graph, tmp_path, x, "y"), windows.max((-1, -2)))


@pytest.mark.parametrize("half", [True, False])
@pytest.mark.parametrize("factor", [2.0, 0.5])
def test_bilinear_resizing(tmp_path: Path, half: bool, factor: float) -> None:
    height, width = 6, 8
    wanted = (int(height * factor), int(width * factor))
    graph = GraphFile()
    graph.image("image", (1, height, width, 3))
    graph.constant("size", np.array(wanted))
    graph.add("ResizeBilinear", "y", ["image", "size"], half_pixel_centers=half, align_corners=False)
    x = numbers(2, height, width, 3)

    def along(values: Array, axis: int) -> Array:
        size = values.shape[axis]
        place = np.arange(int(size * factor))
        source = np.clip((place + 0.5) / factor - 0.5 if half else place / factor, 0, size - 1)
        low = np.floor(source).astype(int)
        high = np.minimum(low + 1, size - 1)
        share = (source - low).reshape([-1 if n == axis else 1 for n in range(4)])
        return np.asarray(values.take(low, axis) * (1 - share) + values.take(high, axis) * share)

    expected = along(along(x, 1), 2).astype(np.float32)
    assert close(outcome(graph, tmp_path, x, "y", ("N", "H", "W", "")), expected)


def test_order_of_axes_costs_one_transpose(tmp_path: Path) -> None:
    """As converters from ONNX write it: every convolution between two transposes, padding before it."""
    graph = GraphFile()
    last = graph.image("image", (1, 3, 8, 8))
    graph.constant("there", np.array([0, 2, 3, 1]))
    graph.constant("back", np.array([0, 3, 1, 2]))
    graph.constant("pads", np.array([[0, 0], [0, 0], [1, 1], [1, 1]]))
    kernels = [numbers(3, 3, 3, 3, seed=n) for n in range(3)]
    for n, kernel in enumerate(kernels):
        graph.constant(f"kernel{n}", kernel)
        graph.constant(f"bias{n}", numbers(3, seed=n + 9))
        last = graph.add("Pad", f"pad{n}", [last, "pads"])
        last = graph.add("Transpose", f"there{n}", [last, "there"])
        last = graph.add("Conv2D", f"conv{n}", [last, f"kernel{n}"], strides=[1, 1, 1, 1], padding="VALID", **SQUARE)
        last = graph.add("Add", f"add{n}", [last, f"bias{n}"])
        last = graph.add("Transpose", f"back{n}", [last, "back"])
        last = graph.add("LeakyRelu", f"leaky{n}", [last], alpha=0.1)
    x = numbers(2, 3, 8, 8, seed=5)
    y = x.transpose(0, 2, 3, 1)
    for n, kernel in enumerate(kernels):
        y = convolved(y, kernel, 1, "SAME") + numbers(3, seed=n + 9)
        y = np.where(y < 0, np.float32(0.1) * y, y)
    content = converted(graph, tmp_path, (1, 3, 8, 8), ("N", "", "", ""), [Output("y", last, (0, 2, 3, 1))])
    (found,) = session(content).run(None, {"image": x})
    assert close(np.asarray(found), y)
    assert (content.count(b"Transpose"), content.count(b"Pad")) == (1, 0)


def test_arithmetic_joining_and_cutting(tmp_path: Path) -> None:
    graph = GraphFile()
    graph.image("image", (1, 4, 5, 6))
    graph.constant("vector", numbers(6, seed=1))
    graph.constant("plane", numbers(4, 5, 1, seed=2))
    graph.constant("one", np.float32(1.5))
    graph.constant("axis", np.array(3))
    graph.constant("lengths", np.array([2, -1]))
    graph.constant("edge", np.array([[0, 0], [1, 0], [0, 2], [3, 0]]))
    graph.add("Sub", "a", ["vector", "image"])
    graph.add("Mul", "b", ["a", "plane"])
    graph.add("Maximum", "c", ["b", "image"])
    graph.add("ConcatV2", "d", ["c", "image", "axis"], N=2)
    graph.add("SplitV", "e", ["d", "lengths", "axis"], num_split=2)
    graph.add("RealDiv", "f", ["e:1", "one"])
    graph.add("PadV2", "g", ["f", "edge", "one"])
    graph.add("Pad", "h", ["g", "edge"])
    x = numbers(2, 4, 5, 6)
    d = np.concatenate([np.maximum((numbers(6, seed=1) - x) * numbers(4, 5, 1, seed=2), x), x], 3)
    edge = ((0, 0), (1, 0), (0, 2), (3, 0))
    expected = np.pad(np.pad(d[..., 2:] / np.float32(1.5), edge, constant_values=1.5), edge)
    assert close(outcome(graph, tmp_path, x, "h"), expected)


def test_shapes_that_follow_the_size_stay_free(tmp_path: Path) -> None:
    """The size asked of a resize is computed from the shape of a tensor, as real graphs do it."""
    graph = GraphFile()
    graph.image("image", (1, 4, 4, 3))
    for name, value in {"one": [1], "three": [3], "step": [1], "two": [2, 2]}.items():
        graph.constant(name, np.array(value))
    graph.add("Shape", "shape", ["image"], out_type="DT_INT32")
    graph.add("StridedSlice", "sides", ["shape", "one", "three", "step"], begin_mask=0, end_mask=0, shrink_axis_mask=0)
    graph.add("Mul", "size", ["sides", "two"])
    graph.add("ResizeBilinear", "y", ["image", "size"], half_pixel_centers=True, align_corners=False)
    content = converted(graph, tmp_path, (1, 4, 4, 3), ("N", "H", "W", ""), [Output("y", "y")])
    (y,) = session(content).run(None, {"image": numbers(3, 6, 10, 3)})
    assert np.asarray(y).shape == (3, 12, 20, 3)


def test_pictures_are_taken_as_bytes(tmp_path: Path) -> None:
    graph = GraphFile()
    graph.image("image", (1, 4, 4, 3), "DT_INT32")
    graph.add("Cast", "cast", ["image"], SrcT="DT_INT32", DstT="DT_FLOAT")
    graph.constant("mean", numbers(3))
    graph.add("Sub", "y", ["cast", "mean"])
    x = np.random.default_rng(0).integers(0, 256, (2, 4, 4, 3)).astype(np.uint8)
    assert close(outcome(graph, tmp_path, x, "y"), x.astype(np.float32) - numbers(3))


def test_a_graph_may_begin_behind_its_input(tmp_path: Path) -> None:
    """What fixes the batch is cut off at both ends."""
    graph = GraphFile()
    graph.image("image", (1, 4, 4, 3), "DT_INT32")
    graph.constant("shape", np.array([1, 4, 4, 3]))
    graph.constant("flat", np.array([1, 48]))
    graph.add("Cast", "cast", ["image"], SrcT="DT_INT32", DstT="DT_FLOAT")
    graph.add("Reshape", "begin", ["cast", "shape"], T="DT_FLOAT")
    graph.add("Relu", "middle", ["begin"], T="DT_FLOAT")
    graph.add("Reshape", "flattened", ["middle", "flat"], T="DT_FLOAT")
    model = read_graph_model(*graph.write(tmp_path))
    begin = Input("x", "begin", (1, 4, 4, 3), ("N", "", "", ""), "uint8")
    found = session(convert(model, [begin], [Output("y", "middle"), Output("z", "flattened")]))
    x = np.full((5, 4, 4, 3), 7, np.uint8)
    y, z = found.run(None, {"x": x})
    assert np.array_equal(y, x.astype(np.float32)) and np.asarray(z).shape == (5, 48)


@pytest.mark.parametrize("packing", ["float16", "uint8", "uint16", "float32"])
def test_weights_are_read_as_they_are_stored(tmp_path: Path, packing: str) -> None:
    graph = GraphFile()
    graph.image("image", (1, 2, 2, 3))
    values = numbers(3)
    if packing == "float32":
        graph.constant("w", values)
    elif packing == "float16":
        graph.half("w", values)
        values = values.astype(np.float16).astype(np.float32)
    else:
        steps = np.array([0, 7, 255]).astype(packing)
        graph.constant("w", steps, {"dtype": packing, "scale": 0.25, "min": -3.5})
        values = steps.astype(np.float32) * np.float32(0.25) + np.float32(-3.5)
    graph.add("AddV2", "y", ["image", "w"])
    x = numbers(2, 2, 2, 3, seed=1)
    assert np.array_equal(outcome(graph, tmp_path, x, "y"), x + values)


def test_half_weights_take_half_the_bytes(tmp_path: Path) -> None:
    sizes = []
    for store in (GraphFile.constant, GraphFile.half):
        graph = GraphFile()
        inputs = [graph.image("image", (1, 4, 4, 64)), store(graph, "kernel", numbers(3, 3, 64, 64))]
        graph.add("Conv2D", "y", inputs, strides=[1, 1, 1, 1], padding="SAME", **SQUARE)
        sizes.append(len(converted(graph, tmp_path, (1, 4, 4, 64), ("N", "", "", ""), [Output("y", "y")])))
    assert sizes[1] < 0.51 * sizes[0]


SMALL_LENGTH = 736
SMALL_SHA256 = "8a2e95ecdb3ffd1daa118cdcba1dc31d7b7f42113b19a9b2c5d952edbb6decab"


def small(folder: Path) -> GraphFile:
    """A graph of exact numbers, so that its file is known byte for byte."""
    graph = GraphFile()
    graph.image("image", (1, 8, 8, 3))
    graph.half("kernel", np.arange(3 * 3 * 3 * 4).reshape(3, 3, 3, 4) / 64 - 0.5)
    graph.half("bias", np.arange(4) / 4)
    graph.add(
        "_FusedConv2D", "conv", ["image", "kernel", "bias"], strides=[1, 2, 2, 1], padding="SAME",
        fused_ops=["BiasAdd", "Relu"], **SQUARE,
    )  # fmt: skip
    graph.add("Sigmoid", "y", ["conv"])
    return graph


def test_bytes_depend_on_nothing_but_the_graph(tmp_path: Path) -> None:
    """Written down once; another version of Python, numpy, onnx or protobuf, or another processor, gives the same."""
    content = converted(small(tmp_path), tmp_path, (1, 8, 8, 3), ("N", "H", "W", ""), [Output("y", "y")])
    assert len(content) == SMALL_LENGTH
    assert hashlib.sha256(content).hexdigest() == SMALL_SHA256


def test_files_are_valid(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    content = converted(small(tmp_path), tmp_path, (1, 8, 8, 3), ("N", "H", "W", ""), [Output("y", "y")])
    model = onnx.load_from_string(content)
    onnx.checker.check_model(model, full_check=True)
    assert model.SerializeToString(deterministic=True) == content
    assert [dim.dim_param or dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim] == [
        "N",
        "H",
        "W",
        3,
    ]


def broken(folder: Path, change: str) -> tuple[Path, list[Path]]:
    path, binaries = small(folder).write(folder)
    whole = json.loads(path.read_text())
    if change == "no json":
        path.write_bytes(b"\xff not json")
    elif change == "other json":
        path.write_text("[1, 2]")
    elif change == "deep json":
        path.write_text("[" * 100_000)
    elif change == "cut weights":
        binaries[0].write_bytes(binaries[0].read_bytes()[:-1])
    elif change == "more weights":
        binaries[0].write_bytes(binaries[0].read_bytes() + b"0")
    elif change == "huge shape":
        whole["weightsManifest"][0]["weights"][0]["shape"] = [1 << 40, 1 << 40]
    elif change == "negative shape":
        whole["weightsManifest"][0]["weights"][0]["shape"] = [-1]
    elif change == "unknown type":
        whole["weightsManifest"][0]["weights"][0]["quantization"]["dtype"] = "float4"
    elif change == "no base64":
        whole["modelTopology"]["node"][3]["attr"]["padding"] = {"s": "???"}
    elif change == "missing":
        binaries[0].unlink()
    if change not in ("no json", "other json", "deep json"):
        path.write_text(json.dumps(whole))
    return path, binaries


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("no json", "no TensorFlow.js graph model"), ("other json", "no TensorFlow.js graph model"),
        ("deep json", "no TensorFlow.js graph model"), ("cut weights", "not those of this graph"),
        ("more weights", "not those of this graph"), ("huge shape", "not those of this graph"),
        ("negative shape", "has the shape"), ("unknown type", "stored as float4"),
        ("no base64", "no TensorFlow.js graph model"), ("missing", "cannot be read"),
    ],
)  # fmt: skip
def test_damaged_files_are_told_in_one_line(tmp_path: Path, change: str, says: str) -> None:
    with pytest.raises(WeightsError, match=says) as told:
        read_graph_model(*broken(tmp_path, change))
    assert "\n" not in str(told.value)


def test_what_cannot_be_converted_is_told_in_one_line(tmp_path: Path) -> None:
    graph = small(tmp_path)
    graph.constant("flat", np.array([1, 64]))
    graph.add("TopKV2", "top", ["y"])
    graph.add("Reshape", "flattened", ["y", "flat"])
    graph.add("Conv2D", "other order", ["image", "kernel"], strides=[1, 1, 1, 1], padding="SAME", data_format="NCHW")
    graph.add("AddV2", "sum", ["image", "conv"])
    model = read_graph_model(*graph.write(tmp_path))
    begin = Input("image", "image", (1, 8, 8, 3), ("N", "H", "W", ""))
    for last, says in {
        "top": "operator TopKV2 of node top", "flattened": "end before this node", "other order": "data_format NCHW",
        "absent": "no node absent", "y:3": "has 1 outputs", "kernel": "is a constant", "sum": "cannot be converted",
    }.items():  # fmt: skip
        with pytest.raises(WeightsError, match=says) as told:
            convert(model, [begin], [Output("y", last)])
        assert "\n" not in str(told.value)
    for name, says in {"conv": "needs the graph's input image", "nowhere": "no node nowhere"}.items():
        with pytest.raises(WeightsError, match=says):
            convert(model, [Input("x", name, (1, 4, 4, 4), ("N", "", "", ""))], [Output("y", "y"), Output("z", "sum")])


# --- the networks of the manifest, where their weights lie here ----------------------------------------------------


def network(name: str) -> onnxruntime.InferenceSession:
    if not weights.present(name):
        pytest.skip(f"dataengine weights {name}")
    return session(str(weights.locate(name)))


def picture(name: str) -> Array:
    import cv2

    return np.asarray(cv2.cvtColor(cv2.imread(str(GOLDEN / name)), cv2.COLOR_BGR2RGB))


def heads(name: str, x: Array) -> dict[str, Array]:
    """What a network gives for one picture; a batch of two gives the same."""
    opened = network(name)
    names = [one.name for one in opened.get_outputs()]
    alone = opened.run(None, {"image": x[None]})
    for a, b in zip(alone, opened.run(None, {"image": np.stack([x, x])}), strict=True):
        assert np.asarray(b).shape == (2, *np.asarray(a).shape[1:]) and close(np.asarray(b)[1:], np.asarray(a))
    return {key: np.asarray(value)[0] for key, value in zip(names, alone, strict=True)}


@pytest.mark.parametrize(("name", "size"), [("movenet_thunder", 256), ("movenet_lightning", 192)])
def test_movenet_equals_its_own_runtime(name: str, size: int) -> None:
    found = heads(name, picture(f"figure_{size}x{size}.png"))
    cells = size // 4
    row, column = np.mgrid[:cells, :cells]
    middle = found["center"][..., 0] / (np.hypot(row - cells / 2, column - cells / 2) + 1.8)
    cy, cx = np.unravel_index(middle.argmax(), middle.shape)
    expected = read(f"tfjs_{name.replace('_', '-')}")["Identity"][0, 0]
    for joint in range(17):
        y, x = found["regress"][cy, cx, 2 * joint : 2 * joint + 2] + (cy, cx)
        near = found["heatmap"][..., joint] / (np.hypot(row - y, column - x) + 1.8)
        j, i = np.unravel_index(near.argmax(), near.shape)
        cell = np.array([j, i]) + found["offset"][j, i, 2 * joint : 2 * joint + 2]
        place = cell * float(np.float16(1 / cells))  # the original multiplies by a constant that is stored so
        assert np.allclose(place * size, expected[joint, :2] * size, rtol=0, atol=1e-3)
        assert abs(float(found["heatmap"][j, i, joint]) - expected[joint, 2]) < 1e-5


def test_multipose_equals_its_own_runtime() -> None:
    """The strongest of its six people; the published scores are weighted by the distance to the expected place."""
    found = heads("movenet_multipose", picture("figure_256x320.png"))
    expected = read("tfjs_movenet-multipose")["Identity"][0, 0]
    cells = np.array(found["center"].shape[:2])
    row, column = np.mgrid[: cells[0], : cells[1]]
    cy, cx = np.unravel_index(found["center"][..., 0].argmax(), tuple(cells))
    middle, side = (cy, cx) + found["box_offset"][cy, cx], found["box_scale"][cy, cx]
    low, high = middle - side / 2, middle + side / 2
    assert np.allclose(np.concatenate([low / cells, high / cells]), expected[51:55], atol=1e-5)
    inside = (row >= low[0]) & (row < high[0]) & (column >= low[1]) & (column < high[1])
    for joint in range(17):
        y, x = found["regress"][cy, cx, 2 * joint : 2 * joint + 2] + (cy, cx)
        near = np.exp(-((row - y) ** 2 + (column - x) ** 2) / (float(np.float16(0.3)) * cells.min())) * inside
        weighted = found["heatmap"][..., joint] * near
        j, i = np.unravel_index(weighted.argmax(), weighted.shape)
        place = (np.array([j, i]) + found["offset"][j, i, 2 * joint : 2 * joint + 2]) / cells
        assert np.allclose(np.append(place, weighted[j, i]), expected[3 * joint : 3 * joint + 3], atol=1e-5)


def test_efficientpose_equals_its_own_runtime() -> None:
    """The published output is eight times larger, by three learned upscalings; its peaks lie within a cell of ours."""
    found = heads("efficientpose", picture("figure_368x368.png").astype(np.float32) / 127.5 - 1)["heatmap"]
    stored = read("tfjs_efficientpose")
    assert found.shape == (46, 46, 16)
    sure = stored["peak_value"] > 0.2
    peaks = np.array([np.unravel_index(found[..., n].argmax(), (46, 46)) for n in range(16)])
    assert sure.sum() >= 10
    assert np.abs((peaks + 0.5) * 8 - stored["peak_yx"] - 0.5)[sure].max() <= 8
    assert np.abs(found.max((0, 1)) - stored["peak_value"])[sure].max() < 0.06


def test_nanodet_equals_its_own_runtime() -> None:
    mean, deviation = np.float32([103.53, 116.28, 123.675]), np.float32([57.375, 57.12, 58.395])
    x = (picture("figure_416x416.png")[..., ::-1].astype(np.float32) - mean) / deviation
    found = heads("nanodet", np.ascontiguousarray(x.transpose(2, 0, 1)))
    stored = read("tfjs_nanodet")
    for n, name in enumerate(("scores_8", "scores_16", "scores_32", "boxes_8", "boxes_16", "boxes_32")):
        expected = stored["Identity" if n == 0 else f"Identity_{n}"][0]
        assert close(found[name].reshape(-1, expected.shape[1])[::13], expected)


def test_blazeface_equals_its_own_runtime() -> None:
    found = heads("blazeface", picture("figure_256x256.png").astype(np.float32) / 127.5 - 1)
    stored = read("tfjs_blazeface")
    for n, name in enumerate(("scores_16", "scores_32", "boxes_16", "boxes_32")):
        expected = stored["Identity" if n == 0 else f"Identity_{n}"][0]
        assert close(found[name].reshape(expected.shape), expected)
