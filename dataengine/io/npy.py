"""Arrays as npy bytes (NumPy's NEP 1), with the headers cached: they repeat from sample to sample."""

from __future__ import annotations

import ast
import contextlib
import functools
import io
import math
import struct
from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[Any]
Buffer: TypeAlias = "bytes | memoryview"


def encode(array: Array) -> Sequence[Buffer]:
    """An npy file of format 1.0 in C order, as buffers to write one after the other; equal to what `np.save` writes."""
    header = _header(array.dtype, array.shape)
    return (header, np.asarray(array, order="C").reshape(-1).view(np.uint8).data) if array.nbytes else (header,)


@functools.lru_cache(maxsize=4096)
def _header(dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        file, {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    )
    return file.getvalue()


def parse(data: Buffer) -> Array:
    """The array of an npy file, as a read-only view of `data` if that is read-only.

    Raises:
        ValueError: it is no whole npy file, or holds Python objects, which are never read.
    """
    if len(data) < 12 or data[:6] != b"\x93NUMPY" or data[6] not in (1, 2, 3):
        raise ValueError("no npy file")
    start = 10 + struct.unpack_from("<H", data, 8)[0] if data[6] == 1 else 12 + struct.unpack_from("<I", data, 8)[0]
    dtype, shape, order, size = _parse_header(bytes(data[:start]))
    if len(data) - start != size * dtype.itemsize:
        raise ValueError(f"{len(data) - start} bytes of data for shape {shape} of {dtype}")
    return np.ndarray(shape, dtype, data, start, order=order) if size else np.empty(shape, dtype)


@contextlib.contextmanager
def reading() -> Iterator[None]:
    """What NumPy raises of a torn .npy or .npz file in here is an OSError or a ValueError of one line; by itself it is
    also a TokenError, zlib's error, a MemoryError and others."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        raise ValueError(" ".join(str(error).split())[:200] or type(error).__name__) from error


@functools.lru_cache(maxsize=4096)
def _parse_header(header: bytes) -> tuple[np.dtype[Any], tuple[int, ...], Any, int]:
    try:
        fields = ast.literal_eval(
            header[10 if header[6] == 1 else 12 :].decode("utf-8" if header[6] == 3 else "latin1").strip()
        )
        dtype, shape, fortran = (
            np.lib.format.descr_to_dtype(fields["descr"]),
            tuple(fields["shape"]),
            bool(fields["fortran_order"]),
        )
    except (SyntaxError, TypeError, KeyError, ValueError) as error:
        raise ValueError(f"the npy header cannot be read: {error}") from None
    if dtype.hasobject:
        raise ValueError("it holds Python objects, which are never read")
    return dtype, shape, "F" if fortran else "C", math.prod(shape)
