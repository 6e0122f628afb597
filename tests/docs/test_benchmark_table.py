"""The tables of figures are those that the committed results make."""

from __future__ import annotations

import sys

from tests.support.documents import ROOT


def test_the_tables_are_current() -> None:
    sys.path.insert(0, str(ROOT / "benchmarks"))
    import table

    for page, text in table.pages().items():
        assert page.read_text(encoding="utf-8") == text, f"{page.name}: run  python benchmarks/table.py"


def test_every_result_has_its_script() -> None:
    sys.path.insert(0, str(ROOT / "benchmarks"))
    import table

    assert all((ROOT / "benchmarks" / f"{name}.py").is_file() for name in table.newest())
