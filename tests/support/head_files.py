"""Small ONNX files that end at heads, as MoveNet MultiPose and NanoDet do, with random weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from dataengine.experts import movenet_multipose, nanodet


def pixelwise(
    path: Path,
    outputs: Mapping[str, tuple[int, int]],
    squashed: tuple[str, ...] = (),
    channels_last: bool = True,
    size: int | None = None,
    seed: int = 0,
) -> Path:
    """Outputs (n, rows, columns, numbers), each linear in the mean colour of a square of the image.

    Args:
        path: of the file.
        outputs: name -> pixels a cell, and numbers a cell.
        squashed: outputs that go through a sigmoid.
        channels_last: whether images are (n, h, w, 3), else (n, 3, h, w).
        size: side of the image; None: any.
        seed: of the weights.
    """
    rng = np.random.default_rng(seed)
    nodes, constants, infos = [], [], []
    entry = "input"
    if channels_last:
        nodes.append(helper.make_node("Transpose", ["input"], ["planes"], perm=[0, 3, 1, 2]))
        entry = "planes"
    for name, (stride, numbers) in outputs.items():
        weights = rng.normal(size=(numbers, 3, 1, 1)).astype(np.float32) * 0.02
        constants += [
            numpy_helper.from_array(weights, f"{name}_w"),
            numpy_helper.from_array(rng.normal(size=numbers).astype(np.float32), f"{name}_b"),
        ]
        nodes += [
            helper.make_node("AveragePool", [entry], [f"{name}_p"], kernel_shape=[stride] * 2, strides=[stride] * 2),
            helper.make_node("Conv", [f"{name}_p", f"{name}_w", f"{name}_b"], [f"{name}_c"]),
        ]
        last = f"{name}_c"
        if name in squashed:
            nodes.append(helper.make_node("Sigmoid", [last], [f"{name}_s"]))
            last = f"{name}_s"
        nodes.append(helper.make_node("Transpose", [last], [name], perm=[0, 2, 3, 1]))
        infos.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", f"{name}_h", f"{name}_w", numbers]))
    side = ["rows", "columns"] if size is None else [size, size]
    given = ["n", *side, 3] if channels_last else ["n", 3, *side]
    graph = helper.make_graph(
        nodes, "test", [helper.make_tensor_value_info("input", TensorProto.FLOAT, given)], infos, constants
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def multipose(path: Path, seed: int = 0) -> Path:
    """The maps of MoveNet MultiPose."""
    outputs = {name: (movenet_multipose.STRIDE, numbers) for name, numbers in movenet_multipose.HEADS.items()}
    return pixelwise(path, outputs, ("center", "heatmap"), seed=seed)


def detector(path: Path, seed: int = 0) -> Path:
    """The outputs of NanoDet."""
    outputs = {
        f"{kind}_{stride}": (stride, numbers)
        for kind, numbers in (("scores", nanodet.CLASSES), ("boxes", 4 * nanodet.BINS))
        for stride in nanodet.STRIDES
    }
    return pixelwise(path, outputs, tuple(n for n in outputs if n.startswith("scores")), channels_last=False, seed=seed)
