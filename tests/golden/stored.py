"""What the scripts here have in common: read a golden, compare it with what a script makes, write it anew."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

GOLDEN = Path(__file__).resolve().parent
Arrays = dict[str, Any]


def read(name: str) -> Arrays:
    """The arrays of a golden."""
    with np.load(GOLDEN / f"{name}.npz", allow_pickle=False) as file:
        return dict(file)


def differences(
    stored: Mapping[str, Any], made: Mapping[str, Any], single: float = 1e-6, double: float = 1e-9
) -> list[str]:
    """Where two sets of arrays differ: whole numbers and texts exactly, others by a share of the largest value.

    Args:
        stored: the golden. made: the same arrays, or some of them, made again.
        single: bound for float32 arrays. double: bound for float64 arrays.
    """
    wrong = [f"{name}: is not in the golden" for name in made if name not in stored]
    for name in sorted(stored.keys() & made.keys()):
        a, b = np.asarray(stored[name]), np.asarray(made[name])
        if a.shape != b.shape:
            wrong.append(f"{name}: {a.shape} stored, {b.shape} made")
        elif a.dtype.kind != "f":
            wrong += [f"{name}: differs"] * (not np.array_equal(a, b))
        elif not np.array_equal(np.isnan(a), np.isnan(b)):
            wrong.append(f"{name}: NaN elsewhere")
        elif np.isfinite(a).any():
            away = float(np.nanmax(np.abs(a - b.astype(float))) / max(float(np.nanmax(np.abs(a))), 1e-30))
            bound = single if a.dtype == np.float32 else double
            wrong += [f"{name}: {away:.1e} of the largest value away"] * (not away <= bound)
    return wrong


def keep(name: str, made: Mapping[str, Any], write: bool) -> bool:
    """Print how a golden compares with what was made, store it where `write` says so; whether it was the same."""
    stored = read(name)
    wrong = differences(stored, made)
    print(f"{name}: {'; '.join(wrong) or 'as stored'}")
    if write:
        types = {key: np.asarray(value).dtype for key, value in stored.items()}
        made = {key: np.asarray(value).astype(types.get(key)) for key, value in made.items()}
        np.savez_compressed(GOLDEN / f"{name}.npz", **{**stored, **made})
    return not wrong


def main(makers: Mapping[str, Callable[[Arrays], Arrays]]) -> None:
    """Make every golden of `makers` from its stored inputs and compare; exit 1 where one differs."""
    same = [keep(name, make(read(name)), "--write" in sys.argv[1:]) for name, make in makers.items()]
    sys.exit(0 if all(same) else 1)
