"""A pickle of plain containers and arrays, written a part at a time: a list of any length costs no memory.

The bytes are those of pickle protocol 4 (PEP 3154) without a memo, so they depend on the content alone. Arrays name
`numpy.core.multiarray`, which NumPy 1 and 2 both have; what `pickle.dump` writes under NumPy 2 cannot be read by
programs on NumPy 1.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

BEGIN = b"\x80\x04"
"""PROTO 4."""
BATCH = 1000
"""Items that are appended to a list at once, as `pickle` does."""
_INT = struct.Struct("<i")
_LENGTH = struct.Struct("<I")
_LONG_LENGTH = struct.Struct("<Q")
_FLOAT = struct.Struct(">d")
_MULTIARRAY = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R"
"""GLOBAL _reconstruct, GLOBAL ndarray, (0,), b'b', TUPLE3, REDUCE: an array that BUILD fills."""


def text(value: str) -> bytes:
    """BINUNICODE."""
    encoded = value.encode("utf-8", "surrogatepass")
    return b"X" + _LENGTH.pack(len(encoded)) + encoded


def _bytes(value: bytes) -> bytes:
    """SHORT_BINBYTES, BINBYTES or BINBYTES8."""
    if len(value) < 256:
        return b"C" + bytes((len(value),)) + value
    if len(value) < 1 << 32:
        return b"B" + _LENGTH.pack(len(value)) + value
    return b"\x8e" + _LONG_LENGTH.pack(len(value)) + value


def _whole(value: int) -> bytes:
    """BININT1, BININT or LONG1."""
    if 0 <= value < 256:
        return b"K" + bytes((value,))
    if -(1 << 31) <= value < 1 << 31:
        return b"J" + _INT.pack(value)
    encoded = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes((len(encoded),)) + encoded


def _array(value: NDArray[Any]) -> bytes:
    """An array of numbers in C order: _reconstruct, then the state (1, shape, dtype, False, bytes)."""
    code = value.dtype.newbyteorder("<").str[1:]
    if value.dtype.kind not in "fiub":
        raise TypeError(f"no array of {value.dtype}")
    order = b"X\x01\x00\x00\x00" + (b"|" if value.dtype.itemsize == 1 else b"<")
    dtype = (
        b"cnumpy\ndtype\n"
        + text(code)
        + b"\x89\x88\x87R(K\x03"
        + order
        + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    )
    data = np.ascontiguousarray(value, value.dtype.newbyteorder("<")).tobytes()
    return _MULTIARRAY + b"(K\x01" + encoded(tuple(value.shape)) + dtype + b"\x89" + _bytes(data) + b"tb"


def encoded(value: Any) -> bytes:
    """The opcodes that put a value on the stack.

    Args:
        value: None, a bool, int, float, str, bytes or array of numbers, or a tuple, list or dict of such values.

    Raises:
        TypeError: it is, or holds, something else.
    """
    match value:
        case None:
            return b"N"
        case bool():
            return b"\x88" if value else b"\x89"
        case int():
            return _whole(value)
        case float():
            return b"G" + _FLOAT.pack(value)
        case str():
            return text(value)
        case bytes():
            return _bytes(value)
        case np.ndarray():
            return _array(value)
        case tuple():
            return b"(" + b"".join(map(encoded, value)) + b"t"
        case list():
            return b"](" + b"".join(map(encoded, value)) + b"e"
        case Mapping():
            return b"}(" + b"".join(encoded(key) + encoded(item) for key, item in value.items()) + b"u"
    raise TypeError(f"no pickle of {type(value).__name__}")


class PickledDict:
    """A pickle file of one dict with texts as keys, whose values are written one after the other.

    Args:
        file: where to write.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        file.write(BEGIN + b"}")

    def put(self, key: str, value: Any) -> None:
        """Write one entry whose value is at hand."""
        self._file.write(text(key) + encoded(value) + b"s")

    def put_list(self, key: str, values: Iterable[Any]) -> None:
        """Write one entry whose value is a list of any length."""
        self._file.write(text(key))
        self._write_list(values)
        self._file.write(b"s")

    def put_lists(self, key: str, lists: Mapping[str, Iterable[Any]]) -> None:
        """Write one entry whose value is a dict of lists of any length."""
        self._file.write(text(key) + b"}")
        for name, values in lists.items():
            self._file.write(text(name))
            self._write_list(values)
            self._file.write(b"s")
        self._file.write(b"s")

    def _write_list(self, values: Iterable[Any]) -> None:
        self._file.write(b"]")
        count = 0
        for value in values:
            self._file.write((b"" if count % BATCH else b"e(" if count else b"(") + encoded(value))
            count += 1
        self._file.write(b"e" if count else b"")

    def close(self) -> None:
        """Write the end; a file without it is refused by every reader."""
        self._file.write(b".")
