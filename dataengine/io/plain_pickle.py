"""Pickles of plain data. A pickle is a program; only what such files need is admitted here: builtin containers and
NumPy arrays.

NumPy trusts the state that a pickle gives a dtype. One that says of objects that they are plain bytes makes NumPy
follow addresses that stand in the file. So every dtype is compared with NumPy's own of that name before an array or a
scalar of it is made.
"""

from __future__ import annotations

import codecs
import math
import os
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from dataengine.core.errors import DataEngineError, DatasetError


def _latin1(text: str, encoding: str) -> bytes:
    """What pickles of protocol 2 write for bytes."""
    if encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"encoding {encoding!r} is not admitted")
    return codecs.latin_1_encode(text)[0]


class _Refused(pickle.UnpicklingError):
    """The pickle asks for something that is not admitted."""


def _checked(dtype: Any) -> np.dtype[Any]:
    """A dtype that is one of NumPy's own: numbers, times, texts or objects.

    Raises:
        _Refused: it is another one, or says of itself what is not so.
    """
    if not isinstance(dtype, np.dtype) or dtype.kind not in "biufcmMSUO":
        raise _Refused(f"an array of {dtype}")
    own = np.dtype(dtype.str)
    if (dtype.flags, dtype.itemsize, dtype.alignment) != (own.flags, own.itemsize, own.alignment):
        raise _Refused(f"an array of a forged {own}")
    return dtype


class _Array(np.ndarray[Any, Any]):
    """An array that a pickle fills; it is empty before."""

    __slots__ = ()

    def __new__(cls, *_: Any, **__: Any) -> _Array:
        raise _Refused("a call of numpy.ndarray")

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, _, content = state
        objects = _checked(dtype).kind == "O"
        if objects and not (isinstance(content, list) and len(content) == math.prod(shape)):
            raise _Refused("an array of objects without its objects")
        super().__setstate__(state)


def _reconstruct(*_: Any) -> Any:
    """The array that `__setstate__` fills, whatever a pickle says of it before."""
    return np._core.multiarray._reconstruct(_Array, (0,), b"b")  # type: ignore[attr-defined]


def _scalar(dtype: Any, *content: Any) -> Any:
    return np._core.multiarray.scalar(_checked(dtype), *content)  # type: ignore[attr-defined]


def _frombuffer(content: Any, dtype: Any, shape: Any, order: Any, *axes: Any) -> Any:
    return np._core.numeric._frombuffer(content, _checked(dtype), shape, order, *axes)  # type: ignore[attr-defined]


class Restricted(pickle.Unpickler):
    """Admits builtin containers, NumPy arrays, dtypes and scalars; anything else is refused by name."""

    ADMITTED: ClassVar[dict[tuple[str, str], Any]] = {
        **{
            (module, kind.__name__): kind
            for module in ("builtins", "__builtin__")
            for kind in (set, frozenset, bytearray, bytes, complex)
        },
        ("collections", "OrderedDict"): OrderedDict,
        ("_codecs", "encode"): _latin1,
        ("numpy", "ndarray"): _Array,
        ("numpy", "dtype"): np.dtype,
        ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
        ("numpy._core.multiarray", "scalar"): _scalar,
        ("numpy._core.numeric", "_frombuffer"): _frombuffer,
    }

    def find_class(self, module: str, name: str) -> Any:
        """The admitted object of that name.

        Raises:
            pickle.UnpicklingError: it is not admitted.
        """
        place = module.replace("numpy.core.", "numpy._core.")
        if (place, name) in self.ADMITTED:
            return self.ADMITTED[place, name]
        raise _Refused(f"{module}.{name}")


def load(path: str | os.PathLike[str], error: type[DataEngineError] = DatasetError) -> Any:
    """The content of a pickle file of plain containers and arrays.

    Args:
        path: of the file.
        error: what to raise.

    Raises:
        DataEngineError: of that type: it cannot be read, or holds anything else; the message names it.
    """
    try:
        with Path(path).open("rb") as file:
            return Restricted(file, encoding="latin1").load()
    except _Refused as refused:
        raise error(
            f"{path}: it holds {refused}, which is not loaded; a pickle may hold builtin containers and NumPy arrays "
            "only: save it again with those"
        ) from None
    except OSError as failure:
        raise error(f"{path}: cannot be read: {failure.strerror}") from None
    except Exception as failure:  # a torn pickle is another program, which may raise anything
        said = " ".join(str(failure).split())
        raise error(f"{path}: no pickle of plain data, or a torn one: {said[:200]}") from None
