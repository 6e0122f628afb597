"""Converts a TensorFlow.js graph model to an ONNX file, cut at the tensors that are of use.

A graph usually begins with checks of its input and ends with decoding that fixes the batch at 1. Cut before and
after them it keeps convolutions and little else, takes any batch, and is decoded in numpy. No arithmetic is done on
weights here, only reordering, so the bytes of the result are the same everywhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dataengine.core.errors import WeightsError
from dataengine.io.tfjs.graph_model import TYPES, GraphModel
from dataengine.io.tfjs.operators import LOWERINGS
from dataengine.io.tfjs.values import Builder, Constant, Value, View


@dataclass(frozen=True)
class Input:
    """Where a converted graph begins.

    Attributes:
        name: of the input in the ONNX file.
        at: the node of the graph whose output it takes the place of.
        shape: of that node's output at the size that the graph is written for.
        free: a name for each axis that may have any length, '' for the others.
        dtype: numpy's name of the type the file takes; float32 values are made of others inside.
    """

    name: str
    at: str
    shape: tuple[int, ...]
    free: tuple[str, ...]
    dtype: str = "float32"


@dataclass(frozen=True)
class Output:
    """Where a converted graph ends.

    Attributes:
        name: of the output in the ONNX file.
        at: the node of the graph that gives it, with ':1' and so on for its further outputs.
        axes: the order of its axes, () to leave it as it is.
    """

    name: str
    at: str
    axes: tuple[int, ...] = ()


def convert(model: GraphModel, inputs: Sequence[Input], outputs: Sequence[Output], name: str = "graph") -> bytes:
    """The ONNX file of the part of a graph that lies between inputs and outputs.

    Args:
        model: the graph.
        inputs: where it begins. Every way from an output back must end at one of them or at a constant.
        outputs: where it ends.
        name: of the graph in the file.

    Raises:
        WeightsError: a node is missing, an operator is not known, or a shape is fixed where it should be free.
    """
    build = Builder(name)
    done: dict[str, list[Value]] = {}
    for one in inputs:
        done[one.at] = [_begin(build, model, one)]
    for end in outputs:
        node, _, number = end.at.partition(":")
        for step in _order(model, node, done):
            done[step] = _lower(build, model, step, done)
        values = done[node]
        if int(number or 0) >= len(values):
            raise WeightsError(f"node {node} has {len(values)} outputs; {end.at} asks for another")
        value = values[int(number or 0)]
        if not isinstance(value, View):
            raise WeightsError(f"node {end.at} is a constant, not an output of the graph")
        build.finish(value, end.name, end.axes or tuple(range(len(value.shape))))
    return build.writer.to_bytes()


def _begin(build: Builder, model: GraphModel, given: Input) -> Value:
    if given.at not in model.nodes:
        raise WeightsError(f"the graph has no node {given.at} to begin at")
    attributes = model.nodes[given.at].attributes
    kind = TYPES.get(str(attributes.get("dtype") or attributes.get("DstT") or attributes.get("T")), "float32")
    view = build.image(given.name, given.dtype, given.shape, given.free)
    return build.cast(view, kind) if kind == "float32" and given.dtype != "float32" else view


def _order(model: GraphModel, last: str, done: Mapping[str, Any]) -> list[str]:
    """Nodes to be lowered for `last`, each after those it needs, in an order that the graph alone decides."""
    order: list[str] = []
    seen = set(done)
    stack = [(last, False)]
    while stack:
        name, ready = stack.pop()
        if ready:
            order.append(name)
            continue
        if name in seen:
            continue
        if name not in model.nodes:
            raise WeightsError(f"the graph has no node {name}")
        if model.nodes[name].op == "Placeholder":
            raise WeightsError(f"{last} needs the graph's input {name}, which is not one to begin at")
        seen.add(name)
        stack.append((name, True))
        stack.extend((one, False) for one, _ in reversed(model.nodes[name].inputs))
    return order


def _lower(build: Builder, model: GraphModel, name: str, done: Mapping[str, list[Value]]) -> list[Value]:
    node = model.nodes[name]
    if node.op == "Const":
        if name not in model.weights:
            raise WeightsError(f"the constant {name} has no weights")
        return [Constant(model.weights[name])]
    if node.op not in LOWERINGS:
        raise WeightsError(
            f"the operator {node.op} of node {name} cannot be converted; known are {', '.join(sorted(LOWERINGS))}"
        )
    try:
        return LOWERINGS[node.op](build, node, [done[one][number] for one, number in node.inputs])
    except (IndexError, KeyError, TypeError, ValueError) as error:
        raise WeightsError(f"node {name} ({node.op}) cannot be converted: {type(error).__name__}: {error}") from error
