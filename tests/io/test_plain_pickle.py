"""Pickles of others: plain data comes back, and nothing that a file says is believed."""

from __future__ import annotations

import pickle
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dataengine.core.errors import DatasetError
from dataengine.io.plain_pickle import load

ARRAYS = [
    np.arange(6, dtype=np.float32).reshape(3, 2),
    np.asfortranarray(np.arange(6, dtype=">i8").reshape(3, 2)),
    np.array(["a", "bcd"]),
    np.array([None, 3, "x"]),
    np.float32(2),
    np.array(3),
    np.array([b"x"]),
    np.datetime64("2020-01"),
    np.zeros((0, 2)),
]


class Forged:
    """Pickles as a call and the state that the result is given."""

    def __init__(self, *reduced: Any) -> None:
        self.reduced = reduced

    def __reduce__(self) -> Any:
        return self.reduced


def dtype(kind: str, *state: Any) -> Forged:
    return Forged(np.dtype, (kind, False, True), (3, "<", *state))


ADDRESSES = dtype("O8", None, None, None, -1, -1, 0)
"""Objects that are said to be plain bytes: addresses of the file's choice."""
FIELD_OUTSIDE = dtype("V4", None, ("a",), {"a": (np.dtype("f8"), 99)}, 4, 1, 16)
MADE, EMPTY = np.zeros(1).__reduce__()[:2]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_arrays_come_back(tmp_path: Path, protocol: int) -> None:
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps(ARRAYS, protocol))
    for given, found in zip(ARRAYS, load(path), strict=True):
        assert np.array_equal(found, given) and np.asarray(found).dtype.kind == given.dtype.kind


@pytest.mark.parametrize(
    ("forged", "says"),
    [
        (Forged(MADE, EMPTY, (1, (2,), ADDRESSES, False, b"A" * 16)), "forged object"),
        (Forged(MADE, EMPTY, (1, (1 << 20,), np.dtype("O"), False, [1])), "without its objects"),
        (Forged(MADE, EMPTY, (1, (2,), dtype("f4", None, None, None, -1, -1, 27), False, b"A" * 8)), "forged float32"),
        (
            Forged(
                MADE,
                EMPTY,
                (1, (2,), dtype("V4", None, ("a",), {"a": (np.dtype("f8"), 99)}, 4, 1, 16), False, b"A" * 8),
            ),
            "array of",
        ),
        (Forged(np._core.multiarray.scalar, (ADDRESSES, b"A" * 8)), "forged object"),  # type: ignore[attr-defined]
        (Forged(np._core.numeric._frombuffer, (b"A" * 16, ADDRESSES, (2,), "C")), "forged object"),  # type: ignore[attr-defined]
        (Forged(np.ndarray, ((2,), ADDRESSES, b"A" * 16)), "call of numpy.ndarray"),
    ],
)
def test_addresses_in_a_file_are_not_followed(tmp_path: Path, forged: Forged, says: str) -> None:
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps({"annotations": [forged]}))
    with pytest.raises(DatasetError, match=f"(?s){says}.* is not loaded") as raised:
        load(path)
    assert "\n" not in str(raised.value)


def test_whatever_a_torn_pickle_raises_is_one_line(tmp_path: Path) -> None:
    path, whole = tmp_path / "a.pkl", pickle.dumps(ARRAYS)
    rng = random.Random(0)
    for _ in range(100):
        torn = bytearray(whole[: rng.randrange(1, len(whole))] if rng.random() < 0.3 else whole)
        for _ in range(rng.choice([1, 3, 20])):
            torn[rng.randrange(len(torn))] = rng.randrange(256)
        path.write_bytes(torn)
        try:
            load(path)
        except DatasetError as error:
            assert "\n" not in str(error) and len(str(error)) < 500
