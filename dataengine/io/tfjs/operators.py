"""How each operator of TensorFlow is written in ONNX.

A lowering takes the builder, the node and the values of its inputs and returns the values of its outputs. Arithmetic
on shapes (Shape, StridedSlice, Pack) is evaluated at the size that the graph is written for; of what comes out only
ratios to the size of another tensor are used (`ResizeBilinear`, `Conv2DBackpropInput`), so the size stays free.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from dataengine.io.tfjs.graph_model import Array, Node
from dataengine.io.tfjs.values import NCHW_AS_NHWC, Builder, Constant, Value, View, inverse, transposed

Lowering = Callable[[Builder, Node, list[Value]], list[Value]]

LOWERINGS: dict[str, Lowering] = {}
"""By the name of the operator in TensorFlow."""


def _lowers(*ops: str) -> Callable[[Lowering], Lowering]:
    def note(function: Lowering) -> Lowering:
        LOWERINGS.update(dict.fromkeys(ops, function))
        return function

    return note


def _tensor(value: Value) -> View:
    if not isinstance(value, View):
        raise ValueError("a constant stands where a tensor is needed")
    return value


def _floats(value: Value) -> View:
    view = _tensor(value)
    if view.dtype != "float32":
        raise ValueError(f"a tensor of the type {view.dtype} must be cast first")
    return view


def _known(value: Value) -> Array:
    if not isinstance(value, Constant):
        raise ValueError("a tensor stands where a constant is needed")
    return value.array


def _ints(value: Value) -> list[int]:
    return [int(one) for one in _known(value).reshape(-1)]


def _axis(value: Value, rank: int) -> int:
    return range(rank)[_ints(value)[0]]


# --- convolutions and pooling --------------------------------------------------------------------------------------


def _spatial(node: Node, key: str, default: Sequence[int] = (1, 1, 1, 1)) -> tuple[int, int]:
    """The two numbers for height and width of an attribute that has four, (1, height, width, 1)."""
    four = list(node.attributes.get(key) or default)
    if len(four) == 2:
        return four[0], four[1]
    if len(four) != 4 or four[0] != 1 or four[3] != 1:
        raise ValueError(f"{key} is {four}, only (1, height, width, 1) is converted")
    return four[1], four[2]


def _checked_format(node: Node) -> None:
    if node.attributes.get("data_format", "NHWC") != "NHWC":
        raise ValueError(f"data_format {node.attributes['data_format']} is not converted, only NHWC")


def _window(
    node: Node, view: View, kernel: tuple[int, int], strides: tuple[int, int], dilations: tuple[int, int]
) -> tuple[dict[str, Any], tuple[int, int]]:
    """Attributes for the padding of a sliding window, and the height and width of what it gives.

    SAME puts ceil(size / stride) windows and the odd zero behind (https://www.tensorflow.org/api_docs/python/tf/nn).
    """
    mode = node.attributes.get("padding")
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    sizes = view.shape[1:3]
    if mode == "SAME":
        out = [-(-size // stride) for size, stride in zip(sizes, strides, strict=True)]
        if strides != (1, 1) and any(view.free[1:3]):
            return {"auto_pad": "SAME_UPPER"}, (out[0], out[1])
        total = [max((o - 1) * s + r - n, 0) for o, s, r, n in zip(out, strides, reach, sizes, strict=True)]
        if strides == (1, 1):
            total = [r - 1 for r in reach]
        before = [one // 2 for one in total]
        behind = [one - half for one, half in zip(total, before, strict=True)]
    elif mode == "EXPLICIT":
        eight = node.attributes["explicit_paddings"]
        before, behind = [eight[2], eight[4]], [eight[3], eight[5]]
    elif mode == "VALID":
        before = behind = [0, 0]
        if view.padding:
            before, behind = ([view.padding[n][side] for n in (1, 2)] for side in (0, 1))
            sizes = tuple(n - a - b for n, a, b in zip(sizes, before, behind, strict=True))
    else:
        raise ValueError(f"padding {mode} is not converted")
    full = [n + a + b for n, a, b in zip(sizes, before, behind, strict=True)]
    height, width = ((n - r) // s + 1 for n, r, s in zip(full, reach, strides, strict=True))
    return {"pads": [*before, *behind]}, (height, width)


def _convolve(build: Builder, node: Node, values: list[Value], kernel: Array, channels: int, group: int) -> View:
    """A convolution with the bias and activation that are fused into its node. `kernel`: (out, in / group, h, w)."""
    _checked_format(node)
    view = _floats(values[0])
    if view.padding and (node.attributes.get("padding") != "VALID" or any(view.padding[n] != (0, 0) for n in (0, 3))):
        view = build.padded(view)
    strides, dilations = _spatial(node, "strides"), _spatial(node, "dilations")
    size = (kernel.shape[2], kernel.shape[3])
    pads, (height, width) = _window(node, view, size, strides, dilations)
    view = build.arranged(replace(view, padding=()), NCHW_AS_NHWC)
    fused = list(node.attributes.get("fused_ops") or [])
    more = [build.weight(kernel)]
    rest = values[2:]
    if fused[:1] == ["BiasAdd"]:
        fused, bias, rest = fused[1:], _known(rest[0]), rest[1:]
        more.append(build.weight(bias.reshape(channels)))
    shape = (view.shape[0], height, width, channels)
    out = build.emit("Conv", view, *more, kernel_shape=size, strides=strides, dilations=dilations, group=group, **pads)
    return _activated(build, node, replace(out, shape=shape, free=(*view.free[:3], "")), fused, rest)


def _activated(build: Builder, node: Node, view: View, fused: list[str], rest: list[Value]) -> View:
    for one in fused:
        if one == "LeakyRelu":
            view = build.emit("LeakyRelu", view, alpha=float(node.attributes.get("leakyrelu_alpha", 0.2)))
        elif one == "Prelu":
            view = build.emit("PRelu", view, _beside(build, view, rest[0]))
        elif one in ("Relu", "Relu6", "Elu", "Sigmoid", "Tanh"):
            view = _simple(build, one, view)
        else:
            raise ValueError(f"the fused operator {one} is not converted")
    return view


@_lowers("Conv2D", "_FusedConv2D")
def _conv(build: Builder, node: Node, values: list[Value]) -> list[Value]:
    kernel = _known(values[1])  # height, width, in / group, out
    group, left = divmod(_tensor(values[0]).shape[3], kernel.shape[2])
    if left:
        raise ValueError(f"{_tensor(values[0]).shape[3]} channels for a kernel of {kernel.shape}")
    return [_convolve(build, node, values, kernel.transpose(3, 2, 0, 1), kernel.shape[3], group)]


@_lowers("DepthwiseConv2dNative", "FusedDepthwiseConv2dNative")
def _depthwise(build: Builder, node: Node, values: list[Value]) -> list[Value]:
    kernel = _known(values[1])  # height, width, channels, multiplier
    height, width, channels, multiplier = kernel.shape
    arranged = kernel.transpose(2, 3, 0, 1).reshape(channels * multiplier, 1, height, width)
    return [_convolve(build, node, values, arranged, channels * multiplier, channels)]


@_lowers("Conv2DBackpropInput")
def _transposed_conv(build: Builder, node: Node, values: list[Value]) -> list[Value]:
    _checked_format(node)
    wanted, kernel = _ints(values[0]), _known(values[1])  # kernel: height, width, out, in
    view = build.arranged(_floats(values[2]), NCHW_AS_NHWC)
    size, strides = (kernel.shape[0], kernel.shape[1]), _spatial(node, "strides")
    if node.attributes.get("padding") != "SAME" or any(k < s for k, s in zip(size, strides, strict=True)):
        raise ValueError("a transposed convolution is converted with padding SAME and a kernel not below its stride")
    shape = (view.shape[0], view.shape[1] * strides[0], view.shape[2] * strides[1], kernel.shape[2])
    if tuple(wanted[1:]) != shape[1:]:
        raise ValueError(f"a transposed convolution to {wanted}, expected {list(shape)}")
    total = [k - s for k, s in zip(size, strides, strict=True)]
    before = [one // 2 for one in total]
    pads = [*before, *(one - half for one, half in zip(total, before, strict=True))]
    weight = build.weight(kernel.transpose(3, 2, 0, 1))
    out = build.emit("ConvTranspose", view, weight, kernel_shape=size, strides=strides, pads=pads)
    return [replace(out, shape=shape, free=(*view.free[:3], ""))]


@_lowers("MaxPool", "AvgPool")
def _pool(build: Builder, node: Node, values: list[Value]) -> list[Value]:
    _checked_format(node)
    view = build.arranged(_floats(values[0]), NCHW_AS_NHWC)
    size, strides = _spatial(node, "ksize"), _spatial(node, "strides")
    pads, (height, width) = _window(node, view, size, strides, (1, 1))
    if node.op == "MaxPool":
        out = build.emit("MaxPool", view, kernel_shape=size, strides=strides, **pads)
    else:
        out = build.emit("AveragePool", view, kernel_shape=size, strides=strides, count_include_pad=0, **pads)
    return [replace(out, shape=(view.shape[0], height, width, view.shape[3]))]


@_lowers("ResizeBilinear", "ResizeNearestNeighbor")
def _resize(build: Builder, node: Node, values: list[Value]) -> list[Value]:
    view = build.arranged(_floats(values[0]), NCHW_AS_NHWC)
    wanted = _ints(values[1])
    factors = np.array([1.0, 1.0, wanted[0] / view.shape[1], wanted[1] / view.shape[2]], np.float32)
    if [math.floor(n * float(f)) for n, f in zip(view.shape[1:3], factors[2:], strict=True)] != wanted:
        raise ValueError(f"resizing {view.shape[1:3]} to {wanted} is by no factor")
    half = bool(node.attributes.get("half_pixel_centers"))
    place = "align_corners" if node.attributes.get("align_corners") else "half_pixel" if half else "asymmetric"
    how: dict[str, Any] = {"mode": "linear", "coordinate_transformation_mode": place}
    if node.op == "ResizeNearestNeighbor":
        how |= {"mode": "nearest", "nearest_mode": "round_prefer_ceil" if half or place == "align_corners" else "floor"}
    out = build.emit("Resize", view, "", build.constant(factors), **how)
    return [replace(out, shape=(view.shape[0], wanted[0], wanted[1], view.shape[3]))]


# --- one value per element -----------------------------------------------------------------------------------------

_SIMPLE = {op: op for op in ("Relu", "Sigmoid", "Tanh", "Elu", "Exp", "Sqrt", "Neg", "Abs", "Reciprocal")}


def _simple(build: Builder, op: str, view: View) -> View:
    if op == "Relu6":
        low, high = (build.constant(np.array(limit, np.float32)) for limit in (0.0, 6.0))
        return build.emit("Clip", view, low, high)
    return build.emit(_SIMPLE[op], view)


@_lowers("Relu6", *_SIMPLE)
def _unary(build: Builder, node: Node, values: list[Value]) -> list[Value]:
    return [_simple(build, node.op, _floats(values[0]))]


@_lowers("LeakyRelu")
def _leaky(build: Builder, node: Node, values: list[Value]) -> list[Value]:
    return [build.emit("LeakyRelu", _floats(values[0]), alpha=float(node.attributes.get("alpha", 0.2)))]


@_lowers("Prelu")
def _prelu(build: Builder, node: Node, values: list[Value]) -> list[Value]:
    view = build.padded(_floats(values[0]))
    return [build.emit("PRelu", view, _beside(build, view, values[1]))]


@_lowers("Identity", "StopGradient", "Snapshot")
def _same(build: Builder, node: Node, values: list[Value]) -> list[Value]:
    del build, node
    return values[:1]


@_lowers("Cast")
def _cast(build: Builder, node: Node, values: list[Value]) -> list[Value]:
    kind = node.attributes["DstT"]
    if kind != "DT_FLOAT":
        raise ValueError(f"a cast to {kind} is not converted")
    if isinstance(values[0], Constant):
        return [Constant(values[0].array.astype(np.float32))]
    return [build.cast(values[0], "float32")]


def _beside(build: Builder, view: View, other: Value) -> str:
    """The name of `other`, ordered and shaped so that it broadcasts with the stored tensor of `view`."""
    if isinstance(other, View):
        if len(other.shape) != len(view.shape):
            raise ValueError(f"shapes {view.shape} and {other.shape} have other numbers of axes")
        return build.arranged(_floats(other), view.axes).name
    array = other.array
    if array.size == 1:
        return build.weight(array.reshape(()))
    if array.ndim > len(view.shape):
        raise ValueError(f"a constant of {array.shape} with a tensor of {view.shape}")
    full = array.reshape((1,) * (len(view.shape) - array.ndim) + array.shape)
    return build.weight(np.ascontiguousarray(full.transpose(inverse(view.axes))))


_BINARY = {
    "Add": "Add", "AddV2": "Add", "BiasAdd": "Add", "Sub": "Sub", "Mul": "Mul", "RealDiv": "Div", "Maximum": "Max",
    "Minimum": "Min",
}  # fmt: skip
_ON_SHAPES: dict[str, Callable[[Array, Array], Array]] = {
    "Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Max": np.maximum, "Min": np.minimum,
}  # fmt: skip


@_lowers(*_BINARY)
def _binary(build: Builder, node: Node, values: list[Value]) -> list[Value]:
    op, (left, right) = _BINARY[node.op], values
    if isinstance(left, Constant) and isinstance(right, Constant):
        return [Constant(_ON_SHAPES[op](left.array, right.array))]
    if isinstance(left, View):
        view = build.padded(_floats(left))
        names = [view.name, _beside(build, view, right)]
    else:
        view = build.padded(_floats(right))
        names = [_beside(build, view, left), view.name]
    shapes = [one.shape if isinstance(one, View) else one.array.shape for one in values]
    free = view.free
    if isinstance(left, View) and isinstance(right, View):
        free = tuple(a or b for a, b in zip(left.free, right.free, strict=True))
    shape = tuple(int(n) for n in np.broadcast_shapes(*shapes))
    return [replace(view, name=build.writer.add_node(op, names)[0], shape=shape, free=free)]


# --- order, joining, cutting ---------------------------------------------------------------------------------------


@_lowers("Transpose")
def _transpose(build: Builder, node: Node, values: list[Value]) -> list[Value]:
    del build, node
    order = tuple(_ints(values[1]))
    if isinstance(values[0], Constant):
        return [Constant(values[0].array.transpose(order))]
    return [transposed(values[0], order)]


@_lowers("Pad", "PadV2")
def _pad(build: Builder, node: Node, values: list[Value]) -> list[Value]:
    view = build.padded(_floats(values[0]))
    pairs = [(int(before), int(behind)) for before, behind in _known(values[1])]
    shape = tuple(n + a + b for n, (a, b) in zip(view.shape, pairs, strict=True))
    fill = float(_known(values[2]).reshape(())) if len(values) > 2 else 0.0
    if fill == 0.0:
        return [replace(view, shape=shape, padding=tuple(pairs))]
    stored = [pairs[n] for n in inverse(view.axes)]
    pads = np.array([before for before, _ in stored] + [behind for _, behind in stored], np.int64)
    out = build.emit("Pad", view, build.constant(pads), build.constant(np.array(fill, np.float32)), mode="constant")
    return [replace(out, shape=shape)]


@_lowers("ConcatV2")
def _concat(build: Builder, node: Node, values: list[Value]) -> list[Value]:
    del node
    first = build.padded(_floats(values[0]))
    axis = _axis(values[-1], len(first.shape))
    views = [first, *(build.arranged(_floats(one), first.axes) for one in values[1:-1])]
    name = build.writer.add_node("Concat", [one.name for one in views], 1, axis=first.axes[axis])[0]
    length = sum(one.shape[axis] for one in views)
    return [replace(first, name=name, shape=(*first.shape[:axis], length, *first.shape[axis + 1 :]))]


@_lowers("Split", "SplitV")
def _split(build: Builder, node: Node, values: list[Value]) -> list[Value]:
    if node.op == "Split":
        view, where = build.padded(_floats(values[1])), values[0]
        axis = _axis(where, len(view.shape))
        count = int(node.attributes["num_split"])
        lengths = [view.shape[axis] // count] * count
    else:
        view = build.padded(_floats(values[0]))
        axis, lengths = _axis(values[2], len(view.shape)), _ints(values[1])
        lengths = [view.shape[axis] - sum(lengths) - 1 if one == -1 else one for one in lengths]
    sizes = build.constant(np.array(lengths, np.int64))
    names = build.writer.add_node("Split", [view.name, sizes], len(lengths), axis=view.axes[axis])
    return [
        replace(view, name=name, shape=(*view.shape[:axis], length, *view.shape[axis + 1 :]))
        for name, length in zip(names, lengths, strict=True)
    ]


@_lowers("DepthToSpace")
def _depth_to_space(build: Builder, node: Node, values: list[Value]) -> list[Value]:
    _checked_format(node)
    view, block = build.arranged(_floats(values[0]), NCHW_AS_NHWC), int(node.attributes["block_size"])
    count, height, width, channels = view.shape
    out = build.emit("DepthToSpace", view, blocksize=block, mode="DCR")
    return [replace(out, shape=(count, height * block, width * block, channels // block**2))]


# --- shapes --------------------------------------------------------------------------------------------------------


def _reshaped(build: Builder, value: Value, shape: list[int]) -> Value:
    """Another shape; one length may be -1. The first axis stays free when its length does not change."""
    if isinstance(value, Constant):
        return Constant(value.array.reshape(shape))
    view = build.arranged(value, tuple(range(len(value.shape))))
    whole = math.prod(view.shape)
    full = [whole // -math.prod(shape) if one == -1 else one for one in shape]
    if math.prod(full) != whole:
        raise ValueError(f"{view.shape} cannot become {shape}")
    keeps = bool(full) and full[0] == view.shape[0]
    if any(view.free[1:]) or (view.free[:1] != ("",) and not keeps):
        raise ValueError(f"reshaping {view.shape} to {full} would fix axes that are to be free: end before this node")
    target = np.array([0 if not n and keeps else one for n, one in enumerate(full)], np.int64)
    free = (view.free[0], *[""] * (len(full) - 1)) if keeps else ("",) * len(full)
    name = build.writer.add_node("Reshape", [view.name, build.constant(target)])[0]
    return View(name, tuple(range(len(full))), tuple(full), free, view.dtype)


@_lowers("Reshape")
def _reshape(build: Builder, node: Node, values: list[Value]) -> list[Value]:
    del node
    return [_reshaped(build, values[0], _ints(values[1]))]


@_lowers("ExpandDims")
def _expand(build: Builder, node: Node, values: list[Value]) -> list[Value]:
    del node
    shape = list(_shape_of(values[0]))
    shape.insert(_axis(values[1], len(shape) + 1), 1)
    return [_reshaped(build, values[0], shape)]


@_lowers("Squeeze")
def _squeeze(build: Builder, node: Node, values: list[Value]) -> list[Value]:
    shape = list(_shape_of(values[0]))
    given = [range(len(shape))[one] for one in node.attributes.get("squeeze_dims") or []]
    out = given or [n for n, length in enumerate(shape) if length == 1]
    return [_reshaped(build, values[0], [length for n, length in enumerate(shape) if n not in out])]


def _shape_of(value: Value) -> tuple[int, ...]:
    return value.shape if isinstance(value, View) else value.array.shape


@_lowers("Shape")
def _shape(build: Builder, node: Node, values: list[Value]) -> list[Value]:
    del build, node
    return [Constant(np.array(_shape_of(values[0]), np.int32))]


@_lowers("Pack")
def _pack(build: Builder, node: Node, values: list[Value]) -> list[Value]:
    del build
    return [Constant(np.stack([_known(one) for one in values], int(node.attributes.get("axis") or 0)))]


@_lowers("StridedSlice")
def _strided_slice(build: Builder, node: Node, values: list[Value]) -> list[Value]:
    """Of a shape, which is all that is needed: one axis, begin, end and step."""
    del build
    array, (begin,), (end,), (step,) = _known(values[0]), _ints(values[1]), _ints(values[2]), _ints(values[3])
    masks = {key: int(node.attributes.get(f"{key}_mask") or 0) for key in ("begin", "end", "ellipsis", "new_axis")}
    if array.ndim != 1 or masks["ellipsis"] or masks["new_axis"]:
        raise ValueError("only slices of one axis are converted")
    if node.attributes.get("shrink_axis_mask"):
        return [Constant(np.array(array[begin]))]
    start, stop = None if masks["begin"] else begin, None if masks["end"] else end
    return [Constant(array[start:stop:step])]
