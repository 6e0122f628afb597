"""The network of MoveNet for one person, and its weights in the published file.

A MobileNetV2 (Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", CVPR 2018, table 2; lightning
has its widths, thunder 1.75 times as many channels), a feature pyramid from stride 32 to 4 with separable convolutions
(Lin et al., "Feature Pyramid Networks", CVPR 2017), and four heads after CenterNet (Zhou et al., "Objects as Points",
arXiv 1904.07850). Channels, paddings and activations are those of the published graph. Batch normalisation is folded
into its convolutions there, so that there is none here, and a network computes the same while it learns.

Weights are read from the converted graph convolution by convolution: each must be where this network has the same one.
A trained network is written as that graph with other numbers, so that whatever runs the published file runs it too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import numpy_helper
from torch import nn
from torch.nn import functional as F

from dataengine.core.errors import WeightsError
from dataengine.core.types import Float

STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
"""Expansion, channels at width 1, blocks, and stride of the first block, of each stage."""
WIDTHS: dict[str, float] = {"lightning": 1.0, "thunder": 1.75}
STEM, LAST = 32, 1280
"""Channels of the first convolution at width 1, and of the last one at any width."""
PYRAMID = ((3, 64, 32), (2, 32, 24), (1, 24, 24))
"""Level by level: the stage that is joined, channels of the level, and channels handed on."""
HEADS: dict[str, int] = {"heatmap": 17, "center": 1, "regress": 34, "offset": 34}
"""Channels of the heads, in the order of the graph."""
HIDDEN = 96
"""Channels within a head."""
LIKELIHOODS = ("heatmap", "center")
"""Heads that end with a sigmoid."""


class Conv(nn.Module):
    """A convolution that keeps the size at stride 1 and halves an even size at stride 2.

    At stride 2 the padding is on the right and below, as TensorFlow's "SAME" has it for even sizes.
    """

    def __init__(
        self, given: int, out: int, kernel: int = 1, stride: int = 1, depthwise: bool = False, bias: bool = True
    ) -> None:
        super().__init__()
        padding = kernel // 2 if stride == 1 else 0
        self.conv = nn.Conv2d(given, out, kernel, stride, padding, groups=given if depthwise else 1, bias=bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.conv.stride[0] == 2:
            x = F.pad(x, (0, 1, 0, 1))
        out: torch.Tensor = self.conv(x)
        return out


class InvertedResidual(nn.Module):
    """Expansion, 3 x 3 depthwise convolution and linear projection, added to the input where sizes agree."""

    def __init__(self, given: int, out: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = given * expansion
        self.expand = Conv(given, inner) if expansion > 1 else None
        self.depthwise = Conv(inner, inner, 3, stride, depthwise=True)
        self.project = Conv(inner, out)
        self.residual = stride == 1 and given == out

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x if self.expand is None else F.relu6(self.expand(x))
        out: torch.Tensor = self.project(F.relu6(self.depthwise(y)))
        return x + out if self.residual else out


class Separable(nn.Module):
    """A 3 x 3 depthwise convolution without bias, a 1 x 1 convolution and ReLU."""

    def __init__(self, given: int, out: int) -> None:
        super().__init__()
        self.depthwise = Conv(given, given, 3, depthwise=True, bias=False)
        self.pointwise = Conv(given, out)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.pointwise(self.depthwise(x)))


class Head(nn.Module):
    """(N, 24, h, w) features -> (N, C, h, w)."""

    def __init__(self, given: int, channels: int) -> None:
        super().__init__()
        self.hidden = Separable(given, HIDDEN)
        self.out = Conv(HIDDEN, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.out(self.hidden(x))
        return out


class PyramidLevel(nn.Module):
    """The coarser level enlarged twice, plus features of the backbone, mixed."""

    def __init__(self, given: int, channels: int, out: int) -> None:
        super().__init__()
        self.lateral = Conv(given, channels)
        self.mix = Separable(channels, out)

    def forward(self, coarse: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        enlarged = F.interpolate(coarse, scale_factor=2.0, mode="bilinear", align_corners=False)
        return self.mix(enlarged + self.lateral(features))  # type: ignore[no-any-return]


class MoveNetModule(nn.Module):
    """MoveNet for one person: crops -> four maps at a quarter of their resolution.

    Args:
        variant: "lightning" or "thunder".
    """

    def __init__(self, variant: str) -> None:
        super().__init__()
        self.variant = variant
        width = WIDTHS[variant]
        channels = _rounded(STEM * width)
        self.stem = Conv(3, channels, 3, 2)
        stages, outs = [], []
        for expansion, out, blocks, stride in STAGES:
            out = _rounded(out * width)
            stage = []
            for number in range(blocks):
                stage.append(InvertedResidual(channels, out, stride if number == 0 else 1, expansion))
                channels = out
            stages.append(nn.Sequential(*stage))
            outs.append(out)
        self.stages = nn.ModuleList(stages)
        self.last = Conv(channels, LAST)
        self.reduce = Conv(LAST, PYRAMID[0][1])
        self.pyramid = nn.ModuleList(PyramidLevel(outs[stage], inner, out) for stage, inner, out in PYRAMID)
        self.heads = nn.ModuleDict({name: Head(PYRAMID[-1][2], out) for name, out in HEADS.items()})
        self.scale: torch.Tensor
        self.register_buffer("scale", torch.tensor(2 / 255))

    def forward(self, pixels: torch.Tensor, frozen: int = 0) -> dict[str, torch.Tensor]:
        """The maps of crops.

        Args:
            pixels: (N, 3, s, s) RGB, 0 .. 255 in any type; s a multiple of 32.
            frozen: so many of the first parts of the backbone (the stem is one, each stage another, at most 8) are run
                without gradients.

        Returns:
            By name (N, C, s / 4, s / 4). `heatmap` (17) and `center` (1) are logits; `regress` and `offset` (34)
            cells, y and x of every joint.
        """
        return self.rest(self.front(pixels, frozen), frozen)

    def front(self, pixels: torch.Tensor, frozen: int) -> list[torch.Tensor]:
        """What the picture itself and the first `frozen` parts of the backbone give, without gradients."""
        with torch.no_grad():
            found = [pixels.to(self.scale.dtype) * self.scale - 1]
            for number in range(frozen):
                found.append(self._part(number, found[-1]))
        return found

    def rest(self, front: list[torch.Tensor], frozen: int) -> dict[str, torch.Tensor]:
        """The maps, given what `front` gave."""
        found = list(front)
        for number in range(frozen, 1 + len(STAGES)):
            found.append(self._part(number, found[-1]))
        x = self.reduce(F.relu6(self.last(found[-1])))
        for level, (stage, _, _) in zip(self.pyramid, PYRAMID):
            x = level(x, found[stage + 2])
        return {name: head(x) for name, head in self.heads.items()}

    def _part(self, number: int, x: torch.Tensor) -> torch.Tensor:
        """The stem, or stage `number` - 1."""
        if number == 0:
            return F.relu6(self.stem(x))
        return self.stages[number - 1](x)  # type: ignore[no-any-return]

    def convolutions(self) -> list[nn.Conv2d]:
        """Every convolution in the order of the graph."""
        return [module for module in self.modules() if isinstance(module, nn.Conv2d)]

    def backbone_parts(self) -> list[nn.Module]:
        """Stem, the seven stages, and the last convolution, from the picture on."""
        return [self.stem, *self.stages, self.last]


def as_heads(maps: Mapping[str, torch.Tensor]) -> dict[str, Float]:
    """What the network gives as the published graph does: (N, h, w, C) float32, likelihoods after their sigmoid."""
    out = {}
    for name, each in maps.items():
        found = torch.sigmoid(each) if name in LIKELIHOODS else each
        out[name] = np.ascontiguousarray(found.detach().permute(0, 2, 3, 1).float().cpu().numpy())
    return out


def _rounded(channels: float) -> int:
    """The nearest multiple of eight that is not more than a tenth smaller, as MobileNets round their channels."""
    nearest = max(8, int(channels + 4) // 8 * 8)
    return nearest if nearest >= 0.9 * channels else nearest + 8


@dataclass(frozen=True)
class GraphFile:
    """A converted graph of MoveNet.

    Attributes:
        path: of the file, for messages. model: the graph.
        weights: per convolution in the order of the graph, the names of its weight and of its bias, None without one.
        variant: "lightning" or "thunder", told by the shapes.
    """

    path: Path
    model: Any
    weights: list[tuple[str, str | None]]
    variant: str

    def fill(self, network: MoveNetModule) -> None:
        """Give the network the weights of the file.

        Raises:
            WeightsError: they are not finite.
        """
        stored = {one.name: one for one in self.model.graph.initializer}
        with torch.no_grad():
            for conv, names in zip(network.convolutions(), self.weights, strict=True):
                for target, name in zip((conv.weight, conv.bias), names):
                    if name is not None and target is not None:
                        target.copy_(torch.from_numpy(_numbers(stored[name], self.path)))
            network.scale.fill_(float(_numbers(stored[_scale(self.model)], self.path).ravel()[0]))

    def with_weights(self, network: MoveNetModule) -> bytes:
        """The file with the weights of a network in the place of its own, as float32; the same weights are the same
        bytes."""
        found: dict[str, Float] = {}
        for conv, (weight, bias) in zip(network.convolutions(), self.weights, strict=True):
            found[weight] = conv.weight.detach().float().cpu().numpy()
            if bias is not None and conv.bias is not None:
                found[bias] = conv.bias.detach().float().cpu().numpy()
        model = onnx.ModelProto()
        model.CopyFrom(self.model)
        for one in model.graph.initializer:
            if one.name in found:
                one.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(found[one.name]), one.name))
        return bytes(model.SerializeToString(deterministic=True))


def open_graph_file(path: Path) -> GraphFile:
    """Read a converted graph of MoveNet.

    Raises:
        WeightsError: the file is no ONNX file, or not MoveNet for one person.
    """
    try:
        model = onnx.load_from_string(path.read_bytes())
    except (DecodeError, ValueError) as error:
        raise WeightsError(f"weights {path} cannot be read as ONNX: {' '.join(str(error).split())}") from error
    nodes = [node for node in model.graph.node if node.op_type == "Conv"]
    cast = {node.output[0]: node.input[0] for node in model.graph.node if node.op_type == "Cast"}
    shapes = {one.name: tuple(one.dims) for one in model.graph.initializer}
    weights = []
    for node in nodes:
        names = [cast.get(name, name) for name in node.input[1:]]
        if not names or any(name not in shapes for name in names):
            raise WeightsError(f"weights {path} are not of MoveNet: a convolution has no stored weights")
        weights.append((names[0], names[1] if len(names) > 1 else None))
    for variant in WIDTHS:
        with torch.device("meta"):
            wanted = MoveNetModule(variant).convolutions()
        if [_form(node, shapes[w], b) for node, (w, b) in zip(nodes, weights)] == [_form_of(c) for c in wanted]:
            return GraphFile(path, model, weights, variant)
    raise WeightsError(
        f"weights {path} are not of MoveNet lightning or thunder: give the published file (movenet_lightning, "
        "movenet_thunder) or one that a student of it wrote"
    )


def load_network(path: Path, variant: str) -> tuple[MoveNetModule, GraphFile]:
    """A network with the weights of a converted graph, published or trained.

    Raises:
        WeightsError: the file is not MoveNet of this variant.
    """
    file = open_graph_file(path)
    if file.variant != variant:
        raise WeightsError(f"weights {path} are MoveNet {file.variant}, not {variant}: give the variant they belong to")
    network = MoveNetModule(variant)
    file.fill(network)
    return network, file


def _form(node: Any, shape: tuple[int, ...], bias: str | None) -> tuple[Any, ...]:
    """Shape of the weights, stride, groups, paddings, and whether there is a bias, of a node of a graph."""
    given = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    return shape, tuple(given["strides"]), int(given["group"]), tuple(given["pads"]), bias is not None


def _form_of(conv: nn.Conv2d) -> tuple[Any, ...]:
    """As `_form`."""
    strided = conv.stride[0] == 2
    pads = (0, 0, 1, 1) if strided else (int(conv.padding[0]),) * 4
    return tuple(conv.weight.shape), tuple(conv.stride), conv.groups, pads, conv.bias is not None


def _numbers(tensor: Any, path: Path) -> Float:
    found = np.array(numpy_helper.to_array(tensor), np.float32)
    if not np.isfinite(found).all():
        raise WeightsError(f"weights {path}: {tensor.name} has numbers that are not finite")
    return found


def _scale(model: Any) -> str:
    """The name of what multiplies the pixels of an image."""
    cast = {node.output[0]: node.input[0] for node in model.graph.node if node.op_type == "Cast"}
    first = next(node for node in model.graph.node if node.op_type == "Mul")
    return str(cast[first.input[1]])
