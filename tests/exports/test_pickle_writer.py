"""The pickle that is written a part at a time holds what was given, for NumPy 1 and 2, and for a strict reader."""

from __future__ import annotations

import io
import pickle
import pickletools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataengine.exports.pickle_writer import BEGIN, PickledDict, encoded

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(max_size=300),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner),
    max_leaves=20,
)


@given(PLAIN)
@settings(max_examples=150, deadline=None)
def test_plain_values_come_back(value: Any) -> None:
    assert pickle.loads(BEGIN + encoded(value) + b".") == value  # noqa: S301, bytes of our own making


@pytest.mark.parametrize("kind", ["f2", "f4", "f8", "i4", "i8", "u1", "?", ">f4"])
@pytest.mark.parametrize("shape", [(), (0, 3), (2, 3, 4)])
def test_arrays_come_back(kind: str, shape: tuple[int, ...]) -> None:
    array = np.asarray(np.random.default_rng(0).random(shape) * 9).astype(kind)
    found = pickle.loads(BEGIN + encoded(array) + b".")  # noqa: S301, bytes of our own making
    assert found.dtype == array.dtype.newbyteorder("<") and np.array_equal(found, array)
    turned = np.asarray(array.T)
    assert np.array_equal(pickle.loads(BEGIN + encoded(turned) + b"."), turned)  # noqa: S301


def test_names_are_those_that_numpy_1_has() -> None:
    globals_ = {arg for op, arg, _ in pickletools.genops(BEGIN + encoded(np.ones(3)) + b".") if op.name == "GLOBAL"}
    assert globals_ == {"numpy.core.multiarray _reconstruct", "numpy ndarray", "numpy dtype"}


def test_lists_of_any_length_are_written_a_part_at_a_time() -> None:
    file = io.BytesIO()
    pickled = PickledDict(file)
    pickled.put("a", {"b": (1, -1, 1 << 40)})
    pickled.put_list("many", range(2500))
    pickled.put_list("none", [])
    pickled.put_lists("split", {"train": iter("xy"), "val": []})
    torn = file.getvalue()
    pickled.close()
    found = pickle.loads(file.getvalue())  # noqa: S301, bytes of our own making
    assert found == {
        "a": {"b": (1, -1, 1 << 40)},
        "many": list(range(2500)),
        "none": [],
        "split": {"train": ["x", "y"], "val": []},
    }
    with pytest.raises(EOFError):
        pickle.loads(torn)  # noqa: S301, bytes of our own making


def test_anything_else_is_refused() -> None:
    for value in (object(), np.array(["x"]), {1, 2}):
        with pytest.raises(TypeError, match=r"no (pickle|array) of"):
            encoded(value)
