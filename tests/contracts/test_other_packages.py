"""Components of other installed packages: treated as built-in ones; a broken package is named and breaks nothing
else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from dataengine.core import registry
from dataengine.core.errors import ComponentError
from dataengine.inspect.catalogue import catalogue

MODULE = '''
from dataclasses import dataclass
from typing import ClassVar
from dataengine.core.types import Sample
from dataengine.filters.base import Between

@dataclass(frozen=True)
class Brave(Between):
    """Keeps clips of brave people, by a number that says so.

    Attributes:
        courage: how brave.
    """

    courage: int = 3
    reason: ClassVar[str] = "not_brave"
    meaning: ClassVar[str] = "the person is not brave enough"
    measured_in: ClassVar[str] = "courage"

    def measure(self, sample: Sample) -> float:
        return float(self.courage)

class Stranger:
    """No filter at all."""
'''


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A package that offers one filter and three broken ones."""
    (tmp_path / "brave_filters.py").write_text(MODULE)
    info = tmp_path / "brave_filters-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: brave-filters\nVersion: 1.0\n")
    points = {"brave": "Brave", "stranger": "Stranger", "absent": "Absent"}
    lines = [f"{name} = brave_filters:{value}" for name, value in points.items()]
    (info / "entry_points.txt").write_text("\n".join(["[dataengine.filters]", *lines, "gone = no_such_module:X", ""]))
    monkeypatch.syspath_prepend(str(tmp_path))
    registry.refresh()
    yield
    registry.refresh()


def test_a_filter_of_another_package_is_whole(package: None) -> None:
    from dataengine import testing

    made = registry.create("filters", "brave", {"courage": 5, "min": 4})
    testing.check_filter(made)
    assert made.missed(3.0) == 4
    with pytest.raises(ComponentError, match=r"\[filters.brave\] has no option 'courag'.*did you mean 'courage'"):
        registry.create("filters", "brave", {"courag": 1})
    with pytest.raises(ComponentError, match=r"\[filters.brave\] courage = 'x'"):
        registry.create("filters", "brave", {"courage": "x"})
    entry = next(entry for entry in catalogue("filters", verbose=True) if entry["name"] == "brave")
    assert entry["summary"].startswith("Keeps clips of brave people") and entry["options"]["courage"] == 3


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("stranger", "is no subclass of dataengine.core.component.Filter"),
        ("absent", "cannot be imported: module 'brave_filters' has no attribute 'Absent'"),
        ("gone", "cannot be imported: No module named 'no_such_module'"),
    ],
)
def test_a_broken_package_is_named_in_one_line(package: None, name: str, words: str) -> None:
    with pytest.raises(ComponentError, match="package 'brave-filters' offers") as caught:
        registry.create("filters", name)
    assert words in str(caught.value) and "\n" not in str(caught.value)
    listed = {entry["name"]: entry["summary"] for entry in catalogue("filters", verbose=True)}
    assert "brave-filters" in listed[name] and listed["jitter"].startswith("Mean second difference")
    assert registry.create("filters", "jitter").max is not None
