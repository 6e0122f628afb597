"""Makes small TensorFlow.js graph models, as the converter of TensorFlow writes them."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


class GraphFile:
    """Collects the nodes of a graph and writes its two files."""

    def __init__(self) -> None:
        self.nodes: list[dict[str, Any]] = []
        self.weights: list[dict[str, Any]] = []
        self.content = b""

    def image(self, name: str, shape: Sequence[int], dtype: str = "DT_FLOAT") -> str:
        """The input of the graph."""
        dims = [{"size": str(length)} for length in shape]
        attributes = {"dtype": {"type": dtype}, "shape": {"shape": {"dim": dims}}}
        self.nodes.append({"name": name, "op": "Placeholder", "attr": attributes})
        return name

    def constant(self, name: str, array: Array, packing: Mapping[str, Any] | None = None) -> str:
        """A constant. `array`: as it is stored; `packing`: its entry `quantization`."""
        kind = (
            "float32" if packing else {"float64": "float32", "int64": "int32"}.get(array.dtype.name, array.dtype.name)
        )
        entry = {"name": name, "shape": list(array.shape), "dtype": kind}
        self.weights.append(entry | ({"quantization": dict(packing)} if packing else {}))
        self.content += (array if packing else array.astype(kind)).tobytes()
        self.nodes.append({"name": name, "op": "Const", "attr": {}})
        return name

    def half(self, name: str, array: Array) -> str:
        """A constant that is stored as float16."""
        return self.constant(name, array.astype(np.float16), {"dtype": "float16", "original_dtype": "float32"})

    def add(self, op: str, name: str, inputs: Sequence[str], **attributes: Any) -> str:
        """An operator; attributes are plain values."""
        attr = {key: _attribute(value) for key, value in attributes.items()}
        self.nodes.append({"name": name, "op": op, "input": list(inputs), "attr": attr})
        return name

    def write(self, folder: Path, name: str = "model", shuffled: bool = False) -> tuple[Path, list[Path]]:
        """Write the files; `shuffled` puts nodes before those they need, as real files have it."""
        nodes = self.nodes[::-1] if shuffled else self.nodes
        whole = {
            "format": "graph-model",
            "modelTopology": {"node": nodes, "library": {}, "versions": {}},
            "weightsManifest": [{"paths": [f"{name}.bin"], "weights": self.weights}],
        }
        (folder / f"{name}.json").write_text(json.dumps(whole))
        (folder / f"{name}.bin").write_bytes(self.content)
        return folder / f"{name}.json", [folder / f"{name}.bin"]


def _attribute(value: Any) -> dict[str, Any]:
    if isinstance(value, bool):
        return {"b": value}
    if isinstance(value, int):
        return {"i": str(value)}
    if isinstance(value, float):
        return {"f": value}
    if isinstance(value, str):
        return {"type": value} if value.startswith("DT_") else {"s": _encoded(value)}
    if all(isinstance(one, str) for one in value):
        return {"list": {"s": [_encoded(one) for one in value]}}
    return {"list": {"i": [str(one) for one in value]}}


def _encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()
