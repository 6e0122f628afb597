"""The benchmark on annotated pictures reads its people right, and its measures do what they say."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytestmark = pytest.mark.data


@pytest.fixture(scope="module")
def benchmark() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
        yield importlib.import_module("real_pictures")


def test_the_annotated_people(benchmark: Any, shared_data: Path) -> None:
    pictures = benchmark.pictures(shared_data / "keypoints2d")
    people = [person for picture in pictures for person in picture.people]
    assert len(pictures) == 12 and len(people) == 31
    assert sum(np.isfinite(person.head) for person in people) == 19
    half = np.repeat(benchmark.halves(pictures), [len(picture.people) for picture in pictures])
    assert abs(int((half == 0).sum()) - int((half == 1).sum())) <= 1
    for person in people:
        assert person.oks(person.joints) == 1 and person.oks(np.full((13, 2), np.nan)) == 0
        moved = person.joints + 0.15 * max(person.box[2:] - person.box[:2])
        near, wide, _, asked, _ = person.hits(moved)
        assert near == 0 and wide in (0, asked) and person.hits(person.joints)[0] == asked
        assert 0.03 < person.scale / max(person.box[2:] - person.box[:2]) < 0.4


def test_gains_are_paired(benchmark: Any) -> None:
    single = np.random.default_rng(0).random((31, 6))
    better = single + 0.01
    assert benchmark.paired(better, single) == {"gain": 0.01, "interval": [0.01, 0.01]}
