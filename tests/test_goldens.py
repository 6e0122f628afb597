"""Goldens are what the scripts beside them make."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.golden import make_losses, make_metrics
from tests.golden.stored import GOLDEN, differences, read

MAKERS = {**make_losses.MAKERS, **make_metrics.MAKERS}


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_script_makes_what_is_stored(name: str) -> None:
    if name == "metric_frame_map":
        pytest.importorskip("sklearn")
    stored = read(name)
    made = MAKERS[name](stored)
    assert made and differences(stored, made) == []


def test_differences_are_found() -> None:
    stored = {"a": np.array([1.0, np.nan]), "b": np.array([1, 2]), "c": np.array(["x"])}
    assert differences(stored, stored) == []
    assert differences(stored, {"a": np.array([1.0 + 1e-6, np.nan])}) == ["a: 1.0e-06 of the largest value away"]
    assert differences(stored, {"a": np.array([1.0, 2.0])}) == ["a: NaN elsewhere"]
    assert differences(stored, {"b": np.array([1, 3])}) == ["b: differs"]
    assert differences(stored, {"b": np.array([1])}) == ["b: (2,) stored, (1,) made"]
    assert differences(stored, {"d": np.array([1])}) == ["d: is not in the golden"]


def test_every_golden_is_named_in_the_table() -> None:
    told = (GOLDEN / "README.md").read_text()
    prefixes = [
        word.strip("`").rstrip("*")
        for line in told.splitlines()
        if line.startswith("| `")
        for word in line.split("|")[1].replace(",", " ").split()
    ]
    absent = [p.stem for p in Path(GOLDEN).glob("*.npz") if not any(p.stem.startswith(prefix) for prefix in prefixes)]
    assert absent == []
