"""Reads TensorFlow.js graph models: a json file with the graph, and files with its weights.

The json holds a frozen GraphDef: `modelTopology.node` is a list of {name, op, input, attr}, where bytes in `attr`
are written in base64. `weightsManifest` lists the weights in the order in which they lie in the binary files, with
shape and type; `quantization` tells how they are stored (https://www.tensorflow.org/js/guide/save_load).
"""

from __future__ import annotations

import base64
import binascii
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from dataengine.core.errors import WeightsError

Array: TypeAlias = NDArray[Any]

TYPES = {"DT_FLOAT": "float32", "DT_INT32": "int32", "DT_INT64": "int64", "DT_BOOL": "bool", "DT_HALF": "float16"}
"""Names of types in a GraphDef that these graphs use, and numpy's."""

_STORED: dict[str, np.dtype[Any]] = {"float32": np.dtype("<f4"), "int32": np.dtype("<i4"), "bool": np.dtype("bool")}
_QUANTISED: dict[str, np.dtype[Any]] = {"float16": np.dtype("<f2"), "uint8": np.dtype("u1"), "uint16": np.dtype("<u2")}

LARGEST_GRAPH = 64 << 20
"""Bytes of a json file that are read."""


@dataclass(frozen=True)
class Node:
    """One operator of a graph.

    Attributes:
        name, op: its name and the name of its operator in TensorFlow.
        inputs: (name of a node, number of its output) in order; control inputs are left out.
        attributes: parameters as plain values: int, float, bool, str, a type's name, or a list of these.
    """

    name: str
    op: str
    inputs: tuple[tuple[str, int], ...]
    attributes: Mapping[str, Any]


@dataclass(frozen=True)
class GraphModel:
    """A graph with its weights.

    Attributes:
        nodes: every operator by name, in the order of the file.
        weights: arrays of the nodes that are constants, as they are stored (float16 weights stay float16).
    """

    nodes: Mapping[str, Node]
    weights: Mapping[str, Array]


def read_graph_model(json_path: Path, weight_paths: Sequence[Path]) -> GraphModel:
    """Read a graph model.

    Args:
        json_path: the json file.
        weight_paths: the files with weights, in the order of the manifest's `paths`.

    Raises:
        WeightsError: the files are no graph model, are damaged, or store weights in a way that is not known.
    """
    try:
        if json_path.stat().st_size > LARGEST_GRAPH:
            raise WeightsError(f"{json_path} is larger than {LARGEST_GRAPH >> 20} MB: not a TensorFlow.js graph model")
        whole = json.loads(json_path.read_bytes())
        blob = b"".join(path.read_bytes() for path in weight_paths)
        nodes = [_node(one) for one in whole["modelTopology"]["node"]]
        entries = [entry for group in whole["weightsManifest"] for entry in group["weights"]]
        weights = _weights(json_path, entries, blob)
    except (ValueError, KeyError, TypeError, AttributeError, binascii.Error, RecursionError) as error:
        raise WeightsError(
            f"{json_path} is no TensorFlow.js graph model that can be read: {type(error).__name__}: {error}"
        ) from error
    except OSError as error:
        raise WeightsError(f"{json_path} or its weights cannot be read: {error.strerror or error}") from error
    return GraphModel({node.name: node for node in nodes}, weights)


def _node(raw: Mapping[str, Any]) -> Node:
    inputs = []
    for one in raw.get("input", ()):
        if not one.startswith("^"):
            name, _, number = one.partition(":")
            inputs.append((name, int(number or 0)))
    attributes = {key: _attribute(value) for key, value in raw.get("attr", {}).items()}
    return Node(str(raw["name"]), str(raw["op"]), tuple(inputs), attributes)


def _attribute(value: Mapping[str, Any]) -> Any:
    """An AttrValue as a plain value. Integers are texts in the json, a list of nothing may have no key."""
    if "list" in value:
        kinds = [kind for kind in ("i", "s", "f", "b", "type", "shape") if kind in value["list"]]
        return [_attribute({kinds[0]: one}) for one in value["list"][kinds[0]]] if kinds else []
    if "i" in value:
        return int(value["i"])
    if "s" in value:
        return base64.b64decode(value["s"], validate=True).decode("utf-8")
    if "f" in value:
        return float(value["f"])
    if "b" in value:
        return bool(value["b"])
    if "type" in value:
        return str(value["type"])
    return None


def _weights(path: Path, entries: Sequence[Mapping[str, Any]], blob: bytes) -> dict[str, Array]:
    """The arrays that lie one after the other in `blob`."""
    found: dict[str, Array] = {}
    start = 0
    for entry in entries:
        name, shape = str(entry["name"]), tuple(int(length) for length in entry["shape"])
        if any(length < 0 for length in shape):
            raise WeightsError(f"{path}: weight {name} has the shape {list(shape)}")
        packing = entry.get("quantization")
        kinds = _QUANTISED if packing else _STORED
        kind = str(packing["dtype"] if packing else entry["dtype"])
        if kind not in kinds:
            raise WeightsError(f"{path}: weight {name} is stored as {kind}; known are {', '.join(kinds)}")
        dtype, count = kinds[kind], math.prod(shape)
        end = start + count * dtype.itemsize
        if end > len(blob):
            raise WeightsError(
                f"{path}: weight {name} ends at byte {end}, its files have {len(blob)}: not those of this graph"
            )
        array = np.frombuffer(blob, dtype, count, start).reshape(shape)
        if packing and kind != "float16":  # q * scale + min in float32, as the runtime of TensorFlow.js does it
            array = array.astype(np.float32) * np.float32(packing["scale"]) + np.float32(packing["min"])
        found[name] = array.astype(array.dtype.newbyteorder("="), copy=False)
        start = end
    if start != len(blob):
        raise WeightsError(
            f"{path}: weights end at byte {start}, their files have {len(blob)}: not those of this graph"
        )
    return found
