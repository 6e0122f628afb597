"""ONNX files of MoveNet with random weights, written from our own network operator by operator."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dataengine.experts.movenet import SIZES
from dataengine.io.tfjs.onnx_file import OnnxWriter


class _Graph:
    """Writes a network in the form that published files have: float16 constants, cast to float32."""

    def __init__(self, fill: float | None) -> None:
        self.writer = OnnxWriter("movenet")
        self.fill = fill
        self.zero = self.writer.add_constant(np.float32(0).reshape(()))
        self.six = self.writer.add_constant(np.float32(6).reshape(()))
        self.twice = self.writer.add_constant(np.array([1, 1, 2, 2], np.float32))

    def node(self, op: str, inputs: Sequence[str], **attributes: Any) -> str:
        return self.writer.add_node(op, inputs, 1, **attributes)[0]

    def constant(self, array: Any) -> str:
        half = np.asarray(array, np.float16)
        return self.node("Cast", [self.writer.add_constant(half)], to=1)

    def conv(self, module: Any, x: str) -> str:
        conv = module.conv
        stored = [conv.weight] if conv.bias is None else [conv.weight, conv.bias]
        arrays = [one.detach().numpy() for one in stored]
        if self.fill is not None:
            arrays = [np.full_like(one, self.fill) for one in arrays]
        kernel, stride = conv.kernel_size[0], conv.stride[0]
        pads = [0, 0, 1, 1] if stride == 2 else [kernel // 2] * 4
        return self.node(
            "Conv", [x, *map(self.constant, arrays)], dilations=[1, 1], group=conv.groups,
            kernel_shape=[kernel, kernel], pads=pads, strides=[stride, stride],
        )  # fmt: skip

    def relu6(self, x: str) -> str:
        return self.node("Clip", [x, self.zero, self.six])

    def residual(self, block: Any, x: str) -> str:
        y = x if block.expand is None else self.relu6(self.conv(block.expand, x))
        y = self.conv(block.project, self.relu6(self.conv(block.depthwise, y)))
        return self.node("Add", [x, y]) if block.residual else y

    def separable(self, block: Any, x: str) -> str:
        return self.node("Relu", [self.conv(block.pointwise, self.conv(block.depthwise, x))])


def random_movenet(path: Path, variant: str, seed: int = 0, fill: float | None = None) -> Path:
    """Write a file of MoveNet for one person.

    Args:
        path: of the file. variant: "lightning" or "thunder".
        seed: of the weights.
        fill: a number in the place of all weights.
    """
    import torch

    from dataengine.experts.movenet_network import HEADS, LIKELIHOODS, PYRAMID, MoveNetModule

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = MoveNetModule(variant)
    graph, size = _Graph(fill), SIZES[variant]
    writer = graph.writer
    x = graph.node("Transpose", [writer.add_input("image", "uint8", ["N", size, size, 3])], perm=[0, 3, 1, 2])
    x = graph.node("Cast", [x], to=1)
    x = graph.node("Sub", [x, graph.constant(np.zeros((1, 3, 1, 1)))])
    x = graph.node("Mul", [x, graph.constant(np.full((1, 3, 1, 1), 2 / 255))])
    x = graph.node("Sub", [x, graph.constant(1.0)])
    kept = []
    x = graph.relu6(graph.conv(network.stem, x))
    for stage in network.stages:
        for block in stage:  # type: ignore[union-attr]
            x = graph.residual(block, x)
        kept.append(x)
    x = graph.conv(network.reduce, graph.relu6(graph.conv(network.last, x)))
    for level, (stage_number, _, _) in zip(network.pyramid, PYRAMID):
        enlarged = graph.node(
            "Resize", [x, "", graph.twice], coordinate_transformation_mode="half_pixel", mode="linear"
        )
        x = graph.node("Add", [enlarged, graph.conv(level.lateral, kept[stage_number])])
        x = graph.separable(level.mix, x)
    for name, channels in HEADS.items():
        head: Any = network.heads[name]
        y = graph.conv(head.out, graph.separable(head.hidden, x))
        y = graph.node("Sigmoid", [y]) if name in LIKELIHOODS else y
        writer.add_node("Transpose", [y], [name], perm=[0, 2, 3, 1])
        writer.add_output(name, "float32", ["N", size // 4, size // 4, channels])
    path.write_bytes(writer.to_bytes())
    return path
