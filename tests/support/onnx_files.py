"""Small ONNX files with the inputs and outputs that known networks have, for tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, compose, helper, numpy_helper

from dataengine.experts.onnx_graphs import IMAGENET
from dataengine.experts.synthetic import weights_folder

OPSET = 18
FLOAT, INT = TensorProto.FLOAT, TensorProto.INT64


def constant(name: str, value: Any, dtype: Any = np.float32) -> onnx.TensorProto:
    return numpy_helper.from_array(np.asarray(value, dtype), name)


def save(
    path: Path,
    nodes: Sequence[Any],
    constants: Sequence[Any],
    entry: Sequence[Any],
    outputs: Mapping[str, Any],
    types: Mapping[str, int] | None = None,
) -> Path:
    graph = helper.make_graph(
        list(nodes),
        "test",
        [helper.make_tensor_value_info("input", FLOAT, list(entry))],
        [
            helper.make_tensor_value_info(name, (types or {}).get(name, FLOAT), list(shape))
            for name, shape in outputs.items()
        ],
        list(constants),
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def random_network(
    path: Path,
    outputs: Mapping[str, Sequence[int]],
    size: tuple[int, int],
    batch: int | str = "n",
    seed: int = 0,
    classes: Sequence[str] = (),
) -> Path:
    """Outputs of the given shapes, one picture each, that depend on all of the picture; `classes` are whole numbers 0
    to 2."""
    rng = np.random.default_rng(seed)
    cells = 4
    nodes = [
        helper.make_node(
            "AveragePool",
            ["input"],
            ["pool"],
            kernel_shape=[size[1] // cells, size[0] // cells],
            strides=[size[1] // cells, size[0] // cells],
        ),
        helper.make_node("Flatten", ["pool"], ["flat"]),
    ]
    constants = []
    for name, shape in outputs.items():
        numbers = int(np.prod(shape))
        constants += [
            constant(f"{name}_w", rng.normal(size=(3 * cells * cells, numbers)) * 0.02),
            constant(f"{name}_b", rng.normal(size=numbers)),
            constant(f"{name}_s", [-1, *shape], np.int64),
        ]
        nodes += [
            helper.make_node("MatMul", ["flat", f"{name}_w"], [f"{name}_m"]),
            helper.make_node("Add", [f"{name}_m", f"{name}_b"], [f"{name}_a"]),
            helper.make_node("Reshape", [f"{name}_a", f"{name}_s"], [f"{name}_r" if name in classes else name]),
        ]
        if name in classes:
            constants += [constant(f"{name}_low", 0.0), constant(f"{name}_high", 2.0)]
            nodes += [
                helper.make_node("Clip", [f"{name}_r", f"{name}_low", f"{name}_high"], [f"{name}_c"]),
                helper.make_node("Cast", [f"{name}_c"], [name], to=INT),
            ]
    shapes = {name: [batch, *shape] for name, shape in outputs.items()}
    return save(path, nodes, constants, [batch, 3, size[1], size[0]], shapes, dict.fromkeys(classes, INT))


def brightest_simcc(path: Path, size: tuple[int, int], joints: int, batch: int | str = "n") -> Path:
    """Joint j lies at the brightest row and column of channel j mod 3; two bins a pixel."""
    channels = np.arange(joints) % 3
    nodes = [helper.make_node("Gather", ["input", "channels"], ["each"], axis=1)]
    constants = [constant("channels", channels, np.int64), constant("level", 3.0)]
    for name, axis, along in (("simcc_x", 2, 3), ("simcc_y", 3, 2)):
        repeated = np.repeat(np.arange(size[0] if along == 3 else size[1]), 2)
        constants += [constant(f"{name}_axes", [axis], np.int64), constant(f"{name}_bins", repeated, np.int64)]
        nodes += [
            helper.make_node("ReduceMax", ["each", f"{name}_axes"], [f"{name}_max"], keepdims=0),
            helper.make_node("Gather", [f"{name}_max", f"{name}_bins"], [f"{name}_wide"], axis=2),
            helper.make_node("Add", [f"{name}_wide", "level"], [name]),
        ]
    shapes = {"simcc_x": [batch, joints, 2 * size[0]], "simcc_y": [batch, joints, 2 * size[1]]}
    return save(path, nodes, constants, [batch, 3, size[1], size[0]], shapes)


def brightest_heatmap(path: Path, size: tuple[int, int], joints: int) -> Path:
    """The map of joint j is every fourth pixel of channel j mod 3."""
    nodes = [
        helper.make_node("Gather", ["input", "channels"], ["each"], axis=1),
        helper.make_node("Slice", ["each", "starts", "ends", "axes", "steps"], ["cells"]),
        helper.make_node("Add", ["cells", "level"], ["heatmap"]),
    ]
    constants = [
        constant("channels", np.arange(joints) % 3, np.int64),
        constant("starts", [0, 0], np.int64), constant("ends", [size[1], size[0]], np.int64),
        constant("axes", [2, 3], np.int64), constant("steps", [4, 4], np.int64), constant("level", 3.0),
    ]  # fmt: skip
    return save(
        path, nodes, constants, ["n", 3, size[1], size[0]], {"heatmap": ["n", joints, size[1] // 4, size[0] // 4]}
    )


def brightest_whole(path: Path, size: tuple[int, int], joints: int, form: str) -> Path:
    """One person: joint j at the brightest pixel of channel j mod 3, the box 10 pixels around joint 0. `form`: rtmo,
    yolo, yolo_end, or boxes alone: rtmdet."""
    w = size[0]
    nodes = [
        helper.make_node("Gather", ["input", "channels"], ["each"], axis=1),
        helper.make_node("Reshape", ["each", "flat"], ["row"]),
        helper.make_node("ArgMax", ["row"], ["best"], axis=2, keepdims=0),
        helper.make_node("Mod", ["best", "width"], ["x_"]),
        helper.make_node("Div", ["best", "width"], ["y_"]),
        helper.make_node("Cast", ["x_"], ["x0"], to=FLOAT),
        helper.make_node("Cast", ["y_"], ["y0"], to=FLOAT),
        helper.make_node("Unsqueeze", ["x0", "last"], ["x"]),
        helper.make_node("Unsqueeze", ["y0", "last"], ["y"]),
        helper.make_node("Mul", ["x", "zero"], ["zeros"]),
        helper.make_node("Add", ["zeros", "sure"], ["score"]),
        helper.make_node("Concat", ["x", "y", "score"], ["points"], axis=2),
        helper.make_node("Slice", ["x", "first", "second", "one"], ["bx"]),
        helper.make_node("Slice", ["y", "first", "second", "one"], ["by"]),
        helper.make_node("Slice", ["score", "first", "second", "one"], ["bs"]),
        helper.make_node("Sub", ["bx", "ten"], ["left"]), helper.make_node("Sub", ["by", "ten"], ["top"]),
        helper.make_node("Add", ["bx", "ten"], ["right"]), helper.make_node("Add", ["by", "ten"], ["bottom"]),
        helper.make_node("Mul", ["bs", "zero"], ["class"]),
        helper.make_node("Add", ["class", "twenty"], ["side"]),
    ]  # fmt: skip
    constants = [
        constant("channels", np.arange(joints) % 3, np.int64),
        constant("flat", [0, 0, -1], np.int64),
        constant("width", w, np.int64),
        constant("last", [2], np.int64),
        constant("zero", 0.0),
        constant("sure", 0.9),
        constant("ten", 10.0),
        constant("twenty", 20.0),
        constant("first", [0], np.int64),
        constant("second", [1], np.int64),
        constant("one", [1], np.int64),
    ]
    entry = ["n", 3, size[1], size[0]]
    if form == "rtmdet":
        nodes += [
            helper.make_node("Concat", ["left", "top", "right", "bottom", "bs"], ["dets"], axis=2),
            helper.make_node("Squeeze", ["class", "last"], ["flat_class"]),
            helper.make_node("Cast", ["flat_class"], ["labels"], to=INT),
        ]
        return save(path, nodes, constants, entry, {"dets": ["n", 1, 5], "labels": ["n", 1]}, {"labels": INT})
    if form == "rtmo":
        nodes += [
            helper.make_node("Concat", ["left", "top", "right", "bottom", "bs"], ["dets"], axis=2),
            helper.make_node("Reshape", ["points", "four"], ["keypoints"]),
        ]
        constants += [constant("four", [0, 1, -1, 3], np.int64)]
        return save(path, nodes, constants, entry, {"dets": ["n", 1, 5], "keypoints": ["n", 1, joints, 3]})
    nodes += [helper.make_node("Reshape", ["points", "three"], ["all_points"])]
    constants += [constant("three", [0, 1, -1], np.int64)]
    if form == "yolo_end":
        nodes += [
            helper.make_node(
                "Concat", ["left", "top", "right", "bottom", "bs", "class", "all_points"], ["output0"], axis=2
            )
        ]
        return save(path, nodes, constants, entry, {"output0": ["n", 1, 6 + 3 * joints]})
    nodes += [
        helper.make_node("Concat", ["bx", "by", "side", "side", "bs", "all_points"], ["rows"], axis=2),
        helper.make_node("Transpose", ["rows"], ["output0"], perm=[0, 2, 1]),
    ]
    return save(path, nodes, constants, entry, {"output0": ["n", 5 + 3 * joints, 1]})


def trained_heatmap(path: Path) -> Path:
    """The built-in top-down network in the form of HRNet's exports: ImageNet's colours in, a map a joint out."""
    topdown = onnx.load(weights_folder() / "synthetic_topdown.onnx")
    mean, std = (np.reshape(part, (1, 3, 1, 1)) for part in IMAGENET)
    before = helper.make_graph(
        [
            helper.make_node("Mul", ["input", "std"], ["scaled"]),
            helper.make_node("Add", ["scaled", "mean"], ["colours"]),
            helper.make_node("Round", ["colours"], ["whole"]),
            helper.make_node("Clip", ["whole", "low", "high"], ["clipped"]),
            helper.make_node("Transpose", ["clipped"], ["last"], perm=[0, 2, 3, 1]),
            helper.make_node("Cast", ["last"], ["bytes"], to=TensorProto.UINT8),
        ],
        "before",
        [helper.make_tensor_value_info("input", FLOAT, ["n", 3, 128, 96])],
        [helper.make_tensor_value_info("bytes", TensorProto.UINT8, ["n", 128, 96, 3])],
        [constant("mean", mean), constant("std", std), constant("low", 0.0), constant("high", 255.0)],
    )
    after = helper.make_graph(
        [
            helper.make_node("Reshape", ["maps", "row"], ["rows"]),
            helper.make_node("Softmax", ["rows"], ["likely"], axis=2),
            helper.make_node("Reshape", ["likely", "map"], ["heat"]),
            helper.make_node("AveragePool", ["heat"], ["near"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
            helper.make_node("Mul", ["near", "nine"], ["heatmap"]),
        ],
        "after",
        [helper.make_tensor_value_info("maps", FLOAT, ["n", 14, 16, 12])],
        [helper.make_tensor_value_info("heatmap", FLOAT, ["n", 14, 16, 12])],
        [constant("row", [0, 14, -1], np.int64), constant("map", [0, 14, 16, 12], np.int64), constant("nine", 9.0)],
    )
    versions = {"opset_imports": [helper.make_opsetid("", OPSET)], "ir_version": 8}
    whole = compose.merge_models(helper.make_model(before, **versions), topdown, [("bytes", "image")])
    whole = compose.merge_models(whole, helper.make_model(after, **versions), [("answer", "maps")])
    onnx.checker.check_model(whole)
    onnx.save(whole, path)
    return path
