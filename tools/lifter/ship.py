"""From a checkpoint to the shipped file: ONNX with folded normalisation and weights stored in 16 bits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from blake3 import blake3
from onnx import TensorProto, helper, numpy_helper

from dataengine.core.errors import WeightsError
from dataengine.core.types import Float
from dataengine.lift.inputs import CHANNELS, NUM_BODY
from dataengine.lift.network import TemporalNetwork

OPSET = 18
LIMIT = 3_000_000
"""Bytes the shipped file may have."""
WIDTHS = (3, 3, 3)
WIDE = 160


def make_network(channels: int = WIDE, dropout: float = 0.1) -> TemporalNetwork:
    """The network of `temporal`, untrained."""
    return TemporalNetwork(CHANNELS, 3 * NUM_BODY, WIDTHS, channels, dropout)


def _folded(conv: Any, norm: Any) -> tuple[Float, Float]:
    """Weight and bias of a convolution with the batch normalisation behind it folded in."""
    scale = (norm.weight / torch.sqrt(norm.running_var + norm.eps)).detach().double()
    weight = conv.weight.detach().double() * scale[:, None, None]
    bias = norm.bias.detach().double() - norm.running_mean.double() * scale
    return weight.numpy(), bias.numpy()


class _Graph:
    """Nodes and weights of an ONNX graph in the making."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.tensors: list[Any] = []

    def half(self, name: str, values: Float) -> str:
        """A weight stored in 16 bits and widened when the file is opened."""
        self.tensors.append(numpy_helper.from_array(values.astype(np.float16), f"{name}_half"))
        self.nodes.append(helper.make_node("Cast", [f"{name}_half"], [name], to=TensorProto.FLOAT))
        return name

    def conv(self, given: str, made: str, weight: Float, bias: Float, dilation: int = 1) -> str:
        """A convolution over time."""
        inputs = [given, self.half(f"{made}_weight", weight), self.half(f"{made}_bias", bias)]
        self.nodes.append(
            helper.make_node("Conv", inputs, [made], kernel_shape=[weight.shape[2]], dilations=[dilation], pads=[0, 0])
        )
        return made

    def add(self, kind: str, inputs: list[str], made: str) -> str:
        """A node without attributes."""
        self.nodes.append(helper.make_node(kind, inputs, [made]))
        return made

    def cut(self, given: str, made: str, margin: int) -> str:
        """A sequence without its first and last frames."""
        for name, value in (("start", margin), ("end", -margin), ("axis", 2)):
            self.tensors.append(numpy_helper.from_array(np.array([value], np.int64), f"{made}_{name}"))
        return self.add("Slice", [given, *(f"{made}_{name}" for name in ("start", "end", "axis"))], made)


def to_onnx(network: TemporalNetwork) -> bytes:
    """The bytes of the file: input `features` (1, 42, T), output `joints` (1, 39, T - receptive field + 1)."""
    graph = _Graph()
    x = graph.add("Relu", [graph.conv("features", "expand", *_folded(network.expand_conv, network.expand_bn))], "wide")
    for n, (width, dilation) in enumerate(zip(network.widths[1:], network.dilations)):
        kept = graph.cut(x, f"kept{n}", (width - 1) * dilation // 2)
        one, two = network.layers_conv[2 * n], network.layers_conv[2 * n + 1]
        x = graph.conv(x, f"dilated{n}", *_folded(one, network.layers_bn[2 * n]), dilation)
        x = graph.add("Relu", [x], f"first{n}")
        x = graph.conv(x, f"single{n}", *_folded(two, network.layers_bn[2 * n + 1]))
        x = graph.add("Add", [kept, graph.add("Relu", [x], f"second{n}")], f"block{n}")
    bias = network.shrink.bias
    assert bias is not None
    graph.conv(x, "joints", network.shrink.weight.detach().numpy(), bias.detach().numpy())
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "temporal",
            [helper.make_tensor_value_info("features", TensorProto.FLOAT, [1, network.expand_conv.in_channels, "t"])],
            [helper.make_tensor_value_info("joints", TensorProto.FLOAT, [1, network.shrink.out_channels, "u"])],
            graph.tensors,
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=8,
        producer_name="tools.lifter",
    )
    onnx.checker.check_model(model)
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def ship(network: TemporalNetwork, folder: Path, trained_on: dict[str, Any]) -> int:
    """Write the file and the manifest with its blake3 and what it was trained on; returns the bytes of the file.

    Raises:
        WeightsError: the file is larger than `LIMIT`.
    """
    content = to_onnx(network.eval())
    if len(content) > LIMIT:
        raise WeightsError(f"the network has {len(content)} bytes, allowed {LIMIT}: make it smaller")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "temporal.onnx").write_bytes(content)
    manifest = {"files": {"temporal.onnx": blake3(content).hexdigest()}, "trained_on": trained_on}
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")
    return len(content)
