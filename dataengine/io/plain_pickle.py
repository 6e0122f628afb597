"""Pickles of plain data. A pickle is a program; only what such files need is admitted here: builtin containers and
NumPy arrays.
"""

from __future__ import annotations

import codecs
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
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
    }

    def find_class(self, module: str, name: str) -> Any:
        """The admitted object of that name.

        Raises:
            pickle.UnpicklingError: it is not admitted.
        """
        if (module, name) in self.ADMITTED:
            return self.ADMITTED[module, name]
        place = module.replace("numpy.core.", "numpy._core.")
        if (place, name) in (("numpy._core.multiarray", "_reconstruct"), ("numpy._core.multiarray", "scalar")):
            return getattr(np._core.multiarray, name)  # type: ignore[attr-defined]
        if (place, name) == ("numpy._core.numeric", "_frombuffer"):
            return np._core.numeric._frombuffer  # type: ignore[attr-defined]
        if module == "numpy.dtypes" and name.endswith("DType") and "Object" not in name and hasattr(np.dtypes, name):
            return getattr(np.dtypes, name)
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
    except (
        pickle.UnpicklingError,
        EOFError,
        ValueError,
        TypeError,
        AttributeError,
        IndexError,
        KeyError,
        ImportError,
        MemoryError,
        OverflowError,
        RecursionError,
    ) as failure:
        said = " ".join(str(failure).split())
        raise error(f"{path}: no pickle of plain data, or a torn one: {said}") from None
