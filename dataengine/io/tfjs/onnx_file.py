"""Writes ONNX files byte by byte, so that the same graph gives the same bytes with any library and on any platform.

An ONNX file is one protobuf message. Its few kinds of fields are written here directly, in the order of their
numbers in onnx.proto (https://github.com/onnx/onnx/blob/main/onnx/onnx.proto), so neither `onnx` nor `protobuf`
is needed, and no version of theirs changes a byte.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from dataengine.io.tfjs.graph_model import Array

IR_VERSION = 8
OPSET = 17
"""Versions of the format and of the operators; onnxruntime reads them since 1.13."""

TYPES: dict[str, int] = {
    "float32": 1, "uint8": 2, "int8": 3, "uint16": 4, "int16": 5, "int32": 6, "int64": 7, "bool": 9, "float16": 10,
    "float64": 11,
}  # fmt: skip
"""TensorProto.DataType by the name of the type in numpy."""

Attribute = int | float | str | Sequence[int] | Sequence[float]
Shape = Sequence[int | str]
"""Lengths of axes; a text names a free one."""


def _varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _integer(number: int, value: int) -> bytes:
    return _varint(number << 3) + _varint(value)


def _bytes(number: int, value: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def _text(number: int, value: str) -> bytes:
    return _bytes(number, value.encode("utf-8"))


def _float(number: int, value: float) -> bytes:
    return _varint(number << 3 | 5) + struct.pack("<f", value)


def _attribute(name: str, value: Attribute) -> bytes:
    """AttributeProto: name 1, f 2, i 3, s 4, floats 7, ints 8, type 20."""
    head = _text(1, name)
    if isinstance(value, str):
        return head + _text(4, value) + _integer(20, 3)
    if isinstance(value, int):
        return head + _integer(3, value) + _integer(20, 2)
    if isinstance(value, float):
        return head + _float(2, value) + _integer(20, 1)
    if all(isinstance(one, int) for one in value):
        return head + b"".join(_integer(8, int(one)) for one in value) + _integer(20, 7)
    return head + b"".join(_float(7, float(one)) for one in value) + _integer(20, 6)


def _node(
    op: str, name: str, inputs: Iterable[str], outputs: Iterable[str], attributes: Mapping[str, Attribute]
) -> bytes:
    """NodeProto: input 1, output 2, name 3, op_type 4, attribute 5."""
    parts = [_text(1, one) for one in inputs] + [_text(2, one) for one in outputs] + [_text(3, name), _text(4, op)]
    return b"".join(parts + [_bytes(5, _attribute(key, attributes[key])) for key in sorted(attributes)])


def _tensor(name: str, array: Array) -> bytes:
    """TensorProto: dims 1, data_type 2, name 8, raw_data 9 (little endian)."""
    dims = b"".join(_integer(1, length) for length in array.shape)
    raw = np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
    return dims + _integer(2, TYPES[array.dtype.name]) + _text(8, name) + _bytes(9, raw)


def _value_info(name: str, dtype: str, shape: Shape) -> bytes:
    """ValueInfoProto: name 1, type 2 > tensor_type 1 > elem_type 1, shape 2 > dim 1 > dim_value 1 or dim_param 2."""
    dims = b"".join(_bytes(1, _text(2, one) if isinstance(one, str) else _integer(1, one)) for one in shape)
    tensor = _integer(1, TYPES[dtype]) + _bytes(2, dims)
    return _text(1, name) + _bytes(2, _bytes(1, tensor))


@dataclass
class OnnxWriter:
    """Collects a graph and gives its file.

    Attributes:
        name: of the graph.
    """

    name: str
    _nodes: list[bytes] = field(default_factory=list)
    _initializers: list[bytes] = field(default_factory=list)
    _inputs: list[bytes] = field(default_factory=list)
    _outputs: list[bytes] = field(default_factory=list)

    def add_input(self, name: str, dtype: str, shape: Shape) -> str:
        """Declare an input of the graph and return its name."""
        self._inputs.append(_value_info(name, dtype, shape))
        return name

    def add_output(self, name: str, dtype: str, shape: Shape) -> None:
        """Declare that the tensor `name` is an output of the graph."""
        self._outputs.append(_value_info(name, dtype, shape))

    def add_constant(self, array: Array) -> str:
        """Store an array and return its name."""
        name = f"c{len(self._initializers)}"
        self._initializers.append(_tensor(name, array))
        return name

    def add_node(
        self, op: str, inputs: Sequence[str], outputs: int | Sequence[str] = 1, /, **attributes: Attribute
    ) -> tuple[str, ...]:
        """Add an operator and return the names of its outputs: those given, or own ones of this number."""
        number = len(self._nodes)
        names = tuple(f"t{number}_{n}" for n in range(outputs)) if isinstance(outputs, int) else tuple(outputs)
        self._nodes.append(_node(op, f"n{number}", inputs, names, attributes))
        return names

    def to_bytes(self) -> bytes:
        """The file. ModelProto: ir_version 1, producer_name 2, graph 7, opset_import 8."""
        graph = b"".join(
            [
                *(_bytes(1, one) for one in self._nodes),
                _text(2, self.name),
                *(_bytes(5, one) for one in self._initializers),
                *(_bytes(11, one) for one in self._inputs),
                *(_bytes(12, one) for one in self._outputs),
            ]
        )
        opset = _text(1, "") + _integer(2, OPSET)
        return _integer(1, IR_VERSION) + _text(2, "dataengine") + _bytes(7, graph) + _bytes(8, opset)
